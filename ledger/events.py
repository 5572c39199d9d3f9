"""What happened in a block, in order: the ledger's answer to clients. Pure."""

from __future__ import annotations

from ledger.breakers.events import BreakerEvent
from ledger.staking.events import StakingEvent
from ledger.trading.events import TradingEvent
from primitives.codec import I64, U8, U32, U63, Bytes20, Bytes32, Wire


class TransactionApplied(Wire, tag=1):
    """A transaction took effect; each of its actions has its own event."""

    transaction_id: Bytes32
    owner: Bytes20
    subaccount: U8
    nonce: U63


class TransactionRejected(Wire, tag=2):
    """Nothing of the transaction took effect (unknown account, nonce, chain id ...)."""

    transaction_id: Bytes32
    reason: str
    detail: str


class ActionRejected(Wire, tag=3):
    """One action of a transaction was refused; `index` counts from 0."""

    transaction_id: Bytes32
    index: U32
    reason: str
    detail: str


class OrderAccepted(Wire, tag=4):
    """The order takes part in this block's call, or rests (post-only)."""

    transaction_id: Bytes32
    index: U32
    order_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    side: U8
    price_uusd: U63
    size_lots: U32
    label: U63


class OrderCancelled(Wire, tag=5):
    """What was left of an order is gone; `reason` is a CancelReason."""

    order_id: U63
    owner: Bytes20
    subaccount: U8
    instrument: U32
    left_lots: U32
    reason: str


class Trade(Wire, tag=6):
    """One match of the call: two fills at one price."""

    instrument: U32
    price_uusd: U63
    size_lots: U32
    buy_order_id: U63
    sell_order_id: U63
    buyer: Bytes20
    buyer_subaccount: U8
    seller: Bytes20
    seller_subaccount: U8
    buyer_fee_uusd: I64
    seller_fee_uusd: I64


class CashMoved(Wire, tag=7):
    """Deposit (+), withdrawal (-) or transfer; `cause` names which."""

    owner: Bytes20
    subaccount: U8
    amount_uusd: I64
    cause: str


class HealthChanged(Wire, tag=8):
    """An account moved between healthy, reduce_only and liquidation."""

    owner: Bytes20
    subaccount: U8
    health: str
    im_excess_uusd: I64
    mm_excess_uusd: I64


class LiquidationStep(Wire, tag=9):
    """What the ledger offered in this block's call for an account below maintenance (signed lots)."""

    owner: Bytes20
    subaccount: U8
    instrument: U32
    size_lots: I64
    limit_price_uusd: U63
    mm_excess_uusd: I64


class ExpirySettled(Wire, tag=10):
    """An expiry's options were exercised or lapsed at the settlement price."""

    underlying: U8
    expiry_ns: U63
    settlement_price_uusd: U63
    positions: U32
    paid_uusd: U63


class AuctionStarted(Wire, tag=70):
    """An account's portfolio is for sale; equity is cash and mark-to-market value."""

    owner: Bytes20
    subaccount: U8
    is_insolvent: bool
    equity_uusd: I64
    mm_excess_uusd: I64


class AuctionBid(Wire, tag=71):
    """A bidder took a part of it (1e-12) for a payment; below 0 the fund paid. The fee goes to the fund."""

    owner: Bytes20
    subaccount: U8
    bidder: Bytes20
    bidder_subaccount: U8
    fraction_e12: U63
    payment_uusd: I64
    fee_uusd: U63


class AuctionEnded(Wire, tag=72):
    """The account is above maintenance again, holds nothing any more, or a breaker pauses its liquidation."""

    owner: Bytes20
    subaccount: U8


class VaultTook(Wire, tag=73):
    """The backstop vault took all positions and the debt of an account with this equity."""

    owner: Bytes20
    subaccount: U8
    equity_uusd: I64


class Deleveraged(Wire, tag=74):
    """A part of an insolvent account's portfolio went to one on the other side, which bears so much of it."""

    owner: Bytes20
    subaccount: U8
    winner: Bytes20
    winner_subaccount: U8
    loss_uusd: U63


class VoteCounted(Wire, tag=77):
    """An operator's vote, and the weight that wants this value now, of all."""

    validator: U32
    name: str
    value: I64
    weight: U63
    total: U63


class ParameterDecided(Wire, tag=78):
    """Two thirds want it; it holds from this block time on."""

    name: str
    value: I64
    effective_ns: U63


class ParameterChanged(Wire, tag=79):
    """A number of policy has a new value."""

    name: str
    before: I64
    after: I64


class ParameterDropped(Wire, tag=80):
    """A decided value that other changes since have made impossible."""

    name: str
    value: I64
    detail: str


class ExposureLimitsChanged(Wire, tag=84):
    """The protocol's own exposure has passed a limit, or is within both again.

    What 1 % of the index and one volatility point would cost it, over all underlyings, against the fund.
    """

    is_within_limits: bool
    delta_uusd: U63
    vega_uusd: U63
    fund_uusd: U63


class StressChanged(Wire, tag=85):
    """The stress shortfall has passed its part of fund and vault, or is below again, or the initial factor moved."""

    is_stressed: bool
    shortfall_uusd: U63
    cover_uusd: U63
    im_extra_ppm: U32


class SeriesListed(Wire, tag=76):
    """Calls and puts of an expiry, new or known, `count` of them from `first_id` on."""

    underlying: U8
    expiry_ns: U63
    first_id: U32
    count: U32


class DebtChanged(Wire, tag=75):
    """What nobody has paid yet; while it is above 0, withdrawals pay their part of it."""

    debt_uusd: U63


Event = (
    TransactionApplied
    | TransactionRejected
    | ActionRejected
    | OrderAccepted
    | OrderCancelled
    | Trade
    | CashMoved
    | HealthChanged
    | LiquidationStep
    | ExpirySettled
    | TradingEvent
    | AuctionStarted
    | AuctionBid
    | AuctionEnded
    | VaultTook
    | Deleveraged
    | DebtChanged
    | SeriesListed
    | ExposureLimitsChanged
    | StressChanged
    | VoteCounted
    | ParameterDecided
    | ParameterChanged
    | ParameterDropped
    | BreakerEvent
    | StakingEvent
)
