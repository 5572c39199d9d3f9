"""What the people of random histories ask for: mostly sensible, some of it wrong, all of it from one seed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from msgspec.structs import replace

from ledger.accounts import Position
from ledger.governance import parameter_value
from ledger.matching.orders import floor_to_tick, next_tick
from ledger.policy import get_numbers
from ledger.settlement.state import Liquidation
from ledger.staking.state import Delegation, get_totals, scan
from ledger.trading.state import get_open_requests, get_request, get_trading
from ledger.transactions import (
    AcceptQuote,
    Action,
    Announce,
    AttestReadiness,
    BidAuction,
    BlockTerms,
    BlockTrade,
    CancelAll,
    CancelLabel,
    CancelOrder,
    Delegate,
    LeaveValidatorSet,
    Leg,
    MarginModel,
    MassQuote,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    QuotePackage,
    Redelegate,
    RegisterSessionKey,
    RegisterValidator,
    ReplaceOrder,
    RequestQuotes,
    ResetProtection,
    RevokeSessionKey,
    RotateConsensusKey,
    SetCancelTime,
    SetCommission,
    SetMarginModel,
    SetProtection,
    TimeInForce,
    TransferCash,
    Unbond,
    Unjail,
    VoteParameter,
    Withdraw,
    WithdrawRequest,
    block_terms_sign_bytes,
    peer_proof_bytes,
    session_proof_bytes,
)
from primitives.amounts import NS, PPM, USD
from tests.ledger.exchange import (
    BTC_TICKS,
    CHAIN,
    WALLET_OWNERS,
    Exchange,
    a_key,
    address_of_person,
)

PERPETUALS = (0, 1)
UNKNOWN = 999
"""No instrument, no validator, no request has this number."""
SESSION_KEYS = 3
"""Of each person; one more than an account may have at once."""


def session_name(name: str, number: int) -> str:
    """Who signs with one of a person's session keys."""
    return f"{name} session {number}"


