"""How many order actions per second one core executes: signatures to state root, no consensus. Reads the clock.

Makers send batches of limit orders in many instruments under one signature and cancel what they sent before; takers
send immediate orders that trade. A block's time covers everything a validator does to execute it: verifying
signatures, decoding, validation, oracle update, marks and every account's margin, order checks and margin, calls,
fees, events, invariants and the state root. The rate is per second of processor time of the whole process, which is
what one core gives whatever else the machine does; the rate by the clock stands beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import NamedTuple

from ledger.admission import read_transaction, signatures_of_block
from ledger.apply import BlockContext, BlockResult, apply_block
from ledger.events import ActionRejected, OrderAccepted, Trade
from ledger.genesis import GenesisAccount, LedgerGenesis, OracleReporter
from ledger.instruments import Instrument, Kind, Underlying
from ledger.market import Slice
from ledger.matching.orders import floor_to_tick
from ledger.oracle import build_oracle_update, compute_block_time
from ledger.state import State
from ledger.transactions import (
    NO_QUOTES,
    Action,
    CancelAll,
    IndexReport,
    OracleReport,
    PlaceOrder,
    Side,
    SignedReport,
    SignedTransaction,
    SurfaceReport,
    TimeInForce,
    Transaction,
    report_sign_bytes,
    transaction_sign_bytes,
)
from node.collector import look_seldom
from node.genesis_defaults import (
    DEFAULT_INDEX_USD,
    PERPETUAL_TICKS_UUSD,
    PREMIUM_TICKS,
    default_expiries,
    default_instruments,
    default_ledger_genesis,
)
from primitives.amounts import NS, SECONDS_PER_YEAR, USD
from primitives.codec import encode
from primitives.errors import ensure
from primitives.signing import SigningKey, address_of
from primitives.wallet import is_valid_by_any

CHAIN = bytes(range(32))
START_NS = 1_770_000_000 * NS
BLOCK_NS = 500_000_000
INDEX_UUSD = {item: usd * USD for item, usd in DEFAULT_INDEX_USD.items()}
VOLATILITY_PPM = 500_000


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured: `batch` orders under one signature from each maker and taker in every block."""

    makers: int = 16
    takers: int = 4
    batch: int = 50
    blocks: int = 12
    seed: int = 1


class Cost(NamedTuple):
    """Seconds of one block: the process's on processors, by the clock, and the part of the first in signatures."""

    processor_s: float
    clock_s: float
    signatures_s: float
    signatures: int
    """Verified, the report's among them."""


