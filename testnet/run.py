"""One run of a testnet: start everything, watch it, break what the plan breaks, stop, audit. Trio and processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import trio

from ledger.instruments import Underlying, date_of
from node.clock import MarketClock
from node.oracle.venue_book import series_of
from primitives.amounts import NS
from primitives.errors import OperatorError
from testnet.audit import audit_stores
from testnet.collector import Collector
from testnet.market.config import TRUTH, venue_address
from testnet.plan import Kill, Plan
from testnet.processes import Process, end_all
from testnet.report import Facts, ListingFacts, Recovery, percentile
from testnet.setup import Layout
from testnet.signatures import double_signed
from testnet.traders.config import TradersOutcome
from testnet.truth import Truth
from testnet.view import Picture, Smile, ValidatorRow

if TYPE_CHECKING:
    from trio_typing import TaskStatus

FIRST_BLOCK_SECONDS_MAX = 60.0
"""Without a final block by then the run is given up with the validators' last words."""
DRAIN_SECONDS = 3.0
"""After the traders stop, so that everything accepted can become final."""
QUORUM_SHARE = 2 / 3


@dataclass(slots=True)
class _Return:
    """A killed validator on its way back."""

    kill: Kill
    killed_at: float
    restarted_at: float | None = None
    target_height: int = 0
    caught_up: float | None = None
    voted: float | None = None


