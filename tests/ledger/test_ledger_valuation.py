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


def test_lots_that_change_stand_where_they_stood_and_an_instrument_taken_up_or_given_up_finds_its_place() -> (
    None
):
    state, table = a_state(), AccountTable()
    held = {number: dict.fromkeys(range(number % 5), 5) for number in range(8)}

    def follow(**changes: dict[int, int]) -> object:
        """The layout, after some accounts hold something else."""
        for name, lots in changes.items():
            held[int(name[1:])] = lots
        for number, lots in held.items():
            positions = tuple(Position(item, count, 0) for item, count in sorted(lots.items()))
            state.put_account(replace(new_account(bytes([number]) * 20, 0, number), positions=positions))
        assert told(state, table) == looked_up(state)
        return table.portfolios.portfolios(get_prices(state).risk)[1]

    first = follow()
    assert follow(a3={0: 7, 1: 5, 2: -1}, a7={0: 5, 1: 9}) is first
    assert follow(a3={0: 7, 1: 5, 3: -1}) is not first
    second = follow(a4={0: 1})
    assert follow(a4={0: -1}) is second
    assert follow(a0={6: 1}) is not second


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
