"""Snapshot sync: a new node takes the ledger as it is, in chunks from many peers, before it starts. Trio, disk.

From the trusted genesis the epochs are followed to the newest one; the head of a snapshot is believed if validators of
that epoch have signed for it; its chunks come from everybody who has the same snapshot, each checked alone under the
signed root and on disk only then, so that a crash loses nothing. Whoever sends another thing is dropped, blamed and
named. The state stands in the block store at the end, and catch-up fetches the blocks above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog
import trio

from consensus.certificates import SignatureCheck
from consensus.effects import EpochOpened
from consensus.epoch import Epoch
from consensus.epochs import opened
from consensus.final_range import check_final_header
from consensus.messages import EpochProof
from gossip.network import Network, NoAnswer
from gossip.reasons import GossipReason
from ledger.state import State
from node.config import NodeConfig, SyncConfig
from node.epoch_service import decide
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from node.network_config import open_network, others_in
from node.recovery import install, state_of
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.snapshots import (
    SnapshotFiles,
    SnapshotHead,
    SnapshotImport,
    StoredSnapshot,
    check_head,
    decode_head,
)
from node.sync.epoch_chain import check_next_set, follow, genesis_epoch
from node.sync.messages import (
    Chunk,
    ChunkRequest,
    EpochFileRequest,
    EpochLink,
    SnapshotOffers,
    SnapshotRequest,
    decode_reply,
)
from node.sync.reasons import SyncReason
from node.sync.scheduler import Piece, Scheduler
from node.verifier import SignatureVerifier
from primitives.codec import Wire, encode
from primitives.errors import OperatorError, ProtocolViolation
from primitives.identifiers import ValidatorIndex

OFFER_SECONDS_MAX = 20.0
"""How long a new node looks for peers with a snapshot; after that it fetches the blocks from genesis on."""
ASK_AGAIN_SECONDS = 0.5
EMPTY_ROUNDS_MAX = 6
"""How often peers that answer may have no snapshot before we believe that there is none."""
REQUESTS_PER_PEER = 2
IDLE_SECONDS = 0.05
REPORT_SECONDS = 2.0

T = TypeVar("T", bound=Wire)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Offer:
    """A snapshot that somebody has, checked in itself but not against any validators yet."""

    head: SnapshotHead
    givers: tuple[ValidatorIndex, ...]
    """Who offered this very head; the same snapshot may be offered under another certificate."""
    holders: tuple[ValidatorIndex, ...]
    """Who says to have the same snapshot."""


class Bootstrap:
    """Fills an empty block store, or leaves it empty."""

    def __init__(
        self,
        *,
        config: SyncConfig,
        genesis: GenesisDocument,
        first_epoch: Epoch,
        network: Network,
        store: BlockStore,
        snapshots: SnapshotFiles,
        epochs: EpochFiles,
        peers: Sequence[ValidatorIndex],
    ) -> None:
        """`first_epoch`: epoch 0, as genesis says; what everything is believed for."""
        self._config = config
        self._genesis = genesis
        self._first = first_epoch
        self._network = network
        self._store = store
        self._snapshots = snapshots
        self._epochs = epochs
        self._peers = list(peers)
        self._verifier = SignatureVerifier()
        self._changed = trio.Event()
        self._has_heard = False
        """Whether anybody answered in this round of asking."""
        self._last_proof: EpochProof | None = None
        """Why the newest epoch has begun."""
        self.liars: dict[ValidatorIndex, str] = {}
        """Peers caught lying, with the last reason."""
        self.fetched_chunks = 0
        """By this process: those of earlier lives are not fetched again."""

    async def run(self) -> int:
        """Until the store stands on a snapshot, or nobody has one; the height it stands on, 0 for none.

        Raises:
            OperatorError: the chain is older than what genesis may still be trusted for, or has two histories.
        """
        empty_rounds = 0
        with trio.move_on_after(OFFER_SECONDS_MAX) as searching:
            while self._peers and empty_rounds < EMPTY_ROUNDS_MAX:
                self._has_heard = False
                for offer in await self._offers():
                    searching.deadline = float("inf")
                    stored = await self._take(offer)
                    if stored is not None:
                        await trio.to_thread.run_sync(install, self._store, stored)
                        log.info("snapshot_installed", height=stored.height, chunks=stored.count)
                        return stored.height
                    searching.deadline = trio.current_time() + OFFER_SECONDS_MAX
                empty_rounds += self._has_heard
                await trio.sleep(ASK_AGAIN_SECONDS)
        log.warning("snapshot_not_found", action="the blocks are fetched from genesis on")
        return 0

    async def _take(self, offer: _Offer) -> StoredSnapshot | None:
        """One snapshot, whole and verified; None when it is not to be had."""
        head = offer.head
        log.info(
            "snapshot_offered", height=head.height, chunks=len(head.manifest.parts), peers=list(offer.holders)
        )
        epoch = await self._epoch_of(offer)
        if epoch is None:
            return None
        self._check_age(head, epoch)
        incoming = SnapshotImport(self._snapshots.directory, head)
        if not await self._fetch(incoming, offer.holders):
            return None
        stored = await trio.to_thread.run_sync(incoming.finish)
        state = await trio.to_thread.run_sync(state_of, stored, self._genesis)
        self._keep_newest(state, epoch)
        return stored

    # --- which snapshot ---

    async def _offers(self) -> list[_Offer]:
        """What peers have, one that we have begun first, then the newest, then what most of them agree on."""
        found: dict[bytes, tuple[SnapshotHead, list[ValidatorIndex]]] = {}
        holders: dict[bytes, list[ValidatorIndex]] = {}

        async def ask(peer: ValidatorIndex) -> None:
            answer = await self._ask(peer, SnapshotRequest(), SnapshotOffers)
            if answer is None:
                return
            self._has_heard = True
            try:
                for raw in answer.heads:
                    head = await trio.to_thread.run_sync(_checked_head, raw, self._first.chain_id)
                    found.setdefault(raw, (head, []))[1].append(peer)
                    holders.setdefault(head.name, []).append(peer)
            except ProtocolViolation as violation:
                self._on_liar(peer, violation)

        async with trio.open_nursery() as nursery:
            for peer in list(self._peers):
                nursery.start_soon(ask, peer)
        begun = self._snapshots.begun()
        offers = [
            _Offer(head, tuple(sorted(givers)), tuple(sorted(set(holders[head.name]))))
            for head, givers in found.values()
        ]
        return sorted(
            offers,
            key=lambda one: (one.head.name not in begun, -one.head.height, -len(one.givers), one.givers),
        )

    async def _epoch_of(self, offer: _Offer) -> Epoch | None:
        """The epoch whose validators have signed for the snapshot, followed from genesis and kept on disk.

        None when nobody could lead there, or the head is not signed; who led wrong, or gave such a head, is dropped.
        """
        head = offer.head
        for peer in list(self._peers):
            try:
                epoch = await self._follow(head, peer)
            except ProtocolViolation as violation:
                self._on_liar(peer, violation)
                continue
            if epoch is None:
                continue
            try:
                await self._verify(check_final_header(head.headers[-1], head.certificate, epoch))
            except ProtocolViolation as violation:
                for giver in offer.givers:
                    self._on_liar(giver, violation)
                return None
            try:
                check_next_set(head.headers[-1], epoch)
                return epoch
            except ProtocolViolation as violation:
                self._on_liar(peer, violation)
        return None

    async def _follow(self, head: SnapshotHead, peer: ValidatorIndex) -> Epoch | None:
        """Every link from genesis to the epoch above the snapshot, from one peer; None when it does not answer."""
        epoch = self._first
        if {header.epoch for header in head.headers} != {head.headers[0].epoch}:
            raise ProtocolViolation(SyncReason.WRONG_SNAPSHOT, "the proof goes on into another epoch")
        while epoch.number < head.headers[0].epoch:
            answer = await self._ask(peer, EpochFileRequest(epoch.number + 1), EpochLink)
            if answer is None:
                return None
            link = follow(answer, epoch)
            await self._verify(link.checks)
            epoch = link.epoch
            self._check_trusted(epoch)
            self._epochs.keep(link.kept)
            self._last_proof = link.kept.proof
        return epoch

    def _check_trusted(self, epoch: Epoch) -> None:
        """The point that the operator gave must be on the way."""
        config = self._config
        if epoch.number == config.trusted_epoch and epoch.genesis.hex() != config.trusted_boundary:
            raise ProtocolViolation(
                SyncReason.WRONG_EPOCH, f"epoch {epoch.number} does not begin on the trusted block"
            )

    def _check_age(self, head: SnapshotHead, epoch: Epoch) -> None:
        """Stake that has left may sign what it likes: an old trust leads to any history. Raises OperatorError."""
        config, staking = self._config, self._genesis.ledger.staking
        if not staking.validators or config.trusted_boundary:
            return
        age_epochs = epoch.number
        age_ns = head.block.header.time_ns - self._genesis.time_ns
        if age_epochs > staking.unbonding_epochs and age_ns > staking.unbonding_ns:
            raise OperatorError(
                f"the chain is {age_epochs} epochs old, and genesis can be trusted for {staking.unbonding_epochs}: "
                "give [sync] trusted_epoch and trusted_boundary, from somebody whom you trust "
                "(quorate light sync shows them)"
            )

    def _keep_newest(self, state: State, epoch: Epoch) -> None:
        """What a link said of the epoch to come, the state says for certain.

        Raises:
            OperatorError: other validators; no signed header allows that.
        """
        decided = decide(state, epoch.number, epoch.next_set)
        if decided.validators.set_hash() != epoch.next_set.set_hash():
            raise OperatorError(
                f"the state at height {state.clock.height} names other validators for epoch {epoch.number + 1} than "
                "the signed headers: remove the node's data and start again"
            )
        if self._last_proof is not None:
            known = replace(epoch, next_version=decided.version)
            self._epochs.keep(EpochOpened(opened(known), self._last_proof))

    # --- its chunks ---

    async def _fetch(self, incoming: SnapshotImport, peers: Sequence[ValidatorIndex]) -> bool:
        """All missing chunks, from everybody who has the snapshot; False when nobody is left to ask."""
        count = len(incoming.head.manifest.parts)
        honest = [peer for peer in peers if peer in self._peers]
        scheduler = Scheduler(honest, 0, count - 1, 1)
        present = set(range(count)) - set(incoming.missing())
        log.info("snapshot_started", height=incoming.head.height, chunks=count, present=len(present))
        async with trio.open_nursery() as nursery:
            for peer in honest:
                for _ in range(REQUESTS_PER_PEER):
                    nursery.start_soon(self._fetch_from, peer, scheduler, incoming, present)
            nursery.start_soon(self._report, present, count)
            consumed = -1
            while not (scheduler.is_done or scheduler.is_hopeless):
                while consumed + 1 in present:
                    consumed += 1
                scheduler.consumed(consumed)
                with trio.move_on_after(IDLE_SECONDS):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()
        return scheduler.is_done

    async def _fetch_from(
        self, peer: ValidatorIndex, scheduler: Scheduler, incoming: SnapshotImport, present: set[int]
    ) -> None:
        while peer in self._peers:
            piece = scheduler.take(peer, _now_ms())
            if piece is None:
                with trio.move_on_after(IDLE_SECONDS):
                    await self._changed.wait()
            elif piece.first in present:
                scheduler.answered(peer, piece, piece.last, _now_ms())
            else:
                await self._fetch_chunk(peer, scheduler, incoming, present, piece)
        scheduler.drop(peer)
        self._notify()

    async def _fetch_chunk(
        self,
        peer: ValidatorIndex,
        scheduler: Scheduler,
        incoming: SnapshotImport,
        present: set[int],
        piece: Piece,
    ) -> None:
        index = piece.first
        answer = await self._ask(peer, ChunkRequest(incoming.head.name, index), Chunk)
        if answer is None or not answer.raw:
            scheduler.failed(peer, piece, _now_ms())
            return
        try:
            await trio.to_thread.run_sync(incoming.put, index, answer.raw)
        except ProtocolViolation as violation:
            self._on_liar(peer, violation)
            return
        if scheduler.answered(peer, piece, index, _now_ms()):
            self.fetched_chunks += 1
            present.add(index)
        self._notify()

    # --- peers ---

    async def _ask(self, peer: ValidatorIndex, question: Wire, kind: type[T]) -> T | None:
        """One answer; None when there is none, or no such."""
        try:
            return decode_reply(kind, await self._network.request(peer, encode(question)))
        except NoAnswer:
            return None
        except ProtocolViolation as violation:
            self._on_liar(peer, violation)
            return None

    async def _verify(self, checks: Sequence[SignatureCheck]) -> None:
        if not await self._verifier.all_valid(checks):
            raise ProtocolViolation(SyncReason.BAD_SIGNATURE, "a certificate's signature does not verify")

    def _on_liar(self, peer: ValidatorIndex, violation: ProtocolViolation) -> None:
        """Asked nothing more until the next start."""
        self.liars[peer] = violation.reason.value
        if peer in self._peers:
            self._peers.remove(peer)
        log.warning("sync_liar", peer=peer, reason=violation.reason.value, detail=violation.detail)
        self._network.penalise(peer, GossipReason.FALSE_ANSWER)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _report(self, present: set[int], count: int) -> None:
        while True:
            await trio.sleep(REPORT_SECONDS)
            log.info("snapshot_progress", present=len(present), chunks=count)


async def prepare(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> None:
    """Before a node is built: fill its block store from a snapshot if it is empty and the operator wants it so.

    Raises:
        OperatorError: as `Bootstrap.run`, or a port is taken.
    """
    if not config.sync.snapshot:
        return
    store = BlockStore.open(config.store_path, chain_id=chain_id_of(genesis))
    try:
        if store.tip() is not None:
            return
        snapshots = SnapshotFiles(config.snapshots_path)
        whole = snapshots.newest()
        if whole is not None:
            # It was complete when we were interrupted, and verified before.
            await trio.to_thread.run_sync(install, store, snapshots.open(whole))
            return
        network = open_network(config, genesis, keys)
        bootstrap = Bootstrap(
            config=config.sync,
            genesis=genesis,
            first_epoch=genesis_epoch(genesis),
            network=network,
            store=store,
            snapshots=snapshots,
            epochs=EpochFiles(config.data_path / "epochs"),
            peers=others_in(network),
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(network.run)
            await bootstrap.run()
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def _checked_head(raw: bytes, chain_id: bytes) -> SnapshotHead:
    head = decode_head(raw)
    check_head(head, chain_id)
    return head


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)
