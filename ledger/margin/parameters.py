"""Every number of the portfolio margin model, per underlying, as replicated data. Pure."""

from __future__ import annotations

from enum import IntEnum

from ledger.instruments import Underlying
from ledger.margin.reasons import MarginReason
from primitives.amounts import PPM
from primitives.codec import I64, U8, U16, U32, Wire
from primitives.errors import ProtocolViolation

SCENARIOS_MAX = 128
"""Scenarios of one underlying; more are refused, since the cost of every block grows with them."""


MOVE_PPM_MAX = 5_000_000
"""The largest rise of a scenario; what a contract may be worth at all is bounded for it."""


class Shock(IntEnum):
    """What a scenario does to volatility."""

    NONE = 0
    UP = 1
    DOWN = 2
    LINEAR = 3
    """Skewed in proportion to ln(K/F); any change of value counts as a loss."""
    ABSOLUTE = 4
    """Skewed in proportion to |ln(K/F)|; any change of value counts as a loss."""


SKEW_SHOCKS = (Shock.LINEAR, Shock.ABSOLUTE)


class Scenario(Wire):
    """A move of the price, a shock of volatility (a Shock) and the part of the outcome that counts.

    A weight below 1 dampens a move too far to be covered in full. A weight of 1 / (1 + move) turns an outcome
    in dollars into one in the shocked coin at today's price, which is how coin-settled contracts lose.
    """

    move_ppm: I64
    shock: U8
    weight_ppm: U32


class VolatilityShock(Wire):
    """Multipliers up 1 + up h and down max(floor, 1 - down h), h = (reference_days / days)^exponent."""

    up_ppm: U32
    down_ppm: U32
    down_floor_ppm: U32
    up_volatility_floor_ppm: U32
    short_exponent_ppm: U32
    long_exponent_ppm: U32
    reference_days: U16


class SkewShock(Wire):
    """vol *= 1 + clip(x cap / k*, +-cap); cap and k* shrink with the square root of time."""

    cap_ppm: U32
    cap_slope_ppm: U32
    width_ppm: U32
    width_slope_ppm: U32
    width_multiplier: U16
    width_minimum_ppm: U32


class ExpiryDiscount(Wire):
    """An expiry's value counts asset e^(-rate tau) if positive, min(1/D, liability e^(rate tau)) if not."""

    asset_ppm: U32
    liability_ppm: U32
    rate_ppm: U32


class ForwardShock(Wire):
    """Forward contingency: the worse of +-move, times base + time * tau."""

    move_ppm: U32
    base_ppm: U32
    time_ppm: U32


class Contingencies(Wire):
    """Parts of spot added per contract: all perpetuals, and options short beyond what their strike holds."""

    perpetual_mm_ppm: U32
    perpetual_im_ppm: U32
    short_option_mm_ppm: U32
    short_option_im_ppm: U32
    confidence_threshold_ppm: U32


