"""What the node writes beside each final block for the gateway to read: named blobs of the block store. Pure.

The view of a name replaces the one before, in the same transaction as the block it belongs to, so all views
and leaves that one read transaction sees are of one height.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from enum import StrEnum
from struct import Struct

from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32, Wire

ACCOUNT_BYTES = 21
"""Owner and sub-account."""
HEALTH_NAMES = ("healthy", "reduce_only", "liquidation")
"""By code."""
_NUMBERS = Struct("<3q")


class ViewName(StrEnum):
    """Names under which BlockStore.view finds them."""

    STATUS = "status"
    MARKS = "marks"
    GREEKS = "greeks"
    MARGINS = "margins"


class StatusView(Wire):
    """The final tip that the other views belong to."""

    height: U63
    block_hash: Bytes32
    state_root: Bytes32
    time_ns: U63


class MarkRow(Wire):
    """One instrument's mark, its implied volatility (1e-6, 0 for a perpetual) and one contract's delta (1e-6)."""

    instrument: U32
    mark_uusd: U63
    vol_e6: U63
    delta_e6: I64


class MarksView(Wire):
    """Marks of all instruments, ascending by id."""

    height: U63
    time_ns: U63
    rows: tuple[MarkRow, ...]


class GreeksRow(Wire):
    """One contract's other Greeks: gamma 1e-12 per dollar, vega micro-USD per volatility point, theta per day."""

    instrument: U32
    gamma_e12: I64
    vega_uusd: I64
    theta_uusd: I64


class GreeksView(Wire):
    """Greeks of all instruments, ascending by id."""

    height: U63
    rows: tuple[GreeksRow, ...]


class MarginRow(Wire):
    """One account's health: equity (cash + mark-to-market) and the excess over each requirement."""

    owner: Bytes20
    subaccount: U8
    equity_uusd: I64
    im_excess_uusd: I64
    mm_excess_uusd: I64
    health: str


class MarginsView(Wire):
    """All accounts, ascending by (owner, sub-account), packed: they are many, and all change with every block."""

    height: U63
    keys: bytes
    """Owner and sub-account of each."""
    health: bytes
    """A ledger.margin.health.Health each."""
    numbers: bytes
    """Equity, initial and maintenance excess of each: little-endian 64-bit integers."""

    def find(self, owner: bytes, subaccount: int) -> MarginRow | None:
        """One account's row, None when it has none."""
        wanted = owner + bytes((subaccount,))
        at = bisect_left(range(len(self.health)), wanted, key=self._key)
        if at == len(self.health) or self._key(at) != wanted:
            return None
        equity_uusd, im_uusd, mm_uusd = _NUMBERS.unpack_from(self.numbers, at * _NUMBERS.size)
        return MarginRow(owner, subaccount, equity_uusd, im_uusd, mm_uusd, HEALTH_NAMES[self.health[at]])

    def _key(self, at: int) -> bytes:
        return self.keys[ACCOUNT_BYTES * at : ACCOUNT_BYTES * (at + 1)]


def packed_margins(height: int, rows: Sequence[MarginRow]) -> MarginsView:
    """The view of these rows, which are ascending."""
    return MarginsView(
        height,
        b"".join(row.owner + bytes((row.subaccount,)) for row in rows),
        bytes(HEALTH_NAMES.index(row.health) for row in rows),
        b"".join(_NUMBERS.pack(row.equity_uusd, row.im_excess_uusd, row.mm_excess_uusd) for row in rows),
    )
