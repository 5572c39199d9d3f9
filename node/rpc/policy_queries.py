"""What validators can change by vote, and what they vote for, answered from the block store. Reads LMDB, read only."""

from __future__ import annotations

from typing import Any

from ledger.genesis import LedgerGenesis
from ledger.policy import genesis_parameters, numbers_of, value_at
from ledger.settlement.state import KEY_GOVERNANCE, Governance
from node.rpc.answers import BallotForm, DecidedForm, NumberForm, PolicyAnswer, form_of
from node.storage.block_store import BlockStore
from primitives.codec import decode_own


class PolicyQueries:
    """Read-only questions to one store."""

    def __init__(self, store: BlockStore, genesis: LedgerGenesis) -> None:
        self._store = store
        self._numbers = numbers_of(genesis)
        self._genesis = genesis_parameters(genesis)

    def policy(self) -> PolicyAnswer:
        """Every number with its value in the final state and its bounds; ballots and decided changes."""
        leaves = {key: self._leaf(key) for key in self._genesis}
        raw = self._store.leaf(KEY_GOVERNANCE)
        governance = Governance((), ()) if raw is None else decode_own(Governance, raw)
        return PolicyAnswer(
            numbers=tuple(
                NumberForm(
                    name=name,
                    value=value_at(leaves[item.key], item.path),
                    low=item.bounds.low,
                    high=item.bounds.high,
                    unit=item.unit,
                )
                for name, item in self._numbers.items()
            ),
            ballots=tuple(form_of(BallotForm, item) for item in governance.ballots),
            decided=tuple(form_of(DecidedForm, item) for item in governance.decided),
        )

    def _leaf(self, key: bytes) -> Any:
        """The parameters under a key; those of genesis where no leaf says otherwise."""
        raw = self._store.leaf(key)
        return self._genesis[key] if raw is None else decode_own(type(self._genesis[key]), raw)
