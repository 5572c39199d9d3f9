"""A block executed the slow and obvious way: dictionaries, Python integers, no working copies. Pure.

What it takes from the fast ledger: the wire types and their encoding, the leaves of height 0, and in each
block the risk arrays as the kernel gives them. The last bits of a mark are decided by the kernel's binary64
operations, so a second implementation of them could only repeat them; the kernel is held to
ledger.pricing.fixed_math and to reference values by its own tests. From its integers on, everything is
written again here, a file for each part: oracle medians, breakers, both margin models, health, liquidation, bids,
transactions, orders of every kind, quotes and protection, session keys, packages, calls, fees, settlement, staking,
governance, the fund, the leaves and the root.

Refusals are compared by reason; the sentence for people is left out (`plain`).
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from ledger.accounts import Account, Position
from ledger.accounts import OpenOrder as OpenOrderLeaf
from ledger.apply import BlockContext
from ledger.events import (
    ActionRejected,
    CashMoved,
    Event,
    ExpirySettled,
    HealthChanged,
    OrderCancelled,
    ParameterDropped,
    Trade,
    TransactionRejected,
)
from ledger.genesis import LedgerGenesis, LedgerParameters
from ledger.instruments import Instrument, Kind
from ledger.listing import Listing
from ledger.matching.book import Book
from ledger.matching.orders import RestingOrder
from ledger.oracle import UnderlyingOracle
from ledger.settlement.parameters import ProtectionParameters
from ledger.settlement.state import (
    KEY_EXPOSURE,
    KEY_SCHEDULE,
    Exposure,
    Funding,
    Liquidation,
    Schedule,
    funding_key,
    liquidation_key,
)
from ledger.state import Clock, Marks, State, Supply, Totals
from ledger.state_keys import (
    KEY_CLOCK,
    KEY_MARKS,
    KEY_SUPPLY,
    KEY_TOTALS,
    account_key,
    book_key,
    listing_key,
    oracle_key,
    reporter_key,
    window_key,
)
from ledger.trading.parameters import TradingParameters
from ledger.trading.state import QuoteRequest, Session
from primitives.codec import encode
from primitives.hashing import digest
from tests.naive.account import HEALTHY, LIQUIDATION, REDUCE_ONLY, AccountKey, NaiveAccount
from tests.naive.breakers import NaiveBreakers
from tests.naive.call import Order, Ticks, above_or_at, below_or_at, call_with_kills
from tests.naive.epochs import end, staking_leaves
from tests.naive.exposure import exposure, shortfalls_uusd
from tests.naive.fees import fee_uusd
from tests.naive.funding import accrue, paid_uusd
from tests.naive.governance import NaiveGovernance, apply_decided, governance_leaves, set_model
from tests.naive.liquidation import liquidate
from tests.naive.listing import run_schedule
from tests.naive.margin import PPM, NaiveMargin, Rows
from tests.naive.oracle import NaiveOracle
from tests.naive.packages import request_leaves, settle_packages
from tests.naive.penalties import begin
from tests.naive.preferences import trading_leaves
from tests.naive.quotes import count_fill, trip
from tests.naive.root import naive_root
from tests.naive.settlement import NaiveAverage
from tests.naive.staking import genesis_staking
from tests.naive.standard import margin_of
from tests.naive.transactions import execute
from tests.naive.waterfall import absorb_debts, end_recovered, postpone

HEALTH_NAMES = ("healthy", "reduce_only", "liquidation")


class NaiveLedger:
    """The whole state, and one block at a time."""

    def __init__(self, state: State) -> None:
        """From a state at height 0, whose leaves it reads once."""
        self.genesis = state.genesis
        self.chain_id = state.chain_id
        self.instruments: dict[int, Instrument] = {item.id: item for item in state.genesis.instruments}
        self.ticks = {item.underlying: item for item in state.genesis.underlyings}
        self.accounts = {item.key: NaiveAccount(item.cash_uusd) for item in state.accounts()}
        self.supply: dict[str, int] = {name: getattr(state.supply, name) for name in Supply.__struct_fields__}
        agreed: dict[int, UnderlyingOracle] = {u: state.oracle(u) for u in self.ticks}
        self.oracle = NaiveOracle(state.genesis, agreed)
        self.next_instrument, self.has_schedule = max(self.instruments, default=-1) + 1, False
        self.orders: dict[int, Order] = {}
        self.sessions: dict[bytes, Session] = {}
        self.requests: dict[int, QuoteRequest] = {}
        self.calling = -1
        """The instrument whose call runs: new orders of later ones still wait for theirs."""
        self.averages: dict[tuple[int, int], NaiveAverage] = {}
        self.settled: dict[int, int] = {}
        self.height, self.time_ns, self.next_order_id, self.silent_blocks = 0, state.clock.time_ns, 1, 0
        self.marks: Marks | None = None
        self.staking = genesis_staking(self)
        self.governance = NaiveGovernance(state.genesis)
        self.funding: dict[int, Funding] = {}
        self.exposure: Exposure | None = None
        self.liquidations: dict[AccountKey, Liquidation] = {}
        self.breakers = NaiveBreakers(self)
        self.margins: dict[AccountKey, NaiveMargin] = {}
        self.held_before: dict[AccountKey, dict[int, int]] = {}
        """Lots of each account when the block's margins were computed."""
        self.events: list[Event] = []

    # --- policy ---

    @property
    def parameters(self) -> LedgerParameters:
        """General numbers in force."""
        return self.genesis.parameters

    @property
    def trading_rules(self) -> TradingParameters:
        """Of order types, fees and the standard model."""
        return self.genesis.trading

    @property
    def protection(self) -> ProtectionParameters:
        """Of auctions, funding, listing and exposure."""
        return self.genesis.protection

    @property
    def protocol_version(self) -> int:
        """What sets decided from now on carry."""
        return self.genesis.protocol.version

    def take_policy(self, genesis: LedgerGenesis) -> None:
        """Go on as if genesis had had these numbers."""
        self.genesis = self.oracle.genesis = genesis
        if self.staking is not None:
            self.staking.rules = genesis.staking

    # --- one block ---

    def apply(self, context: BlockContext, transactions: tuple[bytes, ...], risk: Any) -> list[Event]:
        """Execute a block; `risk` is what the kernel made of its prices. Its events; then see `root`."""
        reports = self.oracle.read(transactions[0])
        self.events, before_ns = [], self.time_ns
        self.time_ns = self.oracle.block_time(reports, self.time_ns)
        self.height += 1
        assert (self.height, self.time_ns) == (context.height, context.time_ns)
        self.silent_blocks = 0 if reports else self.silent_blocks + 1
        self.oracle.take(reports, self.time_ns)
        self.breakers.update(reports)
        is_halted = self.breakers.fresh_left > 0
        if reports:
            accrue(self, is_halted=is_halted)
        apply_decided(self)
        if self.staking is not None:
            begin(self, self.staking, reports, context)
        self._settle(bool(reports) and not is_halted)
        run_schedule(self, before_ns)
        self.rows = Rows(risk, {number: paid_uusd(self, item) for number, item in self.instruments.items()})
        set_model(self, self.rows, risk.underlyings)
        self.breakers.add_surcharges(self.rows)
        live = [item for item in sorted(self.instruments) if item not in self.settled]
        assert live == sorted(self.rows.row_of), "the kernel priced what is live"
        debt_before_uusd = self.supply["debt_uusd"]
        healths_before = {key: item.health for key, item in self.accounts.items()}
        margins = self.margins = self._margin_everyone()
        self.held_before = {
            key: {instrument: lots for instrument, (lots, _) in item.positions.items()}
            for key, item in self.accounts.items()
        }
        equities = {key: margins[key].mtm_uusd + item.cash_uusd for key, item in self.accounts.items()}
        shortfalls = shortfalls_uusd(self, equities)
        end_recovered(self, healths_before)
        for key in sorted(margins):
            if margins[key].mm_excess_uusd < 0:
                if self.breakers.may_liquidate(self.accounts[key].positions):
                    liquidate(self, key, margins[key])
                else:
                    postpone(self, key)
        self.calling = -1
        good = execute(self, transactions[1:])
        new = {item.instrument for item in self.orders.values() if item.height == self.height}
        for instrument in sorted(new | set(filter(self.breakers.resumes, live))):
            self.calling = instrument
            if self.breakers.matches(instrument):
                self._call(self.instruments[instrument])
        settle_packages(self, good)
        absorb_debts(self, debt_before_uusd)
        if self.staking is not None:
            end(self, self.staking)
        self.exposure = exposure(self, shortfalls, self.exposure)
        marks = tuple((item, self.rows.mark[self.rows.row_of[item]]) for item in live)
        raw = b"".join(
            getattr(margins[key], name).to_bytes(8, "little", signed=True)
            for name in ("im_excess_uusd", "mm_excess_uusd")
            for key in sorted(margins)
        )
        self.marks = Marks(marks, digest(b"quorate-margins", raw))
        return self.events

    def _margin_everyone(self) -> dict[AccountKey, NaiveMargin]:
        margins = {}
        for key, account in sorted(self.accounts.items()):
            margin = margins[key] = margin_of(self, account)
            health = HEALTHY if margin.im_excess_uusd >= 0 else REDUCE_ONLY
            if margin.mm_excess_uusd < 0:
                health = LIQUIDATION
            if health != account.health:
                account.health = health
                self.events.append(
                    HealthChanged(*key, HEALTH_NAMES[health], margin.im_excess_uusd, margin.mm_excess_uusd)
                )
        return margins

    # --- orders ---

    def enter(self, order: Order) -> None:
        """A new order for this block's call."""
        self.orders[order.id] = order
        self.next_order_id += 1

    def take_id(self) -> int:
        """The next number of the sequence that names orders, triggers and requests."""
        self.next_order_id += 1
        return self.next_order_id - 1

    def cancel(self, order: Order, reason: str) -> None:
        """An order is gone, with what is left of it."""
        del self.orders[order.id]
        self.events.append(OrderCancelled(order.id, *order.account, order.instrument, order.lots, reason))

    def cancel_all(self, orders: list[Order], reason: str) -> None:
        """Those that wait for this block's call go first, by id; then those in books, by instrument and id."""

        def turn(order: Order) -> tuple[int, int]:
            waits = order.height == self.height and order.instrument > self.calling
            return (-1 if waits else order.instrument), order.id

        for order in sorted(orders, key=turn):
            self.cancel(order, reason)

    def grid(self, instrument: Instrument) -> Ticks:
        """The instrument's price grid."""
        parameters = self.ticks[instrument.underlying]
        if instrument.kind == Kind.PERPETUAL:
            return ((0, parameters.perpetual_tick_uusd),)
        return parameters.ticks

    def band_uusd(self, instrument: Instrument) -> int:
        """How far past the mark an order may go: a share of it, 15 points of volatility, 0.1 % of the index, 3 h."""
        row = self.rows.row_of[instrument.id]
        band = max(
            self.rows.mark[row] * self.genesis.parameters.price_band_ppm // PPM,
            15 * self.rows.vega_uusd[row],
            self.oracle.agreed[instrument.underlying].index_uusd // 1000,
        )
        return self.breakers.widened(instrument, band)

    def band_edge_uusd(self, instrument: Instrument, *, is_buy: bool) -> int:
        """The worst price on the grid within the band, at least one tick."""
        grid, mark = self.grid(instrument), self.rows.mark[self.rows.row_of[instrument.id]]
        band = self.band_uusd(instrument)
        edge = below_or_at(grid, mark + band) if is_buy else above_or_at(grid, max(0, mark - band))
        return max(edge, above_or_at(grid, 1))

    # --- calls ---

    def _call(self, instrument: Instrument) -> None:
        own = [item for item in self.orders.values() if item.instrument == instrument.id]
        before = {item.id: item.lots for item in own}
        mark = self.rows.mark[self.rows.row_of[instrument.id]]
        result = call_with_kills(own, self.height, mark, self.grid(instrument))
        for order_id in result.removed:
            self.cancel(self.orders[order_id], "self_trade")
        trades: dict[tuple[int, int], int] = {}
        for pair in result.lots:
            trades[pair] = trades.get(pair, 0) + 1
        paid_base: set[int] = set()
        for (buy, sell), lots in trades.items():
            assert result.price_uusd is not None
            self._trade(instrument, self.orders[buy], self.orders[sell], lots, result.price_uusd, paid_base)
        traded = {order_id for pair in trades for order_id in pair}
        accounts = {self.orders[order_id].account for order_id in traded}
        for order_id in sorted(before):
            order = self.orders.get(order_id)
            if order is not None and order.lots == 0:
                del self.orders[order_id]
            elif order is not None and order.time_in_force:
                self.cancel(order, "immediate_or_cancel" if order.time_in_force == 1 else "fill_or_kill")
        for key in sorted(accounts):
            self.trim(key, instrument.id)
        trip(self, instrument.underlying, accounts)

    def _trade(
        self, instrument: Instrument, buy: Order, sell: Order, lots: int, price: int, paid_base: set[int]
    ) -> None:
        fees = []
        for order, signed in ((buy, lots), (sell, -lots)):
            self.give(self.accounts[order.account], instrument, signed, price)
            order.lots -= lots
            count_fill(self, instrument, order, signed)
            is_maker = order.height < self.height
            has_base = not is_maker and order.id not in paid_base
            paid_base.add(order.id)
            fees.append(fee_uusd(self, instrument, lots, price, is_maker=is_maker, has_base=has_base))
            self.accounts[order.account].cash_uusd -= fees[-1]
            self.supply["fees_uusd"] += fees[-1]
        self.events.append(
            Trade(instrument.id, price, lots, buy.id, sell.id, *buy.account, *sell.account, *fees)
        )

    def give(self, account: NaiveAccount, instrument: Instrument, lots: int, price: int) -> None:
        """Lots for cash; a perpetual's price goes into its cost, and what is closed is realised in cash."""
        held, cost = account.positions.pop(instrument.id, (0, 0))
        value = lots * (price - paid_uusd(self, instrument)) // instrument.lots_per_contract
        if instrument.kind != Kind.PERPETUAL:
            account.cash_uusd -= value
            cost = 0
        elif held * lots >= 0:
            cost += value
        else:
            closed = min(abs(held), abs(lots))
            cost_out, value_in = cost * closed // abs(held), value * closed // abs(lots)
            account.cash_uusd -= cost_out + value_in
            cost = (cost - cost_out) + (value - value_in)
        if held + lots:
            account.positions[instrument.id] = (held + lots, cost)

    def trim(self, key: AccountKey, instrument: int) -> None:
        """Reduce-only orders beyond what is left to reduce go, the newest first."""
        held = self.accounts[key].positions.get(instrument, (0, 0))[0]
        for is_buy in (True, False):
            room = max(0, -held if is_buy else held)
            for order in sorted(self.orders.values(), key=lambda item: item.id):
                is_one = order.account == key and order.instrument == instrument and order.reduce_only
                if is_one and order.is_buy == is_buy:
                    room -= order.lots
                    if room < 0:
                        self.cancel(order, "reduce_only")

    # --- settlement ---

    def _settle(self, has_update: bool) -> None:
        parameters = self.genesis.parameters
        total = parameters.settlement_window_ns // parameters.settlement_bucket_ns
        carry = parameters.settlement_carry_buckets_max
        for underlying in sorted(self.oracle.agreed):
            for agreed in self.oracle.agreed[underlying].slices:
                expiry_ns = agreed.slice.expiry_ns
                start_ns = expiry_ns - parameters.settlement_window_ns
                if self.time_ns < start_ns:
                    continue
                options = self._options(underlying, expiry_ns)
                if self.time_ns >= expiry_ns:
                    self._close_books(options)
                if not has_update:
                    continue
                average = self.averages.setdefault((underlying, expiry_ns), NaiveAverage())
                bucket = (self.time_ns - start_ns) // parameters.settlement_bucket_ns
                average.observe(bucket, self.oracle.agreed[underlying].index_uusd)
                price = average.price_uusd(total, carry)
                if price is not None:
                    self._pay(underlying, expiry_ns, options, price)

    def _options(self, underlying: int, expiry_ns: int) -> list[Instrument]:
        return [
            item
            for _, item in sorted(self.instruments.items())
            if item.kind != Kind.PERPETUAL and (item.underlying, item.expiry_ns) == (underlying, expiry_ns)
        ]

    def _close_books(self, options: list[Instrument]) -> None:
        for option in options:
            for order in sorted(self.orders.values(), key=lambda item: item.id):
                if order.instrument == option.id:
                    self.cancel(order, "expired")

    def _pay(self, underlying: int, expiry_ns: int, options: list[Instrument], price: int) -> None:
        count = paid = 0
        for _, account in sorted(self.accounts.items()):
            for option in options:
                lots, _cost = account.positions.pop(option.id, (0, 0))
                if lots:
                    above = price - option.strike_uusd
                    payoff = max(0, above if option.kind == Kind.CALL else -above)
                    change = lots * payoff // option.lots_per_contract
                    account.cash_uusd += change
                    self.supply["fund_uusd"] -= change
                    paid += max(0, change)
                    count += 1
        self.settled |= {option.id: price for option in options}
        oracle = self.oracle.agreed[underlying]
        left = tuple(item for item in oracle.slices if item.slice.expiry_ns != expiry_ns)
        self.oracle.agreed[underlying] = replace(oracle, slices=left)
        del self.averages[underlying, expiry_ns]
        self.breakers.forget(options)
        self.events.append(ExpirySettled(underlying, expiry_ns, price, count, paid))

    # --- cash ---

    def move_cash(self, key: AccountKey, amount_uusd: int, cause: str) -> None:
        """Credit or debit with an event."""
        self.accounts[key].cash_uusd += amount_uusd
        self.events.append(CashMoved(*key, amount_uusd, cause))

    # --- the state's leaves ---

    def leaves(self) -> dict[bytes, bytes]:
        """Every leaf of the state after the block."""
        parameters = self.genesis.parameters
        total = parameters.settlement_window_ns // parameters.settlement_bucket_ns
        carry = parameters.settlement_carry_buckets_max
        clock = Clock(self.height, self.time_ns, self.next_order_id, self.silent_blocks)
        cash = sum(item.cash_uusd for item in self.accounts.values())
        cost = sum(cost for item in self.accounts.values() for _, cost in item.positions.values())
        values: dict[bytes, Any] = {
            KEY_CLOCK: clock,
            KEY_SUPPLY: Supply(**self.supply),
            KEY_TOTALS: Totals(cash, cost),
        }
        if self.marks is not None:
            values[KEY_MARKS] = self.marks
        if self.exposure is not None:
            values[KEY_EXPOSURE] = self.exposure
        if self.has_schedule:
            values[KEY_SCHEDULE] = Schedule(self.next_instrument)
        for key in self.accounts:
            values[account_key(key)] = self._account_leaf(key)
        for instrument in self.instruments.values():
            is_settled = instrument.id in self.settled
            values[listing_key(instrument.id)] = Listing(
                instrument, is_settled, self.settled.get(instrument.id, 0)
            )
            if any(item.instrument == instrument.id for item in self.orders.values()):
                values[book_key(instrument.id)] = self._book_leaf(instrument.id)
        values |= {oracle_key(number): item for number, item in self.oracle.agreed.items()}
        values |= {reporter_key(number): item for number, item in self.oracle.reporters.items()}
        values |= {window_key(*key): item.leaf(total, carry) for key, item in self.averages.items()}
        values |= {liquidation_key(key): item for key, item in self.liquidations.items()}
        values |= {funding_key(number): item for number, item in self.funding.items()}
        values |= self.breakers.leaves()
        values |= trading_leaves(self)
        values |= request_leaves(self)
        values |= governance_leaves(self)
        if self.staking is not None:
            values |= staking_leaves(self, self.staking)
        return {key: encode(value) for key, value in values.items()}

    def root(self) -> bytes:
        """The state root."""
        return naive_root(self.leaves())

    def _account_leaf(self, key: AccountKey) -> Account:
        account = self.accounts[key]
        used = sum(1 << (nonce - account.nonce_floor) for nonce in account.nonces_used)
        own = sorted((item.id, item.instrument) for item in self.orders.values() if item.account == key)
        return Account(
            *key,
            account.cash_uusd,
            account.nonce_floor,
            used.to_bytes((used.bit_length() + 7) // 8, "little"),
            account.health,
            tuple(Position(item, *account.positions[item]) for item in sorted(account.positions)),
            tuple(OpenOrderLeaf(*item) for item in own),
        )

    def _book_leaf(self, instrument: int) -> Book:
        own = sorted(
            (item for item in self.orders.values() if item.instrument == instrument),
            key=lambda item: item.priority,
        )
        return Book(
            *(tuple(_resting(item) for item in own if item.is_buy == is_buy) for is_buy in (True, False))
        )


def _resting(order: Order) -> RestingOrder:
    return RestingOrder(
        order.id,
        *order.account,
        0 if order.is_buy else 1,
        order.price_uusd,
        order.lots,
        order.height,
        order.label,
        order.time_in_force,
        order.post_only,
        order.reduce_only,
    )


def plain(events: list[Event] | tuple[Event, ...]) -> list[Event]:
    """Events without the sentences for people."""
    return [
        replace(item, detail="")
        if isinstance(item, ActionRejected | TransactionRejected | ParameterDropped)
        else item
        for item in events
    ]
