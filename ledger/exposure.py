"""What all accounts together, and the protocol itself, stand to lose: one provable leaf in every block. Pure.

Stress shortfall S(s) = sum over accounts of max(0, -(equity + PnL(s))) for every scenario of the margin model,
without expiry discounts and with undamped tails: what would be owed and not be there. While its maximum is above
a part of fund and vault, the initial factor rises step by step; accounts whose own shortfall makes up the
maximum may be held to reducing. The protocol's own exposure (vault, accounts in liquidation) is held against parts
of the fund; passing one is told, and prevents nothing (decision 0028). Source: market.md section 8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ledger.events import ExposureLimitsChanged, StressChanged
from ledger.margin.scenarios import VALUE_SCALE, RiskArrays
from ledger.pricing.kernel import Ints
from ledger.settlement.parameters import ExposureParameters
from ledger.settlement.state import (
    KEY_EXPOSURE,
    VAULT_KEY,
    ExpiryExposure,
    Exposure,
    NetExposure,
    get_exposure,
    get_protection,
)
from primitives.amounts import PPM, ceil_div

if TYPE_CHECKING:
    from ledger.margin.portfolio import Portfolios
    from ledger.state import State
    from ledger.valuation import Valuation
    from ledger.workspace import Workspace

_CHUNK_POSITIONS = 8_192
_LOW_BITS = 20
"""Shortfalls are added in two halves, so that no sum of 64-bit numbers can wrap."""


class Stress(NamedTuple):
    """S(s) in micro-USD for every scenario, and (account's place, its shortfall in the worst scenario)."""

    shortfalls_uusd: tuple[int, ...]
    scenario: int
    places: Ints
    """Accounts with a shortfall in the worst scenario, places in the margin arrays."""

    @property
    def maximum_uusd(self) -> int:
        """max S."""
        return self.shortfalls_uusd[self.scenario]


def compute_stress(risk: RiskArrays, portfolios: Portfolios, equity_uusd: Ints) -> Stress:
    """Stress shortfalls; `equity_uusd`, shape (A,), is cash and mark-to-market value.

    An account whose equity covers the sum of its positions' own worst scenarios cannot fall short in any, so
    only the others are multiplied out.
    """
    width = risk.scenario_count
    pnl_e8 = risk.table_e8[:, :width] - risk.table_e8[:, -1:]
    rows = risk.rows_of(portfolios.instrument_ids)
    lots, lengths = portfolios.lots, np.diff(portfolios.offsets)
    worst = np.where(lots > 0, lots * pnl_e8.min(axis=1)[rows], lots * pnl_e8.max(axis=1)[rows])
    running = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.minimum(worst // VALUE_SCALE, 0))))
    floor_uusd = equity_uusd + running[portfolios.offsets[1:]] - running[portfolios.offsets[:-1]]
    at = np.flatnonzero((floor_uusd < 0) & (lengths > 0))
    short = np.zeros((len(at), width), dtype=np.int64)
    start = 0
    while start < len(at):
        ends = np.cumsum(lengths[at[start:]])
        count = max(1, int(np.searchsorted(ends, _CHUNK_POSITIONS, side="right")))
        chosen = at[start : start + count]
        places = np.concatenate([np.arange(*portfolios.offsets[item : item + 2]) for item in chosen])
        begins = ends[:count] - lengths[chosen]
        sums = np.add.reduceat(pnl_e8[rows[places]] * lots[places][:, None], begins, axis=0)
        short[start : start + count] = np.maximum(-(sums // VALUE_SCALE + equity_uusd[chosen][:, None]), 0)
        start += count
    high, low = (short >> _LOW_BITS).sum(axis=0), (short & ((1 << _LOW_BITS) - 1)).sum(axis=0)
    totals = tuple((a << _LOW_BITS) + b for a, b in zip(high.tolist(), low.tolist(), strict=True))
    # Without positions equity is the same in every scenario, and debts without positions are never left.
    scenario = max(range(width), key=lambda item: (totals[item], -item))
    return Stress(totals, scenario, at[short[:, scenario] > 0])


def record_exposure(workspace: Workspace, valuation: Valuation) -> None:
    """Write this block's leaf, the step of the initial factor included, and say what has passed a limit."""
    state, stress = workspace.state, valuation.stress
    parameters, before = get_protection(state).exposure, get_exposure(state)
    cover_uusd, fund_uusd = protection_uusd(state), state.supply.fund_uusd
    is_stressed = stress.maximum_uusd * PPM > parameters.rise_from_ppm * cover_uusd
    extra, since_ns = next_step(before, is_stressed, workspace.time_ns, parameters)
    net = _net_exposures(state, valuation)
    costs = costs_uusd(net)
    is_within = all(
        cost * PPM <= limit_ppm * fund_uusd
        for cost, limit_ppm in zip(
            costs, (parameters.delta_limit_ppm, parameters.vega_limit_ppm), strict=True
        )
    )
    exposure = Exposure(
        stress.shortfalls_uusd,
        stress.scenario,
        extra,
        is_stressed,
        since_ns,
        _expiries(valuation),
        net,
        is_within,
    )
    state.put(KEY_EXPOSURE, exposure)
    if is_within != (before is None or before.is_within_limits):
        workspace.events.append(ExposureLimitsChanged(is_within, *costs, fund_uusd))
    if (is_stressed, extra) != ((before.is_stressed, before.im_extra_ppm) if before else (False, 0)):
        workspace.events.append(StressChanged(is_stressed, stress.maximum_uusd, cover_uusd, extra))


def is_critical(state: State, stress: Stress) -> bool:
    """Whether accounts that make up the maximum may only reduce."""
    critical_ppm = get_protection(state).exposure.critical_from_ppm
    return critical_ppm > 0 and stress.maximum_uusd * PPM > critical_ppm * protection_uusd(state)


def next_step(
    before: Exposure | None, is_stressed: bool, now_ns: int, parameters: ExposureParameters
) -> tuple[int, int]:
    """(addition to the initial factor, when it last changed or the stress began or ended).

    One step up for each whole interval of stress, one step down for each without.
    """
    if before is None or before.is_stressed != is_stressed:
        return (before.im_extra_ppm if before else 0), now_ns
    if now_ns - before.since_ns < parameters.step_ns:
        return before.im_extra_ppm, before.since_ns
    step_ppm = parameters.step_ppm if is_stressed else -parameters.step_ppm
    extra = min(parameters.im_extra_max_ppm, max(0, before.im_extra_ppm + step_ppm))
    return extra, before.since_ns + parameters.step_ns


def protection_uusd(state: State) -> int:
    """Fund and the vault's cash, at least 0 each."""
    vault = state.account(VAULT_KEY)
    return state.supply.fund_uusd + (max(0, vault.cash_uusd) if vault else 0)


def _expiries(valuation: Valuation) -> tuple[ExpiryExposure, ...]:
    """Open interest (lots held long) times each Greek, by underlying and expiry; sums round down."""
    risk, portfolios = valuation.risk, valuation.portfolios
    held = np.zeros(len(risk.instrument_ids), dtype=np.int64)
    np.add.at(held, risk.rows_of(portfolios.instrument_ids), np.maximum(portfolios.lots, 0))
    groups, first = np.unique(risk.group, return_index=True)
    index_usd = np.array([valuation.index_uusd(item) // PPM for item in risk.underlyings], dtype=np.int64)
    gamma_1pct_ppm = risk.gamma_e12 * index_usd[risk.underlying] // 10**8
    columns = []
    for greek in (risk.delta_ppm, gamma_1pct_ppm, risk.vega_uusd, risk.theta_uusd, risk.rho_uusd):
        totals = np.zeros(len(groups), dtype=np.int64)
        np.add.at(totals, risk.group, held * greek // risk.lots_per_contract)
        columns.append(totals.tolist())
    instruments = [valuation.state.instruments[int(risk.instrument_ids[row])] for row in first.tolist()]
    return tuple(
        ExpiryExposure(item.underlying, item.expiry_ns, *greeks)
        for item, *greeks in zip(instruments, *columns, strict=True)
    )


def _net_exposures(state: State, valuation: Valuation) -> tuple[NetExposure, ...]:
    """Delta (value at the index) and vega of the vault and of accounts in liquidation, by underlying."""
    totals = {item.underlying: [0, 0] for item in state.genesis.underlyings}
    for key in sorted({VAULT_KEY, *valuation.accounts_in_liquidation()}):
        account = state.account(key)
        for position in account.positions if account else ():
            instrument, row = state.instruments[position.instrument], valuation.row_of(position.instrument)
            net = totals[instrument.underlying]
            index_uusd = valuation.index_uusd(instrument.underlying)
            per = instrument.lots_per_contract
            net[0] += position.lots * int(valuation.risk.delta_ppm[row]) * index_uusd // (per * PPM)
            net[1] += position.lots * int(valuation.risk.vega_uusd[row]) // per
    return tuple(NetExposure(underlying, *totals[underlying]) for underlying in sorted(totals))


def costs_uusd(net: tuple[NetExposure, ...]) -> tuple[int, int]:
    """What 1 % of every index and one volatility point cost the protocol, each the wrong way: micro-USD, rounded up."""
    return ceil_div(sum(abs(item.delta_uusd) for item in net), 100), sum(abs(item.vega_uusd) for item in net)
