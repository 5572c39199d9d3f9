"""The margin that proven leaves amount to: recomputed with the ledger's own arithmetic, from those leaves alone. Pure.

The state commits to no single account's margin (a digest of all of them is in the marks leaf), but to everything
that it follows from.
"""

from __future__ import annotations

from ledger.genesis import LedgerGenesis
from ledger.prices import get_prices
from ledger.queries import AccountView, get_account
from ledger.state import State
from node.light.prover import margin_keys
from node.light.verifier import ProofRefused, Proven


def state_of(proven: Proven, genesis: LedgerGenesis) -> State:
    """A state that holds the proven leaves and nothing else."""
    leaves = [(key, value) for key, value in proven.leaves.items() if value is not None]
    return State.from_leaves(proven.trust.chain_id, genesis, leaves)


def recompute_margin(proven: Proven, genesis: LedgerGenesis) -> AccountView | None:
    """The account of a margin proof with its margin; None when it is proven that there is no such account.

    Raises:
        ProofRefused: a leaf is missing, or the marks computed are not those that the state commits to.
    """
    if proven.leaves[b"a" + proven.subject] is None:
        return None
    missing = [
        key for key in margin_keys(genesis, proven.subject, proven.leaves.get) if key not in proven.leaves
    ]
    if missing:
        raise ProofRefused(f"{len(missing)} leaves that the margin follows from are not in the proof")
    state = state_of(proven, genesis)
    agreed = dict(state.marks.marks) if state.marks is not None else {}
    if state.marks is not None and any(agreed.get(item) != mark for item, mark in get_prices(state).marks()):
        raise ProofRefused("the marks computed here are not those that the state commits to")
    return get_account(state, (proven.subject[:20], proven.subject[20]))
