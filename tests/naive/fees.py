"""What one side of a trade pays. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.instruments import Instrument, Kind

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000


def fee_uusd(
    ledger: NaiveLedger, instrument: Instrument, lots: int, price: int, *, is_maker: bool, has_base: bool
) -> int:
    """The underlying's own rates or the general ones, on the notional, and a taker's base; an option's is capped."""
    parameters = ledger.parameters
    maker_ppm, taker_ppm, base = parameters.maker_fee_ppm, parameters.taker_fee_ppm, 0
    for own in ledger.trading_rules.fees:
        if own.underlying == instrument.underlying:
            maker_ppm, taker_ppm, base = own.maker_ppm, own.taker_ppm, own.taker_base_uusd
    rate = maker_ppm if is_maker else taker_ppm
    per = instrument.lots_per_contract * PPM
    is_option = instrument.kind != Kind.PERPETUAL
    unit = ledger.oracle.agreed[instrument.underlying].index_uusd if is_option else price
    fee = -(-unit * lots * rate // per) + (base if has_base else 0)
    return min(fee, -(-price * lots * parameters.option_fee_cap_ppm // per)) if is_option else fee
