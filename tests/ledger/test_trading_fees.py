"""Fees: rates per underlying, a taker's base once a call, at most an eighth of an option's premium."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from ledger.events import Trade
from ledger.genesis import check_genesis
from ledger.trading.fees import fee_uusd
from ledger.trading.parameters import UnderlyingFees
from primitives.amounts import USD
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import (
    BTC_PERP,
    CALL_110,
    ETH_PERP,
    INSTRUMENTS,
    Exchange,
    a_genesis,
    buy,
    events_of,
    sell,
)

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "data" / "test_vectors.json"
OPTION = INSTRUMENTS[CALL_110]
INDEX_UUSD = 100_000 * USD
CAP_PPM = 125_000


def expected_uusd(name: str) -> int:
    if not VECTORS.exists():
        pytest.skip("the shared test vectors are not there")
    return round(json.loads(VECTORS.read_text())["own_other"]["fee"][name] * USD)


def test_vector_taker_half_a_dollar_and_three_basis_points_of_the_notional() -> None:
    fee = fee_uusd(
        OPTION, 2_000 * USD, 100, index_uusd=INDEX_UUSD, rate_ppm=300, cap_ppm=CAP_PPM, base_uusd=USD // 2
    )
    assert fee == expected_uusd("taker")


def test_vector_maker_one_basis_point_of_the_notional() -> None:
    fee = fee_uusd(OPTION, 2_000 * USD, 100, index_uusd=INDEX_UUSD, rate_ppm=100, cap_ppm=CAP_PPM)
    assert fee == expected_uusd("maker")


def test_vector_small_premium_pays_an_eighth_of_it() -> None:
    price = 8_250_000
    fee = fee_uusd(
        OPTION, price, 100, index_uusd=INDEX_UUSD, rate_ppm=300, cap_ppm=CAP_PPM, base_uusd=USD // 2
    )
    assert fee == expected_uusd("small_premium")


@pytest.mark.parametrize(
    ("price_uusd", "lots", "fee"),
    [(2_000 * USD, 100, 30 * USD), (8 * USD, 100, 1 * USD), (100_000, 1, 125)],
)
def test_an_option_fee_is_a_rate_on_the_notional_but_at_most_an_eighth_of_the_premium(
    price_uusd: int, lots: int, fee: int
) -> None:
    assert fee == fee_uusd(OPTION, price_uusd, lots, index_uusd=INDEX_UUSD, rate_ppm=300, cap_ppm=CAP_PPM)


def test_a_fee_rounds_up() -> None:
    assert fee_uusd(OPTION, 100, 1, index_uusd=1, rate_ppm=1, cap_ppm=CAP_PPM) == 1


def with_fees(*fees: UnderlyingFees) -> Exchange:
    """Makers rest first, so that takers meet them."""
    genesis = a_genesis({"alice": 100_000, "bob": 100_000, "carol": 100_000})
    exchange = Exchange().start(replace(genesis, trading=replace(genesis.trading, fees=fees)))
    exchange.block()
    return exchange


def test_each_underlying_may_have_its_own_rates_and_others_the_general_ones() -> None:
    exchange = with_fees(UnderlyingFees(1, 10, 50, 0))
    exchange.does("alice", sell(BTC_PERP, 100_000, 1), sell(ETH_PERP, 4_000, 1))
    exchange.block()
    exchange.does("bob", buy(BTC_PERP, 100_000, 1), buy(ETH_PERP, 4_000, 1))
    fees = [(event.seller_fee_uusd, event.buyer_fee_uusd) for event in events_of(exchange.block(), Trade)]
    assert fees == [(100_000, 300_000), (4_000, 20_000)]


def test_a_taker_pays_the_base_once_however_many_makers_it_meets() -> None:
    exchange = with_fees(UnderlyingFees(0, 0, 0, USD // 2))
    exchange.does("alice", sell(BTC_PERP, 100_000, 1))
    exchange.does("carol", sell(BTC_PERP, 100_000, 1))
    exchange.block()
    exchange.does("bob", buy(BTC_PERP, 100_000, 2))
    trades = events_of(exchange.block(), Trade)
    assert [(item.buyer_fee_uusd, item.seller_fee_uusd) for item in trades] == [(USD // 2, 0), (0, 0)]
    assert exchange.state.supply.fees_uusd == USD // 2


@pytest.mark.parametrize(
    ("fees", "rule"),
    [
        ((UnderlyingFees(1, 0, 0, 0), UnderlyingFees(0, 0, 0, 0)), "order of underlying"),
        ((UnderlyingFees(0, 0, 10_001, 0),), "at most one percent"),
        ((UnderlyingFees(0, 0, 0, 101 * USD),), "at most 100 USD"),
    ],
)
def test_fees_out_of_bounds_make_no_genesis(fees: tuple[UnderlyingFees, ...], rule: str) -> None:
    genesis = a_genesis({"alice": 1})
    with pytest.raises(ProtocolViolation, match=rule):
        check_genesis(replace(genesis, trading=replace(genesis.trading, fees=fees)))
