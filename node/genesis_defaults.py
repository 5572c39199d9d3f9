"""A genesis with market.md's numbers, a small listing, and times scaled by a testnet's speed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

from msgspec.structs import replace

from consensus.messages import VERSION_FIRST
from ledger.breakers.parameters import (
    BreakerParameters,
    DriftParameters,
    GapRule,
    LatencyParameters,
    PriceMonitor,
    UnderlyingMonitors,
)
from ledger.genesis import (
    GenesisAccount,
    LedgerGenesis,
    LedgerParameters,
    OracleReporter,
    UnderlyingParameters,
)
from ledger.instruments import LOTS_PER_CONTRACT, Instrument, Kind, Underlying
from ledger.listing_schedule import scheduled_expiries, strikes_around
from ledger.margin.parameters import default_margin_parameters
from ledger.margin.standard import DEFAULT_STANDARD_PARAMETERS
from ledger.oracle import genesis_slice
from ledger.settlement.parameters import (
    AuctionParameters,
    ExposureParameters,
    FundingParameters,
    ListingParameters,
    ProtectionParameters,
    ProtocolParameters,
)
from ledger.staking.parameters import GenesisStake, StakingParameters
from ledger.trading.parameters import TradingParameters
from ledger.transactions import QUOTES_REPORTED_MAX
from node.genesis import GENESIS_VERSION, ConsensusParameters, GenesisDocument, ValidatorEntry
from primitives.amounts import NS, USD
from primitives.signing import address_of

DAY_NS = 86_400 * NS
EXPIRY_OF_DAY_NS = 8 * 3_600 * NS
"""Options expire at 08:00:00 UTC."""
DEFAULT_INDEX_USD = {Underlying.BTC: 100_000, Underlying.ETH: 4_000}
"""Where `quorate init` starts when the operator says nothing; the first oracle update replaces it."""
TRIAL_EPOCH_BLOCKS = 200
"""Of `quorate init --trial`: some 15 seconds."""
STRIKE_STEP_USD = {Underlying.BTC: 5_000, Underlying.ETH: 200}
EXPIRY_DAYS = (1, 2, 7, 30)
STRIKES_EACH_SIDE = 4

PREMIUM_TICKS = ((1_000 * USD, 5 * USD), (50 * USD, USD), (0, USD // 10))
"""$5 at and above $1,000; $1 at and above $50; else $0.10 (market.md section 1)."""
PERPETUAL_TICKS_UUSD = {Underlying.BTC: USD, Underlying.ETH: USD // 10}


def default_ledger_genesis(
    *,
    time_ns: int,
    custodian_key: bytes,
    reporters: Sequence[OracleReporter],
    index_uusd: Mapping[Underlying, int],
    instruments: Sequence[Instrument],
    accounts: Sequence[GenesisAccount] = (),
    staking: StakingParameters | None = None,
    listing: ListingParameters | None = None,
    speed: int = 1,
) -> LedgerGenesis:
    """The ledger's genesis with market.md's numbers.

    Args:
        time_ns: market time at height 0.
        index_uusd: starting index of each underlying that is traded.
        instruments: what is listed, ids ascending.
        staking: None for a chain without staking.
        listing: None: `instruments` are all there will ever be.
        speed: market seconds per real second: network-bound intervals (staleness, oracle epoch) grow with it.
    """
    return LedgerGenesis(
        time_ns=time_ns,
        custodian_key=custodian_key,
        reporters=tuple(reporters),
        underlyings=tuple(_underlying(item, index_uusd[item]) for item in sorted(index_uusd)),
        instruments=tuple(instruments),
        accounts=tuple(accounts),
        parameters=default_ledger_parameters(speed),
        staking=default_staking((), speed=speed) if staking is None else staking,
        trading=default_trading(),
        protection=default_protection(listing=listing),
        protocol=ProtocolParameters(VERSION_FIRST),
        breakers=default_breakers(speed),
    )


def default_ledger_parameters(speed: int = 1) -> LedgerParameters:
    """Policy numbers; `speed` scales the intervals that exist because of networks."""
    return LedgerParameters(
        maker_fee_ppm=200,
        taker_fee_ppm=500,
        option_fee_cap_ppm=125_000,
        nonce_window=100,
        open_orders_max=400,
        positions_max=200,
        orders_per_book_max=2_000,
        oracle_stale_ns=10 * NS * speed,
        oracle_epoch_ns=5 * NS * speed,
        theta_limit_ppm=150_000,
        forward_limit_ppm=20_000,
        confidence_decay_ppm=100_000,
        settlement_window_ns=1_800 * NS,
        settlement_bucket_ns=4 * NS,
        settlement_carry_buckets_max=3,
        liquidation_close_ppm=200_000,
        liquidation_delta_uusd=100_000 * USD,
        price_band_ppm=250_000,
        insurance_fund_uusd=1_000_000 * USD,
    )


def default_trading() -> TradingParameters:
    """Limits of order types and packages; fees are the general rates of every underlying."""
    return TradingParameters(
        triggers_max=20,
        session_keys_max=8,
        requests_max=4,
        requests_total_max=256,
        request_quotes_max=16,
        request_legs_max=8,
        request_lots_max=100_000,
        request_lifetime_ns_max=3_600 * NS,
        standard=DEFAULT_STANDARD_PARAMETERS,
        fees=(),
    )


def trial_staking(validators: Sequence[ValidatorEntry]) -> StakingParameters:
    """Every step of a validator's life within minutes: to try staking, never for money."""
    return replace(
        default_staking(validators),
        epoch_blocks=TRIAL_EPOCH_BLOCKS,
        unbonding_epochs=3,
        unbonding_ns=30 * NS,
        evidence_epochs_max=1,
        evidence_ns_max=20 * NS,
        jail_ns=10 * NS,
    )


