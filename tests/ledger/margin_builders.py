"""The vocabulary of the margin tests: one BTC market at 100,000 with flat volatilities, and portfolios on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.portfolio import Position
from ledger.margin.requirements import Margin, compute_margin
from ledger.margin.scenarios import YEAR_NS, RiskArrays, Settlement, build_risk_arrays
from ledger.market import Slice, UnderlyingMarket

NOW_NS = 1_770_000_000 * 10**9
DAY_NS = 86_400 * 10**9
USD = 10**6
INDEX = 100_000 * USD
PERPETUAL = Kind.PERPETUAL
CALL, PUT = Kind.CALL, Kind.PUT


class Leg(NamedTuple):
    """A holding in the words of the vectors: contracts, strike in thousands, days."""

    contracts: int
    kind: Kind
    strike_thousand: int = 0
    days: float = 0


def expiry_ns(days: float) -> int:
    return NOW_NS + round(days * DAY_NS)


def a_slice(
    days: float, volatility_percent: int = 50, *, confidence_ppm: int = 10**6, forward: int = INDEX
) -> Slice:
    """A flat slice: psi = 0."""
    left_ns = expiry_ns(days) - NOW_NS
    theta_e12 = (volatility_percent**2 * left_ns * 10**8 + YEAR_NS // 2) // YEAR_NS
    return Slice(expiry_ns(days), forward, 10**6, theta_e12, 0, 0, 0, confidence_ppm)


def an_instrument(number: int, leg: Leg, underlying: Underlying = Underlying.BTC) -> Instrument:
    lots = 100 if underlying == Underlying.BTC else 10
    if leg.kind == PERPETUAL:
        return Instrument(number, underlying, PERPETUAL, 0, 0, lots)
    return Instrument(
        number, underlying, leg.kind, expiry_ns(leg.days), leg.strike_thousand * 1000 * USD, lots
    )


def risk_of(legs: Sequence[Leg], slices: Sequence[Slice], settlement: Settlement | None = None) -> RiskArrays:
    """Risk arrays of one BTC instrument per leg, ids from 1."""
    instruments = [an_instrument(number, leg) for number, leg in enumerate(legs, 1)]
    markets = {Underlying.BTC: UnderlyingMarket(INDEX, tuple(slices))}
    parameters = {Underlying.BTC: default_margin_parameters(Underlying.BTC)}
    return build_risk_arrays(NOW_NS, instruments, markets, parameters, settlement)


def positions_of(legs: Sequence[Leg]) -> list[Position]:
    """Perpetuals were bought at the index."""
    return [
        Position(number, 100 * leg.contracts, leg.contracts * INDEX if leg.kind == PERPETUAL else 0)
        for number, leg in enumerate(legs, 1)
    ]


def margin_of(
    legs: Sequence[Leg], slices: Sequence[Slice], settlement: Settlement | None = None, cash: int = 0
) -> Margin:
    return compute_margin(risk_of(legs, slices, settlement), cash, positions_of(legs))
