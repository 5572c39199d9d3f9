"""What everybody together, and the protocol itself, could lose: the last block's provable exposure for people. Pure."""

from __future__ import annotations

from typing import NamedTuple

from ledger.exposure import costs_uusd, protection_uusd
from ledger.instruments import Underlying
from ledger.settlement.state import get_exposure, get_protection
from ledger.state import State
from node.risk.account import scenario_names


class ExposureView(NamedTuple):
    """Dollars; the limits are parts of the fund, the initial factor's addition is a part of 1."""

    worst_scenario: str
    stress_shortfall_usd: float
    fund_and_vault_usd: float
    is_stressed: bool
    initial_factor_addition: float
    delta_usd_per_percent: float
    delta_limit_usd: float
    vega_usd_per_point: float
    vega_limit_usd: float
    is_within_limits: bool


def exposure_view(state: State) -> ExposureView | None:
    """The last block's; None before the first."""
    leaf, rules = get_exposure(state), get_protection(state).exposure
    if leaf is None:
        return None
    delta_uusd, vega_uusd = costs_uusd(leaf.net)
    fund_usd = state.supply.fund_uusd / 1e6
    underlyings = [Underlying(item.underlying) for item in state.genesis.underlyings]
    names = [f"{item.name} {scenario_names(state, item)[leaf.worst_scenario]}" for item in underlyings]
    return ExposureView(
        worst_scenario=", ".join(names),
        stress_shortfall_usd=leaf.shortfalls_uusd[leaf.worst_scenario] / 1e6,
        fund_and_vault_usd=protection_uusd(state) / 1e6,
        is_stressed=leaf.is_stressed,
        initial_factor_addition=leaf.im_extra_ppm / 1e6,
        delta_usd_per_percent=delta_uusd / 1e6,
        delta_limit_usd=fund_usd * rules.delta_limit_ppm / 1e6,
        vega_usd_per_point=vega_uusd / 1e6,
        vega_limit_usd=fund_usd * rules.vega_limit_ppm / 1e6,
        is_within_limits=leaf.is_within_limits,
    )


def exposure_lines(view: ExposureView) -> list[str]:
    """As sentences."""
    stress = "stress" if view.is_stressed else "no stress"
    kept = "within" if view.is_within_limits else "BEYOND"
    return [
        f"stress shortfall {view.stress_shortfall_usd:,.2f} at {view.worst_scenario}, "
        f"fund and vault {view.fund_and_vault_usd:,.2f}: {stress}, "
        f"initial factor +{view.initial_factor_addition:.2f}",
        f"the protocol's own exposure, {kept} its limits: 1 % of the indices {view.delta_usd_per_percent:,.2f} "
        f"of {view.delta_limit_usd:,.2f}, a volatility point {view.vega_usd_per_point:,.2f} "
        f"of {view.vega_limit_usd:,.2f}",
    ]
