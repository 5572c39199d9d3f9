"""Orders in words: names, dollars and contracts into the ledger's actions, exactly or not at all. Pure.

Prices and amounts are dollars, sizes are contracts, both as str, int or Decimal ("90000.5", "0.05"), never floats:
their digits are not what was written. Times are nanoseconds of market time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal, TypeVar

import msgspec

from ledger.transactions import (
    AcceptQuote,
    Action,
    BidAuction,
    CancelAll,
    CancelLabel,
    CancelOrder,
    Leg,
    MassQuote,
    NamedInstrument,
    PlaceMarket,
    PlaceOrder,
    PlaceTrigger,
    PlaceUntil,
    Quote,
    QuotePackage,
    RegisterSessionKey,
    ReplaceOrder,
    RequestQuotes,
    RevokeSessionKey,
    SessionScope,
    SetCancelTime,
    Side,
    TimeInForce,
    Transaction,
    TransferCash,
    Withdraw,
    WithdrawRequest,
    session_proof_bytes,
)
from ledger.typed_data import instruments_of
from node.client.errors import BadOrder
from node.rpc.answers import InstrumentForm
from primitives.amounts import USD
from primitives.signing import SigningKey

Number = str | int | Decimal
SideName = Literal["buy", "sell"]
InForce = Literal["gtc", "ioc", "fok"]
A = TypeVar("A", bound=msgspec.Struct)


def uusd(dollars: Number) -> int:
    """Micro-USD of an amount in dollars. Raises BadOrder if it is finer than that."""
    return _whole(dollars, USD, "dollars to the millionth")


def dollars(uusd: int) -> Decimal:
    """An amount of micro-USD in dollars."""
    return Decimal(uusd) / USD


class Market:
    """The listed instruments, and actions in their terms."""

    def __init__(
        self, instruments: Iterable[InstrumentForm], anew: Callable[[], Sequence[InstrumentForm]] = tuple
    ) -> None:
        """`anew` gives what is listed by now, if anything: asked when one is not found here."""
        self._anew = anew
        self.take(instruments)

    def take(self, instruments: Iterable[InstrumentForm]) -> None:
        """These are listed now."""
        self.instruments = tuple(instruments)
        self._by_name = {item.name: item for item in self.instruments}
        self._by_id = {item.id: item for item in self.instruments}

    def has(self, name: str | int) -> bool:
        """Whether it is among the instruments held."""
        return (name in self._by_id) if isinstance(name, int) else (name in self._by_name)

    def find(self, name: str | int) -> InstrumentForm:
        """By name or id. Raises BadOrder."""
        if not self.has(name) and (listed := self._anew()):
            self.take(listed)
        item = self._by_id.get(name) if isinstance(name, int) else self._by_name.get(name)
        if item is None:
            near = [known for known in self._by_name if str(name).upper() in known][:3]
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise BadOrder(f"there is no instrument {name}{hint}")
        return item

    def lots(self, name: str | int, size: Number) -> int:
        """Lots of a size in contracts. Raises BadOrder if it is no whole number of them."""
        item = self.find(name)
        return _whole(
            size, item.lots_per_contract, f"contracts of {item.name} in steps of 1/{item.lots_per_contract}"
        )

    def size(self, name: str | int, lots: int) -> Decimal:
        """Contracts of a number of lots."""
        return Decimal(lots) / self.find(name).lots_per_contract

    def names_for(self, content: Transaction) -> tuple[NamedInstrument, ...]:
        """What a wallet shows for the instruments of a transaction."""
        items = (self.find(number) for number in instruments_of(content))
        return tuple(NamedInstrument(item.id, item.name, item.lots_per_contract) for item in items)

    # --- orders ---

    def limit(
        self,
        name: str | int,
        side: SideName,
        size: Number,
        price: Number,
        *,
        in_force: InForce = "gtc",
        post_only: bool = False,
        reduce_only: bool = False,
        expires_ns: int | None = None,
        label: int = 0,
    ) -> Action:
        """At this price or better. `expires_ns`: it goes at this market time. `in_force`: see TimeInForce."""
        order = _make(
            PlaceOrder,
            instrument=self.find(name).id,
            side=_side(side),
            price_uusd=uusd(price),
            size_lots=self.lots(name, size),
            time_in_force=_in_force(in_force),
            post_only=post_only,
            reduce_only=reduce_only,
            label=label,
        )
        return order if expires_ns is None else _make(PlaceUntil, order=order, expires_ns=expires_ns)

    def market(
        self,
        name: str | int,
        side: SideName,
        size: Number,
        *,
        in_force: InForce = "ioc",
        reduce_only: bool = False,
        label: int = 0,
    ) -> PlaceMarket:
        """At any price within the band of the next call: `ioc` takes what there is, `fok` all or nothing."""
        return _make(
            PlaceMarket,
            instrument=self.find(name).id,
            side=_side(side),
            size_lots=self.lots(name, size),
            time_in_force=_in_force(in_force),
            reduce_only=reduce_only,
            label=label,
        )

    def trigger(
        self,
        name: str | int,
        side: SideName,
        size: Number,
        *,
        above: Number | None = None,
        below: Number | None = None,
        by_index: bool = False,
        price: Number | None = None,
        in_force: InForce | None = None,
        reduce_only: bool = False,
        label: int = 0,
    ) -> PlaceTrigger:
        """Waits until mark (or index) is at or `above`, or at or `below`, a price; `price` None: then at market."""
        if (above is None) == (below is None):
            raise BadOrder("a trigger has either above or below")
        return _make(
            PlaceTrigger,
            instrument=self.find(name).id,
            side=_side(side),
            by_index=by_index,
            is_above=above is not None,
            trigger_uusd=uusd(above if above is not None else below or 0),
            price_uusd=None if price is None else uusd(price),
            size_lots=self.lots(name, size),
            time_in_force=_in_force(in_force or ("ioc" if price is None else "gtc")),
            reduce_only=reduce_only,
            label=label,
        )

    def replace(self, order_id: int, name: str | int, size: Number, price: Number) -> ReplaceOrder:
        """Another price or size for an open order."""
        lots = self.lots(name, size)
        return _make(ReplaceOrder, order_id=order_id, price_uusd=uusd(price), size_lots=lots)

    def mass_quote(
        self, quotes: Mapping[str | int, tuple[Number | None, Number, Number | None, Number]]
    ) -> MassQuote:
        """All of one's quotes at once: name -> (bid, bid size, ask, ask size); a price of None leaves a side out."""
        return MassQuote(tuple(self._quote(name, *sides) for name, sides in quotes.items()))

    def _quote(
        self, name: str | int, bid: Number | None, bid_size: Number, ask: Number | None, ask_size: Number
    ) -> Quote:
        return _make(
            Quote,
            instrument=self.find(name).id,
            bid_uusd=1 if bid is None else uusd(bid),
            bid_lots=0 if bid is None else self.lots(name, bid_size),
            ask_uusd=1 if ask is None else uusd(ask),
            ask_lots=0 if ask is None else self.lots(name, ask_size),
        )

    def cancel_all(self, name: str | int | None = None) -> CancelAll:
        """Every open order, or those of one instrument."""
        return CancelAll(None if name is None else self.find(name).id)

    # --- packages ---

    def legs(self, sizes: Mapping[str | int, Number]) -> tuple[Leg, ...]:
        """A package: contracts by instrument, below 0 for what its buyer gives."""
        legs = [
            _make(Leg, instrument=self.find(name).id, lots=self.lots(name, size))
            for name, size in sizes.items()
        ]
        return tuple(sorted(legs, key=lambda leg: leg.instrument))

    def request_quotes(self, sizes: Mapping[str | int, Number], expires_ns: int) -> RequestQuotes:
        """Ask makers for a price of a package."""
        return _make(RequestQuotes, legs=self.legs(sizes), expires_ns=expires_ns)


