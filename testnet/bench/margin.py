"""What a block's margin costs: marks and risk arrays of 1,002 instruments, then every account. Reads the clock.

Positions are spread evenly over all instruments, the worst case for a model that adds up by expiry: an account
then holds nearly as many expiries as positions. Accounts are computed on as many threads as there are cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.portfolio import PortfolioTable, Position
from ledger.margin.requirements import Spread, compute_margins
from ledger.margin.scenarios import YEAR_NS, RiskArrays, build_risk_arrays
from ledger.market import Slice, UnderlyingMarket
from primitives.amounts import NS, USD

NOW_NS = 1_770_000_000 * NS
DAYS = (1, 2, 7, 14, 21, 30, 60, 90, 180, 270)
INDEX_UUSD = {Underlying.BTC: 100_000 * USD, Underlying.ETH: 3000 * USD}
STRIKES_PERCENT = range(60, 160, 4)
POSITIONS = 20
ACCOUNTS = 10_000
ROUNDS = 15


def margin_figures(rounds: int = ROUNDS, accounts: int = ACCOUNTS) -> dict[str, float]:
    """Flat keys for `quorate bench margin`; times are of the best round."""
    instruments, markets = _instruments(), _markets()
    parameters = {underlying: default_margin_parameters(underlying) for underlying in Underlying}

    def price() -> RiskArrays:
        return build_risk_arrays(NOW_NS, instruments, markets, parameters)

    holdings = _holdings(instruments, accounts)
    start = time.perf_counter()
    table = _table(holdings, 1)
    table.portfolios(price())
    loaded = time.perf_counter() - start

    def block(spread: Spread = map) -> object:
        return compute_margins(price(), table, spread)

    def changed_block(spread: Spread) -> object:
        for account in range(0, accounts, 100):
            table.replace(account, USD, holdings[account])
        return block(spread)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        figures = {
            f"margin.block_{accounts}_accounts_ms": _best_ms(lambda: block(threads.map), rounds),
            f"margin.block_{accounts}_accounts_one_thread_ms": _best_ms(block, rounds),
            f"margin.block_{accounts}_accounts_1_percent_changed_ms": _best_ms(
                lambda: changed_block(threads.map), rounds
            ),
        }
        table = _table(holdings, 10)
        block()
        many = f"margin.block_{10 * accounts}_accounts_ms"
        figures[many] = _best_ms(lambda: block(threads.map), max(1, rounds // 3))
    figures["margin.time_ratio_for_10_times_the_accounts"] = (
        figures[many] / figures[f"margin.block_{accounts}_accounts_ms"]
    )
    figures["margin.risk_arrays_1002_instruments_ms"] = _best_ms(price, rounds)
    figures[f"margin.load_{accounts}_accounts_ms"] = loaded * 1e3
    return figures


def _best_ms(run: Callable[[], object], rounds: int) -> float:
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def _instruments() -> list[Instrument]:
    """A perpetual and ten expiries of 25 strikes, call and put, on each underlying."""
    rows: list[tuple[Underlying, Kind, int, int]] = []
    for underlying, index in INDEX_UUSD.items():
        rows.append((underlying, Kind.PERPETUAL, 0, 0))
        rows += [
            (underlying, kind, NOW_NS + day * 86_400 * NS, index * percent // 100)
            for day in DAYS
            for percent in STRIKES_PERCENT
            for kind in (Kind.CALL, Kind.PUT)
        ]
    return [Instrument(number, *row, LOTS_PER_CONTRACT[row[0]]) for number, row in enumerate(rows, 1)]


def _markets() -> dict[Underlying, UnderlyingMarket]:
    """A skewed surface of 50 % with a discount, so that every step of the model has work."""
    markets = {}
    for underlying, index in INDEX_UUSD.items():
        slices = []
        for day in DAYS:
            left_ns = day * 86_400 * NS
            theta_e12 = 25 * 10**10 * left_ns // YEAR_NS
            discount_ppm = 10**6 - 40_000 * left_ns // YEAR_NS
            slices.append(
                Slice(NOW_NS + left_ns, index, discount_ppm, theta_e12, -200_000, theta_e12 // 1000, 0, 10**6)
            )
        markets[underlying] = UnderlyingMarket(index, tuple(slices))
    return markets


def _holdings(instruments: list[Instrument], accounts: int) -> list[list[Position]]:
    random = np.random.default_rng(1)
    ids = [item.id for item in instruments]
    held = []
    for _ in range(accounts):
        chosen = random.choice(ids, POSITIONS, replace=False).tolist()
        lots = (random.integers(1, 100, POSITIONS) * random.choice((-1, 1), POSITIONS)).tolist()
        held.append([Position(number, count) for number, count in zip(chosen, lots, strict=True)])
    return held


def _table(holdings: list[list[Position]], copies: int) -> PortfolioTable[int]:
    table: PortfolioTable[int] = PortfolioTable()
    for account in range(copies * len(holdings)):
        table.replace(account, USD, holdings[account % len(holdings)])
    return table
