"""Fits SSVI slices to a validator's aggregated chains: weighted, robust, warm-started. Pure.

A bounded Levenberg-Marquardt on implied volatilities; four parameters, so the normal equations are 4 x 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from ledger.instruments import Kind
from ledger.market import Slice
from ledger.pricing.surface import wings_max_e9
from node.oracle import ssvi
from node.oracle.aggregate import ChainView, UnderlyingView
from node.oracle.black import Bools, Floats, implied_vol
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR

SHAPE_QUOTES_MIN = 4
"""Fewer usable strikes than this (one is enough) fit the level only and keep the shape of the start."""
TAU_SECONDS_MIN = 900
"""Closer to expiry the last fit is carried on at constant volatility: premiums there are ticks."""
SIGMAS_FITTED = 2.6
"""Strikes further out are not fitted: their premiums are a few ticks, which imply no volatility."""
STEPS_MAX = 40
"""Levenberg-Marquardt steps of one fit; a fit that has not settled by then is used as it stands."""
OUTLIER_VOL_MIN = 0.003
"""Residuals below this much volatility are never treated as outliers."""
SETTLED = 1e-9
"""Relative improvement of the weighted error below which a fit has settled."""
SPREAD_VOL_MIN = 0.002
"""No quote counts as known to better than this much volatility."""
VENUES_FULL = 3
"""Confidence is full from this many venues; market.md asks for three."""
RMSE_FULL, RMSE_DAYS = 2.5, 7
"""Confidence is full up to this error in volatility points a week or more before expiry; closer to it up
to the error that is worth as many dollars, which is more the less time is left."""

Parameters = tuple[float, float, float, float]
"""(theta, rho, psi, wings)."""


@dataclass(frozen=True, slots=True)
class SliceFit:
    """A slice's parameters in the units of ledger.market.Slice, and how well they fit.

    `rmse_vol_points` is the unweighted error over the `quotes` used, in volatility points (0.01).
    """

    theta_e12: int
    rho_e6: int
    psi_e9: int
    wings_e9: int
    rmse_vol_points: float
    quotes: int

    @property
    def parameters(self) -> Parameters:
        """(theta, rho, psi, wings) as floats."""
        return self.theta_e12 * 1e-12, self.rho_e6 * 1e-6, self.psi_e9 * 1e-9, self.wings_e9 * 1e-9


@dataclass(frozen=True, slots=True)
class OptionQuotes:
    """One expiry's options in USD; arrays aligned, in any order; NaN where there is no price."""

    forward: float
    strikes: Floats
    is_call: Bools
    bids: Floats
    asks: Floats
    mids: Floats


@dataclass(frozen=True, slots=True)
class _Smile:
    """Usable implied volatilities of one expiry, ascending by log-moneyness; `weights` are 1 / error."""

    tau_years: float
    log_moneyness: Floats
    vols: Floats
    weights: Floats


def fit_slice(quotes: OptionQuotes, tau_years: float, warm_start: SliceFit | None = None) -> SliceFit | None:
    """Best slice for these quotes; None when no strike is usable.

    Per strike the out-of-the-money side counts, the other only where it is missing. A quote weighs its vega
    over its spread, shrunk when it disagrees with the rest.
    """
    smile = _smile_of(quotes, tau_years)
    if len(smile.vols) == 0:
        return None
    start = _into_bounds(_first_guess(smile) if warm_start is None else warm_start.parameters)
    theta, rho, psi, wings = at = (
        _fit(smile, start) if len(smile.vols) >= SHAPE_QUOTES_MIN else _fit_level(smile, start)
    )
    error = _residual(smile, at)
    rmse = 100 * sqrt(float(error @ error) / len(error))
    theta_e12, rho_e6 = round(theta * 1e12), round(rho * 1e6)
    # Threshold: the rounded slice must keep the butterfly bound too.
    psi = min(psi, ssvi.psi_max(theta_e12 * 1e-12, rho_e6 * 1e-6))
    wings_e9 = min(int(wings * 1e9), wings_max_e9(theta_e12, rho_e6))
    return SliceFit(theta_e12, rho_e6, int(psi * 1e9), wings_e9, rmse, len(error))


