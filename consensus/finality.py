"""R6 and R9: when blocks are final, and what to do if two of them disagree. Pure."""

from __future__ import annotations

from consensus.block_tree import Node, Standing
from consensus.certificates import epoch_proof_of
from consensus.effects import CancelTimer, ClosedEpoch, Conflict, DeliverFinal, EpochClosed, Send, SetTimer
from consensus.inputs import TimerKind
from consensus.messages import Block, EpochClosing, EpochProof, QuorumCertificate, hash_of
from consensus.state import ConsensusState
from primitives.errors import InvariantViolation
from primitives.identifiers import ValidatorIndex

FLOOR_STEP_VIEWS = 256
"""The floor rises in steps, so that it costs no journal write of its own per block."""


def on_proof(state: ConsensusState, proof: QuorumCertificate, hint: ValidatorIndex | None) -> None:
    """R6: a finalization or a heavy notarization. What it proves is delivered as soon as the blocks are here."""
    if proof.view > state.tree.root.view:
        state.targets.prove(proof)
        advance(state, hint)
    elif state.tree.remembers(proof.view) and state.tree.final_at(proof.view) != proof.block:
        _alarm(state, "conflicting_finality", proof, None)


def on_blocks_proved(state: ConsensusState, blocks: tuple[Block, ...], proof: QuorumCertificate) -> None:
    """Deliver a checked range of final blocks, if it goes on from our final tip."""
    root = state.tree.root
    fresh = [block for block in blocks if block.header.height > root.height]
    if state.is_stopped or not fresh or fresh[0].header.epoch != state.epoch.number:
        return
    if fresh[0].header.height > root.height + 1:
        return
    if fresh[0].header.parent_hash != root.hash:
        _alarm(state, "conflicting_finality", proof, None)
        return
    path = [state.hold(block, hash_of(block.header)) for block in fresh]
    if proof.block == path[-1].hash:
        state.certificates.add(proof)
    state.targets.forget({node.hash for node in path})
    _deliver(state, path, proof)
    advance(state)


def on_epoch_proof(state: ConsensusState, proof: EpochProof, hint: ValidatorIndex | None) -> None:
    """A peer's proof (checked) that our epoch is over: close it once the boundary is delivered."""
    if state.boundary_proof is None:
        state.boundary_proof = proof
        if state.tail:
            close_if_proved(state)
        else:
            state.targets.bound(hash_of(proof.headers[0]), proof.certificate)
            advance(state, hint)


def close_if_proved(state: ConsensusState) -> None:
    """The end of the epoch, when its last block is delivered and proved (section 7)."""
    proof = state.boundary_proof
    if not state.tail or proof is None or state.is_stopped:
        return
    if hash_of(proof.headers[0]) != hash_of(state.tail[0].header):
        _alarm(state, "conflicting_finality", proof.certificate, None)
        return
    state.closed = proof
    state.own.closed = True
    state.out.records.append(ClosedEpoch(proof))
    behind = [peer for peer in state.others() if state.peer_view[peer] <= proof.certificate.view]
    state.out.effects += [Send(peer, EpochClosing(proof)) for peer in behind]
    for kind in TimerKind:
        state.out.add(CancelTimer(kind))
    state.out.add(EpochClosed(state.epoch.number, state.boundary_block, proof))


def advance(state: ConsensusState, hint: ValidatorIndex | None = None) -> None:
    """Deliver every proved block that connects to the final tip; ask for the next one missing."""
    while state.targets and not state.is_stopped:
        lowest = state.targets.lowest()
        path = state.tree.path(lowest)
        if isinstance(path, list):
            if state.targets.proof is None:
                raise InvariantViolation("every target has a proof at or above it")
            if path:
                _deliver(state, path, state.targets.proof)
            state.targets.reached()
        elif state.tree.conflicts(lowest):
            _alarm(state, "conflicting_finality", state.targets.proof, None)
        else:
            state.fetch(path, hint)
            return


def _deliver(state: ConsensusState, path: list[Node], proof: QuorumCertificate) -> None:
    if any(node.standing is Standing.UNACCEPTABLE for node in path):
        _alarm(state, "final_block_invalid", proof, None)
        return
    delivered = [node for node in path if not state.epoch.is_suffix(node.height)]
    if delivered:
        state.out.add(DeliverFinal(tuple(node.block for node in delivered), proof))
    for node in path:
        for evidence in node.block.evidence:
            state.pool.settle(evidence)
    final_view = state.tree.root.view
    state.tree.finalize(path, proved=proof.block == path[-1].hash)
    state.tree_changed = True
    _prune(state)
    _end_epoch(state, path, proof)
    if state.closed is None:
        _shorten_waits(state, final_view)


def _shorten_waits(state: ConsensusState, before: int) -> None:
    """A laggard entered its view with the patience of long ago; as soon as it has caught up it waits as others do.

    `before`: the view of the final tip until now. In good time the factor is the same, and no timer is touched.
    """
    pace, view, final_view = state.pacemaker, state.view, state.tree.root.view
    if pace.factor_milli(view, final_view) < pace.factor_milli(view, before):
        state.out.add(SetTimer(TimerKind.PROPOSAL, view, pace.proposal_ms(view, final_view)))
        state.out.add(SetTimer(TimerKind.VIEW, view, pace.view_ms(view, final_view)))


def _end_epoch(state: ConsensusState, path: list[Node], proof: QuorumCertificate) -> None:
    """Collect the boundary and what is final above it; with the last one's own proof the epoch is over."""
    last = state.epoch.last_height
    for node in path:
        if last is not None and node.height >= last:
            state.tail.append(node.block)
            if node.height == last:
                state.boundary_block = node.block
    if state.tail and state.boundary_proof is None and proof.block == path[-1].hash:
        state.boundary_proof = epoch_proof_of(state.tail, proof)
    close_if_proved(state)


def _prune(state: ConsensusState) -> None:
    view = state.tree.root.view
    state.certificates.prune(view)
    state.proposals = {one: block for one, block in state.proposals.items() if one > view}
    state.saved = {key for key in state.saved if key[0] >= view}
    lowest = view - state.parameters.retain_views
    state.votes.prune(lowest)
    if lowest - state.own.floor >= FLOOR_STEP_VIEWS:
        state.out.records.append(state.own.raise_floor(lowest))
        state.reported = {entry for entry in state.reported if entry[0] > lowest}


def check_extends_final(state: ConsensusState, block: Block) -> bool:
    """R9: whether a justified block leaves the final chain alone; if not, it is an alarm."""
    if state.tree.skips_final(block):
        _alarm(state, "final_block_skipped", None, block)
        return False
    return True


def _alarm(state: ConsensusState, reason: str, theirs: QuorumCertificate | None, block: Block | None) -> None:
    root = state.tree.root
    ours = next((c for b, c in state.certificates.parents(root.view) if b == root.hash), None)
    conflict = Conflict(reason, ours if isinstance(ours, QuorumCertificate) else None, theirs, block)
    view = theirs.view if theirs is not None else block.header.view if block is not None else 0
    state.halt(conflict, f"view {view} contradicts the final block of view {root.view}, height {root.height}")
