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
from ledger.oracle import build_oracle_update, compute_block_time, decode_update, reporters_of
from ledger.staking.parameters import GenesisStake, StakingParameters
from ledger.staking.penalties import parent_set
from ledger.staking.state import EpochSet, get_epoch_set, is_staking, scan
from ledger.trading.parameters import TradingParameters, UnderlyingFees
from ledger.trading.state import get_open_requests
from ledger.transactions import (
    UUSD_PER_CENT,
    Action,
    CancelAll,
    Deposit,
    QuotesReport,
    SeenDelay,
    SignedReport,
    Transaction,
    TransferCash,
)
from node.genesis_defaults import default_breakers, default_listing, default_staking, default_trading
from primitives.amounts import NS, USD
from primitives.codec import encode
from tests.history_actions import Wishes
from tests.history_market import PERPETUALS, session_name
from tests.ledger.exchange import (
    CHAIN,
    DAY_NS,
    REPORTERS,
    START_NS,
    a_genesis,
    a_key,
    a_report,
    a_wallet,
    address_of_person,
    sign,
    sign_in_wallet,
)
from tests.ledger.staking_builders import StakedExchange

HOUR_NS = 3_600 * NS
NAMES = ("alice", "bob", "carol", "dave", "wanda", "maker")
"""Wanda signs in a wallet."""
OPERATORS = ("alice", "bob", "carol", "maker")
"""Of the genesis validators, in order."""
TERMS_NS = (480 * NS, 1_200 * NS, HOUR_NS, 8 * HOUR_NS, 30 * DAY_NS)
"""Expiries, so that a history passes some and always has one ahead."""


EIGHT_NS = START_NS // DAY_NS * DAY_NS + 8 * HOUR_NS
STOPS_NS = {5: EIGHT_NS - 350 * NS, 160: EIGHT_NS + HOUR_NS - 15 * NS}
"""Where a history with a listing schedule goes on after a height: before new series, before further strikes."""


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


def short_staking() -> StakingParameters:
    """Epochs of a few blocks, and penalties soon."""
    stakes_usd = (3_000, 3_000, 2_500, 2_000)
    validators = tuple(
        GenesisStake(
            address_of_person(operator),
            a_key(f"consensus {number}").public_key,
            REPORTERS[number].public_key,
            f"peer {number}",
            stake_usd * USD,
            50_000,
        )
        for number, (operator, stake_usd) in enumerate(zip(OPERATORS, stakes_usd, strict=True))
    )
    return replace(
        default_staking(()),
        epoch_blocks=8,
        validators_min=3,
        validators_max=6,
        min_stake_uusd=500 * USD,
        min_delegation_uusd=50 * USD,
        weight_unit_uusd=10 * USD,
        commission_rise_ppm_max=50_000,
        unbonding_epochs=5,
        unbonding_ns=60 * NS,
        evidence_epochs_max=3,
        evidence_ns_max=50 * NS,
        window_blocks=64,
        missed_blocks_max=12,
        jail_ns=40 * NS,
        late_led_min=4,
        outside_reports_max=3,
        validators=validators,
    )


