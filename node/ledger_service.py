"""Executes blocks off the event loop: validates, builds, speculates and commits. Owns the ledger state.

The state is moved along one branch at a time: layers above the final state, one for each executed block, rolled back
when another branch is asked for. All calls that touch the state run on one worker thread, one after another.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog
import trio

from consensus.messages import Block, Evidence, QuorumCertificate, hash_of
from ledger.admission import signatures_of_block
from ledger.apply import BlockResult, apply_block, validate_block
from ledger.breakers.drift import is_due, quoted_instruments
from ledger.breakers.state import get_restart
from ledger.instruments import Instrument
from ledger.oracle import build_oracle_update, compute_block_time
from ledger.settlement.expiry import unsettled_expiries
from ledger.state import State
from ledger.transactions import SignedReport, transaction_id
from node.event_parties import parties_of
from node.mempool import Mempool
from node.observations import context_of, wanted_evidence
from node.storage.block_store import BlockStore, FinalBlock
from node.tracing import trace
from node.verifier import SignatureVerifier
from node.views import views_of
from primitives.codec import encode
from primitives.errors import InvariantViolation, ProtocolViolation, ensure
from primitives.identifiers import BlockHash

T = TypeVar("T")
Leaves = Sequence[tuple[bytes, bytes | None]]

PAYLOAD_BYTES_MAX = 1_000_000
"""Bytes of client transactions that our own blocks carry; well below the bulk lane's message limit."""
PAYLOAD_TRANSACTIONS_MAX = 2_000
"""Client transactions that our own blocks carry."""

EXECUTION_GRACE_SECONDS = 0.03
"""How long execution ahead of finality waits for the votes: on a fast network the block is final before, and its votes
had the cores and the interpreter for themselves; on a slow one the block executes while its votes travel."""

