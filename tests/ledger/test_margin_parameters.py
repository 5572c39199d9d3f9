"""Margin parameters are data with ranges."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from ledger.instruments import Underlying
from ledger.margin.parameters import MarginParameters, Scenario, Shock, default_margin_parameters
from ledger.margin.reasons import MarginReason
from primitives.amounts import PPM
from primitives.codec import decode, encode
from primitives.errors import ProtocolViolation

BTC = default_margin_parameters(Underlying.BTC)


def test_tails_weigh_the_grid_range_over_their_move_in_whole_ppm() -> None:
    assert tuple(item.weight_ppm for item in BTC.scenarios[27:35]) == (
        242_424,
        484_848,
        320_000,
        160_000,
        80_000,
        53_333,
        40_000,
        32_000,
    )


def test_ether_moves_in_steps_of_four_and_a_half_percent() -> None:
    moves = [item.move_ppm for item in default_margin_parameters(Underlying.ETH).scenarios[:27]]
    assert moves == [move for move in range(-180_000, 180_001, 45_000) for _ in range(3)]


def test_parameters_survive_their_wire_form() -> None:
    assert decode(MarginParameters, encode(BTC), bytes_max=1000) == BTC


@pytest.mark.parametrize(
    "change",
    [
        {"scenarios": ()},
        {"scenarios": (Scenario(0, Shock.NONE, PPM), Scenario(0, Shock.NONE, 2))},
        {"scenarios": (Scenario(-PPM, Shock.NONE, PPM),)},
        {"scenarios": (Scenario(5 * PPM + 1, Shock.NONE, PPM),)},
        {"scenarios": (Scenario(0, 5, PPM),)},
        {"scenarios": (Scenario(0, Shock.NONE, 0),)},
        {"scenarios": (Scenario(0, Shock.NONE, 10 * PPM + 1),)},
        {"scenarios": (Scenario(1, Shock.LINEAR, PPM),)},
        {"scenarios": (Scenario(0, Shock.ABSOLUTE, PPM), Scenario(0, Shock.NONE, PPM))},
        {"scenarios": tuple(Scenario(move, Shock.UP, PPM) for move in range(129))},
        {"volatility": replace(BTC.volatility, down_floor_ppm=0)},
        {"skew": replace(BTC.skew, width_minimum_ppm=0)},
        {"discount": replace(BTC.discount, asset_ppm=1_000_001)},
        {"forward": replace(BTC.forward, move_ppm=250_001)},
        {"contingencies": replace(BTC.contingencies, perpetual_mm_ppm=1_000_001)},
        {"mm_factor_ppm": 1_000_001},
    ],
)
def test_a_number_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        MarginParameters(**{name: getattr(BTC, name) for name in BTC.__struct_fields__} | change)
    assert refusal.value.reason == MarginReason.BAD_PARAMETERS
