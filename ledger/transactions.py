"""What clients and oracle reporters may put into a block, and the bytes they sign. Pure.

A block's first transaction is the OracleUpdate; all others are envelopes. Ed25519 signatures cover the received payload
bytes under a domain tag; a wallet's cover what it showed (ledger/typed_data.py).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from ledger.market import Slice
from primitives.codec import I64, U8, U16, U32, U63, Bytes20, Bytes32, Bytes64, Bytes65, Wire, encode
from primitives.hashing import digest

ACTIONS_MAX = 256
"""Actions under one signature."""
PAYLOAD_BYTES_MAX = 16_384
SIZE_LOTS_MAX = 1_000_000
"""One order's size."""
PRICE_UUSD_MAX = 10_000_000_000_000
"""Ten million dollars: no premium, index or strike is above it."""
SLICES_MAX = 32
"""Expiries per underlying in one report."""
SUBACCOUNT_MAX = 255
DELAYS_MAX = 8
"""Proposals whose delay one report tells; older ones are left out. Delays are a sample: with many blocks between
two reports some proposals are never told of, and 100 reports must still fit one update."""
QUOTES_REPORTED_MAX = 256
"""Instruments whose venue view one report may carry; policy may allow fewer."""
UUSD_PER_CENT = 10_000
QUOTES_MAX = 128
"""Instruments in one mass quote."""
LEGS_MAX = 16
"""Legs of one package; policy may allow fewer."""
PACKAGE_UUSD_MAX = 2**53
"""Nine billion dollars: no package costs more."""
ADDRESSES_MAX = 4
"""Addresses of one validator; more are malformed."""
ADDRESS_CHARS_MAX = 128
"""Of one address."""
WALLET_ITEMS_MAX = 32
"""Actions, quotes and legs in a transaction that a wallet shows: a person reads no more, and each costs every validator
10 to 20 microseconds to put into words. More: use a session key."""