class Bench:
    """A ledger with the default listing, and the orders of one workload."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._random = Random(workload.seed)
        self._reporter = SigningKey(b"reporter".ljust(32, b"."))
        people = workload.makers + workload.takers
        self._keys = [SigningKey(number.to_bytes(32, "big")) for number in range(1, people + 1)]
        self.state = State.from_genesis(self._genesis(), CHAIN)
        self._now_ns = START_NS
        self._nonce = 0
        self.actions = self.accepted = self.trades = self.rejected = 0

    def _genesis(self) -> LedgerGenesis:
        custodian = SigningKey(b"custodian".ljust(32, b"."))
        return default_ledger_genesis(
            time_ns=START_NS,
            custodian_key=custodian.public_key,
            reporters=[OracleReporter(self._reporter.public_key, 1)],
            index_uusd=INDEX_UUSD,
            instruments=default_instruments(START_NS, INDEX_UUSD),
            accounts=[GenesisAccount(address_of(key.public_key), 0, 50_000_000 * USD) for key in self._keys],
        )

    def run(self) -> Iterator[Cost]:
        """What each block took; the first two only warm up and are not given."""
        for number in range(self._workload.blocks + 2):
            orders = [] if number == 0 else [self._batch(place) for place in range(len(self._keys))]
            transactions = (self._update(), *orders)
            time_ns = compute_block_time(self.state, build_oracle_update(self.state, [self._report()]))
            read_transaction.cache_clear()
            start = time.process_time(), time.perf_counter()
            checks = signatures_of_block(self.state, transactions)
            signatures_s = time.process_time()
            ensure(all(is_valid_by_any(*check) for check in checks), "the bench signs well")
            signatures_s = time.process_time() - signatures_s
            result = self._execute(transactions, time_ns)
            cost = Cost(
                time.process_time() - start[0], time.perf_counter() - start[1], signatures_s, len(checks)
            )
            if number >= 2:
                self._count(result)
                yield cost

    def _execute(self, transactions: tuple[bytes, ...], time_ns: int) -> BlockResult:
        """All that a validator does with a block's decoded and verified content, in one thread."""
        self.state.begin_block()
        context = BlockContext(self.state.clock.height + 1, time_ns)
        result = apply_block(self.state, context, transactions)
        self.state.commit_oldest()
        return result

    def _count(self, result: BlockResult) -> None:
        workload = self._workload
        self.actions += (workload.makers + workload.takers) * workload.batch
        for event in result.events:
            self.accepted += isinstance(event, OrderAccepted)
            self.trades += isinstance(event, Trade)
            self.rejected += isinstance(event, ActionRejected)

    # --- what goes into a block ---

    def _report(self) -> SignedReport:
        surfaces, indices = [], []
        for underlying, index_uusd in INDEX_UUSD.items():
            slices = []
            for expiry_ns in default_expiries(START_NS):
                theta = VOLATILITY_PPM**2 * (expiry_ns - self._now_ns) // (SECONDS_PER_YEAR * NS)
                slices.append(Slice(expiry_ns, index_uusd, 1_000_000, theta, 0, theta // 2_000, 0, 1_000_000))
            surfaces.append(SurfaceReport(int(underlying), tuple(slices)))
            indices.append(IndexReport(int(underlying), index_uusd))
        payload = encode(OracleReport(CHAIN, 0, self._now_ns, tuple(indices), tuple(surfaces), (), NO_QUOTES))
        return SignedReport(payload, 0, self._reporter.sign(report_sign_bytes(payload)))

    def _update(self) -> bytes:
        self._now_ns += BLOCK_NS
        self._nonce += 1
        return encode(build_oracle_update(self.state, [self._report()]))

    def _batch(self, place: int) -> bytes:
        """A signed batch: a maker's cancel and quotes, or a taker's immediate orders."""
        key, size = self._keys[place], self._workload.batch
        is_maker = place < self._workload.makers
        actions: list[Action] = [CancelAll(None)] if is_maker and size > 1 else []
        while len(actions) < size:
            actions.append(self._order(is_maker))
        payload = encode(Transaction(CHAIN, 0, self._nonce, tuple(actions)))
        signature = key.sign(transaction_sign_bytes(payload))
        return encode(SignedTransaction(payload, key.public_key, signature))

    def _order(self, is_maker: bool) -> PlaceOrder:
        """A maker's a little off the mark, a taker's a little through it."""
        instrument = self._random.choice(list(self.state.instruments.values()))
        marks = self.state.marks
        mark_uusd = dict(marks.marks)[instrument.id] if marks is not None else 0
        side = self._random.choice((Side.BUY, Side.SELL))
        away = self._random.randint(2, 30) * (1 if is_maker else -1)
        offset_uusd = mark_uusd * away // 1_000 * (-1 if side == Side.BUY else 1)
        price_uusd = max(USD, on_grid(instrument, mark_uusd + offset_uusd))
        lots = self._random.randint(1, 5)
        in_force = TimeInForce.GTC if is_maker else TimeInForce.IOC
        return PlaceOrder(instrument.id, side, price_uusd, lots, in_force, False, False, 0)


def on_grid(instrument: Instrument, price_uusd: int) -> int:
    """The next price down that an order may carry."""
    if instrument.kind == Kind.PERPETUAL:
        return floor_to_tick(((0, PERPETUAL_TICKS_UUSD[Underlying(instrument.underlying)]),), price_uusd)
    return floor_to_tick(PREMIUM_TICKS, max(0, price_uusd))


def measure(workload: Workload) -> dict[str, float]:
    """Actions per second at the median block, and what happened to them."""
    bench = Bench(workload)
    costs = list(bench.run())
    per_block = bench.actions / len(costs)
    processor_s = median(item.processor_s for item in costs)
    return {
        "actions_per_s": round(per_block / processor_s),
        "actions_without_signatures_per_s": round(
            per_block / median(item.processor_s - item.signatures_s for item in costs)
        ),
        "signature_us": round(median(item.signatures_s / item.signatures for item in costs) * 1e6, 1),
        "actions_per_clock_s": round(per_block / median(item.clock_s for item in costs)),
        "block_ms": round(processor_s * 1_000, 3),
        "actions_per_block": per_block,
        "accepted": bench.accepted,
        "rejected": bench.rejected,
        "trades": bench.trades,
    }


def execution_figures() -> dict[str, float]:
    """Flat keys for `quorate bench execution`.

    `execution.*`: batches of 50 orders under one signature from 20 accounts; `execution.single.*`: one order under
    each signature, from 1,000 accounts. `actions_per_s` includes decoding and the verification of every
    signature, `actions_without_signatures_per_s` the decoding only: a node verifies in its mempool, before, on every
    core. `signature_us`: what one verification costs; libsodium has none for many at once, so with an order under
    each signature its inverse bounds what a core can do.
    """
    look_seldom()
    figures = {f"execution.{name}": value for name, value in measure(Workload()).items()}
    single = measure(Workload(makers=800, takers=200, batch=1, blocks=8))
    return figures | {f"execution.single.{name}": value for name, value in single.items()}
