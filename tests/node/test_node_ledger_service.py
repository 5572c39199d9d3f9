"""The ledger behind consensus: build, validate, execute ahead, commit, roll back, restart."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing
from msgspec.structs import replace

from consensus.messages import Block, hash_of, transaction_root
from ledger.apply import BlockResult
from ledger.events import Trade
from ledger.oracle import decode_update
from ledger.transactions import OracleUpdate, SignedTransaction, transaction_id
from node.mempool import Mempool
from node.rpc.views import MarginsView, MarksView, StatusView
from node.views import views_of
from primitives.amounts import USD
from primitives.codec import decode_own, encode
from primitives.errors import InvariantViolation
from primitives.signing import address_of
from tests.ledger.exchange import a_key, buy, sell
from tests.node.network_of_nodes import BTC_PERP, NOBODYS_PROOF, Ledger, a_block, reports_at, sent_by


def a_ledger(path: Path) -> Ledger:
    return Ledger(path / "blocks")


def waiting(ledger: Ledger, name: str, nonce: int, *actions: Any) -> bytes:
    """Put a client's transaction where admission would have put it."""
    raw = sent_by(name, ledger.chain_id, nonce, *actions)
    ledger.service.mempool.add(transaction_id(raw), a_key(name).public_key, raw)
    return raw


