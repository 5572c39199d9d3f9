"""Answers the gateway and local tools over the Unix socket: transactions in, status and metrics out. Trio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psutil

from gossip.network import Network
from ledger.breakers.queries import BreakersView, get_breakers_view
from ledger.staking.queries import get_validators
from node.clock import MarketClock
from node.consensus_service import ConsensusService
from node.ledger_service import LedgerService
from node.metrics import NodeMetrics
from node.oracle_service import OracleService
from node.rpc.protocol import PeerStatus, StatusReply, SubmitReply
from node.sync.service import SyncService
from node.transaction_service import TransactionService
from node.verifier import SignatureVerifier


class NodeAnswers:
    """What NodeSocket asks when a client calls."""

    def __init__(
        self,
        *,
        name: str,
        index: int | None,
        chain_id: bytes,
        validators: int,
        observer: str,
        consensus: ConsensusService,
        ledger: LedgerService,
        transactions: TransactionService,
        network: Network,
        oracle: OracleService | None,
        verifier: SignatureVerifier,
        metrics: NodeMetrics,
        clock: MarketClock,
        sync: SyncService,
        disk_use: Callable[[], Mapping[str, int]],
    ) -> None:
        self._name = name
        self._index = index
        self._chain_id = chain_id
        self._validators = validators
        self.observer = observer
        """Why this node signs nothing; empty when it does, also after it has watched long enough."""
        self._consensus = consensus
        self._ledger = ledger
        self._transactions = transactions
        self._network = network
        self._oracle = oracle
        self._verifier = verifier
        self._metrics = metrics
        self._sync = sync
        self._clock = clock
        self._disk_use = disk_use
        self._process = psutil.Process()

    async def submit(self, raws: Sequence[bytes]) -> tuple[SubmitReply, ...]:
        """Admit client transactions."""
        return await self._transactions.submit(raws)

    def status(self) -> StatusReply:
        """Where this node stands, from memory."""
        return self._status(get_breakers_view(self._ledger.state_for_reading))

    def _status(self, breakers: BreakersView) -> StatusReply:
        epsilons = sorted(item.epsilon_ppm for item in breakers.drifts)
        p50_us, p99_us = self._metrics.finality_percentiles_us()
        times = self._process.cpu_times()
        counters = {
            f"gossip_{name}_{label}".rstrip("_"): count
            for (name, label), count in self._network.counters.snapshot().items()
        }
        oracle = self._oracle
        if oracle is not None:
            counters |= {f"{name}_{what}": count for (name, what), count in oracle.venue_counters().items()}
        if oracle is not None and oracle.rmse_vol_points:
            fits = sorted(oracle.rmse_vol_points)
            counters["surface_rmse_millipoints_p50"] = round(fits[len(fits) // 2] * 1_000)
            counters["surface_rmse_millipoints_max"] = round(fits[-1] * 1_000)
        counters |= {f"disk_{part}_bytes": count for part, count in self._disk_use().items()}
        counters |= self._sync.counters()
        counters["signatures_verified"] = self._verifier.verified
        counters["signatures_cached"] = self._verifier.cached
        return StatusReply(
            name=self._name,
            index=-1 if self._index is None else self._index,
            chain_id=self._chain_id,
            validators=self._validators,
            height=self._ledger.executed_height,
            view=self._consensus.view,
            final_height=self._ledger.final_height,
            final_hash=self._ledger.final_hash,
            state_root=self._ledger.final_root,
            block_time_ns=self._ledger.final_time_ns,
            market_time_ns=self._clock.now_ns(),
            halted=self._consensus.halted,
            observer=self.observer,
            peers=tuple(
                PeerStatus(
                    peer.index, peer.connected, -1 if peer.rtt_ms is None else int(peer.rtt_ms * 1_000)
                )
                for peer in self._network.peers()
            ),
            finality_us_p50=p50_us,
            finality_us_p99=p99_us,
            finality_count=self._metrics.finality_count,
            fast_share_ppm=self._metrics.fast_share_ppm(),
            mempool_size=len(self._ledger.mempool),
            rss_bytes=self._process.memory_info().rss,
            cpu_ms=int((times.user + times.system) * 1_000),
            epsilon_ppm_p50=epsilons[len(epsilons) // 2] if epsilons else 0,
            counters=tuple(sorted(counters.items())),
        )

    def metrics_text(self) -> bytes:
        """Prometheus text; the validators' part is as of the last executed block."""
        self._metrics.set_validators(get_validators(self._ledger.state_for_reading))
        breakers = get_breakers_view(self._ledger.state_for_reading)
        self._metrics.set_breakers(breakers)
        self._metrics.set_status(self._status(breakers))
        venues = {} if self._oracle is None else self._oracle.venue_counters()
        disk = {("disk_bytes", part): count for part, count in self._disk_use().items()}
        return self._metrics.text({**self._network.counters.snapshot(), **venues, **disk})
