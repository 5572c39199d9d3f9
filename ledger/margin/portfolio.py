"""Accounts' holdings as columns, ready to be multiplied with the risk arrays. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ledger.margin.reasons import MarginReason
from ledger.margin.scenarios import RiskArrays
from ledger.pricing.kernel import Bools, Ints
from primitives.errors import ProtocolViolation

ACCOUNT_LOTS_MAX = 1_000_000
"""Gross lots of one account. More is refused: with LOT_VALUE_E8_MAX it keeps every sum below 2^62."""
CASH_UUSD_MAX = 1 << 60
"""Largest cash or cost, either sign ($1.15 trillion); beyond it 64-bit sums would not be exact."""

Key = TypeVar("Key", bound=Hashable)


class Position(NamedTuple):
    """One holding. `lots` is signed; `cost_uusd` is, for a perpetual, the exact sum of price * lots /
    lots_per_contract paid, and 0 for an option (its premium went through cash)."""

    instrument_id: int
    lots: int
    cost_uusd: int = 0


class Portfolios(NamedTuple):
    """Portfolios of A accounts with P positions in all; positions of one account are in the risk arrays' rank
    order. `offsets` has shape (A + 1,), `cash_uusd` (A,), the rest (P,)."""

    offsets: Ints
    instrument_ids: Ints
    lots: Ints
    cost_uusd: Ints
    cash_uusd: Ints


@dataclass(frozen=True, slots=True)
class Layout:
    """Where accounts, underlyings, expiry groups and strikes begin and end among the positions."""

    rows: Ints
    """(P,), risk row of each position."""
    group_ends: Ints
    """(Q,), end of each (account, expiry group) run of positions."""
    group_index: Ints
    """(Q,), its expiry group in the risk arrays."""
    part_group_ends: Ints
    """(R,), end of each (account, underlying) part, counted in groups."""
    part_account: Ints
    part_underlying: Ints
    strike_ends: Ints
    """(T,), end of each (account, underlying, expiry, strike) run of positions."""
    strike_row: Ints
    """(T,), a risk row of that strike."""
    strike_offsets: Ints
    """(A + 1,), each account's strikes."""


def compute_layout(risk: RiskArrays, portfolios: Portfolios) -> Layout:
    """Boundaries of all runs; needs positions in rank order inside each account."""
    rows = risk.rows_of(portfolios.instrument_ids)
    offsets = portfolios.offsets
    positions = len(rows)
    is_account_end = np.zeros(positions + 1, dtype=np.bool_)
    is_account_end[offsets] = True
    group_ends = _run_ends(risk.group[rows], is_account_end)
    strike_ends = _run_ends(risk.strike_group[rows], is_account_end)
    part_ends = _run_ends(risk.underlying[rows], is_account_end)
    last_rows = rows[part_ends - 1]
    return Layout(
        rows=rows,
        group_ends=group_ends,
        group_index=risk.group[rows[group_ends - 1]],
        part_group_ends=np.searchsorted(group_ends, part_ends) + 1,
        part_account=np.searchsorted(offsets, part_ends - 1, side="right") - 1,
        part_underlying=risk.underlying[last_rows],
        strike_ends=strike_ends,
        strike_row=rows[strike_ends - 1],
        strike_offsets=np.searchsorted(strike_ends, offsets, side="right"),
    )


def _run_ends(labels: Ints, is_account_end: Bools) -> Ints:
    """Ends (exclusive) of runs of equal labels that do not cross an account's end."""
    is_end = is_account_end[1:].copy()
    is_end[:-1] |= labels[1:] != labels[:-1]
    ends: Ints = np.flatnonzero(is_end).astype(np.int64) + 1
    return ends


def sorted_positions(risk: RiskArrays, portfolios: Sequence[Sequence[Position]]) -> tuple[Ints, Ints]:
    """(3, n) columns (id, lots, cost), each portfolio's in rank order after the one before; their lengths."""
    lengths = np.fromiter(map(len, portfolios), dtype=np.int64, count=len(portfolios))
    numbers = chain.from_iterable(chain.from_iterable(portfolios))
    columns = np.fromiter(numbers, dtype=np.int64, count=3 * int(lengths.sum())).reshape(-1, 3).T
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((risk.rank[risk.rows_of(columns[0])], owner))
    arranged: Ints = columns[:, order]
    return arranged, lengths


def single_portfolio(risk: RiskArrays, cash_uusd: int, positions: Sequence[Position]) -> Portfolios:
    """One account's portfolio; raises as `PortfolioTable.replace`."""
    check_portfolio(cash_uusd, positions)
    (ids, lots, cost), _ = sorted_positions(risk, [positions])
    offsets = np.array([0, len(ids)], dtype=np.int64)
    return Portfolios(offsets, ids, lots, cost, np.array([cash_uusd], dtype=np.int64))


def check_portfolio(cash_uusd: int, positions: Sequence[Position]) -> None:
    """Refuse what exact 64-bit sums could not hold.

    Raises:
        ProtocolViolation: POSITION_LIMIT (gross lots above ACCOUNT_LOTS_MAX) or CASH_LIMIT.
    """
    check_gross_lots(sum(abs(position.lots) for position in positions))
    if abs(cash_uusd) + sum(abs(position.cost_uusd) for position in positions) > CASH_UUSD_MAX:
        raise ProtocolViolation(
            MarginReason.CASH_LIMIT, f"cash and cost are at most {CASH_UUSD_MAX} micro-USD in all"
        )


