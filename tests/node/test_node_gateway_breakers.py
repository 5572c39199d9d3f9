"""What the gateway tells of phases and drift."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ledger.breakers.state import (
    CALM,
    KEY_RESTART,
    NO_RESTART,
    Cause,
    Colour,
    Drift,
    Drifts,
    Phase,
    drift_key,
    phase_key,
)
from primitives.amounts import PPM, USD
from primitives.codec import encode
from tests.node.running_gateway import TIME_NS, running

UNTIL_NS = TIME_NS + 60 * 10**9


async def test_everything_is_open_before_the_first_judged_epoch(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        answer = (await it.http.get("/v1/breakers")).json()
        assert answer == {
            "judged_epochs": 0,
            "judged_ns": "0",
            "phases": [
                {
                    "underlying": "BTC",
                    "phase": "open",
                    "causes": [],
                    "until_ns": "0",
                    "moved_ppm": 0,
                    "widening_ppm": PPM,
                }
            ],
            "drifts": [],
        }


async def test_a_phase_is_told_with_its_causes_and_a_drift_with_its_colour(tmp_path: Path) -> None:
    drift = Drift(0, 100_100 * USD, 100 * USD, 20 * USD, Colour.AMBER, 0, 0, False, (20 * USD,))
    leaf = replace(
        CALM,
        phase=Phase.AUCTION,
        causes=int(Cause.PRICE),
        auction_until_ns=UNTIL_NS,
        auction_causes=int(Cause.PRICE),
    )
    leaves = [
        (KEY_RESTART, encode(replace(NO_RESTART, judged_epochs=3, judged_ns=TIME_NS))),
        (phase_key(0), encode(leaf)),
        (drift_key(0, 0), encode(Drifts((drift,)))),
    ]
    async with running(tmp_path / "h") as it:
        it.become_final((), leaves)
        answer = (await it.http.get("/v1/breakers")).json()
        assert (answer["judged_epochs"], answer["judged_ns"]) == (3, str(TIME_NS))
        (phase,) = answer["phases"]
        assert (phase["phase"], phase["causes"], phase["until_ns"]) == ("auction", ["price"], str(UNTIL_NS))
        assert answer["drifts"] == [
            {
                "name": "BTC-PERPETUAL",
                "instrument": 0,
                "colour": "amber",
                "external_uusd": str(100_100 * USD),
                "epsilon_uusd": str(100 * USD),
                "half_spread_uusd": str(20 * USD),
                "red_epochs": 0,
                "green_epochs": 0,
                "is_paused": False,
            }
        ]
