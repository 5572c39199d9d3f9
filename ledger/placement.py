"""Which orders of a batch may take part in this block's call, each refusal with its reason. Pure.

Everything but margin is judged order by order. Margin is judged for the whole batch at once, with the worse
of all buys and all sells filled; if that does not hold, the longest prefix found by bisection is taken and
the rest refused, so that a batch that is too large costs a few margin computations, not one for each order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ledger.admission import check_order_shape
from ledger.calls import reducible_lots
from ledger.events import ActionRejected, OrderAccepted
from ledger.instruments import Instrument
from ledger.margin.health import Health
from ledger.margin.portfolio import ACCOUNT_LOTS_MAX
from ledger.margin.requirements import OpenOrder
from ledger.matching.orders import RestingOrder
from ledger.reasons import LedgerReason
from ledger.transactions import PlaceOrder, Side
from ledger.valuation import Valuation
from ledger.workspace import OpenAccount, Workspace
from primitives.errors import ProtocolViolation

POST_ONLY_CONFIDENCE_PPM = 200_000
"""At or below this confidence only post-only and reduce-only orders are taken (market.md section 2)."""


class _Candidate(NamedTuple):
    """An order that only margin can still refuse."""

    place: int
    """In the transaction's actions, from 0."""
    action: PlaceOrder


class _Open:
    """What the account has open, while a batch adds to it."""

    def __init__(self, workspace: Workspace, account: OpenAccount) -> None:
        orders = [(account.orders[key], workspace.order(key)) for key in sorted(account.orders)]
        self.labels = {order.label for _, order in orders} - {0}
        self.count = len(orders)
        self.lots = sum(order.left_lots for _, order in orders)
        self.lots += sum(abs(lots) for lots, _ in account.positions.values())
        self.instruments = set(account.positions) | {instrument for instrument, _ in orders}
        self.new: dict[int, int] = {}
        """Orders of this batch by instrument that have not entered yet."""
        self.reducing: dict[tuple[int, int], int] = {}
        for instrument, order in orders:
            if order.reduce_only:
                key = instrument, order.side
                self.reducing[key] = self.reducing.get(key, 0) + order.left_lots
        self.margined = [
            OpenOrder(instrument, _signed(order.side, order.left_lots), order.price_uusd)
            for instrument, order in orders
            if not order.reduce_only
        ]

    def add(self, action: PlaceOrder) -> None:
        """Count one more order."""
        self.labels.add(action.label)
        self.labels.discard(0)
        self.count += 1
        self.lots += action.size_lots
        self.instruments.add(action.instrument)
        self.new[action.instrument] = self.new.get(action.instrument, 0) + 1
        if action.reduce_only:
            key = action.instrument, action.side
            self.reducing[key] = self.reducing.get(key, 0) + action.size_lots


def _signed(side: int, lots: int) -> int:
    return lots if side == Side.BUY else -lots


