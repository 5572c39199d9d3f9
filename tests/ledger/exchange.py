"""The vocabulary of ledger tests: a small exchange, named traders, honest reporters, a helpful clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ledger.apply import BlockContext, BlockResult, apply_block
from ledger.breakers.parameters import BreakerParameters
from ledger.events import ActionRejected, TransactionRejected
from ledger.genesis import (
    GenesisAccount,
    LedgerGenesis,
    LedgerParameters,
    OracleReporter,
    UnderlyingParameters,
)
from ledger.instruments import Instrument, Kind, Underlying
from ledger.invariants import check_everything
from ledger.margin.parameters import default_margin_parameters
from ledger.market import Slice
from ledger.matching.orders import AccountKey
from ledger.oracle import build_oracle_update, compute_block_time, decode_update
from ledger.settlement.parameters import ListingParameters, ProtocolParameters
from ledger.state import State
from ledger.transactions import (
    NO_QUOTES,
    Action,
    IndexReport,
    NamedInstrument,
    OracleReport,
    PlaceOrder,
    QuotesReport,
    SeenDelay,
    Side,
    SignedReport,
    SignedTransaction,
    SurfaceReport,
    TimeInForce,
    Transaction,
    WalletTransaction,
    report_sign_bytes,
    transaction_sign_bytes,
)
from ledger.typed_data import instruments_of, typed_data
from node.genesis_defaults import default_breakers, default_protection, default_staking, default_trading
from primitives.amounts import NS, SECONDS_PER_YEAR, USD
from primitives.codec import encode
from primitives.identifiers import Address
from primitives.signing import SigningKey, address_of
from primitives.wallet import WalletKey

CHAIN = bytes(range(32))
START_NS = 1_770_000_000 * NS
DAY_NS = 86_400 * NS
EXPIRY_NS = START_NS + 30 * DAY_NS
NEAR_NS = START_NS + 3_600 * NS
BTC_PERP, CALL_110, PUT_90, CALL_100, NEAR_CALL, NEAR_PUT, ETH_PERP = 0, 1, 2, 3, 4, 5, 6
K = 1_000 * USD
INSTRUMENTS = (
    Instrument(BTC_PERP, Underlying.BTC, Kind.PERPETUAL, 0, 0, 100),
    Instrument(CALL_110, Underlying.BTC, Kind.CALL, EXPIRY_NS, 110 * K, 100),
    Instrument(PUT_90, Underlying.BTC, Kind.PUT, EXPIRY_NS, 90 * K, 100),
    Instrument(CALL_100, Underlying.BTC, Kind.CALL, EXPIRY_NS, 100 * K, 100),
    Instrument(NEAR_CALL, Underlying.BTC, Kind.CALL, NEAR_NS, 100 * K, 100),
    Instrument(NEAR_PUT, Underlying.BTC, Kind.PUT, NEAR_NS, 100_500 * USD, 100),
    Instrument(ETH_PERP, Underlying.ETH, Kind.PERPETUAL, 0, 0, 10),
)
BTC_TICKS = ((1_000 * USD, 5 * USD), (50 * USD, 1 * USD), (0, USD // 10))
PARAMETERS: dict[str, int] = {
    "maker_fee_ppm": 100,
    "taker_fee_ppm": 300,
    "option_fee_cap_ppm": 125_000,
    "nonce_window": 100,
    "open_orders_max": 40,
    "positions_max": 20,
    "orders_per_book_max": 200,
    "oracle_stale_ns": 5 * NS,
    "oracle_epoch_ns": 5 * NS,
    "theta_limit_ppm": 150_000,
    "forward_limit_ppm": 20_000,
    "confidence_decay_ppm": 100_000,
    "settlement_window_ns": 1_800 * NS,
    "settlement_bucket_ns": 4 * NS,
    "settlement_carry_buckets_max": 3,
    "liquidation_close_ppm": 200_000,
    "liquidation_delta_uusd": 100_000 * USD,
    "price_band_ppm": 250_000,
    "insurance_fund_uusd": 1_000_000 * USD,
}


def a_key(name: str) -> SigningKey:
    """The key of a named person: the same in every test."""
    return SigningKey(name.encode().ljust(32, b"."))


def a_wallet(name: str) -> WalletKey:
    """The secp256k1 key of a named person."""
    return WalletKey(name.encode().ljust(32, b"."))


WALLET_OWNERS = {"wanda", "walter"}
"""People whose account is their wallet's."""


def address_of_person(name: str) -> Address:
    """Whose sub-accounts a named person has."""
    return a_wallet(name).address if name in WALLET_OWNERS else address_of(a_key(name).public_key)


