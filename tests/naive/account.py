"""One account of the naive ledger. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

AccountKey = tuple[bytes, int]
HEALTHY, REDUCE_ONLY, LIQUIDATION = 0, 1, 2


@dataclass
class NaiveAccount:
    """`positions` maps instrument to (lots, cost)."""

    cash_uusd: int
    health: int = HEALTHY
    nonce_floor: int = 0
    nonces_used: set[int] = field(default_factory=set)
    positions: dict[int, tuple[int, int]] = field(default_factory=dict)
