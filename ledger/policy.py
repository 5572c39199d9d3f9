"""Every number that a vote of the validators can change: its name, where it stands, its hard bounds and unit. Pure.

A name is a section, then the way to the number in the section's parameters: `auction.fee_ppm`,
`margin.btc.scenarios.4.move_ppm`, `fees.btc.taker_ppm`, `monitors.eth.0.move_ppm`. What no row names stays as
genesis has it: the shape of everything (how many scenarios, monitors, gap rules and exceptions of fees there are, and
which volatility shock a scenario has), what stored data are counted in (epochs, settlement buckets, ticks, windows
and memories), what clients and light clients take from genesis (nonce window, unbonding, age of evidence), and sums
that only began something (fund, vault, stakes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from ledger.breakers.state import KEY_BREAKERS
from ledger.genesis import LedgerGenesis
from ledger.instruments import Underlying
from ledger.settlement.state import KEY_PROTECTION, KEY_PROTOCOL, get_protocol
from ledger.staking.state import KEY_STAKING_PARAMETERS, get_staking
from ledger.state_keys import KEY_PARAMETERS, underlying_key
from ledger.trading.state import KEY_TRADING
from primitives.amounts import NS, PPM, USD

if TYPE_CHECKING:
    from ledger.state import State

Step = str | int
UNITS = ("ppm", "ns", "uusd")
DAY_NS = 86_400 * NS


class Bounds(NamedTuple):
    """The hard minimum and maximum of one number, both allowed."""

    low: int
    high: int


class Number(NamedTuple):
    """One number: the key of the leaf that holds it, and the fields and places that lead to it there."""

    name: str
    key: bytes
    path: tuple[Step, ...]
    bounds: Bounds

    @property
    def unit(self) -> str:
        """What it counts, as its name says: ppm, ns, uusd, else plain "count"."""
        words = self.name.rsplit(".", 1)[-1].split("_")
        return next((unit for unit in UNITS if unit in words), "count")


class Section(NamedTuple):
    """Where a section's parameters stand, and rows of (fields to the number, lowest, highest)."""

    key: bytes | None
    """None: in the leaf of each underlying."""
    path: tuple[Step, ...]
    rows: Mapping[str, tuple[int, int]]