def _smile_of(quotes: OptionQuotes, tau_years: float) -> _Smile:
    """Implied volatilities of the quotes that count, within SIGMAS_FITTED of the forward."""
    forward, strikes, is_call = quotes.forward, quotes.strikes, quotes.is_call
    usable = np.flatnonzero(quotes.mids > 0)
    in_the_money = is_call[usable] == (strikes[usable] < forward)
    usable = usable[np.lexsort((in_the_money, strikes[usable]))]
    usable = usable[np.unique(strikes[usable], return_index=True)[1]]
    strikes, is_call = strikes[usable], is_call[usable]
    vols, vegas = implied_vol(forward, strikes, tau_years, quotes.mids[usable], is_call)
    log_moneyness = np.log(strikes / forward)
    sound = ~np.isnan(vols)
    if sound.any():
        at_the_money = vols[sound][np.abs(log_moneyness[sound]).argmin()]
        sound &= np.abs(log_moneyness) <= SIGMAS_FITTED * at_the_money * sqrt(tau_years)
    spread_vols = (quotes.asks - quotes.bids)[usable][sound] / np.maximum(vegas[sound], 1e-9)
    weights = 1 / np.maximum(spread_vols, SPREAD_VOL_MIN)
    return _Smile(tau_years, log_moneyness[sound], vols[sound], weights)


def _first_guess(smile: _Smile) -> Parameters:
    """At-the-money variance from the three middle strikes, mild skew, half the largest curvature, no wings."""
    nearest = np.abs(smile.log_moneyness).argsort()[:3]
    theta = float(np.median(smile.vols[nearest])) ** 2 * smile.tau_years
    return theta, -0.2, 0.5 * ssvi.psi_max(theta, 0.2), 0.0


def _fit(smile: _Smile, start: Parameters) -> Parameters:
    """Levenberg-Marquardt with Cauchy weights: a quote far outside the others' error hardly counts."""
    at, damping = start, 1e-3
    residual = _residual(smile, at)
    weights = _robust_weights(smile, residual)
    cost = float(weights @ residual**2)
    for _ in range(STEPS_MAX):
        slopes = _slopes(smile, at, residual)
        weighted = slopes * weights[:, None]
        normal, gradient = slopes.T @ weighted, weighted.T @ residual
        step = np.linalg.solve(normal + np.diag(damping * np.diag(normal) + 1e-30), -gradient)
        there = _into_bounds((at[0] + step[0], at[1] + step[1], at[2] + step[2], at[3] + step[3]))
        residual_there = _residual(smile, there)
        cost_there = float(weights @ residual_there**2)
        if cost_there >= cost:
            damping *= 8
            if damping > 1e8:
                break
            continue
        settled = cost - cost_there <= SETTLED * cost
        at, residual, damping = there, residual_there, max(damping / 8, 1e-12)
        weights = _robust_weights(smile, residual)
        cost = float(weights @ residual**2)
        if settled or cost < 1e-24:
            break
    return at


def _fit_level(smile: _Smile, start: Parameters) -> Parameters:
    """The start's smile moved to the weighted mean of the quotes: theta by the square, psi in step, the wings stay."""
    model = _residual(smile, start) + smile.vols
    ratio = float((smile.weights * smile.vols / model).sum() / smile.weights.sum())
    return _into_bounds((start[0] * ratio**2, start[1], start[2] * ratio, start[3]))


def _into_bounds(at: Parameters) -> Parameters:
    theta = min(max(at[0], ssvi.THETA_MIN), ssvi.THETA_MAX)
    rho = min(max(at[1], -ssvi.RHO_MAX), ssvi.RHO_MAX)
    largest = ssvi.psi_max(theta, rho)
    psi, wings = min(max(at[2], 1e-3 * largest), largest), min(max(at[3], 0.0), ssvi.wings_max(theta, rho))
    return theta, rho, psi, wings


def _residual(smile: _Smile, at: Parameters) -> Floats:
    """Model less quoted volatility."""
    variance = ssvi.total_variance(*at[:3], smile.log_moneyness, at[3])
    model: Floats = np.sqrt(variance / smile.tau_years)
    return model - smile.vols


def _slopes(smile: _Smile, at: Parameters, residual: Floats) -> Floats:
    """d vol / d(theta, rho, psi, wings): dw over 2 vol tau."""
    model = residual + smile.vols
    slopes: Floats = ssvi.jacobian(*at[:3], smile.log_moneyness) / (2 * smile.tau_years * model)[:, None]
    return slopes


