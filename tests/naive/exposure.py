"""What everybody together stands to lose, account by account and scenario by scenario. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.events import ExposureLimitsChanged, StressChanged
from ledger.settlement.state import VAULT_KEY, ExpiryExposure, Exposure, NetExposure

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000
E8_PER_UUSD = 100


def shortfalls_uusd(ledger: NaiveLedger, equities: dict[tuple[bytes, int], int]) -> tuple[int, ...]:
    """What would be missing in each scenario, over all accounts as the block found them."""
    table, totals = ledger.rows.table, [0] * ledger.rows.scenarios
    for key, held in ledger.held_before.items():
        for scenario in range(len(totals)):
            pnl = 0
            for instrument, lots in held.items():
                row = table[ledger.rows.row_of[instrument]]
                pnl += lots * (row[scenario] - row[-1])
            totals[scenario] += max(0, -(equities[key] + pnl // E8_PER_UUSD)) if held else 0
    return tuple(totals)


def exposure(ledger: NaiveLedger, shortfalls: tuple[int, ...], before: Exposure | None) -> Exposure:
    """This block's leaf."""
    rules = ledger.protection.exposure
    vault = ledger.accounts.get(VAULT_KEY)
    cover = ledger.supply["fund_uusd"] + (max(0, vault.cash_uusd) if vault else 0)
    is_stressed = max(shortfalls) * PPM > rules.rise_from_ppm * cover
    extra, since_ns = before.im_extra_ppm if before else 0, ledger.time_ns
    if before is not None and before.is_stressed == is_stressed:
        since_ns = before.since_ns
        if ledger.time_ns >= since_ns + rules.step_ns:
            since_ns += rules.step_ns
            extra += rules.step_ppm if is_stressed else -rules.step_ppm
            extra = sorted((0, extra, rules.im_extra_max_ppm))[1]
    net, fund = _net(ledger), ledger.supply["fund_uusd"]
    percent = -(-sum(abs(item.delta_uusd) for item in net) // 100)
    point = sum(abs(item.vega_uusd) for item in net)
    is_within = percent * PPM <= rules.delta_limit_ppm * fund and point * PPM <= rules.vega_limit_ppm * fund
    worst = shortfalls.index(max(shortfalls))
    if is_within != (before.is_within_limits if before else True):
        ledger.events.append(ExposureLimitsChanged(is_within, percent, point, fund))
    if (before.is_stressed, before.im_extra_ppm) != (is_stressed, extra) if before else is_stressed:
        ledger.events.append(StressChanged(is_stressed, max(shortfalls), cover, extra))
    return Exposure(shortfalls, worst, extra, is_stressed, since_ns, _open_interest(ledger), net, is_within)


def _open_interest(ledger: NaiveLedger) -> tuple[ExpiryExposure, ...]:
    """Lots held long times each Greek, by expiry."""
    rows = ledger.rows
    totals: dict[int, tuple[int, int, list[int]]] = {}
    for instrument, row in rows.row_of.items():
        item = ledger.instruments[instrument]
        long_lots = sum(max(0, held.get(instrument, 0)) for held in ledger.held_before.values())
        index_usd = ledger.oracle.agreed[item.underlying].index_uusd // PPM
        greeks = (
            rows.delta_ppm[row],
            rows.gamma_e12[row] * index_usd // 10**8,
            rows.vega_uusd[row],
            rows.theta_uusd[row],
            rows.rho_uusd[row],
        )
        sums = totals.setdefault(rows.group[row], (item.underlying, item.expiry_ns, [0, 0, 0, 0, 0]))[2]
        for place, greek in enumerate(greeks):
            sums[place] += long_lots * greek // item.lots_per_contract
    return tuple(ExpiryExposure(*totals[group][:2], *totals[group][2]) for group in sorted(totals))


def _net(ledger: NaiveLedger) -> tuple[NetExposure, ...]:
    """Delta at the index and vega of the vault and of whoever the block found below maintenance."""
    found = []
    below = {key for key, margin in ledger.margins.items() if margin.mm_excess_uusd < 0}
    for underlying in sorted(ledger.oracle.agreed):
        delta = vega = 0
        for key in (below | {VAULT_KEY}) & set(ledger.accounts):
            for instrument, (lots, _) in ledger.accounts[key].positions.items():
                item, row = ledger.instruments[instrument], ledger.rows.row_of[instrument]
                if item.underlying == underlying:
                    index_uusd = ledger.oracle.agreed[underlying].index_uusd
                    delta += lots * ledger.rows.delta_ppm[row] * index_uusd // (item.lots_per_contract * PPM)
                    vega += lots * ledger.rows.vega_uusd[row] // item.lots_per_contract
        found.append(NetExposure(underlying, delta, vega))
    return tuple(found)
