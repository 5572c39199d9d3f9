"""What clients are told about a state."""

from __future__ import annotations

from ledger.margin.health import Health
from ledger.queries import (
    get_account,
    get_book,
    get_instruments,
    get_market,
    get_open_interest,
    get_subaccounts,
)
from ledger.transactions import TransferCash
from primitives.amounts import USD
from tests.ledger.exchange import BTC_PERP, CALL_110, EXPIRY_NS, Exchange, buy, sell


def an_exchange() -> Exchange:
    """Alice is long 10 perpetual lots and short 4 calls against Bob, and has two orders open."""
    exchange = Exchange(alice=100_000, bob=100_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 10), sell(CALL_110, 2_300, 4))
    exchange.does("bob", sell(BTC_PERP, 100_000, 10), buy(CALL_110, 2_300, 4))
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 99_000, 3), sell(CALL_110, 2_600, 2), TransferCash(7, 5 * USD))
    exchange.btc_usd = 101_000
    exchange.block()
    return exchange


def test_an_account_shows_equity_positions_orders_and_its_next_nonce() -> None:
    exchange = an_exchange()
    view = get_account(exchange.state, exchange.key("alice"))
    assert view is not None
    assert [(item.instrument.name, item.lots) for item in view.positions] == [
        ("BTC-PERPETUAL", 10),
        (view.positions[1].instrument.name, -4),
    ]
    assert [(item.id, order.left_lots) for item, order in view.orders] == [(BTC_PERP, 3), (CALL_110, 2)]
    assert (view.health, view.next_nonce) == (Health.HEALTHY, 2)
    perpetual, option = view.positions
    expected = view.account.cash_uusd + perpetual.value_uusd - perpetual.cost_uusd + option.value_uusd
    assert view.equity_uusd == expected
    assert perpetual.value_uusd - perpetual.cost_uusd == 100 * USD
    assert get_subaccounts(exchange.state, exchange.key("alice")[0]) == [0, 7]
    assert get_account(exchange.state, exchange.key("nobody")) is None


def test_instruments_show_mark_volatility_greeks_and_the_best_prices() -> None:
    exchange = an_exchange()
    views = {view.instrument.id: view for view in get_instruments(exchange.state)}
    call, perpetual = views[CALL_110], views[BTC_PERP]
    assert (perpetual.mark_uusd, perpetual.delta_ppm, perpetual.volatility_e6) == (
        101_000 * USD,
        1_000_000,
        0,
    )
    assert (perpetual.best_bid_uusd, perpetual.best_ask_uusd) == (99_000 * USD, None)
    assert 480_000 < call.volatility_e6 < 520_000
    assert 250_000 < call.delta_ppm < 350_000
    assert call.best_ask_uusd == 2_600 * USD


def test_depth_market_and_open_interest() -> None:
    exchange = an_exchange()
    assert get_book(exchange.state, CALL_110, 5) == ([], [(2_600 * USD, 2)])
    assert get_book(exchange.state, 4_000, 5) == ([], [])
    market = get_market(exchange.state, 0)
    assert market.index_uusd == 101_000 * USD
    assert market.slices[-1].expiry_ns == EXPIRY_NS
    assert get_open_interest(exchange.state) == {BTC_PERP: 10, CALL_110: 4}


def test_after_a_rollback_the_answers_are_those_of_the_older_state() -> None:
    exchange = an_exchange()
    before = get_instruments(exchange.state)
    exchange.btc_usd = 90_000
    exchange.block()
    assert get_instruments(exchange.state) != before
    exchange.state.rollback_block()
    assert get_instruments(exchange.state) == before
