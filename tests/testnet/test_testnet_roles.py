"""The cast of traders, with a session that only writes down what each would send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from ledger.admission import check_order_shape
from ledger.instruments import Kind
from ledger.state import State
from ledger.transactions import CancelAll, PlaceOrder, Side, TimeInForce
from node.genesis import chain_id_of
from node.oracle.quotes import ForwardQuote
from primitives.amounts import NS, USD
from primitives.errors import ProtocolViolation
from testnet.market.source import random_stream
from testnet.traders.__main__ import _pause_of, _tick
from testnet.traders.board import Board, Opinion
from testnet.traders.config import Role, TradersConfig, TraderSpec
from testnet.traders.roles import EXPIRING_NS, QUOTES_PER_MAKER, ROLES, Stage
from tests.node.network_of_nodes import BTC_PERP, INSTRUMENTS, TIME_NS, a_genesis

GENESIS = a_genesis()
STATE = State.from_genesis(GENESIS.ledger, chain_id_of(GENESIS))


class Notebook:
    """Stands where the Session would."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.positions: dict[int, int] = {}
        self.rejections = 0

    async def submit(self, actions: Sequence[Any]) -> bool:
        self.sent.append(list(actions))
        return True

    @property
    def orders(self) -> list[PlaceOrder]:
        return [item for batch in self.sent for item in batch if isinstance(item, PlaceOrder)]


def a_stage(now_ns: int = TIME_NS) -> tuple[Stage, Notebook]:
    """A board with an opinion of every instrument."""
    board = Board({}, INSTRUMENTS, 1.0, lambda: now_ns)
    board.opinions = {
        item.id: Opinion(100_000 * USD, 10 * USD, 1.0, 0.0)
        if item.kind == Kind.PERPETUAL
        else Opinion(2_000 * USD, 20 * USD, 0.5 if item.kind == Kind.CALL else -0.5, 0.01)
        for item in INSTRUMENTS
    }
    notebook = Notebook()
    return Stage(notebook, board, random_stream(1, "role"), _tick, 1.0), notebook  # type: ignore[arg-type]


def test_a_board_takes_what_is_listed_and_forgets_what_has_expired() -> None:
    near = min(item.expiry_ns for item in INSTRUMENTS if item.expiry_ns)
    now_ns = [TIME_NS]
    board = Board({"north": "unix:/nowhere"}, INSTRUMENTS, 1.0, lambda: now_ns[0])
    new = replace(INSTRUMENTS[2], id=900, expiry_ns=near + 90 * 86_400 * NS)
    now_ns[0] = near
    board.list_instruments([new])
    assert board.instruments == {
        item.id: item for item in (*INSTRUMENTS, new) if not item.expiry_ns or item.expiry_ns > near
    }
    quote = ForwardQuote(new.underlying, new.expiry_ns, near, 100_000 * USD, 100_000 * USD)
    board._clients[0].book.add(quote, near)
    with pytest.raises(ProtocolViolation, match="BTC expiring"):
        board._clients[0].book.add(replace(quote, expiry_ns=near + 1), near)


async def play(role: Role, stage: Stage, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await ROLES[role](stage)


@pytest.mark.parametrize("role", list(Role))
async def test_every_order_of_every_role_is_one_that_the_ledger_would_look_at(
    role: Role, autojump_clock: MockClock
) -> None:
    stage, notebook = a_stage()
    stage.session.positions.update({INSTRUMENTS[2].id: 30})
    await play(role, stage, 60)
    assert len(notebook.orders) >= 20
    for order in notebook.orders:
        check_order_shape(STATE, order, TIME_NS)
        assert 0 < order.size_lots <= 200
    assert max(len(batch) for batch in notebook.sent) <= 256


async def test_a_maker_replaces_two_sided_post_only_quotes_and_comes_round_to_everything(
    autojump_clock: MockClock,
) -> None:
    stage, notebook = a_stage()
    await play(Role.MAKER, stage, 5.5)
    first = notebook.sent[0]
    assert [type(action) for action in first] == [CancelAll, PlaceOrder, PlaceOrder] * QUOTES_PER_MAKER
    for cancel, bid, ask in zip(first[::3], first[1::3], first[2::3], strict=True):
        assert cancel.instrument == bid.instrument == ask.instrument
        assert (bid.side, ask.side, bid.post_only, ask.post_only) == (Side.BUY, Side.SELL, True, True)
        assert bid.price_uusd < ask.price_uusd
    assert {order.instrument for order in notebook.orders} == {item.id for item in INSTRUMENTS}


async def test_a_maker_leans_against_its_inventory(autojump_clock: MockClock) -> None:
    async def mean_price(position: int) -> float:
        stage, notebook = a_stage()
        stage.session.positions[BTC_PERP] = position
        await play(Role.MAKER, stage, 0.5)
        prices = [order.price_uusd for order in notebook.orders if order.instrument == BTC_PERP]
        return sum(prices) / len(prices)

    assert await mean_price(1_000) < await mean_price(0) < await mean_price(-1_000)


async def test_a_hedger_sells_the_delta_that_it_holds(autojump_clock: MockClock) -> None:
    stage, notebook = a_stage()
    call = next(item for item in INSTRUMENTS if item.kind == Kind.CALL and item.underlying == 0)
    stage.session.positions[call.id] = 30
    await play(Role.HEDGER, stage, 0.5)
    hedges = [order for order in notebook.orders if order.instrument == BTC_PERP]
    assert [(order.side, order.size_lots, order.time_in_force) for order in hedges] == [
        (Side.SELL, 15, TimeInForce.IOC)
    ]


async def test_a_gambler_buys_less_when_it_is_refused_and_never_sells(autojump_clock: MockClock) -> None:
    stage, notebook = a_stage()
    submit = notebook.submit

    async def refused(actions: Sequence[Any]) -> bool:
        notebook.rejections += 1
        return await submit(actions)

    notebook.submit = refused  # type: ignore[method-assign]
    await play(Role.GAMBLER, stage, 60)
    assert [order.size_lots for order in notebook.orders] == [64, 32, 16, 8, 4, 2, 1]
    assert {(order.side, order.instrument) for order in notebook.orders} == {(Side.BUY, BTC_PERP)}


@pytest.mark.parametrize("role", [Role.MAKER, Role.TAKER, Role.HEDGER])
async def test_nobody_orders_what_is_about_to_expire(role: Role, autojump_clock: MockClock) -> None:
    first = min(item.expiry_ns for item in INSTRUMENTS if item.expiry_ns)
    stage, notebook = a_stage(first - EXPIRING_NS)
    stage.session.positions[INSTRUMENTS[2].id] = 30
    await play(role, stage, 30)
    by_id = {item.id: item for item in INSTRUMENTS}
    assert notebook.orders
    assert first not in {by_id[order.instrument].expiry_ns for order in notebook.orders}


@pytest.mark.parametrize("role", list(Role))
async def test_without_opinions_nobody_trades(role: Role, autojump_clock: MockClock) -> None:
    stage, notebook = a_stage()
    stage.board.opinions = {}
    await play(role, stage, 10)
    assert notebook.sent == []


@pytest.mark.parametrize("makers", [1, 2, 5])
def test_makers_together_send_about_the_wanted_orders_a_second(makers: int) -> None:
    specs = tuple(TraderSpec(f"m{number}", Role.MAKER, "00" * 32, 0) for number in range(makers))
    config = TradersConfig((), (), {}, specs, 1, 60.0, 0, 0, 50.0, "")
    assert makers * 2 * QUOTES_PER_MAKER / _pause_of(Role.MAKER, config) == pytest.approx(50.0)
