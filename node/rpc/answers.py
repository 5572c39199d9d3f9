"""What the gateway answers, as types: the routes return them, the OpenAPI document is made from them. Pure.

Fields are native (bytes, integers); node/rpc/client_form.py gives them the form that clients see.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from consensus.messages import Header
from ledger.accounts import Position
from ledger.events import Event
from ledger.market import Slice
from ledger.staking.state import EpochSet, Validator
from node.rpc.protocol import StatusReply
from node.rpc.views import MarginRow, MarkRow
from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32

BASE64 = {
    "contentEncoding": "base64",
    "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
"""Schema of bytes in the JSON of a request."""

F = TypeVar("F", bound=msgspec.Struct)

Raw = bytes
"""Of any length."""
HealthName = Literal["healthy", "reduce_only", "liquidation"]
PhaseName = Literal["open", "auction", "post_only", "halted"]
CauseName = Literal["halt", "restart", "drift", "price", "latency"]
ColourName = Literal["green", "amber", "red"]
Cursor = Annotated[str, msgspec.Meta(max_length=16, pattern="^([A-Za-f][A-Za-z0-9_-]{15})?$")]
"""A place in the chain's history; opaque, the same at every node, and good for ever."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every answer."""


def form_of(kind: type[F], /, *sources: msgspec.Struct, **more: Any) -> F:
    """A struct whose fields are those of the same name in `sources`, then `more`."""
    fields = {
        name: getattr(source, name)
        for source in sources
        for name in source.__struct_fields__
        if name in kind.__struct_fields__
    }
    return kind(**{**fields, **more})


class Refusal(Form, frozen=True, kw_only=True):
    """Why a request was refused: a stable code (docs/spec/reasons.md) and a sentence."""

    reason: str
    detail: str


class TipAnswer(Form, frozen=True, kw_only=True):
    """What the store says when the node does not answer."""

    height: U63
    block_hash: Raw
    state_root: Raw = b""
    time_ns: U63 = 0
    is_stale: Literal[True] = True


class PeerForm(Form, frozen=True, kw_only=True):
    """Another validator as this node sees it; `rtt_us` is -1 before the first heartbeat."""

    index: U32
    connected: bool
    rtt_us: I64


class StatusAnswer(Form, frozen=True, kw_only=True):
    """Where the node stands; `halted` and `observer` say why it does not sign, empty is good."""

    name: str
    index: I64
    chain_id: Bytes32
    validators: U32
    height: U63
    view: U63
    final_height: U63
    final_hash: Bytes32
    state_root: Bytes32
    block_time_ns: U63
    market_time_ns: U63
    halted: str
    observer: str
    peers: tuple[PeerForm, ...]
    finality_us_p50: U63
    finality_us_p99: U63
    finality_count: U63
    fast_share_ppm: U63
    mempool_size: U63
    rss_bytes: U63
    cpu_ms: U63
    epsilon_ppm_p50: U63
    counters: dict[str, int]
    is_stale: Literal[False] = False


def status_answer(reply: StatusReply) -> StatusAnswer:
    """The node's own words."""
    peers = tuple(form_of(PeerForm, peer) for peer in reply.peers)
    return form_of(StatusAnswer, reply, peers=peers, counters=dict(reply.counters))


class HealthAnswer(Form, frozen=True, kw_only=True):
    """Whether the gateway has its node."""

    status: Literal["ok", "node_unavailable"]


class ReadyAnswer(Form, frozen=True, kw_only=True):
    """Whether this node may be sent clients. `lag_ms`: real time by which its newest final block is late."""

    ready: bool
    reason: Literal["", "node_unavailable", "halted", "behind"]
    final_height: U63
    lag_ms: I64


class BlockAnswer(Form, frozen=True, kw_only=True):
    """A final block; `finalized_by` is empty for one that is final through a later one."""

    height: U63
    hash: Bytes32
    header: Header
    transaction_ids: tuple[Bytes32, ...]
    finalized_by: tuple[U32, ...]
    events: tuple[Event, ...]


