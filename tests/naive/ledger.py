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

from ledger.apply import BlockContext
from ledger.events import (
    ActionRejected,
    CashMoved,
    Event,
    HealthChanged,
    OrderCancelled,
    ParameterDropped,
    TransactionRejected,
)
from ledger.genesis import LedgerGenesis, LedgerParameters
from ledger.instruments import Instrument, Kind
from ledger.oracle import UnderlyingOracle
from ledger.settlement.parameters import ProtectionParameters
from ledger.settlement.state import (
    Exposure,
    Funding,
    Liquidation,
)
from ledger.state import Marks, State, Supply
from ledger.trading.parameters import TradingParameters
from ledger.trading.state import QuoteRequest, Session
from primitives.hashing import digest
from tests.naive.account import HEALTHY, LIQUIDATION, REDUCE_ONLY, AccountKey, NaiveAccount
from tests.naive.breakers import NaiveBreakers
from tests.naive.call import Order, Ticks, above_or_at, below_or_at
from tests.naive.calls import run_call
from tests.naive.epochs import end
from tests.naive.exposure import exposure, shortfalls_uusd
from tests.naive.funding import accrue, paid_uusd
from tests.naive.governance import NaiveGovernance, apply_decided, set_model
from tests.naive.leaves import leaves_of
from tests.naive.liquidation import liquidate
from tests.naive.listing import run_schedule
from tests.naive.margin import PPM, NaiveMargin, Rows
from tests.naive.oracle import NaiveOracle
from tests.naive.packages import settle_packages
from tests.naive.penalties import begin
from tests.naive.root import naive_root
from tests.naive.settlement import NaiveAverage, settle
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
        settle(self, has_update=bool(reports) and not is_halted)
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
                run_call(self, self.instruments[instrument])
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

    # --- cash ---

    def move_cash(self, key: AccountKey, amount_uusd: int, cause: str) -> None:
        """Credit or debit with an event."""
        self.accounts[key].cash_uusd += amount_uusd
        self.events.append(CashMoved(*key, amount_uusd, cause))

    # --- the state ---

    def leaves(self) -> dict[bytes, bytes]:
        """Every leaf of the state after the block."""
        return leaves_of(self)

    def root(self) -> bytes:
        """The state root."""
        return naive_root(self.leaves())


def plain(events: list[Event] | tuple[Event, ...]) -> list[Event]:
    """Events without the sentences for people."""
    return [
        replace(item, detail="")
        if isinstance(item, ActionRejected | TransactionRejected | ParameterDropped)
        else item
        for item in events
    ]