def _robust_weights(smile: _Smile, residual: Floats) -> Floats:
    """Squared quote weights, times Cauchy's 1 / (1 + (r / c)^2); c is twice the quotes' usual error."""
    scale = max(2 * 1.4826 * float(np.median(np.abs(residual))), OUTLIER_VOL_MIN)
    weights: Floats = smile.weights**2 / (1 + (residual / scale) ** 2)
    return weights


def confidence_ppm(venues: int, fit: SliceFit, tau_years: float) -> int:
    """1e6 for VENUES_FULL venues, SHAPE_QUOTES_MIN strikes and an error up to RMSE_FULL; shortages multiply.

    A third is lost per missing venue, an eighth per missing strike, half when the error is twice the allowed.
    """
    allowed = RMSE_FULL * sqrt(max(1.0, RMSE_DAYS / (365 * tau_years)))
    strikes = 0.5 + 0.5 * min(1.0, fit.quotes / SHAPE_QUOTES_MIN)
    shares = min(1.0, venues / VENUES_FULL) * strikes * min(1.0, allowed / max(fit.rmse_vol_points, 1e-9))
    return int(shares * PPM)


class SurfaceFitter:
    """A validator's slices over time, each fit started from the one before.

    Remembers one fit per (underlying, expiry); expired ones are forgotten.
    """

    def __init__(self) -> None:
        self._fits: dict[tuple[int, int], tuple[int, SliceFit]] = {}

    def propose(self, view: UnderlyingView) -> tuple[Slice, ...]:
        """This validator's slice for every expiry it can fit, ascending by expiry; discount is 1.

        Neither the arbitrage clamps nor the change limits are applied: the ledger does that to the medians.
        """
        now_ns = view.time_ns
        self._fits = {key: held for key, held in self._fits.items() if key[1] > now_ns}
        slices = []
        for chain in view.chains:
            fit = self._fit_chain(view.underlying, chain, now_ns)
            if fit is not None:
                tau_years = (chain.expiry_ns - now_ns) / (NS * SECONDS_PER_YEAR)
                confidence = confidence_ppm(chain.venues, fit, tau_years)
                parameters = (fit.theta_e12, fit.rho_e6, fit.psi_e9, fit.wings_e9)
                slices.append(Slice(chain.expiry_ns, chain.forward_uusd, PPM, *parameters, confidence))
        return tuple(slices)

    def fit_of(self, underlying: int, expiry_ns: int) -> SliceFit | None:
        """The newest fit of an expiry, for measuring its quality."""
        held = self._fits.get((underlying, expiry_ns))
        return held[1] if held else None

    def _fit_chain(self, underlying: int, chain: ChainView, now_ns: int) -> SliceFit | None:
        key = (underlying, chain.expiry_ns)
        held_at, held = self._fits.get(key, (now_ns, None))
        remaining_ns = chain.expiry_ns - now_ns
        if held is not None:
            held = _aged(held, remaining_ns / (chain.expiry_ns - held_at))
        fit = None
        if held is None or remaining_ns >= TAU_SECONDS_MIN * NS:
            quoted_ns = chain.expiry_ns - chain.time_ns
            fit = fit_slice(_quotes_of(chain), quoted_ns / (NS * SECONDS_PER_YEAR), held)
            fit = fit and _aged(fit, remaining_ns / quoted_ns)
        fit = fit or held
        if fit is not None:
            self._fits[key] = (now_ns, fit)
        return fit


def _quotes_of(chain: ChainView) -> OptionQuotes:
    strikes, is_call = chain.strikes_uusd / PPM, chain.kinds == Kind.CALL
    return OptionQuotes(chain.quoted_forward_uusd / PPM, strikes, is_call, chain.bids, chain.asks, chain.mids)


def _aged(fit: SliceFit, remaining: float) -> SliceFit:
    """The same volatilities with `remaining` of the time left: theta shrinks with it, psi with its root."""
    theta, psi = int(fit.theta_e12 * remaining), int(fit.psi_e9 * sqrt(remaining))
    return SliceFit(
        max(theta, round(ssvi.THETA_MIN * 1e12)),
        fit.rho_e6,
        psi,
        fit.wings_e9,
        fit.rmse_vol_points,
        fit.quotes,
    )
