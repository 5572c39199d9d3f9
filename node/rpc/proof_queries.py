"""Proofs for clients that trust nobody: the state's and the epochs'. Reads LMDB and epoch files, read only.

Made in the gateway from the stored leaves (node/light/prover.py): the tree is built once for a block at most and
held, so a flood of questions costs consensus nothing. Blocking; the gateway asks from a worker thread.
"""

from __future__ import annotations

from typing import Any

from ledger.state_keys import account_key
from node.light.prover import LINKS_MAX, NotProvable, Prover, instrument_subject, order_subject
from node.rpc.queries import Queries, read_hexadecimal, read_number
from node.rpc.reasons import GatewayReason
from primitives.codec import encode
from primitives.errors import ProtocolViolation

EPOCH_MAX = 2**32 - 1

Answer = dict[str, Any]


class ProofQueries:
    """Questions whose answers prove themselves."""

    def __init__(self, prover: Prover, queries: Queries) -> None:
        self._prover = prover
        self._queries = queries

    def account(self, kind: str, address: str, subaccount: str, first_epoch: str) -> Answer:
        """A proof of an account (`account`) or of what its margin follows from (`margin`)."""
        _check_kind(kind, ("account", "margin"))
        key = read_hexadecimal(address, 20, "address"), read_number(subaccount, "sub-account")
        if key[1] > 255:
            raise ProtocolViolation(GatewayReason.BAD_REQUEST, "the sub-account must be at most 255")
        return self._answer(kind, account_key(key)[1:], first_epoch)

    def instrument(self, kind: str, name: str, first_epoch: str) -> Answer:
        """A proof of an instrument's `mark` or `settlement`."""
        _check_kind(kind, ("mark", "settlement"))
        return self._answer(kind, instrument_subject(self._queries.instrument(name).id), first_epoch)

    def order(self, name: str, order_id: str, first_epoch: str) -> Answer:
        """A proof that an order rests on a book, or does not."""
        wanted = read_number(order_id, "order id")
        return self._answer("order", order_subject(wanted, self._queries.instrument(name).id), first_epoch)

    def _answer(self, kind: str, subject: bytes, first_epoch: str) -> Answer:
        try:
            raw = self._prover.proof_file(kind, subject, _epoch(first_epoch))
        except NotProvable as error:
            raise ProtocolViolation(GatewayReason.NOT_FOUND, str(error)) from None
        return {"kind": kind, "subject": subject.hex(), "bytes": len(raw), "proof": raw.hex()}

    def epochs(self, first: str) -> Answer:
        """What leads on from an epoch's validators; ask again from `next` until `links` is empty."""
        number = _epoch(first)
        try:
            links = self._prover.links(number)
        except NotProvable as error:
            raise ProtocolViolation(GatewayReason.NOT_FOUND, str(error)) from None
        return {
            "chain_id": self._prover.chain_id.hex(),
            "links": [
                {"epoch": link.header.epoch, "height": link.header.height, "link": encode(link).hex()}
                for link in links
            ],
            "next": number + len(links),
            "links_max": LINKS_MAX,
        }


def _check_kind(kind: str, known: tuple[str, ...]) -> None:
    if kind not in known:
        raise ProtocolViolation(GatewayReason.NOT_FOUND, "there is no such kind of proof")


def _epoch(text: str) -> int:
    number = read_number(text, "epoch")
    if number > EPOCH_MAX:
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, f"the epoch must be at most {EPOCH_MAX}")
    return number
