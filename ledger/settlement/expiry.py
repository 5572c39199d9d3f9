"""The settlement average of an expiry, and what its options pay. Pure.

The settlement price is the mean of the index over 450 four-second buckets before the expiry. A bucket's value
is the first index agreed inside it; an empty bucket repeats the one before, at most 3 in a row, and is
missing beyond that. With more than a tenth missing the average goes on after the expiry until 405 buckets are
there. Source: market.md 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.breakers.state import drift_key
from ledger.events import ExpirySettled
from ledger.instruments import Instrument, Kind
from ledger.listing import Listing
from ledger.reasons import CancelReason
from ledger.state_keys import listing_key, oracle_key, window_key
from primitives.codec import U32, U63, Wire
from primitives.errors import ensure

if TYPE_CHECKING:
    from ledger.state import State
    from ledger.workspace import Workspace

VALID_PPM_MIN = 900_000
"""Share of the buckets that must be there before the price is final."""


class SettlementWindow(Wire):
    """An average under way: `valid` buckets add up to `sum_uusd`; `next_bucket` is still undecided."""

    sum_uusd: U63
    valid: U32
    next_bucket: U32
    last_index_uusd: U63


NO_BUCKETS = SettlementWindow(0, 0, 0, 0)


def buckets_total(window_ns: int, bucket_ns: int) -> int:
    """Buckets of a full window (450)."""
    return window_ns // bucket_ns


def buckets_needed(total: int) -> int:
    """Buckets without which there is no settlement price (405 of 450), rounded up."""
    return -(-total * VALID_PPM_MIN // 1_000_000)


def observe(
    window: SettlementWindow, bucket: int, index_uusd: int, total: int, carry_max: int
) -> SettlementWindow:
    """The window after an index agreed inside `bucket`, from 0; `total` and above are after the expiry.

    Buckets skipped since the last one repeat its value, at most `carry_max` of them. Beyond the expiry a
    bucket counts only while the needed share is missing, and none is carried into it.
    """
    if bucket < window.next_bucket:
        return window
    needed = buckets_needed(total)
    skipped = min(bucket, total) - min(window.next_bucket, total)
    carried = min(carry_max, skipped) if window.valid else 0
    total_sum = window.sum_uusd + carried * window.last_index_uusd
    valid = window.valid + carried
    if bucket < total or valid < needed:
        total_sum, valid = total_sum + index_uusd, valid + 1
    return SettlementWindow(total_sum, valid, bucket + 1, index_uusd)


def settlement_price(window: SettlementWindow, total: int) -> int | None:
    """The final price, half a micro-dollar rounded up, or None while the average is not complete.

    Complete: the expiry has passed (an index at or after it was seen) and the needed share of buckets is
    there.
    """
    if window.next_bucket <= total or window.valid < buckets_needed(total):
        return None
    return (window.sum_uusd + window.valid // 2) // window.valid


def payoff_uusd(is_call: bool, strike_uusd: int, price_uusd: int) -> int:
    """What one whole contract pays at settlement."""
    return max(0, price_uusd - strike_uusd if is_call else strike_uusd - price_uusd)


def exercise(lots: int, payoff: int, lots_per_contract: int) -> int:
    """Cash change of a holder (lots > 0, rounded down) or a writer (lots < 0, rounded against it)."""
    return lots * payoff // lots_per_contract


def unsettled_expiries(state: State) -> list[tuple[int, int]]:
    """(underlying, expiry) of every expiry not settled yet: those the oracle keeps a slice for."""
    return [
        (parameters.underlying, agreed.slice.expiry_ns)
        for parameters in state.genesis.underlyings
        for agreed in state.oracle(parameters.underlying).slices
    ]


def settle_expiries(workspace: Workspace, *, has_update: bool) -> None:
    """Bring every average up to the block's time; close expired books; pay what is complete."""
    state, time_ns = workspace.state, workspace.time_ns
    parameters = state.parameters
    total = buckets_total(parameters.settlement_window_ns, parameters.settlement_bucket_ns)
    for underlying, expiry_ns in unsettled_expiries(state):
        start_ns = expiry_ns - parameters.settlement_window_ns
        if time_ns < start_ns:
            continue
        options = _options_of(state, underlying, expiry_ns)
        if time_ns >= expiry_ns:
            _close_books(workspace, options)
        if not has_update:
            continue
        window = observe(
            state.window(underlying, expiry_ns) or NO_BUCKETS,
            (time_ns - start_ns) // parameters.settlement_bucket_ns,
            state.oracle(underlying).index_uusd,
            total,
            parameters.settlement_carry_buckets_max,
        )
        price_uusd = settlement_price(window, total)
        state.put(window_key(underlying, expiry_ns), window if price_uusd is None else None)
        if price_uusd is not None:
            _settle(workspace, underlying, expiry_ns, options, price_uusd)


def _options_of(state: State, underlying: int, expiry_ns: int) -> dict[int, Instrument]:
    return {
        item.id: item
        for item in state.instruments.values()
        if item.underlying == underlying and item.kind != Kind.PERPETUAL and item.expiry_ns == expiry_ns
    }


def _close_books(workspace: Workspace, options: dict[int, Instrument]) -> None:
    for instrument_id in sorted(options):
        book = workspace.book(instrument_id)
        if len(book):
            ids = [order.order_id for order in (*book.bids, *book.asks)]
            workspace.cancel_resting(instrument_id, ids, CancelReason.EXPIRED)


def _settle(
    workspace: Workspace, underlying: int, expiry_ns: int, options: dict[int, Instrument], price_uusd: int
) -> None:
    """Exercise or let lapse every option of the expiry: exactly zero-sum, the roundings go to the fund."""
    state = workspace.state
    count = paid_uusd = change_sum = 0
    for holder in state.accounts():
        held = [item for item in holder.positions if item.instrument in options]
        if not held:
            continue
        account = workspace.existing(holder.key)
        for position in held:
            option = options[position.instrument]
            payoff = payoff_uusd(option.kind == Kind.CALL, option.strike_uusd, price_uusd)
            change = exercise(position.lots, payoff, option.lots_per_contract)
            workspace.close_position(account, option.id)
            workspace.add_cash(account, change)
            change_sum += change
            paid_uusd += max(0, change)
            count += 1
    ensure(change_sum <= 0, "writers pay at least what holders get")
    workspace.supply["fund_uusd"] -= change_sum
    for option in options.values():
        state.put(listing_key(option.id), Listing(option, True, price_uusd))
    oracle = state.oracle(underlying)
    left = tuple(item for item in oracle.slices if item.slice.expiry_ns != expiry_ns)
    state.put(oracle_key(underlying), replace(oracle, slices=left))
    if drift_key(underlying, expiry_ns) in state.leaves.values:
        state.put(drift_key(underlying, expiry_ns), None)
    workspace.events.append(ExpirySettled(underlying, expiry_ns, price_uusd, count, paid_uusd))
