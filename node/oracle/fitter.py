"""Fits SSVI slices to a validator's aggregated chains: weighted, robust, warm-started. Pure.

A bounded Levenberg-Marquardt on implied volatilities; three parameters, so the normal equations are 3 x 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from ledger.instruments import Kind
from ledger.market import Slice
from node.oracle import ssvi
from node.oracle.aggregate import ChainView, UnderlyingView
from node.oracle.black import Bools, Floats, implied_vol
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR

QUOTES_MIN = 4
"""Fewer usable strikes than this give no fit."""
TAU_SECONDS_MIN = 900
"""Closer to expiry the last fit is carried on at constant volatility: premiums there are ticks, not information."""
STEPS_MAX = 40
"""Levenberg-Marquardt steps of one fit; a fit that has not settled by then is used as it stands."""
OUTLIER_VOL_MIN = 0.003
"""Residuals below this much volatility are never treated as outliers."""


@dataclass(frozen=True, slots=True)
class SliceFit:
    """SSVI parameters in the units of ledger.market.Slice, and how well they fit.

    `rmse_vol_points` is the unweighted error over the `quotes` used, in volatility points (0.01).
    """

    theta_e12: int
    rho_e6: int
    psi_e9: int
    rmse_vol_points: float
    quotes: int


def fit_slice(
    forward: float,
    tau_years: float,
    strikes: Floats,
    is_call: Bools,
    bids: Floats,
    asks: Floats,
    mids: Floats,
    warm_start: SliceFit | None = None,
) -> SliceFit | None:
    """Best SSVI slice for these quotes; None when fewer than QUOTES_MIN strikes are usable.

    Prices in USD, NaN where there is none; per strike the out-of-the-money side counts, the other only where it is
    missing. Weight of a quote: its vega over its spread, shrunk when it disagrees with the rest.
    """
    raise NotImplementedError


class SurfaceFitter:
    """A validator's slices over time, each fit started from the one before."""

    def propose(self, view: UnderlyingView) -> tuple[Slice, ...]:
        """This validator's slice for every expiry it can fit, ascending by expiry."""
        raise NotImplementedError
