"""Relations of the genesis that exact arithmetic rests on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ledger.genesis import LedgerGenesis, check_genesis
from ledger.reasons import LedgerReason
from primitives.errors import ProtocolViolation
from tests.ledger.exchange import a_genesis

GENESIS = a_genesis({"alice": 1, "bob": 2})


def with_ticks(genesis: LedgerGenesis, ticks: tuple[tuple[int, int], ...]) -> LedgerGenesis:
    first, *others = genesis.underlyings
    return replace(genesis, underlyings=(replace(first, ticks=ticks), *others))


def with_parameter(genesis: LedgerGenesis, **changes: int) -> LedgerGenesis:
    return replace(genesis, parameters=replace(genesis.parameters, **changes))


def test_the_genesis_of_these_tests_is_sound() -> None:
    check_genesis(GENESIS)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda g: replace(g, instruments=g.instruments[::-1]), "instruments are in order"),
        (lambda g: replace(g, accounts=g.accounts * 2), "an account is listed once"),
        (lambda g: replace(g, underlyings=g.underlyings[1:]), "the underlying of BTC-PERPETUAL"),
        (lambda g: replace(g, instruments=(replace(g.instruments[0], lots_per_contract=10),)), "the lots of"),
        (lambda g: replace(g, instruments=(replace(g.instruments[1], strike_uusd=0),)), "strike and expiry"),
        (lambda g: with_ticks(g, ((0, 150),)), "ticks are multiples"),
        (lambda g: with_ticks(g, ((150, 100), (0, 100))), "tick steps start"),
        (lambda g: with_ticks(g, ((0, 100), (1_000, 100))), "tick steps descend"),
        (lambda g: with_ticks(g, ((1_000, 100),)), "the last tick step"),
        (lambda g: with_parameter(g, settlement_bucket_ns=7), "buckets divide"),
        (lambda g: with_parameter(g, nonce_window=0), "a nonce window"),
        (lambda g: with_parameter(g, insurance_fund_uusd=1 << 60), "cash and fund"),
        (
            lambda g: replace(g, instruments=(replace(g.instruments[1], strike_uusd=5 * 10**12),)),
            "valued exactly",
        ),
        (lambda g: replace(g, instruments=(replace(g.instruments[1], expiry_ns=2**62),)), "within 5 years"),
    ],
)
def test_a_genesis_that_breaks_a_relation_is_refused_with_its_name(
    spoil: Callable[[LedgerGenesis], LedgerGenesis], rule: str
) -> None:
    with pytest.raises(ProtocolViolation, match=rule) as refused:
        check_genesis(spoil(GENESIS))
    assert refused.value.reason is LedgerReason.BAD_GENESIS
