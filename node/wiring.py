"""Builds one node from its configuration, genesis and keys, and connects its parts. Trio, disk, network.

Nothing else happens here: every part has its own module, and each long-lived one is started once, in one nursery.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog
import trio

from consensus.effects import ReportEvidence, ReportNotarized
from consensus.epochs import EpochManager
from consensus.evidence_pool import EvidencePool
from consensus.messages import Block, EvidenceMessage
from consensus.state import CoreConfig, Parameters, Signer
from consensus.validator_set import ValidatorSet
from consensus.watch import Watch
from gossip.network import PeerConfig, Topic
from ledger.staking.state import EpochSet, scan
from ledger.state import State
from node.address_book import AddressBook
from node.clock import MarketClock
from node.collector import look_seldom
from node.config import NodeConfig
from node.consensus_service import ConsensusService
from node.disk_gauge import DiskGauge
from node.epoch_service import EpochService, oracle_keys
from node.final_blocks import FinalBlocks
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from node.ledger_service import LedgerService
from node.messages import TransactionBundle
from node.metrics import NodeMetrics
from node.network_config import open_network, others_in
from node.oracle.adapters import open_adapter
from node.oracle.aggregate import AggregationRules
from node.oracle_service import OracleService, ReportPool
from node.recovery import restore
from node.router import Router
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import TransactionStage, TransactionStatus
from node.rpc.supervisor import GatewayProcess
from node.safety_journal import SafetyJournal, adopt_signed, recover
from node.signer.client import NO_SIGNER, RemoteSigner, SignerAccess, reach
from node.signer.tls import context_of
from node.snapshot_service import SnapshotService
from node.status import NodeAnswers
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.evidence_files import EvidenceFiles
from node.storage.home_lock import HomeLock
from node.storage.retention import Retention
from node.storage.snapshots import SnapshotFiles
from node.storage.watermark import Watermark
from node.sync.bootstrap import prepare
from node.sync.follower import FinalBlockListener, OrderForwarder
from node.sync.server import SyncServer
from node.sync.service import SyncService
from node.tracing import trace
from node.transaction_service import TransactionService
from node.verifier import SignatureVerifier
from primitives.codec import encode, prepare_decoders
from primitives.errors import OperatorError, ensure
from primitives.identifiers import BlockHash

if TYPE_CHECKING:
    from trio_typing import TaskStatus

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a Python thread may hold the interpreter while another waits: with the default of 5 ms, short thread calls
beside a busy loop took up to seconds (network.md section 2)."""

log = structlog.get_logger()


