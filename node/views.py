"""What the node writes beside a final block for its gateway: status, marks, Greeks, margins. Pure."""

from __future__ import annotations

from math import isqrt

import numpy as np

from ledger.apply import BlockResult
from ledger.instruments import Kind
from ledger.valuation import Valuation
from node.rpc.views import (
    GreeksRow,
    GreeksView,
    MarginsView,
    MarkRow,
    MarksView,
    StatusView,
    ViewName,
)
from primitives.amounts import NS, SECONDS_PER_YEAR
from primitives.codec import encode


def views_of(block_hash: bytes, result: BlockResult) -> dict[str, bytes]:
    """Every view as of the block that was just executed. Margins are those at the start of its orders."""
    valuation = result.valuation
    status = StatusView(result.height, block_hash, result.root, result.time_ns)
    return {
        ViewName.STATUS.value: encode(status),
        ViewName.MARKS.value: encode(_marks(valuation, result)),
        ViewName.GREEKS.value: encode(_greeks(valuation, result)),
        ViewName.MARGINS.value: encode(_margins(valuation, result)),
    }


def _marks(valuation: Valuation, result: BlockResult) -> MarksView:
    risk = valuation.risk
    expiries = {
        item.id: item.expiry_ns - result.time_ns
        for item in valuation.state.instruments.values()
        if item.kind != Kind.PERPETUAL
    }
    columns = zip(
        risk.instrument_ids.tolist(),
        risk.mark_uusd.tolist(),
        risk.variance_e15.tolist(),
        risk.delta_ppm.tolist(),
        strict=True,
    )
    rows = tuple(
        MarkRow(item, mark, _vol_e6(variance, expiries.get(item, 0)), delta)
        for item, mark, variance, delta in columns
    )
    return MarksView(result.height, result.time_ns, rows)


def _greeks(valuation: Valuation, result: BlockResult) -> GreeksView:
    risk = valuation.risk
    columns = (risk.instrument_ids, risk.gamma_e12, risk.vega_uusd, risk.theta_uusd)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return GreeksView(result.height, tuple(GreeksRow(*row) for row in rows))


def _vol_e6(variance_e15: int, remaining_ns: int) -> int:
    """Implied volatility in 1e-6 from total variance; 0 for a perpetual or at expiry."""
    if remaining_ns <= 0:
        return 0
    return isqrt(variance_e15 * SECONDS_PER_YEAR * NS // (remaining_ns * 1_000))


def _margins(valuation: Valuation, result: BlockResult) -> MarginsView:
    margins, order = valuation.margins, valuation.table.order
    cash_uusd, health = valuation.cash_and_health()
    columns = (
        margins.mtm_uusd[order] + cash_uusd,
        margins.im_excess_uusd[order],
        margins.mm_excess_uusd[order],
    )
    numbers = np.stack(columns, axis=1).astype("<i8")
    keys, codes = valuation.table.packed_keys, health.astype(np.uint8)
    return MarginsView(result.height, keys, codes.tobytes(), numbers.tobytes())
