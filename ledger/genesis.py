"""The ledger's part of genesis: accounts, instruments and every parameter of policy. Pure.

All times are market nanoseconds. Intervals that exist because of networks are already scaled by a testnet's
speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from ledger.breakers.parameters import BreakerParameters, breaker_rules
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.margin.parameters import MarginParameters
from ledger.margin.scenarios import LOT_VALUE_E8_MAX, VALUE_SCALE
from ledger.reasons import LedgerReason
from ledger.settlement.parameters import ProtectionParameters, ProtocolParameters, protection_rules
from ledger.staking.parameters import StakingParameters, genesis_stake_rules, staking_rules
from ledger.trading.parameters import TradingParameters, trading_rules
from primitives.amounts import NS, PPM, SECONDS_PER_YEAR
from primitives.codec import U8, U32, U63, Bytes20, Bytes32, Wire
from primitives.errors import ProtocolViolation

INSTRUMENTS_MAX = 4_096
ACCOUNTS_MAX = 100_000
"""Sub-accounts; a deposit or transfer that would open one more is refused."""
DEPOSITED_UUSD_MAX = 1 << 59
"""Everything ever deposited; more is refused, so that every sum of money stays exact in 64 bits."""
EXPIRY_YEARS_MAX = 5
"""How far ahead an option may expire: the forward contingency grows with time."""


class OracleReporter(Wire):
    """A validator's oracle key and voting power; its place in the list is its reporter number."""

    oracle_key: Bytes32
    weight: U32


class GenesisAccount(Wire):
    """Cash that exists at height 0, counted as deposited."""

    owner: Bytes20
    subaccount: U8
    cash_uusd: U63


class UnderlyingParameters(Wire):
    """One underlying's index at genesis, tick steps and margin parameters.

    `ticks`: (premium at or above, tick) pairs, descending; the last starts at 0. Every tick is a multiple of
    lots_per_contract micro-USD, so that premium * lots / lots_per_contract is exact.
    """

    underlying: U8
    index_uusd: U63
    ticks: tuple[tuple[U63, U63], ...]
    perpetual_tick_uusd: U63
    margin: MarginParameters


class LedgerParameters(Wire):
    """Policy numbers; fees and limits in ppm, times in market nanoseconds."""

    maker_fee_ppm: U32
    taker_fee_ppm: U32
    option_fee_cap_ppm: U32
    nonce_window: U32
    open_orders_max: U32
    positions_max: U32
    orders_per_book_max: U32
    oracle_stale_ns: U63
    oracle_epoch_ns: U63
    theta_limit_ppm: U32
    forward_limit_ppm: U32
    confidence_decay_ppm: U32
    settlement_window_ns: U63
    settlement_bucket_ns: U63
    settlement_carry_buckets_max: U32
    liquidation_close_ppm: U32
    liquidation_delta_uusd: U63
    price_band_ppm: U32
    insurance_fund_uusd: U63


class LedgerGenesis(Wire):
    """Everything the ledger knows before the first block."""

    time_ns: U63
    custodian_key: Bytes32
    reporters: Annotated[tuple[OracleReporter, ...], msgspec.Meta(min_length=1, max_length=256)]
    underlyings: tuple[UnderlyingParameters, ...]
    instruments: Annotated[tuple[Instrument, ...], msgspec.Meta(max_length=INSTRUMENTS_MAX)]
    accounts: Annotated[tuple[GenesisAccount, ...], msgspec.Meta(max_length=ACCOUNTS_MAX)]
    parameters: LedgerParameters
    staking: StakingParameters
    trading: TradingParameters
    protection: ProtectionParameters
    protocol: ProtocolParameters
    breakers: BreakerParameters


def ledger_rules(parameters: LedgerParameters) -> Iterator[tuple[bool, str]]:
    """(whether it holds, the rule) for what votes may change of them."""
    yield (
        0 < parameters.oracle_epoch_ns <= parameters.oracle_stale_ns,
        "reports of one oracle epoch are fresh",
    )
    yield 0 < parameters.liquidation_close_ppm <= PPM, "liquidation closes a part in each block"