async def test_a_block_is_built_validated_executed_and_made_final(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    offer = waiting(ledger, "alice", 0, sell(BTC_PERP, 100_000, 3))
    bid = waiting(ledger, "bob", 0, buy(BTC_PERP, 100_000, 2))
    block = await ledger.build()
    assert block.transactions[1:] == (offer, bid)
    assert await ledger.validates(block)
    await ledger.service.execute(hash_of(block.header))
    assert (ledger.service.executed_height, ledger.service.final_height) == (1, 0)
    (result,) = await ledger.service.finalize([block], NOBODYS_PROOF)
    assert [
        (item.price_uusd, item.size_lots) for item in result.result.events if isinstance(item, Trade)
    ] == [(100_000 * USD, 2)]
    service = ledger.service
    assert (service.final_height, service.final_hash, service.final_root, service.final_time_ns) == (
        *(1, hash_of(block.header), ledger.state.root()),
        block.header.time_ns,
    )
    assert len(service.mempool) == 0 and marks_of(ledger)[BTC_PERP] == 100_000 * USD


async def test_what_a_final_block_leaves_is_in_the_store(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    raw = waiting(ledger, "alice", 0, buy(BTC_PERP, 90_000, 1))
    block = await ledger.build()
    (root,) = await ledger.finalizes(block)
    store = ledger.store
    assert (store.block_at(1), store.height_of_transaction(transaction_id(raw))) == (encode(block), 1)
    assert store.leaves() == ledger.state.all_leaves()
    views = [decode_own(kind, store.view(name) or b"") for kind, name in _VIEWS]
    assert views[0] == StatusView(1, hash_of(block.header), root, block.header.time_ns)
    assert {row.instrument: row.mark_uusd for row in views[1].rows} == marks_of(ledger)
    rows = [views[2].find(*item.key) for item in ledger.state.accounts()]
    assert {row.equity_uusd for row in rows if row.health == "healthy"} == {0, 1_000_000 * USD}


def marks_of(ledger: Any) -> dict[int, int]:
    """The chain's mark of each live instrument."""
    return dict(ledger.state.marks.marks)


_VIEWS: tuple[tuple[Any, str], ...] = (
    (StatusView, "status"),
    (MarksView, "marks"),
    (MarginsView, "margins"),
)


async def test_siblings_are_executed_in_turn_and_leave_nothing_behind(tmp_path: Path) -> None:
    """View changes: two children of one block; whoever wins, the root is as if the other had never been."""
    ledger = a_ledger(tmp_path)
    left = await ledger.build(view=1)
    waiting(ledger, "alice", 0, buy(BTC_PERP, 99_000, 1))
    right = await ledger.build(view=2)
    assert left.transactions[1:] == () and len(right.transactions) == 2
    roots = []
    for block in (left, right, left, right):
        assert await ledger.validates(block)
        await ledger.service.execute(hash_of(block.header))
        roots.append(ledger.state.root())
    assert roots[0] == roots[2] != roots[1] == roots[3]
    assert await ledger.finalizes(left) == [roots[0]]
    assert len(ledger.service.mempool) == 1, "the loser's transaction waits for the next block"


async def test_a_whole_branch_is_rolled_back_for_a_longer_one(tmp_path: Path) -> None:
    ledger, alone = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    left = [await ledger.build(view=1)]
    right = [await ledger.build(view=2)]
    for branch in (left, right):
        for view in (10, 11):
            assert await ledger.validates(branch[-1])
            waiting(ledger, "bob", 2 * view + (branch is left), buy(BTC_PERP, 99_000, 1))
            branch.append(await ledger.build(branch[-1], view=view + (branch is left)))
    assert await ledger.validates(left[-1])
    roots = await ledger.finalizes(*right)
    assert roots == await alone.finalizes(*right)
    assert ledger.service.final_height == alone.service.final_height == 3


async def test_final_blocks_delivered_again_change_nothing(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    block = await ledger.build()
    assert len(await ledger.finalizes(block)) == 1
    assert await ledger.finalizes(block) == []
    child = await ledger.build()
    assert len(await ledger.finalizes(block, child)) == 1
    assert ledger.service.final_height == 2


async def test_a_transaction_in_an_undecided_ancestor_is_not_taken_again(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    first = waiting(ledger, "alice", 0, buy(BTC_PERP, 99_000, 1))
    parent = await ledger.build()
    assert await ledger.validates(parent)
    second = waiting(ledger, "alice", 1, buy(BTC_PERP, 99_000, 1))
    child = await ledger.build(parent)
    sibling = await ledger.build(view=9)
    assert (parent.transactions[1:], child.transactions[1:]) == ((first,), (second,))
    assert sibling.transactions[1:] == (first, second)


async def test_the_mempool_is_read_on_the_loop_where_clients_add_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read on the worker thread, it would change under the reader's feet."""
    ledger = a_ledger(tmp_path)
    raw = waiting(ledger, "alice", 0, buy(BTC_PERP, 99_000, 1))
    pick, threads = Mempool.pick, []

    def watched(pool: Mempool, *limits: Any) -> list[bytes]:
        threads.append(threading.current_thread())
        return pick(pool, *limits)

    monkeypatch.setattr(Mempool, "pick", watched)
    block = await ledger.build()
    assert (block.transactions[1:], threads) == ((raw,), [threading.main_thread()])


async def test_without_enough_reports_a_block_is_still_built_and_valid(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    block = await ledger.build(reports=False)
    assert decode_update(block.transactions[0]).reports == ()
    assert block.header.time_ns == ledger.state.clock.time_ns + 1
    assert await ledger.validates(block)


# --- refusals: each with its reason, and the ledger goes on ---


def with_header(block: Block, **changes: Any) -> Block:
    return replace(block, header=replace(block.header, **changes))


def with_transactions(block: Block, *transactions: bytes) -> Block:
    header = replace(block.header, transaction_root=transaction_root(transactions))
    return replace(block, header=header, transactions=transactions)


def with_reports(change: Callable[[OracleUpdate], OracleUpdate]) -> Callable[[Block], Block]:
    def changed(block: Block) -> Block:
        update = change(decode_update(block.transactions[0]))
        return with_transactions(block, encode(update), *block.transactions[1:])

    return changed


def forged_client(block: Block) -> Block:
    signed = decode_own(SignedTransaction, block.transactions[1])
    return with_transactions(block, block.transactions[0], encode(replace(signed, signature=bytes(64))))


def forged_reporter(update: OracleUpdate) -> OracleUpdate:
    first, *rest = update.reports
    return OracleUpdate((replace(first, signature=rest[0].signature), *rest))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda b: with_header(b, parent_state_root=bytes(32)), "wrong_state_root"),
        (lambda b: with_header(b, time_ns=b.header.time_ns + 1), "wrong_block_time"),
        (lambda b: with_header(b, height=2), "wrong_height"),
        (with_transactions, "no_oracle_update"),
        (lambda b: with_transactions(b, b"\xff"), "undecodable_transaction"),
        (lambda b: with_transactions(b, *b.transactions, b"\xff"), "undecodable_transaction"),
        (lambda b: with_transactions(b, *b.transactions, b.transactions[1]), "duplicate_transaction"),
        (with_reports(lambda u: OracleUpdate(u.reports[::-1])), "oracle_order"),
        (with_reports(lambda u: OracleUpdate(u.reports[:2])), "oracle_quorum"),
        (
            with_reports(lambda u: OracleUpdate((*u.reports[:3], replace(u.reports[3], reporter=4)))),
            "oracle_reporter",
        ),
        (with_reports(forged_reporter), "bad_signature"),
        (forged_client, "bad_signature"),
    ],
    ids=[
        *("root", "time", "height", "empty", "bad update", "bad transaction", "duplicate"),
        *("order", "quorum", "reporter", "forged report", "forged client"),
    ],
)
async def test_a_bad_block_is_refused_with_its_reason_and_a_good_one_accepted_after_it(
    tmp_path: Path, spoil: Callable[[Block], Block], reason: str
) -> None:
    ledger = a_ledger(tmp_path)
    waiting(ledger, "alice", 0, buy(BTC_PERP, 99_000, 1))
    good = await ledger.build()
    with structlog.testing.capture_logs() as logs:
        assert await ledger.validates(spoil(good)) is False
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("block_refused", reason)]
    assert await ledger.validates(good) is True
    assert len(await ledger.finalizes(good)) == 1


async def test_a_block_with_stale_reports_is_refused(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    good = await ledger.build()
    old = reports_at(ledger.chain_id, ledger.now_ns - 60 * 10**9, [0])
    stale = with_reports(lambda u: OracleUpdate((*old, *u.reports[1:])))(good)
    with structlog.testing.capture_logs() as logs:
        assert await ledger.validates(stale) is False
    assert logs[0]["reason"] == "oracle_stale"


# --- finality overtakes ---


async def test_questions_about_a_block_that_lost_are_dropped_and_the_ledger_goes_on(tmp_path: Path) -> None:
    """A leader that slept, or a slow validation: finality went another way meanwhile."""
    ledger = a_ledger(tmp_path)
    loser = await ledger.build(view=1)
    winner = await ledger.build(view=2)
    assert await ledger.validates(loser)
    child_of_loser = await ledger.build(loser, view=3)
    assert await ledger.validates(child_of_loser)
    await ledger.finalizes(winner)
    service = ledger.service
    assert await service.build(hash_of(loser.header), 2, ()) is None
    assert await service.build(hash_of(child_of_loser.header), 3, ()) is None
    assert await ledger.validates(loser) is None
    assert await ledger.validates(child_of_loser) is None
    assert await ledger.validates(winner) is None
    await service.execute(hash_of(loser.header))
    await service.execute(hash_of(child_of_loser.header))
    assert ledger.state.root() == service.final_root
    assert len(await ledger.finalizes(await ledger.build())) == 1


async def test_execution_ahead_gives_way_to_the_votes_until_the_block_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.ledger_service.EXECUTION_GRACE_SECONDS", math.inf)
    ledger = a_ledger(tmp_path)
    block = await ledger.build()
    assert await ledger.validates(block)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.service.execute, hash_of(block.header))
        await trio.testing.wait_all_tasks_blocked()
        assert ledger.service.executed_height == 0
        await ledger.service.finalize([block], NOBODYS_PROOF)
    assert (ledger.service.executed_height, ledger.service.final_height) == (1, 1)


async def test_questions_wait_for_blocks_that_consensus_has_decided_and_forgotten(tmp_path: Path) -> None:
    """A catch-up: consensus is many blocks ahead of us, and asks about the child of one that we do not have yet."""
    ahead, behind = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    decided = []
    for _ in range(70):
        decided.append(await ahead.build(reports=False))
        await ahead.finalizes(decided[-1])
    child = await ahead.build()
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await behind.validates(child))
        answers.append(await behind.service.build(hash_of(child.header), 72, ()))

    behind.service.announce_final(70)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        for start in (0, 40):
            await trio.testing.wait_all_tasks_blocked()
            assert answers == []
            await behind.finalizes(*decided[start : start + 40])
    assert answers[0] is True and answers[1] is not None
    assert behind.state.root() == answers[1].parent_state_root