Price = Annotated[int, msgspec.Meta(ge=1, le=PRICE_UUSD_MAX)]
Size = Annotated[int, msgspec.Meta(ge=1, le=SIZE_LOTS_MAX)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
SideCode = Annotated[int, msgspec.Meta(ge=0, le=1)]
QuoteSize = Annotated[int, msgspec.Meta(ge=0, le=SIZE_LOTS_MAX)]
NetPrice = Annotated[int, msgspec.Meta(ge=-PACKAGE_UUSD_MAX, le=PACKAGE_UUSD_MAX)]


class Side(IntEnum):
    BUY = 0
    SELL = 1


class TimeInForce(IntEnum):
    """GTC rests until cancelled; IOC takes part in one call and is then cancelled; FOK fills whole or not at all."""

    GTC = 0
    IOC = 1
    FOK = 2


class MarginModel(IntEnum):
    """PORTFOLIO shocks everything together; STANDARD margins each position by a formula."""

    PORTFOLIO = 0
    STANDARD = 1


class SessionScope(IntEnum):
    """What a session key may sign, as bits. Withdrawals, stake, keys and the margin model: never."""

    TRADE = 1
    CANCEL = 2
    TRANSFER = 4
    NEGOTIATE = 8


class PlaceOrder(Wire, tag=1):
    """A limit order. `label` is the client's number, unique among the account's open orders, 0 for none."""

    instrument: U32
    side: Annotated[int, msgspec.Meta(ge=0, le=1)]
    price_uusd: Price
    size_lots: Size
    time_in_force: Annotated[int, msgspec.Meta(ge=0, le=2)]
    post_only: bool
    reduce_only: bool
    label: U63


class CancelOrder(Wire, tag=2):
    """Cancel by the id the ledger gave."""

    order_id: U63


class CancelLabel(Wire, tag=3):
    """Cancel by the client's own number."""

    label: U63


class CancelAll(Wire, tag=4):
    """Cancel every open order of the sub-account, or those of one instrument (None: all)."""

    instrument: U32 | None


class Deposit(Wire, tag=5):
    """Credit an account with money that arrived outside; only the genesis custodian may sign it."""

    owner: Bytes20
    subaccount: U8
    amount_uusd: Amount


class Withdraw(Wire, tag=6):
    """Take money out; initial margin must hold afterwards."""

    amount_uusd: Amount


class TransferCash(Wire, tag=7):
    """Move cash to another sub-account of the same owner; initial margin must hold afterwards."""

    to_subaccount: U8
    amount_uusd: Amount


class PlaceUntil(Wire, tag=8):
    """A resting order that goes at a block time, if it is still there."""

    order: PlaceOrder
    expires_ns: U63


class PlaceMarket(Wire, tag=9):
    """Trade at any price within the band: a limit order at the band's edge, immediate (IOC or FOK)."""

    instrument: U32
    side: SideCode
    size_lots: Size
    time_in_force: Annotated[int, msgspec.Meta(ge=1, le=2)]
    reduce_only: bool
    label: U63


class PlaceTrigger(Wire, tag=10):
    """An order that waits until mark (or index) is at or beyond a price; armed from the next block on.

    `is_above`: fires at or above `trigger_uusd`, else at or below. `price_uusd` None makes it a market order.
    It needs no margin before it fires, and is judged like any order when it does.
    """

    instrument: U32
    side: SideCode
    by_index: bool
    is_above: bool
    trigger_uusd: Price
    price_uusd: Price | None
    size_lots: Size
    time_in_force: Annotated[int, msgspec.Meta(ge=0, le=2)]
    reduce_only: bool
    label: U63


class ReplaceOrder(Wire, tag=11):
    """Change price and what is left of an open order. Fewer lots at the same price keep its age and id;
    anything else is a new order under a new id, and the old one stays if the new one is refused."""

    order_id: U63
    price_uusd: Price
    size_lots: Size


class Quote(Wire):
    """Both sides of one instrument; a size of 0 leaves that side out (its price is then ignored, send 1)."""

    instrument: U32
    bid_uusd: Price
    bid_lots: QuoteSize
    ask_uusd: Price
    ask_lots: QuoteSize


class MassQuote(Wire, tag=12):
    """Post-only quotes in many instruments at once; they replace all quotes the account has. Empty: none."""

    quotes: Annotated[tuple[Quote, ...], msgspec.Meta(max_length=QUOTES_MAX)]


class SetCancelTime(Wire, tag=13):
    """The dead-man switch: at this block time all orders and triggers go, unless renewed; 0 switches it off."""

    cancel_at_ns: U63


class SetProtection(Wire, tag=14):
    """Market-maker protection on one underlying: when quotes traded a limit within the interval, all go.

    A limit of 0 does not count; all three 0 removes the protection. `delta_ppm_max` in ppm of a contract,
    `vega_uusd_max` in micro-USD per volatility point, both net. Frozen for `frozen_ns`, or until reset if 0.
    """

    underlying: U8
    interval_ns: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    frozen_ns: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    lots_max: QuoteSize
    delta_ppm_max: U63
    vega_uusd_max: U63


class ResetProtection(Wire, tag=15):
    """Take quotes again and count from nothing."""

    underlying: U8


class RegisterSessionKey(Wire, tag=16):
    """Let another key act for this sub-account; it signs session_proof_bytes to show that it is willing.

    `scope`: SessionScope bits. `notional_uusd_max`: positions and open orders, gross at index, under which it
    may place orders that do not only reduce.
    """

    public_key: Bytes32
    scope: Annotated[int, msgspec.Meta(ge=1, le=15)]
    expires_ns: U63
    notional_uusd_max: U63
    proof: Bytes64


class RevokeSessionKey(Wire, tag=17):
    """End a session key's right to act."""

    public_key: Bytes32


class SetMarginModel(Wire, tag=18):
    """Choose how the sub-account is margined; its initial requirement must hold under the new model."""

    model: Annotated[int, msgspec.Meta(ge=0, le=1)]


class Leg(Wire):
    """Signed lots of one instrument in a package, as its buyer gets them."""

    instrument: U32
    lots: Annotated[int, msgspec.Meta(ge=-SIZE_LOTS_MAX, le=SIZE_LOTS_MAX)]


Legs = Annotated[tuple[Leg, ...], msgspec.Meta(min_length=1, max_length=LEGS_MAX)]


class RequestQuotes(Wire, tag=19):
    """Ask makers for a price of a whole package; legs in order of instrument."""

    legs: Legs
    expires_ns: U63


class QuotePackage(Wire, tag=20):
    """A maker's firm prices for a request: what a buyer of the package pays (below 0: gets); None: no side.

    A later one replaces an earlier one; both None withdraws it.
    """

    request_id: U63
    bid_uusd: NetPrice | None
    ask_uusd: NetPrice | None
    expires_ns: U63


class AcceptQuote(Wire, tag=21):
    """Trade the whole package with one maker at exactly this price; the taker's side."""

    request_id: U63
    maker: Bytes20
    maker_subaccount: U8
    side: SideCode
    price_uusd: NetPrice


class WithdrawRequest(Wire, tag=22):
    """Close one's request for quote."""

    request_id: U63


class BlockTerms(Wire):
    """What the maker of a block trade signs: the sender buys (BUY) or sells the legs for the price.

    `nonce` is one of the maker's sub-account.
    """

    chain_id: Bytes32
    taker: Bytes20
    taker_subaccount: U8
    maker_subaccount: U8
    legs: Legs
    side: SideCode
    price_uusd: NetPrice
    expires_ns: U63
    nonce: U63


class BlockTrade(Wire, tag=23):
    """A package agreed elsewhere, settled atomically under both signatures."""

    terms: BlockTerms
    maker_key: Bytes32
    maker_signature: Bytes64


class BidAuction(Wire, tag=70):
    """Take a part (at most what is for sale) of an account in auction, positions and free cash alike.

    `pay_at_most_uusd` is for what the bid really takes; below 0 the fund must pay at least so much.
    """

    owner: Bytes20
    subaccount: U8
    fraction_ppm: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    pay_at_most_uusd: I64


class VoteParameter(Wire, tag=71):
    """A validator's operator wants a number of policy (ledger/policy.py) to have a value."""

    validator: U32
    name: Annotated[str, msgspec.Meta(max_length=64)]
    value: I64


class RegisterValidator(Wire, tag=50):
    """Become a validator with stake of one's own; the sender is its operator from now on."""

    consensus_key: Bytes32
    oracle_key: Bytes32
    peer_id: Annotated[str, msgspec.Meta(max_length=64)]
    commission_ppm: U32
    stake_uusd: Amount


class Delegate(Wire, tag=51):
    """Bond cash with a validator; initial margin must hold afterwards."""

    validator: U32
    amount_uusd: Amount


class Unbond(Wire, tag=52):
    """Take stake out: cash when the unbonding period is over."""

    validator: U32
    amount_uusd: Amount


class Redelegate(Wire, tag=53):
    """Take stake out of one validator; it goes to another when the unbonding period is over."""

    validator: U32
    target: U32
    amount_uusd: Amount


class SetCommission(Wire, tag=54):
    """The operator's part of rewards, from the next epoch on."""

    validator: U32
    commission_ppm: U32


class AttestReadiness(Wire, tag=55):
    """The operator says that the node is synchronised and may be counted."""

    validator: U32


class LeaveValidatorSet(Wire, tag=56):
    """Be in no further set; a later attestation of readiness takes it back."""

    validator: U32


class RotateConsensusKey(Wire, tag=57):
    """Vote with another key in the sets decided from now on."""

    validator: U32
    consensus_key: Bytes32


class Unjail(Wire, tag=58):
    """Return from jail once its time is over."""

    validator: U32


class Announce(Wire, tag=59):
    """Where a validator is reached from now on: its libp2p key, with that key's consent, and its addresses."""

    validator: U32
    peer_key: Bytes32
    """Ed25519; the peer id follows from it."""
    addresses: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=ADDRESS_CHARS_MAX)], ...],
        msgspec.Meta(max_length=ADDRESSES_MAX),
    ]
    """As staking.addresses.parse_address takes them, each once; none: it dials, and is not dialled."""
    proof: Bytes64
    """Signature of `peer_key` over `peer_proof_bytes`."""


