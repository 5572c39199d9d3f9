"""What a run's report says of the chain's own epsilon."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ledger.breakers.state import KEY_RESTART, NO_RESTART, Colour, Drift, Drifts, Restart, drift_key
from ledger.oracle import UnderlyingOracle
from ledger.state_keys import oracle_key
from node.storage.block_store import BlockStore, FinalBlock
from primitives.amounts import USD
from primitives.codec import encode
from testnet.drift import DriftLog
from testnet.report import DriftFacts, Facts, PhaseFact, report_of
from tests.node.network_of_nodes import INSTRUMENTS, TIME_NS

PERPETUAL = INSTRUMENTS[0]


def a_drift(epsilon_usd: int, colour: Colour) -> Drift:
    return Drift(PERPETUAL.id, 100_000 * USD, epsilon_usd * USD, 20 * USD, colour, 0, 0, False, (20 * USD,))


def judged(store: BlockStore, height: int, restart: Restart, drift: Drift) -> None:
    leaves = [
        (KEY_RESTART, encode(restart)),
        (oracle_key(0), encode(UnderlyingOracle(100_000 * USD, TIME_NS, ()))),
        (drift_key(0, 0), encode(Drifts((drift,)))),
    ]
    store.commit(FinalBlock(height, bytes([height]) * 32, b"", b"", b"", leaves=leaves))


def test_each_judged_epoch_is_counted_once(tmp_path: Path) -> None:
    store, log = BlockStore.open(tmp_path / "blocks"), DriftLog({item.id: item for item in INSTRUMENTS})
    log.look(store)
    assert log.facts == DriftFacts()
    judged(store, 0, replace(NO_RESTART, judged_epochs=1), a_drift(30, Colour.GREEN))
    log.look(store)
    log.look(store)
    judged(store, 1, replace(NO_RESTART, judged_epochs=2), a_drift(150, Colour.AMBER))
    log.look(store)
    assert log.facts == DriftFacts(2, {PERPETUAL.name: [(3.0, 2.0), (15.0, 2.0)]}, log.facts.colours)
    assert dict(log.facts.colours) == {"green": 1, "amber": 1}
    store.close()


def test_the_report_tells_epsilon_against_half_spreads_and_every_phase() -> None:
    drift = DriftFacts(2, {"BTC-PERPETUAL": [(3.0, 2.0), (15.0, 2.0)]})
    drift.colours.update(green=1, amber=1)
    phases = [PhaseFact(7, "BTC", "auction", ("price",))]
    report = report_of(Facts(validators=4, seconds=1.0, drift=drift, phases=phases))
    figures = {"epsilon_bp": {"p50": 15.0, "p99": 15.0}, "half_spread_bp": {"p50": 2.0, "p99": 2.0}}
    assert report["drift"] == {
        "epochs": 2,
        "judged": {"amber": 1, "green": 1},
        "within_spread_share": 0.5,
        **figures,
        "instruments": {"BTC-PERPETUAL": figures},
    }
    assert report["phases"] == [{"height": 7, "underlying": "BTC", "phase": "auction", "causes": ("price",)}]