class OrderDesk:
    """Takes the orders of one block, batch by batch."""

    def __init__(self, workspace: Workspace, valuation: Valuation) -> None:
        self._workspace = workspace
        self._valuation = valuation
        self._parameters = workspace.state.parameters

    def place(
        self, transaction_id: bytes, account: OpenAccount, orders: Sequence[tuple[int, PlaceOrder]]
    ) -> None:
        """Enter a batch's orders, in its order, into this block's call; refusals become events."""
        opened = _Open(self._workspace, account)
        margined = list(opened.margined)
        candidates: list[_Candidate] = []
        for index, action in orders:
            try:
                self._check(account, opened, action)
            except ProtocolViolation as violation:
                self._refuse(transaction_id, index, violation)
                continue
            opened.add(action)
            candidates.append(_Candidate(index, action))
        carried = self._carried(
            account, margined, [item for item in candidates if not item.action.reduce_only]
        )
        for item in candidates:
            if item.action.reduce_only or item.place in carried:
                self._enter(transaction_id, account, item)
            else:
                self._refuse(transaction_id, item.place, _INSUFFICIENT)

    def check_withdrawal(self, account: OpenAccount, amount_uusd: int) -> None:
        """Raises ProtocolViolation: ACCOUNT_IN_LIQUIDATION, INSUFFICIENT_MARGIN."""
        if account.health == Health.LIQUIDATION:
            raise _IN_LIQUIDATION
        orders = _Open(self._workspace, account).margined
        excess = self._valuation.excess_with_orders_uusd(account, orders, account.cash_uusd - amount_uusd)
        if excess < 0 or account.cash_uusd < amount_uusd:
            raise ProtocolViolation(
                LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold after it"
            )

    # --- order by order ---

    def _check(self, account: OpenAccount, opened: _Open, action: PlaceOrder) -> None:
        """Everything but margin. Raises ProtocolViolation with the reason."""
        instrument = check_order_shape(self._workspace.state, action, self._workspace.time_ns)
        self._check_standing(account, instrument, action)
        self._check_price(instrument, action)
        self._check_limits(opened, action)
        if action.reduce_only:
            reducing = opened.reducing.get((action.instrument, action.side), 0) + action.size_lots
            if reducing > reducible_lots(account.lots(action.instrument), action.side):
                raise ProtocolViolation(
                    LedgerReason.REDUCE_ONLY_WOULD_INCREASE,
                    "larger than what there is to reduce on this side",
                )

    def _check_standing(self, account: OpenAccount, instrument: Instrument, action: PlaceOrder) -> None:
        if account.health == Health.LIQUIDATION:
            raise _IN_LIQUIDATION
        if account.health == Health.REDUCE_ONLY and not action.reduce_only:
            raise ProtocolViolation(
                LedgerReason.ACCOUNT_MUST_REDUCE,
                "below the initial requirement only reduce-only orders are taken",
            )
        is_gentle = action.post_only or action.reduce_only
        if not is_gentle and self._valuation.confidence_ppm(instrument) <= POST_ONLY_CONFIDENCE_PPM:
            raise ProtocolViolation(
                LedgerReason.ONLY_POST_ONLY,
                f"the price of {instrument.name} is too uncertain for taking orders",
            )

    def _check_price(self, instrument: Instrument, action: PlaceOrder) -> None:
        mark_uusd, band_uusd = self._valuation.mark_uusd(instrument.id), self._valuation.band_uusd(instrument)
        over_uusd = _signed(action.side, action.price_uusd - mark_uusd)
        if over_uusd > band_uusd:
            raise ProtocolViolation(
                LedgerReason.PRICE_OUTSIDE_BAND,
                f"{action.price_uusd} is more than {band_uusd} past the mark {mark_uusd}",
            )
        if action.post_only and self._workspace.book(instrument.id).would_cross(
            action.side, action.price_uusd
        ):
            raise ProtocolViolation(
                LedgerReason.POST_ONLY_WOULD_CROSS, "it would trade with the resting book"
            )

    def _check_limits(self, opened: _Open, action: PlaceOrder) -> None:
        parameters, workspace = self._parameters, self._workspace
        if action.label in opened.labels:
            raise ProtocolViolation(LedgerReason.DUPLICATE_LABEL, f"label {action.label} is on an open order")
        if opened.count >= parameters.open_orders_max:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_ORDERS,
                f"an account has at most {parameters.open_orders_max} open orders",
            )
        if opened.lots + action.size_lots > ACCOUNT_LOTS_MAX:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_LOTS, f"an account holds and orders at most {ACCOUNT_LOTS_MAX} lots"
            )
        if len(opened.instruments | {action.instrument}) > parameters.positions_max:
            raise ProtocolViolation(
                LedgerReason.TOO_MANY_POSITIONS,
                f"an account is in at most {parameters.positions_max} instruments",
            )
        resting = len(workspace.book(action.instrument)) + len(workspace.incoming.get(action.instrument, ()))
        if resting + opened.new.get(action.instrument, 0) >= parameters.orders_per_book_max:
            raise ProtocolViolation(LedgerReason.BOOK_FULL, "the book holds no more orders")

    # --- margin ---

    def _carried(
        self, account: OpenAccount, margined: list[OpenOrder], candidates: Sequence[_Candidate]
    ) -> set[int]:
        """Indices of the longest prefix (by bisection) with which the initial requirement holds."""
        new = [
            OpenOrder(
                item.action.instrument,
                _signed(item.action.side, item.action.size_lots),
                item.action.price_uusd,
            )
            for item in candidates
        ]

        def holds(count: int) -> bool:
            orders = margined + new[:count]
            return self._valuation.excess_with_orders_uusd(account, orders, account.cash_uusd) >= 0

        good, bad = 0, len(new) + 1
        probe = len(new)
        while good + 1 < bad:
            good, bad = (probe, bad) if holds(probe) else (good, probe)
            probe = (good + bad) // 2
        return {item.place for item in candidates[:good]}

    # --- the outcome ---

    def _enter(self, transaction_id: bytes, account: OpenAccount, item: _Candidate) -> None:
        workspace, action = self._workspace, item.action
        order = RestingOrder(
            workspace.next_order_id,
            *account.key,
            action.side,
            action.price_uusd,
            action.size_lots,
            workspace.height,
            action.label,
            action.time_in_force,
            action.post_only,
            action.reduce_only,
        )
        workspace.add_order(account, action.instrument, order)
        workspace.events.append(
            OrderAccepted(
                transaction_id,
                item.place,
                order.order_id,
                *account.key,
                action.instrument,
                action.side,
                action.price_uusd,
                action.size_lots,
                action.label,
            )
        )

    def _refuse(self, transaction_id: bytes, index: int, violation: ProtocolViolation) -> None:
        self._workspace.events.append(
            ActionRejected(transaction_id, index, violation.reason.value, violation.detail)
        )


_INSUFFICIENT = ProtocolViolation(
    LedgerReason.INSUFFICIENT_MARGIN, "the initial requirement would not hold with this order filled"
)
_IN_LIQUIDATION = ProtocolViolation(
    LedgerReason.ACCOUNT_IN_LIQUIDATION, "the account is below its maintenance requirement"
)
