"""What a node follows: the listing of the state as executed, from genesis, from the schedule, or restored."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ledger.events import ExpirySettled, SeriesListed
from ledger.listing_schedule import scheduled_expiries
from ledger.state import State
from node.genesis_defaults import default_listing
from node.ledger_service import LedgerService
from node.storage.block_store import BlockStore
from node.verifier import SignatureVerifier
from primitives.amounts import NS
from primitives.identifiers import BlockHash
from tests.ledger.exchange import (
    CHAIN,
    DAY_NS,
    INSTRUMENTS,
    NEAR_NS,
    START_NS,
    Exchange,
    a_genesis,
    events_of,
)

SCHEDULE = replace(default_listing(), strikes_max=4)
MORNING_NS = START_NS // DAY_NS * DAY_NS + DAY_NS // 3
BUCKETS = {"settlement_window_ns": 4 * 3_600 * NS, "settlement_bucket_ns": 3_600 * NS}


def a_service(tmp_path: Path, state: State) -> LedgerService:
    store = BlockStore.open(tmp_path / "blocks")
    return LedgerService(state, BlockHash(bytes(32)), 0, store, SignatureVerifier())


def test_what_is_listed_follows_the_schedule_and_settlement_and_undone_blocks(tmp_path: Path) -> None:
    genesis = a_genesis({"alice": 1}, INSTRUMENTS, listing=SCHEDULE, **BUCKETS)
    exchange = Exchange().start(genesis)
    service = a_service(tmp_path, exchange.state)
    assert service.listed() == list(INSTRUMENTS)

    results = [exchange.block(3_600) for _ in range(5)]  # The near expiry is an hour away.
    assert [event.expiry_ns for result in results for event in events_of(result, ExpirySettled)] == [NEAR_NS]
    assert service.listed() == [item for item in INSTRUMENTS if item.expiry_ns != NEAR_NS]

    (listing,) = [result for result in [exchange.block(3_600)] if events_of(result, SeriesListed)]
    listed = service.listed()
    assert [item.id for item in listed] == sorted(item.id for item in listed)
    scheduled = scheduled_expiries(exchange.state.clock.time_ns, SCHEDULE)
    assert {item.expiry_ns for item in listed} == {0, *scheduled, START_NS + 30 * DAY_NS}
    assert sum(event.count for event in events_of(listing, SeriesListed)) == len(listed) - 5

    restored = State.from_leaves(CHAIN, genesis, exchange.state.all_leaves())
    assert a_service(tmp_path / "other", restored).listed() == listed
    exchange.state.rollback_block()
    assert service.listed() == [item for item in INSTRUMENTS if item.expiry_ns != NEAR_NS]
