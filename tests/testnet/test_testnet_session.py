"""A trader's session at a real node: what it records of its orders, and what it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from ledger.events import Trade
from ledger.transactions import Withdraw
from node.client.feed import AccountEvent
from primitives.amounts import USD
from testnet.traders.config import TradersOutcome
from testnet.traders.session import Session
from tests.ledger.exchange import BTC_PERP, a_key, buy, sell
from tests.node.reachable_node import a_gateway

OTHER = bytes(20)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Log lines go to a list instead of the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - the other side is a process.
            await trio.sleep(0.005)


async def test_a_session_records_what_becomes_of_its_orders_and_follows_its_position(
    tmp_path: Path, monkeypatch: Any
) -> None:
    outcome = TradersOutcome()
    async with a_gateway(tmp_path, monkeypatch) as url, trio.open_nursery() as nursery:
        gateways = [url.removeprefix("http://")]
        alice, bob = (Session(a_key(name), gateways, 0, outcome) for name in ("alice", "bob"))
        nursery.start_soon(alice.run)
        nursery.start_soon(bob.run)
        assert await alice.submit([sell(BTC_PERP, 100_000, 5), Withdraw(10**15)])
        assert await bob.submit([buy(BTC_PERP, 100_000, 3)])
        assert not await bob.submit([buy(BTC_PERP, 99_000.1, 1)])
        await until(lambda: (alice.positions, bob.positions) == ({BTC_PERP: -3}, {BTC_PERP: 3}))
        await until(lambda: len(outcome.final) == 2)
        nursery.cancel_scope.cancel()
    assert (outcome.submitted_transactions, outcome.submitted_orders) == (3, 3)
    assert (outcome.refused, sorted(outcome.accepted)) == ({"off_tick": 1}, sorted(outcome.final))
    assert (alice.rejections, bob.rejections, len(outcome.order_to_final_ms)) == (1, 0, 2)


def test_positions_follow_the_accounts_own_trades() -> None:
    session = Session(a_key("trader"), ["127.0.0.1:1"], 0, TradersOutcome())
    own = session.address
    for buyer, seller, buyer_sub, lots in (
        (own, OTHER, 0, 5),
        (OTHER, own, 0, 2),
        (own, OTHER, 1, 100),
        (own, own, 0, 7),
    ):
        trade = Trade(3, USD, lots, 1, 2, buyer, buyer_sub, seller, 0, 0, 0)
        session.note(AccountEvent(channel="", seq=1, height=1, account="", cursor="", event=trade))
    assert session.positions == {3: 3}