class BlockRow(Form, frozen=True, kw_only=True):
    """A final block in short."""

    height: U63
    hash: Bytes32
    time_ns: U63
    view: U63
    proposer: U32
    transactions: U32


class TransactionAnswer(Form, frozen=True, kw_only=True):
    """How far a transaction has come: `accepted` (waits here), `notarized`, or `final` with what it did."""

    transaction_id: Bytes32
    status: Literal["accepted", "notarized", "final"]
    height: U63 | None
    events: tuple[Event, ...]


class TransactionRow(Form, frozen=True, kw_only=True):
    """One transaction of a final block and its place among those of the block."""

    height: U63
    place: U32
    transaction_id: Bytes32


class EventRow(Form, frozen=True, kw_only=True):
    """One event with its place: `cursor` continues after it, in either direction."""

    height: U63
    place: U32
    cursor: Cursor
    event: Event


class Page(Form, frozen=True, kw_only=True):
    """Base of pages. `next` continues in the same direction; null when there is nothing older.

    A page may hold fewer items than asked for, or none, and still have a `next`: a request looks at a bounded
    stretch of history.
    """

    next: Cursor | None
    height: U63
    """The newest final height when the page was made."""


class BlocksPage(Page, frozen=True, kw_only=True):
    """Final blocks."""

    items: tuple[BlockRow, ...]


class TransactionsPage(Page, frozen=True, kw_only=True):
    """Transactions of final blocks."""

    items: tuple[TransactionRow, ...]


class EventsPage(Page, frozen=True, kw_only=True):
    """Events of final blocks."""

    items: tuple[EventRow, ...]


class MarkForm(Form, frozen=True, kw_only=True):
    """Mark per contract, implied volatility and delta of one contract (both 1e-6)."""

    mark_uusd: U63
    vol_e6: U63
    delta_e6: I64


class InstrumentForm(Form, frozen=True, kw_only=True):
    """One listed contract; mark while it lives, settlement price afterwards."""

    name: str
    id: U32
    underlying: str
    kind: Literal["perpetual", "call", "put"]
    expiry_ns: U63
    strike_uusd: U63
    lots_per_contract: U32
    is_settled: bool
    settlement_price_uusd: U63 | None
    mark: MarkForm | None


class InstrumentsAnswer(Form, frozen=True, kw_only=True):
    """Everything listed, by id."""

    instruments: tuple[InstrumentForm, ...]


class LevelForm(Form, frozen=True, kw_only=True):
    """One price of one side, and the lots that rest at it."""

    price_uusd: U63
    size_lots: U63


class BookAnswer(Form, frozen=True, kw_only=True):
    """Price levels, best first."""

    instrument: U32
    name: str
    mark_uusd: U63 | None
    bids: tuple[LevelForm, ...]
    asks: tuple[LevelForm, ...]


class GreeksForm(Form, frozen=True, kw_only=True):
    """One contract's mark and Greeks: vega micro-USD per volatility point, theta micro-USD per day."""

    instrument: U32
    name: str
    mark_uusd: U63
    vol_e6: U63
    delta_e6: I64
    gamma_e12: I64
    vega_uusd: I64
    theta_uusd: I64


class MarksAnswer(Form, frozen=True, kw_only=True):
    """Marks and Greeks of everything live, as of one final block."""

    height: U63
    time_ns: U63
    marks: tuple[GreeksForm, ...]


class SliceForm(Form, frozen=True, kw_only=True):
    """One expiry's forward and slice (SSVI and its wings), and the index and time at which it was agreed."""

    expiry_ns: U63
    forward_uusd: U63
    discount_ppm: U32
    theta_e12: U63
    rho_e6: I64
    psi_e9: U63
    wings_e9: U63
    confidence_ppm: U32
    agreed_index_uusd: U63
    agreed_ns: U63


