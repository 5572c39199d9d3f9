"""Where a validator is reached: its operator announces it, its network key consents."""

from __future__ import annotations

import pytest

from ledger.staking.addresses import address_text, parse_address
from ledger.staking.events import Announced
from ledger.staking.reasons import StakingReason
from ledger.staking.state import Announcement, get_announcement
from ledger.transactions import Announce, peer_proof_bytes
from primitives.errors import ProtocolViolation
from primitives.signing import SigningKey
from tests.ledger.exchange import a_key, events_of, reasons
from tests.ledger.staking_builders import OPERATORS, StakedExchange

NETWORK = a_key("network 0")
HERE, THERE = "/ip4/203.0.113.9/tcp/26600", "/dns/validator.example/tcp/26600"


def an_announcement(
    exchange: StakedExchange, *addresses: str, key: SigningKey = NETWORK, consent: SigningKey = NETWORK
) -> Announce:
    """Of validator 0; `consent` signs that it is `key`'s."""
    proved = peer_proof_bytes(exchange.state.chain_id, exchange.key(OPERATORS[0])[0], 0)
    return Announce(0, key.public_key, addresses, consent.sign(proved))


def test_an_announcement_is_in_the_state_and_the_next_one_replaces_it() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], an_announcement(exchange, HERE, THERE))
    block = exchange.block()
    assert events_of(block, Announced) == [Announced(0, NETWORK.public_key, (HERE, THERE))]
    assert get_announcement(exchange.state, 0) == Announcement(NETWORK.public_key, (HERE, THERE))
    other = a_key("another network key")
    exchange.does(OPERATORS[0], an_announcement(exchange, key=other, consent=other))
    exchange.block()
    assert get_announcement(exchange.state, 0) == Announcement(other.public_key, ())


def test_only_the_operator_announces() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[1], an_announcement(exchange, HERE))
    assert reasons(exchange.block()) == [StakingReason.NOT_OPERATOR]
    assert get_announcement(exchange.state, 0) is None


def test_nobody_announces_a_key_that_has_not_consented() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], an_announcement(exchange, HERE, consent=a_key("a thief")))
    assert reasons(exchange.block()) == [StakingReason.BAD_PEER_PROOF]


def test_consent_for_one_validator_is_none_for_another() -> None:
    exchange = StakedExchange()
    lent = an_announcement(exchange, HERE)
    exchange.does(OPERATORS[1], Announce(1, lent.peer_key, lent.addresses, lent.proof))
    assert reasons(exchange.block()) == [StakingReason.BAD_PEER_PROOF]


def test_what_is_no_key_is_not_announced() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], Announce(0, bytes(32), (), bytes(64)))
    assert reasons(exchange.block()) == [StakingReason.BAD_VALIDATOR_KEY]


def test_an_address_is_announced_once() -> None:
    exchange = StakedExchange()
    exchange.does(OPERATORS[0], an_announcement(exchange, HERE, HERE))
    assert reasons(exchange.block()) == [StakingReason.BAD_PEER_ADDRESS]


def test_five_addresses_are_too_many() -> None:
    exchange = StakedExchange()
    five = tuple(f"/ip4/203.0.113.{number}/tcp/1" for number in range(5))
    exchange.does(OPERATORS[0], an_announcement(exchange, *five))
    with pytest.raises(ProtocolViolation, match="array` of length <= 4"):
        exchange.block()


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("203.0.113.9", HERE),
        ("2001:DB8::9", "/ip6/2001:db8::9/tcp/26600"),
        ("::1", "/ip6/::1/tcp/26600"),
        ("1:2:3:4:5:6:7:8", "/ip6/1:2:3:4:5:6:7:8/tcp/26600"),
        ("Validator.Example", THERE),
        ("0x7f.1", "/dns/0x7f.1/tcp/26600"),
    ],
)
def test_an_address_has_one_text(host: str, text: str) -> None:
    assert address_text(host, 26_600) == text
    assert address_text(*parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "203.0.113.9:26600",
        "/ip4/203.0.113.9/udp/26600",
        "/ip4/203.0.113.9/tcp/0",
        "/ip4/203.0.113.9/tcp/026600",
        "/ip4/203.0.113.9/tcp/65536",
        "/ip4/203.0.113.9/tcp/26600/p2p/x",
        "/ip4/203.0.113.009/tcp/26600",
        "/ip4/2001:db8::9/tcp/26600",
        "/ip6/2001:DB8::9/tcp/26600",
        "/ip6/fe80::1%eth0/tcp/26600",
        "/ip6/1:2:3:4:5:6:7/tcp/26600",
        "/ip6/1:2:3:4:5:6:7:8:9/tcp/26600",
        "/ip6/1::2::3/tcp/26600",
        "/ip6/1:::2/tcp/26600",
        "/ip6/12345::/tcp/26600",
        "/ip6/::ffff:127.0.0.1/tcp/26600",
        "/dns/203.0.113.9/tcp/26600",
        "/dns/Validator.example/tcp/26600",
        "/dns/-a.example/tcp/26600",
        "/dns/a..example/tcp/26600",
        "/dns/ünlaut.example/tcp/26600",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        parse_address(text)
    assert refused.value.reason is StakingReason.BAD_PEER_ADDRESS
