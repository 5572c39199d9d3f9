"""The fast ledger against the naive one: every event and every root of random histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger import oracle
from ledger.breakers import drift, monitors, phases
from ledger.breakers.reasons import BreakerReason
from ledger.breakers.state import Colour
from ledger.events import ActionRejected, TransactionRejected
from ledger.matching import call
from ledger.reasons import LedgerReason
from ledger.settlement import auction, liquidation
from ledger.staking.reasons import StakingReason
from ledger.trading import fees
from ledger.trading.reasons import TradingReason
from tests.histories import History
from tests.naive.ledger import NaiveLedger, plain


def replay(seed: int, blocks: int) -> Counter[str]:
    """Run a history on both; how often each kind of event and each reason of a refusal came up."""
    history = History(seed)
    naive = NaiveLedger(history.exchange.state)
    assert naive.root() == history.exchange.state.root()
    seen: Counter[str] = Counter()
    for block in history.blocks(blocks):
        events = naive.apply(block.context, block.transactions, block.result.valuation.plain_risk)
        assert plain(events) == plain(block.result.events)
        assert naive.leaves() == dict(history.exchange.state.all_leaves())
        assert naive.root() == block.result.root
        seen.update(type(event).__name__ for event in events)
        seen.update(item.reason for item in events if isinstance(item, ActionRejected | TransactionRejected))
    return seen


RARE = {
    *("LiquidationStep", "AuctionStarted", "Deleveraged", "CashMoved", "ActionRejected", "ExpirySettled"),
    *("PhaseChanged", "DriftJudged", "InstrumentPaused", "HealthChanged", "TransactionRejected", "Trade"),
    *("OrderReduced", "TriggerPlaced", "TriggerFired", "TriggerCancelled", "ProtectionTripped"),
    *("SettingChanged", "QuotesRequested", "PackageQuoted", "PackageTraded", "RequestClosed"),
    *("ValidatorRegistered", "Bonded", "UnbondingStarted", "Unbonded", "CommissionSet", "Announced"),
    *("ReadinessAttested", "ValidatorLeft", "KeyRotated", "Jailed", "Unjailed", "Slashed", "Rewarded"),
    "ValidatorSetChanged",
}
"""What a long history must have seen."""


def test_both_agree_on_long_histories_in_which_much_happens() -> None:
    seen = replay(seed=6, blocks=300) + replay(seed=1, blocks=300)
    assert set(seen) >= RARE


def test_both_agree_while_votes_change_the_numbers_of_policy() -> None:
    seen = replay(seed=2, blocks=120) + replay(seed=8, blocks=50)
    assert set(seen) >= {"VoteCounted", "ParameterDecided", "ParameterChanged", "Trade", "HealthChanged"}
    assert seen["ParameterChanged"] > 20


def test_both_agree_while_series_are_listed_extended_and_forgotten() -> None:
    seen = replay(seed=9, blocks=190)
    assert seen["SeriesListed"] > 14, "seven expiries of two underlyings at eight, further strikes at nine"
    assert seen["ExpirySettled"] >= 2


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_both_agree_on_any_history(seed: int) -> None:
    replay(seed, blocks=25)


def fee_rounded_down(*arguments: Any, **named: Any) -> int:
    return max(0, REAL_FEE(*arguments, **named) - 1)


def first_come_first_served(sizes: list[int], total: int) -> list[int]:
    before = [sum(sizes[:at]) for at in range(len(sizes))]
    return [min(size, max(0, total - done)) for size, done in zip(sizes, before, strict=True)]


def upper_median(votes: Iterable[tuple[int, int]]) -> int:
    return -REAL_MEDIAN((weight, -value) for weight, value in votes)


def no_hedge(*_: Any) -> None:
    return None


def always_green(*_: Any) -> Colour:
    return Colour.GREEN


def never_late(*_: Any) -> tuple[int, bool]:
    return 1_000_000, False


def no_discount(*_: Any) -> int:
    return 0


REAL_FEE, REAL_MEDIAN = fees.fee_uusd, oracle.weighted_median


@pytest.mark.parametrize(
    ("place", "name", "planted"),
    [
        (fees, "fee_uusd", fee_rounded_down),
        (call, "share_pro_rata", first_come_first_served),
        (oracle, "weighted_median", upper_median),
        (liquidation._Step, "_hedge", no_hedge),
        (drift, "colour_of", always_green),
        (monitors, "BUCKETS", 11),
        (phases, "latency_of", never_late),
        (auction, "discount_ppm", no_discount),
    ],
)
def test_a_planted_difference_is_noticed(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, planted: Any
) -> None:
    monkeypatch.setattr(place, name, planted)
    with pytest.raises(AssertionError):
        for seed in (4, 10):
            replay(seed, blocks=80)


OF_BLOCKS = {
    *("bad_genesis", "undecodable_transaction", "duplicate_transaction", "bad_signature", "no_oracle_update"),
    *(
        "oracle_quorum",
        "oracle_order",
        "oracle_reporter",
        "oracle_stale",
        "oracle_repeated",
        "oracle_content",
    ),
    *("wrong_block_time", "wrong_state_root", "wrong_height", "unknown_offender", "evidence_too_old"),
    *("bad_observation", "unreadable"),
}
"""Why a block is not valid: histories hold valid ones."""
OUT_OF_REACH = {"deposit_limit", "too_many_accounts", "too_many_validators", "too_many_ballots"}
"""What takes billions of dollars, or more of something than a history has."""


@pytest.mark.slow
def test_both_agree_on_every_reason_of_a_refusal() -> None:
    seen = sum((replay(seed, blocks=300) for seed in range(12)), Counter[str]())
    kinds = (LedgerReason, TradingReason, BreakerReason, StakingReason)
    reasons = {reason.value for kind in kinds for reason in kind}
    assert reasons - OF_BLOCKS - OUT_OF_REACH <= set(seen)


@pytest.mark.slow
def test_both_agree_through_several_expiries() -> None:
    assert replay(seed=7, blocks=3_000)["ExpirySettled"] >= 2
