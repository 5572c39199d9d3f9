"""The traders' process: `python -m testnet.traders CONFIG.json`. Writes its outcome when it is told to stop."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from ledger.instruments import Instrument, Kind, Underlying
from node.client import questions
from node.client.on_trio import open_client
from node.clock import MarketClock
from node.genesis_defaults import PERPETUAL_TICKS_UUSD, PREMIUM_TICKS
from node.rpc.answers import InstrumentForm
from node.rpc.stream_forms import Gap, SeriesListedMessage
from primitives.signing import SigningKey
from testnet.market.source import random_stream
from testnet.traders.board import Board
from testnet.traders.config import Role, TradersConfig, TradersOutcome, TraderSpec
from testnet.traders.roles import QUOTES_PER_MAKER, ROLES, Stage
from testnet.traders.session import Session

PAUSE_SECONDS = {Role.TAKER: 0.7, Role.HEDGER: 2.0, Role.GAMBLER: 0.7}
"""Between two actions; a maker's follows from the wanted order rate."""


async def run_traders(config: TradersConfig, outcome: TradersOutcome) -> None:
    """Trade until SIGTERM or SIGINT, noting in `outcome` what becomes of everything."""
    clock = MarketClock(config.start_market_ns, config.start_monotonic_ns, int(config.speed))
    board = Board(config.venues, config.instruments, config.speed, clock.now_ns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(board.run)
        nursery.start_soon(_follow_listing, config.gateways, board)
        for spec in config.traders:
            nursery.start_soon(_trade, spec, config, board, outcome)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        nursery.cancel_scope.cancel()


async def _follow_listing(gateways: Sequence[str], board: Board) -> None:
    """Tell the board of each series that the chain lists."""
    async with open_client(gateways) as client, client.follow("instruments") as messages:
        async for message in messages:
            if isinstance(message, Gap):
                listed = (await client.ask(questions.instruments())).instruments
                board.list_instruments(_instrument(form) for form in listed if not form.is_settled)
            elif isinstance(message, SeriesListedMessage):
                board.list_instruments(_instrument(form) for form in message.instruments)


def _instrument(form: InstrumentForm) -> Instrument:
    numbers = (form.expiry_ns, form.strike_uusd, form.lots_per_contract)
    return Instrument(form.id, Underlying[form.underlying], Kind[form.kind.upper()], *numbers)


async def _trade(spec: TraderSpec, config: TradersConfig, board: Board, outcome: TradersOutcome) -> None:
    key = SigningKey(bytes.fromhex(spec.key_seed))
    session = Session(key, config.gateways, spec.gateway, outcome)
    stage = Stage(session, board, random_stream(config.seed, spec.name), _tick, _pause_of(spec.role, config))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        await ROLES[spec.role](stage)


def _pause_of(role: Role, config: TradersConfig) -> float:
    if role is not Role.MAKER:
        return PAUSE_SECONDS[role]
    makers = sum(spec.role is Role.MAKER for spec in config.traders)
    return 2 * QUOTES_PER_MAKER * makers / config.orders_per_second


def _tick(instrument: Instrument, price_uusd: int) -> int:
    """The tick at a price, from the same tables as the testnet's genesis."""
    if instrument.kind == Kind.PERPETUAL:
        return PERPETUAL_TICKS_UUSD[Underlying(instrument.underlying)]
    return next(tick for start, tick in PREMIUM_TICKS if price_uusd >= start)


def main(arguments: list[str]) -> int:
    """0 after an orderly stop."""
    if len(arguments) != 1:
        print("The traders' process takes one argument: its configuration file.", file=sys.stderr)
        return 2
    config = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=TradersConfig)
    outcome = TradersOutcome()
    try:
        trio.run(run_traders, config, outcome)
    finally:
        Path(config.result_path).write_bytes(msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
