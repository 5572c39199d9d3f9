"""Clients at a gateway that asks for a token, and speaks TLS under a certificate of its own."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from ledger.transactions import CancelAll
from node.client import questions
from node.client.blocking import Client
from node.client.errors import NotAllowed, Unreachable
from node.client.market import Market
from node.client.on_trio import open_client
from node.client.signers import KeySigner
from node.client.submissions import Account
from node.rpc.stream_forms import MarksMessage
from tests.ledger.exchange import a_key
from tests.node.running_gateway import running
from tests.node.test_node_gateway_access import a_certificate

T = TypeVar("T")
SIGNER = KeySigner(a_key("alice"))
TOKEN = "0123456789abcdef0123"


async def in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


async def test_clients_show_their_token_over_tls_wherever_they_ask(tmp_path: Path) -> None:
    a_certificate(tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    settings: dict[str, Any] = {
        "tls_certificate": str(tmp_path / "tls.crt"),
        "tls_key": str(tmp_path / "tls.key"),
        "token_file": str(tmp_path / "token"),
    }
    async with running(tmp_path / "h", trust=trust, **settings) as it:
        url = f"https://localhost:{it.gateway.port}"

        def work() -> None:
            with Client(url, token=TOKEN, tls=trust) as client:
                assert client.ask(questions.status()).name == "node0"
                assert isinstance(next(client.follow("marks")), MarksMessage)
            with Client(url, tls=trust) as nobody:
                with pytest.raises(NotAllowed, match="unauthorized"):
                    nobody.ask(questions.status())
                with pytest.raises(NotAllowed, match="token"):
                    next(nobody.follow("marks"))
            with Client(url, token=TOKEN) as distrustful, pytest.raises(Unreachable, match="certificate"):
                distrustful.ask(questions.status())

        await in_thread(work)
        async with open_client(url, token=TOKEN, tls=trust) as client, client.follow("marks") as messages:
            assert (await client.ask(questions.status())).validators == 1
            assert isinstance(await anext(messages), MarksMessage)
        async with open_client(url, tls=trust) as nobody, nobody.follow("marks") as messages:
            with pytest.raises(NotAllowed, match="token"):
                await anext(messages)
            nobody._account = Account(SIGNER, bytes(32), SIGNER.address, 0, 0)
            nobody._market = Market(())
            with pytest.raises(NotAllowed, match="token"):
                await nobody.submit(CancelAll(None), seconds=5)
