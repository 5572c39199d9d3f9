"""Epsilon and spread, measured against a truth stream and a venue that the test speaks for, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from ledger.instruments import Kind
from ledger.listing import Listing
from ledger.state_keys import listing_key
from node.oracle.quotes import ChainSnapshot, IndexQuote, Quote, encode_frame
from node.rpc.views import MarkRow, MarksView
from node.storage.block_store import BlockStore, FinalBlock
from primitives.amounts import NS, USD
from primitives.codec import encode
from testnet import truth as module
from testnet.truth import Truth
from tests.node.network_of_nodes import INSTRUMENTS, TIME_NS

PERP = INSTRUMENTS[0]
CALL = next(item for item in INSTRUMENTS if item.kind == Kind.CALL and item.underlying == 0)


def an_index(usd: int) -> IndexQuote:
    return IndexQuote(0, TIME_NS, usd * USD, usd * USD)


def a_chain(bid_usd: int, ask_usd: int) -> ChainSnapshot:
    """One call, quoted."""
    columns = ((CALL.strike_uusd,), (int(CALL.kind),), (bid_usd * USD,), (ask_usd * USD,))
    return ChainSnapshot(0, CALL.expiry_ns, TIME_NS, *columns)


async def speak(path: Path, nursery: trio.Nursery, *quotes: Quote) -> str:
    """A stream on a Unix socket that says this once."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.send_all(encode_frame(list(quotes)))
        await trio.sleep_forever()

    return await listen(path, nursery, serve)


async def listen(
    path: Path, nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]]
) -> str:
    import socket

    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(str(path))
    listening.listen(5)
    nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
    return f"unix:{path}"


async def speak_often(path: Path, nursery: trio.Nursery, *quotes: Quote) -> str:
    """The same again and again, as a venue does."""

    async def serve(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(encode_frame(list(quotes)))
            await trio.sleep(0.02)

    return await listen(path, nursery, serve)


@asynccontextmanager
async def measuring(tmp_path: Path, marks: MarksView) -> AsyncIterator[Truth]:
    """Truth: index 100,000 and the call at 1,000; the venue's spread on it is 40."""
    store = BlockStore.open(tmp_path / "blocks")
    store.commit(FinalBlock(0, bytes(32), b"", b"", b"", views={"marks": encode(marks)}))
    store.close()
    async with trio.open_nursery() as nursery:
        true = await speak(tmp_path / "t.sock", nursery, an_index(100_000), a_chain(1_000, 1_000))
        venue = await speak(tmp_path / "v.sock", nursery, an_index(100_500), a_chain(990, 1_030))
        it = Truth(true, venue, INSTRUMENTS, 1.0, lambda: TIME_NS, tmp_path / "blocks")
        nursery.start_soon(it.run)
        with trio.fail_after(5):
            while not it.epsilon_bp:  # noqa: ASYNC110 - sampled by time.
                await trio.sleep(0.01)
        yield it
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_SECONDS", 0.05)


async def test_epsilon_is_the_distance_to_the_truth_and_spread_is_the_venues(tmp_path: Path) -> None:
    rows = (MarkRow(PERP.id, 100_050 * USD, 0, 0), MarkRow(CALL.id, 980 * USD, 500_000, 0))
    async with measuring(tmp_path, MarksView(1, TIME_NS, rows)) as truth:
        assert {round(value, 6) for value in truth.epsilon_bp} == {5.0, 2.0}
        assert {round(value, 6) for value in truth.spread_bp} == {4.0}
        assert (truth.index_usd(0), truth.index_usd(1)) == (100_000.0, None)


async def test_what_is_listed_during_the_run_is_measured_too(tmp_path: Path) -> None:
    new = replace(CALL, id=900, expiry_ns=CALL.expiry_ns + 86_400 * NS)
    store = BlockStore.open(tmp_path / "blocks")
    rows = (MarkRow(PERP.id, 100_000 * USD, 0, 0), MarkRow(new.id, 980 * USD, 0, 0))
    store.commit(
        FinalBlock(
            *(0, bytes(32), b"", b"", b""),
            leaves=((listing_key(new.id), encode(Listing(new, False, 0))),),
            views={"marks": encode(MarksView(1, TIME_NS, rows))},
        )
    )
    store.close()
    async with trio.open_nursery() as nursery:
        quoted = replace(a_chain(1_000, 1_000), expiry_ns=new.expiry_ns)
        true = await speak_often(tmp_path / "t.sock", nursery, an_index(100_000), quoted)
        it = Truth(true, true, INSTRUMENTS, 1.0, lambda: TIME_NS, tmp_path / "blocks")
        nursery.start_soon(it.run)
        with trio.fail_after(5):
            while 2.0 not in {round(value, 6) for value in it.epsilon_bp}:  # noqa: ASYNC110 - sampled by time.
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert it.instruments[new.id] == new


async def test_what_has_expired_or_is_unknown_is_not_measured(tmp_path: Path) -> None:
    rows = (MarkRow(PERP.id, 100_000 * USD, 0, 0), MarkRow(CALL.id, 5 * USD, 0, 0), MarkRow(999, USD, 0, 0))
    async with measuring(tmp_path, MarksView(1, CALL.expiry_ns, rows)) as truth:
        assert set(truth.epsilon_bp) == {0.0}
        assert truth.spread_bp == []
