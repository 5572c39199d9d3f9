"""Requests for quote and block trades: a package of legs changes hands at once, at one net price. Pure.

After the block's calls: requests end, requests open, makers quote, takers accept. Both sides must carry the
result with their initial requirement, open orders and fees included; otherwise nothing happens. Legs are
valued at their marks, on the exact grid of lots, and what the net price differs by moves as cash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.accounts import use_nonce
from ledger.calls import trim_reduce_only
from ledger.funding import funding_uusd
from ledger.instruments import Instrument, Kind
from ledger.margin.health import Health
from ledger.reasons import LedgerReason
from ledger.trading.events import (
    PackageLeg,
    PackageQuoted,
    PackageTraded,
    QuotesRequested,
    RequestClosed,
)
from ledger.trading.fees import fee_uusd, fees_on
from ledger.trading.reasons import TradingReason
from ledger.trading.state import (
    KEY_OPEN_REQUESTS,
    MakerQuote,
    OpenRequest,
    OpenRequests,
    QuoteRequest,
    get_open_requests,
    get_parameters,
    get_request,
    request_key,
)
from ledger.transactions import (
    AcceptQuote,
    BlockTrade,
    Leg,
    QuotePackage,
    RequestQuotes,
    Side,
    WithdrawRequest,
    block_terms_sign_bytes,
)
from primitives.amounts import ceil_div
from primitives.errors import ProtocolViolation
from primitives.signing import address_of, is_valid

if TYPE_CHECKING:
    from ledger.placement import OrderDesk
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace


class Sender(NamedTuple):
    """Who acts, in which action; `notional_uusd_max` is a session key's, None for the owner."""

    transaction_id: bytes
    place: int
    account: OpenAccount
    notional_uusd_max: int | None


class _Part(NamedTuple):
    """One leg as it trades."""

    instrument: Instrument
    lots: int
    price_uusd: int


