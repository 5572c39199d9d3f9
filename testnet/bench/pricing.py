"""What pricing costs, beside the peers of the `bench` extra in the same run. Reads the clock.

All contenders take turns, round by round, and the best round of each counts: whatever else the machine does then
troubles all alike. The plain peer is NumPy with scipy's normal distribution, written as tightly as we know how;
QuantLib is no contender but the oracle for errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ledger.pricing import black76
from ledger.pricing.kernel import OptionTerms

ROUNDS = 25
OPTIONS = 100_000
VALUES = 25_600
ORACLE_OPTIONS = 2000
USD = 1e6
YEAR_NS = 31_536_000 * 10**9

Floats = NDArray[np.float64]


class Chain(NamedTuple):
    """Options as the peers take them (dollars, years, fractions) and as we do (integers)."""

    forward: Floats
    strike: Floats
    years: Floats
    rate: Floats
    volatility: Floats
    is_call: NDArray[np.bool_]
    terms: OptionTerms
    forward_uusd: NDArray[np.int64]
    variance_e15: NDArray[np.int64]
    time_ns: NDArray[np.int64]

    @property
    def discount(self) -> Floats:
        """As we hold it: to a millionth."""
        return self.terms.discount_ppm / 1e6


def a_chain(count: int, seed: int = 1) -> Chain:
    """Twenty expiries from a day to two years, in their order; strikes from half to twice the forward.

    The rate is nearly one: that of the discount as we hold it, to a millionth.
    """
    random = np.random.default_rng(seed)
    years = np.sort(np.geomspace(1 / 365, 2.0, 20)[random.integers(0, 20, count)])
    strike = np.round(100_000.0 * np.exp2(random.uniform(-1.0, 1.0, count)), -2)
    volatility, is_call = random.uniform(0.3, 1.2, count), random.random(count) < 0.5
    forward = np.full(count, 100_000.0)
    discount_ppm = np.rint(np.exp(-0.04 * years) * 1e6).astype(np.int64)
    rate = -np.log(discount_ppm / 1e6) / years
    terms = OptionTerms(np.rint(strike * USD).astype(np.int64), is_call, discount_ppm)
    variance = np.rint(volatility * volatility * years * 1e15).astype(np.int64)
    time_ns = np.rint(years * YEAR_NS).astype(np.int64)
    ours = (terms, np.rint(forward * USD).astype(np.int64), variance, time_ns)
    return Chain(forward, strike, years, rate, volatility, is_call, *ours)


def pricing_figures(report: Callable[[str], None], rounds: int = ROUNDS) -> dict[str, float]:
    """Flat keys for `quorate bench pricing`; `report` is told what is not installed and left out."""
    chain = a_chain(OPTIONS)
    few = a_chain(VALUES)
    quotes = black76.compute_values(*chain[6:9])
    contenders: dict[str, Callable[[], object]] = {
        "values": lambda: black76.compute_values(*few[6:9]),
        "ours": lambda: black76.compute_values_and_greeks(*chain[6:]),
        "implied": lambda: black76.implied_volatilities_e9(
            chain.terms, chain.forward_uusd, quotes, chain.time_ns
        ),
        **_peers(chain, report),
    }
    best = _race(contenders, rounds)
    figures = {
        "pricing.values_25600_ms": best["values"] * 1e3,
        "pricing.greeks_100000_ms": best["ours"] * 1e3,
        "pricing.implied_vol_per_s": OPTIONS / best["implied"],
    }
    peers = {name: seconds for name, seconds in best.items() if name not in {"values", "ours", "implied"}}
    for name, seconds in peers.items():
        figures[f"pricing.greeks_{name}_ms"] = seconds * 1e3
        figures[f"pricing.greeks_ratio_to_{name}"] = seconds / best["ours"]
    if len(peers) == len(PEERS):
        figures["pricing.greeks_ratio_to_best_peer"] = min(peers.values()) / best["ours"]
    return figures | _errors(report)


def _race(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the best round of each."""
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _peers(chain: Chain, report: Callable[[str], None]) -> dict[str, Callable[[], object]]:
    """Those that are installed, by name."""
    found: dict[str, Callable[[], object]] = {}
    for name, (load, make) in PEERS.items():
        imported = _optional(load, name, report)
        if imported is not None:
            found[name] = make(imported, chain)
    return found


def _optional(load: Callable[[], Any], name: str, report: Callable[[str], None]) -> Any:
    try:
        return load()
    except ImportError:
        report(f"{name} is not installed, so its figures are left out; the extra quorate[bench] has it")
        return None


def _scipy(special: Any, chain: Chain) -> Callable[[], object]:
    """Value and five Greeks from NumPy and scipy's ndtr."""
    forward, strike, years, rate, volatility, is_call = chain[:6]

    def run() -> tuple[Floats, ...]:
        root = np.sqrt(years)
        deviation = volatility * root
        d1 = np.log(forward / strike) / deviation + 0.5 * deviation
        discount, put = np.exp(-rate * years), ~is_call
        first, second = special.ndtr(d1) - put, special.ndtr(d1 - deviation) - put
        density = discount * np.exp(-0.5 * d1 * d1) * 0.3989422804014327
        slope = forward * density
        value = discount * (forward * first - strike * second)
        theta = (rate * value - 0.5 * slope * volatility / root) / 365.0
        gamma = density / (forward * deviation)
        return value, discount * first, gamma, slope * root * 0.01, theta, value * years * -0.01

    return run


def _fast_vollib(library: Any, chain: Chain) -> Callable[[], object]:
    """The library's own two calls for value and Greeks, with its default backend."""
    flags = np.where(chain.is_call, "c", "p")
    arguments = (flags, chain.forward, chain.strike, chain.years, chain.rate, chain.volatility)

    def run() -> object:
        return (
            library.fast_black(*arguments, return_as="numpy"),
            library.get_all_greeks(*arguments, model="black", return_as="dict"),
        )

    return run


PEERS: dict[str, tuple[Callable[[], Any], Callable[[Any, Chain], Callable[[], object]]]] = {
    "scipy": (lambda: import_module("scipy.special"), _scipy),
    "fast_vollib": (lambda: import_module("fast_vollib"), _fast_vollib),
}


def _errors(report: Callable[[str], None]) -> dict[str, float]:
    """Largest differences from QuantLib, and of an implied volatility from the one that made the price."""
    chain = a_chain(ORACLE_OPTIONS, seed=2)
    values, greeks = black76.compute_values_and_greeks(*chain[6:])
    implied = black76.implied_volatilities_e9(chain.terms, chain.forward_uusd, values, chain.time_ns)
    # A quote says its volatility to half a micro-dollar over its vega; compare where that is below 1e-9.
    is_told = greeks.vega_uusd > 5_000_000
    figures = {
        "pricing.implied_vol_error_max": float(np.abs(implied / 1e9 - chain.volatility)[is_told].max()),
    }
    quantlib = _optional(lambda: import_module("QuantLib"), "QuantLib", report)
    if quantlib is None:
        return figures
    kinds = [quantlib.Option.Call if side else quantlib.Option.Put for side in chain.is_call.tolist()]
    columns = (chain.strike, chain.forward, np.sqrt(chain.variance_e15 / 1e15), chain.discount)
    rows = zip(kinds, *(column.tolist() for column in columns), strict=True)
    exact = np.array([quantlib.blackFormula(*row) for row in rows])
    return figures | {"pricing.value_error_to_quantlib_usd_max": float(np.abs(values / USD - exact).max())}
