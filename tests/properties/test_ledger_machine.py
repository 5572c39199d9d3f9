"""Whatever traders, reporters and the price do: money is conserved, positions sum to zero, books stay uncrossed.

Exchange.block runs invariants.check_everything, which recomputes all of it from every account and book. Beside that the
machine undoes and redoes blocks, and restores the state from its leaves, and expects the same root each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ledger.apply import BlockResult
from ledger.breakers.phases import Phases
from ledger.events import LiquidationStep, Trade
from ledger.matching.orders import floor_to_tick
from ledger.state import State
from ledger.trading.events import PackageLeg, QuotesRequested
from ledger.transactions import (
    UUSD_PER_CENT,
    AcceptQuote,
    Action,
    CancelAll,
    CancelLabel,
    Deposit,
    Leg,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    QuotePackage,
    QuotesReport,
    RegisterSessionKey,
    ReplaceOrder,
    RequestQuotes,
    ResetProtection,
    RevokeSessionKey,
    SetCancelTime,
    SetMarginModel,
    SetProtection,
    Side,
    Transaction,
    TransferCash,
    Withdraw,
    WithdrawRequest,
    session_proof_bytes,
)
from primitives.amounts import NS, USD
from tests.histories import nervous_breakers
from tests.ledger.exchange import (
    BTC_PERP,
    BTC_TICKS,
    CALL_110,
    CHAIN,
    NEAR_CALL,
    NEAR_NS,
    NEAR_PUT,
    Exchange,
    a_genesis,
    a_key,
    events_of,
    no_breakers,
    sign,
)

NAMES = st.sampled_from(["alice", "bob", "carol"])
INSTRUMENTS = st.sampled_from([BTC_PERP, CALL_110, NEAR_CALL, NEAR_PUT])
SIZES = st.integers(1, 150)


class LedgerMachine(RuleBasedStateMachine):
    """Small cash against big moves, so that refusals, liquidations, debts and settlements all happen."""

    @initialize(are_nervous=st.booleans())
    def start(self, are_nervous: bool) -> None:
        """With breakers that trip at once, or with none."""
        cash_usd = {"alice": 30_000, "bob": 60_000, "carol": 1_000_000}
        breakers = nervous_breakers() if are_nervous else no_breakers()
        self.exchange = Exchange().start(a_genesis(cash_usd, breakers=breakers))
        self.exchange.block()

    def price(self, instrument: int, offset_ppm: int) -> int:
        """A price on the grid, so far from the mark."""
        mark_uusd = dict(self.exchange.state.marks.marks).get(instrument, 100 * USD)
        wanted = max(USD, mark_uusd * (1_000_000 + offset_ppm) // 1_000_000)
        return floor_to_tick(((0, USD // 2),) if instrument == BTC_PERP else BTC_TICKS, wanted)

    @rule(
        name=NAMES,
        instrument=INSTRUMENTS,
        side=st.sampled_from(Side),
        offset_ppm=st.integers(-40_000, 40_000),
        lots=SIZES,
        how=st.sampled_from(["rest", "rest", "now", "post", "reduce"]),
        label=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def order(
        self, name: str, instrument: int, side: Side, offset_ppm: int, lots: int, how: str, label: int
    ) -> None:
        price = self.price(instrument, offset_ppm)
        gentle = (how == "post", how == "reduce")
        self.exchange.does(name, PlaceOrder(instrument, side, price, lots, int(how == "now"), *gentle, label))

    @rule(
        name=NAMES,
        instrument=INSTRUMENTS,
        side=st.sampled_from(Side),
        offset_ppm=st.integers(-40_000, 40_000),
        lots=SIZES,
        what=st.sampled_from(["market", "kill", "until", "trigger", "replace", "silence"]),
    )
    def special_order(
        self, name: str, instrument: int, side: Side, offset_ppm: int, lots: int, what: str
    ) -> None:
        """Every order type beyond the limit order, and the dead-man switch."""
        exchange = self.exchange
        price = self.price(instrument, offset_ppm)
        account = exchange.state.account(exchange.key(name))
        first = account.orders[0].order_id if account is not None and account.orders else 1
        limit = PlaceOrder(instrument, side, price, lots, 0, False, False, 0)
        soon_ns = exchange.now_ns + lots * NS // 10
        by_index = instrument == BTC_PERP and bool(lots % 2)
        actions: dict[str, Action] = {
            "market": PlaceMarket(instrument, side, lots, 1, False, 0),
            "kill": PlaceOrder(instrument, side, price, lots, 2, False, False, 0),
            "until": PlaceUntil(limit, soon_ns),
            "trigger": PlaceTrigger(
                instrument,
                side,
                by_index,
                offset_ppm > 0,
                price,
                price if lots % 3 else None,
                lots,
                0,
                False,
                0,
            ),
            "replace": ReplaceOrder(first, price, max(1, lots // 3)),
            "silence": SetCancelTime(soon_ns),
        }
        exchange.does(name, actions[what])

    @rule(
        name=NAMES,
        half_ppm=st.integers(500, 20_000),
        lots=SIZES,
        limits=st.tuples(st.integers(0, 60), st.integers(0, 500_000), st.integers(0, 100)),
    )
    def quote(self, name: str, half_ppm: int, lots: int, limits: tuple[int, int, int]) -> None:
        """Mass quotes under protection that a block may trip."""
        lots_max, delta_ppm_max, vega_usd = limits
        protection = SetProtection(0, 3 * NS, 2 * NS, lots_max, delta_ppm_max, vega_usd * USD)
        quotes = tuple(
            Quote(item, self.price(item, -half_ppm), lots, self.price(item, half_ppm), lots)
            for item in (BTC_PERP, CALL_110)
        )
        self.exchange.does(name, protection, MassQuote(quotes), ResetProtection(0))

    @rule(name=NAMES, scope=st.integers(1, 15), usd=st.integers(1, 200_000), is_end=st.booleans())
    def session(self, name: str, scope: int, usd: int, is_end: bool) -> None:
        """A session key comes, trades and withdraws what it may not, and goes."""
        exchange, key = self.exchange, a_key(f"bot of {name}")
        proof = key.sign(session_proof_bytes(CHAIN, *exchange.key(name)))
        expires_ns = exchange.now_ns + usd * NS
        registration = RegisterSessionKey(key.public_key, scope, expires_ns, usd * USD, proof)
        exchange.does(name, RevokeSessionKey(key.public_key) if is_end else registration)
        exchange.block()
        account = exchange.state.account(exchange.key(name))
        nonce = 0 if account is None else account.next_nonce + 50
        price = self.price(BTC_PERP, -1_000)
        actions = (PlaceOrder(BTC_PERP, 0, price, 1 + usd % 90, 0, False, False, 0), Withdraw(USD))
        exchange.waiting.append(sign(key, Transaction(CHAIN, 0, nonce, actions)))
        exchange.nonces[name, 0] = nonce
        exchange.block()

    @rule(
        pair=st.permutations(["alice", "bob", "carol"]),
        lots=st.tuples(SIZES, st.integers(-150, 150)),
        off_usd=st.integers(-300, 300),
        side=st.sampled_from(Side),
        is_accepted=st.booleans(),
    )
    def package(
        self, pair: list[str], lots: tuple[int, int], off_usd: int, side: Side, is_accepted: bool
    ) -> None:
        """A request, a quote near the marks, and perhaps an acceptance that either side may not carry."""
        exchange = self.exchange
        until_ns = exchange.now_ns + 600 * NS
        legs = tuple(Leg(item, size) for item, size in zip((BTC_PERP, CALL_110), lots, strict=True) if size)
        exchange.does(pair[0], RequestQuotes(legs, until_ns))
        opened = events_of(exchange.block(), QuotesRequested)
        if not opened:
            return
        marks = dict(exchange.state.marks.marks)
        price = sum(leg.lots * (marks[leg.instrument] // 100) for leg in legs) + off_usd * USD
        exchange.does(pair[1], QuotePackage(opened[0].request_id, price, price + 1, until_ns))
        exchange.block()
        offered = price + 1 if side == Side.BUY else price
        if is_accepted:
            exchange.does(pair[0], AcceptQuote(opened[0].request_id, *exchange.key(pair[1]), side, offered))
        exchange.does(pair[0], WithdrawRequest(opened[0].request_id + 1))

    @rule(name=NAMES, model=st.integers(0, 1))
    def margin_model(self, name: str, model: int) -> None:
        self.exchange.does(name, SetMarginModel(model))

    @rule(pair=st.permutations(["alice", "bob", "carol"]), instrument=INSTRUMENTS, lots=SIZES)
    def deal(self, pair: list[str], instrument: int, lots: int) -> None:
        """Two who agree on a price near the mark, so that positions come to be."""
        price = self.price(instrument, 1_000)
        for name, side in zip(pair, (Side.BUY, Side.SELL), strict=False):
            self.exchange.does(name, PlaceOrder(instrument, side, price, lots, 0, False, False, 0))
        self.exchange.block()

    @rule(
        name=NAMES, what=st.sampled_from(["cancel", "label", "withdraw", "transfer", "deposit"]), lots=SIZES
    )
    def other(self, name: str, what: str, lots: int) -> None:
        amount = lots * 100 * USD
        actions: dict[str, Action] = {
            "cancel": CancelAll(None),
            "label": CancelLabel(lots % 4),
            "withdraw": Withdraw(amount),
            "transfer": TransferCash(lots % 3, amount),
            "deposit": Deposit(*self.exchange.key(name), amount),
        }
        self.exchange.does("custodian" if what == "deposit" else name, actions[what])

    @rule(
        move_ppm=st.integers(-90_000, 90_000),
        seconds=st.sampled_from([1, 4, 1_000, 2_000]),
        oracle=st.booleans(),
    )
    def block(self, move_ppm: int, seconds: int, oracle: bool) -> None:
        price = self.exchange.btc_usd * (1_000_000 + move_ppm) / 1_000_000
        self.exchange.btc_usd = min(300_000, max(30_000, round(price)))
        nothing_moves_while_matching_pauses(
            self.exchange, self.exchange.block(seconds, oracle=oracle or seconds > 4)
        )

    @rule(off_ppm=st.sampled_from([0, 0, 3_000, 300_000]), is_there=st.booleans())
    def venues(self, off_ppm: int, is_there: bool) -> None:
        """What all reporters see of the venues from now on: the marks of now, or so far off."""
        marks = dict(self.exchange.state.marks.marks)
        listed = tuple(item for item in sorted(marks) if is_there)
        cents = tuple(marks[item] * (1_000_000 + off_ppm) // 1_000_000 // UUSD_PER_CENT for item in listed)
        self.exchange.quotes = QuotesReport(listed, cents, (500,) * len(listed))

    @rule(move_ppm=st.integers(-90_000, 90_000))
    def pass_an_expiry(self, move_ppm: int) -> None:
        """Straight into the near expiry's window, through it in buckets, and out."""
        self.block(move_ppm, 1, True)
        if NEAR_NS - self.exchange.now_ns > 1_900 * NS:
            self.exchange.block((NEAR_NS - self.exchange.now_ns) // NS - 1_800)
        while self.exchange.now_ns < NEAR_NS:
            self.exchange.block(16)

    @rule()
    def undo_and_redo(self) -> None:
        exchange = self.exchange
        content = exchange.transactions()
        before = exchange.state.root()
        root = exchange.apply(content).root
        exchange.state.rollback_block()
        assert exchange.state.root() == before
        assert exchange.apply(content).root == root

    def trading_names_open_orders_only(self) -> None:
        """Quotes and times of an account belong to orders that it has open."""
        state = self.exchange.state
        for key, leaf in state.leaves.values.items():
            if key[:2] == b"qa":
                account = state.account((leaf.owner, leaf.subaccount))
                assert account is not None
                open_orders = {order.order_id for order in account.orders}
                assert open_orders >= {*leaf.quotes, *(item.order_id for item in leaf.deadlines)}

    @rule()
    def restore(self) -> None:
        leaves = self.exchange.state.all_leaves()
        restored = State.from_leaves(CHAIN, self.exchange.genesis, leaves)
        assert restored.root() == self.exchange.state.root()
        assert restored.orders.values == self.exchange.state.orders.values
        assert restored.watched.values == self.exchange.state.watched.values
        assert restored.standard.values == self.exchange.state.standard.values
        self.trading_names_open_orders_only()
        self.exchange.state = restored


def nothing_moves_while_matching_pauses(exchange: Exchange, result: BlockResult) -> None:
    """Neither a trade nor a leg nor an offer for an account below maintenance."""
    phases = Phases(exchange.state)
    for kind in (Trade, PackageLeg, LiquidationStep):
        for event in events_of(result, kind):
            assert phases.of(exchange.state.instruments[event.instrument]).is_matching


LedgerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLedger = LedgerMachine.TestCase
