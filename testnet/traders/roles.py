"""The cast of traders: what each does with its session and the board. Trio; random choices from a seeded stream.

Every order is a real signed transaction through a gateway; a refusal is an answer, never an error.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import trio

from ledger.instruments import Instrument, Kind
from ledger.transactions import Action, CancelAll, PlaceOrder, Side, TimeInForce
from primitives.amounts import PPM
from testnet.traders.board import Board, Opinion
from testnet.traders.config import Role

if TYPE_CHECKING:
    from testnet.traders.session import Session

MONEYNESS_QUOTED = 0.25
"""Makers quote options within this distance of the forward, in log-strike."""
QUOTES_PER_MAKER = 12
"""Instruments a maker quotes in one batch, both sides each: the perpetuals, and the next options in turn."""
MAKER_LOTS = {0: 50, 1: 50}
MAKER_BIAS_PPM = 2_000
"""Standard deviation of a maker's opinion of the board's values."""
EXPIRING_NS = 20_000_000_000
"""No new orders in an option this close to expiry, in market time."""


@dataclass(slots=True)
class Stage:
    """What a role works with."""

    session: Session
    board: Board
    random: np.random.Generator
    ticks: Callable[[Instrument, int], int]
    pause_seconds: float


async def run_maker(stage: Stage) -> None:
    """Replace a batch of two-sided post-only quotes around its own model, again and again."""
    turn = 0
    while True:
        quoted = _live(stage, lambda item, opinion: abs(opinion.log_moneyness) <= MONEYNESS_QUOTED)
        perpetuals = [pair for pair in quoted if pair[0].kind == Kind.PERPETUAL]
        options = [pair for pair in quoted if pair[0].kind != Kind.PERPETUAL]
        if quoted:
            wanted = min(QUOTES_PER_MAKER - len(perpetuals), len(options))
            start = turn * wanted % max(1, len(options))
            actions: list[Action] = []
            for item, opinion in perpetuals + (options + options)[start : start + wanted]:
                actions.append(CancelAll(item.id))
                actions.extend(_quote(stage, item, opinion))
            await stage.session.submit(actions)
            turn += 1
        await trio.sleep(stage.pause_seconds)


def _quote(stage: Stage, item: Instrument, opinion: Opinion) -> Iterable[Action]:
    bias = float(stage.random.normal(0.0, MAKER_BIAS_PPM)) / PPM
    value = opinion.value_uusd * (1 + (bias if item.kind != Kind.PERPETUAL else bias / 50))
    position = stage.session.positions.get(item.id, 0)
    lots = MAKER_LOTS[item.underlying]
    # Lean against the inventory, so that positions do not grow for ever.
    skew = opinion.half_spread_uusd * max(-1.0, min(1.0, position / (20 * lots)))
    for side, edge in ((Side.BUY, -1), (Side.SELL, 1)):
        wanted = int(value - skew + edge * opinion.half_spread_uusd)
        tick = stage.ticks(item, max(wanted, 1))
        price = wanted // tick * tick if side == Side.BUY else -(-wanted // tick) * tick
        if price >= tick:
            yield PlaceOrder(item.id, side, price, lots, TimeInForce.GTC, True, False, 0)


async def run_taker(stage: Stage) -> None:
    """Buy or sell a little of something at random, crossing the spread."""
    while True:
        live = _live(stage, lambda item, opinion: abs(opinion.log_moneyness) <= MONEYNESS_QUOTED / 2)
        if live:
            item, opinion = live[int(stage.random.integers(len(live)))]
            side = Side(int(stage.random.integers(2)))
            lots = int(stage.random.integers(1, 11))
            await stage.session.submit([_crossing(stage, item, opinion, side, lots, reach=4)])
        await trio.sleep(float(stage.random.exponential(stage.pause_seconds)))


async def run_hedger(stage: Stage) -> None:
    """Hold options against perpetuals: buy some options, then keep the delta near zero with the perpetual."""
    while True:
        options = _live(stage, lambda item, opinion: item.kind != Kind.PERPETUAL and abs(opinion.delta) > 0.2)
        actions: list[Action] = []
        if options and stage.random.random() < 0.3:
            item, opinion = options[int(stage.random.integers(len(options)))]
            actions.append(_crossing(stage, item, opinion, Side(int(stage.random.integers(2))), 10, reach=4))
        actions.extend(_hedges(stage))
        if actions:
            await stage.session.submit(actions)
        await trio.sleep(stage.pause_seconds)


def _hedges(stage: Stage) -> Iterable[Action]:
    """One crossing perpetual order for each underlying whose net delta is a lot or more."""
    for item in stage.board.instruments.values():
        opinion = stage.board.opinions.get(item.id)
        if item.kind != Kind.PERPETUAL or opinion is None:
            continue
        delta_lots = sum(
            lots * stage.board.opinions[held].delta
            for held, lots in stage.session.positions.items()
            if held in stage.board.opinions
            and (known := stage.board.instruments.get(held)) is not None
            and known.underlying == item.underlying
        )
        lots = min(200, abs(round(delta_lots)))
        if lots:
            side = Side.SELL if delta_lots > 0 else Side.BUY
            yield _crossing(stage, item, opinion, side, lots, reach=6)


async def run_gambler(stage: Stage) -> None:
    """Buy the perpetual with all the margin there is, then hold and hope: it is there to be liquidated."""
    lots = 64
    while True:
        bought = _live(stage, lambda item, opinion: item.kind == Kind.PERPETUAL and item.underlying == 0)
        if bought and lots:
            item, opinion = bought[0]
            before = stage.session.rejections
            await stage.session.submit([_crossing(stage, item, opinion, Side.BUY, lots, reach=6)])
            await trio.sleep(stage.pause_seconds)
            if stage.session.rejections > before:
                lots //= 2
        await trio.sleep(stage.pause_seconds)


def _crossing(
    stage: Stage, item: Instrument, opinion: Opinion, side: Side, lots: int, reach: int
) -> PlaceOrder:
    """An immediate order priced `reach` half-spreads through the value."""
    away = opinion.half_spread_uusd * reach
    wanted = opinion.value_uusd + (away if side == Side.BUY else -away)
    tick = stage.ticks(item, max(wanted, 1))
    price = max(tick, -(-wanted // tick) * tick if side == Side.BUY else wanted // tick * tick)
    return PlaceOrder(item.id, side, price, lots, TimeInForce.IOC, False, False, 0)


def _live(stage: Stage, wanted: Callable[[Instrument, Opinion], bool]) -> list[tuple[Instrument, Opinion]]:
    """Instruments with an opinion that have not nearly expired, ascending by id."""
    now_ns = stage.board.now_ns()
    return [
        (item, opinion)
        for item in stage.board.instruments.values()
        if (opinion := stage.board.opinions.get(item.id)) is not None
        and (item.kind == Kind.PERPETUAL or item.expiry_ns > now_ns + EXPIRING_NS)
        and wanted(item, opinion)
    ]


ROLES: dict[Role, Callable[[Stage], Awaitable[None]]] = {
    Role.MAKER: run_maker,
    Role.TAKER: run_taker,
    Role.HEDGER: run_hedger,
    Role.GAMBLER: run_gambler,
}
