"""Whatever traders, reporters and the price do: money is conserved, positions sum to zero, books stay uncrossed.

Exchange.block runs invariants.check_everything, which recomputes all of it from every account and book. Beside that the
machine undoes and redoes blocks, and restores the state from its leaves, and expects the same root each time.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from ledger.matching.orders import floor_to_tick
from ledger.state import State
from ledger.transactions import (
    Action,
    CancelAll,
    CancelLabel,
    Deposit,
    PlaceOrder,
    Side,
    TransferCash,
    Withdraw,
)
from primitives.amounts import NS, USD
from tests.ledger.exchange import (
    BTC_PERP,
    BTC_TICKS,
    CALL_110,
    CHAIN,
    NEAR_CALL,
    NEAR_NS,
    NEAR_PUT,
    Exchange,
)

NAMES = st.sampled_from(["alice", "bob", "carol"])
INSTRUMENTS = st.sampled_from([BTC_PERP, CALL_110, NEAR_CALL, NEAR_PUT])
SIZES = st.integers(1, 150)


class LedgerMachine(RuleBasedStateMachine):
    """Small cash against big moves, so that refusals, liquidations, debts and settlements all happen."""

    @initialize()
    def start(self) -> None:
        self.exchange = Exchange(alice=30_000, bob=60_000, carol=1_000_000)
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
        self.exchange.block(seconds, oracle=oracle or seconds > 4)

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

    @rule()
    def restore(self) -> None:
        leaves = self.exchange.state.all_leaves()
        restored = State.from_leaves(CHAIN, self.exchange.genesis, leaves)
        assert restored.root() == self.exchange.state.root()
        self.exchange.state = restored


LedgerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLedger = LedgerMachine.TestCase
