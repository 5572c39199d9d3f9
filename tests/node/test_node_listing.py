"""What a node follows: the listing of the state as executed, from genesis, from the schedule, or restored."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ledger.events import ExpirySettled, SeriesListed
from ledger.listing_schedule import scheduled_expiries
from ledger.prices import live_instruments
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
    EXPIRY_NS,
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
    before = service.listed()
    assert {item.expiry_ns for item in before} == {0, EXPIRY_NS}

    (listing,) = [result for result in [exchange.block(3_600)] if events_of(result, SeriesListed)]
    listed = service.listed()
    assert listed == live_instruments(exchange.state)
    scheduled = scheduled_expiries(exchange.state.clock.time_ns, SCHEDULE)
    assert {item.expiry_ns for item in listed} == {0, *scheduled, EXPIRY_NS}
    assert sum(event.count for event in events_of(listing, SeriesListed)) == len(listed) - len(before)

    restored = State.from_leaves(CHAIN, genesis, exchange.state.all_leaves())
    assert a_service(tmp_path / "other", restored).listed() == listed
    exchange.state.rollback_block()
    assert service.listed() == before
