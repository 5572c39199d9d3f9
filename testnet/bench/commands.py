"""`quorate bench`: measures what the design promises, as one flat object. Prints, and writes the file asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from testnet.bench.api import ApiPlan, api_figures
from testnet.bench.crowd import CrowdPlan, crowd_figures
from testnet.bench.execution import execution_figures
from testnet.bench.finality import FinalityPlan, finality_figures
from testnet.bench.flood import FloodBench, flood_figures
from testnet.bench.margin import margin_figures
from testnet.bench.pricing import pricing_figures
from testnet.bench.rejoin import RejoinPlan, rejoin_figures
from testnet.bench.simulation import simulation_figures
from testnet.bench.storage import StoragePlan, storage_figures
from testnet.bench.sync import SyncPlan, sync_figures
from testnet.realdata.__main__ import run as replay_real_data

DEFAULT_CROWD = CrowdPlan()
DEFAULT_REJOIN = RejoinPlan()
DEFAULT_SYNC = SyncPlan()
DEFAULT_STORAGE = StoragePlan()

app = App(name="bench", help="Measure this machine: what prices, margins, blocks and simulations cost.")


@app.command
def execution(*, json_file: Annotated[Path | None, Parameter(name="--json")] = None) -> None:
    """Order actions per second on one core: signatures, validation, margin, calls, events, state root.

    Parameters
    ----------
    json_file
        Also write the figures there, as one flat object.
    """
    show(execution_figures(), json_file)


@app.command
def pricing(*, json_file: Annotated[Path | None, Parameter(name="--json")] = None) -> None:
    """Option values, Greeks and implied volatilities, beside the peers of the extra `bench` where installed.

    Parameters
    ----------
    json_file
        Also write the figures there, as one flat object.
    """
    show(pricing_figures(_tell), json_file)


@app.command
def margin(*, json_file: Annotated[Path | None, Parameter(name="--json")] = None) -> None:
    """A block's marks and risk arrays of 1,002 instruments, and every account's portfolio margin.

    Parameters
    ----------
    json_file
        Also write the figures there, as one flat object.
    """
    show(margin_figures(), json_file)


app.command(replay_real_data, name="realdata")


@app.command
def sim(*, json_file: Annotated[Path | None, Parameter(name="--json")] = None) -> None:
    """Hours of a simulated cluster of four in a minute of one core, and Twins scenarios in a second of it.

    Parameters
    ----------
    json_file
        Also write the figures there, as one flat object.
    """
    show(simulation_figures(), json_file)


@app.command
def sync(
    *,
    blocks: int = DEFAULT_SYNC.blocks,
    validators: int = DEFAULT_SYNC.validators,
    min_block_ms: int = DEFAULT_SYNC.min_block_ms,
    home: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """How fast an empty node catches up with a running network: blocks a second, beside the network's own.

    Makes a history first, with every validator's keys in one process; then everything is real processes.

    Parameters
    ----------
    blocks
        Length of the history that is fetched.
    validators
        Processes that go on with it.
    min_block_ms
        Least time between two of their blocks.
    home
        Keep everything in this new directory (default: a temporary one).
    json_file
        Also write the figures there, as one flat object.
    """
    show(sync_figures(SyncPlan(blocks, validators, min_block_ms), home), json_file)


@app.command
def rejoin(
    *,
    blocks: int = DEFAULT_REJOIN.blocks,
    min_block_ms: int = DEFAULT_REJOIN.min_block_ms,
    home: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """How a validator that was away catches up while the others go on, and when it votes again. All real processes.

    Parameters
    ----------
    blocks
        That the other three make while it is away, in real time.
    min_block_ms
        Least time between two blocks.
    home
        Keep everything in this new directory (default: a temporary one).
    json_file
        Also write the figures there, as one flat object.
    """
    show(rejoin_figures(RejoinPlan(blocks, min_block_ms), home), json_file)


@app.command
def storage(
    *,
    blocks: int = DEFAULT_STORAGE.blocks,
    accounts: int = DEFAULT_STORAGE.accounts,
    home: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """A month of blocks, far apart: disk per block, growth of memory, start-up; and snapshots of many accounts.

    Parameters
    ----------
    blocks
        So many fill the thirty days.
    accounts
        In the ledger of which a snapshot is written.
    home
        Keep everything in this new directory (default: a temporary one).
    json_file
        Also write the figures there, as one flat object.
    """
    show(storage_figures(StoragePlan(blocks, accounts), _tell, home), json_file)


@app.command
def snapshot(
    *,
    accounts: int = 100_000,
    blocks: int = 300,
    validators: int = DEFAULT_SYNC.validators,
    home: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """How fast an empty node takes a snapshot of the ledger from a running network, and then the blocks above it.

    Parameters
    ----------
    accounts
        In genesis, each with money.
    blocks
        Length of the history; the snapshot is near its end.
    validators
        Processes that go on with it.
    home
        Keep everything in this new directory (default: a temporary one).
    json_file
        Also write the figures there, as one flat object.
    """
    show(sync_figures(SyncPlan(blocks, validators, accounts=accounts), home), json_file)


@app.command
def api(
    *,
    subscribers: int = ApiPlan.subscribers,
    seconds: float = ApiPlan.seconds,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """How late a gateway's subscribers hear of a block, beside slow ones that are dropped; orders and questions.

    Parameters
    ----------
    subscribers
        WebSocket clients, each of four channels.
    seconds
        How long blocks are made.
    json_file
        Also write the figures there, as one flat object.
    """
    show(api_figures(ApiPlan(subscribers=subscribers, seconds=seconds)), json_file)


@app.command
def finality(
    *,
    cometbft: Path | None = None,
    seconds: float = FinalityPlan.seconds,
    validators: int = FinalityPlan.validators,
    min_block_ms: int = FinalityPlan.min_block_ms,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """From a built block to its finality at every validator: a testnet's, and CometBFT's on the same machine.

    Parameters
    ----------
    cometbft
        CometBFT's binary (version 0.38); measured with its default waits, and with two that are tuned.
    seconds
        Length of each run.
    validators
        Processes in each network.
    min_block_ms
        Least time between two blocks; CometBFT's timeout_commit.
    json_file
        Also write the figures there, as one flat object.
    """
    plan = FinalityPlan(validators=validators, seconds=seconds, min_block_ms=min_block_ms, cometbft=cometbft)
    show(finality_figures(plan, _tell), json_file)


@app.command
def crowd(
    *,
    accounts: int = DEFAULT_CROWD.accounts,
    blocks: int = DEFAULT_CROWD.blocks,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Processor time of a block when every account is margined and few trade: execution, root, views, store.

    Parameters
    ----------
    accounts
        Of the ledger, in three runs with 0, 2 and 20 options each.
    blocks
        Measured in each run.
    json_file
        Also write the figures there, as one flat object.
    """
    show(crowd_figures(CrowdPlan(accounts=accounts, blocks=blocks)), json_file)


@app.command
def flood(
    *,
    seconds: float = FloodBench.seconds,
    rounds: int = FloodBench.rounds,
    home: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> None:
    """Whether finality stays within twice its time while one gateway is asked for a hundred times its quota.

    A network of four validators with traders; exit code 1 if the limit does not hold.

    Parameters
    ----------
    seconds
        Length of each quiet and each flooded span.
    rounds
        Of one quiet span and one flooded.
    home
        Keep everything in this new directory (default: a temporary one).
    json_file
        Also write the figures there, as one flat object.
    """
    figures = flood_figures(FloodBench(seconds=seconds, rounds=rounds), _tell, home)
    show(figures, json_file)
    if not figures["flood.is_within_limit"]:
        raise SystemExit(1)


def _tell(sentence: str) -> None:
    Console(stderr=True).print(sentence, markup=False, soft_wrap=True)


def show(figures: dict[str, float], path: Path | None) -> None:
    """Print figures as a table, and write them if a file is named."""
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.4g}")
    Console().print(table)
    if path is not None:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