def check_genesis(genesis: LedgerGenesis) -> None:
    """The relations that exact arithmetic and the state's keys rest on.

    Raises:
        ProtocolViolation: BAD_GENESIS, with the first that does not hold.
    """
    for holds, rule in _rules(genesis):
        if not holds:
            raise ProtocolViolation(LedgerReason.BAD_GENESIS, rule)


def _rules(genesis: LedgerGenesis) -> Iterator[tuple[bool, str]]:
    parameters = genesis.parameters
    ids = [item.id for item in genesis.instruments]
    underlyings = [item.underlying for item in genesis.underlyings]
    accounts = {(item.owner, item.subaccount) for item in genesis.accounts}
    window_ns, bucket_ns = parameters.settlement_window_ns, parameters.settlement_bucket_ns
    yield ids == sorted(set(ids)), "instruments are in order of id, each once"
    yield underlyings == sorted(set(underlyings)), "underlyings are in order, each once"
    yield len(accounts) == len(genesis.accounts), "an account is listed once"
    cash_uusd = sum(item.cash_uusd for item in genesis.accounts)
    stake_uusd = sum(item.stake_uusd for item in genesis.staking.validators)
    yield (
        cash_uusd + stake_uusd + parameters.insurance_fund_uusd + genesis.protection.vault_uusd
        <= DEPOSITED_UUSD_MAX,
        "cash and fund, with the stake, can be counted exactly",
    )
    yield from staking_rules(genesis.staking)
    yield from genesis_stake_rules(genesis.staking)
    yield from trading_rules(genesis.trading)
    yield from protection_rules(genesis.protection)
    yield from breaker_rules(genesis.breakers)
    yield genesis.protocol.version >= 1, "protocol versions count from 1"
    oracle_keys = tuple(item.oracle_key for item in genesis.staking.validators)
    yield (
        not oracle_keys or oracle_keys == tuple(item.oracle_key for item in genesis.reporters),
        "the validators with stake are the oracle's reporters, in their order",
    )
    yield all(item.weight for item in genesis.reporters), "every reporter has voting power"
    yield (
        bucket_ns > 0 and window_ns > 0 and window_ns % bucket_ns == 0,
        "buckets divide the settlement window",
    )
    yield from ledger_rules(parameters)
    yield 1 <= parameters.nonce_window <= 1_000, "a nonce window is 1 to 1000 wide"
    for item in genesis.instruments:
        yield item.underlying in underlyings, f"the underlying of {item.name} has parameters"
        yield (
            LOTS_PER_CONTRACT[Underlying(item.underlying)] == item.lots_per_contract,
            f"the lots of {item.name}",
        )
        strike_max = LOT_VALUE_E8_MAX // VALUE_SCALE * item.lots_per_contract
        yield item.strike_uusd <= strike_max, f"{item.name} can be valued exactly"
        latest_ns = genesis.time_ns + EXPIRY_YEARS_MAX * SECONDS_PER_YEAR * NS
        yield item.expiry_ns <= latest_ns, f"{item.name} expires within {EXPIRY_YEARS_MAX} years"
        is_option = item.kind != Kind.PERPETUAL
        yield is_option == (item.strike_uusd > 0) == (item.expiry_ns > 0), f"strike and expiry of {item.name}"
    for underlying in genesis.underlyings:
        lots = LOTS_PER_CONTRACT[Underlying(underlying.underlying)]
        ticks = [underlying.perpetual_tick_uusd, *(tick for _, tick in underlying.ticks)]
        starts = [start for start, _ in underlying.ticks]
        yield all(tick > 0 and tick % lots == 0 for tick in ticks), "ticks are multiples of lots_per_contract"
        yield all(start % lots == 0 for start in starts), "tick steps start at multiples of lots_per_contract"
        yield bool(starts) and starts == sorted(set(starts), reverse=True), "tick steps descend"
        yield starts[-1:] == [0], "the last tick step starts at 0"
