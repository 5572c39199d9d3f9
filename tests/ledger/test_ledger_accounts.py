"""One sub-account: its nonce window and the exact cost of perpetual positions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.accounts import nonce_bits_of, nonce_bits_to_int, trade_perpetual, use_nonce
from ledger.reasons import LedgerReason
from primitives.errors import ProtocolViolation


def test_nonces_of_the_window_are_taken_in_any_order_and_once() -> None:
    floor, used = 0, 0
    for nonce in (5, 0, 99, 1):
        floor, used = use_nonce(floor, used, nonce, 100)
    assert (floor, used) == (0, 1 << 99 | 1 << 5 | 0b11)
    with pytest.raises(ProtocolViolation) as refused:
        use_nonce(floor, used, 5, 100)
    assert refused.value.reason is LedgerReason.BAD_NONCE


def test_a_nonce_above_the_window_moves_it_up() -> None:
    assert use_nonce(0, 0b1, 150, 100) == (51, 1 << 99)


@pytest.mark.parametrize("nonce", [9, 210, 10**12])
def test_a_nonce_below_or_far_above_the_window_is_refused(nonce: int) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        use_nonce(10, 0, nonce, 100)
    assert refused.value.reason is LedgerReason.BAD_NONCE


@given(st.lists(st.integers(0, 400), max_size=60))
def test_no_nonce_is_ever_accepted_twice(nonces: list[int]) -> None:
    floor, used, accepted = 0, 0, []
    for nonce in nonces:
        try:
            floor, used = use_nonce(floor, used, nonce, 100)
        except ProtocolViolation:
            continue
        accepted.append(nonce)
        assert nonce_bits_to_int(nonce_bits_of(used)) == used < 1 << 100
    assert len(set(accepted)) == len(accepted)


def test_opening_a_perpetual_position_costs_its_value_and_moves_no_cash() -> None:
    assert trade_perpetual(0, 0, 10, 5_000) == (10, 5_000, 0)


def test_closing_half_realises_half_of_the_profit() -> None:
    assert trade_perpetual(10, 5_000, -5, -3_000) == (5, 2_500, 500)


def test_turning_a_position_over_realises_all_and_opens_the_rest_at_the_new_price() -> None:
    assert trade_perpetual(10, 5_000, -15, -9_000) == (-5, -3_000, 1_000)


LOTS = st.integers(-1_000, 1_000).filter(bool)


@given(LOTS, LOTS, st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_trade_changes_equity_by_mark_less_price_and_nothing_else(
    lots: int, traded: int, old_price: int, price: int, mark: int
) -> None:
    cost = lots * old_price + 1  # A cost no price divides: what rounding left.
    after_lots, after_cost, cash = trade_perpetual(lots, cost, traded, traded * price)
    before = lots * mark - cost
    assert after_lots * mark - after_cost + cash == before + traded * (mark - price)
    assert after_lots != 0 or after_cost == 0
    assert after_cost - cost - cash == traded * price
