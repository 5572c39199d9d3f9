"""Validators come, move, change their key and go while everybody else runs on: real libp2p hosts in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
import trio

from gossip import dialler
from gossip.network import Lane, NetworkConfig, NoAnswer, PeerConfig, PeerName
from gossip.peer_id import peer_id_of_seed
from gossip.reasons import GossipReason
from gossip.service import Libp2pNetwork
from primitives.identifiers import ValidatorIndex
from tests.network.test_network_libp2p import (
    STRANGER_SEED,
    all_up,
    configs,
    free_ports,
    receive,
    running,
    until,
)

NEWCOMER = ValidatorIndex(2)


async def answer(peer: PeerName, request: bytes) -> bytes:
    return b"to " + request


def announced(peer: PeerConfig, *ports: int, seed: bytes = b"") -> PeerConfig:
    """As the chain tells of it: no word of the operator's."""
    peer_id = peer_id_of_seed(seed) if seed else peer.peer_id
    addresses = tuple(("127.0.0.1", port) for port in ports)
    return PeerConfig(peer.index, peer_id, "", 0, addresses)


class Village:
    """Validators 0 and 1 run and do not know of a third, whose configuration is `newcomer`."""

    def __init__(self) -> None:
        *old, newcomer = configs(3)
        self.newcomer = replace(newcomer, dials_private=True)
        self.validators = newcomer.validators
        self.low, self.high = (
            Libp2pNetwork(replace(one, validators=self.validators[:2], dials_private=True), answer)
            for one in old
        )

    def hears(self, *others: PeerConfig) -> None:
        """The chain tells both of further validators."""
        for network in (self.low, self.high):
            network.know((*self.validators[:2], *others))

    def links(self) -> list[bool]:
        """Whether 0 and 1 have a link to the newcomer."""
        return [
            peer.connected for one in (self.low, self.high) for peer in one.peers() if peer.index == NEWCOMER
        ]


@asynccontextmanager
async def a_village() -> AsyncIterator[Village]:
    village = Village()
    async with running(village.low, village.high):
        await until(lambda: all_up(village.low, village.high))
        yield village


def as_follower(config: NetworkConfig) -> NetworkConfig:
    """The same node before it has a place: it knows where one validator is."""
    known = (config.validators[0], replace(config.validators[1], host="", port=0))
    return replace(config, own_index=None, validators=known)


async def test_a_newcomer_is_found_where_it_announced_to_be() -> None:
    async with a_village() as village:
        joined = Libp2pNetwork(village.newcomer)
        port = village.newcomer.listen_port
        village.hears(announced(village.validators[2], 1, port))
        async with running(joined):
            await until(lambda: village.links() == [True, True] and all_up(joined))
            assert joined.broadcast(Lane.VOTE, b"I vote") == 2
            for inbox in (village.low.votes, village.high.votes):
                assert await receive(inbox, 1) == [b"I vote"]


async def test_a_newcomer_that_nobody_can_dial_makes_the_connection_itself() -> None:
    async with a_village() as village:
        joined = Libp2pNetwork(village.newcomer)
        village.hears(announced(village.validators[2]))
        async with running(joined):
            await until(lambda: village.links() == [True, True])


async def answered(asker: Libp2pNetwork) -> bytes:
    """What validator 0 answers, once it is connected."""
    with trio.fail_after(8):
        while True:
            with suppress(NoAnswer):
                return await asker.request(ValidatorIndex(0), b"7")
            await trio.sleep(0.05)


async def test_one_that_has_a_place_and_only_follows_goes_on_following_and_is_not_blamed() -> None:
    async with a_village() as village:
        follower = Libp2pNetwork(as_follower(village.newcomer))
        async with running(follower):
            await until(lambda: follower.peers()[0].connected)
            village.hears(announced(village.validators[2], village.newcomer.listen_port))
            await until(lambda: village.low.counters.get(GossipReason.FOLLOWS_ONLY) >= 2)
            assert await follower.request(ValidatorIndex(0), b"7") == b"to 7"
            scores = [peer.score for one in (village.low, follower) for peer in one.peers()]
            assert (village.links(), set(scores)) == ([False, False], {0})
            assert follower.counters.get(GossipReason.REPLACED) == 0
        async with running(Libp2pNetwork(village.newcomer)):
            await until(lambda: village.links() == [True, True])


