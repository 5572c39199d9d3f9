"""What a simulation says comes true: the next block, with the same prices and nothing else in it, does the same."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.events import ActionRejected, Trade
from ledger.margin.requirements import compute_margin
from ledger.prices import get_prices
from ledger.reasons import LedgerReason
from ledger.simulation import simulate
from ledger.transactions import Action, CancelAll, MarginModel, SetMarginModel, Withdraw
from ledger.valuation import positions_of
from primitives.amounts import USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import BTC_PERP, Exchange, buy, events_of, sell


def an_exchange() -> Exchange:
    """A maker's orders rest around 100,000."""
    exchange = Exchange(maker=10_000_000, taker=50_000)
    exchange.block()
    exchange.does("maker", sell(BTC_PERP, 100_010, 500), buy(BTC_PERP, 99_990, 500))
    exchange.block()
    return exchange


def excess_now(exchange: Exchange, name: str) -> int:
    account = exchange.state.account(exchange.key(name))
    assert account is not None
    return compute_margin(
        get_prices(exchange.state).risk, account.cash_uusd, positions_of(account)
    ).im_excess_uusd


@pytest.mark.parametrize(
    "actions",
    [
        [buy(BTC_PERP, 100_010, 20, ioc=True)],
        [buy(BTC_PERP, 100_010, 20), sell(BTC_PERP, 100_500, 20), buy(BTC_PERP, 100_000, 5)],
        [buy(BTC_PERP, 100_010, 100_000), buy(BTC_PERP, 100_010, 1), buy(BTC_PERP, 3.3, 1)],
        [Withdraw(10_000 * USD), buy(BTC_PERP, 100_010, 1)],
        [Withdraw(60_000 * USD), CancelAll(None)],
        [SetMarginModel(MarginModel.STANDARD), buy(BTC_PERP, 100_010, 20)],
    ],
    ids=["fill", "batch", "too much", "withdraw", "too much cash", "standard model"],
)
def test_the_next_block_does_what_was_simulated(actions: list[Action]) -> None:
    exchange = an_exchange()
    before_root = exchange.state.root()
    told = simulate(exchange.state, exchange.key("taker"), actions)
    assert exchange.state.root() == before_root, "a simulation leaves nothing behind"
    exchange.does("taker", *actions)
    result = exchange.block(0.000001)
    done: dict[str, Any] = {
        "refused": {item.index: (item.reason, item.detail) for item in events_of(result, ActionRejected)},
        "trades": [(item.price_uusd, item.size_lots) for item in events_of(result, Trade)],
        "cash": exchange.cash("taker"),
    }
    assert done == {
        "refused": {index: (item.reason, item.detail) for index, item in told.refused.items()},
        "trades": [(item.price_uusd, item.size_lots) for item in told.events if isinstance(item, Trade)],
        "cash": told.after.cash_uusd,
    }


def test_margin_before_and_after_is_the_ledgers_own() -> None:
    exchange = an_exchange()
    order = buy(BTC_PERP, 100_010, 20, ioc=True)
    told = simulate(exchange.state, exchange.key("taker"), [order])
    assert told.before.im_excess_uusd == excess_now(exchange, "taker") == 50_000 * USD
    assert (told.before.equity_uusd, told.before.model) == (50_000 * USD, MarginModel.PORTFOLIO)
    exchange.does("taker", order)
    exchange.block(0.000001)
    assert told.after.im_excess_uusd == excess_now(exchange, "taker") < told.before.im_excess_uusd
    resting = simulate(exchange.state, exchange.key("taker"), [buy(BTC_PERP, 99_000, 20)])
    assert resting.after.im_excess_uusd == resting.before.im_excess_uusd, "margin of what is held"
    assert resting.after.im_excess_with_orders_uusd < resting.before.im_excess_with_orders_uusd


def test_the_standard_model_shows_its_own_numbers() -> None:
    exchange = an_exchange()
    exchange.does("taker", buy(BTC_PERP, 100_010, 20, ioc=True))
    exchange.block()
    told = simulate(exchange.state, exchange.key("taker"), [SetMarginModel(MarginModel.STANDARD)])
    assert (told.before.model, told.after.model) == (MarginModel.PORTFOLIO, MarginModel.STANDARD)
    assert told.after.equity_uusd == told.before.equity_uusd
    assert told.after.im_excess_uusd != told.before.im_excess_uusd


def test_an_unknown_account_cannot_be_simulated() -> None:
    with pytest.raises(ProtocolViolation) as refused:
        simulate(an_exchange().state, (b"\0" * 20, 0), [CancelAll(None)])
    assert refused.value.reason == LedgerReason.UNKNOWN_ACCOUNT
