"""Whole clusters of real cores: what they agree on, under which faults."""

from __future__ import annotations

import pytest
from tests.consensus.cluster import Cluster, steady_link

from consensus.messages import VoteKind


@pytest.mark.parametrize("count", [1, 4, 7])
def test_when_all_answer_every_block_is_final_by_the_fast_path(count: int) -> None:
    cluster = Cluster(count, link=steady_link)
    cluster.run(3_000)
    assert cluster.live_height() >= 40
    assert set(cluster.observed.proofs.values()) == {VoteKind.NOTARIZE}
    assert cluster.observed.evidence == []