def tight_trading(fees: tuple[UnderlyingFees, ...]) -> TradingParameters:
    """Limits that are reached, and exceptions from the general fees."""
    return replace(
        default_trading(),
        triggers_max=3,
        session_keys_max=2,
        requests_max=1,
        requests_total_max=3,
        request_quotes_max=2,
        request_legs_max=3,
        request_lots_max=500,
        request_lifetime_ns_max=60 * NS,
        fees=fees,
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
        vault_usd = self.random.choice((0, 0, 30_000))
        genesis = a_genesis(
            cash_usd,
            instruments(),
            vault_usd=vault_usd,
            breakers=nervous_breakers(),
            insurance_fund_uusd=200 * USD,
            open_orders_max=20,
            orders_per_book_max=10,
            positions_max=9,
            settlement_window_ns=240 * NS,
        )
        self.is_listing = seed % 11 == 9
        """In every eleventh history the ledger lists by itself, and blocks stop until shortly before eight and nine."""
        listing = replace(default_listing(5), keep_settled_ns=2 * HOUR_NS, monthly=1, quarterly=1)
        soon = replace(genesis.protection, governance_delay_ns=40 * NS)
        if self.is_listing:
            soon = replace(soon, listing=listing)
        fees = [
            UnderlyingFees(Underlying.BTC, 80, 350, USD // 3),
            UnderlyingFees(Underlying.ETH, 50, 400, USD // 2),
        ]
        genesis = replace(
            genesis, trading=tight_trading(tuple(fees[self.random.randrange(2) :])), protection=soon
        )
        if self.random.random() < 0.85:
            genesis = replace(genesis, staking=short_staking())
        self.exchange = StakedExchange()
        self.exchange.start(genesis)
        self.wishes = Wishes(self.random, self.exchange, NAMES)
        self.voters = Wishes(Random(seed + 1), self.exchange, NAMES) if seed % 3 == 2 else None
        """In every third history numbers of policy change all the time."""
        self.btc_usd = 100_000.0

    def blocks(self, count: int) -> Iterator[Block]:
        """The next blocks, executed one after the other."""
        for _ in range(count):
            for name in NAMES:
                if self.random.random() < (0.8 if name == "maker" else 0.55):
                    self._act(name)
            self._negotiate()
            if self.random.random() < 0.3:
                self._crowd()
            if self.random.random() < 0.15:
                self._all_in()
            self._vote()
            if self.random.random() < 0.4 and self.wishes.for_sale():
                name = self.random.choice(("maker", "maker", "carol"))
                self._send(name, 0, self.wishes.bid(name, 0))
            if self.random.random() < 0.1:
                self._deposit()
            if self.random.random() < 0.02:
                self.exchange.does("carol", CancelAll(None), nonce=self.random.randrange(500))
            if self.random.random() < 0.02:
                self._misname()
            if self.random.random() < 0.01:
                sent = Transaction(bytes(32), 0, 0, (CancelAll(None),))
                self.exchange.waiting.append(sign(a_key("bob"), sent))
            yield self._close()

    def _vote(self) -> None:
        """Now and then every operator votes, and mostly for the same."""
        if self.voters is not None and self.voters.chance(0.3):
            for name in OPERATORS:
                self.exchange.does(name, *(self.voters.vote(name) for _ in range(2)))

    # --- traders ---

    def _misname(self) -> None:
        """A wallet is shown another instrument than the one that would be traded."""
        nonce = self.random.randrange(500)
        order = self.wishes.order(0, 0, 0, "now")
        shown = Instrument(0, Underlying.ETH, Kind.PERPETUAL, 0, 0, self.random.choice((10, 100)))
        sent = Transaction(CHAIN, 0, nonce, (order, TransferCash(1, USD)))
        self.exchange.waiting.append(sign_in_wallet(a_wallet("wanda"), sent, [shown]))

    def _act(self, name: str) -> None:
        exchange, own = self.exchange, range(3)
        opened = [item for item in own if exchange.state.account(exchange.key(name, item))]
        subaccount = 0 if self.random.random() < 0.8 else self.random.choice([*opened, *opened, *own])
        if name == "maker" and self.random.random() < 0.85:
            self._send(name, 0, *self._market_making())
            return
        if name in ("dave", "bob") and self.random.random() < 0.45:
            self._send(name, 0, *self.wishes.guarded_quotes(name))
            return
        many = 1 + (self.random.random() < 0.5) * self.random.randrange(7)
        self._send(name, subaccount, *(self.wishes.action(name, subaccount) for _ in range(many)))

    def _market_making(self) -> list[Action]:
        """Quotes in everything near, as orders or as a mass quote under protection."""
        wishes = self.wishes
        instruments = [*PERPETUALS, *self.random.sample(wishes.options(), 4)]
        actions: list[Action] = [CancelAll(None)] if self.random.random() < 0.8 else []
        if self.random.random() < 0.5:
            if self.random.random() < 0.2:
                actions.append(wishes.protection())
            return [*actions, wishes.quotes(instruments)]
        orders = [
            wishes.order(instrument, side, wishes.beside(side), "quote")
            for instrument in instruments
            for side in (0, 1)
        ]
        return [*actions, *orders]

    def _send(self, name: str, subaccount: int, *actions: Action) -> None:
        """Under the owner's key or, now and then, one of his session keys; nonces are the account's."""
        exchange, signer = self.exchange, name
        nonce = exchange.nonces.get((name, subaccount), -1) + 1
        exchange.nonces[name, subaccount] = nonce
        if self.random.random() < 0.02:
            nonce = self.random.randrange(500)
        sessions = self.wishes.sessions(name, subaccount)
        if self.random.random() < (0.3 if sessions else 0.02):
            signer = self.random.choice(sessions or [session_name(name, 0)])
        exchange.does(signer, *actions, subaccount=subaccount, nonce=nonce)

    def _negotiate(self) -> None:
        """Makers answer the open requests, and who asked takes a quote or not."""
        state, wishes = self.exchange.state, self.wishes
        for item in get_open_requests(state):
            taker = next((name for name in NAMES if self.exchange.key(name)[0] == item.owner), None)
            if taker is not None and self.random.random() < 0.3:
                self._send(taker, item.subaccount, wishes.acceptance(taker, item.subaccount))
            if self.random.random() < 0.5:
                self._send(self.random.choice(NAMES), 0, wishes.package_quote("", 0))

    def _crowd(self) -> None:
        """Many want the same at one price, and a few give it: the lots at the margin must be shared."""
        instrument = self.random.choice((0, *self.wishes.options()[:2]))
        side = self.random.randrange(2)
        for name in NAMES:
            of_side = side if self.random.random() < 0.7 else 1 - side
            self.exchange.does(name, self.wishes.order(instrument, of_side, 0, "now"))

    def _all_in(self) -> None:
        """Somebody takes as much of one thing as margin carries, and the maker gives it."""
        name, wishes = self.random.choice(NAMES[:4]), self.wishes
        instrument = self.random.choice((0, *wishes.options()[:4]))
        side = self.random.choice((0, 1, 1))
        order = wishes.order(instrument, side, self.random.choice((0, -9_000 if side else 9_000)), "now")
        ladder = [replace(order, size_lots=2**step, label=0) for step in range(8)]
        self.exchange.does(name, *ladder)
        self.exchange.does("maker", replace(order, side=1 - side, size_lots=400, label=0))

    def _deposit(self) -> None:
        name = self.random.choice(NAMES)
        key = self.exchange.key(name, self.random.randrange(3))
        for_sale = [item for item in self.wishes.for_sale() if item.auction_ns]
        if for_sale and self.random.random() < 0.5:
            item = self.random.choice(for_sale)
            key = item.owner, item.subaccount
        signer = "custodian" if self.random.random() < 0.9 else name
        self.exchange.does(signer, Deposit(*key, self.random.randint(1, 30_000) * USD))

    # --- prices and time ---

    @property
    def is_calm(self) -> bool:
        """Half of the time blocks come soon and marks are right, so that trading is mostly open."""
        return self.exchange.state.clock.height // 40 % 2 == 0

    def _close(self) -> Block:
        exchange, random = self.exchange, self.random
        far, often = (0.3, 0.05) if self.is_calm else (0.45, 0.06)
        move = random.gauss(0, 0.002) if random.random() > often else random.uniform(-far, far)
        self.btc_usd = min(180_000.0, max(50_000.0, self.btc_usd * (1 + move)))
        exchange.vol_ppm = min(1_500_000, max(250_000, exchange.vol_ppm + random.randint(-20_000, 20_000)))
        steps = [1, 1, 2, 3, 4] if self.is_calm else [1, 1, 2, 4, 4, 4, 5, 16, 30]
        exchange.now_ns += random.choice(steps) * NS
        if self.is_listing:
            oracle = exchange.state.oracle(Underlying.BTC)
            exchange.expiries = [item.slice.expiry_ns for item in oracle.slices]
            stop_ns = STOPS_NS.get(exchange.state.clock.height, 0)
            exchange.now_ns = max(exchange.now_ns, stop_ns)
        waiting, exchange.waiting = exchange.waiting, []
        transactions = (encode(build_oracle_update(exchange.state, self._reports())), *waiting)
        height = exchange.state.clock.height + 1
        time_ns = compute_block_time(exchange.state, decode_update(transactions[0]))
        if is_staking(exchange.state):
            exchange.sees(offences=self._offences(height, time_ns), signers=self._signers(height))
        context = BlockContext(height, time_ns, **exchange.observed)
        return Block(context, transactions, exchange.apply(transactions))

    def _signers(self, height: int) -> tuple[int, ...]:
        """Of the parent's certificate; one validator after another sleeps for a while."""
        places = [item.place for item in parent_set(self.exchange.state, height).members]
        sleeper = places[height // 40 % len(places)]
        missing = [0.6 if place == sleeper else 0.03 for place in places]
        return tuple(
            place for place, part in zip(places, missing, strict=True) if self.random.random() >= part
        )

    def _offences(self, height: int, time_ns: int) -> tuple[tuple[int, int, str, int], ...]:
        """Rarely, evidence that is young enough."""
        if self.random.random() > 0.015:
            return ()
        rules = self.exchange.genesis.staking
        kept: list[EpochSet] = scan(self.exchange.state, b"ke")
        now, found = rules.epoch_of(height), []
        for _ in range(self.random.choice([1, 1, 2])):
            item = self.random.choice(kept)
            is_young = item.epoch <= now <= item.epoch + rules.evidence_epochs_max
            is_young &= not item.closed_ns or time_ns <= item.closed_ns + rules.evidence_ns_max
            if is_young:
                kind = self.random.choice(["E1", "E3", "E3", "E6", "FORK"])
                found.append((self.random.choice(item.members).place, item.epoch, kind, height))
        return tuple(found)

    def _delays(self) -> list[SeenDelay]:
        """How late the last proposals were; one place is always slow."""
        state, height = self.exchange.state, self.exchange.state.clock.height
        seen = []
        for one in range(max(1, height - 1), height + 1):
            members = get_epoch_set(state, self.exchange.genesis.staking.epoch_of(one))
            if members is not None:
                place = members.members[one % len(members.members)].place
                seen.append(
                    SeenDelay(one, place, self.random.randint(0, 1_500_000 if place == 1 else 700_000))
                )
        return seen

    def _reports(self) -> list[SignedReport]:
        """Reporters see slightly different prices at slightly different times; some are absent, one may lie."""
        exchange, random = self.exchange, self.random
        if random.random() < 0.03:
            return []
        present = [number for number in sorted(reporters_of(exchange.state)) if random.random() < 0.95]
        delays = self._delays() if is_staking(exchange.state) and random.random() < 0.8 else []
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
                    number,
                    time_ns,
                    round(seen, 2),
                    expiries=shown,
                    vol_ppm=vol_ppm,
                    delays=delays,
                    quotes=shown_quotes,
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
            if self.is_calm:
                error_ppm /= 10
            elif number % 3 == 2 and height % 3 == 1:
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
