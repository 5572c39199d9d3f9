"""Who may ask a gateway for what: tokens and their rights, public reading, quotas, TLS, readiness."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ledger.transactions import SignedTransaction, Transaction
from node.config import GatewayConfig, load_config
from node.rpc.access import Access
from node.rpc.connections import CONNECTIONS_PER_ADDRESS_MAX, HEAD_SECONDS_MAX
from node.rpc.quotas import BURST_SECONDS, IDENTITIES_MAX, Allowance, Quotas
from node.rpc.reasons import GatewayReason
from node.rpc.streams import CLIENTS_PER_CALLER_MAX
from node.rpc.supervisor import GatewayProcess
from node.rpc.tokens import Right, read_tokens
from primitives.codec import encode
from primitives.errors import OperatorError, ProtocolViolation
from tests.node.running_gateway import OWNER, RAW, Node, Running, a_home, running

TOKENS = """
[viewer]
token = "viewer-0123456789"
right = "read"
units_per_second = 2

[desk]
token = "desk-0123456789ab"

[ops]
token = "ops-0123456789abc"
right = "admin"
"""


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def statuses(it: Running, headers: dict[str, str]) -> list[int]:
    """Of reading, trading and administrating."""
    answers = (
        await it.http.get("/v1/status", headers=headers),
        await it.http.post("/v1/orders", content=RAW, headers=headers),
        await it.http.get("/metrics", headers=headers),
    )
    return [answer.status_code for answer in answers]


async def test_a_token_may_do_what_its_right_includes(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    async with running(tmp_path / "h", token_file=str(path)) as it:
        assert await statuses(it, {}) == [401, 401, 401]
        assert await statuses(it, bearer("desk-0123456789aX")) == [401, 401, 401]
        assert await statuses(it, bearer("viewer-0123456789")) == [200, 403, 403]
        assert await statuses(it, bearer("desk-0123456789ab")) == [200, 202, 403]
        assert await statuses(it, bearer("ops-0123456789abc")) == [200, 202, 200]
        assert [(await it.http.get(path)).status_code for path in ("/health", "/ready")] == [200, 200]


async def test_public_reading_neither_trades_nor_administrates(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    async with running(tmp_path / "h", token_file=str(path), public_read=True) as it:
        assert await statuses(it, {}) == [200, 401, 401]
        assert await statuses(it, bearer("desk-0123456789ab")) == [200, 202, 403]
    async with running(tmp_path / "i", public_read=True) as it:
        assert await statuses(it, {}) == [200, 401, 401]

        def told() -> list[str]:
            with connect(it.ws_url) as connection:
                requests: list[dict[str, Any]] = [
                    {"op": "subscribe", "channels": ["blocks"]},
                    {"op": "submit", "id": 1, "transaction": base64.b64encode(RAW).decode()},
                ]
                for request in requests:
                    connection.send(json.dumps(request))
                return [json.loads(connection.recv(5)).get("reason", "") for _ in requests]

        assert await trio.to_thread.run_sync(told) == ["", "unauthorized"]


async def test_a_stream_needs_a_token_too(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)

    def refused(url: str) -> None:
        with pytest.raises((InvalidStatus, ConnectionClosed)), connect(url) as connection:
            connection.recv(5)

    def greeted(url: str) -> str:
        with connect(url, additional_headers=bearer("viewer-0123456789")) as connection:
            connection.send('{"op": "subscribe", "channels": ["blocks"]}')
            return str(json.loads(connection.recv(5))["type"])

    async with running(tmp_path / "h", token_file=str(path)) as it:
        await trio.to_thread.run_sync(refused, it.ws_url)
        assert await trio.to_thread.run_sync(greeted, it.ws_url) == "subscribed"


async def test_a_quota_is_told_used_up_and_refilled(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(TOKENS)
    async with running(tmp_path / "h", token_file=str(path)) as it:
        headers = bearer("viewer-0123456789")
        left = [
            (await it.http.get("/v1/status", headers=headers)).headers["ratelimit-remaining"]
            for _ in range(2)
        ]
        assert left == ["19", "18"]
        dear = await it.http.get("/v1/trades", headers=headers)
        assert (dear.headers["ratelimit-limit"], dear.headers["ratelimit-remaining"]) == ("20", "8")
        refused = await it.http.get("/v1/trades", headers=headers)
        assert (refused.status_code, refused.json()["reason"]) == (429, "quota_exceeded")
        assert refused.headers["retry-after"] in ("1", "2")
        assert (await it.http.get("/v1/status", headers=bearer("desk-0123456789ab"))).status_code == 200


async def test_this_machine_is_held_to_quotas_only_if_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path / "h", address_units_per_second=1) as it:
        assert {(await it.http.get("/v1/status")).status_code for _ in range(30)} == {200}
    async with running(tmp_path / "i", address_units_per_second=1, limit_loopback=True) as it:
        codes = [(await it.http.get("/nothing")).status_code for _ in range(15)]
        assert (codes[0], codes[-1]) == (404, 429)
        assert (await it.http.get("/health")).status_code == 200


def signed(nonce: int, key: bytes) -> bytes:
    payload = encode(Transaction(bytes(32), 0, nonce, ()))
    return encode(SignedTransaction(payload, key, bytes(64)))


def test_only_accepted_transactions_use_up_the_quota_of_a_key() -> None:
    access = Access(GatewayConfig(key_transactions_per_second=1), None)
    caller = access.caller({"client": ("127.0.0.1", 1), "headers": []})
    for _ in range(50):
        access.check_key(caller, b"\1" * 32)
    for _ in range(BURST_SECONDS):
        access.check_key(caller, b"\1" * 32)
        access.charge_key(b"\1" * 32)
    with pytest.raises(ProtocolViolation) as refused:
        access.check_key(caller, b"\1" * 32)
    assert (refused.value.reason, caller.allowance.wait_seconds) == (GatewayReason.QUOTA_EXCEEDED, 1)
    access.check_key(caller, b"\2" * 32)


def test_a_proxy_tells_whose_request_it_is_and_a_client_cannot() -> None:
    scope = {"client": ("127.0.0.1", 1), "headers": [(b"x-forwarded-for", b"6.6.6.6, 8.8.8.8")]}
    assert Access(GatewayConfig(), None).caller(scope).identity == "address 127.0.0.1"
    proxied = Access(GatewayConfig(behind_tls_proxy=True), None)
    assert proxied.caller(scope).identity == "address 8.8.8.8"


def test_buckets_refill_with_time_and_are_bounded() -> None:
    quotas = Quotas()
    assert quotas.take("a", 15, 2, 100.0) == Allowance(20, 5, 0)
    assert quotas.take("a", 6, 2, 100.0) == Allowance(20, 5, 1)
    assert quotas.take("a", 6, 2, 100.5) == Allowance(20, 0, 0)
    assert quotas.take("a", 50, 2, 200.0) == Allowance(20, 0, 0), (
        "what costs more than a bucket costs a bucket"
    )
    assert quotas.take("a", 1, 0, 200.0) == Allowance(0, 0, 0)
    for number in range(IDENTITIES_MAX):
        quotas.take(str(number), 1, 2, 200.0)
    assert quotas.take("a", 1, 2, 200.0) == Allowance(20, 19, 0), "forgotten, so full again"


def test_a_token_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("0123456789abcdef\n")
    assert read_tokens(path)["token"].right == Right.ADMIN
    for text, complaint in (
        ("short", "at least 16"),
        ('[a]\ntoken = "0123456789abcdef"\n[b]\ntoken = "0123456789abcdef"', "under two names"),
        ('[a]\ntoken = "0123456789abcdef"\nright = "all"', "Invalid enum value"),
        ("[a\n= ", "is not right"),
    ):
        path.write_text(text)
        with pytest.raises(OperatorError, match=complaint):
            read_tokens(path)
    with pytest.raises(OperatorError, match="cannot read"):
        read_tokens(tmp_path / "none")


def test_a_public_address_needs_tls_and_either_tokens_or_public_reading(tmp_path: Path) -> None:
    a_home(tmp_path / "h")
    public = {"gateway.host": "0.0.0.0"}  # nothing listens there

    def load(**gateway: Any) -> None:
        load_config(
            tmp_path / "h", overrides=public | {f"gateway.{name}": value for name, value in gateway.items()}
        )

    for settings, complaint in (
        ({}, "token_file"),
        ({"public_read": True}, "tls_certificate"),
        ({"token_file": "t"}, "tls_certificate"),
        ({"token_file": "t", "tls_certificate": "c"}, "come together"),
    ):
        with pytest.raises(OperatorError, match=complaint):
            load(**settings)
    load(public_read=True, tls_certificate="c", tls_key="k")
    load(token_file="t", behind_tls_proxy=True)


def a_certificate(directory: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def test_the_operator_hears_of_a_bad_file_before_anything_starts(tmp_path: Path) -> None:
    a_certificate(tmp_path)
    (tmp_path / "other.key").write_text("no key")
    good, bad = str(tmp_path / "tls.crt"), str(tmp_path / "other.key")
    for number, (settings, complaint) in enumerate(
        (
            ({"token_file": str(tmp_path / "none")}, "cannot read the gateway's token file"),
            ({"tls_certificate": good, "tls_key": bad}, "cannot use"),
            ({"tls_certificate": str(tmp_path / "none"), "tls_key": bad}, "cannot use"),
        )
    ):
        with pytest.raises(OperatorError, match=complaint):
            GatewayProcess(a_home(tmp_path / str(number), **settings))


async def test_the_gateway_speaks_tls_with_the_certificate_of_its_configuration(tmp_path: Path) -> None:
    a_certificate(tmp_path)
    trust = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    settings: dict[str, Any] = {
        "tls_certificate": str(tmp_path / "tls.crt"),
        "tls_key": str(tmp_path / "tls.key"),
    }
    async with running(tmp_path / "h", trust=trust, **settings) as it:
        assert (await it.http.get("/v1/status")).status_code == 200

        def greeted() -> str:
            url = f"wss://localhost:{it.gateway.port}/v1/ws"
            with connect(url, ssl=trust) as connection:
                connection.send('{"op": "subscribe", "channels": ["blocks"]}')
                return str(json.loads(connection.recv(5))["type"])

        assert await trio.to_thread.run_sync(greeted) == "subscribed"
        async with httpx.AsyncClient() as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(f"http://localhost:{it.gateway.port}/v1/status")


async def test_a_node_is_ready_while_it_works_and_its_newest_block_is_fresh(tmp_path: Path) -> None:
    standing = Node().status()
    node = Node()
    async with running(tmp_path / "h", node=node) as it:

        async def ready() -> tuple[int, str]:
            answer = await it.http.get("/ready")
            return answer.status_code, answer.json()["reason"]

        assert await ready() == (200, "")
        node.standing = replace(standing, market_time_ns=standing.block_time_ns + 31 * 10**9)
        assert await ready() == (503, "behind")
        node.standing = replace(standing, halted="the disk failed")
        assert await ready() == (503, "halted")
        assert (await it.http.get(f"/v1/accounts/{OWNER.hex()}/0")).status_code == 200


async def test_one_address_follows_over_so_many_connections_and_no_more(tmp_path: Path) -> None:
    def refused(url: str) -> int:
        with ExitStack() as stack:
            for _ in range(CLIENTS_PER_CALLER_MAX):
                stack.enter_context(connect(url, open_timeout=20))
            one_more = stack.enter_context(connect(url, open_timeout=20))
            with pytest.raises(ConnectionClosed) as closed:
                one_more.recv(5)
            return closed.value.rcvd.code if closed.value.rcvd is not None else 0

    async with running(tmp_path / "h", limit_loopback=True, address_units_per_second=1_000) as it:
        assert await trio.to_thread.run_sync(refused, it.ws_url) == 1013


async def test_connections_without_a_request_end_and_one_address_cannot_take_all(tmp_path: Path) -> None:
    async with running(tmp_path / "h", limit_loopback=True, address_units_per_second=0) as it:

        async def opened(first: bytes = b"") -> trio.SocketStream:
            stream = await trio.open_tcp_stream("127.0.0.1", it.gateway.port)
            if first:
                await stream.send_all(first)
            return stream

        endless = await opened(b"GET / HTTP/1.1\r\n")
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            while True:
                await endless.send_all(b"a: " + b"b" * 10_000 + b"\r\n")
        idle = [await opened() for _ in range(CONNECTIONS_PER_ADDRESS_MAX)]
        with trio.fail_after(5):
            assert await (await opened()).receive_some() == b"", "closed at once"
            for stream in idle:
                await stream.aclose()
            while (await it.http.get("/health")).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert it.gateway.restarts == 0


@pytest.mark.slow
async def test_a_head_that_does_not_come_ends_its_connection(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        slow = await trio.open_tcp_stream("127.0.0.1", it.gateway.port)
        await slow.send_all(b"GET /hea")
        with trio.fail_after(HEAD_SECONDS_MAX + 5):
            assert await slow.receive_some() == b""