def default_staking(
    validators: Sequence[ValidatorEntry], *, stake_uusd: int = 1_000_000 * USD, speed: int = 1
) -> StakingParameters:
    """consensus.md section 9's penalties; every validator starts with `stake_uusd` times its weight.

    The operator of a genesis validator is the owner of its oracle key, which may sign transactions; the
    consensus key signs votes alone.
    """
    return StakingParameters(
        epoch_blocks=10_000,
        validators_min=4,
        validators_max=100,
        min_stake_uusd=100_000 * USD,
        min_delegation_uusd=100 * USD,
        weight_unit_uusd=1_000 * USD,
        weight_max=1_000_000,
        commission_ppm_max=500_000,
        commission_rise_ppm_max=10_000,
        fund_fee_share_ppm=200_000,
        unbonding_epochs=21,
        unbonding_ns=21 * DAY_NS,
        evidence_epochs_max=14,
        evidence_ns_max=14 * DAY_NS,
        slash_base_ppm=10_000,
        slash_correlation_factor=3,
        window_blocks=10_000,
        missed_blocks_max=9_500,
        jail_ns=600 * NS * speed,
        late_from_ppm=800_000,
        late_share_ppm_max=333_333,
        late_led_min=16,
        oracle_band_ppm=10_000,
        outside_reports_max=5_000,
        validators=tuple(
            GenesisStake(
                operator=address_of(entry.oracle_key),
                consensus_key=entry.consensus_key,
                oracle_key=entry.oracle_key,
                peer_id=entry.peer_id,
                stake_uusd=stake_uusd * entry.weight,
                commission_ppm=50_000,
            )
            for entry in validators
        ),
    )


def default_protection(
    vault_uusd: int = 1_000_000 * USD,
    listing: ListingParameters | None = None,
    critical_from_ppm: int = 0,
) -> ProtectionParameters:
    """market.md section 5's numbers; markets, not networks, set these times, so no speed scales them.

    `listing` None: the series of genesis are all there will be. `critical_from_ppm` 0: a young fund covers no
    five-fold rise, so nobody is held to reducing before governance (market.md: 1,000,000).
    """
    return ProtectionParameters(
        auction=AuctionParameters(
            patience_ns=30 * NS,
            empty_book_patience_ns=5 * NS,
            buffer_ppm=150_000,
            fee_ppm=100_000,
            discount_start_ppm=50_000,
            discount_fast_ppm=300_000,
            fast_ns=900 * NS,
            slow_ns=12 * 3_600 * NS,
            insolvent_ns=3_600 * NS,
        ),
        vault_uusd=vault_uusd,
        funding=FundingParameters(period_ns=8 * 3_600 * NS, premium_max_ppm=5_000, gap_ns_max=60 * NS),
        listing=listing or default_listing(strikes_max=0),
        exposure=ExposureParameters(
            rise_from_ppm=500_000,
            critical_from_ppm=critical_from_ppm,
            step_ppm=50_000,
            step_ns=3_600 * NS,
            im_extra_max_ppm=500_000,
            delta_limit_ppm=50_000,
            vega_limit_ppm=20_000,
        ),
        governance_delay_ns=2 * DAY_NS,
    )


def default_breakers(speed: int = 1) -> BreakerParameters:
    """market.md section 7's numbers.

    Gaps grow with `speed` as networks are to blame for them, and with its root how far an index moves while a block
    becomes final.
    """
    return BreakerParameters(
        drift=DriftParameters(
            quotes_max=QUOTES_REPORTED_MAX,
            spread_epochs=12,
            ticks_min=2,
            green_spreads=2,
            amber_spreads=5,
            index_green_ppm=1_000,
            index_amber_ppm=5_000,
            option_red_ppm=5_000,
            margin_ppm=250_000,
            red_epochs=3,
            green_epochs=5,
            red_options_ppm=250_000,
            auction_ns=60 * NS,
        ),
        monitors=tuple(UnderlyingMonitors(item, _monitors(item)) for item in Underlying),
        latency=LatencyParameters(pause_spreads=5, floor_ppm=100 * isqrt(speed), samples=8),
        gaps=tuple(
            GapRule(gap_s * NS * speed, auction_s * NS)
            for gap_s, auction_s in ((10, 60), (60, 300), (600, 3_600))
        ),
        fresh_epochs=2,
        post_only_ns=60 * NS,
        band_spreads=3,
    )


