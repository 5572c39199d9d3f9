"""A stored history is executed again and judged; two histories are searched for the first difference."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from consensus.messages import Block
from ledger.accounts import Account
from ledger.apply import BlockContext, BlockResult, apply_block
from ledger.state import State
from ledger.state_keys import account_key
from ledger.transactions import transaction_id
from node import ledger_service
from node.__main__ import app
from node.divergence import Comparison, FieldDifference, compare
from node.storage.block_store import BlockStore
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError
from primitives.signing import address_of
from tests.ledger.exchange import a_key, buy, sell
from tests.light.test_light_commands import a_genesis_with_epochs
from tests.node import network_of_nodes
from tests.node.network_of_nodes import BTC_PERP, Ledger, running_nodes, sent_by

ALICE = (address_of(a_key("alice").public_key), 0)


def quorate(*words: object) -> Any:
    return app([str(word) for word in words], result_action="return_value")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a node left that ran through two epochs with three others, snapshots included."""
    path = tmp_path_factory.mktemp("nodes")

    async def run(patch: pytest.MonkeyPatch) -> None:
        settings = {"snapshot_blocks": 4}
        async with running_nodes(path, patch, settings=settings) as (nodes, _):
            await nodes.wait_height(14)
            with trio.fail_after(20):
                while not nodes[0].store.keep_from:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            for index in range(4):
                await nodes.stop(index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_of_nodes, "a_genesis", a_genesis_with_epochs)
        trio.run(run, patch)
    yield path / "n0"


@pytest.fixture
def copy(home: Path, tmp_path: Path) -> Path:
    """The same, for a test to damage."""
    return Path(shutil.copytree(home, tmp_path / "copy", ignore=shutil.ignore_patterns("node.sock")))


def rewrite(home: Path, table: str, height: int, raw: bytes) -> None:
    """Overwrite what a home's block store has of one height."""
    store = BlockStore.open(home / "data" / "blocks")
    with store._environment.begin(write=True) as transaction:
        transaction.put(height.to_bytes(8, "big"), raw, db=store._databases[table])
    store.close()


def block_of(home: Path, height: int) -> Block:
    store = BlockStore.open(home / "data" / "blocks", read_only=True)
    raw = store.block_at(height)
    store.close()
    return decode_own(Block, raw or b"")


# --- replay ---


