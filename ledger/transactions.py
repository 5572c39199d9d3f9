"""What clients and oracle reporters may put into a block, and the bytes they sign. Pure.

A block's first transaction is the OracleUpdate; all others are SignedTransactions. Signatures cover the
received payload bytes under a domain tag, so that bytes are verified before they are decoded.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from ledger.market import Slice
from primitives.codec import U8, U16, U32, U63, Bytes20, Bytes32, Bytes64, Wire
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

Price = Annotated[int, msgspec.Meta(ge=1, le=PRICE_UUSD_MAX)]
Size = Annotated[int, msgspec.Meta(ge=1, le=SIZE_LOTS_MAX)]
Amount = Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Side(IntEnum):
    BUY = 0
    SELL = 1


class TimeInForce(IntEnum):
    """GTC rests until cancelled; IOC takes part in one call and is then cancelled."""

    GTC = 0
    IOC = 1


class PlaceOrder(Wire, tag=1):
    """A limit order. `label` is the client's number, unique among the account's open orders, 0 for none."""

    instrument: U32
    side: Annotated[int, msgspec.Meta(ge=0, le=1)]
    price_uusd: Price
    size_lots: Size
    time_in_force: Annotated[int, msgspec.Meta(ge=0, le=1)]
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
)
Action = (
    PlaceOrder | CancelOrder | CancelLabel | CancelAll | Deposit | Withdraw | TransferCash | StakingAction
)


class Transaction(Wire):
    """A batch of actions of one sub-account under one signature and one nonce."""

    chain_id: Bytes32
    subaccount: U8
    nonce: U63
    actions: Annotated[tuple[Action, ...], msgspec.Meta(min_length=1, max_length=ACTIONS_MAX)]


class SignedTransaction(Wire):
    """The envelope: `payload` is an encoded Transaction; the owner is address_of(public_key)."""

    payload: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]
    public_key: Bytes32
    signature: Bytes64


class IndexReport(Wire):
    """One underlying's index as one validator sees it."""

    underlying: U8
    index_uusd: Price


class SurfaceReport(Wire):
    """One underlying's slices as one validator fits them, in order of expiry."""

    underlying: U8
    slices: Annotated[tuple[Slice, ...], msgspec.Meta(max_length=SLICES_MAX)]


class OracleReport(Wire):
    """What one validator sees: index per underlying always, surfaces once per oracle epoch, and its clock."""

    chain_id: Bytes32
    reporter: U16
    time_ns: U63
    indices: Annotated[tuple[IndexReport, ...], msgspec.Meta(max_length=8)]
    surfaces: Annotated[tuple[SurfaceReport, ...], msgspec.Meta(max_length=8)]


class SignedReport(Wire):
    """An encoded OracleReport under the reporter's oracle key (never the consensus key)."""

    payload: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]
    reporter: U16
    signature: Bytes64


class OracleUpdate(Wire):
    """The block's first transaction: reports in ascending order of reporter, at most one each."""

    reports: Annotated[tuple[SignedReport, ...], msgspec.Meta(max_length=256)]


def transaction_sign_bytes(payload: bytes) -> bytes:
    """What a client's signature covers."""
    return b"QUORATE-TX-1" + payload


def report_sign_bytes(payload: bytes) -> bytes:
    """What an oracle reporter's signature covers."""
    return b"QUORATE-ORACLE-1" + payload


def transaction_id(raw: bytes) -> bytes:
    """32 bytes that name an encoded SignedTransaction."""
    return digest(b"quorate-tx", raw)