def check_gross_lots(lots: int) -> None:
    """Refuse more than one account may hold: ProtocolViolation(POSITION_LIMIT)."""
    if lots > ACCOUNT_LOTS_MAX:
        raise ProtocolViolation(
            MarginReason.POSITION_LIMIT, f"an account holds at most {ACCOUNT_LOTS_MAX} lots in all"
        )


class PortfolioTable(Generic[Key]):
    """All accounts' portfolios; an account keeps its place for ever, in order of first appearance.

    Replacing one account costs only its own positions until the next `portfolios`, which splices all
    replacements in with one pass. The caller bounds the number of accounts.
    """

    def __init__(self) -> None:
        self.accounts: list[Key] = []
        """Place -> account, the order of every array that the margin functions return."""
        self._place: dict[Key, int] = {}
        self._cash = np.zeros(16, dtype=np.int64)
        """With room for more accounts behind."""
        self._pending: dict[int, tuple[Position, ...]] = {}
        self._offsets = np.zeros(1, dtype=np.int64)
        self._columns = np.zeros((3, 0), dtype=np.int64)
        self._layout: Layout | None = None
        self._layout_ids = np.zeros(0, dtype=np.int64)

    def place_of(self, account: Key) -> int:
        """Row of an account in the margin arrays. Raises KeyError for an account never replaced."""
        return self._place[account]

    def set_cash(self, account: Key, cash_uusd: int) -> None:
        """Change only the cash of an account already here."""
        check_portfolio(cash_uusd, ())
        self._cash[self._place[account]] = cash_uusd

    def replace(self, account: Key, cash_uusd: int, positions: Sequence[Position]) -> None:
        """Set an account's whole portfolio, in any order of positions, at most one per instrument.

        Raises:
            ProtocolViolation: POSITION_LIMIT or CASH_LIMIT; the table is then unchanged.
        """
        check_portfolio(cash_uusd, positions)
        place = self._place.setdefault(account, len(self.accounts))
        if place == len(self.accounts):
            self.accounts.append(account)
            if place == len(self._cash):
                self._cash = np.concatenate((self._cash, np.zeros_like(self._cash)))
        self._cash[place] = cash_uusd
        self._pending[place] = tuple(positions)

    def portfolios(self, risk: RiskArrays) -> tuple[Portfolios, Layout]:
        """Columns of all accounts and their runs under `risk`; the runs are kept until something changes."""
        if self._pending:
            self._splice(risk)
        cash = self._cash[: len(self.accounts)].copy()
        portfolios = Portfolios(self._offsets, self._columns[0], self._columns[1], self._columns[2], cash)
        if self._layout is None or not np.array_equal(self._layout_ids, risk.instrument_ids):
            self._layout = compute_layout(risk, portfolios)
            self._layout_ids = risk.instrument_ids
        return portfolios, self._layout

    def _splice(self, risk: RiskArrays) -> None:
        """Put the replacements between what stays: runs of accounts are copied as they stand, for most do."""
        places = sorted(self._pending)
        arranged, lengths = sorted_positions(risk, [self._pending[place] for place in places])
        self._pending.clear()
        at = np.array(places, dtype=np.int64)
        if self._overwrite(at, arranged, lengths):
            return
        ends = np.cumsum(lengths)
        known = len(self._offsets) - 1
        new_lengths = np.zeros(len(self.accounts), dtype=np.int64)
        new_lengths[:known] = np.diff(self._offsets)
        new_lengths[at] = lengths
        is_first = np.diff(at, prepend=-2) != 1
        firsts, lasts = at[is_first], at[np.roll(is_first, -1)]
        stops = ends[np.roll(is_first, -1)]
        old_starts = self._offsets[np.minimum(np.concatenate(([0], lasts + 1)), known)].tolist()
        old_stops = self._offsets[np.minimum(np.concatenate((firsts, [known])), known)].tolist()
        pieces = [self._columns[:, old_starts[0] : old_stops[0]]]
        start = 0
        for stop, old_start, old_stop in zip(stops.tolist(), old_starts[1:], old_stops[1:], strict=True):
            pieces += [arranged[:, start:stop], self._columns[:, old_start:old_stop]]
            start = stop
        self._columns = np.concatenate(pieces, axis=1)
        self._offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(new_lengths)))
        self._layout = None

    def _overwrite(self, at: Ints, arranged: Ints, lengths: Ints) -> bool:
        """Whether no account has taken up or given up an instrument; the layout holds and new lots stand in place."""
        if int(at[-1]) >= len(self._offsets) - 1:
            return False
        starts = self._offsets[at]
        if not np.array_equal(self._offsets[at + 1] - starts, lengths):
            return False
        target = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(arranged.shape[1])
        if not np.array_equal(self._columns[0, target], arranged[0]):
            return False
        self._columns = self._columns.copy()
        self._columns[:, target] = arranged
        return True
