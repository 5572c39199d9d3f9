"""One account's risk: positions, Greeks, margins, scenarios, and what extra legs would change. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ledger.instruments import Instrument, Kind, Underlying
from ledger.margin.parameters import Shock
from ledger.margin.portfolio import Position
from ledger.margin.requirements import Margin, compute_margin
from ledger.matching.orders import AccountKey
from ledger.prices import get_prices
from ledger.queries import InstrumentView, get_account, get_instruments
from ledger.state import State
from node.risk.source import find_instrument
from primitives.errors import OperatorError

_LEG = re.compile(r"([A-Za-z0-9-]+):([+-]?\d+(?:\.\d+)?)")


class Leg(NamedTuple):
    """A position that might be added, at its mark."""

    instrument: Instrument
    lots: int


class PositionRisk(NamedTuple):
    """One holding with its Greeks: delta in coins, vega and theta in USD per point and day, gamma in 1/USD."""

    name: str
    contracts: float
    mark_usd: float
    value_usd: float
    delta: float
    gamma: float
    vega_usd: float
    theta_usd: float


class ScenarioRow(NamedTuple):
    """The portfolio's PnL in one scenario of one underlying, before expiry discounts and scenario weights."""

    underlying: str
    scenario: str
    weight: float
    pnl_usd: float


class AccountRisk(NamedTuple):
    """Everything `quorate risk account` shows."""

    equity_usd: float
    margin: Margin
    health: str
    positions: tuple[PositionRisk, ...]
    scenarios: tuple[ScenarioRow, ...]
    with_legs: Margin | None


def parse_leg(state: State, text: str) -> Leg:
    """'BTC-6FEB26-88000-P:+5': five contracts more; fractions down to a lot. Raises OperatorError."""
    match = _LEG.fullmatch(text)
    if match is None:
        raise OperatorError(f"--leg wants NAME:CONTRACTS, such as BTC-PERPETUAL:-0.5, not {text!r}")
    instrument = find_instrument(state, match[1])
    lots = float(match[2]) * instrument.lots_per_contract
    if lots != round(lots) or lots == 0:
        raise OperatorError(f"{match[2]} contracts of {instrument.name} are not a whole number of lots")
    return Leg(instrument, round(lots))


def account_risk(state: State, key: AccountKey, legs: Sequence[Leg] = ()) -> AccountRisk:
    """Raises OperatorError for an account that does not exist."""
    view = get_account(state, key)
    if view is None:
        raise OperatorError(f"there is no account {key[0].hex()}/{key[1]}")
    live = {item.instrument.id: item for item in get_instruments(state)}
    rows = tuple(_position_risk(live[item.instrument.id], item.lots) for item in view.positions)
    holdings = {
        item.instrument.id: Position(item.instrument.id, item.lots, item.cost_uusd) for item in view.positions
    }
    with_legs = _with_legs(state, holdings, view.account.cash_uusd, legs) if legs else None
    lots = {item.instrument.id: item.lots for item in view.positions}
    return AccountRisk(
        view.equity_uusd / 1e6,
        view.margin,
        view.health.name.lower(),
        rows,
        _scenarios(state, lots),
        with_legs,
    )


def _position_risk(item: InstrumentView, lots: int) -> PositionRisk:
    contracts = lots / item.instrument.lots_per_contract
    return PositionRisk(
        item.instrument.name,
        contracts,
        item.mark_uusd / 1e6,
        contracts * item.mark_uusd / 1e6,
        contracts * item.delta_ppm / 1e6,
        contracts * item.gamma_e12 / 1e12,
        contracts * item.vega_uusd / 1e6,
        contracts * item.theta_uusd / 1e6,
    )


def _with_legs(state: State, holdings: dict[int, Position], cash_uusd: int, legs: Sequence[Leg]) -> Margin:
    """The margin after buying or selling the legs at their marks, without fees."""
    prices = get_prices(state)
    held = dict(holdings)
    for leg in legs:
        item, before = leg.instrument, held.get(leg.instrument.id, Position(leg.instrument.id, 0, 0))
        value_uusd = leg.lots * prices.mark_uusd(item.id) // item.lots_per_contract
        is_perpetual = item.kind == Kind.PERPETUAL
        cost_uusd = before.cost_uusd + (value_uusd if is_perpetual else 0)
        cash_uusd -= 0 if is_perpetual else value_uusd
        held[item.id] = Position(item.id, before.lots + leg.lots, cost_uusd)
    positions = [held[item] for item in sorted(held) if held[item].lots]
    return compute_margin(prices.risk, cash_uusd, positions)


def _scenarios(state: State, lots: dict[int, int]) -> tuple[ScenarioRow, ...]:
    risk = get_prices(state).risk
    pnl = risk.scenario_pnl_uusd().tolist()
    ids, underlyings = risk.instrument_ids.tolist(), risk.underlying.tolist()
    per_contract = risk.lots_per_contract.tolist()
    rows: list[ScenarioRow] = []
    for place, underlying in enumerate(risk.underlyings):
        held = [row for row, item in enumerate(ids) if item in lots and underlyings[row] == place]
        if not held:
            continue
        weights = risk.weights_ppm[place].tolist()
        for scenario, name in enumerate(scenario_names(state, underlying)):
            total = sum(lots[ids[row]] * pnl[row][scenario] / per_contract[row] for row in held)
            rows.append(ScenarioRow(underlying.name, name, weights[scenario] / 1e6, total / 1e6))
    return tuple(rows)


def scenario_names(state: State, underlying: Underlying) -> list[str]:
    """'-16 % vol up', ..., '+500 % vol up', 'skew linear', 'skew absolute', in the model's order."""
    parameters = state.underlying(underlying).margin
    words = {Shock.UP: "vol up", Shock.NONE: "vol same", Shock.DOWN: "vol down"}
    skews = {Shock.LINEAR: "skew linear", Shock.ABSOLUTE: "skew absolute"}
    return [
        skews.get(Shock(item.shock)) or f"{item.move_ppm / 1e4:+g} % {words[Shock(item.shock)]}"
        for item in parameters.scenarios
    ]
