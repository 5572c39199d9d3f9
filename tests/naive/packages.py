"""Requests for quote and block trades: whole packages at one net price, after the calls. Pure."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ledger.instruments import Kind
from ledger.trading.events import (
    PackageLeg,
    PackageQuoted,
    PackageTraded,
    QuotesRequested,
    RequestClosed,
)
from ledger.trading.state import (
    KEY_OPEN_REQUESTS,
    MakerQuote,
    OpenRequest,
    OpenRequests,
    QuoteRequest,
    request_key,
)
from ledger.transactions import (
    AcceptQuote,
    BlockTrade,
    Leg,
    QuotePackage,
    RequestQuotes,
    WithdrawRequest,
)
from primitives.codec import encode
from primitives.signing import address_of, is_valid
from tests.naive.account import HEALTHY, AccountKey, NaiveAccount
from tests.naive.fees import fee_uusd
from tests.naive.orders import LOTS_MAX, excess_uusd, open_orders
from tests.naive.sent import Sent, actions_of, refuse
from tests.naive.sessions import gross_uusd, notional_uusd
from tests.naive.transactions import is_good_nonce, use_nonce

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def settle_packages(ledger: NaiveLedger, sent: list[Sent]) -> None:
    """Requests that end, then withdrawals, new requests, quotes, and trades."""
    for number, request in sorted(ledger.requests.items()):
        if request.expires_ns <= ledger.time_ns:
            _close(ledger, number, "expired")
    for kinds in ((WithdrawRequest,), (RequestQuotes,), (QuotePackage,), (AcceptQuote, BlockTrade)):
        for item, index, action in actions_of(sent, kinds):
            refuse(ledger, item.id, index, _perform(ledger, item, index, action))


def _perform(ledger: NaiveLedger, sent: Sent, index: int, action: object) -> str | None:
    if isinstance(action, RequestQuotes):
        return _request(ledger, sent, index, action)
    if isinstance(action, BlockTrade):
        return _block_trade(ledger, sent, action)
    assert isinstance(action, QuotePackage | AcceptQuote | WithdrawRequest)
    request = ledger.requests.get(action.request_id)
    if request is None:
        return "unknown_request"
    if isinstance(action, QuotePackage):
        return _quote(ledger, sent, request, action)
    if (request.owner, request.subaccount) != sent.key:
        return "not_the_taker"
    if isinstance(action, AcceptQuote):
        return _accept(ledger, sent, request, action)
    _close(ledger, request.request_id, "withdrawn")
    return None


def _close(ledger: NaiveLedger, number: int, cause: str) -> None:
    request = ledger.requests.pop(number)
    ledger.events.append(RequestClosed(number, request.owner, request.subaccount, cause))


def request_leaves(ledger: NaiveLedger) -> dict[bytes, Any]:
    """Every open request, and the list of all."""
    leaves: dict[bytes, Any] = {request_key(number): item for number, item in ledger.requests.items()}
    if leaves:
        listed = [
            OpenRequest(number, item.owner, item.subaccount, item.expires_ns)
            for number, item in sorted(ledger.requests.items())
        ]
        leaves[KEY_OPEN_REQUESTS] = OpenRequests(tuple(listed))
    return leaves


# --- asking and quoting ---


def _request(ledger: NaiveLedger, sent: Sent, index: int, action: RequestQuotes) -> str | None:
    rules = ledger.trading_rules
    own = [item for item in ledger.requests.values() if (item.owner, item.subaccount) == sent.key]
    if not _are_good(ledger, action.legs):
        return "bad_legs"
    if not _is_ahead(ledger, action.expires_ns):
        return "time_passed"
    if len(own) >= rules.requests_max or len(ledger.requests) >= rules.requests_total_max:
        return "too_many_requests"
    number = ledger.take_id()
    ledger.requests[number] = QuoteRequest(number, *sent.key, action.legs, action.expires_ns, ())
    legs = tuple((leg.instrument, leg.lots) for leg in action.legs)
    ledger.events.append(QuotesRequested(sent.id, index, number, *sent.key, legs, action.expires_ns))
    return None


def _quote(ledger: NaiveLedger, sent: Sent, request: QuoteRequest, action: QuotePackage) -> str | None:
    if request.owner == sent.key[0]:
        return "own_request"
    quotes = {(item.owner, item.subaccount): item for item in request.quotes}
    quotes.pop(sent.key, None)
    if (action.bid_uusd, action.ask_uusd) != (None, None):
        if not _is_ahead(ledger, action.expires_ns):
            return "time_passed"
        if reason := _beyond_session(ledger, sent, request.legs):
            return reason
        if action.bid_uusd is not None and action.ask_uusd is not None and action.bid_uusd >= action.ask_uusd:
            return "empty_quote"
        if len(quotes) >= ledger.trading_rules.request_quotes_max:
            return "too_many_quotes"
        quotes[sent.key] = MakerQuote(*sent.key, action.bid_uusd, action.ask_uusd, action.expires_ns)
    in_order = tuple(quotes[key] for key in sorted(quotes))
    ledger.requests[request.request_id] = replace(request, quotes=in_order)
    ledger.events.append(
        PackageQuoted(request.request_id, *sent.key, action.bid_uusd, action.ask_uusd, action.expires_ns)
    )
    return None


def _is_ahead(ledger: NaiveLedger, expires_ns: int) -> bool:
    return 0 < expires_ns - ledger.time_ns <= ledger.trading_rules.request_lifetime_ns_max


def _are_good(ledger: NaiveLedger, legs: tuple[Leg, ...]) -> bool:
    """Live instruments in order, each once, within the limits of number and lots."""
    rules = ledger.trading_rules
    numbers = [leg.instrument for leg in legs]
    return (
        len(legs) <= rules.request_legs_max
        and all(1 <= abs(leg.lots) <= rules.request_lots_max for leg in legs)
        and numbers == sorted(set(numbers))
        and all(_is_live(ledger, number) for number in numbers)
    )


def _is_live(ledger: NaiveLedger, number: int) -> bool:
    item = ledger.instruments.get(number)
    if item is None or number not in ledger.rows.row_of:
        return False
    return item.kind == Kind.PERPETUAL or ledger.time_ns < item.expiry_ns


def _beyond_session(ledger: NaiveLedger, sent: Sent, legs: tuple[Leg, ...]) -> str | None:
    """Why a session key may not build such a package."""
    if sent.limit_uusd is None:
        return None
    if not _are_good(ledger, legs):
        return "bad_legs"
    more = sum(notional_uusd(ledger, ledger.instruments[leg.instrument], leg.lots) for leg in legs)
    has = gross_uusd(ledger, sent.key, open_orders(ledger, sent.key))
    return "session_notional" if has + more > sent.limit_uusd else None


# --- trading ---


def _accept(ledger: NaiveLedger, sent: Sent, request: QuoteRequest, action: AcceptQuote) -> str | None:
    maker = (action.maker, action.maker_subaccount)
    offered = [
        item.ask_uusd if action.side == 0 else item.bid_uusd
        for item in request.quotes
        if (item.owner, item.subaccount) == maker and item.expires_ns > ledger.time_ns
    ]
    if offered != [action.price_uusd]:
        return "unknown_quote"
    if reason := _beyond_session(ledger, sent, request.legs):
        return reason
    how = (request.legs, action.side, action.price_uusd)
    reason = _trade(ledger, request.request_id, sent.key, maker, *how)
    if reason is None:
        _close(ledger, request.request_id, "traded")
    return reason


def _block_trade(ledger: NaiveLedger, sent: Sent, action: BlockTrade) -> str | None:
    terms = action.terms
    if (terms.taker, terms.taker_subaccount) != sent.key or terms.chain_id != ledger.chain_id:
        return "not_the_taker"
    if not _is_ahead(ledger, terms.expires_ns):
        return "time_passed"
    maker = (address_of(action.maker_key), terms.maker_subaccount)
    if maker not in ledger.accounts or not is_good_nonce(ledger, maker, terms.nonce):
        return "counterparty_refused"
    if not is_valid(action.maker_key, b"QUORATE-BLOCK-TRADE-1" + encode(terms), action.maker_signature):
        return "counterparty_refused"
    if reason := _beyond_session(ledger, sent, terms.legs):
        return reason
    reason = _trade(ledger, 0, sent.key, maker, terms.legs, terms.side, terms.price_uusd)
    if reason is None:
        use_nonce(ledger, maker, terms.nonce)
    return reason


def _grid_mark(ledger: NaiveLedger, number: int) -> int:
    per = ledger.instruments[number].lots_per_contract
    return ledger.rows.mark[ledger.rows.row_of[number]] // per * per


def _trade(
    ledger: NaiveLedger,
    request_id: int,
    taker: AccountKey,
    maker: AccountKey,
    legs: tuple[Leg, ...],
    side: int,
    price: int,
) -> str | None:
    """The legs at their marks, the difference to the price in cash, fees of both; or why nothing happens."""
    if taker[0] == maker[0]:
        return "own_request"
    if not _are_good(ledger, legs):
        return "bad_legs"
    if ledger.breakers.fresh_left > 0:
        return "trading_halted"
    if not all(ledger.breakers.matches(leg.instrument) for leg in legs):
        return "matching_paused"
    value = band = 0
    for leg in legs:
        item = ledger.instruments[leg.instrument]
        value += _grid_mark(ledger, item.id) * leg.lots // item.lots_per_contract
        band += -(-abs(leg.lots) * ledger.band_uusd(item) // item.lots_per_contract)
    if abs(price - value) > band:
        return "net_price_outside_band"
    buyer, seller = (taker, maker) if side == 0 else (maker, taker)
    fees = {key: _fees(ledger, legs, is_taker=key == taker) for key in (taker, maker)}
    after = {}
    for key in (taker, maker):
        sign = 1 if key == buyer else -1
        after[key] = deepcopy(ledger.accounts[key])
        after[key].cash_uusd -= sign * (price - value) + fees[key]
        for leg in legs:
            mark = _grid_mark(ledger, leg.instrument)
            ledger.give(after[key], ledger.instruments[leg.instrument], sign * leg.lots, mark)
        reason = _why_not_held(ledger, key, after[key])
        if reason is not None:
            return reason if key == taker else "counterparty_refused"
    for key in (taker, maker):
        ledger.accounts[key] = after[key]
        ledger.supply["fees_uusd"] += fees[key]
        for leg in legs:
            ledger.trim(key, leg.instrument)
    ledger.events.append(PackageTraded(request_id, *buyer, *seller, price, fees[buyer], fees[seller]))
    for leg in legs:
        mark = _grid_mark(ledger, leg.instrument)
        ledger.events.append(PackageLeg(request_id, leg.instrument, leg.lots, mark))
    return None


def _fees(ledger: NaiveLedger, legs: tuple[Leg, ...], *, is_taker: bool) -> int:
    """Of one side for all legs; a taker pays one base, that of the first leg's underlying."""
    total = 0
    for leg in legs:
        item, mark = ledger.instruments[leg.instrument], _grid_mark(ledger, leg.instrument)
        has_base = is_taker and leg is legs[0]
        total += fee_uusd(ledger, item, abs(leg.lots), mark, is_maker=not is_taker, has_base=has_base)
    return total


def _why_not_held(ledger: NaiveLedger, key: AccountKey, after: NaiveAccount) -> str | None:
    """Why an account may not hold what it would, its open orders counted."""
    if after.health != HEALTHY:
        return "account_must_reduce"
    orders = open_orders(ledger, key)
    lots = sum(item.lots for item in orders) + sum(abs(held) for held, _ in after.positions.values())
    if lots > LOTS_MAX:
        return "too_many_lots"
    if len({*after.positions, *(item.instrument for item in orders)}) > ledger.parameters.positions_max:
        return "too_many_positions"
    return "insufficient_margin" if excess_uusd(ledger, after, orders) < 0 else None
