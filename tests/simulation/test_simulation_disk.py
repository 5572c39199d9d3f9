"""The simulated disk loses what a real one may lose, and nothing that was synced."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.storage.journal import Journal
from primitives.errors import OperatorError
from testnet.sim.files import PowerCut, SimulatedDisk
from testnet.sim.streams import stream

HERE = Path("journal")


def a_disk(seed: int = 1, torn: bool = True) -> SimulatedDisk:
    return SimulatedDisk(stream(seed, "disk"), torn)


@pytest.mark.parametrize("seed", range(40))
def test_a_power_cut_inside_a_sync_never_costs_a_synced_record(seed: int) -> None:
    disk = a_disk(seed)
    journal, _ = Journal.open(HERE, disk)
    journal.append([b"first" * 300])
    disk.cut_at_sync = True
    with pytest.raises(PowerCut):
        journal.append([b"second" * 300])
    disk.crash()
    _, records = Journal.open(HERE, disk)
    assert records in ([b"first" * 300], [b"first" * 300, b"second" * 300])


def test_every_way_to_tear_is_met_sometimes() -> None:
    outcomes = set()
    for seed in range(60):
        disk = a_disk(seed)
        journal, _ = Journal.open(HERE, disk)
        disk.cut_at_sync = True
        with pytest.raises(PowerCut):
            journal.append([b"record" * 300])
        disk.crash()
        again, records = Journal.open(HERE, disk)
        outcomes.add((len(records), again.dropped_bytes > 0))
    assert outcomes == {(0, False), (0, True), (1, False)}


def test_after_a_failed_sync_the_write_is_lost_and_the_journal_is_closed_for_good() -> None:
    disk = a_disk()
    journal, _ = Journal.open(HERE, disk)
    disk.fail_sync = True
    with pytest.raises(OperatorError, match="Input/output error"):
        journal.append([b"vote"])
    assert Journal.open(HERE, disk)[1] == []


def test_a_full_disk_takes_half_a_record_and_says_so() -> None:
    disk = a_disk()
    journal, _ = Journal.open(HERE, disk)
    disk.is_full = True
    with pytest.raises(OperatorError, match="No space left"):
        journal.append([b"vote" * 100])
    disk.is_full = False
    again, records = Journal.open(HERE, disk)
    assert records == [] and again.dropped_bytes > 0


def test_a_flipped_bit_before_the_end_is_damage() -> None:
    disk = a_disk()
    journal, _ = Journal.open(HERE, disk)
    for _ in range(5):
        journal.append([b"vote" * 100])
    disk.wipe(3)
    with pytest.raises(OperatorError, match="corrupt"):
        Journal.open(HERE, disk)
