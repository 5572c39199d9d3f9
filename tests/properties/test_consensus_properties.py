"""Random clusters: agreement, one signature per rule, journal before wire, and finality after healing.

A failing seed is the bug report: `run_seed(seed, count, traitors=...)`.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.certificates import is_justified
from consensus.messages import Block
from primitives.codec import decode_own, encode
from tests.consensus.builders import EPOCH, a_block, a_child, a_notarization, a_timeout, name_of
from tests.consensus.campaign import run_power_loss, run_seed


def several(seeds: range) -> list[object]:
    """The first quarter of the seeds always, the rest in the slow suite."""
    quick = len(seeds) // 4
    return [
        seed if at < quick else pytest.param(seed, marks=pytest.mark.slow) for at, seed in enumerate(seeds)
    ]


@pytest.mark.parametrize("seed", several(range(200)))
def test_honest_clusters_agree_and_recover(seed: int) -> None:
    run_seed(seed, (1, 4, 4, 7)[seed % 4])


@pytest.mark.parametrize("seed", several(range(400)))
def test_clusters_with_traitors_agree_and_recover(seed: int) -> None:
    count, traitors = ((4, 1), (7, 2), (4, 1), (5, 1))[seed % 4]
    run_seed(seed, count, traitors=traitors)


@pytest.mark.parametrize("seed", several(range(160)))
def test_certificates_survive_a_power_loss_of_everybody(seed: int) -> None:
    run_power_loss(seed)


FIRST = a_block(1)
BLOCKS = [
    FIRST,
    a_child(FIRST),
    a_block(4, FIRST, a_notarization(1, name_of(FIRST)), (a_timeout(2), a_timeout(3))),
]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(BLOCKS), st.data())
def test_justified_is_a_pure_function_of_the_bytes(block: Block, data: st.DataObject) -> None:
    """Any change of one byte that still decodes gets one verdict, equal for equal bytes, and never an exception."""
    raw = bytearray(encode(block))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    try:
        changed = decode_own(Block, bytes(raw))
        again = decode_own(Block, bytes(raw))
    except (msgspec.MsgspecError, ValueError):
        return
    assert is_justified(changed, EPOCH) == is_justified(again, EPOCH)
