"""What people of random histories settle between themselves: settings, votes, bids, packages. Pure."""

from __future__ import annotations

from random import Random

from ledger.governance import parameter_value
from ledger.policy import get_numbers
from ledger.settlement.state import Liquidation
from ledger.staking.state import scan
from ledger.trading.state import get_open_requests, get_request, get_session, get_trading
from ledger.transactions import (
    AcceptQuote,
    Action,
    BidAuction,
    BlockTerms,
    BlockTrade,
    Leg,
    MarginModel,
    QuotePackage,
    RegisterSessionKey,
    RequestQuotes,
    ResetProtection,
    RevokeSessionKey,
    SetCancelTime,
    SetMarginModel,
    SetProtection,
    VoteParameter,
    WithdrawRequest,
    block_terms_sign_bytes,
    session_proof_bytes,
)
from primitives.amounts import NS, PPM, USD
from tests.history_market import PERPETUALS, SESSION_KEYS, UNKNOWN, MarketWishes, session_name
from tests.ledger.exchange import (
    CHAIN,
    WALLET_OWNERS,
    a_key,
    address_of_person,
)


class DealWishes(MarketWishes):
    """Random settings, votes, bids and packages."""

    # --- settings ---

    def sessions(self, name: str, subaccount: int) -> list[str]:
        """Who may sign with the account's session keys; rarely who may not."""
        leaf = get_trading(self.exchange.state, self.exchange.key(name, subaccount))
        known = leaf.sessions if leaf else ()
        names = [session_name(name, number) for number in range(SESSION_KEYS)]
        alive = [item for item in names if address_of_person(item) in known and self._is_alive(item)]
        return alive if alive or self.chance(0.9) else names

    def _is_alive(self, signer: str) -> bool:
        session = get_session(self.exchange.state, address_of_person(signer))
        return session is not None and session.expires_ns > self.now_ns

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
        if what < 0.14:
            return SetMarginModel(self.random.choice([MarginModel.STANDARD, MarginModel.PORTFOLIO]))
        if what < 0.3:
            return SetCancelTime(0 if self.chance(0.2) else self.soon_ns(30))
        if what < 0.42:
            return self.protection()
        if what < 0.46:
            return ResetProtection(self.random.randrange(2))
        key = a_key(session_name(name, self.random.randrange(SESSION_KEYS)))
        if what < 0.5:
            return RevokeSessionKey(key.public_key)
        if self.chance(0.03):
            key = a_key(self.random.choice(self.names))
        proof = key.sign(session_proof_bytes(CHAIN, address_of_person(name), subaccount))
        if self.chance(0.05):
            proof = bytes(64)
        scope = self.random.choice([15, 15, 9, 1, 2, 2, 6, 11])
        most = self.random.choice([5_000, 20_000, 60_000, 200_000, 10_000_000]) * USD
        return RegisterSessionKey(
            key.public_key, scope, self.soon_ns(self.random.choice([60, 3_000])), most, proof
        )

    def protection(self) -> SetProtection:
        """Small limits, so that they are reached."""
        underlying = self.random.choice([0, 0, 0, 1, 7])
        interval_ns = self.random.choice([5, 20, 60]) * NS
        lots = self.random.choice([0, 5, 10, 20])
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
