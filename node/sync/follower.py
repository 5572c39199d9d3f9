"""A node that does not vote: takes final blocks as they are told, passes clients' orders to validators. Trio.

What followers hear proves itself: a block comes with its certificate, and goes the same way as one that was fetched.
A block that does not follow our tip is a reason to catch up, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import structlog
import trio

from consensus.final_range import check_range
from gossip.network import TOPIC_MESSAGE_BYTES_MAX, Lane, Network, NoAnswer
from gossip.request_response import REQUEST_BYTES_MAX
from node.consensus_service import ConsensusService
from node.messages import FinalBlockMessage, TransactionBundle
from node.metrics import NodeMetrics
from node.sync.messages import Taken, decode_reply
from node.sync.reasons import SyncReason
from node.sync.service import SyncService
from node.verifier import SignatureVerifier
from primitives.codec import decode, decode_own, encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex

BUNDLES_WAITING_MAX = 64
"""Bundles that no validator has taken yet; a further one is dropped: the transaction service passes it on again."""
VALIDATORS_TOLD = 2
"""Validators that get each bundle, so that one that is away or keeps it to itself delays nothing."""
BUNDLE_ROOM_BYTES = 64
"""Of a request, beside its transactions."""

log = structlog.get_logger()


class FinalBlockListener:
    """Takes publications of final blocks."""

    def __init__(
        self,
        consensus: ConsensusService,
        sync: SyncService,
        verifier: SignatureVerifier,
        metrics: NodeMetrics,
    ) -> None:
        self._consensus = consensus
        self._sync = sync
        self._verifier = verifier
        self._metrics = metrics
        self._handed_on = 0

    async def receive(self, raw: bytes) -> None:
        """Check one publication and give its block to the core, if it is the next one.

        Raises:
            ProtocolViolation: whoever passed it on is to blame.
        """
        message = decode(FinalBlockMessage, raw, bytes_max=TOPIC_MESSAGE_BYTES_MAX)
        header, epoch = message.block.header, self._consensus.epoch
        tip_height = max(self._consensus.final_height, self._handed_on)
        if header.height <= tip_height:
            return
        if header.height > tip_height + 1 or header.epoch != epoch.number:
            self._sync.on_height(header.height)
            return
        checks = check_range((message.block,), (), message.proof, header.height, epoch)
        if not await self._verifier.all_valid(checks):
            raise ProtocolViolation(SyncReason.BAD_SIGNATURE, "a final block's certificate does not verify")
        self._handed_on = header.height
        self._metrics.count("final_block_heard", "taken")
        await self._consensus.receive_final((message.block,), message.proof)


class OrderForwarder:
    """Stands where a validator has its lanes: what is broadcast goes to a few validators as requests."""

    def __init__(self, network: Network, validators: Sequence[ValidatorIndex], metrics: NodeMetrics) -> None:
        self._network = network
        self.know(validators)
        self._metrics = metrics
        self._send, self._waiting = trio.open_memory_channel[bytes](BUNDLES_WAITING_MAX)

    def know(self, validators: Sequence[ValidatorIndex]) -> None:
        """Whom to give bundles to from now on."""
        self._turn = cycle(validators)
        self._count = len(validators)

    def broadcast(self, lane: Lane, message: bytes) -> int:
        """Queue an encoded TransactionBundle, in pieces that fit a request; how many validators will be asked."""
        del lane
        raws: list[bytes] = []
        size = BUNDLE_ROOM_BYTES
        for raw in decode_own(TransactionBundle, message).transactions:
            if raws and size + len(raw) + BUNDLE_ROOM_BYTES > REQUEST_BYTES_MAX:
                self._queue(raws)
                raws, size = [], BUNDLE_ROOM_BYTES
            raws.append(raw)
            size += len(raw) + BUNDLE_ROOM_BYTES
        self._queue(raws)
        return min(VALIDATORS_TOLD, self._count)

    def _queue(self, raws: Sequence[bytes]) -> None:
        try:
            self._send.send_nowait(encode(TransactionBundle(tuple(raws))))
        except trio.WouldBlock:
            self._metrics.count("bundle_forwarded", "queue_full")

    async def run(self) -> None:
        """Pass on until cancelled."""
        async for body in self._waiting:
            taken = 0
            for _ in range(self._count):
                taken += await self._give(next(self._turn), body)
                if taken == min(VALIDATORS_TOLD, self._count):
                    break
            self._metrics.count("bundle_forwarded", "taken" if taken else "nobody")

    async def _give(self, validator: ValidatorIndex, body: bytes) -> bool:
        try:
            taken = decode_reply(Taken, await self._network.request(validator, body))
        except (NoAnswer, ProtocolViolation) as error:
            log.debug("forward_failed", validator=validator, error=str(error))
            return False
        return taken.count > 0