async def test_a_block_that_became_final_while_the_ledger_was_busy_is_waited_for(tmp_path: Path) -> None:
    """After a restart consensus alone holds the blocks of its journal, and forgets what it has delivered."""
    ahead, behind = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    decided = [await ahead.build()]
    for _ in range(2):
        await ahead.validates(decided[-1])
        decided.append(await ahead.build(decided[-1]))
    held = {hash_of(block.header): block for block in decided}
    behind.service.find_block = held.get
    behind.service.adopt(hash_of(decided[2].header), decided[2])
    async with trio.open_nursery() as nursery:
        async with behind.service._lock:
            nursery.start_soon(behind.service.execute, hash_of(decided[2].header))
            await trio.testing.wait_all_tasks_blocked()
            behind.service.announce_final(2)
            held.clear()
        await trio.testing.wait_all_tasks_blocked()
        await behind.finalizes(*decided[:2])
    assert behind.service.executed_height == 3


async def test_a_block_whose_branch_consensus_has_cut_off_is_dropped(tmp_path: Path) -> None:
    ahead, behind = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    lost = [await ahead.build(view=1)]
    for _ in range(2):
        await ahead.validates(lost[-1])
        lost.append(await ahead.build(lost[-1]))
    await behind.finalizes(await behind.build(view=9))
    behind.service.adopt(hash_of(lost[2].header), lost[2])
    await behind.service.execute(hash_of(lost[2].header))
    assert await behind.service.build(hash_of(lost[1].header), 3, ()) is None
    assert behind.service.executed_height == 1


