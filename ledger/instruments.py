"""Instruments: perpetuals and European options, from listing to settlement. Pure."""

from __future__ import annotations

from enum import IntEnum

from primitives.amounts import USD
from primitives.codec import U8, U32, U63, Wire


class Underlying(IntEnum):
    """What an instrument is written on; the number is its wire form."""

    BTC = 0
    ETH = 1


class Kind(IntEnum):
    """PERPETUAL has neither strike nor expiry; CALL and PUT are European, cash settled."""

    PERPETUAL = 0
    CALL = 1
    PUT = 2


LOTS_PER_CONTRACT = {Underlying.BTC: 100, Underlying.ETH: 10}
"""A lot is 0.01 BTC or 0.1 ETH."""

_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


class Instrument(Wire):
    """One listed contract. `expiry_ns` and `strike_uusd` are 0 for a perpetual."""

    id: U32
    underlying: U8
    kind: U8
    expiry_ns: U63
    strike_uusd: U63
    lots_per_contract: U32

    @property
    def name(self) -> str:
        """Deribit's way of naming: BTC-PERPETUAL, BTC-6FEB26-88000-P."""
        underlying = Underlying(self.underlying).name
        if self.kind == Kind.PERPETUAL:
            return f"{underlying}-PERPETUAL"
        year, month, day = date_of(self.expiry_ns)
        side = "C" if self.kind == Kind.CALL else "P"
        whole, micro = divmod(self.strike_uusd, USD)
        strike = str(whole) if micro == 0 else f"{whole}.{micro:06d}".rstrip("0")
        return f"{underlying}-{day}{_MONTHS[month - 1]}{year % 100:02d}-{strike}-{side}"


def date_of(time_ns: int) -> tuple[int, int, int]:
    """(year, month, day) in UTC of a time in nanoseconds; integer arithmetic on the civil calendar."""
    days = time_ns // (86_400 * 1_000_000_000)
    shifted = days + 719_468
    era, day_of_era = divmod(shifted, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_index = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_index + 2) // 5 + 1
    month = month_index + 3 if month_index < 10 else month_index - 9
    return year_of_era + era * 400 + (1 if month <= 2 else 0), month, day
