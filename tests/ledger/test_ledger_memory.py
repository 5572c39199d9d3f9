"""A ledger that runs for months holds on to nothing of the blocks that it has executed."""

from __future__ import annotations

import gc

from ledger.events import ActionRejected
from ledger.transactions import Withdraw
from ledger.valuation import Valuation
from node.genesis_defaults import default_breakers
from primitives.amounts import USD
from tests.ledger.exchange import BTC_PERP, CALL_110, Exchange, a_genesis, buy, sell

KEPT_MAX = 3
"""The last block's, and what the state's caches and the test's own result hold."""


def valuations() -> int:
    gc.collect()
    return sum(isinstance(item, Valuation) for item in gc.get_objects())


def test_refused_orders_keep_no_prices_of_their_block_alive() -> None:
    genesis = a_genesis({"alice": 100_000, "bob": 1_000}, breakers=default_breakers())
    exchange = Exchange().start(genesis)
    before = valuations()
    rejected = []
    for number in range(16):
        exchange.does("alice", buy(BTC_PERP, 100_000, 1), buy(BTC_PERP, 300_000, 1), sell(CALL_110, 2_400, 1))
        exchange.does("bob", sell(BTC_PERP, 100_000, 500), Withdraw(10_000 * USD))
        result = exchange.block(1 if number < 3 else 600)
        rejected += [event.reason for event in result.events if isinstance(event, ActionRejected)]
        exchange.state.commit_oldest()
    assert rejected.count("trading_halted") > 12
    assert valuations() - before <= KEPT_MAX
