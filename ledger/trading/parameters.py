"""Policy of order types, fees, protection, session keys and requests for quote. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ledger.margin.standard import StandardParameters
from primitives.amounts import NS, PPM, USD
from primitives.codec import U8, U32, U63, Wire

FEE_PPM_MAX = 10_000
"""One percent: no fee rate is above it."""


class UnderlyingFees(Wire):
    """Fees of one underlying's instruments, in place of the general rates.

    Rates are of the notional (index for options, price for perpetuals); a taking order also pays
    `taker_base_uusd` once in each call in which it trades. An option's fee, base included, is at most
    option_fee_cap_ppm of its premium.
    """

    underlying: U8
    maker_ppm: U32
    taker_ppm: U32
    taker_base_uusd: U63


class TradingParameters(Wire):
    """Limits of what waits, and fees; times in market nanoseconds."""

    triggers_max: U32
    """Waiting trigger orders of one sub-account; one more is refused."""
    session_keys_max: U32
    """Session keys of one sub-account; one more is refused until one is revoked or has expired."""
    requests_max: U32
    """Open requests for quote of one sub-account; one more is refused."""
    requests_total_max: U32
    """Open requests for quote of all accounts; one more is refused."""
    request_quotes_max: U32
    """Makers that may quote one request; a later one is refused."""
    request_legs_max: U32
    request_lots_max: U32
    """Lots of one leg of a request or block trade."""
    request_lifetime_ns_max: U63
    """How far ahead a request, a quote on it, or a block trade may expire."""
    standard: StandardParameters
    """The standard margin model's, the same for every underlying."""
    fees: tuple[UnderlyingFees, ...]
    """Exceptions from the general rates, in order of underlying, at most one each."""


def trading_rules(parameters: TradingParameters) -> Iterator[tuple[bool, str]]:
    """(whether it holds, the rule) for genesis."""
    named = [item.underlying for item in parameters.fees]
    yield named == sorted(set(named)), "fees are in order of underlying, each once"
    for item in parameters.fees:
        yield max(item.maker_ppm, item.taker_ppm) <= FEE_PPM_MAX, "a fee rate is at most one percent"
        yield item.taker_base_uusd <= 100 * USD, "a base fee is at most 100 USD"
    yield parameters.triggers_max <= 100, "an account has at most 100 triggers"
    yield parameters.session_keys_max <= 32, "an account has at most 32 session keys"
    yield parameters.request_quotes_max <= 64, "a request has at most 64 quotes"
    yield parameters.request_legs_max <= 16, "a request has at most 16 legs"
    yield parameters.request_lots_max <= PPM, "a leg has at most a million lots"
    yield parameters.requests_max <= parameters.requests_total_max <= 1_000, "requests are bounded"
    yield 0 < parameters.request_lifetime_ns_max <= 86_400 * NS, "a request lives at most a day"
