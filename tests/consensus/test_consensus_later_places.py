"""Peers whose place begins in a later epoch: they may ask and tell, and break nothing."""

from __future__ import annotations

import pytest

from consensus.messages import CertificateMessage, ConsensusMessage, Status, StatusRequest
from tests.consensus.builders import Alone, a_block, a_notarization, name_of

LATER = 9
"""A place that the set of four does not have."""


@pytest.mark.parametrize(
    "message",
    [Status(0, 5, 5, 6), StatusRequest(1, 0), CertificateMessage(a_notarization(1, name_of(a_block(1))))],
    ids=["status", "question", "certificate"],
)
def test_a_peer_of_a_later_place_is_heard_without_harm(message: ConsensusMessage) -> None:
    core = Alone(3)
    core.hear(message, LATER)
    assert not core.core.is_halted
    assert len(core.core.state.peer_view) == 4
