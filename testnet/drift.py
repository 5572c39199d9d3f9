"""The chain's own epsilon over a run: its drift leaves, once in each judged epoch. Reads a validator's store."""

from __future__ import annotations

from collections.abc import Mapping

from ledger.breakers.state import KEY_RESTART, Colour, Drift, Drifts, Restart
from ledger.instruments import Instrument
from ledger.oracle import UnderlyingOracle
from ledger.state_keys import oracle_key
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from testnet.report import DriftFacts

BP = 10_000


class DriftLog:
    """What was judged so far, by instrument."""

    def __init__(self, instruments: Mapping[int, Instrument]) -> None:
        """`instruments`: those listed so far, by id; the caller keeps it up to date."""
        self._instruments = instruments
        self._epochs = 0
        self._last: dict[int, Drift] = {}
        self.facts = DriftFacts()

    def look(self, store: BlockStore) -> None:
        """Take over the last epoch, if it is a new one."""
        raw = store.leaf(KEY_RESTART)
        epochs = 0 if raw is None else decode_own(Restart, raw).judged_epochs
        if epochs == self._epochs:
            return
        self._epochs, self.facts.epochs = epochs, self.facts.epochs + 1
        index_uusd = {
            item: decode_own(UnderlyingOracle, leaf).index_uusd
            for item in sorted({one.underlying for one in self._instruments.values()})
            if (leaf := store.leaf(oracle_key(item))) is not None
        }
        for _, leaf in store.leaves(b"yd"):
            for drift in decode_own(Drifts, leaf).drifts:
                self._note(drift, index_uusd)

    def _note(self, drift: Drift, index_uusd: dict[int, int]) -> None:
        instrument = self._instruments.get(drift.instrument)
        if instrument is None or self._last.get(drift.instrument) == drift:
            return
        self._last[drift.instrument] = drift
        scale = BP / index_uusd[instrument.underlying]
        sample = drift.epsilon_uusd * scale, drift.half_spread_uusd * scale
        self.facts.samples.setdefault(instrument.name, []).append(sample)
        self.facts.colours[Colour(drift.colour).name.lower()] += 1
