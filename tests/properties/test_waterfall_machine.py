"""Crashes with a small fund and a small vault: auctions, deleveraging and debts keep every micro-dollar.

The ledger's machine with larger jumps, bidders, and hours that pass. Beside conservation (checked from
scratch after every block) no account without positions is left with a debt, and exactly the accounts below
maintenance are in liquidation.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from ledger.margin.health import Health
from ledger.settlement.state import get_liquidation
from ledger.transactions import BidAuction
from primitives.amounts import USD
from tests.ledger.exchange import BTC_PERP, INSTRUMENTS, Exchange, a_genesis
from tests.properties.test_ledger_machine import INSTRUMENTS as TRADED
from tests.properties.test_ledger_machine import NAMES, LedgerMachine


class WaterfallMachine(LedgerMachine):
    """Everybody may bid for everybody."""

    @initialize()
    def start(self) -> None:
        cash_usd = {"alice": 30_000, "bob": 60_000, "carol": 400_000}
        genesis = a_genesis(cash_usd, INSTRUMENTS, vault_usd=20_000, insurance_fund_uusd=500 * USD)
        self.exchange = Exchange().start(genesis)
        self.seen: set[str] = set()
        self.exchange.block()

    @rule(name=NAMES, whose=NAMES, fraction_ppm=st.integers(1, 1_000_000))
    def bid(self, name: str, whose: str, fraction_ppm: int) -> None:
        self.exchange.does(name, BidAuction(*self.exchange.key(whose), fraction_ppm, 1 << 60))

    @rule(
        move_ppm=st.sampled_from([-400_000, -250_000, -150_000, 150_000, 250_000, 400_000]),
        pair=st.permutations(["alice", "bob", "carol"]),
        instrument=TRADED,
        lots=st.integers(20, 200),
        whose=NAMES,
    )
    def crash(self, move_ppm: int, pair: list[str], instrument: int, lots: int, whose: str) -> None:
        """Positions, a jump, the patience of the book, a bid, and an hour without one."""
        self.deal(pair, instrument, lots)
        price = self.exchange.btc_usd * (1_000_000 + move_ppm) / 1_000_000
        self.exchange.btc_usd = min(300_000, max(30_000, round(price)))
        for seconds in (1, 31, 1, 3_601, 1):
            if seconds == 31:
                self.bid(pair[2], whose, 1_000_000)
            result = self.exchange.block(seconds)
            self.seen |= {type(event).__name__ for event in result.events}

    @invariant()
    def debts_are_counted(self) -> None:
        if not hasattr(self, "exchange"):
            return
        state = self.exchange.state
        for account in state.accounts():
            assert account.cash_uusd >= 0 or account.positions
            is_below = account.health == Health.LIQUIDATION
            assert is_below == (get_liquidation(state, account.key) is not None)


WaterfallMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWaterfall = WaterfallMachine.TestCase


def test_the_machine_reaches_every_step() -> None:
    """Two crashes by hand: one where the vault and bidders help, one where the fund and the vault are empty."""
    machine = WaterfallMachine()
    machine.start()
    seen = set()
    for move_ppm in (-150_000, 400_000, -250_000, 400_000, -400_000):
        for pair in (["alice", "carol", "bob"], ["bob", "carol", "alice"]):
            machine.crash(move_ppm, pair, BTC_PERP, 120, pair[0])
            seen |= set(machine.seen)
    assert {"AuctionStarted", "AuctionEnded", "AuctionBid", "Deleveraged"} <= seen