StakingAction = (
    RegisterValidator
    | Delegate
    | Unbond
    | Redelegate
    | SetCommission
    | AttestReadiness
    | LeaveValidatorSet
    | RotateConsensusKey
    | Unjail
    | Announce
)
OrderAction = PlaceOrder | PlaceUntil | PlaceMarket | PlaceTrigger | ReplaceOrder | MassQuote
SettingAction = (
    SetCancelTime | SetProtection | ResetProtection | RegisterSessionKey | RevokeSessionKey | SetMarginModel
)
PackageAction = RequestQuotes | QuotePackage | AcceptQuote | WithdrawRequest | BlockTrade
Action = (
    OrderAction
    | CancelOrder
    | CancelLabel
    | CancelAll
    | Deposit
    | Withdraw
    | TransferCash
    | SettingAction
    | PackageAction
    | BidAuction
    | VoteParameter
    | StakingAction
)


class Transaction(Wire):
    """A batch of actions of one sub-account under one signature and one nonce."""

    chain_id: Bytes32
    subaccount: U8
    nonce: U63
    actions: Annotated[tuple[Action, ...], msgspec.Meta(min_length=1, max_length=ACTIONS_MAX)]


Payload = Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]


class SignedTransaction(Wire, tag=1):
    """The Ed25519 envelope: `payload` is an encoded Transaction; the owner is address_of(public_key)."""

    payload: Payload
    public_key: Bytes32
    signature: Bytes64