async def run_node(config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        OperatorError: the home is in use, its data is damaged, or a port is taken.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    prepare_decoders()
    look_seldom()
    with ExitStack() as stack:
        lock = HomeLock(config.home_path)
        stack.callback(lock.release)
        remote = await _reach_signer(config, genesis)
        check_identity(config, genesis, keys, None if remote is None else remote.signers)
        await prepare(config, genesis, keys)
        await Wiring(config, genesis, keys, stack, remote).run()


async def _reach_signer(config: NodeConfig, genesis: GenesisDocument) -> RemoteSigner | None:
    """The remote signer, if there is to be one. Raises OperatorError when it is not to be had."""
    address, settings, home = config.signer_address(), config.signer, config.home_path
    if address is None:
        return None
    trusted, tls = home / settings.trusted, None
    if address.path is None:
        certificate, private_key = home / settings.certificate, home / settings.private_key
        tls = context_of(certificate, private_key, trusted, is_server=False)
    return await reach(SignerAccess(address, chain_id_of(genesis), config.name, tls, trusted))


def check_identity(
    config: NodeConfig,
    genesis: GenesisDocument,
    keys: ValidatorKeys,
    signers: Collection[bytes] | None = None,
) -> None:
    """That the keys are those of the validator that we are to be. Raises OperatorError.

    `signers`: public keys of the remote signer; None: there is none, the keystore's keys count.
    """
    if config.index is None:
        return
    count = len(genesis.validators)
    if config.index >= count and genesis.ledger.staking.validators:
        return  # It joined later: `check_place` asks the ledger.
    if config.index >= count:
        raise OperatorError(
            f"node.toml says index {config.index}, genesis has only {count} validators, from 0"
        )
    entry = genesis.validators[config.index]
    if signers is None:
        signers = keys.consensus_keys or (keys.consensus.public_key,)
    if keys.oracle.public_key != entry.oracle_key or entry.consensus_key not in signers:
        raise OperatorError(
            f"the keys in {config.keystore_path} are not those of validator {config.index} ({entry.name}) in genesis"
        )


def check_place(
    config: NodeConfig, genesis: GenesisDocument, state: State, signers: Collection[bytes]
) -> None:
    """That a validator which is not in genesis has the place that its node.toml says. Raises OperatorError."""
    if config.index is None or config.index < len(genesis.validators):
        return
    known: list[EpochSet] = scan(state, b"ke")
    members = [one.member_at(config.index) for one in known]
    if not any(member is not None and member.consensus_key in signers for member in members):
        raise OperatorError(
            f"node.toml says index {config.index}, but no set that this node knows of (up to height "
            f"{state.clock.height}) has our key there: without `index` it follows; see `quorate validator status`"
        )


def retention_of(config: NodeConfig, genesis: GenesisDocument) -> Retention:
    """What the operator asks to keep, and no less than evidence may be about."""
    staking = genesis.ledger.staking
    needed = (staking.evidence_epochs_max + 1) * staking.epoch_blocks if staking.validators else 0
    return Retention(config.retention_blocks, config.retention_seconds, needed)


class Wiring:
    """The parts of one node, built in the order in which they depend on each other."""

    def __init__(
        self,
        config: NodeConfig,
        genesis: GenesisDocument,
        keys: ValidatorKeys,
        stack: ExitStack,
        remote: RemoteSigner | None = None,
    ) -> None:
        """`remote`: who signs instead of the keystore's consensus keys."""
        self.remote = remote
        self.signers: Mapping[bytes, Signer] = keys.consensus_keys if remote is None else remote.signers
        self.config = config
        self.genesis = genesis
        self.keys = keys
        self.stack = stack
        self.chain_id = chain_id_of(genesis)
        self.clock = _clock_of(config)
        self.store = BlockStore.open(
            config.store_path, chain_id=self.chain_id, retention=retention_of(config, genesis)
        )
        stack.callback(self.store.close)
        memory = recover(config.journal_path, config.watermark_path)
        if remote is not None:
            adopt_signed(memory, remote.welcome.votes)
        self.journal, self.watermark = memory.journal, memory.watermark
        stack.callback(self.journal.close)
        if self.watermark is not None:
            stack.callback(self.watermark.close)
        self.observer = memory.observer_reason or ""
        self.snapshots = SnapshotFiles(config.snapshots_path)
        self.restored = restore(self.store, genesis, self.snapshots, memory.records)
        check_place(config, genesis, self.restored.state, self.signers)
        self.own_index = config.index if not self.observer else None
        self.verifier = SignatureVerifier()
        self.metrics = NodeMetrics()
        if remote is not None:
            remote.observe_with(self.metrics.registry)
        self.epochs = EpochFiles(config.data_path / "epochs")
        self.server = SyncServer(self.store, self.epochs, self.snapshots, self._epoch_blocks, self._on_bundle)
        self.network = open_network(config, genesis, keys, self.server.answer)
        self.disk = DiskGauge(config.data_path)
        tip = self.restored
        self.ledger = LedgerService(tip.state, tip.tip_hash, tip.tip_height, self.store, self.verifier)
        self.evidence = EvidenceFiles(config.data_path / "evidence")
        self.core = self._core()
        self.ledger.find_block = self._find_block
        self.reports = ReportPool(oracle_keys(self.restored.state), self.chain_id)
        self.safety = SafetyJournal(self.journal, self.watermark, self.core.journal_records)
        self.consensus = self._consensus()
        self.oracle = self._oracle() if self.own_index is not None and config.venues else None
        self.forwarder = self._forwarder()
        spreader = self.forwarder or self.network
        self.transactions = TransactionService(self.ledger, spreader, self.verifier, self.metrics)
        self.sync = self._sync()
        self.consensus.on_height = self.sync.on_height
        self.answers = self._answers()
        self.socket = NodeSocket(config.socket_path, self.answers)

    async def run(self) -> None:
        """Start every part; return when a signal asks for the end."""
        log.info(
            "node_starting",
            chain_id=self.chain_id.hex(),
            index=self.own_index,
            final_height=self.restored.tip_height,
            observer=self.observer,
        )
        if self.observer:
            log.error("observing_only", reason=self.observer)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.serve)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for number in signals:
                    log.info("node_stopping", signal=signal.Signals(number).name)
                    break
            nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every part; until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.network.run)
            await nursery.start(self.socket.run)
            for part in self._parts():
                nursery.start_soon(part)
            task_status.started()

    def _parts(self) -> list[Callable[[], Awaitable[None]]]:
        listener = FinalBlockListener(self.consensus, self.sync, self.verifier, self.metrics)
        router = Router(
            network=self.network,
            consensus=self.consensus,
            transactions=self.transactions,
            reports=self.reports,
            verifier=self.verifier,
            metrics=self.metrics,
            on_final_block=listener.receive if self.forwarder is not None else None,
        )
        final_blocks = FinalBlocks(
            consensus=self.consensus,
            ledger=self.ledger,
            network=self.network,
            socket=self.socket,
            metrics=self.metrics,
            clock=self.clock,
            own_index=self.own_index,
        )
        parts: list[Callable[[], Awaitable[None]]] = [
            self.consensus.run,
            router.run,
            final_blocks.run,
            self.transactions.run,
            self.disk.run,
            self.sync.run,
            AddressBook(self.config, self.genesis, self.keys, self.ledger, self._know).run,
        ]
        if self.remote is not None:
            self.remote.on_return = self.consensus.on_signer_back
            parts.append(self.remote.run)
        if self.forwarder is not None:
            parts.append(self.forwarder.run)
        if self.oracle is not None:
            parts.append(self.oracle.run)
        if self.config.snapshot_blocks:
            parts.append(self._snapshot_service().run)
        if self.config.gateway.enabled:
            parts.append(GatewayProcess(self.config).run)
        return parts

    # --- parts ---

    @property
    def _epoch_blocks(self) -> int:
        """Blocks in an epoch; 0: one endless epoch."""
        staking = self.genesis.ledger.staking
        return staking.epoch_blocks if staking.validators else 0

    def _know(self, validators: Sequence[PeerConfig]) -> None:
        self.network.know(validators)
        others = others_in(self.network)
        self.sync.know(others)
        if self.forwarder is not None:
            self.forwarder.know(others)

    async def _on_bundle(self, bundle: TransactionBundle) -> None:
        await self.transactions.receive(bundle)

    def _core(self) -> EpochManager:
        parameters = self.genesis.consensus
        validators = self.genesis.validators
        config = CoreConfig(
            chain_id=self.chain_id,
            validator_set=ValidatorSet(
                tuple(entry.consensus_key for entry in validators),
                tuple(entry.weight for entry in validators),
                parameters.final_weight or None,
            ),
            own_index=self.config.index,
            own_key=next(iter(self.signers), None),
            version=self.genesis.ledger.protocol.version,
            watch=Watch(self.config.index) if self.observer and self.config.index is not None else None,
            parameters=Parameters(
                delta_ms=parameters.delta_ms,
                min_block_ms=parameters.min_block_ms,
                lookahead_views=parameters.lookahead_views,
                retain_views=parameters.retain_views,
            ),
        )
        pool = EvidencePool(self.evidence.load())
        return EpochManager(
            config,
            next(iter(self.signers.values()), NO_SIGNER),
            self.restored.tip,
            self.restored.records,
            pool,
            epoch_blocks=self._epoch_blocks,
            opened=self.epochs.load(self.restored.tip_height, self._epoch_blocks),
            rotated=self.signers,
        )

    def _consensus(self) -> ConsensusService:
        return ConsensusService(
            self.core,
            network=self.network,
            journal=self.safety,
            store=self.store,
            ledger=self.ledger,
            epochs=EpochService(self.epochs, self.ledger, self.network, self.reports.change_reporters),
            verifier=self.verifier,
            metrics=self.metrics,
            reports=self.reports.newest,
            min_block_ms=self.genesis.consensus.min_block_ms,
            on_evidence=self._on_evidence,
            on_notarized=self._on_notarized,
            on_watch_ended=self._on_watch_ended,
        )

    def _forwarder(self) -> OrderForwarder | None:
        """Only a follower has one: validators have lanes."""
        if self.config.index is not None:
            return None
        return OrderForwarder(self.network, others_in(self.network), self.metrics)

    def _sync(self) -> SyncService:
        return SyncService(
            consensus=self.consensus,
            ledger=self.ledger,
            network=self.network,
            verifier=self.verifier,
            metrics=self.metrics,
            peers=others_in(self.network),
            is_follower=self.config.index is None,
        )

    def _oracle(self) -> OracleService:
        config, speed = self.config, self.clock.speed
        adapters = [
            open_adapter(name, address, self.ledger.listed(), speed, self.clock.now_ns)
            for name, address in sorted(config.venues.items())
        ]
        return OracleService(
            key=self.keys.oracle,
            chain_id=self.chain_id,
            clock=self.clock,
            adapters=adapters,
            rules=AggregationRules(speed=speed),
            network=self.network,
            pool=self.reports,
            listed=self.ledger.listed,
            asked=self.ledger.quotes_due,
            delays=self.consensus.delays.seen,
            index_interval_ms=config.oracle.index_interval_ms,
            surface_interval_ms=config.oracle.surface_interval_ms,
        )

    def _snapshot_service(self) -> SnapshotService:
        return SnapshotService(
            self.store,
            self.config.store_path,
            self.snapshots,
            self.ledger.wait_final,
            lambda: self.ledger.final_height,
            every_blocks=self.config.snapshot_blocks,
            keep=self.config.snapshots_kept,
        )

    def _answers(self) -> NodeAnswers:
        return NodeAnswers(
            name=self.config.name,
            index=self.own_index,
            chain_id=self.chain_id,
            validators=len(self.genesis.validators),
            observer=self.observer,
            consensus=self.consensus,
            ledger=self.ledger,
            transactions=self.transactions,
            network=self.network,
            oracle=self.oracle,
            verifier=self.verifier,
            metrics=self.metrics,
            clock=self.clock,
            sync=self.sync,
            disk_use=self.disk,
        )

    def _find_block(self, block_hash: BlockHash) -> Block | None:
        node = self.core.state.tree.get(block_hash)
        return None if node is None else node.block

    def _on_notarized(self, effect: ReportNotarized) -> None:
        """Tell clients how far their transactions have come."""
        ids = self.ledger.transactions_of(effect.block_hash)
        if ids:
            trace("notarized", ids, height=effect.height)
            self.socket.publish(TransactionStatus(TransactionStage.NOTARIZED.value, effect.height, ids))

    def _on_watch_ended(self) -> None:
        """We sign again, and from the next start on report prices again.

        There is a new watermark where the old one was unreadable: it knows of what is signed from now on.
        """
        self.observer = self.answers.observer = ""
        if self.watermark is None:
            self.config.watermark_path.unlink(missing_ok=True)
            Watermark.create(self.config.watermark_path)
            self.watermark = Watermark.open(self.config.watermark_path)
            ensure(self.watermark is not None, "a new watermark can be read")
            if self.watermark is not None:
                self.stack.callback(self.watermark.close)
                self.safety.use(self.watermark)

    def _on_evidence(self, effect: ReportEvidence) -> None:
        """Keep the first proof of each kind of offence by a validator in an epoch, and tell followers."""
        if self.evidence.keep(effect):
            self.network.publish(Topic.EVIDENCE, encode(EvidenceMessage(effect.evidence)))


def _clock_of(config: NodeConfig) -> MarketClock:
    clock = config.market_clock
    if clock.start_market_ns == 0:
        return MarketClock.wall()
    return MarketClock(clock.start_market_ns, clock.start_monotonic_ns, clock.speed)
