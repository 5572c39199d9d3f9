"""Every number of the liquidation waterfall, as replicated data with hard bounds. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from primitives.amounts import NS, PPM
from primitives.codec import U16, U32, U63, Wire

DAY_NS = 86_400 * NS


class AuctionParameters(Wire):
    """Steps 3 and 4 of market.md section 5; times in market nanoseconds, parts in ppm.

    A solvent auction's discount rises from `discount_start_ppm` to `discount_fast_ppm` within `fast_ns` and to
    everything by `slow_ns`; an insolvent one's payment rises within `insolvent_ns`.
    """

    patience_ns: U63
    empty_book_patience_ns: U63
    buffer_ppm: U32
    fee_ppm: U32
    discount_start_ppm: U32
    discount_fast_ppm: U32
    fast_ns: U63
    slow_ns: U63
    insolvent_ns: U63


class FundingParameters(Wire):
    """A perpetual's premium, clamped, is paid once in `period_ns`; longer gaps between blocks are not charged."""

    period_ns: U63
    premium_max_ppm: U32
    gap_ns_max: U63


class ListingParameters(Wire):
    """Expiries kept listed of each kind, and strikes of each; `strikes_max` 0: nothing is listed after genesis.

    `instruments_max` counts settled ones too, which stay for `keep_settled_ns`; an expiry that would not fit is
    tried again the next day, further strikes that would not the next hour.
    """

    daily: U32
    weekly: U32
    monthly: U32
    quarterly: U32
    deviations: U32
    strikes_max: U32
    instruments_max: U32
    keep_settled_ns: U63


class ExposureParameters(Wire):
    """Above `rise_from_ppm` of fund and vault the stress shortfall raises the initial factor by `step_ppm` for
    each `step_ns`, up to `im_extra_max_ppm`; above `critical_from_ppm` (0: never) it holds accounts to reducing.
    """

    rise_from_ppm: U32
    critical_from_ppm: U32
    step_ppm: U32
    step_ns: U63
    im_extra_max_ppm: U32
    delta_limit_ppm: U32
    vega_limit_ppm: U32


class ProtectionParameters(Wire):
    """What protects the exchange from its accounts; `vault_uusd` is the backstop vault's cash at genesis."""

    auction: AuctionParameters
    vault_uusd: U63
    funding: FundingParameters
    listing: ListingParameters
    exposure: ExposureParameters
    governance_delay_ns: U63
    """From a decision to its effect."""


class ProtocolParameters(Wire):
    """The protocol version of blocks to come: voted on like other numbers, it enters with an epoch's decided set."""

    version: U16


def protection_rules(protection: ProtectionParameters) -> Iterator[tuple[bool, str]]:
    """(whether it holds, the rule) for every bound."""
    auction = protection.auction
    yield auction.patience_ns <= DAY_NS, "an auction begins within a day"
    yield (
        auction.empty_book_patience_ns <= auction.patience_ns,
        "an empty book makes an auction begin earlier",
    )
    yield auction.buffer_ppm <= PPM and auction.fee_ppm <= PPM // 2, "auction buffer <= 1 and fee <= 0.5"
    yield (
        auction.discount_start_ppm <= auction.discount_fast_ppm <= PPM,
        "an auction's discount only rises, to 100 % at most",
    )
    yield 0 < auction.fast_ns < auction.slow_ns <= 7 * DAY_NS, "an auction lasts a week at most"
    yield 0 < auction.insolvent_ns <= DAY_NS, "an insolvent auction lasts a day at most"
    funding = protection.funding
    yield 3_600 * NS <= funding.period_ns <= DAY_NS, "a funding period is an hour to a day"
    yield funding.premium_max_ppm <= PPM // 20, "funding is at most 5 % in a period"
    yield protection.governance_delay_ns <= 60 * DAY_NS, "decisions take effect within 60 days"
    exposure = protection.exposure
    yield 0 < exposure.rise_from_ppm <= 10 * PPM, "stress raises the factor from at most ten times the cover"
    yield exposure.step_ppm <= PPM // 2 and exposure.im_extra_max_ppm <= PPM, "the factor rises by 1 at most"
    yield 60 * NS <= exposure.step_ns <= DAY_NS, "the factor's step is a minute to a day"
    yield (
        max(exposure.delta_limit_ppm, exposure.vega_limit_ppm) <= PPM,
        "exposure limits are at most the cover",
    )
    listing = protection.listing
    yield max(listing.daily, listing.weekly) <= 8, "at most 8 daily and weekly expiries"
    yield (
        listing.monthly <= 12 and listing.quarterly <= 4,
        "monthly and quarterly expiries for a year at most",
    )
    yield 1 <= listing.deviations <= 6, "strikes within 1 to 6 standard deviations"
    yield listing.strikes_max <= 100 and listing.instruments_max <= 4_096, "at most 4,096 instruments"
    yield listing.keep_settled_ns <= 60 * DAY_NS, "settled series stay 60 days at most"
    yield funding.gap_ns_max <= funding.period_ns, "a gap that is charged is at most a period"
