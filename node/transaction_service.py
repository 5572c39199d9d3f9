"""Client transactions on their way into the mempool: from our own clients and from other validators. Trio.

Checks go from cheap to dear: size, decode, canonical form, chain, account, nonce, shape, room in the pool, signature.
What a client gave us is passed on at once, so that whoever leads next can include it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from gossip.network import Lane
from ledger.admission import ReadTransaction, check_transaction
from ledger.reasons import LedgerReason
from ledger.transactions import transaction_id
from node.ledger_service import LedgerService
from node.messages import BUNDLE_TRANSACTIONS_MAX, TransactionBundle, lane_of
from node.metrics import NodeMetrics
from node.rpc.protocol import SubmitReply
from node.tracing import trace
from node.verifier import SignatureVerifier
from primitives.codec import encode
from primitives.errors import ProtocolViolation

REBROADCAST_SECONDS = 1.0
"""Transactions that clients gave us and that are still waiting are passed on again this often."""
OWN_MAX = 4_096
"""Own clients' transactions remembered for passing on again; the oldest is forgotten."""


class Spreader(Protocol):
    """Takes bundles to the validators: the network, or for a follower node/sync/follower.py."""

    def broadcast(self, lane: Lane, message: bytes) -> int: ...


class TransactionService:
    """Admits, keeps and spreads transactions."""

    def __init__(
        self, ledger: LedgerService, network: Spreader, verifier: SignatureVerifier, metrics: NodeMetrics
    ) -> None:
        self._ledger = ledger
        self._network = network
        self._verifier = verifier
        self._metrics = metrics
        self._own: dict[bytes, bytes] = {}

    async def run(self) -> None:
        """Pass our clients' waiting transactions on again, for validators that were away. Until cancelled."""
        while True:
            await trio.sleep(REBROADCAST_SECONDS)
            waiting = [raw for key, raw in self._own.items() if key in self._ledger.mempool]
            self._own = {key: raw for key, raw in self._own.items() if key in self._ledger.mempool}
            self._spread(waiting)

    async def submit(self, raws: Sequence[bytes]) -> tuple[SubmitReply, ...]:
        """Admit what clients sent; a reply each, in order. Admitted ones are passed on."""
        replies: list[SubmitReply] = []
        accepted: list[bytes] = []
        for raw in raws:
            try:
                read = await self._admit(raw)
            except ProtocolViolation as violation:
                self._metrics.count("transaction_refused", violation.reason.value)
                named = transaction_id(raw)
                replies.append(SubmitReply(named, False, violation.reason.value, violation.detail))
                trace("refused", [named], reason=violation.reason.value)
                continue
            accepted.append(raw)
            self._own[read.id] = raw
            replies.append(SubmitReply(read.id, True, "", ""))
            trace("submitted", [read.id])
        self._spread(accepted)
        while len(self._own) > OWN_MAX:
            del self._own[next(iter(self._own))]
        return tuple(replies)

    async def receive(self, bundle: TransactionBundle) -> None:
        """Admit what another validator passed on; refusals are counted, for its view may be ahead of ours."""
        for raw in bundle.transactions:
            try:
                read = await self._admit(raw)
                trace("received", [read.id])
            except ProtocolViolation as violation:
                self._metrics.count("bundle_transaction_refused", violation.reason.value)

    async def _admit(self, raw: bytes) -> ReadTransaction:
        state = self._ledger.state_for_reading
        read = check_transaction(state, raw)
        self._ledger.mempool.check(read.id, read.signer, len(raw))
        if not await self._verifier.all_valid([read.check]):
            raise ProtocolViolation(LedgerReason.BAD_SIGNATURE, "the signature does not verify")
        self._ledger.mempool.add(read.id, read.signer, raw)
        return read

    def _spread(self, raws: Sequence[bytes]) -> None:
        for start in range(0, len(raws), BUNDLE_TRANSACTIONS_MAX):
            bundle = TransactionBundle(tuple(raws[start : start + BUNDLE_TRANSACTIONS_MAX]))
            self._network.broadcast(lane_of(bundle), encode(bundle))
