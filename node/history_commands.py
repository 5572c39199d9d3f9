"""The `quorate replay` and `quorate diverge` commands. Print; read homes that may be in use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Protocol

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consensus.messages import Block, QuorumCertificate, hash_of
from node.config import load_config
from node.divergence import FieldDifference, StateDifference, compare
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.recovery import state_of, stored_block
from node.replay import History, HistoryDiffers, epoch_of, from_genesis
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.snapshots import check_head, open_snapshot
from primitives.codec import decode_own
from primitives.errors import OperatorError, ProtocolViolation

EXIT_DIFFERS = 1
LINE_SECONDS = 5.0
"""Without a terminal, a line of progress this often."""

Home = Annotated[Path, Parameter(help="A node's home directory; its node may be running.")]


class _Advance(Protocol):
    def __call__(self, height: int) -> None: ...


def replay(
    *,
    home: Home,
    start: Annotated[
        Path | None, Parameter(name="--from", help="Begin at this snapshot directory, not at genesis.")
    ] = None,
    until: Annotated[int | None, Parameter(help="Stop after this height; the newest if not given.")] = None,
) -> int:
    """Verify a node's stored history: every certificate, header, signature and state root, by executing it again.

    From genesis it trusts genesis.json alone; from a snapshot also the home's epoch files up to there.

    Exit code: 0 all is right, 1 the history differs (one line says where and how), 2 it cannot be read.

    Example: quorate replay --home net/node0 --from net/node0/data/snapshots/000000010000
    """
    config = load_config(home)
    genesis = load_genesis(config.genesis_path)
    with closing(BlockStore.open(config.store_path, read_only=True, chain_id=chain_id_of(genesis))) as store:
        if start is None:
            history = from_genesis(genesis)
        else:
            history = _from_snapshot(start, genesis, EpochFiles(config.data_path / "epochs"))
        tip = store.tip()
        end = min(until if until is not None else tip.height if tip else 0, tip.height if tip else 0)
        first = store.first_height()
        if first is None or first > history.height + 1:
            raise OperatorError(
                f"the blocks from {history.height + 1} on are not kept, the oldest is {first}: begin at a snapshot "
                "with --from"
            )
        return _replayed(store, history, end)


def _from_snapshot(directory: Path, genesis: GenesisDocument, files: EpochFiles) -> History:
    snapshot = open_snapshot(directory)
    staking = genesis.ledger.staking
    try:
        check_head(snapshot.head, chain_id_of(genesis))
    except ProtocolViolation as violation:
        raise OperatorError(f"{directory} is no snapshot of this chain: {violation}") from None
    opened = files.load(snapshot.height, staking.epoch_blocks if staking.validators else 0)
    epoch = epoch_of(genesis, opened, snapshot.height)
    return History(state_of(snapshot, genesis), epoch, hash_of(snapshot.head.block.header))


def _replayed(store: BlockStore, history: History, end: int) -> int:
    start, began = history.height, time.monotonic()
    try:
        with _progress(start, end) as advance:
            for height in range(start + 1, end + 1):
                raw = store.proof_at(height)
                proof = decode_own(QuorumCertificate, raw) if raw else None
                block = _block(store, height)
                history.step(block, proof)
                advance(height)
    except HistoryDiffers as difference:
        print(f"differs: {difference}")
        return EXIT_DIFFERS
    seconds = time.monotonic() - began
    rate = round((history.height - start) / seconds) if seconds else 0
    print(
        f"verified: heights {start + 1} to {history.height} in {seconds:.1f} s ({rate} a second), state root "
        f"{history.state.root().hex()}"
    )
    if history.proved_height < history.height:
        print(
            f"proved final up to {history.proved_height}; blocks above it stand on it without a stored proof"
        )
    return 0


def _block(store: BlockStore, height: int) -> Block:
    try:
        return stored_block(store, height)
    except OperatorError as error:
        raise HistoryDiffers(height, str(error)) from None


@contextmanager
def _progress(start: int, end: int) -> Iterator[_Advance]:
    """A bar on a terminal, else a line every LINE_SECONDS."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=end, completed=start)
            yield lambda height: progress.update(task, completed=height)
        return
    spoken = time.monotonic()

    def say(height: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= LINE_SECONDS:
            spoken = time.monotonic()
            console.print(f"replay: {height} of {end}")

    yield say


def diverge(one: Home, other: Home) -> int:
    """Find where two nodes of a chain part: the first block, then the first transaction and field of the state.

    Exit code: 0 no difference, 1 a difference, 2 they cannot be compared.

    Example: quorate diverge net/node0 net/node1
    """
    configs = [load_config(home) for home in (one, other)]
    genesis = load_genesis(configs[0].genesis_path)
    chain_id = chain_id_of(genesis)
    with (
        closing(BlockStore.open(configs[0].store_path, read_only=True, chain_id=chain_id)) as left,
        closing(BlockStore.open(configs[1].store_path, read_only=True, chain_id=chain_id)) as right,
    ):
        found = compare(left, right, genesis.ledger, chain_id)
        tips = f"(newest: {found.tips[0]} and {found.tips[1]})"
        print(f"blocks: the same up to height {found.common_height} {tips}")
        if found.forked:
            height = found.common_height + 1
            print(f"block {height}: {_name(left, height)} in {one}")
            print(f"block {height}: {_name(right, height)} in {other}")
            print(
                f"two final blocks at one height: quorate forensics {one} {other} --genesis {configs[0].genesis_path}"
            )
        if found.state is None:
            print(f"state: the same after block {found.common_height}")
            return EXIT_DIFFERS if found.forked else 0
        for line in _state_lines(found.state, one, other):
            print(line)
        return EXIT_DIFFERS


def _name(store: BlockStore, height: int) -> str:
    header = stored_block(store, height).header
    return (
        f"{hash_of(header).hex()[:16]}, view {header.view} of epoch {header.epoch}, proposed by {header.proposer}, "
        f"parent state root {header.parent_state_root.hex()[:16]}"
    )


def _state_lines(found: StateDifference, one: Path, other: Path) -> Iterator[str]:
    earlier = " or earlier (older states are not kept)" if found.is_oldest else ""
    yield f"state: differs after block {found.height}{earlier}"
    for home, root in zip((one, other), found.roots, strict=True):
        verdict = (
            ""
            if found.signed_root is None
            else ", signed"
            if root == found.signed_root
            else ", NOT the signed one"
        )
        yield f"state root {root.hex()[:16]} in {home}{verdict}"
    if found.signed_root is not None and found.signed_root not in found.roots:
        yield f"signed by the validators: {found.signed_root.hex()[:16]}"
    yield f"first transaction: {found.transaction}"
    for field in found.fields:
        yield _field_line(field)


def _field_line(field: FieldDifference) -> str:
    if field.field:
        return f"{field.leaf}: {field.field} is {field.one} and {field.other}"
    side = "second" if field.one is None else "first"
    return f"{field.leaf}: only in the {side}: {field.other if field.one is None else field.one}"
