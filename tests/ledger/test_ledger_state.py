"""The state: undo, restore, proofs, and the same root everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ledger.margin.requirements import compute_margin
from ledger.queries import get_account_proof
from ledger.state import LAYERS_MAX, State
from ledger.state_keys import account_key
from ledger.state_tree import StateTree, verify_proof
from ledger.transactions import CancelAll, Deposit
from ledger.valuation import positions_of
from primitives.amounts import USD
from primitives.errors import InvariantViolation
from tests.ledger.exchange import BTC_PERP, CALL_110, CHAIN, Exchange, buy, sell


def some_history(exchange: Exchange, blocks: int) -> list[bytes]:
    """Trades, cancels, deposits and falling prices; the root after each block."""
    roots = []
    for number in range(blocks):
        price = 100_000 - 500 * number
        exchange.btc_usd = price
        exchange.does("alice", CancelAll(None), buy(BTC_PERP, price, 5 + number), sell(CALL_110, 2_400, 2))
        exchange.does("bob", sell(BTC_PERP, price, 3), buy(CALL_110, 2_400, number + 1))
        exchange.does("custodian", Deposit(*exchange.key(f"new {number}"), 10 * USD))
        roots.append(exchange.block().root)
    return roots


def an_exchange() -> Exchange:
    return Exchange(alice=100_000, bob=100_000)


def test_rolling_blocks_back_restores_every_root_on_the_way() -> None:
    exchange = an_exchange()
    genesis = exchange.state.root()
    roots = some_history(exchange, 6)
    walked = []
    for _ in range(6):
        walked.append(exchange.state.root())
        exchange.state.rollback_block()
    assert walked == roots[::-1]
    assert exchange.state.root() == genesis
    assert exchange.state.all_leaves() == State.from_genesis(exchange.genesis, CHAIN).all_leaves()


def test_a_block_after_a_rollback_is_the_same_as_without_the_detour() -> None:
    straight, detour = an_exchange(), an_exchange()
    some_history(straight, 2)
    some_history(detour, 2)
    detour.does("alice", CancelAll(None), sell(BTC_PERP, 99_000, 40))
    detour.does("bob", buy(BTC_PERP, 99_500, 40))
    detour.does("custodian", Deposit(*detour.key("gone again"), 10 * USD))
    detour.block(9)
    detour.block(9)
    detour.state.rollback_block()
    detour.state.rollback_block()
    straight.does("alice", CancelAll(None))
    straight.does("bob", sell(BTC_PERP, 99_000, 1))
    content = straight.transactions()
    assert detour.apply(content).root == straight.apply(content).root


def test_final_blocks_can_no_longer_be_undone_and_later_ones_still_can() -> None:
    exchange = an_exchange()
    roots = some_history(exchange, 3)
    exchange.state.commit_oldest()
    exchange.state.commit_oldest()
    assert exchange.state.open_blocks == 1
    exchange.state.rollback_block()
    assert exchange.state.root() == roots[1]


def test_a_restored_state_has_the_same_root_and_executes_the_same() -> None:
    exchange = an_exchange()
    roots = some_history(exchange, 4)
    restored = Exchange().start(exchange.genesis)
    restored.state = State.from_leaves(CHAIN, exchange.genesis, exchange.state.all_leaves())
    assert restored.state.root() == roots[-1]
    exchange.does("alice", CancelAll(None), sell(BTC_PERP, 98_000, 3))
    exchange.does("bob", buy(BTC_PERP, 98_500, 2))
    content = exchange.transactions()
    assert restored.apply(content).root == exchange.apply(content).root


def test_the_changed_leaves_of_each_block_add_up_to_the_state() -> None:
    exchange = an_exchange()
    leaves: dict[bytes, bytes] = dict(exchange.state.all_leaves())
    for _ in range(4):
        some_history(exchange, 1)
        for key, value in exchange.state.changed_leaves():
            if value is None:
                leaves.pop(key, None)
            else:
                leaves[key] = value
    assert sorted(leaves.items()) == exchange.state.all_leaves()


def test_the_root_is_that_of_a_tree_built_from_scratch() -> None:
    exchange = an_exchange()
    some_history(exchange, 4)
    assert StateTree().update(exchange.state.all_leaves()).root == exchange.state.root()


def test_every_account_is_margined_in_every_block_as_if_it_were_alone() -> None:
    exchange = an_exchange()
    some_history(exchange, 4)
    content = exchange.transactions()
    before = {account.key: account for account in exchange.state.accounts()}
    valuation = exchange.apply(content).valuation
    assert valuation.table.keys == sorted(before)
    for place, key in zip(valuation.table.order.tolist(), valuation.table.keys, strict=True):
        alone = compute_margin(valuation.risk, before[key].cash_uusd, positions_of(before[key]))
        assert alone.im_excess_uusd == np.take(valuation.margins.im_excess_uusd, place)
        assert alone.mm_excess_uusd == np.take(valuation.margins.mm_excess_uusd, place)


def test_an_account_is_proved_present_and_a_stranger_absent() -> None:
    exchange = an_exchange()
    some_history(exchange, 2)
    for name in ("alice", "nobody"):
        proven = get_account_proof(exchange.state, exchange.key(name))
        assert (proven.value is None) == (name == "nobody")
        verify_proof(exchange.state.root(), account_key(exchange.key(name)), proven.value, proven.proof)


def test_more_open_blocks_than_consensus_ever_has_stop_the_process() -> None:
    state = an_exchange().state
    for _ in range(LAYERS_MAX):
        state.begin_block()
    with pytest.raises(InvariantViolation):
        state.begin_block()


def test_the_root_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from tests.ledger.test_ledger_state import an_exchange, some_history;"
        "print(some_history(an_exchange(), 3)[-1].hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "4711")
    }
    assert outputs == {some_history(an_exchange(), 3)[-1].hex() + "\n"}