_THREADS = ThreadPoolExecutor(os.cpu_count(), "margins")
"""Compute the margins of many accounts, on every core; the numbers are the same on any."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Executed:
    """One executed block: its place and what it did."""

    block_hash: BlockHash
    block: Block
    result: BlockResult
    leaves: Leaves
    views: Mapping[str, bytes]
    transaction_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Payload:
    """What the leader puts into its block."""

    transactions: tuple[bytes, ...]
    time_ns: int
    parent_state_root: bytes
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class FinalResult:
    """A final block with its outcome, for clients and metrics."""

    height: int
    block_hash: BlockHash
    block: Block
    result: BlockResult


class _Overtaken(Exception):
    """Finality went past the block asked about, or went another way: nobody needs the answer any more."""


class LedgerService:
    """The one owner of the ledger's state."""

    def __init__(
        self,
        state: State,
        tip_hash: BlockHash,
        tip_height: int,
        store: BlockStore,
        verifier: SignatureVerifier,
    ) -> None:
        self._state = state
        state.spread = _THREADS.map
        self._store = store
        self._verifier = verifier
        self._lock = trio.Lock()
        self._layers: list[Executed] = []
        self._base_hash, self._base_height = tip_hash, tip_height
        """What the layers stand on: the final tip, or in the middle of `finalize` a block on the way to it."""
        self._restored_height = tip_height
        self._blocks: dict[BlockHash, Block] = {}
        self._announced_height = tip_height
        self._finalized = trio.Event()
        self.final_hash = tip_hash
        self.final_height = tip_height
        self.final_root = state.root()
        self.final_time_ns = state.clock.time_ns
        self.mempool = Mempool()
        self.find_block: Callable[[BlockHash], Block | None] = lambda _: None
        """Where to find a block that consensus kept over a restart; set by the wiring."""

    @property
    def state_for_reading(self) -> State:
        """The state as executed so far, for looking up single leaves; a leaf is immutable, so no lock is needed."""
        return self._state

    def listed(self) -> list[Instrument]:
        """What is listed and not settled, by id, as executed so far."""
        state = self._state
        series = set(unsettled_expiries(state))
        instruments = list(state.instruments.items())  # One step, for the worker thread may be listing more.
        return [
            item
            for _, item in sorted(instruments)
            if not item.expiry_ns or (item.underlying, item.expiry_ns) in series
        ]

    def quotes_due(self, now_ns: int) -> list[Instrument]:
        """The instruments whose venue quotes the chain wants at a market time, by id; none between two epochs."""
        state = self._state
        restart = get_restart(state)
        if not is_due(state, restart, now_ns):
            return []
        asked = quoted_instruments(state, restart.judged_epochs)
        return [found for item in asked if (found := state.instruments.get(item)) is not None]

    def transactions_of(self, block_hash: BlockHash) -> tuple[bytes, ...]:
        """Ids of the client transactions in a block that is not final yet; empty for an unknown block."""
        block = self._blocks.get(block_hash)
        return tuple(transaction_id(raw) for raw in block.transactions[1:]) if block is not None else ()

    @property
    def executed_height(self) -> int:
        """Height of the highest block executed, final or not."""
        newest = self._layers[-1:]  # One step, for the worker thread may be popping layers.
        return newest[0].block.header.height if newest else self.final_height

    # --- what consensus asks for ---

    def announce_final(self, height: int) -> None:
        """Consensus has decided up to here, and `finalize` follows: what is asked from now on waits for it.

        In a catch-up consensus is many blocks ahead, and forgets those that it has delivered.
        """
        self._announced_height = max(self._announced_height, height)

    @asynccontextmanager
    async def _standing_on(self, parent: BlockHash, height: int) -> AsyncIterator[None]:
        """The lock, once all that was announced is final here; the ancestors of a block of `height` are at hand.

        They are looked for here, on the event loop: while the worker thread works consensus may forget them.
        """
        while True:
            await self.wait_final(self._announced_height)
            async with self._lock:
                if self.final_height < self._announced_height:
                    continue  # Another one was announced while we waited for the lock, and forgotten.
                self._fetch(parent, height - 1)
                yield
                return

    def _fetch(self, cursor: BlockHash, height: int) -> None:
        """Take over from consensus what is not known here between the final tip and a block."""
        while height > self._base_height:
            block = self._blocks.get(cursor) or self.find_block(cursor)
            if block is None:
                return
            self._blocks[cursor] = block
            cursor, height = BlockHash(block.header.parent_hash), height - 1

    async def is_valid(self, block_hash: BlockHash, block: Block) -> bool | None:
        """Whether the block may be voted for: its parent's root, its time, its oracle update and every signature.

        None when finality has meanwhile overtaken the block: then there is nothing left to vote on.
        """
        header = block.header
        try:
            checks = signatures_of_block(self._state, block.transactions)
        except ProtocolViolation as violation:
            return self._refuse(block, violation)
        if not await self._verifier.all_valid(checks):
            log.warning("block_refused", height=header.height, view=header.view, reason="bad_signature")
            return False
        async with self._standing_on(BlockHash(header.parent_hash), header.height):
            self._blocks[block_hash] = block
            try:
                await self._in_thread(lambda: self._validate(block))
            except ProtocolViolation as violation:
                self._blocks.pop(block_hash, None)
                return self._refuse(block, violation)
            except _Overtaken:
                self._blocks.pop(block_hash, None)
                return None
        return True

    def adopt(self, block_hash: BlockHash, block: Block) -> None:
        """Know a block that we built ourselves; it needs no validation."""
        self._blocks[block_hash] = block

    async def execute(self, block_hash: BlockHash) -> None:
        """Execute a validated block if it is not final soon, so that its root is there when a child needs it.

        Final blocks are executed by `finalize`, and those that a child is built upon or checked against by `_move_to`.
        """
        block = self._blocks.get(block_hash)
        if block is None:
            return
        header = block.header
        with trio.move_on_after(EXECUTION_GRACE_SECONDS):
            await self.wait_final(header.height)
        async with self._standing_on(BlockHash(header.parent_hash), header.height):
            if header.height > self.final_height:
                self._blocks[block_hash] = block
                with suppress(_Overtaken):
                    await self._in_thread(lambda: self._move_to(block_hash, header.height))

    async def build(
        self,
        parent: BlockHash,
        height: int,
        reports: Sequence[SignedReport],
        evidence: Sequence[Evidence] = (),
    ) -> Payload | None:
        """Fill a block on `parent`: the newest oracle reports and the oldest waiting transactions.

        Of `evidence` it takes what the chain does not hold yet. None when finality has meanwhile overtaken the parent.
        """
        async with self._standing_on(parent, height):
            try:
                update, time_ns, root, wanted = await self._in_thread(
                    lambda: self._prepare(parent, height, reports, evidence)
                )
            except _Overtaken:
                return None
            # The mempool belongs to the event loop: clients add to it while the worker thread executes.
            excluded = {item for layer in self._layers for item in layer.transaction_ids}
            waiting = self.mempool.pick(PAYLOAD_TRANSACTIONS_MAX, PAYLOAD_BYTES_MAX, excluded)
            trace("proposed", map(transaction_id, waiting), height=height)
            return Payload((update, *waiting), time_ns, root, wanted)

    async def finalize(self, blocks: Sequence[Block], proof: QuorumCertificate) -> list[FinalResult]:
        """Execute (if need be), commit and store final blocks, in height order; known ones are skipped."""
        async with self._lock:
            results = await self._in_thread(lambda: self._finalize(blocks, proof))
            for result in results:
                self.mempool.finish([transaction_id(raw) for raw in result.block.transactions[1:]])
            if results:
                self._show_final(results[-1])
        self._finalized.set()
        self._finalized = trio.Event()
        return results

    def _show_final(self, last: FinalResult) -> None:
        """Say so only now that it is durable."""
        self.final_hash, self.final_height = last.block_hash, last.height
        self.final_root = last.result.root
        self.final_time_ns = last.result.time_ns
        self._forget_old()

    async def wait_final(self, height: int) -> None:
        """Until the block of this height is executed and stored."""
        while self.final_height < height:
            await self._finalized.wait()

    async def read(self, question: Callable[[State], T]) -> T:
        """Answer a question about the state as executed now, between two blocks."""
        async with self._lock:
            return await self._in_thread(lambda: question(self._state))

    # --- on the worker thread, under the lock ---

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work)

    def _refuse(self, block: Block, violation: ProtocolViolation) -> bool:
        log.warning(
            "block_refused",
            height=block.header.height,
            view=block.header.view,
            reason=violation.reason.value,
            detail=violation.detail,
        )
        return False

    def _validate(self, block: Block) -> None:
        header = block.header
        self._move_to(BlockHash(header.parent_hash), header.height - 1)
        validate_block(
            self._state,
            context_of(block),
            block.transactions,
            parent_state_root=header.parent_state_root,
        )

    def _prepare(
        self, parent: BlockHash, height: int, reports: Sequence[SignedReport], evidence: Sequence[Evidence]
    ) -> tuple[bytes, int, bytes, tuple[Evidence, ...]]:
        """(encoded oracle update, block time, parent's state root, evidence to carry) of a block on `parent`."""
        self._move_to(parent, height - 1)
        update = build_oracle_update(self._state, reports)
        time_ns = compute_block_time(self._state, update)
        wanted = wanted_evidence(self._state, height, time_ns, evidence)
        return encode(update), time_ns, self._state.root(), wanted

    def _move_to(self, target: BlockHash, height: int, *, with_views: bool = True) -> None:
        """Roll back and execute until the state is the one after `target`, a block of `height`.

        Raises:
            _Overtaken: it is not the final tip, nor does it stand on it; nothing was moved.
            InvariantViolation: a block on the way is unknown, though nothing has become final in this life.
        """
        path: list[BlockHash] = []
        on_branch = {layer.block_hash: place for place, layer in enumerate(self._layers)}
        cursor = target
        while cursor != self._base_hash and cursor not in on_branch:
            if height <= self._base_height:
                raise _Overtaken
            block = self._blocks.get(cursor) or self.find_block(cursor)
            if block is None and self._base_height > self._restored_height:
                raise _Overtaken  # On a branch that lost, which consensus has cut off.
            if block is None:
                raise InvariantViolation(
                    f"consensus asked for the state after an unknown block {cursor.hex()[:12]}"
                )
            self._blocks[cursor] = block
            path.append(cursor)
            cursor, height = BlockHash(block.header.parent_hash), block.header.height - 1
        keep = on_branch[cursor] + 1 if cursor in on_branch else 0
        while len(self._layers) > keep:
            self._layers.pop()
            self._state.rollback_block()
        for block_hash in reversed(path):
            self._layers.append(self._apply(block_hash, self._blocks[block_hash], with_views))

    def _apply(self, block_hash: BlockHash, block: Block, with_views: bool) -> Executed:
        self._state.begin_block()
        context = context_of(block)
        try:
            result = apply_block(self._state, context, block.transactions)
        except ProtocolViolation as violation:
            raise InvariantViolation(
                f"a block of height {context.height} that was agreed on is not valid here: {violation}"
            ) from None
        return Executed(
            block_hash=block_hash,
            block=block,
            result=result,
            leaves=self._state.changed_leaves(),
            views=views_of(block_hash, result) if with_views else {},
            transaction_ids=tuple(transaction_id(raw) for raw in block.transactions[1:]),
        )

    def _finalize(self, blocks: Sequence[Block], proof: QuorumCertificate) -> list[FinalResult]:
        fresh = [block for block in blocks if block.header.height > self.final_height]
        if not fresh:
            return []
        hashes = [hash_of(block.header) for block in fresh]
        for block_hash, block in zip(hashes, fresh, strict=True):
            self._blocks[block_hash] = block
        results: list[FinalResult] = []
        stored: list[FinalBlock] = []
        for block_hash, block in zip(hashes, fresh, strict=True):
            if not (self._layers and self._layers[0].block_hash == block_hash):
                self._check_root_chain(block)
                # Only the newest block's views are ever read: in a catch-up the others' are not made.
                self._move_to(block_hash, block.header.height, with_views=block is fresh[-1])
            ensure(
                bool(self._layers) and self._layers[0].block_hash == block_hash,
                "a final block follows the final tip",
            )
            layer = self._layers.pop(0)
            self._state.commit_oldest()
            self._base_hash, self._base_height = block_hash, block.header.height
            results.append(FinalResult(block.header.height, block_hash, block, layer.result))
            stored.append(self._stored(layer, proof if block is fresh[-1] else None))
        self._store.commit_many(stored)
        return results

    def _check_root_chain(self, block: Block) -> None:
        """A block that is final by proof was not validated by us: its parent root must be what we computed."""
        self._move_to(BlockHash(block.header.parent_hash), block.header.height - 1)
        if self._state.root() != block.header.parent_state_root:
            raise InvariantViolation(
                f"our state root after height {block.header.height - 1} is not the one that the validators agreed on"
            )

    def _stored(self, layer: Executed, proof: QuorumCertificate | None) -> FinalBlock:
        header = layer.block.header
        return FinalBlock(
            height=header.height,
            epoch=header.epoch,
            view=header.view,
            time_ns=header.time_ns,
            accounts=_concerned(layer),
            block_hash=layer.block_hash,
            block=encode(layer.block),
            proof=encode(proof) if proof is not None else b"",
            events=encode(layer.result.events),
            transaction_ids=layer.transaction_ids,
            leaves=layer.leaves,
            views=layer.views,
        )

    def _forget_old(self) -> None:
        self._blocks = {
            block_hash: block
            for block_hash, block in self._blocks.items()
            if block.header.height > self.final_height
        }


def _concerned(layer: Executed) -> list[bytes]:
    """Owner and sub-account of every account that a block changed or that an event of it names."""
    changed = {key[1:] for key, _ in layer.leaves if key[:1] == b"a"}
    named = {owner + bytes((number,)) for event in layer.result.events for owner, number in parties_of(event)}
    return sorted(changed | named)
