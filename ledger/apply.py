"""apply_block, the one entrance through which the ledger's state changes, and validate_block before it. Pure.

Phases of a block (market.md section 4): oracle, breakers, funding, penalties, settlement, new series, marks and every
account's margin, liquidation; cancels; cash; stake; orders; one uniform-price call per instrument; what the fund
bears; fees and, once an epoch, rewards and a validator set. Transactions are processed by owner, sub-account,
nonce and id, so their order inside the block has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.admission import read_or_refuse, read_transaction
from ledger.breakers.phases import update_breakers
from ledger.calls import run_calls
from ledger.events import Event
from ledger.execution import execute_transactions, settle_packages
from ledger.exposure import record_exposure
from ledger.funding import accrue_funding
from ledger.governance import apply_decided
from ledger.invariants import check_invariants
from ledger.listing_schedule import run_schedule
from ledger.oracle import apply_reports, check_update, decode_update
from ledger.prices import keep_prices
from ledger.reasons import LedgerReason
from ledger.settlement.expiry import settle_expiries
from ledger.settlement.insurance_fund import absorb_debts
from ledger.settlement.liquidation import liquidate
from ledger.staking.epochs import begin_staking, end_staking
from ledger.staking.observations import Observations, Offence
from ledger.staking.penalties import check_observations
from ledger.state import Clock, Marks, State
from ledger.state_keys import KEY_CLOCK, KEY_MARKS
from ledger.valuation import Valuation
from ledger.workspace import Workspace
from primitives.errors import ProtocolViolation


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What consensus says of a block: height counts from 1, time is market nanoseconds."""

    height: int
    time_ns: int
    offences: tuple[tuple[int, int, str, int], ...] = ()
    """What the block's evidence proves, in the shape of staking.observations.Offence."""
    signers: tuple[int, ...] = ()
    """Who signed the parent's certificate, ascending places in the set of the parent's epoch."""

    @property
    def observations(self) -> Observations:
        """What staking makes of it."""
        return Observations(tuple(Offence(*item) for item in self.offences), self.signers)


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block did. `root` commits to the state after it; the next block's header carries it."""

    height: int
    time_ns: int
    root: bytes
    events: tuple[Event, ...]
    has_oracle_update: bool
    valuation: Valuation = field(compare=False, repr=False)
    """Marks, risk arrays and margins as of the start of the block's orders; for views, never replicated."""


def validate_block(
    state: State,
    context: BlockContext,
    transactions: tuple[bytes, ...],
    *,
    parent_state_root: bytes | None = None,
) -> None:
    """Whether a block on this (its parent's) state may be voted for; signatures are the caller's.

    Raises:
        ProtocolViolation: with the reason why not. A transaction that fails in its meaning is no such reason.
    """
    if not transactions:
        raise ProtocolViolation(LedgerReason.NO_ORACLE_UPDATE, "the block has no first transaction")
    if context.height != state.clock.height + 1:
        raise ProtocolViolation(
            LedgerReason.WRONG_HEIGHT, f"height {context.height} does not follow {state.clock.height}"
        )
    if parent_state_root is not None and parent_state_root != state.root():
        raise ProtocolViolation(LedgerReason.WRONG_STATE_ROOT, "the parent's state root is another one")
    update = read_or_refuse(decode_update, transactions[0])
    time_ns = check_update(state, update).time_ns
    if context.time_ns != time_ns:
        raise ProtocolViolation(
            LedgerReason.WRONG_BLOCK_TIME,
            f"the block's time is {context.time_ns}, its reports make it {time_ns}",
        )
    if len(set(transactions[1:])) != len(transactions) - 1:
        raise ProtocolViolation(LedgerReason.DUPLICATE_TRANSACTION, "the same transaction twice")
    for raw in transactions[1:]:
        read_or_refuse(read_transaction, raw)
    check_observations(state, context.height, time_ns, context.observations)


def apply_block(state: State, context: BlockContext, transactions: tuple[bytes, ...]) -> BlockResult:
    """Execute a valid block. Call state.begin_block() first; rollback_block() undoes it, also after a refusal.

    Raises:
        ProtocolViolation: the block is not valid on this state; nothing has changed.
        InvariantViolation: money or positions would not balance: we are wrong, the process must stop.
    """
    validate_block(state, context, transactions)
    reports = check_update(state, read_or_refuse(decode_update, transactions[0])).reports
    before_ns, silent = state.clock.time_ns, 0 if reports else state.clock.blocks_without_oracle + 1
    state.put(KEY_CLOCK, Clock(context.height, context.time_ns, state.clock.next_order_id, silent))
    apply_reports(state, reports, context.time_ns)
    events: list[Event] = []
    phases = update_breakers(state, reports, events)
    if reports:
        accrue_funding(state, context.time_ns, is_halted=phases.is_halted)
    workspace = Workspace(state, context.height, context.time_ns, phases)
    workspace.events += events
    apply_decided(workspace)
    begin_staking(workspace, reports, context.observations)
    settle_expiries(workspace, has_update=bool(reports) and not phases.is_halted)
    run_schedule(workspace, before_ns)
    workspace.write_back()
    valuation = Valuation(state)
    valuation.record_health(workspace)
    liquidate(workspace, valuation)
    reads = [read_transaction(raw) for raw in transactions[1:]]
    batches = execute_transactions(workspace, valuation, reads)
    run_calls(workspace, valuation)
    settle_packages(workspace, valuation, batches)
    absorb_debts(workspace)
    end_staking(workspace)
    workspace.write_back()
    state.put(KEY_CLOCK, Clock(context.height, context.time_ns, workspace.next_order_id, silent))
    record_exposure(workspace, valuation)
    state.put(KEY_MARKS, Marks(valuation.marks(), valuation.margins_digest()))
    keep_prices(state, valuation)
    check_invariants(workspace)
    return BlockResult(
        height=context.height,
        time_ns=context.time_ns,
        root=state.root(),
        events=tuple(workspace.events),
        has_oracle_update=bool(reports),
        valuation=valuation,
    )