def slice_form(item: Slice, index_uusd: int, agreed_ns: int) -> SliceForm:
    """A slice with where it comes from."""
    return form_of(SliceForm, item, agreed_index_uusd=index_uusd, agreed_ns=agreed_ns)


class SurfaceAnswer(Form, frozen=True, kw_only=True):
    """The agreed index and volatility of one underlying."""

    underlying: str
    index_uusd: U63
    index_ns: U63
    slices: tuple[SliceForm, ...]


class PhaseForm(Form, frozen=True, kw_only=True):
    """What trading of one underlying allows, and why; `until_ns` is 0 when that depends on more than time.

    `moved_ppm`: how far the index usually moves between two blocks; `widening_ppm`: the factor on price bands.
    """

    underlying: str
    phase: PhaseName
    causes: tuple[CauseName, ...]
    until_ns: U63
    moved_ppm: U32
    widening_ppm: U32


class DriftForm(Form, frozen=True, kw_only=True):
    """One instrument's mark against the venues at its last judged epoch: epsilon, and the half-spread h."""

    name: str
    instrument: U32
    colour: ColourName
    external_uusd: U63
    epsilon_uusd: U63
    half_spread_uusd: U63
    red_epochs: U32
    green_epochs: U32
    is_paused: bool


class BreakersAnswer(Form, frozen=True, kw_only=True):
    """The phase of every underlying and the drift of everything that was judged."""

    judged_epochs: U63
    judged_ns: U63
    phases: tuple[PhaseForm, ...]
    drifts: tuple[DriftForm, ...]


class PositionForm(Form, frozen=True, kw_only=True):
    """Signed lots of one instrument, and a perpetual's cost."""

    name: str
    instrument: U32
    lots: I64
    cost_uusd: I64


def position_form(item: Position, name: str) -> PositionForm:
    """A position with its instrument's name."""
    return form_of(PositionForm, item, name=name)


class OrderForm(Form, frozen=True, kw_only=True):
    """One open order; side 0 buys, 1 sells."""

    order_id: U63
    instrument: U32
    name: str
    side: U8
    price_uusd: U63
    left_lots: U32
    placed_height: U63
    label: U63
    time_in_force: U8
    post_only: bool
    reduce_only: bool


class MarginForm(Form, frozen=True, kw_only=True):
    """Equity and its excess over both requirements, at the start of the last block's orders."""

    equity_uusd: I64
    im_excess_uusd: I64
    mm_excess_uusd: I64


def margin_form(row: MarginRow) -> MarginForm:
    """One account's row."""
    return form_of(MarginForm, row)


def mark_form(row: MarkRow) -> MarkForm:
    """One instrument's row."""
    return form_of(MarkForm, row)


class AccountAnswer(Form, frozen=True, kw_only=True):
    """One sub-account. A nonce may be used once, anywhere from the floor to the maximum; `next_nonce` is free."""

    address: Bytes20
    subaccount: U8
    cash_uusd: I64
    health: HealthName
    nonce_floor: U63
    next_nonce: U63
    nonce_max: U63
    positions: tuple[PositionForm, ...]
    orders: tuple[OrderForm, ...]
    margin: MarginForm | None


class ValidatorForm(Validator, frozen=True):
    """A validator with its part in the set, and its counts of the sliding window."""

    place: U32 | None
    weight: U32
    missed_blocks: U32
    late_proposals: U32
    led_proposals: U32
    outside_reports: U32
    leader_delay_ppm: U32
    addresses: tuple[str, ...]
    """Where it has announced to be reached, under `peer_id`."""


class NumberForm(Form, frozen=True, kw_only=True):
    """One number of policy that validators can change by vote, and the least and most that it can be."""

    name: str
    value: I64
    low: I64
    high: I64
    unit: str
    """ppm, ns, uusd or count."""


