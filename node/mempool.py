"""Client transactions waiting for a block: bounded, fair between senders, oldest first. Pure.

Admission has been done (ledger/admission.py); this only keeps, orders and forgets.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum

from primitives.errors import ProtocolViolation

TRANSACTIONS_MAX = 20_000
"""Waiting transactions; a further one is answered BUSY."""
BYTES_MAX = 32 * 1024 * 1024
"""Bytes of waiting transactions; a further one is answered BUSY."""
PER_SENDER_MAX = 256
"""Waiting transactions of one key, so that one client cannot take every place."""
RECENT_MAX = 65_536
"""Ids of finished transactions remembered, so that a late copy is not admitted again."""


class MempoolReason(StrEnum):
    """Why the mempool refuses."""

    DUPLICATE = "duplicate"
    """This very transaction is waiting or was decided."""
    BUSY = "busy"
    """The pool is full: try again in a moment."""
    SENDER_BUSY = "sender_busy"
    """Too many of this sender's transactions are waiting: wait until some are final."""


class Mempool:
    """Transactions by id in order of arrival."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()
        self._per_sender: dict[bytes, int] = {}
        self._finished: OrderedDict[bytes, None] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, transaction_id: bytes) -> bool:
        return transaction_id in self._waiting

    def check(self, transaction_id: bytes, sender: bytes, size: int) -> None:
        """Raises ProtocolViolation(MempoolReason) when the transaction would not be taken."""
        if transaction_id in self._waiting or transaction_id in self._finished:
            raise ProtocolViolation(MempoolReason.DUPLICATE, "this transaction is already known")
        if len(self._waiting) >= TRANSACTIONS_MAX or self.bytes + size > BYTES_MAX:
            raise ProtocolViolation(MempoolReason.BUSY, "the mempool is full, try again in a moment")
        if self._per_sender.get(sender, 0) >= PER_SENDER_MAX:
            raise ProtocolViolation(
                MempoolReason.SENDER_BUSY, f"{PER_SENDER_MAX} transactions of this key are waiting already"
            )

    def add(self, transaction_id: bytes, sender: bytes, raw: bytes) -> None:
        """Keep an admitted transaction. Raises like `check`."""
        self.check(transaction_id, sender, len(raw))
        self._waiting[transaction_id] = (sender, raw)
        self._per_sender[sender] = self._per_sender.get(sender, 0) + 1
        self.bytes += len(raw)

    def pick(self, count_max: int, bytes_max: int, excluded: set[bytes]) -> list[bytes]:
        """The oldest transactions that fit, without those already in undecided ancestors."""
        picked: list[bytes] = []
        size = 0
        for transaction_id, (_, raw) in self._waiting.items():
            if transaction_id in excluded:
                continue
            if len(picked) == count_max or size + len(raw) > bytes_max:
                break
            picked.append(raw)
            size += len(raw)
        return picked

    def finish(self, transaction_ids: list[bytes]) -> None:
        """Forget transactions that are decided, and do not admit them again soon."""
        for transaction_id in transaction_ids:
            self.drop(transaction_id)
            self._finished[transaction_id] = None
        while len(self._finished) > RECENT_MAX:
            self._finished.popitem(last=False)

    def drop(self, transaction_id: bytes) -> None:
        """Forget a waiting transaction, if it is there."""
        entry = self._waiting.pop(transaction_id, None)
        if entry is None:
            return
        sender, raw = entry
        self.bytes -= len(raw)
        left = self._per_sender[sender] - 1
        if left:
            self._per_sender[sender] = left
        else:
            del self._per_sender[sender]