class Run:
    """Everything that belongs to one run while it lasts."""

    def __init__(self, plan: Plan, layout: Layout, paint: Callable[[Picture], None]) -> None:
        """`paint` is given a picture twice a second."""
        self.plan = plan
        self.layout = layout
        self.paint = paint
        self.crashed: list[str] = []
        self.returns: list[_Return] = []
        self.began = time.monotonic()
        self.market = Process(
            "market", ["-m", "testnet.market", str(layout.market_config)], layout.home / "market.log"
        )
        self.traders = Process(
            "traders", ["-m", "testnet.traders", str(layout.traders_config)], layout.home / "traders.log"
        )
        self.nodes = [
            Process(f"node{index}", ["-m", "node", "start", "--home", str(home)], home / "output.log")
            for index, home in enumerate(layout.node_homes)
        ]
        market = layout.market
        clock = MarketClock(market.start_market_ns, market.start_monotonic_ns, int(market.speed))
        self.clock = clock
        self.collector = Collector(layout.sockets)
        self.collector.tally.listing = ListingFacts(
            layout.genesis.ledger.protection.listing.strikes_max > 0, series_of(layout.instruments)
        )
        honest = next(venue.name for venue in market.venues if not venue.lies)
        self.truth = Truth(
            venue_address(market.socket_dir, TRUTH),
            venue_address(market.socket_dir, honest),
            layout.instruments,
            market.speed,
            clock.now_ns,
            layout.node_homes[0] / "data" / "blocks",
        )
        self.first_final_at: float | None = None

    def now(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self.began

    @property
    def processes(self) -> list[Process]:
        """All that we started."""
        return [self.market, *self.nodes, self.traders]

    # --- the course of a run ---

    async def execute(self) -> Facts:
        """Run to the end of the plan and return the facts. Everything started is stopped, whatever happens."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(_end_on_sigterm)
                self.market.start()
                for node in self.nodes:
                    node.start()
                nursery.start_soon(self.collector.run)
                nursery.start_soon(self._watch)
                await self._first_block()
                nursery.start_soon(self.truth.run)
                self.traders.start()
                for kill in self.plan.kills:
                    nursery.start_soon(self._kill, kill)
                await self._until_done()
                await end_all(self.traders)
                await trio.sleep(DRAIN_SECONDS)
                nursery.cancel_scope.cancel()
        finally:
            await end_all(*self.processes)
        return await trio.to_thread.run_sync(self._facts)

    async def _first_block(self) -> None:
        quorum = len(self.nodes) * QUORUM_SHARE
        with trio.move_on_after(FIRST_BLOCK_SECONDS_MAX):
            while (  # noqa: ASYNC110 - crashes set no event.
                not self.collector.first_final.is_set() and len(self.nodes) - len(self.crashed) > quorum
            ):
                await trio.sleep(0.1)
        if not self.collector.first_final.is_set():
            words = "\n".join(f"--- {node.name}\n{node.log_tail()}" for node in self.nodes)
            raise OperatorError(
                f"No block became final within {self.now():.0f} s. The validators' last words:\n{words}"
            )
        self.first_final_at = self.now()

    async def _until_done(self) -> None:
        began = trio.current_time()
        while trio.current_time() < began + self.plan.seconds:
            if self.plan.blocks and self.collector.tally.seen_height >= self.plan.blocks:
                return
            if len(self.crashed) > len(self.nodes) * (1 - QUORUM_SHARE):
                return
            await trio.sleep(0.1)

    async def _watch(self) -> None:
        """Once a second: sample memory and CPU, notice processes that ended by themselves, paint."""
        while True:
            for process in self.processes:
                process.sample()
                if process.expected_to_run and process.pid is None:
                    process.expected_to_run = False
                    self.crashed.append(f"{process.name} (exit {process.exit_code}): {_last_line(process)}")
            self._note_returns()
            self.paint(self.picture())
            await trio.sleep(0.5)

    async def _kill(self, kill: Kill) -> None:
        await trio.sleep(kill.at_seconds)
        node = self.nodes[kill.index]
        node.kill()
        back = _Return(kill, self.now())
        self.returns.append(back)
        await trio.sleep(kill.down_seconds)
        lifeline = self.collector.lifelines[kill.index]
        lifeline.last_signed_height = 0
        back.target_height = self.collector.tally.seen_height
        node.start()
        back.restarted_at = self.now()

    def _note_returns(self) -> None:
        for back in self.returns:
            if back.restarted_at is None:
                continue
            lifeline = self.collector.lifelines[back.kill.index]
            since = self.now() - back.restarted_at
            if back.caught_up is None and lifeline.height >= back.target_height > 0:
                back.caught_up = since
            if back.voted is None and lifeline.last_signed_height > back.target_height:
                back.voted = since

    # --- what it shows ---

    def picture(self) -> Picture:
        """The run as the view shows it now."""
        collector, tally = self.collector, self.collector.tally
        now_ns = self.clock.now_ns()
        since = self.first_final_at
        common = min((line.height for line in collector.lifelines if line.connected), default=0)
        return Picture(
            elapsed_seconds=0.0 if since is None else self.now() - since,
            total_seconds=self.plan.seconds,
            market_time=_clock_text(now_ns),
            validators=[self._row(index, common) for index in range(self.plan.validators)],
            indices={
                item.name: price for item in Underlying if (price := self.truth.index_usd(item)) is not None
            },
            smile=self._smile(),
            epsilon_bp=percentile(self.truth.epsilon_bp[-2_000:], 0.5),
            spread_bp=percentile(self.truth.spread_bp[-2_000:], 0.5),
            phases={item.underlying: item.phase for item in tally.phases},
            orders=tally.orders_accepted,
            trades=tally.trades,
            liquidations=tally.liquidations,
            expiries=tally.expiries_settled,
            series=tally.listing.series,
            conservation_checked=tally.seen_height,
            roots_agree=not collector.divergences,
            compared_heights=collector.compared_heights,
            notes=[*self.crashed, *self._return_notes()],
        )

    def _row(self, index: int, common_height: int) -> ValidatorRow:
        lifeline, node = self.collector.lifelines[index], self.nodes[index]
        status = lifeline.status
        row = ValidatorRow(name=node.name, rss_mb=node.rss_mb_max)
        if node.pid is None:
            row.state = "down"
        if status is None:
            return row
        row.height, row.view = lifeline.height or status.final_height, status.view
        root = lifeline.roots.get(common_height)
        row.root = f"{root.hex()[:12]} at {common_height}" if root is not None else ""
        row.peers = sum(peer.connected for peer in status.peers)
        if status.finality_count:
            row.finality_p50_ms = status.finality_us_p50 / 1_000
            row.fast_share = status.fast_share_ppm / 1e6
        if node.pid is not None:
            behind = self.collector.tally.seen_height - lifeline.height
            row.state = "halted" if status.halted else "catching up" if behind > 3 else "voting"
        return row

    def _smile(self) -> Smile | None:
        """The nearest BTC expiry with at least a few out-of-the-money options."""
        marks = self.truth.marks
        if marks is None:
            return None
        vols = {row.instrument: row.vol_e6 / 1e4 for row in marks.rows}
        index = self.truth.index_usd(Underlying.BTC) or 0.0
        options = [
            item
            for item in self.truth.instruments.values()
            if item.underlying == Underlying.BTC and item.expiry_ns > marks.time_ns and vols.get(item.id)
        ]
        for expiry_ns in sorted({item.expiry_ns for item in options})[1:2]:
            points = sorted(
                (item.strike_uusd / 1e6, vols[item.id])
                for item in options
                if item.expiry_ns == expiry_ns and (item.kind == 1) == (item.strike_uusd / 1e6 >= index)
            )
            title = next(item.name for item in options if item.expiry_ns == expiry_ns).rsplit("-", 2)[0]
            return Smile(f"implied volatility {title}", [p[0] for p in points], [p[1] for p in points])
        return None

    def _return_notes(self) -> list[str]:
        notes: list[str] = []
        for back in self.returns:
            name = self.nodes[back.kill.index].name
            if back.voted is not None:
                notes.append(f"{name} was killed, restarted, and voted again after {back.voted:.1f} s")
            elif back.restarted_at is not None:
                notes.append(f"{name} is back and catching up")
            else:
                notes.append(f"{name} was killed (SIGKILL)")
        return notes

    # --- the facts ---

    def _facts(self) -> Facts:
        collector, tally = self.collector, self.collector.tally
        outcome = self._traders_outcome()
        audit = audit_stores([home / "data" / "blocks" for home in self.layout.node_homes], outcome.accepted)
        final = set(outcome.final)
        twice, signatures = double_signed(self.layout.node_homes)
        missing = {item for lost in audit.missing.values() for item in lost}
        statuses = [lifeline.status for lifeline in collector.lifelines if lifeline.status is not None]
        facts = Facts(
            validators=self.plan.validators,
            seconds=self.now() - (self.first_final_at or 0.0),
            setup_seconds=self.first_final_at or 0.0,
            final_heights=audit.final_heights,
            compared_heights=audit.compared_heights,
            divergences=[*collector.divergences, *audit.divergences],
            finality_ms=collector.finality_ms,
            final_blocks=collector.final_blocks,
            final_blocks_fast=collector.final_blocks_fast,
            orders={
                "submitted": outcome.submitted_orders,
                "accepted": tally.orders_accepted,
                "filled": len(tally.filled_orders),
            },
            rejected=_sum_counts(tally.rejected, outcome.refused),
            order_to_final_ms=outcome.order_to_final_ms,
            acknowledged=len(outcome.accepted),
            lost_final=len(missing & final),
            lost_accepted=len(missing - final),
            trades=tally.trades,
            liquidations=tally.liquidations,
            expiries_settled=tally.expiries_settled,
            listing=tally.listing,
            epsilon_bp=self.truth.epsilon_bp,
            spread_bp=self.truth.spread_bp,
            drift=self.truth.drift.facts,
            phases=tally.phases,
            conservation_checked=min(audit.final_heights.values(), default=0),
            equivocations=len(
                {path.name for home in self.layout.node_homes for path in home.glob("data/evidence/*")}
            ),
            double_signed=twice,
            signatures=signatures,
            halted=[f"{status.name}: {status.halted}" for status in statuses if status.halted],
            crashed=self.crashed,
            recoveries=[_recovery(back) for back in self.returns],
            rss_mb={index: node.rss_mb_max for index, node in enumerate(self.nodes)},
            cpu_seconds={index: node.cpu_seconds for index, node in enumerate(self.nodes)},
            surface_rmse_vol_points=collector.surface_rmse_vol_points,
            market=self.plan.market,
            seed=self.plan.seed,
            speed=self.plan.speed,
        )
        facts.conservation_failures = [line for line in self.crashed if "conserv" in line.lower()]
        return facts

    def _traders_outcome(self) -> TradersOutcome:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self.layout.traders_result.read_bytes(), type=TradersOutcome)
        return TradersOutcome()


async def _end_on_sigterm(*, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            raise OperatorError("The testnet was ended by SIGTERM before its time; nothing is judged.")


def _clock_text(time_ns: int) -> str:
    """2026-02-06 07:59:30."""
    year, month, day = date_of(time_ns)
    seconds = time_ns // NS % 86_400
    return f"{year}-{month:02d}-{day:02d} {seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _recovery(back: _Return) -> Recovery:
    return Recovery(back.kill.index, back.killed_at, back.restarted_at, back.caught_up, back.voted)


def _sum_counts(*counts: dict[str, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return total


def _last_line(process: Process) -> str:
    lines = process.log_tail().strip().splitlines()
    return lines[-1][:200] if lines else "no output"
