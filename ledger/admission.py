"""Cheap checks before the mempool, and what a block's signatures cover. Pure.

The order is size, typed decode, bounds, canonical form (all in the codec), chain, account, nonce, then each
order's own shape; the signature is the caller's, who verifies in batches and remembers what it verified.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ledger.accounts import Account, nonce_bits_to_int, use_nonce
from ledger.instruments import Instrument, Kind
from ledger.matching.orders import AccountKey, Ticks, is_on_tick
from ledger.oracle import decode_update, reporters_of
from ledger.reasons import LedgerReason
from ledger.trading.reasons import TradingReason
from ledger.trading.sessions import check_scope
from ledger.trading.state import Session, get_session
from ledger.transactions import (
    PAYLOAD_BYTES_MAX,
    WALLET_ITEMS_MAX,
    Deposit,
    Envelope,
    NamedInstrument,
    PlaceOrder,
    PlaceUntil,
    SignedTransaction,
    TimeInForce,
    Transaction,
    report_sign_bytes,
    transaction_id,
    transaction_sign_bytes,
)
from ledger.typed_data import check_readable, typed_data
from primitives.codec import decode
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.signing import address_of

if TYPE_CHECKING:
    from ledger.state import State

T = TypeVar("T")

TRANSACTION_BYTES_MAX = PAYLOAD_BYTES_MAX + 256 + 80 * WALLET_ITEMS_MAX
"""A payload and its envelope with its names."""
SignatureCheck = tuple[bytes, bytes, bytes]
"""(public key or wallet's address, signed bytes, signature), for primitives.wallet.is_valid_by_any."""


class ReadTransaction(NamedTuple):
    """A decoded transaction and who signed it."""

    id: bytes
    signer: bytes
    """32 bytes: an Ed25519 key; 20 bytes: a wallet's address."""
    owner: bytes
    content: Transaction
    signed: Envelope | None
    """None: it is only tried out, and nobody has signed it."""
    names: tuple[NamedInstrument, ...] = ()
    """What a wallet showed for instruments."""

    @property
    def check(self) -> SignatureCheck:
        """Its signature; made when asked for, after cheaper checks, for a wallet's words cost as much as several."""
        signed = self.signed
        if isinstance(signed, SignedTransaction):
            return signed.public_key, transaction_sign_bytes(signed.payload), signed.signature
        if signed is None:
            raise InvariantViolation("what is only tried out is not verified")
        return signed.owner, typed_data(self.content, signed.payload, signed.names).digest(), signed.signature

    @property
    def account(self) -> AccountKey:
        """The sub-account that acts."""
        return self.owner, self.content.subaccount

    @property
    def order(self) -> tuple[bytes, int, int, bytes]:
        """Processing order inside a block, whatever order the leader gave."""
        return self.owner, self.content.subaccount, self.content.nonce, self.id


@lru_cache(maxsize=2_048)
def read_transaction(raw: bytes) -> ReadTransaction:
    """Decode one transaction; remembered, because mempool, validation and execution all need it.

    Raises:
        ProtocolViolation: TOO_LARGE, MALFORMED, NOT_CANONICAL or UNREADABLE.
    """
    signed: Envelope = decode(Envelope, raw, bytes_max=TRANSACTION_BYTES_MAX)  # type: ignore[arg-type]
    content = decode(Transaction, signed.payload, bytes_max=PAYLOAD_BYTES_MAX)
    if isinstance(signed, SignedTransaction):
        key = signed.public_key
        return ReadTransaction(transaction_id(raw), key, address_of(key), content, signed)
    check_readable(content, signed.names)
    return ReadTransaction(transaction_id(raw), signed.owner, signed.owner, content, signed, signed.names)


def signatures_of_block(state: State, transactions: tuple[bytes, ...]) -> list[SignatureCheck]:
    """Every signature a block carries, reports first.

    Raises:
        ProtocolViolation: NO_ORACLE_UPDATE, ORACLE_REPORTER, UNDECODABLE_TRANSACTION.
    """
    if not transactions:
        raise ProtocolViolation(LedgerReason.NO_ORACLE_UPDATE, "the block has no first transaction")
    reporters = reporters_of(state)
    checks: list[SignatureCheck] = []
    for report in read_or_refuse(decode_update, transactions[0]).reports:
        if report.reporter not in reporters:
            raise ProtocolViolation(LedgerReason.ORACLE_REPORTER, f"no reporter {report.reporter}")
        key = reporters[report.reporter].oracle_key
        checks.append((key, report_sign_bytes(report.payload), report.signature))
    checks += [read_or_refuse(read_transaction, raw).check for raw in transactions[1:]]
    return checks


def read_or_refuse(read: Callable[[bytes], T], raw: bytes) -> T:
    """`read(raw)`, any refusal as UNDECODABLE_TRANSACTION with its cause."""
    try:
        return read(raw)
    except ProtocolViolation as violation:
        raise ProtocolViolation(LedgerReason.UNDECODABLE_TRANSACTION, str(violation)) from None


def check_transaction(state: State, raw: bytes) -> ReadTransaction:
    """Whether a transaction may wait for a block as the state stands now; its signature is the caller's.

    Passing promises nothing: prices, margin and other transactions may still refuse it when its block
    executes.

    Raises:
        ProtocolViolation: with the reason.
    """
    read = read_transaction(raw)
    account, session = resolve_sender(state, read)
    check_session_time(session, state.clock.time_ns)
    use_nonce(
        account.nonce_floor,
        nonce_bits_to_int(account.nonce_bits),
        read.content.nonce,
        state.parameters.nonce_window,
    )
    for action in read.content.actions:
        if session is not None:
            check_scope(session, action)
        if isinstance(action, PlaceOrder):
            check_order_shape(state, action, state.clock.time_ns)
        elif isinstance(action, PlaceUntil):
            check_order_shape(state, action.order, state.clock.time_ns)
        elif isinstance(action, Deposit):
            check_custodian(state, read.signer)
    return read


def resolve_sender(state: State, read: ReadTransaction) -> tuple[Account, Session | None]:
    """The account that acts, and what its key may do if it is a session key.

    Raises:
        ProtocolViolation: WRONG_CHAIN, UNKNOWN_ACCOUNT, WRONG_NAME.
    """
    if read.content.chain_id != state.chain_id:
        raise ProtocolViolation(LedgerReason.WRONG_CHAIN, "signed for another chain")
    for named in read.names:
        check_name(state, named)
    account = state.account(read.account)
    if account is not None:
        return account, None
    session = get_session(state, read.owner)
    if session is not None and session.subaccount == read.content.subaccount:
        account = state.account((session.owner, session.subaccount))
    if account is None:
        raise ProtocolViolation(
            LedgerReason.UNKNOWN_ACCOUNT, f"{read.owner.hex()} has no sub-account {read.content.subaccount}"
        )
    return account, session


def check_name(state: State, named: NamedInstrument) -> None:
    """Raises ProtocolViolation(WRONG_NAME) unless a wallet showed the instrument as what it is."""
    known = state.instruments.get(named.id)
    if known is None or (known.name, known.lots_per_contract) != (named.name, named.lots_per_contract):
        raise ProtocolViolation(LedgerReason.WRONG_NAME, f"instrument {named.id} is not {named.name}")


def check_session_time(session: Session | None, time_ns: int) -> None:
    """Raises ProtocolViolation(SESSION_EXPIRED)."""
    if session is not None and session.expires_ns <= time_ns:
        raise ProtocolViolation(TradingReason.SESSION_EXPIRED, "the session key's time is over")


def check_custodian(state: State, signer: bytes) -> None:
    """Raises ProtocolViolation(NOT_CUSTODIAN)."""
    if signer != state.genesis.custodian_key:
        raise ProtocolViolation(LedgerReason.NOT_CUSTODIAN, "only the custodian's key signs deposits")


def ticks_of(state: State, instrument: Instrument) -> Ticks:
    """The price grid of an instrument."""
    parameters = state.underlying(instrument.underlying)
    if instrument.kind == Kind.PERPETUAL:
        return ((0, parameters.perpetual_tick_uusd),)
    return parameters.ticks


def check_order_shape(state: State, order: PlaceOrder, time_ns: int) -> Instrument:
    """What is wrong with an order whatever the account and the book; its instrument if nothing is.

    Raises:
        ProtocolViolation: UNKNOWN_INSTRUMENT, INSTRUMENT_EXPIRED, OFF_TICK, POST_ONLY_NOT_GTC.
    """
    instrument = find_tradable(state, order.instrument, time_ns)
    check_order_form(instrument, ticks_of(state, instrument), order)
    return instrument


def find_tradable(state: State, instrument_id: int, time_ns: int) -> Instrument:
    """An instrument that has not expired. Raises ProtocolViolation: UNKNOWN_INSTRUMENT, INSTRUMENT_EXPIRED."""
    instrument = state.instruments.get(instrument_id)
    if instrument is None:
        raise ProtocolViolation(LedgerReason.UNKNOWN_INSTRUMENT, f"no instrument {instrument_id}")
    if instrument.kind != Kind.PERPETUAL and instrument.expiry_ns <= time_ns:
        raise ProtocolViolation(LedgerReason.INSTRUMENT_EXPIRED, f"{instrument.name} has expired")
    return instrument


def check_order_form(instrument: Instrument, ticks: Ticks, order: PlaceOrder) -> None:
    """Raises ProtocolViolation: OFF_TICK, POST_ONLY_NOT_GTC."""
    if not is_on_tick(ticks, order.price_uusd):
        raise ProtocolViolation(
            LedgerReason.OFF_TICK, f"{order.price_uusd} is not on the price grid of {instrument.name}"
        )
    if order.post_only and order.time_in_force != TimeInForce.GTC:
        raise ProtocolViolation(
            LedgerReason.POST_ONLY_NOT_GTC, "a post-only order must be good till cancelled"
        )
