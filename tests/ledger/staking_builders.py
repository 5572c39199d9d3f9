"""The vocabulary of staking tests: four validators with operators, short epochs, and what consensus reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from ledger.apply import BlockContext, BlockResult, apply_block
from ledger.events import Trade
from ledger.genesis import LedgerGenesis
from ledger.invariants import check_everything
from ledger.oracle import compute_block_time, decode_update
from ledger.staking.parameters import GenesisStake, StakingParameters
from ledger.staking.state import Unbonding, Validator, existing_validator, get_delegation, scan
from ledger.transactions import SeenDelay
from node.genesis_defaults import default_staking
from primitives.amounts import NS, USD
from primitives.signing import address_of
from tests.ledger.exchange import (
    BTC_PERP,
    REPORTERS,
    Exchange,
    a_genesis,
    a_key,
    buy,
    events_of,
    sell,
)

STAKE_USD = 1_000_000
STAKE = STAKE_USD * USD
EPOCH_BLOCKS = 4
OPERATORS = ("operator 0", "operator 1", "operator 2", "operator 3")
EVERYBODY = (0, 1, 2, 3)
SHORT: dict[str, Any] = {
    "epoch_blocks": EPOCH_BLOCKS,
    "unbonding_epochs": 5,
    "unbonding_ns": 60 * NS,
    "evidence_epochs_max": 3,
    "evidence_ns_max": 50 * NS,
    "window_blocks": 16,
    "missed_blocks_max": 6,
    "jail_ns": 20 * NS,
    "late_led_min": 4,
    "outside_reports_max": 5,
    "validators_min": 3,
}


def a_staking(**changes: Any) -> StakingParameters:
    """Four validators of equal stake and no commission, epochs of four blocks, small windows."""
    validators = tuple(
        GenesisStake(
            operator=address_of(a_key(name).public_key),
            consensus_key=a_key(f"consensus {number}").public_key,
            oracle_key=REPORTERS[number].public_key,
            peer_id=f"peer {number}",
            stake_uusd=STAKE,
            commission_ppm=0,
        )
        for number, name in enumerate(OPERATORS)
    )
    return replace(default_staking(()), **{**SHORT, "validators": validators, **changes})


def a_staking_genesis(cash_usd: dict[str, int], **changes: Any) -> LedgerGenesis:
    """Traders and delegators with cash, and a_staking."""
    return replace(a_genesis(cash_usd), staking=a_staking(**changes))


class StakedExchange(Exchange):
    """An exchange with stake: `sees` lets consensus report with the next block."""

    def __init__(self, changes: dict[str, Any] | None = None, /, **cash_usd: int) -> None:
        self.start(a_staking_genesis(cash_usd, **(changes or {})))
        self.observed: dict[str, Any] = {}

    def sees(self, *, delays: Sequence[tuple[int, int]] = (), **observed: Any) -> StakedExchange:
        """What consensus says with the next block: offences, signers.

        `delays`: (place, ppm) of the parent's height as every reporter saw it; the genesis had no proposal, so
        a block is closed before.
        """
        if delays and not self.state.clock.height:
            self.block()
        height = self.state.clock.height
        self.delays = tuple(SeenDelay(height, *item) for item in sorted(delays))
        self.observed |= observed
        return self

    def apply(self, transactions: tuple[bytes, ...]) -> BlockResult:
        """Execute as the next block, with what was seen; every sum is recomputed afterwards."""
        time_ns = compute_block_time(self.state, decode_update(transactions[0]))
        observed, self.observed = self.observed, {}
        if self.state.open_blocks >= 8:
            self.state.commit_oldest()
        self.state.begin_block()
        context = BlockContext(self.state.clock.height + 1, time_ns, **observed)
        try:
            result = apply_block(self.state, context, transactions)
        except Exception:
            self.state.rollback_block()
            raise
        check_everything(self.state)
        return result

    @property
    def epoch(self) -> int:
        """The epoch of the next block."""
        return self.genesis.staking.epoch_of(self.state.clock.height + 1)

    def ends_epoch(self, *, seconds: int = 1) -> BlockResult:
        """Close blocks up to the last one of the epoch; its result."""
        result = self.block(seconds)
        while result.height % self.genesis.staking.epoch_blocks:
            result = self.block(seconds)
        return result

    def passes_epochs(self, epochs: int, *, seconds: int = 1) -> BlockResult:
        """End so many epochs; the last result."""
        for _ in range(epochs - 1):
            self.ends_epoch(seconds=seconds)
        return self.ends_epoch(seconds=seconds)

    def trades(self) -> int:
        """Alice and Bob trade perpetuals; the fees that the block took."""
        self.does("alice", buy(BTC_PERP, 100_000.5, 97))
        self.does("bob", sell(BTC_PERP, 100_000.5, 97))
        fees: int = sum(item.buyer_fee_uusd + item.seller_fee_uusd for item in events_of(self.block(), Trade))
        assert fees > 0
        return fees

    def validator(self, number: int) -> Validator:
        """One validator's leaf."""
        return existing_validator(self.state, number)

    def stake(self, number: int) -> int:
        """One validator's stake at work, micro-USD."""
        return self.validator(number).stake_uusd

    def shares(self, name: str, number: int) -> int:
        """A named person's shares in a pool."""
        held = get_delegation(self.state, number, self.key(name))
        return 0 if held is None else held.shares

    def unbonding(self, name: str) -> list[int]:
        """Amounts that a named person has on their way out, by validator and start."""
        entries: list[Unbonding] = scan(self.state, b"ku")
        return [item.amount_uusd for item in entries if item.owner == self.key(name)[0]]

    @property
    def fund(self) -> int:
        """The insurance fund, micro-USD."""
        return self.state.supply.fund_uusd
