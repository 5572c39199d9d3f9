"""A book through many blocks of orders, cancels and calls: every lot accounted for, never left crossed."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ledger.matching.book import EMPTY_BOOK
from ledger.matching.call import run_call
from ledger.matching.orders import RestingOrder, next_tick
from ledger.transactions import Side, TimeInForce
from primitives.codec import decode_own, encode
from tests.ledger.matching_builders import an_order, naive_call

TICKS = ((30, 5), (20, 2), (0, 1))
GRID = [next_tick(TICKS, 0)]
while GRID[-1] < 50:
    GRID.append(next_tick(TICKS, GRID[-1]))

shapes = st.tuples(
    st.sampled_from(Side),
    st.integers(1, 9),
    st.sampled_from(GRID),
    st.sampled_from("abcd"),
    st.sampled_from([TimeInForce.GTC, TimeInForce.GTC, TimeInForce.IOC]),
)


class BookMachine(RuleBasedStateMachine):
    """Beside the book runs the obvious model: a dict of what rests, and the call that tries every price."""

    def __init__(self) -> None:
        super().__init__()
        self.book = EMPTY_BOOK
        self.model: dict[int, RestingOrder] = {}
        self.left: dict[int, int] = {}
        self.height = self.next_id = 0
        self.holdings: dict[bytes, int] = {}

    @rule(block=st.lists(shapes, max_size=8), mark=st.integers(0, 60))
    def apply_block(self, block: list[tuple[Side, int, int, str, TimeInForce]], mark: int) -> None:
        self.height += 1
        incoming = [self.new_order(*shape) for shape in block]
        everyone = {order.order_id: order for order in [*self.model.values(), *incoming]}
        standing = [an_order_left(order, self.left[order.order_id]) for order in everyone.values()]
        clearing, filled, removed = naive_call(standing, mark, GRID)
        result = run_call(self.book, incoming, mark, TICKS)
        assert result.clearing == clearing
        for buy, sell, size in result.matches:
            self.holdings[buy.owner] = self.holdings.get(buy.owner, 0) + size
            self.holdings[sell.owner] = self.holdings.get(sell.owner, 0) - size
        for order_id, size in filled.items():
            self.left[order_id] -= size
        self.model = {
            order_id: order
            for order_id, order in everyone.items()
            if self.left[order_id] and order_id not in removed and order.time_in_force == TimeInForce.GTC
        }
        self.book = result.book

    def new_order(
        self, side: Side, size: int, price: int, account: str, time_in_force: TimeInForce
    ) -> RestingOrder:
        self.next_id += 1
        self.left[self.next_id] = size
        return an_order(
            self.next_id,
            side,
            size,
            price,
            height=self.height,
            account=account,
            time_in_force=time_in_force,
        )

    @rule(chosen=st.randoms(use_true_random=False))
    def cancel_one(self, chosen) -> None:
        if self.model:
            order_id = chosen.choice(sorted(self.model))
            resting = self.book.find(order_id)
            assert resting is not None
            self.book = self.book.without(resting)
            del self.model[order_id]

    @rule(account=st.sampled_from("abcd"))
    def cancel_all_of_an_account(self, account: str) -> None:
        ids = {i for i, order in self.model.items() if order.owner.startswith(account.encode())}
        self.book = self.book.without_ids(ids)
        self.model = {i: order for i, order in self.model.items() if i not in ids}

    @rule()
    def restart_from_the_stored_bytes(self) -> None:
        self.book = decode_own(type(self.book), encode(self.book))

    @invariant()
    def the_book_holds_what_the_model_holds_in_priority_order(self) -> None:
        resting = sorted(
            (an_order_left(order, self.left[i]) for i, order in self.model.items()),
            key=lambda order: order.priority,
        )
        assert list(self.book.bids) == [order for order in resting if order.side == Side.BUY]
        assert list(self.book.asks) == [order for order in resting if order.side == Side.SELL]

    @invariant()
    def the_book_is_not_crossed(self) -> None:
        assert not self.book.is_crossed

    @invariant()
    def holdings_sum_to_zero(self) -> None:
        assert sum(self.holdings.values()) == 0


def an_order_left(order: RestingOrder, left_lots: int) -> RestingOrder:
    return an_order(
        order.order_id,
        Side(order.side),
        left_lots,
        order.price_uusd,
        height=order.placed_height,
        account=order.owner.decode().rstrip("."),
        time_in_force=TimeInForce(order.time_in_force),
    )


BookMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBookMachine = BookMachine.TestCase
