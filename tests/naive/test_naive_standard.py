"""The standard model against the naive one on random portfolios with open orders."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from ledger.margin import standard
from ledger.margin.portfolio import Position
from ledger.margin.requirements import OpenOrder
from ledger.margin.standard import compute_standard_margin
from ledger.prices import Prices
from ledger.state import State
from ledger.trading.margin_model import parameters_of, standard_excess_without, standard_order_excess
from primitives.amounts import USD
from tests.ledger.exchange import BTC_PERP, CHAIN, ETH_PERP, INSTRUMENTS, a_genesis
from tests.naive.account import NaiveAccount
from tests.naive.ledger import NaiveLedger
from tests.naive.margin import Rows
from tests.naive.standard import STANDARD, margin_of, standard_excesses


def compare(seed: int, portfolios: int) -> None:
    """Excesses with and without orders, and after closing each position, of random portfolios."""
    state = State.from_genesis(a_genesis({}), CHAIN)
    prices, naive, random = Prices(state), NaiveLedger(state), Random(seed)
    naive.rows = Rows(prices.risk, dict.fromkeys(state.instruments, 0))
    for _ in range(portfolios):
        held = random.sample([item.id for item in INSTRUMENTS], random.randrange(6))
        costs = {item: random.randrange(-(10**9), 10**9) for item in (BTC_PERP, ETH_PERP)}
        positions = {
            item: (random.choice((-1, 1)) * random.randint(1, 90), costs.get(item, 0)) for item in held
        }
        cash = random.randrange(-50_000 * USD, 50_000 * USD)
        orders = [
            (random.randrange(len(INSTRUMENTS)), random.choice((-1, 1)) * random.randint(1, 60), price * USD)
            for price in random.sample(range(10, 120_000, 10), random.randrange(5))
        ]
        account = NaiveAccount(cash, positions=dict(positions), model=STANDARD)
        taken = [Position(item, *positions[item]) for item in sorted(positions)]
        fast = compute_standard_margin(prices.risk, cash, taken, parameters_of(state))
        assert (fast.im_excess_uusd, fast.mm_excess_uusd) == standard_excesses(naive, cash, positions)
        with_orders = standard_order_excess(
            state, prices.risk, cash, taken, [OpenOrder(*order) for order in orders]
        )
        assert with_orders == margin_of(naive, account, orders).im_excess_uusd
        for item, excess in zip(taken, standard_excess_without(state, prices.risk, cash, taken), strict=True):
            row = prices.row_of(item.instrument_id)
            value = item.lots * naive.rows.basis[row] // naive.rows.lots_per_contract[row] - item.cost_uusd
            others = {key: value for key, value in positions.items() if key != item.instrument_id}
            assert excess == standard_excesses(naive, cash + value, others)[1]


def test_both_agree_on_random_portfolios() -> None:
    compare(seed=1, portfolios=150)


def running_on(values: Any, *_: Any) -> Any:
    return values.cumsum()


def no_naked(risk: Any, lots: Any, layout: Any, starts: Any) -> Any:
    return REAL_LOSSES(risk, lots, layout, starts) * 0


REAL_LOSSES = standard._largest_losses


@pytest.mark.parametrize(("name", "planted"), [("_running", running_on), ("_largest_losses", no_naked)])
def test_a_planted_difference_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, planted: Any) -> None:
    monkeypatch.setattr(standard, name, planted)
    with pytest.raises(AssertionError):
        compare(seed=1, portfolios=150)
