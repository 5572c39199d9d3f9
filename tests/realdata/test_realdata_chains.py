"""Real Deribit chains: how well slices fit, that they are free of arbitrage, where marks lie in the market."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import pytest

from ledger.market import Slice
from testnet.realdata.chains import calm_times, crossings, has_negative_density, replay_chains
from testnet.realdata.report import chains_report

REAL_DATA = Path(os.environ.get("QUORATE_MARKET_DATA", "../shared/data"))
needs_chains = pytest.mark.skipif(
    not (REAL_DATA / "deribit_chain_snapshots").is_dir(), reason=f"no option chains in {REAL_DATA}"
)


def a_slice(expiry_ns: int, theta_e12: int, psi_e9: int, rho_e6: int = -300_000) -> Slice:
    return Slice(expiry_ns, 90_000_000_000, 1_000_000, theta_e12, rho_e6, psi_e9, 0, 1_000_000)


def test_a_slice_bent_too_far_has_a_negative_density() -> None:
    gentle, bent = a_slice(1, 10_000_000_000, 80_000_000), a_slice(1, 10_000_000_000, 900_000_000)
    assert (has_negative_density(gentle), has_negative_density(bent)) == (False, True)


def test_variance_that_falls_with_time_is_a_crossing() -> None:
    early, late = a_slice(1, 10_000_000_000, 80_000_000), a_slice(2, 9_000_000_000, 80_000_000)
    assert (crossings([early, late]), crossings([late, early])) == (1, 0)


@needs_chains
def test_calm_chains_fit_within_eight_tenths_of_a_point_and_without_arbitrage() -> None:
    results = replay_chains(REAL_DATA, limit=6)
    assert len(calm_times(results)) == 6
    for item in results:
        assert median(error for _, error in item.fit_vol_points) <= 0.8
        assert (item.butterflies, item.calendars) == (0, 0)
    marks = chains_report(results)["calm"]["marks_inside_spread"]
    assert marks["fitted_strikes"]["inside_share"] >= 0.9
    assert marks["all_two_sided"]["inside_share"] >= 0.9


@needs_chains
@pytest.mark.slow
def test_every_snapshot_is_free_of_arbitrage_and_fits_in_the_middle() -> None:
    report = chains_report(replay_chains(REAL_DATA))
    total = report["all"]
    assert (total["slices_with_butterfly_arbitrage"], total["neighbours_with_calendar_arbitrage"]) == (0, 0)
    assert report["calm"]["snapshots_with_median_rmse_up_to_0.8"] == report["calm"]["count"]
    for days in ("calm", "all"):
        assert report[days]["marks_inside_spread"]["all_two_sided"]["inside_share"] >= 0.92
        assert report[days]["marks_inside_spread"]["fitted_strikes"]["inside_share"] >= 0.95
