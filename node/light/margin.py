"""The margin that proven leaves amount to: recomputed with the ledger's own arithmetic, from those leaves alone. Pure.

The state commits to no single account's margin (a digest of all of them is in the marks leaf), but to everything
that it follows from.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.accounts import Account
from ledger.genesis import LedgerGenesis
from ledger.instruments import Instrument, Kind
from ledger.prices import get_prices
from ledger.queries import AccountView, get_account
from ledger.state import State
from ledger.state_keys import listing_key, oracle_key, window_key
from node.light.verifier import ProofRefused, Proven
from primitives.codec import decode_own


def margin_keys(genesis: LedgerGenesis, account: bytes | None) -> list[bytes]:
    """Leaves beyond the account's, the clock's, the marks' and the parameters' that a margin follows from."""
    positions = () if account is None else decode_own(Account, account).positions
    wanted = {item.instrument for item in positions}
    held = [item for item in genesis.instruments if item.id in wanted]
    oracles = [oracle_key(item.underlying) for item in genesis.underlyings]
    return [*oracles, *(listing_key(item.id) for item in held), *_window_keys(held)]


def _window_keys(held: Iterable[Instrument]) -> list[bytes]:
    """The settlement averages that options take part in, under way or not."""
    expiries = {(item.underlying, item.expiry_ns) for item in held if item.kind != Kind.PERPETUAL}
    return [window_key(*expiry) for expiry in sorted(expiries)]


def state_of(proven: Proven, genesis: LedgerGenesis) -> State:
    """A state that holds the proven leaves and nothing else."""
    leaves = [(key, value) for key, value in proven.leaves.items() if value is not None]
    return State.from_leaves(proven.trust.chain_id, genesis, leaves)


def recompute_margin(proven: Proven, genesis: LedgerGenesis) -> AccountView | None:
    """The account of a margin proof with its margin; None when it is proven that there is no such account.

    Raises:
        ProofRefused: a leaf is missing, or the marks computed are not those that the state commits to.
    """
    account = proven.leaves[b"a" + proven.subject]
    if account is None:
        return None
    missing = [key for key in margin_keys(genesis, account) if key not in proven.leaves]
    if missing:
        raise ProofRefused(f"{len(missing)} leaves that the margin follows from are not in the proof")
    state = state_of(proven, genesis)
    agreed = dict(state.marks.marks) if state.marks is not None else {}
    if state.marks is not None and any(agreed.get(item) != mark for item, mark in get_prices(state).marks()):
        raise ProofRefused("the marks computed here are not those that the state commits to")
    return get_account(state, (proven.subject[:20], proven.subject[20]))
