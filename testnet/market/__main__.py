"""The market process: `python -m testnet.market CONFIG.json`. Reads its configuration, serves until SIGTERM.

Prints one JSON line when its sockets listen and one, with its counters, when it ends.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import trio

from primitives.errors import OperatorError
from testnet.market.config import MarketConfig, market_time_ns
from testnet.market.sources import open_source
from testnet.market.venues import listen_all, serve_venues


def load_config(path: Path) -> MarketConfig:
    """Read the configuration. Raises OperatorError when it is missing or malformed."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MarketConfig)
    except OSError as error:
        raise OperatorError(f"Cannot read the market configuration {path}: {error.strerror}.") from None
    except msgspec.MsgspecError as error:
        raise OperatorError(f"The market configuration {path} is malformed: {error}.") from None


async def run_market(config: MarketConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    counters: Counter[str] = Counter()
    source = open_source(config)
    listeners = await listen_all(config)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                serve_venues,
                source,
                config,
                listeners,
                lambda: market_time_ns(config, time.monotonic_ns()),
                counters,
            )
            _say(event="market_ready", venues=len(config.venues))
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
    _say(event="market_stopped", cpu_seconds=round(time.process_time(), 2), **counters)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def main(arguments: list[str]) -> int:
    """0 after an orderly stop, 1 for the operator's mistakes."""
    try:
        if len(arguments) != 1:
            raise OperatorError("The market process takes one argument: its configuration file.")
        trio.run(run_market, load_config(Path(arguments[0])))
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