CUSTODIAN = a_key("custodian")
REPORTERS = tuple(a_key(f"reporter {number}") for number in range(4))


def no_breakers() -> BreakerParameters:
    """Neither gaps nor moves nor latency stop anything; drift is judged once reports carry quotes."""
    numbers = default_breakers()
    return replace(numbers, monitors=(), gaps=(), latency=replace(numbers.latency, pause_spreads=0))


def a_genesis(
    cash_usd: dict[str, int],
    instruments: Sequence[Instrument] = INSTRUMENTS,
    *,
    vault_usd: int = 0,
    listing: ListingParameters | None = None,
    breakers: BreakerParameters | None = None,
    **parameters: int,
) -> LedgerGenesis:
    """Traders with cash in their sub-account 0."""
    underlyings = tuple(
        UnderlyingParameters(
            underlying=underlying,
            index_uusd=index_usd * USD,
            ticks=BTC_TICKS,
            perpetual_tick_uusd=USD // 2,
            margin=default_margin_parameters(underlying),
        )
        for underlying, index_usd in ((Underlying.BTC, 100_000), (Underlying.ETH, 4_000))
    )
    return LedgerGenesis(
        time_ns=START_NS,
        custodian_key=CUSTODIAN.public_key,
        reporters=tuple(OracleReporter(key.public_key, 100) for key in REPORTERS),
        underlyings=underlyings,
        instruments=tuple(instruments),
        accounts=tuple(
            GenesisAccount(address_of_person(name), 0, usd * USD) for name, usd in sorted(cash_usd.items())
        ),
        parameters=LedgerParameters(**{**PARAMETERS, **parameters}),
        staking=default_staking(()),
        trading=default_trading(),
        protection=default_protection(vault_usd * USD, listing),
        protocol=ProtocolParameters(1),
        breakers=breakers or no_breakers(),
    )


