"""Every queue, cache and tree of a core stays within its stated limit. No I/O."""

from __future__ import annotations

from consensus.block_tree import TREE_BLOCKS_MAX
from consensus.state import ConsensusState
from testnet.checkers import Violation

LOOKAHEAD_VIEWS = 64
"""Section 1; said here again, for the product's own parameter may be what is wrong."""
SLACK_VIEWS = 512
"""The floor rises in steps of 256 views; certificates live from the final tip to the current view."""


def check_limits(node: int, state: ConsensusState) -> None:
    """Raises Violation when something has outgrown its bound."""
    views = state.view - state.tree.root.view
    kept = state.parameters.retain_views + state.parameters.lookahead_views + views + SLACK_VIEWS
    sizes = {
        "blocks": (len(state.tree.nodes()), TREE_BLOCKS_MAX + 1),
        "certificates": (len(state.certificates.views()), views + 2 + state.parameters.lookahead_views),
        "own views": (len(state.own.views_above(-1)), kept),
        "views ahead": (state.votes.highest_view() - state.view, LOOKAHEAD_VIEWS),
        "reported offences": (len(state.reported), kept * state.validators.count * 7),
        "votes to count": (len(state.uncounted) if state.conflict is None and state.closed is None else 0, 0),
    }
    for name, (size, limit) in sizes.items():
        if size > limit:
            raise Violation("bounded", f"validator {node} holds {size} {name}, the limit is {limit}")
