"""The ledger's part of genesis: accounts, instruments and every parameter of policy. Pure.

All times are market nanoseconds. Intervals that exist because of networks are already scaled by a testnet's
speed.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ledger.instruments import Instrument
from ledger.margin.parameters import MarginParameters
from primitives.codec import U8, U32, U63, Bytes20, Bytes32, Wire

INSTRUMENTS_MAX = 4_096
ACCOUNTS_MAX = 100_000


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