class Wishes:
    """Random actions that fit the exchange as it stands."""

    def __init__(self, random: Random, exchange: Exchange, names: tuple[str, ...]) -> None:
        self.random = random
        self.exchange = exchange
        self.names = names
        self._kinds: dict[Callable[[str, int], Action], int] = {
            self.some_order: 42,
            self.cancel: 5,
            self.until: 6,
            self.market: 6,
            self.trigger: 9,
            self.replacement: 10,
            self.few_quotes: 4,
            self.money: 8,
            self.setting: 9,
            self.request: 4,
            self.package_quote: 2,
            self.acceptance: 1,
            self.withdrawn_request: 1,
            self.block_trade: 5,
            self.stake: 7,
            self.operation: 8,
        }

    def action(self, name: str, subaccount: int) -> Action:
        """Anything."""
        kind = self.random.choices(list(self._kinds), list(self._kinds.values()))[0]
        return kind(name, subaccount)

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
        order = self.order(held.instrument, side, -offset_ppm if side else offset_ppm, "reduce")
        return replace(order, size_lots=self.random.randint(1, min(abs(held.lots), 999)))

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
        off_ppm = self.random.randint(-1_000, 6_000)
        at_uusd = max(1, seen * (PPM + (off_ppm if is_above else -off_ppm)) // PPM)
        side = self.random.randrange(2)
        price = None if self.chance(0.5) else self.price(number, self.random.randint(-9_000, 9_000))
        in_force, reduce_only = self.random.randrange(3), self.chance(0.3)
        label = self.random.choice([0, 0, 1, 6])
        return PlaceTrigger(
            number, side, by_index, is_above, at_uusd, price, self.lots(), in_force, reduce_only, label
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
            sizes = [0 if self.chance(0.15) else self.lots() for _ in range(2)]
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

    # --- settings ---

    def sessions(self, name: str, subaccount: int) -> list[str]:
        """Who signs with the account's session keys, those that are over too."""
        leaf = get_trading(self.exchange.state, self.exchange.key(name, subaccount))
        known = leaf.sessions if leaf else ()
        names = [session_name(name, number) for number in range(SESSION_KEYS)]
        return [item for item in names if address_of_person(item) in known]

    def vote(self, name: str) -> VoteParameter:
        """For a value that others want too, because it follows from the time; rarely for another, or for nonsense."""
        state, random = self.exchange.state, self.random
        own = [item.number for item in scan(state, b"kv") if item.operator == self.exchange.key(name)[0]]
        number = random.choice(own) if own and self.chance(0.97) else self.validator()
        campaign = Random(state.clock.height // 8 * 10 + random.randrange(3))
        numbers = get_numbers(state)
        wanted = campaign.choice(sorted(numbers))
        now, bounds = parameter_value(state, wanted), numbers[wanted].bounds
        value = now + round(abs(now) * campaign.uniform(-0.3, 0.3)) + campaign.randint(-1, 1)
        if self.chance(0.9):
            value = max(bounds.low, min(bounds.high, value))
        return VoteParameter(number, wanted if self.chance(0.97) else "auction.nothing_ppm", value)

    def bid(self, name: str, subaccount: int) -> Action:
        """On somebody's portfolio, mostly one that is for sale."""
        random, leaves = self.random, self.for_sale()
        owner, number = self.exchange.key(random.choice(self.names))
        if leaves and self.chance(0.95):
            found = random.choice(leaves)
            owner, number = found.owner, found.subaccount
        at_most = random.choice([1 << 60, 1 << 60, 1 << 60, 2_000 * USD, 0, -1_000 * USD])
        return BidAuction(owner, number, random.choice([20_000, 200_000, PPM]), at_most)

    def for_sale(self) -> list[Liquidation]:
        """Accounts below maintenance, by key."""
        leaves = self.exchange.state.leaves.values
        return [leaves[key] for key in sorted(leaves) if key[:2] == b"xl"]

    def setting(self, name: str, subaccount: int) -> Action:
        """The dead-man switch, the margin model, protection or a session key."""
        what = self.random.random()
        if what < 0.08:
            return SetMarginModel(self.random.choice([MarginModel.STANDARD, MarginModel.PORTFOLIO]))
        if what < 0.2:
            return SetCancelTime(0 if self.chance(0.2) else self.soon_ns(30))
        if what < 0.35:
            return self.protection()
        if what < 0.4:
            return ResetProtection(self.random.randrange(2))
        key = a_key(session_name(name, self.random.randrange(SESSION_KEYS)))
        if what < 0.45:
            return RevokeSessionKey(key.public_key)
        if self.chance(0.03):
            key = a_key(self.random.choice(self.names))
        proof = key.sign(session_proof_bytes(CHAIN, address_of_person(name), subaccount))
        if self.chance(0.05):
            proof = bytes(64)
        scope = self.random.choice([15, 15, 9, 1, 2, 6, 11])
        most = self.random.choice([20_000, 200_000, 2_000_000, 10_000_000]) * USD
        return RegisterSessionKey(
            key.public_key, scope, self.soon_ns(self.random.choice([60, 3_000])), most, proof
        )

    def protection(self) -> SetProtection:
        """Small limits, so that they are reached."""
        underlying = self.random.choice([0, 0, 0, 1, 7])
        interval_ns = self.random.choice([5, 20, 60]) * NS
        lots = self.random.choice([0, 5, 20, 60])
        delta_ppm = self.random.choice([0, 0, 100_000, 400_000])
        vega_uusd = self.random.choice([0, 0, 20 * USD])
        frozen_ns = self.random.choice([0, 3, 10, 40]) * NS
        return SetProtection(underlying, interval_ns, frozen_ns, lots, delta_ppm, vega_uusd)

    # --- packages ---

    def legs(self, name: str, subaccount: int = 0) -> tuple[Leg, ...]:
        """Some instruments in order, rarely not; or a part of what one holds, to be rid of it."""
        held = self._positions(name, subaccount)
        if held and self.chance(0.15):
            return tuple(
                Leg(item.instrument, -self.random.choice([item.lots, (item.lots + 1) // 2 or -1]))
                for item in held[:3]
            )
        numbers = self.random.sample([*PERPETUALS, *self.options()], self.random.choice([1, 2, 2, 3, 4]))
        if self.chance(0.06):
            numbers.append(self._unknown(name))
        if self.chance(0.97):
            numbers.sort()
        most = self.random.choice([3, 60, 600])
        return tuple(
            Leg(number, self.random.choice([-1, 1]) * self.random.randint(1, most)) for number in numbers
        )

    def value(self, legs: tuple[Leg, ...]) -> int:
        """Of a package at the marks."""
        marks, listed = self.marks(), self.exchange.state.instruments
        known = [leg for leg in legs if leg.instrument in marks]
        return sum(
            marks[leg.instrument] * leg.lots // listed[leg.instrument].lots_per_contract for leg in known
        )

    def request(self, name: str, subaccount: int) -> Action:
        """Quotes for a package."""
        return RequestQuotes(self.legs(name, subaccount), self.soon_ns(70))

    def _request_id(self, key: tuple[bytes, int] | None) -> int:
        """An open request, if `key` is given its own."""
        found = [
            item.request_id
            for item in get_open_requests(self.exchange.state)
            if key is None or (item.owner, item.subaccount) == key
        ]
        return self.random.choice(found) if found and self.chance(0.95) else UNKNOWN

    def package_quote(self, name: str, subaccount: int) -> Action:
        """Firm prices around the marks, one side or none now and then."""
        number = self._request_id(None)
        request = get_request(self.exchange.state, number)
        value = self.value(request.legs) if request else 0
        bid: int | None = value - self.random.randint(-20, 300) * USD
        ask: int | None = value + self.random.randint(-20, 300) * USD
        if self.chance(0.2):
            bid = None
        if self.chance(0.2):
            ask = None
        return QuotePackage(number, bid, ask, self.soon_ns(70))

    def acceptance(self, name: str, subaccount: int) -> Action:
        """Of a live quote, at its price; sometimes at another."""
        number = self._request_id(self.exchange.key(name, subaccount) if self.chance(0.95) else None)
        request = get_request(self.exchange.state, number)
        side = self.random.randrange(2)
        if request is None or not request.quotes:
            return AcceptQuote(number, address_of_person("maker"), 0, side, 0)
        quote = self.random.choice(request.quotes)
        if (quote.bid_uusd if side else quote.ask_uusd) is None:
            side = 1 - side
        price = quote.bid_uusd if side else quote.ask_uusd
        price = (price or 0) + self.chance(0.05)
        return AcceptQuote(number, quote.owner, quote.subaccount, side, price)

    def withdrawn_request(self, name: str, subaccount: int) -> Action:
        """One's own, or another's."""
        return WithdrawRequest(self._request_id(self.exchange.key(name, subaccount)))

    def block_trade(self, name: str, subaccount: int) -> Action:
        """Under the signature of somebody whose account is his Ed25519 key's."""
        maker = self.random.choice([item for item in self.names if item not in WALLET_OWNERS])
        of_maker = 0 if self.chance(0.95) else self.random.randrange(4)
        nonces = self.exchange.nonces
        nonce = nonces.get((maker, of_maker), -1) + 1
        if self.chance(0.9):
            nonces[maker, of_maker] = nonce
        else:
            nonce = self.random.randrange(500)
        legs = self.legs(name, subaccount)
        price = self.value(legs) + self.random.choice([0, 0, 100, -100, 50_000]) * USD
        taker = name if self.chance(0.97) else "bob"
        side, until_ns = self.random.choice([0, 0, 1]), self.soon_ns(70)
        terms = BlockTerms(
            CHAIN, address_of_person(taker), subaccount, of_maker, legs, side, price, until_ns, nonce
        )
        signed = terms if self.chance(0.97) else QuotePackage(0, None, None, 0)
        key = a_key(maker)
        return BlockTrade(terms, key.public_key, key.sign(block_terms_sign_bytes(signed)))  # type: ignore[arg-type]

    # --- stake ---

    def validator(self) -> int:
        """Any, rarely none."""
        known = get_totals(self.exchange.state).next_validator
        return self.random.randrange(known) if known and self.chance(0.97) else UNKNOWN

    def _held(self, name: str, subaccount: int) -> int:
        """A validator in whose pool the account has shares, else any."""
        held: list[Delegation] = scan(self.exchange.state, b"kd")
        key = self.exchange.key(name, subaccount)
        own = [item.validator for item in held if (item.owner, item.subaccount) == key]
        return self.random.choice(own) if own and self.chance(0.95) else self.validator()

    def stake(self, name: str, subaccount: int) -> Action:
        """In, out, or to another validator."""
        amount = self.random.choice([30, 60, 200, 700, 2_000]) * USD + self.random.randrange(1_000)
        what = self.random.random()
        if what < 0.5:
            return Delegate(self.validator(), amount)
        if what < 0.8:
            return Unbond(self._held(name, subaccount), amount)
        return Redelegate(self._held(name, subaccount), self.validator(), amount)

    def operation(self, name: str, subaccount: int) -> Action:
        """What operators do; often of another's validator."""
        state, number = self.exchange.state, self.validator()
        own = [item.number for item in scan(state, b"kv") if item.operator == self.exchange.key(name)[0]]
        if own and self.chance(0.9):
            number = self.random.choice(own)
        fresh = a_key(f"consensus {self.random.randrange(20)}").public_key
        if self.chance(0.03):
            fresh = bytes(32)
        return self.random.choice(
            [
                self._registration(fresh),
                self._registration(fresh),
                SetCommission(number, self.random.choice([0, 20_000, 60_000, 110_000, 400_000])),
                AttestReadiness(number),
                AttestReadiness(number),
                AttestReadiness(number),
                LeaveValidatorSet(number),
                RotateConsensusKey(number, fresh),
                Unjail(number),
                Unjail(number),
                self._announcement(name, number),
            ]
        )

    def _announcement(self, name: str, number: int) -> Announce:
        """Under a network key that agrees; sometimes it does not, or an address is none."""
        key = a_key(f"network {self.random.randrange(5)}")
        known = ["/ip4/203.0.113.9/tcp/26600", "/dns/v.example/tcp/1", "/ip6/2001:db8::1/tcp/26600"]
        addresses = self.random.choices([*known, "/ip4/203.0.113.09/tcp/1"], [5, 5, 5, 1], k=2)
        proof = key.sign(peer_proof_bytes(CHAIN, self.exchange.key(name)[0], number))
        return Announce(number, key.public_key, tuple(addresses), proof if self.chance(0.9) else bytes(64))

    def _registration(self, fresh: bytes) -> RegisterValidator:
        number = get_totals(self.exchange.state).next_validator
        oracle_key = a_key(f"reporter {number}").public_key if self.chance(0.97) else bytes(32)
        commission, stake = (
            self.random.choice([0, 50_000, 600_000]),
            self.random.choice([100, 600, 1_500]),
        )
        return RegisterValidator(fresh, oracle_key, f"peer {number}", commission, stake * USD)