class NamedInstrument(Wire):
    """What a wallet showed for an instrument's number; refused where the ledger knows it otherwise."""

    id: U32
    name: Annotated[str, msgspec.Meta(max_length=64)]
    lots_per_contract: Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]


class WalletTransaction(Wire, tag=2):
    """The secp256k1 envelope: the signature covers EIP-712 typed data that follows from `payload` and `names`.

    `owner`: the wallet's address, which is the account's. `names`: every instrument the actions name, ascending.
    """

    payload: Payload
    names: Annotated[tuple[NamedInstrument, ...], msgspec.Meta(max_length=WALLET_ITEMS_MAX)]
    owner: Bytes20
    signature: Bytes65


Envelope = SignedTransaction | WalletTransaction
"""What a block holds behind its oracle update. The tag, the first element, says under which scheme it is signed."""


class IndexReport(Wire):
    """One underlying's index as one validator sees it."""

    underlying: U8
    index_uusd: Price


class SurfaceReport(Wire):
    """One underlying's slices as one validator fits them, in order of expiry."""

    underlying: U8
    slices: Annotated[tuple[Slice, ...], msgspec.Meta(max_length=SLICES_MAX)]


class SeenDelay(Wire):
    """How late one validator saw a proposal: ppm of the time its leader had, from the validator's own clock.

    `place` is the leader's in the set of the height's epoch.
    """

    height: U63
    place: U16
    delay_ppm: U32


Cents = Annotated[int, msgspec.Meta(ge=0, le=PRICE_UUSD_MAX // UUSD_PER_CENT)]
"""Money in hundredths of a dollar: fine enough beside a tick, and short on the wire."""


class QuotesReport(Wire):
    """A validator's raw venue view: columns of one length, ascending by instrument; empty when none is asked for.

    A mark is the middle of the venues' quotes at the report's time, a half-spread half of what lies between their
    bid and ask.
    """

    instruments: Annotated[tuple[U32, ...], msgspec.Meta(max_length=QUOTES_REPORTED_MAX)]
    marks_cents: Annotated[tuple[Cents, ...], msgspec.Meta(max_length=QUOTES_REPORTED_MAX)]
    half_spreads_cents: Annotated[tuple[Cents, ...], msgspec.Meta(max_length=QUOTES_REPORTED_MAX)]


NO_QUOTES = QuotesReport((), (), ())


class OracleReport(Wire):
    """What one validator sees: index per underlying always, surfaces and quotes once per oracle epoch, its clock."""

    chain_id: Bytes32
    reporter: U16
    time_ns: U63
    indices: Annotated[tuple[IndexReport, ...], msgspec.Meta(max_length=8)]
    surfaces: Annotated[tuple[SurfaceReport, ...], msgspec.Meta(max_length=8)]
    delays: Annotated[tuple[SeenDelay, ...], msgspec.Meta(max_length=DELAYS_MAX)]
    """The newest proposals that it saw, in ascending order of height and place."""
    quotes: QuotesReport


class SignedReport(Wire):
    """An encoded OracleReport under the reporter's oracle key (never the consensus key)."""

    payload: Payload
    reporter: U16
    signature: Bytes64


class OracleUpdate(Wire):
    """The block's first transaction: reports in ascending order of reporter, at most one each."""

    reports: Annotated[tuple[SignedReport, ...], msgspec.Meta(max_length=256)]


def transaction_sign_bytes(payload: bytes) -> bytes:
    """What a client's signature covers."""
    return b"QUORATE-TX-1" + payload


def peer_proof_bytes(chain_id: bytes, operator: bytes, validator: int) -> bytes:
    """What a libp2p key signs when a validator announces it: nobody can announce another's."""
    return b"QUORATE-PEER-1" + chain_id + operator + validator.to_bytes(4, "big")


def session_proof_bytes(chain_id: bytes, owner: bytes, subaccount: int) -> bytes:
    """What a session key signs to be registered."""
    return b"QUORATE-SESSION-1" + chain_id + owner + bytes((subaccount,))


def block_terms_sign_bytes(terms: BlockTerms) -> bytes:
    """What the maker of a block trade signs."""
    return b"QUORATE-BLOCK-TRADE-1" + encode(terms)


def report_sign_bytes(payload: bytes) -> bytes:
    """What an oracle reporter's signature covers."""
    return b"QUORATE-ORACLE-1" + payload


def transaction_id(raw: bytes) -> bytes:
    """32 bytes that name an encoded envelope."""
    return digest(b"quorate-tx", raw)
