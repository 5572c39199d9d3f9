"""Random histories of the ledger from a seed: traders, reporters, moves, silences, expiries. Pure but for main.

Run as a program it executes a history and prints its digest, for tests that compare machines:
`python -m tests.histories SEED BLOCKS`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random
from typing import NamedTuple

from msgspec.structs import replace

from ledger.apply import BlockContext, BlockResult
from ledger.breakers.drift import quoted_instruments
from ledger.breakers.parameters import (
    BreakerParameters,
    GapRule,
    LatencyParameters,
    PriceMonitor,
    UnderlyingMonitors,
)
from ledger.breakers.state import get_restart
from ledger.instruments import Instrument, Kind, Underlying
from ledger.matching.orders import floor_to_tick
from ledger.oracle import build_oracle_update, compute_block_time, decode_update
from ledger.transactions import (
    UUSD_PER_CENT,
    Action,
    CancelAll,
    CancelLabel,
    CancelOrder,
    Deposit,
    PlaceOrder,
    QuotesReport,
    SignedReport,
    TimeInForce,
    Transaction,
    TransferCash,
    Withdraw,
)
from node.genesis_defaults import default_breakers
from primitives.amounts import NS, USD
from primitives.codec import encode
from tests.ledger.exchange import (
    BTC_TICKS,
    CHAIN,
    DAY_NS,
    REPORTERS,
    START_NS,
    Exchange,
    a_genesis,
    a_report,
    a_wallet,
    sign_in_wallet,
)

HOUR_NS = 3_600 * NS
NAMES = ("alice", "bob", "carol", "dave", "wanda", "maker")
"""Wanda signs in a wallet."""
PERPETUALS = (0, 1)
TERMS_NS = (HOUR_NS, 3 * HOUR_NS, 8 * HOUR_NS, 20 * HOUR_NS, 30 * DAY_NS)
"""Expiries, so that a long history passes several and always has one ahead."""


def instruments() -> list[Instrument]:
    """Both perpetuals, and three strikes of calls and puts for each term."""
    listed = [
        Instrument(0, Underlying.BTC, Kind.PERPETUAL, 0, 0, 100),
        Instrument(1, Underlying.ETH, Kind.PERPETUAL, 0, 0, 10),
    ]
    for term_ns in TERMS_NS:
        for strike in (90_000, 100_000, 112_000):
            for kind in (Kind.CALL, Kind.PUT):
                listed.append(
                    Instrument(len(listed), Underlying.BTC, kind, START_NS + term_ns, strike * USD, 100)
                )
    return listed


def nervous_breakers() -> BreakerParameters:
    """Breakers that trip often and recover soon, so that a short history sees every phase."""
    numbers = default_breakers()
    monitors = (PriceMonitor(60 * NS, 40_000, 10 * NS), PriceMonitor(900 * NS, 200_000, 30 * NS))
    return replace(
        numbers,
        drift=replace(
            numbers.drift, quotes_max=20, spread_epochs=4, red_epochs=2, green_epochs=2, auction_ns=9 * NS
        ),
        monitors=(UnderlyingMonitors(Underlying.BTC, monitors),),
        latency=LatencyParameters(pause_spreads=5, floor_ppm=50, samples=3),
        gaps=(GapRule(33 * NS, 5 * NS),),
        fresh_epochs=2,
        post_only_ns=3 * NS,
    )


class Block(NamedTuple):
    """One block of a history: its input and what the ledger made of it."""

    context: BlockContext
    transactions: tuple[bytes, ...]
    result: BlockResult


class History:
    """An exchange whose whole life follows from its seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        cash_usd = dict(zip(NAMES, (10_000, 25_000, 80_000, 5_000, 40_000, 5_000_000), strict=True))
        # A small fund and sometimes a small vault: debts go all the way down the waterfall.
        vault_usd = self.random.choice((0, 30_000))
        genesis = a_genesis(
            cash_usd,
            instruments(),
            vault_usd=vault_usd,
            breakers=nervous_breakers(),
            insurance_fund_uusd=3_000 * USD,
        )
        self.exchange = Exchange().start(genesis)
        self.btc_usd = 100_000.0

    def blocks(self, count: int) -> Iterator[Block]:
        """The next blocks, executed one after the other."""
        for _ in range(count):
            for name in NAMES:
                if self.random.random() < (0.9 if name == "maker" else 0.35):
                    self._act(name)
            if self.random.random() < 0.3:
                self._crowd()
            if self.random.random() < 0.05:
                self._deposit()
            if self.random.random() < 0.02:
                self.exchange.does("carol", CancelAll(None), nonce=self.random.randrange(500))
            if self.random.random() < 0.02:
                self._misname()
            yield self._close()

    # --- traders ---

    def _misname(self) -> None:
        """A wallet is shown another instrument than the one that would be traded."""
        nonce = self.random.randrange(500)
        order = self._order(0, 0, 0, "now")
        shown = Instrument(0, Underlying.ETH, Kind.PERPETUAL, 0, 0, self.random.choice((10, 100)))
        sent = Transaction(CHAIN, 0, nonce, (order, TransferCash(1, USD)))
        self.exchange.waiting.append(sign_in_wallet(a_wallet("wanda"), sent, [shown]))

    def _act(self, name: str) -> None:
        if name == "maker":
            quotes: list[Action] = [CancelAll(None)] if self.random.random() < 0.8 else []
            for instrument in (*PERPETUALS, *self.random.sample(self._options(), 4)):
                quotes += [self._order(instrument, side, self._beside(side), "quote") for side in (0, 1)]
            self.exchange.does(name, *quotes)
            return
        many = 1 + (self.random.random() < 0.3) * self.random.randrange(8)
        self.exchange.does(name, *(self._action(name) for _ in range(many)))

    def _crowd(self) -> None:
        """Many want the same at one price, and a few give it: the lots at the margin must be shared."""
        instrument, side = self.random.choice((0, *self._options()[:2])), self.random.randrange(2)
        for name in NAMES:
            of_side = side if self.random.random() < 0.7 else 1 - side
            self.exchange.does(name, self._order(instrument, of_side, 0, "now"))

    def _beside(self, side: int) -> int:
        offset = self.random.randint(0, 6_000)
        return offset if side else -offset

    def _options(self) -> list[int]:
        """The live options of the first expiries: few enough that trade gathers."""
        return [item for item in self._live() if item not in PERPETUALS][:8]

    def _live(self) -> list[int]:
        marks = self.exchange.state.marks
        return (
            [item for item, _ in marks.marks] if marks else list(range(len(self.exchange.state.instruments)))
        )

    def _action(self, name: str) -> Action:
        what = self.random.random()
        amount = self.random.randint(1, 20_000) * USD
        if what < 0.75:
            instrument = self.random.choice(self._options() if self.random.random() < 0.6 else PERPETUALS)
            how = self.random.choice(["rest", "rest", "now", "now", "kill", "kill", "post", "reduce"])
            # Few different prices, so that orders of one block meet at the same one.
            side, offset = self.random.randrange(2), self.random.choice([-5_000, 5_000, 5_000, 40_000])
            return self._order(instrument, side, -offset if side else offset, how)
        if what < 0.85:
            account = self.exchange.state.account(self.exchange.key(name))
            own = [item.order_id for item in account.orders] if account else []
            named = self.random.choice(own) if own else self.random.randint(1, 50)
            cancels: list[Action] = [CancelOrder(named), CancelLabel(self.random.randrange(4)), CancelAll(0)]
            return self.random.choice([*cancels, CancelAll(None)])
        return Withdraw(amount) if what < 0.93 else TransferCash(self.random.randrange(3), amount)

    def _order(self, instrument: int, side: int, offset_ppm: int, how: str) -> PlaceOrder:
        marks = dict(self.exchange.state.marks.marks) if self.exchange.state.marks else {}
        wanted = max(USD, marks.get(instrument, 100 * USD) * (1_000_000 + offset_ppm) // 1_000_000)
        price = floor_to_tick(((0, USD // 2),) if instrument in PERPETUALS else BTC_TICKS, wanted)
        price += self.random.random() < 0.01  # Off the grid.
        lots = self.random.randint(1, self.random.choice([3, 40, 150]))
        label = 0 if how == "quote" else self.random.choice([0, 0, 0, 0, 0, 1, 2, 3])
        in_force = {"now": TimeInForce.IOC, "kill": TimeInForce.FOK}.get(how, TimeInForce.GTC)
        return PlaceOrder(
            instrument, side, price, lots, in_force, how in ("post", "quote"), how == "reduce", label
        )

    def _deposit(self) -> None:
        name = self.random.choice(NAMES)
        key = self.exchange.key(name, self.random.randrange(3))
        signer = "custodian" if self.random.random() < 0.9 else name
        self.exchange.does(signer, Deposit(*key, self.random.randint(1, 30_000) * USD))

    # --- prices and time ---

    def _close(self) -> Block:
        exchange, random = self.exchange, self.random
        move = random.gauss(0, 0.002) if random.random() > 0.04 else random.uniform(-0.45, 0.45)
        self.btc_usd = min(180_000.0, max(50_000.0, self.btc_usd * (1 + move)))
        exchange.vol_ppm = min(1_500_000, max(250_000, exchange.vol_ppm + random.randint(-20_000, 20_000)))
        exchange.now_ns += random.choice([1, 1, 2, 4, 4, 4, 5, 16, 30]) * NS
        waiting, exchange.waiting = exchange.waiting, []
        transactions = (encode(build_oracle_update(exchange.state, self._reports())), *waiting)
        context = BlockContext(
            exchange.state.clock.height + 1,
            compute_block_time(exchange.state, decode_update(transactions[0])),
        )
        return Block(context, transactions, exchange.apply(transactions))

    def _reports(self) -> list[SignedReport]:
        """Reporters see slightly different prices at slightly different times; some are absent, one may lie."""
        exchange, random = self.exchange, self.random
        if random.random() < 0.03:
            return []
        present = [number for number in range(len(REPORTERS)) if random.random() < 0.95]
        reports: list[SignedReport] = []
        for number in present:
            seen = self.btc_usd * (1 + random.gauss(0, 0.0002))
            if number == 3 and random.random() < 0.1:
                seen *= random.uniform(0.5, 1.5)
            shown = exchange.expiries if random.random() < 0.8 else ()
            time_ns = exchange.now_ns + random.randrange(NS // 2)
            vol_ppm = exchange.vol_ppm + random.randint(-3_000, 3_000)
            shown_quotes = self._quotes() if random.random() < 0.9 else None
            reports.append(
                a_report(
                    number, time_ns, round(seen, 2), expiries=shown, vol_ppm=vol_ppm, quotes=shown_quotes
                )
            )
        return reports

    def _quotes(self) -> QuotesReport:
        """The chain's marks with errors, which for a third of the options go on for a while."""
        state, random = self.exchange.state, self.random
        marks = dict(state.marks.marks) if state.marks else {}
        asked = quoted_instruments(state, get_restart(state).judged_epochs)
        height = state.clock.height // 12
        seen: list[int] = []
        for number in asked:
            error_ppm = random.gauss(0, 3_000)
            if number % 3 == 2 and height % 3 == 1:
                error_ppm += 700_000
            elif number == 0 and height % 5 == 3:
                error_ppm += 8_000
            seen.append(max(1, round(marks[number] * (1 + error_ppm / 1_000_000) / UUSD_PER_CENT)))
        spreads = tuple(
            max(1, mark // (12_000 if number in PERPETUALS else 500) + random.randrange(100))
            for number, mark in zip(asked, seen, strict=True)
        )
        return QuotesReport(tuple(asked), tuple(seen), spreads)


def digest_of(seed: int, blocks: int, *, watch: Callable[[Block], None] | None = None) -> str:
    """Digest over every event and root of a history."""
    total = sha256()
    for block in History(seed).blocks(blocks):
        for event in block.result.events:
            total.update(encode(event))
        total.update(block.result.root)
        if watch is not None:
            watch(block)
    return total.hexdigest()


def main() -> None:
    """Print the digest, and on stderr what happened."""
    counts: Counter[str] = Counter()
    seed, blocks = (int(item) for item in sys.argv[1:3])

    def count(block: Block) -> None:
        counts.update(type(event).__name__ for event in block.result.events)

    print(digest_of(seed, blocks, watch=count))
    print(dict(sorted(counts.items())), file=sys.stderr)


if __name__ == "__main__":
    main()
