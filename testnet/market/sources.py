"""Opens the market that a configuration asks for. Reads the disk only for a replay."""

from __future__ import annotations

from pathlib import Path

from testnet.market.config import MarketConfig, MarketKind
from testnet.market.replay import ReplayMarket
from testnet.market.source import MarketSource, Shock
from testnet.market.synthetic import SyntheticMarket


def open_source(config: MarketConfig) -> MarketSource:
    """The market at its start. Raises OperatorError for bad or missing replay data."""
    shock = Shock(config.shock_at_ns, config.shock_size_ppm) if config.shock_at_ns else None
    if config.kind == MarketKind.SYNTHETIC:
        return SyntheticMarket(config.seed, config.start_market_ns, shock)
    return ReplayMarket(Path(config.path), config.start_market_ns, shock, config.expiries_max)
