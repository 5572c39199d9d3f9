"""Where a validator is dialled, and where never."""

from __future__ import annotations

import pytest

from gossip.addresses import endpoints_of, is_public, locate
from gossip.link import StreamBroken
from gossip.network import PeerConfig
from primitives.identifiers import ValidatorIndex

HERE, THERE = ("203.0.113.1", 1), ("9.9.9.9", 2)


def a_peer(host: str = "", port: int = 0, *announced: tuple[str, int]) -> PeerConfig:
    return PeerConfig(ValidatorIndex(0), "12D3alice", host, port, announced)


def test_what_our_operator_wrote_is_tried_before_what_the_validator_announced() -> None:
    assert endpoints_of(a_peer(*HERE, THERE, HERE)) == [HERE, THERE]
    assert endpoints_of(a_peer("", 0, THERE)) == [THERE]


async def test_addresses_take_turns() -> None:
    peer = a_peer(*HERE, THERE)
    assert [await locate(peer, turn, False) for turn in range(3)] == [HERE, THERE, HERE]


async def test_our_operators_address_may_be_private() -> None:
    assert await locate(a_peer("10.0.0.1", 1), 0, False) == ("10.0.0.1", 1)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:7f00:1",
        "ff0e::1",
    ],
)
async def test_an_announced_address_of_a_private_range_is_dialled_in_local_networks_only(host: str) -> None:
    peer = a_peer("", 0, (host, 1))
    with pytest.raises(StreamBroken, match="no public address"):
        await locate(peer, 0, False)
    assert await locate(peer, 0, True) == (host, 1)


async def test_another_port_of_our_operators_private_address_is_the_validators_word_alone() -> None:
    with pytest.raises(StreamBroken, match="no public address"):
        await locate(a_peer("10.0.0.1", 1, ("10.0.0.1", 22)), 1, False)


async def test_an_announced_name_is_judged_by_what_it_stands_for() -> None:
    with pytest.raises(StreamBroken, match="no public address"):
        await locate(a_peer("", 0, ("localhost", 1)), 0, False)


async def test_a_validator_without_address_is_not_dialled() -> None:
    with pytest.raises(StreamBroken, match="no address"):
        await locate(a_peer(), 0, True)


def test_public_addresses_are_public() -> None:
    assert [is_public(host) for host in ("9.9.9.9", "2620:fe::fe", "::ffff:909:909")] == [True] * 3