# --- actions that name no instrument ---


def cancel(order_id: int) -> CancelOrder:
    """By the ledger's id."""
    return CancelOrder(order_id)


def cancel_label(label: int) -> CancelLabel:
    """By one's own number."""
    return CancelLabel(label)


def dead_man_switch(cancel_at_ns: int) -> SetCancelTime:
    """All orders go at this market time unless it is set anew before; 0 switches it off."""
    return SetCancelTime(cancel_at_ns)


def quote_package(request_id: int, bid: Number | None, ask: Number | None, expires_ns: int) -> QuotePackage:
    """A maker's firm prices for a requested package, in dollars for all of it."""
    prices = [None if price is None else uusd(price) for price in (bid, ask)]
    return QuotePackage(request_id, prices[0], prices[1], expires_ns)


def accept_quote(
    request_id: int, maker: bytes, side: SideName, price: Number, subaccount: int = 0
) -> AcceptQuote:
    """Trade a requested package with one maker at exactly this price."""
    return AcceptQuote(request_id, maker, subaccount, _side(side), uusd(price))


def withdraw_request(request_id: int) -> WithdrawRequest:
    """Close one's own request for quotes."""
    return WithdrawRequest(request_id)


def withdraw(amount: Number) -> Withdraw:
    """Take money out."""
    return _make(Withdraw, amount_uusd=uusd(amount))


