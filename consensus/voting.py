"""R3, R4, R5: when we notarize, nullify and finalize. Pure. One rule, one function."""

from __future__ import annotations

from consensus.block_tree import Node, Standing
from consensus.effects import HeldBlock
from consensus.messages import Vote, VoteKind
from consensus.state import ConsensusState
from primitives.identifiers import BlockHash


def notarize(state: ConsensusState, node: Node) -> None:
    """R3: vote for a leader's acceptable block, once per view, also late, never after nullifying."""
    view = node.view
    if not state.tree.root.view < view <= state.view or node.standing is not Standing.ACCEPTABLE:
        return
    if not state.own.may_notarize(view, node.hash):
        return
    if not state.votes.has(view, state.leader_of(view), VoteKind.NOTARIZE, node.hash):
        return
    signed = state.own.notarize(view, node.hash)
    if signed is not None:
        state.out.votes.append(state.cast(signed, before=(HeldBlock(node.block),)))


def nullify(state: ConsensusState) -> None:
    """R4: give up the current view, reporting what we notarized in it. The callers are the triggers."""
    if state.own.may_nullify(state.view) and (signed := state.own.nullify(state.view)) is not None:
        state.out.votes.append(state.cast(signed))


def has_notarized(state: ConsensusState) -> bool:
    """Whether we voted for a block in the current view: then only T_view makes us give it up."""
    return state.own.of(state.view).notarized is not None


def nullify_for_leader(state: ConsensusState) -> None:
    """R4c (two blocks by the leader) and R4d (the leader itself gave up), as far as its votes are known."""
    leader = state.leader_of(state.view)
    if has_notarized(state) or leader == state.own_index:
        return
    gave_up = state.votes.votes_by(state.view, leader, VoteKind.NULLIFY)
    if gave_up or len(state.votes.votes_by(state.view, leader, VoteKind.NOTARIZE)) > 1:
        nullify(state)


def nullify_for_absence(state: ConsensusState) -> None:
    """R4e: a leader that voted in none of the last n views, while a quorum did, gets no time at all."""
    leader, count = state.leader_of(state.view), state.validators.count
    horizon = state.view - count
    if leader == state.own_index or horizon <= state.observed_from or has_notarized(state):
        return
    active = [signer for signer in range(count) if state.last_seen[signer] >= horizon]
    if leader not in active and state.validators.weight_of(active) >= state.validators.quorum:
        nullify(state)


def finalize(state: ConsensusState, view: int) -> None:
    """R5: vote that a notarized block, which we hold and accept, is final; never in a view that we gave up.

    The notarization is journaled first: having finalized we can never nullify this view, so after a restart it
    may be all that lets us and the others leave it.
    """
    notarization = state.certificates.of(view).notarization
    if notarization is None or view <= state.tree.root.view:
        return
    node = state.tree.get(BlockHash(notarization.block))
    if node is None or node.standing is not Standing.ACCEPTABLE:
        return
    if (
        state.own.may_finalize(view, node.hash)
        and (signed := state.own.finalize(view, node.hash)) is not None
    ):
        state.save(notarization)
        state.out.votes.append(state.cast(signed))


def on_leader_vote(state: ConsensusState, vote: Vote) -> None:
    """A vote of a view's leader: it may complete R3 for a block held already, or trigger R4c or R4d."""
    if vote.kind == VoteKind.NOTARIZE:
        node = state.tree.get(BlockHash(vote.subject))
        if node is not None:
            notarize(state, node)
    if vote.view == state.view:
        nullify_for_leader(state)
