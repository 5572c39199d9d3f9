"""One sub-account: cash, positions at exact cost, open orders and the nonce window. Pure.

Equity = cash + sum(option lots * mark / lots_per_contract) + sum(perpetual lots * mark / lots_per_contract -
cost). Every mark and tick is a multiple of lots_per_contract micro-USD, so each of these is an exact integer.
The account's IM excess, MM excess and margin are not stored: every block computes them anew and commits to
them.
"""

from __future__ import annotations

from ledger.margin.health import Health
from ledger.matching.orders import AccountKey
from ledger.reasons import LedgerReason
from primitives.codec import I64, U8, U32, U63, Bytes20, Wire
from primitives.errors import ProtocolViolation


class Position(Wire):
    """Signed lots (never 0); `cost_uusd` is what was paid for a perpetual, less funding.py's number; 0 for an
    option."""

    instrument: U32
    lots: I64
    cost_uusd: I64


class OpenOrder(Wire):
    """Where one open order of the account rests."""

    order_id: U63
    instrument: U32


class Account(Wire):
    """One leaf. Positions in order of instrument, orders in order of id; cash below 0 is a debt."""

    owner: Bytes20
    subaccount: U8
    cash_uusd: I64
    nonce_floor: U63
    nonce_bits: bytes
    health: U8
    positions: tuple[Position, ...]
    orders: tuple[OpenOrder, ...]

    @property
    def key(self) -> AccountKey:
        """Owner and number."""
        return self.owner, self.subaccount

    @property
    def next_nonce(self) -> int:
        """The lowest nonce above every used one."""
        return self.nonce_floor + nonce_bits_to_int(self.nonce_bits).bit_length()


def new_account(owner: bytes, subaccount: int, cash_uusd: int) -> Account:
    """An account that has done nothing yet: its first nonce is 0 or anything inside the window."""
    return Account(owner, subaccount, cash_uusd, 0, b"", Health.HEALTHY, (), ())


def use_nonce(floor: int, used: int, nonce: int, window: int) -> tuple[int, int]:
    """The nonce window after `nonce` is used: (floor, bitmap whose bit i says that floor + i is used).

    Nonces of [floor, floor + window) are open in any order; one of the next `window` above them moves the
    window up, so a number that is never used blocks nobody for long.

    Raises:
        ProtocolViolation: BAD_NONCE, used already, below the window, or too far above it.
    """
    place = nonce - floor
    if place < 0 or place >= 2 * window:
        raise ProtocolViolation(
            LedgerReason.BAD_NONCE, f"nonce {nonce} is outside {floor} to {floor + 2 * window - 1}"
        )
    if used >> place & 1:
        raise ProtocolViolation(LedgerReason.BAD_NONCE, f"nonce {nonce} was used before")
    shift = max(0, place - window + 1)
    return floor + shift, (used >> shift) | 1 << (place - shift)


def nonce_bits_to_int(bits: bytes) -> int:
    """The bitmap of an account as a number."""
    return int.from_bytes(bits, "little")


def nonce_bits_of(used: int) -> bytes:
    """The one byte form of a bitmap: no trailing zero bytes."""
    return used.to_bytes((used.bit_length() + 7) // 8, "little")


def trade_perpetual(lots: int, cost_uusd: int, traded_lots: int, value_uusd: int) -> tuple[int, int, int]:
    """(lots, cost, cash change) of a perpetual position after a trade.

    Args:
        lots, cost_uusd: the position before; cost has the sign of lots times the average price.
        traded_lots: signed, + buys. value_uusd: price * traded_lots / lots_per_contract, exact, same sign.

    The part that reduces the position realises: cash moves by the trade's value less a share of the cost, and
    the cost by exactly the same amount, so realising changes neither equity nor the sum of cash less cost
    over all accounts. The share is floored; what it leaves stays in the cost of the rest, so nothing is lost.
    """
    if lots == 0 or (lots > 0) == (traded_lots > 0):
        return lots + traded_lots, cost_uusd + value_uusd, 0
    closed = min(abs(lots), abs(traded_lots))
    cost_share = cost_uusd * closed // abs(lots)
    value_share = value_uusd * closed // abs(traded_lots)
    cash_change = -value_share - cost_share
    return lots + traded_lots, cost_uusd + value_uusd + cash_change, cash_change
