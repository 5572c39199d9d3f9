"""One account of the naive ledger. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.trading.state import Protection, Trigger

AccountKey = tuple[bytes, int]
HEALTHY, REDUCE_ONLY, LIQUIDATION = 0, 1, 2


@dataclass
class NaiveAccount:
    """`positions` maps instrument to (lots, cost); protections are by underlying, triggers by id."""

    cash_uusd: int
    health: int = HEALTHY
    nonce_floor: int = 0
    nonces_used: set[int] = field(default_factory=set)
    positions: dict[int, tuple[int, int]] = field(default_factory=dict)
    cancel_at_ns: int = 0
    model: int = 0
    triggers: dict[int, Trigger] = field(default_factory=dict)
    protections: dict[int, Protection] = field(default_factory=dict)