def _monitors(underlying: Underlying) -> tuple[PriceMonitor, ...]:
    """BTC's within 1, 15 and 60 minutes; ETH may move half as far again."""
    halves = 2 if underlying == Underlying.BTC else 3
    return tuple(
        PriceMonitor(window_s * NS, move_ppm * halves // 2, auction_s * NS)
        for window_s, move_ppm, auction_s in ((60, 25_000, 60), (900, 70_000, 180), (3_600, 120_000, 600))
    )


def default_listing(strikes_max: int = 21) -> ListingParameters:
    """market.md section 6's schedule."""
    return ListingParameters(
        daily=2,
        weekly=3,
        monthly=3,
        quarterly=3,
        deviations=3,
        strikes_max=strikes_max,
        instruments_max=4_000,
        keep_settled_ns=7 * DAY_NS,
    )


def default_consensus_parameters() -> ConsensusParameters:
    """consensus.md section 1, for validators on one continent."""
    return ConsensusParameters(
        delta_ms=250, min_block_ms=50, retain_views=1_024, lookahead_views=64, final_weight=0
    )


def default_instruments(time_ns: int, index_uusd: Mapping[Underlying, int]) -> list[Instrument]:
    """A perpetual per underlying, and calls and puts at round strikes around the index for a few expiries."""
    keys = [(Kind.PERPETUAL, underlying, 0, 0) for underlying in sorted(index_uusd)]
    for underlying in sorted(index_uusd):
        step = STRIKE_STEP_USD[underlying] * USD
        middle = (index_uusd[underlying] + step // 2) // step
        for expiry_ns in default_expiries(time_ns):
            for place in range(max(1, middle - STRIKES_EACH_SIDE), middle + STRIKES_EACH_SIDE + 1):
                keys += [(kind, underlying, expiry_ns, place * step) for kind in (Kind.CALL, Kind.PUT)]
    return [
        Instrument(number, int(underlying), int(kind), expiry_ns, strike, LOTS_PER_CONTRACT[underlying])
        for number, (kind, underlying, expiry_ns, strike) in enumerate(keys)
    ]


def scheduled_instruments(
    time_ns: int, index_uusd: Mapping[Underlying, int], listing: ListingParameters
) -> list[Instrument]:
    """A perpetual per underlying, and what the schedule keeps listed at that time, from what genesis believes."""
    keys = [(underlying, 0, 0, Kind.PERPETUAL) for underlying in sorted(index_uusd)]
    for underlying in sorted(index_uusd):
        for expiry_ns in scheduled_expiries(time_ns, listing):
            believed = genesis_slice(expiry_ns, index_uusd[underlying], time_ns)
            for strike in strikes_around(believed.forward_uusd, believed.theta_e12, listing):
                keys += [(underlying, expiry_ns, strike, kind) for kind in (Kind.CALL, Kind.PUT)]
    return [
        Instrument(number, int(underlying), int(kind), expiry_ns, strike, LOTS_PER_CONTRACT[underlying])
        for number, (underlying, expiry_ns, strike, kind) in enumerate(keys)
    ]


def default_expiries(time_ns: int) -> list[int]:
    """08:00 UTC of the days EXPIRY_DAYS after the last 08:00, ascending."""
    last = (time_ns - EXPIRY_OF_DAY_NS) // DAY_NS * DAY_NS + EXPIRY_OF_DAY_NS
    return [last + days * DAY_NS for days in EXPIRY_DAYS]


def make_genesis(
    chain_name: str,
    validators: Sequence[ValidatorEntry],
    ledger: LedgerGenesis,
    consensus: ConsensusParameters | None = None,
) -> GenesisDocument:
    """The whole document; check_genesis holds for it if it holds for its parts."""
    return GenesisDocument(
        version=GENESIS_VERSION,
        chain_name=chain_name,
        time_ns=ledger.time_ns,
        validators=tuple(validators),
        consensus=consensus or default_consensus_parameters(),
        ledger=ledger,
    )


def reporters_of(validators: Sequence[ValidatorEntry]) -> tuple[OracleReporter, ...]:
    """The ledger's view of the validators: their oracle keys and weights, in their order."""
    return tuple(OracleReporter(entry.oracle_key, entry.weight) for entry in validators)


def _underlying(underlying: Underlying, index_uusd: int) -> UnderlyingParameters:
    return UnderlyingParameters(
        underlying=int(underlying),
        index_uusd=index_uusd,
        ticks=PREMIUM_TICKS,
        perpetual_tick_uusd=PERPETUAL_TICKS_UUSD[underlying],
        margin=default_margin_parameters(underlying),
    )
