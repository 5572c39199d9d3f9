"""What the traders' process is told; passed to it as a JSON file. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from ledger.instruments import Instrument


class Role(StrEnum):
    """What a trader does."""

    MAKER = "maker"
    TAKER = "taker"
    HEDGER = "hedger"
    GAMBLER = "gambler"


class TraderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One trader: its account's key seed (hex; testnet money only), its role and the gateway it prefers."""

    name: str
    role: Role
    key_seed: str
    gateway: int


class TradersConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the traders need. Market time as in testnet.market.config.MarketConfig."""

    gateways: tuple[str, ...]
    """host:port of every validator's gateway."""
    instruments: tuple[Instrument, ...]
    venues: dict[str, str]
    """Name to address of the venues that traders look at."""
    traders: tuple[TraderSpec, ...]
    seed: int
    speed: float
    start_market_ns: int
    start_monotonic_ns: int
    orders_per_second: float
    result_path: str
    """Where the outcome is written (JSON) when the process ends."""


class TradersOutcome(msgspec.Struct, forbid_unknown_fields=True):
    """What happened to everything that the traders sent. Transaction ids are hex."""

    submitted_orders: int = 0
    submitted_transactions: int = 0
    refused: dict[str, int] = {}
    """Transactions that a gateway or mempool refused, by reason."""
    accepted: list[str] = []
    """Transactions that a node acknowledged as waiting for a block."""
    final: list[str] = []
    """Transactions that a gateway reported as final."""
    order_to_final_ms: list[float] = []
