"""R2: a leader's block on the highest parent that certificates allow, at most once per view. Pure."""

from __future__ import annotations

from consensus.admission import CERTIFICATE_REQUEST_VIEWS_MAX
from consensus.block_tree import Node, Standing
from consensus.effects import Broadcast, BuildPayload, OwnProposal
from consensus.inputs import PayloadBuilt
from consensus.messages import (
    SKIPS_MAX,
    Block,
    Certificate,
    CertificateRequest,
    Evidence,
    Flag,
    Header,
    Justification,
    Proposal,
    TimeoutCertificate,
    evidence_root,
    hash_of,
    justification_root,
    transaction_root,
)
from consensus.state import ConsensusState
from primitives.identifiers import NO_BLOCK

SUFFIX_PAYLOAD: tuple[tuple[bytes, ...], int, bytes, tuple[Evidence, ...]] = ((), 0, bytes(32), ())
"""Transactions, time, parent state root and evidence of a suffix block."""


def may_propose(state: ConsensusState) -> bool:
    """Whether we lead the view and have neither proposed nor given up. NO_BLOCK stands for any block."""
    return (
        state.is_leader()
        and state.view not in state.proposals
        and state.own.may_notarize(state.view, NO_BLOCK)
    )


def propose(state: ConsensusState) -> None:
    """Ask the driver for a payload on the best parent, as soon as there is one."""
    if not may_propose(state) or state.building is not None or state.targets or state.is_stopped:
        return
    parent = best_parent(state)
    if parent is not None:
        state.building = parent.hash
        state.offered = ()
        if state.epoch.is_suffix(parent.height + 1):
            on_payload_built(state, PayloadBuilt(parent.hash, state.view, *SUFFIX_PAYLOAD))
            return
        state.offered = state.pool.pick(_reported_below(state, parent))
        state.out.add(BuildPayload(parent.hash, state.view, parent.height + 1, state.offered))


def _reported_below(state: ConsensusState, parent: Node) -> list[Evidence]:
    """The evidence in the blocks that are not final yet and that we build on."""
    path = state.tree.path(parent.hash)
    return [one for node in path for one in node.block.evidence] if isinstance(path, list) else []


def best_parent(state: ConsensusState) -> Node | None:
    """The acceptable block of the highest view from which every view up to ours is skipped.

    A certified block whose body is missing is asked for; meanwhile a lower one will do if its view is
    skipped.
    """
    root = state.tree.root
    for view in range(state.view - 1, max(root.view, state.view - 1 - SKIPS_MAX) - 1, -1):
        if view == 0:
            return root
        for block, _ in state.certificates.parents(view):
            node = state.tree.get(block)
            if node is not None and node.standing is Standing.ACCEPTABLE:
                return node
            if node is None:
                state.fetch(block)
        if state.certificates.of(view).skip is None:
            return None
    return None


def request_certificates(state: ConsensusState) -> None:
    """Ask everybody for the views without a certificate between the final tip and ours: we cannot lead yet.

    While catch-up has a target there is no point: finality will overtake most of them.
    """
    if state.targets:
        return
    known = set(state.certificates.views())
    missing = [view for view in range(max(1, state.tree.root.view), state.view) if view not in known]
    if missing:
        last = min(missing[-1], missing[0] + CERTIFICATE_REQUEST_VIEWS_MAX - 1)
        state.out.add(Broadcast(CertificateRequest(missing[0], last)))


def on_payload_built(state: ConsensusState, built: PayloadBuilt) -> None:
    """Make, journal and send our block with the best certificate known by now; count our own vote."""
    if built.view != state.view or built.parent != state.building:
        return
    state.building = None
    evidence = state.offered if built.evidence is None else built.evidence
    for refused in set(state.offered).difference(evidence):
        state.pool.settle(refused)
    parent = state.tree.get(built.parent)
    justification = _justification(state, parent) if parent is not None else None
    if parent is None or justification is None or not may_propose(state):
        propose(state)
        return
    block = _block(state, parent, justification, built, evidence)
    block_hash = hash_of(block.header)
    signed = state.own.notarize(state.view, block_hash)
    if signed is None:
        state.building = built.parent  # Not asked for again: the signer may have signed this one.
        return
    node = state.hold(block, block_hash)
    node.standing = Standing.ACCEPTABLE
    state.proposals[state.view] = block
    vote = state.cast(signed, before=(OwnProposal(block),))
    state.out.add(Broadcast(Proposal(block, vote)))


def _justification(state: ConsensusState, parent: Node) -> Justification | None:
    """Why the parent may be built on, from what we know now; None if it was overtaken."""
    certificate: Certificate | None = None
    if parent.view > 0:
        certificate = dict(state.certificates.parents(parent.view)).get(parent.hash)
        if certificate is None:
            return None
    skips: list[TimeoutCertificate] = []
    for view in range(parent.view + 1, state.view):
        skip = state.certificates.of(view).skip
        if skip is None:
            return None
        skips.append(skip)
    return Justification(certificate, tuple(skips))


def _block(
    state: ConsensusState,
    parent: Node,
    justification: Justification,
    built: PayloadBuilt,
    evidence: tuple[Evidence, ...],
) -> Block:
    header = Header(
        version=state.epoch.version,
        chain_id=state.epoch.chain_id,
        epoch=state.epoch.number,
        view=state.view,
        height=parent.height + 1,
        parent_hash=parent.hash,
        parent_view=parent.view,
        proposer=state.leader_of(state.view),
        time_ns=built.time_ns,
        transaction_root=transaction_root(built.transactions),
        parent_state_root=built.parent_state_root,
        next_set_hash=state.epoch.next_set.set_hash(),
        justification_root=justification_root(justification),
        evidence_root=evidence_root(evidence),
        flags=Flag.SUFFIX if state.epoch.is_suffix(parent.height + 1) else 0,
    )
    return Block(header, built.transactions, evidence, justification)