class PackageDesk:
    """Performs the package actions of one block, one by one."""

    def __init__(self, workspace: Workspace, valuation: Valuation, desk: OrderDesk) -> None:
        self._workspace = workspace
        self._valuation = valuation
        self._desk = desk
        self._parameters = get_parameters(workspace.state)

    def expire(self) -> None:
        """Close requests whose time is over."""
        for item in get_open_requests(self._workspace.state):
            if item.expires_ns <= self._workspace.time_ns:
                self._close(item.request_id, "expired")

    def perform(self, sender: Sender, action: object) -> None:
        """Do what was asked. Raises ProtocolViolation with the reason; then nothing has changed."""
        match action:
            case RequestQuotes():
                self._request(sender, action)
            case QuotePackage():
                self._quote(sender, action)
            case AcceptQuote():
                self._accept(sender, action)
            case WithdrawRequest():
                self._existing(action.request_id, taker=sender.account)
                self._close(action.request_id, "withdrawn")
            case BlockTrade():
                self._block_trade(sender, action)

    # --- requests and quotes ---

    def _request(self, sender: Sender, action: RequestQuotes) -> None:
        """Raises ProtocolViolation: BAD_LEGS, TIME_PASSED, TOO_MANY_REQUESTS."""
        workspace, key = self._workspace, sender.account.key
        self._parts(action.legs, 1)
        self._check_time(action.expires_ns)
        opened = get_open_requests(workspace.state)
        own = sum(1 for item in opened if (item.owner, item.subaccount) == key)
        if own >= self._parameters.requests_max or len(opened) >= self._parameters.requests_total_max:
            raise ProtocolViolation(TradingReason.TOO_MANY_REQUESTS, "too many requests for quote are open")
        request_id = workspace.take_id()
        entry = OpenRequest(request_id, *key, action.expires_ns)
        workspace.state.put(KEY_OPEN_REQUESTS, OpenRequests((*opened, entry)))
        self._put(QuoteRequest(request_id, *key, action.legs, action.expires_ns, ()))
        legs = tuple((leg.instrument, leg.lots) for leg in action.legs)
        workspace.events.append(
            QuotesRequested(sender.transaction_id, sender.place, request_id, *key, legs, action.expires_ns)
        )

    def _quote(self, sender: Sender, action: QuotePackage) -> None:
        """Raises ProtocolViolation: UNKNOWN_REQUEST, OWN_REQUEST, TIME_PASSED, EMPTY_QUOTE, TOO_MANY_QUOTES."""
        request, key = self._existing(action.request_id), sender.account.key
        if request.owner == key[0]:
            raise _own_request()
        others = [item for item in request.quotes if (item.owner, item.subaccount) != key]
        if action.bid_uusd is not None or action.ask_uusd is not None:
            self._check_time(action.expires_ns)
            self._check_notional(sender, request.legs)
            both = action.bid_uusd is not None and action.ask_uusd is not None
            if both and action.bid_uusd >= action.ask_uusd:  # type: ignore[operator]
                raise ProtocolViolation(TradingReason.EMPTY_QUOTE, "a quote's bid is below its ask")
            if len(others) >= self._parameters.request_quotes_max:
                raise ProtocolViolation(TradingReason.TOO_MANY_QUOTES, "the request has enough quotes")
            others.append(MakerQuote(*key, action.bid_uusd, action.ask_uusd, action.expires_ns))
        quotes = tuple(sorted(others, key=lambda item: (item.owner, item.subaccount)))
        self._put(replace(request, quotes=quotes))
        self._workspace.events.append(
            PackageQuoted(request.request_id, *key, action.bid_uusd, action.ask_uusd, action.expires_ns)
        )

    def _accept(self, sender: Sender, action: AcceptQuote) -> None:
        """Raises ProtocolViolation: UNKNOWN_REQUEST, NOT_THE_TAKER, UNKNOWN_QUOTE, and as `_trade`."""
        request = self._existing(action.request_id, taker=sender.account)
        maker_key = (action.maker, action.maker_subaccount)
        quote = next((item for item in request.quotes if (item.owner, item.subaccount) == maker_key), None)
        offered = None
        if quote is not None and quote.expires_ns > self._workspace.time_ns:
            offered = quote.ask_uusd if action.side == Side.BUY else quote.bid_uusd
        if offered is None or offered != action.price_uusd:
            raise ProtocolViolation(
                TradingReason.UNKNOWN_QUOTE, "that maker has no live quote at this price on this side"
            )
        self._check_notional(sender, request.legs)
        maker = self._workspace.existing(maker_key)
        self._trade(request.request_id, sender.account, maker, action.side, request.legs, offered)
        self._close(request.request_id, "traded")

    def _block_trade(self, sender: Sender, action: BlockTrade) -> None:
        """Raises ProtocolViolation: NOT_THE_TAKER, TIME_PASSED, COUNTERPARTY_REFUSED, and as `_trade`."""
        terms, workspace = action.terms, self._workspace
        taker = sender.account
        if (terms.taker, terms.taker_subaccount, terms.chain_id) != (*taker.key, workspace.state.chain_id):
            raise ProtocolViolation(TradingReason.NOT_THE_TAKER, "the terms name another taker or chain")
        self._check_time(terms.expires_ns)
        maker = workspace.account((address_of(action.maker_key), terms.maker_subaccount))
        if maker is None:
            raise _counterparty("the maker has no such sub-account")
        window = workspace.state.parameters.nonce_window
        try:
            nonces = use_nonce(maker.nonce_floor, maker.nonce_used, terms.nonce, window)
        except ProtocolViolation as violation:
            raise _counterparty(violation.detail) from None
        if not is_valid(action.maker_key, block_terms_sign_bytes(terms), action.maker_signature):
            raise _counterparty("the maker's signature does not verify")
        self._check_notional(sender, terms.legs)
        self._trade(0, taker, maker, terms.side, terms.legs, terms.price_uusd)
        maker.nonce_floor, maker.nonce_used = nonces

    # --- checks ---

    def _existing(self, request_id: int, taker: OpenAccount | None = None) -> QuoteRequest:
        """Raises ProtocolViolation: UNKNOWN_REQUEST, NOT_THE_TAKER."""
        request = get_request(self._workspace.state, request_id)
        if request is None:
            raise ProtocolViolation(TradingReason.UNKNOWN_REQUEST, f"no open request {request_id}")
        if taker is not None and (request.owner, request.subaccount) != taker.key:
            raise ProtocolViolation(TradingReason.NOT_THE_TAKER, "another sub-account asked for quotes")
        return request

    def _check_time(self, expires_ns: int) -> None:
        now_ns = self._workspace.time_ns
        if not now_ns < expires_ns <= now_ns + self._parameters.request_lifetime_ns_max:
            raise ProtocolViolation(TradingReason.TIME_PASSED, "the time is over, or too far ahead")

    def _check_notional(self, sender: Sender, legs: Sequence[Leg]) -> None:
        """Raises ProtocolViolation: BAD_LEGS, SESSION_NOTIONAL."""
        if sender.notional_uusd_max is not None:
            lots = [(part.instrument.id, abs(part.lots)) for part in self._parts(legs, 1)]
            self._desk.check_notional(sender.account, lots, sender.notional_uusd_max)

    def _parts(self, legs: Sequence[Leg], sign: int) -> list[_Part]:
        """The legs with their prices, as one side gets them. Raises ProtocolViolation(BAD_LEGS)."""
        workspace, parameters = self._workspace, self._parameters
        ids = [leg.instrument for leg in legs]
        is_sound = ids == sorted(set(ids)) and len(ids) <= parameters.request_legs_max
        is_sound &= all(0 < abs(leg.lots) <= parameters.request_lots_max for leg in legs)
        if not is_sound or not all(self._is_live(item) for item in ids):
            raise ProtocolViolation(
                TradingReason.BAD_LEGS, "legs are live instruments in order, each once, within the limits"
            )
        parts = []
        for leg in legs:
            instrument = workspace.state.instruments[leg.instrument]
            mark_uusd = self._valuation.mark_uusd(leg.instrument)
            parts.append(
                _Part(instrument, sign * leg.lots, mark_uusd - mark_uusd % instrument.lots_per_contract)
            )
        return parts

    def _is_live(self, instrument_id: int) -> bool:
        listed = self._workspace.state.instruments
        if instrument_id not in listed or not self._valuation.is_marked(instrument_id):
            return False
        instrument = listed[instrument_id]
        return instrument.kind == Kind.PERPETUAL or instrument.expiry_ns > self._workspace.time_ns

    # --- the trade ---

    def _trade(
        self,
        request_id: int,
        taker: OpenAccount,
        maker: OpenAccount,
        side: int,
        legs: Sequence[Leg],
        price_uusd: int,
    ) -> None:
        """Both sides at once or not at all.

        Raises:
            ProtocolViolation: OWN_REQUEST, BAD_LEGS, TRADING_HALTED, MATCHING_PAUSED, NET_PRICE_OUTSIDE_BAND,
                INSUFFICIENT_MARGIN, ACCOUNT_MUST_REDUCE, or COUNTERPARTY_REFUSED with the maker's reason.
        """
        if taker.key[0] == maker.key[0]:
            raise _own_request()
        sign = 1 if side == Side.BUY else -1
        parts = self._parts(legs, 1)
        self._workspace.phases.check_package(part.instrument for part in parts)
        value_uusd = _value_of(parts)
        self._check_band(parts, price_uusd - value_uusd)
        fees = [self._fee(parts, is_taker=is_taker) for is_taker in (True, False)]
        over_uusd = sign * (price_uusd - value_uusd)
        self._check_side(taker, parts, sign, -over_uusd - fees[0])
        try:
            self._check_side(maker, parts, -sign, over_uusd - fees[1])
        except ProtocolViolation as violation:
            raise _counterparty(violation.detail) from None
        for account, direction, cash_uusd, fee in (
            (taker, sign, -over_uusd, fees[0]),
            (maker, -sign, over_uusd, fees[1]),
        ):
            self._settle(account, parts, direction, cash_uusd - fee)
            self._workspace.supply["fees_uusd"] += fee
        self._tell(
            request_id, (taker, maker) if sign > 0 else (maker, taker), parts, price_uusd, fees[::sign]
        )

    def _check_band(self, parts: Sequence[_Part], over_uusd: int) -> None:
        """Raises ProtocolViolation(NET_PRICE_OUTSIDE_BAND)."""
        band_uusd = sum(
            ceil_div(
                abs(part.lots) * self._valuation.band_uusd(part.instrument), part.instrument.lots_per_contract
            )
            for part in parts
        )
        if abs(over_uusd) > band_uusd:
            raise ProtocolViolation(
                TradingReason.NET_PRICE_OUTSIDE_BAND,
                f"the price is {abs(over_uusd)} from the marks, the bands allow {band_uusd}",
            )

    def _check_side(self, account: OpenAccount, parts: Sequence[_Part], sign: int, cash_uusd: int) -> None:
        """Raises ProtocolViolation: ACCOUNT_MUST_REDUCE, INSUFFICIENT_MARGIN, TOO_MANY_POSITIONS, TOO_MANY_LOTS."""
        if account.health != Health.HEALTHY:
            raise ProtocolViolation(
                LedgerReason.ACCOUNT_MUST_REDUCE, "the account is below its initial requirement"
            )
        after = account.copy()
        for part in parts:
            basis_uusd = part.price_uusd - funding_uusd(self._workspace.state, part.instrument)
            after.cash_uusd += after.trade(part.instrument, sign * part.lots, basis_uusd)
        after.cash_uusd += cash_uusd
        self._desk.check_holdings(after)
        if self._desk.excess_uusd(after, cash_uusd=after.cash_uusd) < 0:
            raise ProtocolViolation(
                LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold after the package"
            )

    def _fee(self, parts: Iterable[_Part], *, is_taker: bool) -> int:
        """What one side pays for all legs; a taker's base once."""
        state, total = self._workspace.state, 0
        for place, part in enumerate(parts):
            fees = fees_on(state, part.instrument.underlying)
            total += fee_uusd(
                part.instrument,
                part.price_uusd,
                abs(part.lots),
                index_uusd=self._valuation.index_uusd(part.instrument.underlying),
                rate_ppm=fees.taker_ppm if is_taker else fees.maker_ppm,
                cap_ppm=state.parameters.option_fee_cap_ppm,
                base_uusd=fees.taker_base_uusd if is_taker and place == 0 else 0,
            )
        return total

    def _settle(self, account: OpenAccount, parts: Sequence[_Part], sign: int, cash_uusd: int) -> None:
        for part in parts:
            self._workspace.trade(account, part.instrument, sign * part.lots, part.price_uusd)
        self._workspace.add_cash(account, cash_uusd)
        for part in parts:
            trim_reduce_only(self._workspace, account.key, part.instrument.id)

    def _tell(
        self,
        request_id: int,
        sides: tuple[OpenAccount, OpenAccount],
        parts: Iterable[_Part],
        price_uusd: int,
        fees: Sequence[int],
    ) -> None:
        buyer, seller = sides
        events = self._workspace.events
        events.append(PackageTraded(request_id, *buyer.key, *seller.key, price_uusd, *fees))
        for part in parts:
            events.append(PackageLeg(request_id, part.instrument.id, part.lots, part.price_uusd))

    # --- leaves ---

    def _put(self, request: QuoteRequest) -> None:
        self._workspace.state.put(request_key(request.request_id), request)

    def _close(self, request_id: int, cause: str) -> None:
        state = self._workspace.state
        request = self._existing(request_id)
        left = tuple(item for item in get_open_requests(state) if item.request_id != request_id)
        state.put(KEY_OPEN_REQUESTS, OpenRequests(left) if left else None)
        state.put(request_key(request_id), None)
        self._workspace.events.append(RequestClosed(request_id, request.owner, request.subaccount, cause))


def _value_of(parts: Iterable[_Part]) -> int:
    return sum(part.price_uusd * part.lots // part.instrument.lots_per_contract for part in parts)


def _own_request() -> ProtocolViolation:
    return ProtocolViolation(TradingReason.OWN_REQUEST, "nobody trades with himself")


def _counterparty(detail: str) -> ProtocolViolation:
    return ProtocolViolation(TradingReason.COUNTERPARTY_REFUSED, detail)