class BallotForm(Form, frozen=True, kw_only=True):
    """Validators that want a number to have a value."""

    name: str
    value: I64
    voters: tuple[U32, ...]


class DecidedForm(Form, frozen=True, kw_only=True):
    """A value that two thirds wanted, and the block time from which it holds."""

    name: str
    value: I64
    effective_ns: U63


class PolicyAnswer(Form, frozen=True, kw_only=True):
    """Every number that a vote can change, by name; open ballots; what is decided and waits."""

    numbers: tuple[NumberForm, ...]
    ballots: tuple[BallotForm, ...]
    decided: tuple[DecidedForm, ...]


class ValidatorsAnswer(Form, frozen=True, kw_only=True):
    """Every validator, and the sets of this epoch and the next."""

    epoch: U63
    validators: tuple[ValidatorForm, ...]
    set: EpochSet | None
    next_set: EpochSet | None


class BondedForm(Form, frozen=True, kw_only=True):
    """A share in one validator's pool and what it is worth now."""

    validator: U32
    shares: U63
    value_uusd: U63


class UnbondingForm(Form, frozen=True, kw_only=True):
    """Stake on its way out: to cash, or to another validator."""

    validator: U32
    target: U32 | None
    amount_uusd: U63
    started_epoch: U63
    started_ns: U63


class StakeAnswer(Form, frozen=True, kw_only=True):
    """What a sub-account has bonded, and what is on its way out."""

    bonded: tuple[BondedForm, ...]
    unbonding: tuple[UnbondingForm, ...]


class ProofAnswer(Form, frozen=True, kw_only=True):
    """A proof file (docs/spec/proofs.md) in hex."""

    kind: str
    subject: Raw
    bytes: U63
    proof: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]


class LinkForm(Form, frozen=True, kw_only=True):
    """What leads from an epoch's validators to the next."""

    epoch: U63
    height: U63
    link: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]


class RawBlockForm(Form, frozen=True, kw_only=True):
    """A final block in wire form, and its own finality proof if there is one (empty: a later block proves it)."""

    height: U63
    block: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]
    proof: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]


class RawBlocksAnswer(Form, frozen=True, kw_only=True):
    """Consecutive final blocks; `first` and `tip` are the heights that this node holds."""

    first: U63
    tip: U63
    blocks: tuple[RawBlockForm, ...]


class StepAnswer(Form, frozen=True, kw_only=True):
    """Why an epoch is closed, and the next one's validators, in wire form."""

    epoch: U63
    step: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]*$")]


class EpochsAnswer(Form, frozen=True, kw_only=True):
    """Links from an epoch on; go on from `next` until there are none."""

    chain_id: Bytes32
    links: tuple[LinkForm, ...]
    next: U63
    links_max: U32


class SubmitAnswer(Form, frozen=True, kw_only=True):
    """Whether the transaction waits for a block now; `reason` is empty when it does."""

    transaction_id: Bytes32
    accepted: bool
    reason: str
    detail: str


class MarginPicture(Form, frozen=True, kw_only=True):
    """One account's margin; a requirement is equity less excess.

    `im_excess_with_orders_uusd`: with every open order filled the worse way; what decides on new orders.
    """

    model: Literal["portfolio", "standard"]
    cash_uusd: I64
    equity_uusd: I64
    im_requirement_uusd: I64
    mm_requirement_uusd: I64
    im_excess_uusd: I64
    mm_excess_uusd: I64
    im_excess_with_orders_uusd: I64


class ActionOutcome(Form, frozen=True, kw_only=True):
    """What became of one action: `reason` is empty when it was done."""

    index: U32
    accepted: bool
    reason: str
    detail: str


class SimulateAnswer(Form, frozen=True, kw_only=True):
    """What a batch would do on top of this final block, if nothing else came with it."""

    height: U63
    before: MarginPicture
    after: MarginPicture
    actions: tuple[ActionOutcome, ...]
    events: tuple[Event, ...]
