"""Policy numbers of staking and the validators that exist at height 0. Pure.

Amounts in micro-USD, rates in ppm, windows in blocks, periods in epochs and market nanoseconds. Epochs count
from 0 and have `epoch_blocks` blocks each: heights 1 to epoch_blocks are epoch 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec

from primitives.amounts import PPM
from primitives.codec import U8, U32, U63, Bytes20, Bytes32, Wire

VALIDATORS_MAX = 256
"""Members of a set: what consensus can address."""
SET_NOTICE_EPOCHS = 1
"""The set decided at the end of epoch e is that of epoch e + 1 + this: every header of the epoch between can
commit to it (consensus.md section 7)."""
WINDOW_BUCKETS = 16
"""A sliding window is counted in so many buckets; it covers between 15/16 and the whole of its blocks."""


class GenesisStake(Wire):
    """One validator at height 0; its place in the list is its number, and its reporter's number."""

    operator: Bytes20
    consensus_key: Bytes32
    oracle_key: Bytes32
    peer_id: Annotated[str, msgspec.Meta(max_length=64)]
    stake_uusd: U63
    commission_ppm: U32


class StakingParameters(Wire):
    """With no genesis validators there is no staking: fees stay where trading leaves them."""

    epoch_blocks: U63
    validators_min: U32
    """A set below this is filled up with jailed validators: availability goes before a clean record."""
    validators_max: U32
    min_stake_uusd: U63
    """Stake of a registration, and of every set member."""
    min_delegation_uusd: U63
    weight_unit_uusd: U63
    """Stake per unit of voting power, before the common factor is taken out."""
    weight_max: U32
    """Bounds one validator's voting power; a larger stake makes the unit larger for all."""
    commission_ppm_max: U32
    commission_rise_ppm_max: U32
    """Most that a commission may rise in one epoch."""
    fund_fee_share_ppm: U32
    """Share of trading fees that goes to the insurance fund."""
    unbonding_epochs: U32
    unbonding_ns: U63
    """Unbonding stake is paid out when both have passed."""
    evidence_epochs_max: U32
    evidence_ns_max: U63
    """Evidence is taken while neither has passed since its epoch closed."""
    slash_base_ppm: U32
    slash_correlation_factor: U8
    window_blocks: U63
    """The sliding window of downtime, delay and oracle deviation."""
    missed_blocks_max: U32
    """A validator whose vote is missing from more parent certificates of the window is jailed."""
    jail_ns: U63
    late_from_ppm: U32
    """A proposal later than this part of the view timer counts as late: 800_000 is the last fifth."""
    late_share_ppm_max: U32
    late_led_min: U32
    """A leader whose late share of at least so many proposals in the window is above the maximum earns
    nothing."""
    oracle_band_ppm: U32
    outside_reports_max: U32
    """A reporter whose index was off the agreed median by more than the band in more of the window's reports
    earns nothing."""
    validators: Annotated[tuple[GenesisStake, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]

    def epoch_of(self, height: int) -> int:
        """The epoch of a block; the genesis (height 0) counts to epoch 0."""
        return max(0, height - 1) // self.epoch_blocks

    def is_last_of_epoch(self, height: int) -> bool:
        """Whether the block closes its epoch."""
        return height % self.epoch_blocks == 0


def staking_rules(parameters: StakingParameters) -> Iterator[tuple[bool, str]]:
    """(holds, rule) for every relation between the numbers that the code rests on, whatever votes make of them."""
    item = parameters
    yield item.epoch_blocks >= 1, "an epoch has blocks"
    yield 1 <= item.validators_max <= VALIDATORS_MAX, "validators_max bounds the set"
    yield item.validators_min <= item.validators_max, "validators_min is at most validators_max"
    yield item.min_delegation_uusd >= 1, "the least delegation is positive"
    yield item.min_stake_uusd >= item.min_delegation_uusd, "the least stake is at least the least delegation"
    yield item.weight_unit_uusd >= 1 and item.weight_max >= 1, "stake gives voting power"
    yield item.commission_ppm_max <= PPM, "a commission is at most the whole"
    yield max(item.fund_fee_share_ppm, item.slash_base_ppm) <= PPM, "shares are at most the whole"
    yield (
        item.unbonding_epochs > item.evidence_epochs_max + SET_NOTICE_EPOCHS
        and item.unbonding_ns > item.evidence_ns_max,
        "evidence expires before the stake it could punish is paid out",
    )
    yield item.window_blocks % WINDOW_BUCKETS == 0 < item.window_blocks, "buckets divide the staking window"


def genesis_stake_rules(parameters: StakingParameters) -> Iterator[tuple[bool, str]]:
    """(holds, rule) of the validators at height 0."""
    entries = parameters.validators
    keys = {entry.consensus_key for entry in entries}
    yield len(entries) <= parameters.validators_max, "validators_max bounds the set"
    yield len(keys) == len(entries), "a consensus key is listed once"
    yield all(entry.stake_uusd >= parameters.min_stake_uusd for entry in entries), "everyone has stake"
    yield (
        all(entry.commission_ppm <= parameters.commission_ppm_max for entry in entries),
        "a commission is at most the highest",
    )
