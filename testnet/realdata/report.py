"""What the real data showed, as one JSON object: distributions, populations by name, crashes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from math import sqrt
from statistics import median
from typing import Any

from testnet.realdata.chains import Quoted, SnapshotResult, calm_times
from testnet.realdata.crashes import CrashResult

FITTED_DEVIATIONS = 2.6
"""The fitter looks at strikes this far out (fitter.SIGMAS_FITTED); beyond, three parameters extrapolate."""


def chains_report(results: Sequence[SnapshotResult]) -> dict[str, Any]:
    """Fit, arbitrage and marks; calm snapshots also by themselves."""
    calm = calm_times(results)
    calm_results = [item for item in results if item.time_ns in calm]
    return {
        "snapshots": [_snapshot(item, is_calm=item.time_ns in calm) for item in results],
        "all": _summary(results),
        "calm": _summary(calm_results),
    }


def _snapshot(item: SnapshotResult, *, is_calm: bool) -> dict[str, Any]:
    return {
        "time_ns": item.time_ns,
        "is_calm": is_calm,
        "btc_index": item.btc_index,
        **_summary([item]),
    }


def _summary(results: Sequence[SnapshotResult]) -> dict[str, Any]:
    errors = [error for item in results for _, error in item.fit_vol_points]
    options = [option for item in results for option in item.options]
    return {
        "count": len(results),
        "rmse_vol_points": _distribution(errors),
        "snapshots_with_median_rmse_up_to_0.8": sum(
            median(error for _, error in item.fit_vol_points) <= 0.8 for item in results
        ),
        "snapshots_with_pooled_rmse_up_to_0.8": sum(
            _pooled([error for _, error in item.fit_vol_points]) <= 0.8 for item in results
        ),
        "slices": sum(item.slices for item in results),
        "slices_with_butterfly_arbitrage": sum(item.butterflies for item in results),
        "neighbours_with_calendar_arbitrage": sum(item.calendars for item in results),
        "marks_inside_spread": {name: _inside(found) for name, found in _populations(options)},
    }


def _populations(options: Sequence[Quoted]) -> Iterable[tuple[str, list[Quoted]]]:
    """Every option quoted on both sides and 15 minutes or more before its expiry; then parts of these."""
    yield "all_two_sided", list(options)
    yield "all_out_of_the_money", [item for item in options if item.is_fitted]
    near = [item for item in options if abs(item.deviations) <= FITTED_DEVIATIONS]
    yield "fitted_strikes", near
    yield "fitted_strikes_out_of_the_money", [item for item in near if item.is_fitted]
    yield "beyond_fitted_strikes", [item for item in options if abs(item.deviations) > FITTED_DEVIATIONS]


def _inside(options: Sequence[Quoted]) -> dict[str, float]:
    outside = [item for item in options if not item.is_inside]
    return {
        "options": len(options),
        "inside_share": round(1 - len(outside) / max(1, len(options)), 4),
        "below_bid_share": round(sum(item.mark < item.bid for item in outside) / max(1, len(options)), 4),
        "above_ask_share": round(sum(item.mark > item.ask for item in outside) / max(1, len(options)), 4),
    }


def _distribution(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)

    def quantile(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else 0.0

    return {
        "slices": len(ordered),
        "p10": quantile(0.1),
        "median": quantile(0.5),
        "p90": quantile(0.9),
        "max": quantile(1),
        "pooled": round(_pooled(ordered), 3),
    }


def _pooled(errors: Sequence[float]) -> float:
    """Root of the mean square over slices."""
    return sqrt(sum(error * error for error in errors) / max(1, len(errors)))


def crashes_report(results: Iterable[CrashResult]) -> list[dict[str, Any]]:
    """Each day's numbers."""
    return [asdict(item) for item in results]
