"""The sub-accounts that a ledger event concerns: for the index of the block store and for clients. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ledger.events import Event
from ledger.matching.orders import AccountKey

_ROLES = ("owner", "buyer", "seller", "maker", "bidder", "winner")


def parties_of(event: Event) -> Iterator[AccountKey]:
    """Whom an event names as owner, buyer, seller ..., by (address, sub-account); the same one may come twice."""
    for owner, subaccount in _fields(type(event)):
        yield getattr(event, owner), getattr(event, subaccount)


@lru_cache(maxsize=256)
def _fields(kind: type[Event]) -> tuple[tuple[str, str], ...]:
    """(field of the address, field of the sub-account) of each role in a kind of event."""
    names = kind.__struct_fields__
    pairs = ((role, "subaccount" if role == "owner" else f"{role}_subaccount") for role in _ROLES)
    return tuple(pair for pair in pairs if pair[0] in names and pair[1] in names)
