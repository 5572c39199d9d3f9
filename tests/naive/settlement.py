"""Expiries: the average by walking all buckets from the first, each time, and what is paid. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import ExpirySettled
from ledger.instruments import Instrument, Kind
from ledger.settlement.expiry import SettlementWindow

if TYPE_CHECKING:
    from tests.naive.ledger import NaiveLedger


class NaiveAverage:
    """Every observation of one expiry: (bucket, index), the first in each bucket."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def observe(self, bucket: int, index_uusd: int) -> None:
        """Keep the first index of a bucket; buckets never go back."""
        if not self.seen or bucket > max(self.seen):
            self.seen[bucket] = index_uusd

    def values(self, total: int, carry_max: int) -> list[int]:
        """What counts: observed buckets, gaps filled up to `carry_max`, and late ones while too few are there."""
        needed = -(-total * 9 // 10)
        counted: list[int] = []
        gap = 0
        for bucket in range(max(self.seen) + 1):
            if bucket in self.seen:
                if bucket < total or len(counted) < needed:
                    counted.append(self.seen[bucket])
                last, gap = self.seen[bucket], 0
            elif counted and bucket < total:
                gap += 1
                if gap <= carry_max:
                    counted.append(last)
        return counted

    def leaf(self, total: int, carry_max: int) -> SettlementWindow:
        """As the state keeps it."""
        counted, latest = self.values(total, carry_max), max(self.seen)
        return SettlementWindow(sum(counted), len(counted), latest + 1, self.seen[latest])

    def price_uusd(self, total: int, carry_max: int) -> int | None:
        """The mean, to the nearest, halves up; None before the expiry, or with a tenth of buckets missing."""
        counted = self.values(total, carry_max)
        if max(self.seen) < total or 10 * len(counted) < 9 * total:
            return None
        return (2 * sum(counted) + len(counted)) // (2 * len(counted))


def settle(ledger: NaiveLedger, *, has_update: bool) -> None:
    """Every average as of now; expired books close, and complete expiries pay."""
    parameters = ledger.genesis.parameters
    total = parameters.settlement_window_ns // parameters.settlement_bucket_ns
    carry = parameters.settlement_carry_buckets_max
    for underlying in sorted(ledger.oracle.agreed):
        for agreed in ledger.oracle.agreed[underlying].slices:
            expiry_ns = agreed.slice.expiry_ns
            start_ns = expiry_ns - parameters.settlement_window_ns
            if ledger.time_ns < start_ns:
                continue
            options = _options(ledger, underlying, expiry_ns)
            if ledger.time_ns >= expiry_ns:
                _close_books(ledger, options)
            if not has_update:
                continue
            average = ledger.averages.setdefault((underlying, expiry_ns), NaiveAverage())
            bucket = (ledger.time_ns - start_ns) // parameters.settlement_bucket_ns
            average.observe(bucket, ledger.oracle.agreed[underlying].index_uusd)
            price = average.price_uusd(total, carry)
            if price is not None:
                _pay(ledger, underlying, expiry_ns, options, price)


def _options(ledger: NaiveLedger, underlying: int, expiry_ns: int) -> list[Instrument]:
    return [
        item
        for _, item in sorted(ledger.instruments.items())
        if item.kind != Kind.PERPETUAL and (item.underlying, item.expiry_ns) == (underlying, expiry_ns)
    ]


def _close_books(ledger: NaiveLedger, options: list[Instrument]) -> None:
    for option in options:
        for order in sorted(ledger.orders.values(), key=lambda item: item.id):
            if order.instrument == option.id:
                ledger.cancel(order, "expired")


def _pay(ledger: NaiveLedger, underlying: int, expiry_ns: int, options: list[Instrument], price: int) -> None:
    count = paid = 0
    for _, account in sorted(ledger.accounts.items()):
        for option in options:
            lots, _cost = account.positions.pop(option.id, (0, 0))
            if lots:
                above = price - option.strike_uusd
                payoff = max(0, above if option.kind == Kind.CALL else -above)
                change = lots * payoff // option.lots_per_contract
                account.cash_uusd += change
                ledger.supply["fund_uusd"] -= change
                paid += max(0, change)
                count += 1
    ledger.settled |= {option.id: price for option in options}
    oracle = ledger.oracle.agreed[underlying]
    left = tuple(item for item in oracle.slices if item.slice.expiry_ns != expiry_ns)
    ledger.oracle.agreed[underlying] = replace(oracle, slices=left)
    del ledger.averages[underlying, expiry_ns]
    ledger.breakers.forget(options)
    ledger.events.append(ExpirySettled(underlying, expiry_ns, price, count, paid))
