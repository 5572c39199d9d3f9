"""What a block costs a validator when the ledger is large and few of its accounts trade. Reads the clock, uses a disk.

Everything a node does with a block it is given, in one process: building, execution with every account's margin, the
root, what the gateway is shown, the durable write. Accounts hold options, half of them the opposite of the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import trio
from msgspec.structs import replace

from ledger.accounts import Account, Position
from ledger.events import Event, Trade
from ledger.genesis import GenesisAccount
from ledger.instruments import Instrument, Kind, Underlying
from ledger.matching.orders import floor_to_tick
from ledger.state import State
from ledger.transactions import (
    PlaceOrder,
    Side,
    SignedTransaction,
    TimeInForce,
    Transaction,
    transaction_id,
    transaction_sign_bytes,
)
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from primitives.amounts import NS, USD
from primitives.codec import decode_own, encode
from primitives.hashing import digest
from primitives.signing import SigningKey, address_of
from testnet.bench.directory import kept_in
from testnet.bench.history import History
from testnet.plan import Plan
from testnet.setup import create, secret
from testnet.sim.campaign import quiet

HOLDER_CASH_UUSD = 1_000_000 * USD
TRADER_CASH_UUSD = 10_000_000 * USD
LOTS_MAX = 2
TRADER_LOTS = 10
WARM_UP_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class CrowdPlan:
    """What is measured: `traders` of the accounts, an even number, send an order each in every block."""

    accounts: int = 100_000
    positions: tuple[int, ...] = (0, 2, 20)
    """Of each account, one run for each number."""
    traders: int = 20
    blocks: int = 12
    seed: int = 1


def crowd_figures(plan: CrowdPlan) -> dict[str, float]:
    """Flat keys for `quorate bench crowd`: processor time of a block, and how many such blocks a second of it makes."""
    quiet()
    figures: dict[str, float] = {"crowd.accounts": plan.accounts, "crowd.traders": plan.traders}
    for positions in plan.positions:
        with kept_in(None) as directory:
            run = trio.run(_run, plan, positions, directory)
        seconds = median(run.block_seconds)
        own = {
            "holders": run.holders,
            "trades": run.trades,
            "block_ms": round(seconds * 1_000, 1),
            "blocks_per_cpu_s": round(1 / seconds, 1),
        }
        figures |= {f"crowd.{positions}_positions.{name}": value for name, value in own.items()}
    return figures


class _Run(NamedTuple):
    """One run's blocks but the first ones, which fill caches."""

    block_seconds: list[float]
    """Of processor time."""
    trades: int
    holders: int
    """Accounts with positions at the end."""


async def _run(plan: CrowdPlan, positions: int, directory: Path) -> _Run:
    layout = create(Plan(validators=4, seed=plan.seed, speed=1), directory)
    crowd = _Crowd(plan, _crowded(layout.genesis, plan))
    genesis = crowd.genesis
    keys = [
        ValidatorKeys(*(secret(plan.seed, "validator", index, use) for use in ("vote", "oracle", "network")))
        for index in range(len(genesis.validators))
    ]
    prices = {Underlying(one.underlying): one.index_uusd for one in genesis.ledger.underlyings}
    history = History(genesis, keys, directory / "data", prices, block_ns=NS)
    state = history.ledger.state_for_reading
    crowd.hold(state, positions)
    seconds, trades = [], 0
    with closing(history.store):
        for number in range(WARM_UP_BLOCKS + plan.blocks):
            for key, raw in crowd.orders(number):
                history.ledger.mempool.add(transaction_id(raw), key, raw)
            began = time.process_time()
            await history.grow(1)
            if number >= WARM_UP_BLOCKS:
                seconds.append(time.process_time() - began)
                events = history.store.events_at(number + 1) or b""
                trades += sum(isinstance(item, Trade) for item in decode_own(tuple[Event, ...], events))
    return _Run(seconds, trades, sum(1 for account in state.accounts() if account.positions))


class _Crowd:
    """The accounts, what they hold and what some of them send."""

    def __init__(self, plan: CrowdPlan, genesis: GenesisDocument) -> None:
        self.genesis = genesis
        self._random = Random(plan.seed)
        self._keys = _trader_keys(plan)
        listed = genesis.ledger.instruments
        self._options = [item for item in listed if item.kind != Kind.PERPETUAL]
        self._perpetual = next(item for item in listed if item.kind == Kind.PERPETUAL)

    def hold(self, state: State, positions: int) -> None:
        """Give every second account so many options, and the next one their opposites; traders hold what they trade."""
        instrument = self._perpetual
        for place, key in enumerate(self._keys):
            trader = state.account((address_of(key.public_key), 0))
            assert trader is not None
            count = TRADER_LOTS if place % 2 else -TRADER_LOTS
            cost_uusd = count * self._price_uusd(instrument) // instrument.lots_per_contract
            state.put_account(replace(trader, positions=(Position(instrument.id, count, cost_uusd),)))
        holders = [account for account in state.accounts() if account.cash_uusd == HOLDER_CASH_UUSD]
        for one, other in zip(holders[::2], holders[1::2], strict=False):
            chosen = self._random.sample(self._options, min(positions, len(self._options)))
            lots = {
                item.id: self._random.choice((-1, 1)) * self._random.randint(1, LOTS_MAX) for item in chosen
            }
            state.put_account(_with_positions(one, lots, 1))
            state.put_account(_with_positions(other, lots, -1))

    def orders(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """(key, raw transaction) of each trader's order; half of them buy what the others sell."""
        price_uusd = self._price_uusd(self._perpetual)
        for place, key in enumerate(self._keys):
            side = Side.BUY if (number + place) % 2 else Side.SELL
            order = PlaceOrder(self._perpetual.id, side, price_uusd, 1, TimeInForce.IOC, False, False, 0)
            payload = encode(Transaction(chain_id_of(self.genesis), 0, number, (order,)))
            signature = key.sign(transaction_sign_bytes(payload))
            yield key.public_key, encode(SignedTransaction(payload, key.public_key, signature))

    def _price_uusd(self, instrument: Instrument) -> int:
        ledger = self.genesis.ledger
        underlying = next(one for one in ledger.underlyings if one.underlying == instrument.underlying)
        return floor_to_tick(((0, underlying.perpetual_tick_uusd),), underlying.index_uusd)


def _trader_keys(plan: CrowdPlan) -> list[SigningKey]:
    return [SigningKey(secret(plan.seed, "crowd", number)) for number in range(plan.traders)]


def _crowded(genesis: GenesisDocument, plan: CrowdPlan) -> GenesisDocument:
    """The same genesis with the plan's accounts alone."""
    traders = [GenesisAccount(address_of(key.public_key), 0, TRADER_CASH_UUSD) for key in _trader_keys(plan)]
    holders = [
        GenesisAccount(digest(b"quorate-bench", b"%d" % number)[:20], 0, HOLDER_CASH_UUSD)
        for number in range(plan.accounts - plan.traders)
    ]
    return replace(genesis, ledger=replace(genesis.ledger, accounts=(*traders, *holders)))


def _with_positions(account: Account, lots: dict[int, int], sign: int) -> Account:
    positions = tuple(Position(item, sign * count, 0) for item, count in sorted(lots.items()))
    return replace(account, positions=positions)
