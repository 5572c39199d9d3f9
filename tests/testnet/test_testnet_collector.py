"""What the collector makes of notices: real node sockets of validators that a test speaks for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from ledger.events import (
    ActionRejected,
    Event,
    ExpirySettled,
    LiquidationStep,
    OrderAccepted,
    SeriesListed,
    Trade,
    TransactionRejected,
)
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import BlockTiming, FinalBlockNotice, StatusReply, SubmitReply
from primitives.codec import encode
from testnet.collector import Collector, Tally
from testnet.report import Divergence, ListingFacts

A, B = b"\x0a" * 20, b"\x0b" * 20
ID, ROOT, OTHER_ROOT = bytes(32), b"\x01" * 32, b"\x02" * 32
TRADE = Trade(0, 100, 5, 1, 2, A, 0, B, 0, 0, 0)


class Validator:
    """Stands where a node would: a real socket, and a status."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self.socket = NodeSocket(path, self)

    async def submit(self, raws: Sequence[bytes]) -> Sequence[SubmitReply]:
        return ()

    def status(self) -> StatusReply:
        return StatusReply(
            *(self.name, 0, ID, 2, 1, 9, 1, ID, ROOT, 0, 0, "", "", ()),
            *(40_000, 90_000, 100, 600_000, 3, 10**8, 1_000, 0),
            (("surface_rmse_millipoints_p50", 250),),
        )

    def metrics_text(self) -> bytes:
        return b""


def final(height: int, root: bytes = ROOT, *events: Event) -> FinalBlockNotice:
    return FinalBlockNotice(height, ID, root, height, height, encode(events))


def timing(height: int, proposed_ns: int, final_ns: int, *signers: int) -> BlockTiming:
    block_hash = height.to_bytes(32, "big")
    return BlockTiming(height, block_hash, 0, proposed_ns, final_ns, True, signers)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(3):
        while not condition():  # noqa: ASYNC110 - the other side is a socket.
            await trio.sleep(0.002)


@asynccontextmanager
async def collecting(tmp_path: Path) -> AsyncIterator[tuple[Collector, list[Validator], trio.Nursery]]:
    paths = [tmp_path / f"{index}.sock" for index in range(2)]
    validators = [Validator(path, f"node{index}") for index, path in enumerate(paths)]
    collector = Collector(paths)
    async with trio.open_nursery() as nursery:
        for validator in validators:
            await nursery.start(validator.socket.run)
        nursery.start_soon(collector.run)
        await until(lambda: all(item.socket.subscribers for item in validators))
        yield collector, validators, nursery
        nursery.cancel_scope.cancel()


def test_a_tally_counts_each_kind_of_event() -> None:
    tally = Tally()
    tally.add(
        [
            OrderAccepted(ID, 0, 1, A, 0, 0, 0, 100, 5, 0),
            TRADE,
            Trade(0, 100, 5, 1, 3, A, 0, B, 0, 0, 0),
            LiquidationStep(A, 0, 0, -1, 100, -5),
            ExpirySettled(0, 7, 100, 2, 50),
            ActionRejected(ID, 0, "off_tick", ""),
            TransactionRejected(ID, "off_tick", ""),
            TransactionRejected(ID, "bad_nonce", ""),
        ]
    )
    nothing_new = ListingFacts()
    assert tally == Tally(0, 1, {1, 2, 3}, 2, 1, 1, nothing_new, {"off_tick": 2, "bad_nonce": 1})


def test_a_tally_counts_what_is_listed_and_when_it_is_first_traded(monkeypatch: pytest.MonkeyPatch) -> None:
    tally, now = Tally(), [100.0]
    monkeypatch.setattr("testnet.collector.time.monotonic", lambda: now[0])
    tally.listing.known.add((0, 5))
    tally.add([SeriesListed(0, 7, 50, 4), SeriesListed(1, 7, 54, 2), SeriesListed(0, 5, 56, 2)])
    for instrument in (49, 55, 53, 56):
        now[0] += 2
        tally.add([replace(TRADE, instrument=instrument)])
    found = tally.listing
    assert (found.series, found.options, found.trades, tally.trades) == (2, 8, 2, 4)
    assert found.first_trade_seconds == 4.0


async def test_events_of_a_height_count_once_whoever_shows_them_first(tmp_path: Path) -> None:
    async with collecting(tmp_path) as (collector, (one, two), _):
        one.socket.publish(final(1, ROOT, TRADE))
        one.socket.publish(final(2, ROOT, TRADE))
        await until(lambda: collector.lifelines[0].height == 2)
        two.socket.publish(final(1, ROOT, TRADE))
        two.socket.publish(final(2, ROOT, TRADE))
        two.socket.publish(final(3, ROOT, TRADE))
        await until(lambda: collector.lifelines[1].height == 3)
        assert (collector.tally.trades, collector.tally.seen_height) == (3, 3)
        assert (collector.compared_heights, collector.divergences) == (2, [])
        assert collector.first_final.is_set()


async def test_two_roots_at_one_height_are_one_divergence(tmp_path: Path) -> None:
    async with collecting(tmp_path) as (collector, (one, two), _):
        one.socket.publish(final(1))
        two.socket.publish(final(1, OTHER_ROOT))
        await until(lambda: bool(collector.divergences))
        assert collector.divergences == [Divergence(1, ((0, ROOT.hex()), (1, OTHER_ROOT.hex())))]


def test_a_third_root_extends_the_divergence_of_its_height(tmp_path: Path) -> None:
    collector = Collector([tmp_path / str(index) for index in range(3)])
    for index, root in enumerate((ROOT, OTHER_ROOT, OTHER_ROOT)):
        collector._compare(index, 4, root)
    shown = ((0, ROOT.hex()), (1, OTHER_ROOT.hex()), (2, OTHER_ROOT.hex()))
    assert collector.divergences == [Divergence(4, shown)]


async def test_finality_is_measured_from_when_the_proposer_had_built(tmp_path: Path) -> None:
    """The proposer's own notice may come after the others': they share one monotonic clock."""
    async with collecting(tmp_path) as (collector, (one, two), _):
        two.socket.publish(timing(1, 0, 30_000_000, 0, 1))
        await until(lambda: collector.final_blocks == 1)
        assert collector.finality_ms == []
        one.socket.publish(timing(1, 10_000_000, 25_000_000, 0, 1))
        await until(lambda: collector.final_blocks == 2)
        assert sorted(collector.finality_ms) == [15.0, 20.0]
        assert [item.last_signed_height for item in collector.lifelines] == [1, 1]
        assert collector.final_blocks_fast == 2


async def test_a_validator_that_went_away_is_followed_again_when_it_is_back(tmp_path: Path) -> None:
    async with collecting(tmp_path) as (collector, (one, two), _):
        one.socket.publish(final(1))
        await until(lambda: collector.lifelines[0].height == 1)
        for client in list(one.socket._clients.values()):
            client.cancel_scope.cancel()
        await until(lambda: not collector.lifelines[0].connected)
        await until(lambda: one.socket.subscribers == 1)
        one.socket.publish(final(2))
        two.socket.publish(final(2))
        await until(lambda: collector.compared_heights == 1)
        status = collector.lifelines[0].status
        assert status is not None and status.name == "node0"
        assert collector.surface_rmse_vol_points[0] == 0.25
