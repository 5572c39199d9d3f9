"""Proofs for clients that trust nobody: the state's and the epochs'. Reads LMDB and epoch files, read only.

Made in the gateway from the stored leaves (node/light/prover.py): the tree is built once for a block at most and
held, so a flood of questions costs consensus nothing. Blocking; the gateway asks from a worker thread.
"""

from __future__ import annotations

from ledger.matching.orders import AccountKey
from ledger.state_keys import account_key
from node.light.prover import LINKS_MAX, NotProvable, Prover, instrument_subject, order_subject
from node.rpc.answers import EpochsAnswer, LinkForm, ProofAnswer
from node.rpc.queries import Queries, not_found
from primitives.codec import encode


class ProofQueries:
    """Questions whose answers prove themselves."""

    def __init__(self, prover: Prover, queries: Queries) -> None:
        self._prover = prover
        self._queries = queries

    def account(self, kind: str, key: AccountKey, first_epoch: int) -> ProofAnswer:
        """A proof of an account (`account`) or of what its margin follows from (`margin`)."""
        _check_kind(kind, ("account", "margin"))
        return self._answer(kind, account_key(key)[1:], first_epoch)

    def instrument(self, kind: str, name: str, first_epoch: int) -> ProofAnswer:
        """A proof of an instrument's `mark` or `settlement`."""
        _check_kind(kind, ("mark", "settlement"))
        return self._answer(kind, instrument_subject(self._queries.instrument(name).id), first_epoch)

    def order(self, name: str, order_id: int, first_epoch: int) -> ProofAnswer:
        """A proof that an order rests on a book, or does not."""
        return self._answer("order", order_subject(order_id, self._queries.instrument(name).id), first_epoch)

    def _answer(self, kind: str, subject: bytes, first_epoch: int) -> ProofAnswer:
        try:
            raw = self._prover.proof_file(kind, subject, first_epoch)
        except NotProvable as error:
            raise not_found(str(error)) from None
        return ProofAnswer(kind=kind, subject=subject, bytes=len(raw), proof=raw.hex())

    def epochs(self, first: int) -> EpochsAnswer:
        """What leads on from an epoch's validators; ask again from `next` until `links` is empty."""
        try:
            links = self._prover.links(first)
        except NotProvable as error:
            raise not_found(str(error)) from None
        return EpochsAnswer(
            chain_id=self._prover.chain_id,
            links=tuple(
                LinkForm(epoch=link.header.epoch, height=link.header.height, link=encode(link).hex())
                for link in links
            ),
            next=first + len(links),
            links_max=LINKS_MAX,
        )


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise not_found("there is no such kind of proof")
