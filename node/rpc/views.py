"""What the node writes beside each final block for the gateway to read: named blobs of the block store. Pure.

The view of a name replaces the one before, in the same transaction as the block it belongs to, so all views
and leaves that one read transaction sees are of one height.
"""

from __future__ import annotations

from enum import StrEnum

from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32, Wire


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
    """All accounts, ascending by (owner, sub-account)."""

    height: U63
    rows: tuple[MarginRow, ...]
