"""Listens to every validator of a testnet and gathers the facts of the run. Trio; no printing.

One task per validator follows its Unix socket and survives its restarts. Roots are compared as they come, height by
height; whatever was missed while a validator was down is compared from its store at the end (testnet/audit.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from ledger.breakers.events import PhaseChanged
from ledger.events import (
    ActionRejected,
    Event,
    ExpirySettled,
    LiquidationStep,
    OrderAccepted,
    SeriesListed,
    Trade,
    TransactionRejected,
)
from ledger.instruments import Underlying
from node.rpc.client_trio import CallRefused, NodeClient, open_node_client
from node.rpc.protocol import BlockTiming, FinalBlockNotice, StatusReply
from primitives.codec import decode_own
from testnet.report import Divergence, ListingFacts, PhaseFact

RECONNECT_SECONDS = 0.2
STATUS_SECONDS = 1.0
ROOTS_SHOWN_MAX = 64
"""Heights of each validator whose roots are kept for the view."""


@dataclass(slots=True)
class Lifeline:
    """What one validator has shown so far."""

    index: int
    socket_path: Path
    connected: bool = False
    status: StatusReply | None = None
    height: int = 0
    last_signed_height: int = 0
    roots: dict[int, bytes] = field(default_factory=dict)
    """State roots of its last heights, for showing all validators at one height."""


@dataclass(slots=True)
class Tally:
    """Counts of events, each height counted once, from whichever validator showed it first."""

    seen_height: int = 0
    orders_accepted: int = 0
    filled_orders: set[int] = field(default_factory=set)
    trades: int = 0
    liquidations: int = 0
    expiries_settled: int = 0
    listing: ListingFacts = field(default_factory=ListingFacts)
    rejected: dict[str, int] = field(default_factory=dict)
    phases: list[PhaseFact] = field(default_factory=list)

    def add(self, events: Sequence[Event]) -> None:
        """Count one block's events."""
        for event in events:
            match event:
                case Trade():
                    self.trades += 1
                    self.filled_orders.update((event.buy_order_id, event.sell_order_id))
                    self.listing.on_trade(event.instrument, time.monotonic())
                case OrderAccepted():
                    self.orders_accepted += 1
                case LiquidationStep():
                    self.liquidations += 1
                case ExpirySettled():
                    self.expiries_settled += 1
                case SeriesListed():
                    ids = range(event.first_id, event.first_id + event.count)
                    series = (event.underlying, event.expiry_ns)
                    self.listing.on_listed(series, ids, time.monotonic())
                case PhaseChanged():
                    name = Underlying(event.underlying).name
                    self.phases.append(PhaseFact(self.seen_height, name, event.phase, event.causes))
                case ActionRejected() | TransactionRejected():
                    self.rejected[event.reason] = self.rejected.get(event.reason, 0) + 1
                case _:
                    pass


class Collector:
    """Facts of a running testnet, by validator and by height."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self.lifelines = [Lifeline(index, path) for index, path in enumerate(sockets)]
        self.tally = Tally()
        self.divergences: list[Divergence] = []
        self.finality_ms: list[float] = []
        self.surface_rmse_vol_points: list[float] = []
        """Median error over the expiries of one validator's fit, a sample a second and validator."""
        self.final_blocks = 0
        self.final_blocks_fast = 0
        self.first_final = trio.Event()
        self._roots: dict[int, dict[int, bytes]] = {}
        self._compared: set[int] = set()
        self._proposed_ns: dict[bytes, int] = {}
        self._waiting: dict[bytes, list[int]] = {}

    @property
    def compared_heights(self) -> int:
        """Heights at which at least two validators' roots were compared."""
        return len(self._compared)

    async def run(self) -> None:
        """Follow every validator until cancelled."""
        async with trio.open_nursery() as nursery:
            for lifeline in self.lifelines:
                nursery.start_soon(self._follow, lifeline)

    async def _follow(self, lifeline: Lifeline) -> None:
        while True:
            try:
                async with open_node_client(lifeline.socket_path) as client:
                    lifeline.connected = True
                    await client.subscribe()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._poll_status, client, lifeline)
                        async for notice in client.notices:
                            self._note(lifeline, notice)
                        nursery.cancel_scope.cancel()
            except* (OSError, CallRefused, trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            lifeline.connected = False
            await trio.sleep(RECONNECT_SECONDS)

    async def _poll_status(self, client: NodeClient, lifeline: Lifeline) -> None:
        while True:
            lifeline.status = await client.status()
            rmse = dict(lifeline.status.counters).get("surface_rmse_millipoints_p50")
            if rmse is not None:
                self.surface_rmse_vol_points.append(rmse / 1_000)
            await trio.sleep(STATUS_SECONDS)

    def _note(self, lifeline: Lifeline, notice: object) -> None:
        if isinstance(notice, FinalBlockNotice):
            self._note_final(lifeline, notice)
        elif isinstance(notice, BlockTiming):
            self._note_timing(notice)

    def _note_final(self, lifeline: Lifeline, notice: FinalBlockNotice) -> None:
        lifeline.height = notice.height
        lifeline.roots[notice.height] = notice.state_root
        lifeline.roots.pop(notice.height - ROOTS_SHOWN_MAX, None)
        self.first_final.set()
        if notice.height > self.tally.seen_height:
            self.tally.seen_height = notice.height
            self.tally.add(decode_own(tuple[Event, ...], notice.events))
        self._compare(lifeline.index, notice.height, notice.state_root)

    def _compare(self, index: int, height: int, root: bytes) -> None:
        roots = self._roots.setdefault(height, {})
        roots[index] = root
        if len(roots) > 1:
            self._compared.add(height)
        if len(set(roots.values())) > 1:
            shown = tuple((who, value.hex()) for who, value in sorted(roots.items()))
            self.divergences = [item for item in self.divergences if item.height != height]
            self.divergences.append(Divergence(height, shown))
        if len(roots) == len(self.lifelines):
            del self._roots[height]

    def _note_timing(self, timing: BlockTiming) -> None:
        """Finality of a block at one validator: from when its proposer had built it, on the shared clock."""
        self.final_blocks += 1
        self.final_blocks_fast += timing.is_fast
        for signer in timing.signers:
            lifeline = self.lifelines[signer]
            lifeline.last_signed_height = max(lifeline.last_signed_height, timing.height)
        if timing.proposed_ns:
            self._proposed_ns[timing.block_hash] = timing.proposed_ns
            for final_ns in self._waiting.pop(timing.block_hash, []):
                self.finality_ms.append((final_ns - timing.proposed_ns) / 1e6)
        began = self._proposed_ns.get(timing.block_hash)
        if began is None:
            self._waiting.setdefault(timing.block_hash, []).append(timing.final_ns)
        else:
            self.finality_ms.append((timing.final_ns - began) / 1e6)
