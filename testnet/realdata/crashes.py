"""Historic crashes through the real ledger: leveraged accounts, block by block, every coin counted. Disk.

The index follows real bars, drawn between their open, extremes and close. Positions are this program's own: as
large as the ledger's margin takes when the day begins. Volatility is no datum of those days' bars: it stands at
VOLATILITY_PPM and rises by VOLATILITY_PER_FALL times the fall since the start.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import exp
from pathlib import Path

from msgspec.structs import replace

from ledger.apply import BlockContext, BlockResult, apply_block
from ledger.events import (
    ActionRejected,
    AuctionStarted,
    CashMoved,
    Deleveraged,
    HealthChanged,
    LiquidationStep,
    VaultTook,
)
from ledger.genesis import GenesisAccount, OracleReporter
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.invariants import check_everything
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
from node.genesis_defaults import (
    PERPETUAL_TICKS_UUSD,
    PREMIUM_TICKS,
    default_ledger_genesis,
    default_ledger_parameters,
)
from primitives.amounts import NS, SECONDS_PER_YEAR, USD
from primitives.codec import encode
from primitives.errors import OperatorError
from primitives.signing import SigningKey, address_of
from testnet.market.snapshots import Knots, read_bars

CRASHES = (date(2020, 3, 12), date(2021, 5, 19), date(2022, 11, 9), date(2024, 8, 5), date(2025, 10, 10))
BLOCK_NS = 60 * NS
DAY_NS = 86_400 * NS
CHAIN = bytes(range(32))
VOLATILITY_PPM = 700_000
VOLATILITY_PER_FALL = 2.5
FUND_USD, VAULT_USD = 20_000, 20_000
"""Small on purpose: the waterfall should be needed beyond them."""
STRIKES_PERCENT = (70, 80, 90, 100, 110, 120, 130)
TERMS_DAYS = (7, 30)
MAKERS = {"maker-1": 3_000_000, "maker-2": 3_000_000}
MAKER_LOTS = 150
"""What a maker quotes on each side of an instrument in a block: liquidations find a thin book."""


@dataclass(frozen=True, slots=True)
class CrashResult:
    """What a day did; money in micro-USD."""

    day: str
    blocks: int
    fall_percent: float
    """From the start to the lowest index."""
    accounts: int
    liquidated_accounts: int
    liquidation_steps: int
    auctions: int
    vault_takeovers: int
    deleveragings: int
    fund_paid_uusd: int
    deleveraged_loss_uusd: int
    shortfall_uusd: int
    """Deficits beyond fund and deleveraging: what withdrawals bear by the haircut."""
    unborne_uusd: int
    """Debts of accounts without positions that nobody took over; must be 0."""
    money_difference_uusd: int
    """Money in the ledger less money put in; must be 0."""
    worst_block_ms: float
    median_block_ms: float
    root: str


def read_path(directory: Path, day: date) -> list[float]:
    """BTC's index at every block of a day, from the finest bars that cover it. Raises OperatorError."""
    start_ns = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NS
    files = [
        knots
        for knots in read_bars(directory, Underlying.BTC, Counter())
        if knots[0][0] <= start_ns and start_ns + DAY_NS <= knots[-1][0]
    ]
    if not files:
        raise OperatorError(f"{directory} has no price bars of {day}.")
    knots = min(files, key=lambda item: (item[-1][0] - item[0][0]) / len(item))
    return [_price(knots, start_ns + place * BLOCK_NS) for place in range(DAY_NS // BLOCK_NS)]


def _price(knots: Knots, time_ns: int) -> float:
    place = min(max(1, bisect_right(knots, (time_ns, float("inf")))), len(knots) - 1)
    (from_ns, before), (to_ns, after) = knots[place - 1], knots[place]
    return exp(before + (after - before) * (time_ns - from_ns) / (to_ns - from_ns))


def steepest(path: Sequence[float], blocks: int) -> int:
    """Where the stretch of so many blocks begins in which the price falls most."""
    starts = range(len(path) - blocks + 1)
    return min(starts, key=lambda start: min(path[start : start + blocks]) / path[start])


def replay_crash(path: Sequence[float], day: date) -> CrashResult:
    """Run a ledger along a price path.

    Raises:
        InvariantViolation: money or positions do not balance after some block.
    """
    return _Crash(path, day).run()


class _Crash:
    """One day's ledger and its people."""

    def __init__(self, path: Sequence[float], day: date) -> None:
        self._path, self._day = path, day
        self._now_ns = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NS
        self._reporter = _key("reporter")
        first_uusd = int(path[0] * USD)
        self._expiries = [self._now_ns + days * DAY_NS for days in TERMS_DAYS]
        self._instruments = _listing(path[0], self._expiries)
        self._traders = _traders(path[0])
        cash = {**MAKERS, **{name: usd for name, (usd, _) in self._traders.items()}}
        genesis = default_ledger_genesis(
            time_ns=self._now_ns,
            custodian_key=_key("custodian").public_key,
            reporters=(OracleReporter(self._reporter.public_key, 1),),
            index_uusd={Underlying.BTC: first_uusd},
            instruments=self._instruments,
            accounts=[
                GenesisAccount(address_of(_key(name).public_key), 0, usd * USD)
                for name, usd in sorted(cash.items())
            ],
        )
        parameters = replace(default_ledger_parameters(), insurance_fund_uusd=FUND_USD * USD)
        protection = replace(genesis.protection, vault_uusd=VAULT_USD * USD)
        # Blocks are minutes apart, and what is measured is the waterfall: no breaker may spare it any work.
        slow = replace(genesis.breakers.latency, pause_spreads=0)
        breakers = replace(genesis.breakers, gaps=(), monitors=(), latency=slow)
        self._state = State.from_genesis(
            replace(genesis, parameters=parameters, protection=protection, breakers=breakers), CHAIN
        )
        self._nonces: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._liquidated: set[tuple[bytes, int]] = set()
        self.refusals: Counter[str] = Counter()

    def run(self) -> CrashResult:
        """Two blocks to build positions, then the day."""
        self._block(self._path[0], [])
        self._block(self._path[0], self._opening())
        spent_ms = []
        for price in self._path:
            quotes = [self._quotes(name) for name in MAKERS]
            started = time.perf_counter()
            self._block(price, quotes)
            spent_ms.append(1000 * (time.perf_counter() - started))
        return self._result(spent_ms)

    def _result(self, spent_ms: list[float]) -> CrashResult:
        state, counts = self._state, self._counts
        accounts = list(state.accounts())
        cash = sum(item.cash_uusd for item in accounts)
        cost = sum(position.cost_uusd for item in accounts for position in item.positions)
        supply = state.supply
        held = cash - cost + supply.fund_uusd + supply.fees_uusd + supply.vault_uusd - supply.debt_uusd
        return CrashResult(
            day=self._day.isoformat(),
            blocks=len(self._path),
            fall_percent=round(100 * (1 - min(self._path) / self._path[0]), 2),
            accounts=len(accounts),
            liquidated_accounts=len(self._liquidated),
            liquidation_steps=counts["steps"],
            auctions=counts["auctions"],
            vault_takeovers=counts["vault"],
            deleveragings=counts["deleveragings"],
            fund_paid_uusd=counts["insurance_fund"],
            deleveraged_loss_uusd=counts["loss"],
            shortfall_uusd=counts["shortfall"],
            unborne_uusd=sum(
                -item.cash_uusd for item in accounts if item.cash_uusd < 0 and not item.positions
            ),
            money_difference_uusd=held - (supply.deposited_uusd - supply.withdrawn_uusd),
            worst_block_ms=round(max(spent_ms), 2),
            median_block_ms=round(sorted(spent_ms)[len(spent_ms) // 2], 2),
            root=state.root().hex(),
        )

    # --- blocks ---

    def _block(self, price: float, transactions: list[bytes]) -> None:
        self._now_ns += BLOCK_NS
        state = self._state
        update = build_oracle_update(state, [self._report(price)])
        context = BlockContext(state.clock.height + 1, compute_block_time(state, update))
        state.begin_block()
        result = apply_block(state, context, (encode(update), *transactions))
        state.commit_oldest()
        check_everything(state)
        self._count(result)

    def _count(self, result: BlockResult) -> None:
        for event in result.events:
            match event:
                case LiquidationStep():
                    self._counts["steps"] += 1
                case HealthChanged(health="liquidation"):
                    self._liquidated.add((event.owner, event.subaccount))
                case AuctionStarted():
                    self._counts["auctions"] += 1
                case VaultTook():
                    self._counts["vault"] += 1
                case Deleveraged():
                    self._counts["deleveragings"] += 1
                    self._counts["loss"] += event.loss_uusd
                case CashMoved():
                    self._counts[event.cause] += event.amount_uusd
                case ActionRejected():
                    self.refusals[event.reason] += 1
                case _:
                    pass

    def _report(self, price: float) -> SignedReport:
        index_uusd = int(price * USD)
        fall = max(0.0, 1 - price / self._path[0])
        vol_ppm = min(2_500_000, int(VOLATILITY_PPM * (1 + VOLATILITY_PER_FALL * fall)))
        slices = []
        for expiry_ns in self._expiries:
            theta_e12 = vol_ppm**2 * (expiry_ns - self._now_ns) // (SECONDS_PER_YEAR * NS)
            slices.append(
                Slice(expiry_ns, index_uusd, 10**6, theta_e12, -200_000, theta_e12 // 2_000, 0, 10**6)
            )
        report = OracleReport(
            CHAIN,
            0,
            self._now_ns,
            (IndexReport(Underlying.BTC, index_uusd),),
            (SurfaceReport(Underlying.BTC, tuple(slices)),),
            (),
            NO_QUOTES,
        )
        payload = encode(report)
        return SignedReport(payload, 0, self._reporter.sign(report_sign_bytes(payload)))

    # --- people ---

    def _opening(self) -> list[bytes]:
        """Traders ask for more than their margin takes, in small pieces; makers stand on the other side."""
        wanted: Counter[tuple[int, int]] = Counter()
        sent = []
        for name, (_, legs) in sorted(self._traders.items()):
            orders: list[Action] = []
            for instrument, lots in legs:
                side, size = (Side.BUY, lots) if lots > 0 else (Side.SELL, -lots)
                price = self._price(instrument, 3_000 if lots > 0 else -3_000)
                orders += [_order(instrument, side, price, size)] * PIECES
                wanted[instrument, Side.SELL if lots > 0 else Side.BUY] += size * PIECES
            sent.append(self._sign(name, orders))
        for name in MAKERS:
            orders = [
                _order(
                    instrument, Side(side), self._price(instrument, 0), lots // len(MAKERS) + 1, rests=True
                )
                for (instrument, side), lots in sorted(wanted.items())
            ]
            sent.append(self._sign(name, orders))
        return sent

    def _quotes(self, name: str) -> bytes:
        """Cancel everything and quote anew around the last marks."""
        orders: list[Action] = [CancelAll(None)]
        for item in self._instruments:
            away_ppm = 1_000 if item.kind == Kind.PERPETUAL else 20_000
            for side, sign in ((Side.BUY, -1), (Side.SELL, 1)):
                price = self._price(item.id, sign * away_ppm)
                orders.append(_order(item.id, side, price, MAKER_LOTS, rests=True))
        return self._sign(name, orders)

    def _price(self, instrument: int, away_ppm: int) -> int:
        marks = self._state.marks
        mark_uusd = dict(marks.marks)[instrument] if marks is not None else USD
        is_perpetual = self._instruments[instrument].kind == Kind.PERPETUAL
        ticks = ((0, PERPETUAL_TICKS_UUSD[Underlying.BTC]),) if is_perpetual else PREMIUM_TICKS
        return max(floor_to_tick(ticks, mark_uusd * (10**6 + away_ppm) // 10**6), ticks[-1][1])

    def _sign(self, name: str, actions: Sequence[Action]) -> bytes:
        key = _key(name)
        payload = encode(Transaction(CHAIN, 0, self._nonces[name], tuple(actions)))
        self._nonces[name] += 1
        return encode(SignedTransaction(payload, key.public_key, key.sign(transaction_sign_bytes(payload))))


LEVERAGE_WANTED = 20
PIECES = 24
"""Each leg is asked for in so many orders; margin takes as many as it carries."""
PERPETUAL = 0
PUT_90, CALL_110 = 6, 9
"""Places in the listing's first expiry, two to a strike."""


def _traders(spot: float) -> dict[str, tuple[int, tuple[tuple[int, int], ...]]]:
    """Cash in USD and (instrument, lots of a piece) of each leg; more than any margin takes."""
    people: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {}
    for number in range(1, 9):
        cash = 10_000 * number
        lots = round(cash * LEVERAGE_WANTED / spot * LOTS_PER_CONTRACT[Underlying.BTC] / PIECES)
        people[f"long-{number}"] = cash, ((PERPETUAL, lots),)
        people[f"short-{number}"] = cash, ((PERPETUAL, -lots),)
        people[f"put-seller-{number}"] = cash, ((PUT_90, -lots),)
        people[f"strangler-{number}"] = cash, ((PUT_90, -lots // 2), (CALL_110, -lots // 2))
    return people


def _listing(spot: float, expiries: Sequence[int]) -> list[Instrument]:
    """The perpetual, then put and call for each strike and term."""
    lots = LOTS_PER_CONTRACT[Underlying.BTC]
    listed = [Instrument(PERPETUAL, Underlying.BTC, Kind.PERPETUAL, 0, 0, lots)]
    for expiry_ns in expiries:
        for percent in STRIKES_PERCENT:
            strike_uusd = round(spot * percent / 100 / 100) * 100 * USD
            for kind in (Kind.CALL, Kind.PUT):
                listed.append(Instrument(len(listed), Underlying.BTC, kind, expiry_ns, strike_uusd, lots))
    return listed


def _order(instrument: int, side: Side, price_uusd: int, lots: int, *, rests: bool = False) -> PlaceOrder:
    tif = TimeInForce.GTC if rests else TimeInForce.IOC
    return PlaceOrder(instrument, side, price_uusd, lots, tif, False, False, 0)


def _key(name: str) -> SigningKey:
    return SigningKey(name.encode().ljust(32, b"."))
