"""Which of an exchange's connections carries which options, so that a change of the listing moves none. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ledger.instruments import Instrument
from node.oracle.adapters.said import listed_options
from node.oracle.venue_book import Series, series_of


def shared(
    held: Sequence[Sequence[Instrument]], listed: Sequence[Instrument], options_max: int | None
) -> list[list[Instrument]]:
    """The options of each connection, whole expiries together; `held` is what each of those there are has now.

    What is still listed stays where it is, even if nothing else is left there; what is new goes to the first
    connection with room, or to a further one. Without `options_max` one has everything, even if that is nothing.
    """
    if options_max is None:
        return [list(listed)]
    groups: dict[Series, list[Instrument]] = {
        series: [item for item, _ in pairs]
        for series, pairs in groupby(listed_options(listed), key=lambda pair: pair[1].series)
    }
    places = {series: place for place, share in enumerate(held) for series in series_of(share)}
    shares: list[list[Instrument]] = [[] for _ in held]
    for series in sorted(groups, key=lambda series: (series not in places, series)):
        options = groups[series]
        rooms = (place for place, share in enumerate(shares) if len(share) + len(options) <= options_max)
        place = places.get(series, next(rooms, len(shares)))
        if place == len(shares):
            shares.append([])
        shares[place] += options
    return shares
