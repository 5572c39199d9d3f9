"""R7, and the delayed half of R1: repeat what may have been lost, ask again for what is missing. Pure."""

from __future__ import annotations

from consensus import finality, proposing
from consensus.effects import Broadcast, Send, SetTimer
from consensus.inputs import TimerKind
from consensus.messages import CertificateMessage, EvidenceMessage, Proposal, StatusRequest, VoteKind, hash_of
from consensus.state import ConsensusState
from primitives.identifiers import BlockHash

EVIDENCE_PERIOD_MS = 10_000
"""How often offences that are not on chain yet are told again."""
EVIDENCE_TOLD_MAX = 16
"""Pieces told at a time, the oldest first; the others follow when these are on chain."""
RESENT_VIEWS = 8
"""How many views back votes are repeated."""


def forward(state: ConsensusState) -> None:
    """R1 after T_fwd: the admitting certificate to every peer that has shown no sign of having it."""
    if state.admitted is not None:
        for peer in state.others():
            if state.peer_view[peer] <= state.admitted.view:
                state.out.add(Send(peer, CertificateMessage(state.admitted)))


def on_retry(state: ConsensusState) -> None:
    """Every T_retry: repeat what may have been lost, ask again for what is missing."""
    state.fetcher.retry()
    stuck = state.view == state.retried_view
    resend(state, stuck)
    if stuck and state.fetcher.has_peers():
        forward(state)
        if proposing.may_propose(state) and state.building is None:
            proposing.request_certificates(state)
        request = StatusRequest(state.view, state.tree.root.height)
        state.out.add(Send(state.fetcher.next_peer(), request))
    fetch_missing(state)
    state.retried_view = state.view
    state.out.add(SetTimer(TimerKind.RETRY, state.view, state.pacemaker.retry_ms()))


def resend(state: ConsensusState, stuck: bool) -> None:
    """Our votes of recent views that are not final, and of the current view when `stuck`, with our proposal."""
    last = state.view if stuck else state.retried_view - 1
    for view in range(max(state.tree.root.view, state.view - RESENT_VIEWS) + 1, last + 1):
        state.out.votes += state.own.votes_in(view)
    block = state.proposals.get(state.view)
    if stuck and block is not None and not state.own.halted:
        # A crash inside the write may have kept the block and lost the vote: then it was never sent.
        votes = [vote for vote in state.own.votes_in(state.view) if vote.subject == hash_of(block.header)]
        state.out.effects += [Broadcast(Proposal(block, v)) for v in votes if v.kind == VoteKind.NOTARIZE]


def fetch_missing(state: ConsensusState) -> None:
    """Blocks that a proof, a certificate, a vote or a child names, and that we do not hold."""
    finality.advance(state)
    if state.targets:
        return
    for view in range(max(state.tree.root.view, state.view - RESENT_VIEWS) + 1, state.view + 1):
        named = [block for block, _ in state.certificates.parents(view)]
        named += [BlockHash(block) for block in state.votes.notarized_hashes(view)]
        for block in dict.fromkeys(named):
            if state.tree.get(block) is None:
                state.fetch(block)
    for block in state.tree.orphans():
        state.fetch(block)


def gossip_evidence(state: ConsensusState) -> None:
    """Tell everybody, at the start and every 10 s, of offences that are not on chain yet."""
    waiting = state.pool.open()[:EVIDENCE_TOLD_MAX]
    if waiting and state.fetcher.has_peers():
        state.out.effects += [Broadcast(EvidenceMessage(one)) for one in waiting]
        state.out.add(SetTimer(TimerKind.EVIDENCE, state.view, EVIDENCE_PERIOD_MS))
