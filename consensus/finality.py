"""R6 and R9: when blocks are final, and what to do if two of them disagree. Pure."""

from __future__ import annotations

from consensus.block_tree import Node, Standing
from consensus.effects import Conflict, DeliverFinal
from consensus.messages import Block, QuorumCertificate
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


def advance(state: ConsensusState, hint: ValidatorIndex | None = None) -> None:
    """Deliver every proved block that connects to the final tip; ask for the next one missing."""
    while state.targets and state.conflict is None:
        lowest = state.targets.lowest()
        path = state.tree.path(lowest)
        if isinstance(path, list):
            if path:
                _deliver(state, path)
            state.targets.reached()
        elif state.tree.conflicts(lowest):
            _alarm(state, "conflicting_finality", state.targets.proof, None)
        else:
            state.fetch(path, hint)
            return


def _deliver(state: ConsensusState, path: list[Node]) -> None:
    proof = state.targets.proof
    if proof is None:
        raise InvariantViolation("every target has a proof at or above it")
    if any(node.standing is Standing.UNACCEPTABLE for node in path):
        _alarm(state, "final_block_invalid", proof, None)
        return
    state.out.add(DeliverFinal(tuple(node.block for node in path), proof))
    for node in path:
        for evidence in node.block.evidence:
            state.pool.settle(evidence)
    state.tree.finalize(path, proved=proof.block == path[-1].hash)
    state.tree_changed = True
    _prune(state)


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
