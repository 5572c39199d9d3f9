"""Accounts as columns: what follows the state block by block is what a fresh look at it gives."""

from __future__ import annotations

from random import Random

import numpy as np
from msgspec.structs import replace

from ledger.accounts import Position, new_account
from ledger.margin.health import Health
from ledger.prices import get_prices
from ledger.state import State
from ledger.valuation import FEW_ACCOUNTS, AccountTable
from tests.ledger.exchange import CHAIN, a_genesis


def a_state() -> State:
    return State.from_genesis(a_genesis({"alice": 1_000, "bob": 2_000}), CHAIN)


def told(state: State, table: AccountTable) -> list[tuple[object, ...]]:
    """(key, cash, health, positions) of every account as the table has them, in its order."""
    keys, packed, order, health = table.follow(state)
    assert packed == b"".join(owner + bytes((number,)) for owner, number in keys)
    portfolios, _ = table.portfolios.portfolios(get_prices(state).risk)
    rows: list[tuple[object, ...]] = []
    for key, place, code in zip(keys, order.tolist(), health.tolist(), strict=True):
        held = slice(*portfolios.offsets[place : place + 2])
        positions = zip(portfolios.instrument_ids[held], portfolios.lots[held], strict=True)
        rows.append((key, int(portfolios.cash_uusd[place]), code, sorted(np.array(list(positions)).tolist())))
    return rows


def looked_up(state: State) -> list[tuple[object, ...]]:
    return [
        (item.key, item.cash_uusd, item.health, [[held.instrument, held.lots] for held in item.positions])
        for item in state.accounts()
    ]


def write_some(state: State, random: Random, count: int) -> None:
    """Open accounts or change ones that are there."""
    for _ in range(count):
        owner = bytes([random.randrange(30)]) * 20
        held = sorted(random.sample(range(7), random.randint(0, 3)))
        positions = tuple(Position(item, random.randint(1, 9), 0) for item in held)
        account = new_account(owner, random.randrange(6), random.randint(0, 10**9))
        state.put_account(replace(account, health=random.choice(tuple(Health)), positions=positions))


def test_the_columns_follow_every_write_and_every_undo() -> None:
    state, table, random = a_state(), AccountTable(), Random(5)
    for count in (3, 1, 0, 20, FEW_ACCOUNTS * 3, 2, 40):
        state.begin_block()
        write_some(state, random, count)
        assert told(state, table) == looked_up(state)
    while state.open_blocks:
        state.rollback_block()
        assert told(state, table) == looked_up(state)


def test_rows_of_an_earlier_block_do_not_change() -> None:
    state, table, random = a_state(), AccountTable(), Random(6)
    state.begin_block()
    write_some(state, random, 5)
    keys, packed, order, health = table.follow(state)
    before = list(keys), packed, order.tolist(), health.tolist()
    state.begin_block()
    write_some(state, random, 30)
    table.follow(state)
    assert (keys, packed, order.tolist(), health.tolist()) == before