_LEDGER = {
    "confidence_decay_ppm": (10_000, 500_000),
    "forward_limit_ppm": (1_000, 200_000),
    "liquidation_close_ppm": (10_000, PPM),
    "liquidation_delta_uusd": (1_000 * USD, 10_000_000 * USD),
    "maker_fee_ppm": (0, 10_000),
    "open_orders_max": (10, 1_000),
    "option_fee_cap_ppm": (0, PPM),
    "oracle_epoch_ns": (NS, 3_600 * NS),
    "oracle_stale_ns": (NS, 3_600 * NS),
    "orders_per_book_max": (50, 10_000),
    "positions_max": (5, 500),
    "price_band_ppm": (10_000, PPM),
    "settlement_carry_buckets_max": (0, 45),
    "taker_fee_ppm": (0, 10_000),
    "theta_limit_ppm": (10_000, PPM),
}
_MARGIN = {
    "contingencies.confidence_threshold_ppm": (0, PPM),
    "contingencies.perpetual_im_ppm": (0, 200_000),
    "contingencies.perpetual_mm_ppm": (0, 200_000),
    "contingencies.short_option_im_ppm": (0, 200_000),
    "contingencies.short_option_mm_ppm": (0, 200_000),
    "discount.asset_ppm": (500_000, PPM),
    "discount.liability_ppm": (PPM, 2 * PPM),
    "discount.rate_ppm": (0, PPM),
    "forward.base_ppm": (0, 2 * PPM),
    "forward.move_ppm": (1_000, 150_000),
    "forward.time_ppm": (0, 4 * PPM),
    "im_factor_ppm": (500_000, 5 * PPM),
    "mm_factor_ppm": (400_000, 5 * PPM),
    "scenarios.*.move_ppm": (-900_000, 5 * PPM),
    "scenarios.*.weight_ppm": (1_000, 2 * PPM),
    "skew.cap_ppm": (0, 900_000),
    "skew.cap_slope_ppm": (0, 900_000),
    "skew.width_minimum_ppm": (1_000, PPM),
    "skew.width_multiplier": (1, 100),
    "skew.width_ppm": (0, 10 * PPM),
    "skew.width_slope_ppm": (0, 10 * PPM),
    "volatility.down_floor_ppm": (10_000, PPM),
    "volatility.down_ppm": (0, 5 * PPM),
    "volatility.long_exponent_ppm": (0, PPM),
    "volatility.reference_days": (1, 3_650),
    "volatility.short_exponent_ppm": (0, PPM),
    "volatility.up_ppm": (0, 5 * PPM),
    "volatility.up_volatility_floor_ppm": (0, 5 * PPM),
}
_STAKING = {
    "commission_ppm_max": (0, PPM),
    "commission_rise_ppm_max": (0, PPM),
    "fund_fee_share_ppm": (0, PPM),
    "jail_ns": (NS, 30 * DAY_NS),
    "late_from_ppm": (100_000, 5 * PPM),
    "late_led_min": (1, 10_000),
    "late_share_ppm_max": (10_000, PPM),
    "min_delegation_uusd": (USD, 100_000 * USD),
    "min_stake_uusd": (100 * USD, 1_000_000_000 * USD),
    "missed_blocks_max": (1, 10_000_000),
    "oracle_band_ppm": (100, 200_000),
    "outside_reports_max": (1, 10_000_000),
    "slash_base_ppm": (0, PPM),
    "slash_correlation_factor": (0, 10),
    "validators_max": (4, 256),
    "validators_min": (0, 256),
    "weight_max": (1, 1_000_000),
    "weight_unit_uusd": (USD, 1_000_000 * USD),
}
_TRADING = {
    "request_legs_max": (1, 16),
    "request_lifetime_ns_max": (NS, DAY_NS),
    "request_lots_max": (1, PPM),
    "request_quotes_max": (1, 64),
    "requests_max": (0, 1_000),
    "requests_total_max": (0, 1_000),
    "session_keys_max": (0, 32),
    "triggers_max": (0, 100),
}
_STANDARD = {
    "perpetual_im_ppm": (10_000, PPM),
    "perpetual_mm_ppm": (5_000, PPM),
    "short_im_floor_ppm": (10_000, PPM),
    "short_im_ppm": (10_000, PPM),
    "short_mm_ppm": (5_000, PPM),
}
_FEES = {"*.maker_ppm": (0, 10_000), "*.taker_base_uusd": (0, 100 * USD), "*.taker_ppm": (0, 10_000)}
_AUCTION = {
    "buffer_ppm": (0, 500_000),
    "discount_fast_ppm": (50_000, 500_000),
    "discount_start_ppm": (0, 200_000),
    "empty_book_patience_ns": (0, 600 * NS),
    "fast_ns": (10 * NS, DAY_NS),
    "fee_ppm": (0, 300_000),
    "insolvent_ns": (10 * NS, DAY_NS),
    "patience_ns": (NS, 3_600 * NS),
    "slow_ns": (20 * NS, 7 * DAY_NS),
}
_EXPOSURE = {
    "critical_from_ppm": (0, 10 * PPM),
    "delta_limit_ppm": (0, PPM),
    "im_extra_max_ppm": (0, PPM),
    "rise_from_ppm": (100_000, 10 * PPM),
    "step_ns": (60 * NS, DAY_NS),
    "step_ppm": (0, 200_000),
    "vega_limit_ppm": (0, PPM),
}
_FUNDING = {
    "gap_ns_max": (NS, 3_600 * NS),
    "period_ns": (3_600 * NS, DAY_NS),
    "premium_max_ppm": (0, 20_000),
}
_LISTING = {
    "daily": (0, 8),
    "deviations": (1, 6),
    "instruments_max": (10, 4_096),
    "keep_settled_ns": (0, 60 * DAY_NS),
    "monthly": (0, 12),
    "quarterly": (0, 4),
    "strikes_max": (0, 60),
    "weekly": (0, 8),
}
_BREAKERS = {"band_spreads": (0, 20), "fresh_epochs": (1, 20), "post_only_ns": (0, 3_600 * NS)}
_DRIFT = {
    "amber_spreads": (1, 50),
    "auction_ns": (0, 3_600 * NS),
    "green_epochs": (1, 50),
    "green_spreads": (1, 20),
    "index_amber_ppm": (500, 50_000),
    "index_green_ppm": (100, 20_000),
    "margin_ppm": (0, PPM),
    "option_red_ppm": (500, 50_000),
    "quotes_max": (1, 256),
    "red_epochs": (1, 50),
    "red_options_ppm": (50_000, PPM),
    "ticks_min": (1, 100),
}
_LATENCY = {"floor_ppm": (10, 20_000), "pause_spreads": (0, 100)}
_GAPS = {"*.auction_ns": (0, DAY_NS), "*.gap_ns": (NS, DAY_NS)}
_MONITORS = {"*.monitors.*.auction_ns": (0, DAY_NS), "*.monitors.*.move_ppm": (1_000, PPM)}