def transfer(to_subaccount: int, amount: Number) -> TransferCash:
    """Move cash to another of one's sub-accounts."""
    return _make(TransferCash, to_subaccount=to_subaccount, amount_uusd=uusd(amount))


def bid_auction(owner: bytes, subaccount: int, fraction_ppm: int, pay_at_most: Number) -> BidAuction:
    """Take a part of an account in auction."""
    return _make(
        BidAuction,
        owner=owner,
        subaccount=subaccount,
        fraction_ppm=fraction_ppm,
        pay_at_most_uusd=uusd(pay_at_most),
    )


def register_session(
    key: SigningKey,
    chain_id: bytes,
    owner: bytes,
    subaccount: int,
    *,
    scopes: Sequence[SessionScope],
    expires_ns: int,
    notional: Number,
) -> RegisterSessionKey:
    """Let `key` act for a sub-account; the owner signs this, the key has signed that it is willing."""
    return RegisterSessionKey(
        key.public_key,
        sum(set(scopes)),
        expires_ns,
        uusd(notional),
        key.sign(session_proof_bytes(chain_id, owner, subaccount)),
    )


def revoke_session(public_key: bytes) -> RevokeSessionKey:
    """End a session key's right."""
    return RevokeSessionKey(public_key)


def _make(kind: type[A], **fields: object) -> A:
    """The action, if its fields are within the ledger's ranges. Raises BadOrder."""
    action = kind(**fields)
    try:
        return msgspec.convert(msgspec.to_builtins(action, builtin_types=(bytes,)), kind)
    except msgspec.ValidationError as error:
        raise BadOrder(f"{kind.__name__}: {_spoken(kind, str(error))}") from None


def _spoken(kind: type[msgspec.Struct], complaint: str) -> str:
    """msgspec names fields of arrays by their place; people by their name."""
    for place, name in enumerate(kind.__struct_fields__, 1 if kind.__struct_config__.tag is not None else 0):
        complaint = complaint.replace(f"`$[{place}]`", name)
    return complaint


def _whole(number: Number, units: int, what: str) -> int:
    try:
        exact = Fraction(Decimal(number)) * units
    except (InvalidOperation, ValueError, OverflowError, TypeError):
        exact = Fraction(1, 2)
    if isinstance(number, float) or exact.denominator != 1:
        raise BadOrder(f"{number} is not a number of {what}")
    return int(exact)


def _side(name: SideName) -> Side:
    try:
        return Side[name.upper()]
    except KeyError:
        raise BadOrder(f"a side is buy or sell, not {name}") from None


def _in_force(name: InForce) -> TimeInForce:
    try:
        return TimeInForce[name.upper()]
    except KeyError:
        raise BadOrder(f"in force is gtc, ioc or fok, not {name}") from None
