"""A trader's own model of the market: venues, aggregation and fit as a validator's, but its own. Trio.

One board serves all traders of the process; each adds its own error to what the board says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
import trio

from ledger.instruments import Instrument, Kind, Underlying
from ledger.market import Slice
from node.oracle import ssvi
from node.oracle.aggregate import AggregationRules, UnderlyingView, build_view
from node.oracle.black import normal_cdf, price_and_vega
from node.oracle.fitter import SurfaceFitter
from node.oracle.venue_book import VenueBook
from node.oracle.venue_client import VenueClient
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR

REFRESH_SECONDS = 0.5
PERPETUAL_HALF_SPREAD_PPM = 100
HALF_SPREAD_VOL = 0.01
"""Half a maker's option spread, as volatility: one point."""
HALF_SPREAD_INDEX_PPM = 50
"""And never below this share of the index."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the model thinks of one instrument: value and half-spread in micro-USD, delta and log-moneyness."""

    value_uusd: int
    half_spread_uusd: int
    delta: float
    log_moneyness: float


class Board:
    """Opinions by instrument id, refreshed from the venues."""

    def __init__(
        self,
        venues: Mapping[str, str],
        instruments: Iterable[Instrument],
        speed: float,
        now_ns: Callable[[], int],
    ) -> None:
        """`venues`: name to address; `now_ns`: the market clock."""
        self.instruments: dict[int, Instrument] = {}
        self.opinions: dict[int, Opinion] = {}
        self.now_ns = now_ns
        self._clients = [
            VenueClient(address, VenueBook(name, (), speed), now_ns)
            for name, address in sorted(venues.items())
        ]
        self.list_instruments(instruments)
        self._rules = AggregationRules(speed=speed)
        self._fitter = SurfaceFitter()

    def list_instruments(self, new: Iterable[Instrument]) -> None:
        """These are traded too; what has expired is forgotten."""
        now_ns = self.now_ns()
        known = {**self.instruments, **{item.id: item for item in new}}
        self.instruments = {
            item.id: item for item in known.values() if not item.expiry_ns or item.expiry_ns > now_ns
        }
        for client in self._clients:
            client.relist(list(self.instruments.values()))

    async def run(self) -> None:
        """Stream venues and refresh opinions until cancelled."""
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(client.run)
            while True:
                await trio.sleep(REFRESH_SECONDS)
                self.opinions = await trio.to_thread.run_sync(self._form_opinions)

    def _form_opinions(self) -> dict[int, Opinion]:
        now_ns = self.now_ns()
        books = [client.book for client in self._clients]
        opinions: dict[int, Opinion] = {}
        for underlying in Underlying:
            view = build_view(underlying, books, now_ns, self._rules)
            if view is not None:
                opinions.update(self._of_perpetual(view))
                for piece in self._fitter.propose(view):
                    opinions.update(self._of_slice(view, piece))
        return opinions

    def _of_perpetual(self, view: UnderlyingView) -> dict[int, Opinion]:
        half = view.index_uusd * PERPETUAL_HALF_SPREAD_PPM // PPM
        return {
            item.id: Opinion(view.index_uusd, half, 1.0, 0.0)
            for item in self.instruments.values()
            if item.underlying == view.underlying and item.kind == Kind.PERPETUAL
        }

    def _of_slice(self, view: UnderlyingView, piece: Slice) -> dict[int, Opinion]:
        items = [
            item
            for item in self.instruments.values()
            if item.underlying == view.underlying and item.expiry_ns == piece.expiry_ns
        ]
        tau = (piece.expiry_ns - view.time_ns) / NS / SECONDS_PER_YEAR
        if not items or tau <= 0:
            return {}
        forward = piece.forward_uusd / PPM
        strikes = np.array([item.strike_uusd / PPM for item in items])
        is_call = np.array([item.kind == Kind.CALL for item in items])
        moneyness = np.array([log(strike / forward) for strike in strikes.tolist()])
        variance = ssvi.total_variance(
            piece.theta_e12 * 1e-12,
            piece.rho_e6 * 1e-6,
            piece.psi_e9 * 1e-9,
            moneyness,
            piece.wings_e9 * 1e-9,
        )
        vols = np.sqrt(variance / tau)
        values, vegas = price_and_vega(forward, strikes, tau, vols, is_call)
        deviation = vols * sqrt(tau)
        deltas = normal_cdf(-moneyness / deviation + 0.5 * deviation) - np.where(is_call, 0.0, 1.0)
        least = view.index_uusd * HALF_SPREAD_INDEX_PPM // PPM
        return {
            item.id: Opinion(
                int(values[row] * PPM),
                max(least, int(vegas[row] * HALF_SPREAD_VOL * PPM)),
                float(deltas[row]),
                float(moneyness[row]),
            )
            for row, item in enumerate(items)
        }
