"""What traders of random histories ask of the market: orders of every kind, mass quotes, cancels. Pure."""

from __future__ import annotations

from random import Random

from msgspec.structs import replace

from ledger.accounts import Position
from ledger.matching.orders import floor_to_tick, next_tick
from ledger.trading.state import get_trading
from ledger.transactions import (
    Action,
    CancelAll,
    CancelLabel,
    CancelOrder,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    ReplaceOrder,
    SetProtection,
    TimeInForce,
    TransferCash,
    Withdraw,
)
from primitives.amounts import NS, PPM, USD
from tests.ledger.exchange import (
    BTC_TICKS,
    WALLET_OWNERS,
    Exchange,
)

PERPETUALS = (0, 1)
UNKNOWN = 999
"""No instrument, no validator, no request has this number."""
SESSION_KEYS = 3
"""Of each person; one more than an account may have at once."""


def session_name(name: str, number: int) -> str:
    """Who signs with one of a person's session keys."""
    return f"{name} session {number}"


class MarketWishes:
    """Random orders that fit the exchange as it stands."""

    def __init__(self, random: Random, exchange: Exchange, names: tuple[str, ...]) -> None:
        self.random = random
        self.exchange = exchange
        self.names = names

    def chance(self, part: float) -> bool:
        """True so often."""
        return self.random.random() < part

    # --- the market ---

    @property
    def now_ns(self) -> int:
        """Time of the last block."""
        return self.exchange.state.clock.time_ns

    def marks(self) -> dict[int, int]:
        """Marks of everything live."""
        marks = self.exchange.state.marks
        return dict(marks.marks) if marks else {}

    def live(self) -> list[int]:
        """Everything that is not settled."""
        return list(self.marks()) or list(range(len(self.exchange.state.instruments)))

    def options(self) -> list[int]:
        """The live options of the first expiries: few enough that trade gathers."""
        return [item for item in self.live() if item not in PERPETUALS][:8]

    def instrument(self) -> int:
        """One to trade."""
        return self.random.choice(self.options() if self.chance(0.6) else PERPETUALS)

    def price(self, instrument: int, offset_ppm: int) -> int:
        """On the grid, so far above the mark; rarely off the grid."""
        wanted = max(USD, self.marks().get(instrument, 100 * USD) * (PPM + offset_ppm) // PPM)
        return floor_to_tick(self._grid(instrument), wanted) + self.chance(0.01)

    def _grid(self, instrument: int) -> tuple[tuple[int, int], ...]:
        return ((0, USD // 2),) if instrument in PERPETUALS else BTC_TICKS

    def lots(self) -> int:
        """Few or many; rarely more than anybody may hold."""
        if self.chance(0.004):
            return 1_000_000
        return self.random.randint(1, self.random.choice([3, 40, 150, 400]))

    def beside(self, side: int) -> int:
        """Off the mark, to rest."""
        offset = self.random.randint(0, 6_000)
        return offset if side else -offset

    def soon_ns(self, seconds: int = 60) -> int:
        """A time ahead; sometimes over."""
        return self.now_ns + self.random.randint(-2, seconds) * NS

    # --- orders ---

    def order(self, instrument: int, side: int, offset_ppm: int, how: str) -> PlaceOrder:
        """A limit order."""
        label = 0 if how == "quote" else self.random.choice([0, 0, 0, 0, 0, 1, 2, 3])
        in_force = {"now": TimeInForce.IOC, "kill": TimeInForce.FOK}.get(how, TimeInForce.GTC)
        price = self.price(instrument, offset_ppm)
        post_only = how in ("post", "quote") or self.chance(0.01)
        return PlaceOrder(instrument, side, price, self.lots(), in_force, post_only, how == "reduce", label)

    def some_order(self, name: str, subaccount: int) -> PlaceOrder:
        """One of any kind, near the mark."""
        how = self.random.choice(["rest", "rest", "now", "now", "kill", "kill", "post", "reduce"])
        # Few different prices, so that orders of one block meet at the same one.
        side, offset = self.random.randrange(2), self.random.choice([-5_000, 5_000, 5_000, 40_000])
        if how == "reduce" and (held := self._positions(name, subaccount)) and self.chance(0.9):
            return self._reducing(self.random.choice(held), offset)
        number = self.instrument() if self.chance(0.995) else self._unknown(name)
        return self.order(number, side, -offset if side else offset, how)

    def _positions(self, name: str, subaccount: int) -> list[Position]:
        account = self.exchange.state.account(self.exchange.key(name, subaccount))
        return [item for item in account.positions if item.instrument in self.marks()] if account else []

    def _reducing(self, held: Position, offset_ppm: int) -> PlaceOrder:
        """A part of a position, to rest or to trade."""
        side = 1 if held.lots > 0 else 0
        to_trade = -offset_ppm if side else offset_ppm
        order = self.order(
            held.instrument, side, self.beside(side) if self.chance(0.6) else to_trade, "reduce"
        )
        most = min(abs(held.lots), 999)
        return replace(order, size_lots=self.random.choice([self.random.randint(1, most), (most + 1) // 2]))

    def _unknown(self, name: str) -> int:
        """A wallet shows names: its owner cannot ask for what has none."""
        return 0 if name in WALLET_OWNERS else UNKNOWN

    def until(self, name: str, subaccount: int) -> PlaceUntil:
        """A resting order with an end."""
        side = self.random.randrange(2)
        how = "now" if self.chance(0.05) else self.random.choice(["rest", "post", "reduce"])
        order = self.order(self.instrument(), side, self.beside(side), how)
        return PlaceUntil(order, self.soon_ns(40))

    def market(self, name: str, subaccount: int) -> PlaceMarket:
        """Now, at any price."""
        lots, in_force = self.lots(), self.random.choice([1, 1, 2])
        reduce_only, label = self.chance(0.4), self.random.choice([0, 0, 5])
        number = self.instrument() if self.chance(0.95) else self._unknown(name)
        return PlaceMarket(number, self.random.randrange(2), lots, in_force, reduce_only, label)

    def trigger(self, name: str, subaccount: int) -> PlaceTrigger:
        """Once a price near the present one is reached."""
        number = self.instrument() if self.chance(0.97) else self._unknown(name)
        by_index, is_above = self.chance(0.4), self.chance(0.5)
        index_uusd = self.exchange.state.oracle(0).index_uusd
        seen = index_uusd if by_index else self.marks().get(number, USD)
        off_ppm = 0 if self.chance(0.1) else self.random.randint(-500, 4_000)
        at_uusd = max(1, seen * (PPM + (off_ppm if is_above else -off_ppm)) // PPM)
        side = self.random.randrange(2)
        price = None if self.chance(0.5) else self.price(number, self.random.randint(-9_000, 9_000))
        in_force, reduce_only = self.random.randrange(3), self.chance(0.3)
        lots = self.random.randint(1, 30)
        label = self.random.choice([0, 0, 1, 6])
        return PlaceTrigger(
            number, side, by_index, is_above, at_uusd, price, lots, in_force, reduce_only, label
        )

    def _own_orders(self, name: str, subaccount: int) -> list[int]:
        account = self.exchange.state.account(self.exchange.key(name, subaccount))
        return [item.order_id for item in account.orders] if account else []

    def replacement(self, name: str, subaccount: int) -> Action:
        """Other lots, another price, or both, of an open order."""
        own = self._own_orders(name, subaccount)
        if not own:
            return ReplaceOrder(self.random.randint(1, 50), self.price(0, 0), self.lots())
        old = self.exchange.state.orders.get(self.random.choice(own))
        assert old is not None
        lots = self.random.choice([max(1, old.left_lots - self.random.randint(0, 20)), self.lots()])
        price = old.price_uusd
        if self.chance(0.6):
            held = {item.order_id: item.instrument for item in self._account_orders(name, subaccount)}
            price = self.price(held[old.order_id], self.random.randint(-7_000, 7_000))
        return ReplaceOrder(old.order_id, price, lots)

    def _account_orders(self, name: str, subaccount: int) -> tuple[object, ...]:
        account = self.exchange.state.account(self.exchange.key(name, subaccount))
        return account.orders if account else ()

    def quotes(self, instruments: list[int]) -> MassQuote:
        """Both sides of each, sometimes one, rarely a wrong one."""
        made = []
        for number in instruments:
            bid, ask = (self.price(number, self.beside(side)) for side in (0, 1))
            sizes = [self.random.choice([0, 1, 5, 10, self.lots(), self.lots()]) for _ in range(2)]
            if not any(sizes) and self.chance(0.9):
                sizes[0] = 1
            if bid >= ask and self.chance(0.97):
                ask = next_tick(self._grid(number), bid)
            made.append(Quote(number, bid, sizes[0], ask, sizes[1]))
        if made and self.chance(0.03):
            made.append(made[0])
        return MassQuote(tuple(made))

    def few_quotes(self, name: str, subaccount: int) -> MassQuote:
        """Of an occasional maker."""
        return self.quotes(self.random.sample([*PERPETUALS, *self.options()], self.random.randrange(4)))

    def guarded_quotes(self, name: str) -> list[Action]:
        """Of a maker with little cash: what protection leaves at risk decides how much it may quote."""
        trading = get_trading(self.exchange.state, self.exchange.key(name))
        if trading is None or not trading.protections or self.chance(0.1):
            interval_ns, frozen_ns = self.random.choice([20, 60]) * NS, self.random.choice([1, 3, 5]) * NS
            lots = self.random.randint(3, 12)
            return [MassQuote(()), SetProtection(0, interval_ns, frozen_ns, lots, 0, 0)]
        made, lots = [], self.random.randint(5, 60)
        for number in self.random.sample([0, *self.options()], 5):
            bid, ask = (self.price(number, self.beside(side)) for side in (0, 1))
            made.append(Quote(number, bid, lots, max(ask, next_tick(self._grid(number), bid)), lots))
        return [MassQuote(tuple(made))]

    def cancel(self, name: str, subaccount: int) -> Action:
        """One's own orders, by id, by label, or all."""
        own = self._own_orders(name, subaccount)
        named = self.random.choice(own) if own and self.chance(0.9) else self.random.randint(1, 50)
        leaf = get_trading(self.exchange.state, self.exchange.key(name, subaccount))
        armed = [item.order.label for item in leaf.triggers] if leaf else []
        label = self.random.choice([*armed, *armed, 0, 1, 2, 3, 5])
        cancels: list[Action] = [CancelOrder(named), CancelLabel(label), CancelLabel(label), CancelAll(0)]
        return self.random.choice([*cancels, CancelAll(None)])

    def money(self, name: str, subaccount: int) -> Action:
        """Out, or to another sub-account."""
        amount = self.random.randint(1, 20_000) * USD
        return Withdraw(amount) if self.chance(0.5) else TransferCash(self.random.randrange(3), amount)