class MarginParameters(Wire):
    """One underlying's model; source: market.md section 3. Construction refuses numbers out of range.

    Scenarios are in any order but for those of skew, which come last and do not move the price.
    """

    scenarios: tuple[Scenario, ...]
    volatility: VolatilityShock
    skew: SkewShock
    discount: ExpiryDiscount
    forward: ForwardShock
    contingencies: Contingencies
    im_factor_ppm: U32
    mm_factor_ppm: U32

    def __post_init__(self) -> None:
        """Raises ProtocolViolation(BAD_PARAMETERS) with the first rule that does not hold."""
        for holds, rule in self._rules():
            if not holds:
                raise ProtocolViolation(MarginReason.BAD_PARAMETERS, rule)

    def _rules(self) -> tuple[tuple[bool, str], ...]:
        distinct = {(item.move_ppm, item.shock) for item in self.scenarios}
        shock, skew, discount = self.volatility, self.skew, self.discount
        rates = (
            self.contingencies.perpetual_mm_ppm,
            self.contingencies.perpetual_im_ppm,
            self.contingencies.short_option_mm_ppm,
            self.contingencies.short_option_im_ppm,
            self.contingencies.confidence_threshold_ppm,
        )
        return (
            (
                0 < len(distinct) == len(self.scenarios) <= SCENARIOS_MAX,
                f"there are 1 to {SCENARIOS_MAX} scenarios, all distinct",
            ),
            (
                all(-PPM < item.move_ppm <= MOVE_PPM_MAX for item in self.scenarios),
                "price moves are above -100 % and at most 500 %",
            ),
            (all(item.shock <= max(Shock) for item in self.scenarios), "a shock is one of those named"),
            (
                all(0 < item.weight_ppm <= 10 * PPM for item in self.scenarios),
                "weights are above 0 and at most 10",
            ),
            (self._skew_is_last(), "skew scenarios come last and do not move the price"),
            (shock.up_ppm <= 5 * PPM and shock.down_ppm <= 5 * PPM, "volatility shocks are at most 500 %"),
            (0 < shock.down_floor_ppm <= PPM, "the lowest volatility multiplier is above 0 and at most 1"),
            (shock.up_volatility_floor_ppm <= 5 * PPM, "the shocked volatility floor is at most 500 %"),
            (max(shock.short_exponent_ppm, shock.long_exponent_ppm) <= PPM, "exponents are at most 1"),
            (1 <= shock.reference_days <= 3650, "the reference term is 1 to 3650 days"),
            (max(skew.cap_ppm, skew.cap_slope_ppm) < PPM, "the skew cap is below 1"),
            (max(skew.width_ppm, skew.width_slope_ppm) <= 10 * PPM, "the skew width is at most 10"),
            (0 < skew.width_minimum_ppm <= PPM, "the least skew width is above 0 and at most 1"),
            (
                0 < discount.asset_ppm <= PPM <= discount.liability_ppm <= 2 * PPM,
                "asset <= 1 <= liability <= 2",
            ),
            (discount.rate_ppm <= PPM, "the discount rate is at most 100 % a year"),
            (0 < self.forward.move_ppm <= PPM // 4, "the forward move is above 0 and at most 25 %"),
            (max(self.forward.base_ppm, self.forward.time_ppm) <= 10 * PPM, "forward factors are at most 10"),
            (max(rates) <= PPM, "contingencies are at most 100 %"),
            (
                0 < self.mm_factor_ppm <= self.im_factor_ppm <= 10 * PPM,
                "0 < maintenance <= initial factor <= 10",
            ),
        )

    def _skew_is_last(self) -> bool:
        regular = self.scenarios[: len(self.scenarios) - self.skew_count]
        return all(item.shock not in SKEW_SHOCKS for item in regular) and all(
            item.move_ppm == 0 for item in self.scenarios if item.shock in SKEW_SHOCKS
        )

    @property
    def skew_count(self) -> int:
        """How many scenarios, the last ones, are of skew."""
        return sum(item.shock in SKEW_SHOCKS for item in self.scenarios)


TAIL_MOVES_PPM = (-660_000, -330_000, 500_000, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000)


def default_scenarios(step_ppm: int) -> tuple[Scenario, ...]:
    """Nine moves of four steps each way times (up, none, down), the tails with vol up, LINEAR, ABSOLUTE.

    A tail counts like the edge of the grid: its weight is the grid's range over its move, rounded down.
    """
    moves = tuple(step_ppm * step for step in range(-4, 5))
    shocks = (Shock.UP, Shock.NONE, Shock.DOWN)
    grid = tuple(Scenario(move, shock, PPM) for move in moves for shock in shocks)
    tails = tuple(Scenario(move, Shock.UP, 4 * step_ppm * PPM // abs(move)) for move in TAIL_MOVES_PPM)
    return grid + tails + tuple(Scenario(0, shock, PPM) for shock in SKEW_SHOCKS)


def default_margin_parameters(underlying: Underlying) -> MarginParameters:
    """Genesis defaults of market.md section 3."""
    is_btc = underlying == Underlying.BTC
    step_ppm = 40_000 if is_btc else 45_000
    return MarginParameters(
        scenarios=default_scenarios(step_ppm),
        volatility=VolatilityShock(
            up_ppm=650_000 if is_btc else 500_000,
            down_ppm=400_000 if is_btc else 300_000,
            down_floor_ppm=250_000,
            up_volatility_floor_ppm=400_000,
            short_exponent_ppm=300_000,
            long_exponent_ppm=130_000,
            reference_days=30,
        ),
        skew=SkewShock(
            cap_ppm=250_000,
            cap_slope_ppm=100_000,
            width_ppm=600_000,
            width_slope_ppm=100_000,
            width_multiplier=4,
            width_minimum_ppm=10_000,
        ),
        discount=ExpiryDiscount(asset_ppm=980_000, liability_ppm=1_020_000, rate_ppm=100_000),
        forward=ForwardShock(move_ppm=step_ppm, base_ppm=500_000, time_ppm=2_000_000),
        contingencies=Contingencies(
            perpetual_mm_ppm=15_000,
            perpetual_im_ppm=5_000,
            short_option_mm_ppm=3_000,
            short_option_im_ppm=2_000,
            confidence_threshold_ppm=550_000,
        ),
        im_factor_ppm=1_000_000,
        mm_factor_ppm=800_000,
    )