def a_slice(expiry_ns: int, now_ns: int, forward_uusd: int, vol_ppm: int = 500_000, **changes: int) -> Slice:
    """A flat-ish smile of one expiry with full confidence."""
    theta_e12 = max(10_000, vol_ppm**2 * (expiry_ns - now_ns) // (SECONDS_PER_YEAR * NS))
    fields = {
        "expiry_ns": expiry_ns,
        "forward_uusd": forward_uusd,
        "discount_ppm": 1_000_000,
        "theta_e12": theta_e12,
        "rho_e6": 0,
        "psi_e9": max(1, theta_e12 // 2000),
        "wings_e9": 0,
        "confidence_ppm": 1_000_000,
    }
    return Slice(**{**fields, **changes})


def a_report(
    reporter: int,
    time_ns: int,
    btc_usd: float | int = 100_000,
    *,
    expiries: Sequence[int] = (),
    vol_ppm: int = 500_000,
    delays: Sequence[SeenDelay] = (),
    quotes: QuotesReport | None = None,
) -> SignedReport:
    """What an honest reporter signs; `expiries` get slices."""
    index_uusd = int(btc_usd * USD)
    slices = tuple(a_slice(item, time_ns, index_uusd, vol_ppm) for item in sorted(expiries) if item > time_ns)
    surfaces = (SurfaceReport(Underlying.BTC, slices),) if slices else ()
    indices = (IndexReport(Underlying.BTC, index_uusd), IndexReport(Underlying.ETH, 4_000 * USD))
    return sign_report(
        OracleReport(CHAIN, reporter, time_ns, indices, surfaces, tuple(delays), quotes or NO_QUOTES)
    )


def sign_report(report: OracleReport) -> SignedReport:
    """Under the reporter's own key."""
    payload = encode(report)
    key = a_key(f"reporter {report.reporter}")
    return SignedReport(payload, report.reporter, key.sign(report_sign_bytes(payload)))


def sign(key: SigningKey, transaction: Transaction) -> bytes:
    """The bytes a client sends."""
    payload = encode(transaction)
    return encode(SignedTransaction(payload, key.public_key, key.sign(transaction_sign_bytes(payload))))


def sign_in_wallet(
    wallet: WalletKey, transaction: Transaction, instruments: Sequence[Instrument] = INSTRUMENTS
) -> bytes:
    """The bytes a wallet's owner sends, who is shown `instruments` by their names."""
    payload, by_id = encode(transaction), {item.id: item for item in instruments}
    shown = [by_id[number] for number in instruments_of(transaction) if number in by_id]
    names = tuple(NamedInstrument(item.id, item.name, item.lots_per_contract) for item in shown)
    signature = wallet.sign(typed_data(transaction, payload, names).digest())
    return encode(WalletTransaction(payload, names, wallet.address, signature))


def buy(instrument: int, price_usd: float, lots: int, **how: Any) -> PlaceOrder:
    """A limit buy, good till cancelled unless said otherwise."""
    return _order(Side.BUY, instrument, price_usd, lots, **how)


def sell(instrument: int, price_usd: float, lots: int, **how: Any) -> PlaceOrder:
    """A limit sell."""
    return _order(Side.SELL, instrument, price_usd, lots, **how)


def _order(
    side: Side,
    instrument: int,
    price_usd: float,
    lots: int,
    *,
    ioc: bool = False,
    post_only: bool = False,
    reduce_only: bool = False,
    label: int = 0,
) -> PlaceOrder:
    tif = TimeInForce.IOC if ioc else TimeInForce.GTC
    return PlaceOrder(instrument, side, round(price_usd * USD), lots, tif, post_only, reduce_only, label)


class Exchange:
    """A ledger under test: say who does what, then close a block; every block is checked from scratch."""

    def __init__(self, instruments: Sequence[Instrument] = INSTRUMENTS, /, **cash_usd: int) -> None:
        self.parameters: dict[str, int] = {}
        self.start(a_genesis(cash_usd, instruments))

    def start(self, genesis: LedgerGenesis) -> Exchange:
        """Begin anew from a genesis."""
        self.genesis = genesis
        self.state = State.from_genesis(genesis, CHAIN)
        self.now_ns = START_NS
        self.btc_usd: float = 100_000
        self.vol_ppm = 500_000
        self.waiting: list[bytes] = []
        self.delays: Sequence[SeenDelay] = ()
        self.quotes: QuotesReport | None = None
        """What every reporter says of the venues, until it is changed."""
        self.nonces: dict[tuple[str, int], int] = {}
        self.expiries = sorted({item.expiry_ns for item in genesis.instruments if item.expiry_ns})
        return self

    def does(self, name: str, *actions: Action, subaccount: int = 0, nonce: int | None = None) -> bytes:
        """Sign a batch and let it wait for the next block."""
        if nonce is None:
            nonce = self.nonces.get((name, subaccount), -1) + 1
            self.nonces[name, subaccount] = nonce
        transaction = Transaction(CHAIN, subaccount, nonce, tuple(actions))
        if name in WALLET_OWNERS:
            raw = sign_in_wallet(a_wallet(name), transaction, list(self.state.instruments.values()))
        else:
            raw = sign(a_key(name), transaction)
        self.waiting.append(raw)
        return raw

    def transactions(self, seconds: float = 1, *, oracle: bool = True) -> tuple[bytes, ...]:
        """The next block's content, with every reporter's report `seconds` after the last."""
        self.now_ns += round(seconds * NS)
        waiting, self.waiting = self.waiting, []
        delays, self.delays = self.delays, ()
        said: dict[str, Any] = {"expiries": self.expiries, "vol_ppm": self.vol_ppm}
        said |= {"delays": delays, "quotes": self.quotes}
        reports = [
            a_report(number, self.now_ns + number, self.btc_usd, **said) for number in range(len(REPORTERS))
        ]
        update = build_oracle_update(self.state, reports if oracle else [])
        return (encode(update), *waiting)

    def block(self, seconds: float = 1, *, oracle: bool = True) -> BlockResult:
        """Close a block, undoable, with everything that waits."""
        return self.apply(self.transactions(seconds, oracle=oracle))

    def apply(self, transactions: tuple[bytes, ...]) -> BlockResult:
        """Execute given transactions as the next block."""
        time_ns = compute_block_time(self.state, decode_update(transactions[0]))
        context = BlockContext(self.state.clock.height + 1, time_ns)
        if self.state.open_blocks >= 8:
            self.state.commit_oldest()
        self.state.begin_block()
        result = apply_block(self.state, context, transactions)
        check_everything(self.state)
        return result

    def key(self, name: str, subaccount: int = 0) -> AccountKey:
        """A trader's account key."""
        return address_of_person(name), subaccount

    def lots(self, name: str, instrument: int, subaccount: int = 0) -> int:
        """Signed lots held."""
        account = self.state.account(self.key(name, subaccount))
        assert account is not None
        return sum(item.lots for item in account.positions if item.instrument == instrument)

    def cash(self, name: str, subaccount: int = 0) -> int:
        """Cash in micro-USD."""
        account = self.state.account(self.key(name, subaccount))
        assert account is not None
        return account.cash_uusd


def events_of(result: BlockResult, kind: type[Any]) -> list[Any]:
    """The events of one kind, in order."""
    return [event for event in result.events if isinstance(event, kind)]


def reasons(result: BlockResult) -> list[str]:
    """Why actions and transactions were refused, in order."""
    return [
        event.reason for event in result.events if isinstance(event, TransactionRejected | ActionRejected)
    ]
