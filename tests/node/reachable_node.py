"""A real node with its gateway process, for tests of those who trade through it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.node.network_of_nodes import running_nodes


@asynccontextmanager
async def a_gateway(home: Path, monkeypatch: Any) -> AsyncIterator[str]:
    """The address of a chain of one validator that goes on while the test runs."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    url = f"http://127.0.0.1:{port}"
    settings = {"gateway": {"enabled": True, "port": port}}
    async with running_nodes(home, monkeypatch, count=1, settings=settings) as (nodes, _):
        with trio.fail_after(60):
            await nodes.wait_height(2)
            async with httpx.AsyncClient() as http:
                while not await _is_up(http, url):  # noqa: ASYNC110 - another process.
                    await trio.sleep(0.02)
            yield url


async def _is_up(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url + "/health")).status_code == 200
    except httpx.HTTPError:
        return False
