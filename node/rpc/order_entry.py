"""Signed transactions on their way to the node: their form, the quota of their key, and how far each has come.

asyncio. Both HTTP and WebSocket clients come through here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import msgspec

from ledger.admission import read_transaction
from node.rpc.access import Access, Caller
from node.rpc.answers import BASE64, SubmitAnswer, form_of
from node.rpc.api_route import Asked, Reply
from node.rpc.node_link import NodeLink
from node.rpc.protocol import RAW_BYTES_MAX, SubmitReply, TransactionStatus
from node.rpc.reasons import GatewayReason
from primitives.errors import ProtocolViolation

PROGRESS_MAX = 65_536
"""Transactions remembered from acceptance to finality; the oldest is forgotten."""


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """An encoded SignedTransaction in base64."""

    transaction: Annotated[bytes, msgspec.Meta(max_length=RAW_BYTES_MAX, extra_json_schema=BASE64)]


_JSON = msgspec.json.Decoder(OrderBody)


class OrderEntry:
    """Where orders go."""

    def __init__(self, link: NodeLink, access: Access) -> None:
        self._link = link
        self._access = access
        self.progress: OrderedDict[bytes, tuple[str, int | None]] = OrderedDict()
        """Stage and height of transactions that came through here and are not final yet."""

    async def post(self, asked: Asked) -> Reply:
        """One transaction over HTTP."""
        is_json = asked.content_type == "application/json"
        reply = await self.submit(decode_order(asked.body) if is_json else asked.body, asked.caller)
        return Reply(202 if reply.accepted else 422, form_of(SubmitAnswer, reply))

    async def submit(self, raw: bytes, caller: Caller | None) -> SubmitReply:
        """Hand over one transaction. Raises ProtocolViolation: QUOTA_EXCEEDED, or the link's."""
        if len(raw) > RAW_BYTES_MAX:
            raise ProtocolViolation(
                GatewayReason.BODY_TOO_LARGE, f"a transaction has at most {RAW_BYTES_MAX} bytes"
            )
        signer = _signer_of(raw)
        if signer is not None and caller is not None:
            self._access.check_key(caller, signer)
        reply = await self._link.submit(raw)
        if reply.accepted:
            if signer is not None:
                self._access.charge_key(signer)
            self._note(reply.transaction_id, "accepted", None)
        return reply

    def on_status(self, status: TransactionStatus) -> None:
        """The node has told of a stage."""
        for name in self.progress.keys() & set(status.transaction_ids):
            self._note(name, status.stage, status.height)

    def on_final(self, names: set[bytes]) -> None:
        """Their story is in the store now."""
        for name in names:
            self.progress.pop(name, None)

    def _note(self, name: bytes, stage: str, height: int | None) -> None:
        self.progress[name] = stage, height
        if len(self.progress) > PROGRESS_MAX:
            self.progress.popitem(last=False)


def decode_order(body: bytes) -> bytes:
    """The transaction in a JSON body. Raises ProtocolViolation(BAD_REQUEST)."""
    try:
        return _JSON.decode(body).transaction
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, 'expected {"transaction": "<base64>"}') from None


def _signer_of(raw: bytes) -> bytes | None:
    """Whose signature a transaction claims to carry; None when it does not decode, which the node will say."""
    try:
        return read_transaction(raw).signer
    except ProtocolViolation:
        return None