SECTIONS: dict[str, Section] = {
    "auction": Section(KEY_PROTECTION, ("auction",), _AUCTION),
    "breakers": Section(KEY_BREAKERS, (), _BREAKERS),
    "drift": Section(KEY_BREAKERS, ("drift",), _DRIFT),
    "exposure": Section(KEY_PROTECTION, ("exposure",), _EXPOSURE),
    "fees": Section(KEY_TRADING, ("fees",), _FEES),
    "funding": Section(KEY_PROTECTION, ("funding",), _FUNDING),
    "gaps": Section(KEY_BREAKERS, ("gaps",), _GAPS),
    "latency": Section(KEY_BREAKERS, ("latency",), _LATENCY),
    "ledger": Section(KEY_PARAMETERS, (), _LEDGER),
    "listing": Section(KEY_PROTECTION, ("listing",), _LISTING),
    "margin": Section(None, ("margin",), _MARGIN),
    "monitors": Section(KEY_BREAKERS, ("monitors",), _MONITORS),
    "protection": Section(KEY_PROTECTION, (), {"governance_delay_ns": (3_600 * NS, 60 * DAY_NS)}),
    "protocol": Section(KEY_PROTOCOL, (), {"version": (1, 2**16 - 1)}),
    "staking": Section(KEY_STAKING_PARAMETERS, (), _STAKING),
    "standard": Section(KEY_TRADING, ("standard",), _STANDARD),
    "trading": Section(KEY_TRADING, (), _TRADING),
}


def numbers_of(genesis: LedgerGenesis) -> dict[str, Number]:
    """Every number of a chain by name, in order of name; their places follow from genesis, for shapes never change."""
    found = {item.name: item for name in SECTIONS for item in _numbers(genesis, name, SECTIONS[name])}
    return dict(sorted(found.items()))


def genesis_parameters(genesis: LedgerGenesis) -> dict[bytes, Any]:
    """What genesis has under every key that a number can be in."""
    return {
        KEY_PARAMETERS: genesis.parameters,
        KEY_PROTECTION: genesis.protection,
        KEY_PROTOCOL: genesis.protocol,
        KEY_BREAKERS: genesis.breakers,
        KEY_TRADING: genesis.trading,
        KEY_STAKING_PARAMETERS: genesis.staking,
        **{underlying_key(item.underlying): item for item in genesis.underlyings},
    }


def get_numbers(state: State) -> dict[str, Number]:
    """`numbers_of` the state's genesis, kept."""
    found: dict[str, Number] | None = state.caches.get("numbers")
    if found is None:
        found = state.caches["numbers"] = numbers_of(state.genesis)
    return found


def parameters_at(state: State, key: bytes) -> Any:
    """The parameters that hold a number now."""
    if key == KEY_PROTOCOL:
        return get_protocol(state)
    return get_staking(state) if key == KEY_STAKING_PARAMETERS else state.leaves.values[key]


def _numbers(genesis: LedgerGenesis, section: str, where: Section) -> Iterator[Number]:
    for key, name, start in _leaves(genesis, section, where):
        for row, bounds in where.rows.items():
            for path in _places(start, tuple(row.split("."))):
                yield Number(_name_of(name, start, path), key, (*where.path, *path), Bounds(*bounds))


def _leaves(genesis: LedgerGenesis, section: str, where: Section) -> Iterator[tuple[bytes, str, Any]]:
    """(key, name so far, what genesis has there) of a section: once, or once for each underlying."""
    if where.key is None:
        for item in genesis.underlyings:
            name = f"{section}.{Underlying(item.underlying).name.lower()}"
            yield underlying_key(item.underlying), name, value_at(item, where.path)
        return
    yield where.key, section, value_at(genesis_parameters(genesis)[where.key], where.path)


def _places(start: Any, row: tuple[str, ...]) -> Iterator[tuple[Step, ...]]:
    """A row's fields with every * put in place: each item of the tuple there."""
    if not row:
        yield ()
        return
    steps: list[Step] = list(range(len(start))) if row[0] == "*" else [row[0]]
    for step in steps:
        for rest in _places(value_at(start, (step,)), row[1:]):
            yield (step, *rest)


def _name_of(name: str, start: Any, path: tuple[Step, ...]) -> str:
    """The name as people say it: an underlying's where a place is that underlying's."""
    item = start
    for step in path:
        item = value_at(item, (step,))
        if isinstance(step, int) and hasattr(item, "underlying"):
            name += f".{Underlying(item.underlying).name.lower()}"
        elif step != "monitors":
            name += f".{step}"
    return name


def value_at(parameters: Any, path: tuple[Step, ...]) -> Any:
    """What stands at the end of a path."""
    for step in path:
        parameters = parameters[step] if isinstance(step, int) else getattr(parameters, step)
    return parameters


def with_values(parameters: Any, values: Mapping[tuple[Step, ...], int]) -> Any:
    """The parameters with other numbers at these paths, all put in place at once.

    Raises:
        ProtocolViolation: a relation that the parameters check when they are made.
    """
    if () in values:
        return values[()]
    below: dict[Step, dict[tuple[Step, ...], int]] = {}
    for (step, *rest), value in values.items():
        below.setdefault(step, {})[tuple(rest)] = value
    changed = {step: with_values(value_at(parameters, (step,)), inner) for step, inner in below.items()}
    if isinstance(parameters, tuple):
        return tuple(changed.get(place, item) for place, item in enumerate(parameters))
    return replace(parameters, **{str(step): value for step, value in changed.items()})