def test_a_whole_history_is_verified_over_epochs_from_genesis(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quorate("replay", "--home", home) == 0
    assert "verified: heights 1 to " in capsys.readouterr().out


def test_a_history_is_verified_from_a_snapshot_up_to_a_height(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = min((home / "data" / "snapshots").iterdir())
    height = int(snapshot.name)
    assert quorate("replay", "--home", home, "--from", snapshot, "--until", height + 3) == 0
    assert f"verified: heights {height + 1} to {height + 3} in" in capsys.readouterr().out


def test_a_replay_stops_at_the_first_block_that_was_altered(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block = block_of(copy, 9)
    rewrite(copy, "block", 9, encode(replace(block, transactions=(*block.transactions, b"one more"))))
    assert quorate("replay", "--home", copy) == 1
    assert "differs: height 9: wrong_root" in capsys.readouterr().out


def test_a_replay_stops_where_the_state_root_is_another_one(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(state: State, context: BlockContext, transactions: tuple[bytes, ...]) -> BlockResult:
        result = apply_block(state, context, transactions)
        if context.height == 5:
            state.put_account(replace(account_of(state), cash_uusd=account_of(state).cash_uusd + 1))
        return result

    monkeypatch.setattr("node.replay.apply_block", other)
    assert quorate("replay", "--home", copy) == 1
    assert "differs: height 5: the state root is " in capsys.readouterr().out


def test_a_forged_signature_in_a_stored_proof_is_noticed(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = BlockStore.open(copy / "data" / "blocks")
    raw = store.proof_at(6) or b""
    store.close()
    rewrite(copy, "proof", 6, raw[:-1] + bytes((raw[-1] ^ 1,)))
    assert quorate("replay", "--home", copy) == 1
    assert "differs: height 6: a signature" in capsys.readouterr().out


def test_an_unreadable_block_is_a_difference_and_a_missing_start_the_operators(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(copy, "block", 3, b"noise")
    assert quorate("replay", "--home", copy) == 1
    assert "differs: height 3: block 3 is missing" in capsys.readouterr().out
    with pytest.raises(OperatorError, match="cannot be read"):
        quorate("replay", "--home", copy, "--from", copy / "nowhere")


# --- diverge ---


def account_of(state: State) -> Account:
    account = state.account(ALICE)
    assert account is not None
    return account


class Pair:
    """Two ledgers that are given the same blocks; the second may go wrong at one of them."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.right, self.wrong = Ledger(path / "right"), Ledger(path / "wrong")
        self._monkeypatch = monkeypatch
        self.sent: list[bytes] = []

    async def block(self, *, planted: bool = False, only_right: bool = False) -> None:
        height = self.right.service.final_height
        for name, action in (("alice", sell(BTC_PERP, 100_000, 2)), ("bob", buy(BTC_PERP, 100_000, 1))):
            raw = sent_by(name, self.right.chain_id, height, action)
            self.right.service.mempool.add(transaction_id(raw), a_key(name).public_key, raw)
            self.sent.append(raw)
        block = await self.right.build()
        await self.right.finalizes(block)
        if only_right:
            return

        def one_field(state: State, context: BlockContext, transactions: tuple[bytes, ...]) -> BlockResult:
            result = apply_block(state, context, transactions)
            state.put_account(replace(account_of(state), cash_uusd=account_of(state).cash_uusd + 1))
            return dataclasses.replace(result, root=state.root())

        with self._monkeypatch.context() as patch:
            if planted:
                patch.setattr(ledger_service, "apply_block", one_field)
            await self.wrong.finalizes(block)

    def compared(self) -> Comparison:
        genesis = self.right.genesis.ledger
        return compare(self.right.store, self.wrong.store, genesis, self.right.chain_id)


async def test_one_field_planted_in_one_block_is_found_with_its_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, monkeypatch)
    for height in range(1, 8):
        await pair.block(planted=height == 7)
    right, wrong = (account_of(ledger.state).cash_uusd for ledger in (pair.right, pair.wrong))
    for _ in range(5):
        await pair.block(only_right=True)
    found = pair.compared()
    assert (found.tips, found.common_height, found.forked) == ((12, 7), 7, False)
    state = found.state
    assert state is not None
    assert (state.height, state.is_oldest) == (7, False)
    assert state.fields == (FieldDifference(f"Account {ALICE[0].hex()}00", "cash_uusd", right, wrong),)
    assert state.signed_root == state.roots[0] != state.roots[1]
    mine = transaction_id(pair.sent[12])
    assert state.transaction.startswith(f"transaction {mine.hex()}, number ")


async def test_equal_histories_differ_nowhere_though_one_is_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(tmp_path, monkeypatch)
    await pair.block()
    await pair.block(only_right=True)
    assert pair.compared() == Comparison((2, 1), 1, False, None)


async def test_two_blocks_at_one_height_are_a_fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(tmp_path, monkeypatch)
    for _ in range(3):
        await pair.block()
    await pair.block(only_right=True)
    await pair.wrong.finalizes(await pair.wrong.build(reports=False))
    assert pair.compared() == Comparison((4, 4), 3, True, None)


def test_a_damaged_leaf_in_a_home_is_named_by_the_command(
    home: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quorate("diverge", home, copy) == 0
    store = BlockStore.open(copy / "data" / "blocks")
    key = account_key(ALICE)
    account = decode_own(Account, store.leaf(key) or b"")
    with store._environment.begin(write=True) as transaction:
        damaged = encode(replace(account, cash_uusd=account.cash_uusd - 5))
        transaction.put(key, damaged, db=store._databases["leaf"])
    store.close()
    capsys.readouterr()
    assert quorate("diverge", home, copy) == 1
    said = capsys.readouterr().out
    line = f"Account {key[1:].hex()}: cash_uusd is {account.cash_uusd} and {account.cash_uusd - 5}"
    assert line in said
    assert "or earlier" in said