async def test_a_follower_of_many_is_connected_to_some_and_goes_to_others_when_they_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialler, "FOLLOWED_MAX", 1)
    async with a_village() as village:
        follower = Libp2pNetwork(replace(village.newcomer, own_index=None, identity_seed=STRANGER_SEED))
        third = Libp2pNetwork(village.newcomer)
        async with running(follower), running(third):
            await until(lambda: sum(peer.connected for peer in follower.peers()) == 1)
            await trio.sleep(0.5)
            (first,) = (peer.index for peer in follower.peers() if peer.connected)
            follower.know([peer for peer in village.validators if peer.index != first])
            await until(lambda: [peer.connected for peer in follower.peers()].count(True) == 1)
            assert first not in [peer.index for peer in follower.peers()]


async def test_who_knows_of_the_newcomer_later_does_not_ban_it() -> None:
    async with a_village() as village:
        first = replace(village.newcomer, own_index=ValidatorIndex(0), identity_seed=STRANGER_SEED)
        peers = (announced(village.validators[0], seed=STRANGER_SEED), *village.validators[1:2])
        async with running(Libp2pNetwork(replace(first, validators=peers))):
            await until(lambda: village.high.counters.get(GossipReason.UNKNOWN_PEER) > 3)
            assert village.high.counters.get(GossipReason.BANNED) == 0


async def test_an_address_of_somebody_else_leads_to_nobody_and_blames_nobody() -> None:
    async with a_village() as village:
        lie = announced(village.validators[2], village.high.config.listen_port)
        village.hears(lie)
        await until(lambda: village.low.counters.get(GossipReason.DIAL_FAILED) > 2)
        assert village.links() == [False, False]
        scores = [peer.score for one in (village.low, village.high) for peer in one.peers()]
        assert (set(scores), all_up_but_newcomer(village)) == ({0}, True)


def all_up_but_newcomer(village: Village) -> bool:
    standings = [peer for one in (village.low, village.high) for peer in one.peers()]
    return all(peer.connected for peer in standings if peer.index != NEWCOMER)


async def test_an_announced_private_address_is_not_dialled_in_a_public_network() -> None:
    async with a_village() as village:
        village.low.config = replace(village.low.config, dials_private=False)
        public = Libp2pNetwork(replace(village.low.config, listen_port=free_ports(1)[0]))
        target = Libp2pNetwork(replace(village.newcomer, validators=village.validators[2:]))
        public.know((village.validators[0], announced(village.validators[2], village.newcomer.listen_port)))
        async with running(public, target):
            await until(lambda: public.counters.get(GossipReason.DIAL_FAILED) > 2)
            assert target._edge is not None
            assert not target._edge.connected_peers()


async def test_a_new_network_key_takes_the_place_of_the_old_one() -> None:
    async with a_village() as village:
        first, second = village.newcomer.listen_port, free_ports(1)[0]
        village.hears(announced(village.validators[2], first))
        async with running(Libp2pNetwork(village.newcomer)):
            await until(lambda: village.links() == [True, True])
            village.hears(announced(village.validators[2], first, second, seed=STRANGER_SEED))
            await until(lambda: village.links() == [False, False])
        own = replace(village.validators[2], peer_id=peer_id_of_seed(STRANGER_SEED))
        renewed = replace(
            village.newcomer,
            identity_seed=STRANGER_SEED,
            listen_port=second,
            validators=(*village.validators[:2], own),
        )
        async with running(Libp2pNetwork(renewed)):
            await until(lambda: village.links() == [True, True])


async def test_one_that_moves_keeps_its_link_until_it_is_gone_and_is_found_again() -> None:
    async with a_village() as village:
        first, second = village.newcomer.listen_port, free_ports(1)[0]
        village.hears(announced(village.validators[2], first))
        async with running(Libp2pNetwork(village.newcomer)):
            await until(lambda: village.links() == [True, True])
            lost = village.low.counters.get(GossipReason.LINK_LOST)
            village.hears(announced(village.validators[2], second))
            await trio.sleep(0.3)
            assert (village.links(), village.low.counters.get(GossipReason.LINK_LOST)) == ([True, True], lost)
        async with running(Libp2pNetwork(replace(village.newcomer, listen_port=second))):
            await until(lambda: village.links() == [True, True])


async def test_who_is_no_validator_any_more_has_no_lanes_and_may_follow() -> None:
    async with a_village() as village:
        village.hears(announced(village.validators[2], village.newcomer.listen_port))
        left = Libp2pNetwork(village.newcomer)
        async with running(left):
            await until(lambda: village.links() == [True, True])
            village.hears()
            assert village.links() == []
            await until(lambda: not any(peer.connected for peer in left.peers()))
            assert await answered(left) == b"to 7"