async def test_in_a_catch_up_only_the_newest_blocks_views_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, behind = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    blocks = []
    for _ in range(4):
        blocks.append(await ahead.build())
        await ahead.finalizes(blocks[-1])
    made: list[int] = []

    def noted(block_hash: bytes, result: BlockResult) -> dict[str, bytes]:
        made.append(result.height)
        return views_of(block_hash, result)

    monkeypatch.setattr("node.ledger_service.views_of", noted)
    await behind.finalizes(*blocks)
    assert made == [4]
    assert behind.store.view("margins") == ahead.store.view("margins")


async def test_a_final_block_is_found_by_the_accounts_that_it_changed(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    waiting(ledger, "alice", 0, buy(BTC_PERP, 90_000, 1))
    for _ in range(2):
        await ledger.finalizes(await ledger.build())
    alice, bob = (address_of(a_key(name).public_key) + b"\0" for name in ("alice", "bob"))
    assert [ledger.store.heights_of_account(account) for account in (alice, bob)] == [[1], []]
    assert ledger.store.height_of_view(0, 2) == 2


async def test_a_block_that_nobody_ever_showed_us_is_our_own_mistake(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    with pytest.raises(InvariantViolation, match="unknown block"):
        await ledger.service.build(b"\x07" * 32, 5, ())


async def test_a_final_block_over_another_root_than_ours_stops_the_process(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    block = await ledger.build()
    with pytest.raises(InvariantViolation, match="is not the one that the validators agreed on"):
        await ledger.finalizes(with_header(block, parent_state_root=b"\x01" * 32))
    assert ledger.store.block_at(1) is None


async def test_a_final_block_that_is_not_valid_here_stops_the_process(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    block = await ledger.build()
    with pytest.raises(InvariantViolation, match="agreed on is not valid here: wrong_block_time"):
        await ledger.finalizes(with_header(block, time_ns=block.header.time_ns + 1))
    assert ledger.store.block_at(1) is None


# --- restarts ---


async def test_a_restart_from_the_store_is_at_the_same_root_and_goes_on(tmp_path: Path) -> None:
    ledger, twin = a_ledger(tmp_path / "a"), a_ledger(tmp_path / "b")
    for height in range(1, 4):
        waiting(ledger, "alice", height, sell(BTC_PERP, 100_000, height))
        waiting(ledger, "bob", height, buy(BTC_PERP, 100_000, 1))
        block = await ledger.build()
        await ledger.finalizes(block)
        await twin.finalizes(block)
    undecided = await ledger.build()
    assert await ledger.validates(undecided)
    await ledger.service.execute(hash_of(undecided.header))
    ledger.store.close()
    back = a_ledger(tmp_path / "a")
    assert (back.service.final_height, back.service.final_root) == (3, twin.service.final_root)
    assert await back.validates(undecided)
    assert await back.finalizes(undecided) == await twin.finalizes(undecided)


async def test_a_block_that_only_consensus_kept_over_the_restart_is_found_there(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    parent = await ledger.build()
    assert await ledger.validates(parent)
    child = await ledger.build(parent)
    ledger.store.close()
    back = a_ledger(tmp_path)
    back.service.find_block = {hash_of(parent.header): parent}.get
    assert await back.validates(child)
    assert len(await back.finalizes(parent, child)) == 2


async def test_a_final_block_that_follows_nothing_we_know_stops_the_process(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    block = await ledger.build()
    skipped = a_block(
        ledger.chain_id,
        hash_of(block.header),
        *(3, block.transactions),
        time_ns=block.header.time_ns,
        root=bytes(32),
        view=3,
    )
    with pytest.raises(InvariantViolation):
        await ledger.finalizes(skipped)
    assert ledger.store.tip() is not None and ledger.service.final_height == 0
