"""The state as leaves, every one made anew. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.accounts import Account, Position
from ledger.accounts import OpenOrder as OpenOrderLeaf
from ledger.listing import Listing
from ledger.matching.book import Book
from ledger.matching.orders import RestingOrder
from ledger.settlement.state import (
    KEY_EXPOSURE,
    KEY_SCHEDULE,
    Schedule,
    funding_key,
    liquidation_key,
)
from ledger.state import Clock, Supply, Totals
from ledger.state_keys import (
    KEY_CLOCK,
    KEY_MARKS,
    KEY_SUPPLY,
    KEY_TOTALS,
    account_key,
    book_key,
    listing_key,
    oracle_key,
    reporter_key,
    window_key,
)
from primitives.codec import encode
from tests.naive.account import AccountKey
from tests.naive.call import Order
from tests.naive.epochs import staking_leaves
from tests.naive.governance import governance_leaves
from tests.naive.packages import request_leaves
from tests.naive.preferences import trading_leaves

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


def leaves_of(ledger: NaiveLedger) -> dict[bytes, bytes]:
    """Every leaf of the state after the block."""
    parameters = ledger.genesis.parameters
    total = parameters.settlement_window_ns // parameters.settlement_bucket_ns
    carry = parameters.settlement_carry_buckets_max
    clock = Clock(ledger.height, ledger.time_ns, ledger.next_order_id, ledger.silent_blocks)
    cash = sum(item.cash_uusd for item in ledger.accounts.values())
    cost = sum(cost for item in ledger.accounts.values() for _, cost in item.positions.values())
    values: dict[bytes, Any] = {
        KEY_CLOCK: clock,
        KEY_SUPPLY: Supply(**ledger.supply),
        KEY_TOTALS: Totals(cash, cost),
    }
    if ledger.marks is not None:
        values[KEY_MARKS] = ledger.marks
    if ledger.exposure is not None:
        values[KEY_EXPOSURE] = ledger.exposure
    if ledger.has_schedule:
        values[KEY_SCHEDULE] = Schedule(ledger.next_instrument)
    for key in ledger.accounts:
        values[account_key(key)] = _account_leaf(ledger, key)
    for instrument in ledger.instruments.values():
        is_settled = instrument.id in ledger.settled
        values[listing_key(instrument.id)] = Listing(
            instrument, is_settled, ledger.settled.get(instrument.id, 0)
        )
        if any(item.instrument == instrument.id for item in ledger.orders.values()):
            values[book_key(instrument.id)] = _book_leaf(ledger, instrument.id)
    values |= {oracle_key(number): item for number, item in ledger.oracle.agreed.items()}
    values |= {reporter_key(number): item for number, item in ledger.oracle.reporters.items()}
    values |= {window_key(*key): item.leaf(total, carry) for key, item in ledger.averages.items()}
    values |= {liquidation_key(key): item for key, item in ledger.liquidations.items()}
    values |= {funding_key(number): item for number, item in ledger.funding.items()}
    values |= ledger.breakers.leaves()
    values |= trading_leaves(ledger)
    values |= request_leaves(ledger)
    values |= governance_leaves(ledger)
    if ledger.staking is not None:
        values |= staking_leaves(ledger, ledger.staking)
    return {key: encode(value) for key, value in values.items()}


def _account_leaf(ledger: NaiveLedger, key: AccountKey) -> Account:
    account = ledger.accounts[key]
    used = sum(1 << (nonce - account.nonce_floor) for nonce in account.nonces_used)
    own = sorted((item.id, item.instrument) for item in ledger.orders.values() if item.account == key)
    return Account(
        *key,
        account.cash_uusd,
        account.nonce_floor,
        used.to_bytes((used.bit_length() + 7) // 8, "little"),
        account.health,
        tuple(Position(item, *account.positions[item]) for item in sorted(account.positions)),
        tuple(OpenOrderLeaf(*item) for item in own),
    )


def _book_leaf(ledger: NaiveLedger, instrument: int) -> Book:
    own = sorted(
        (item for item in ledger.orders.values() if item.instrument == instrument),
        key=lambda item: item.priority,
    )
    return Book(*(tuple(_resting(item) for item in own if item.is_buy == is_buy) for is_buy in (True, False)))


def _resting(order: Order) -> RestingOrder:
    return RestingOrder(
        order.id,
        *order.account,
        0 if order.is_buy else 1,
        order.price_uusd,
        order.lots,
        order.height,
        order.label,
        order.time_in_force,
        order.post_only,
        order.reduce_only,
    )
