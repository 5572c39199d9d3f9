"""Real libp2p hosts in one process: lanes, followers, and everybody who must be refused."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import trio

from gossip.link import StreamBroken
from gossip.network import Inbound, Lane, Network, NetworkConfig, NoAnswer, PeerConfig, PeerName, Topic
from gossip.peer_id import peer_id_of_seed
from gossip.reasons import GossipReason
from gossip.relay import RELAY_PROTOCOLS, SentryNetwork, private_peer_id
from gossip.request_response import REQUEST_BYTES_MAX, REQUESTS_PER_PEER_MAX
from gossip.service import LANE_PROTOCOLS, Libp2pNetwork
from primitives.errors import OperatorError
from primitives.identifiers import ChainId, ValidatorIndex

CHAIN = ChainId(b"\7" * 32)
STRANGER_SEED = b"\x63" * 32

_keeps_its_promise: type[Network] = Libp2pNetwork  # Checked by mypy.


def seed_of(index: int) -> bytes:
    return bytes([index + 1]) * 32


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def configs(count: int) -> list[NetworkConfig]:
    """`count` validators of one chain on loopback."""
    ports = free_ports(count)
    validators = tuple(
        PeerConfig(ValidatorIndex(index), peer_id_of_seed(seed_of(index)), "127.0.0.1", port)
        for index, port in enumerate(ports)
    )
    return [
        NetworkConfig(CHAIN, peer.index, seed_of(peer.index), peer.host, peer.port, validators)
        for peer in validators
    ]


@asynccontextmanager
async def running(*networks: Libp2pNetwork) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for network in networks:
            await nursery.start(network.run)
        yield
        nursery.cancel_scope.cancel()


async def until(condition: Any, seconds: float = 8) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


def all_up(*networks: Libp2pNetwork) -> bool:
    return all(peer.connected for network in networks for peer in network.peers())


def back_again(*networks: Libp2pNetwork) -> bool:
    """Both lanes were lost on every side, and are up."""
    return all(network.counters.get(GossipReason.LINK_LOST) >= 2 for network in networks) and all_up(
        *networks
    )


async def receive(channel: trio.MemoryReceiveChannel[Inbound], count: int) -> list[bytes]:
    messages: list[bytes] = []
    with trio.fail_after(8):
        while len(messages) < count:
            messages += (await channel.receive()).messages
    return messages


@asynccontextmanager
async def a_pair(**changes: Any) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """Two validators, running and connected."""
    low, high = (Libp2pNetwork(replace(config, **changes)) for config in configs(2))
    async with running(low, high):
        await until(lambda: all_up(low, high))
        yield low, high


@asynccontextmanager
async def an_outsider(security: str = "noise", seed: bytes = STRANGER_SEED) -> AsyncIterator[Any]:
    """A libp2p host of somebody else, with nothing of ours in it."""
    import libp2p
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

    key_pair = create_new_key_pair(seed)
    options = {PLAINTEXT_PROTOCOL_ID: InsecureTransport(key_pair)} if security == "plaintext" else None
    host = libp2p.new_host(key_pair=key_pair, sec_opt=options)
    async with host.run([]):
        yield host


async def dial(host: Any, config: NetworkConfig) -> None:
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from multiaddr import Multiaddr

    peer_id = peer_id_of_seed(config.identity_seed)
    address = Multiaddr(f"/ip4/127.0.0.1/tcp/{config.listen_port}/p2p/{peer_id}")
    with trio.fail_after(8):
        await host.connect(info_from_p2p_addr(address))


async def open_lane(host: Any, config: NetworkConfig, lane: Lane) -> Any:
    from libp2p.peer.id import ID

    return await host.new_stream(
        ID.from_string(peer_id_of_seed(config.identity_seed)), [LANE_PROTOCOLS[lane]]
    )


async def test_both_lanes_deliver_in_order_both_ways() -> None:
    votes = [b"vote %d" % number for number in range(300)]
    bodies = [b"%d" % number + b"x" * 200_000 for number in range(20)]
    async with a_pair() as (low, high):
        for sender, receiver in ((low, high), (high, low)):
            to = ValidatorIndex(1 if sender is low else 0)
            assert all(sender.send(to, Lane.BULK, body) for body in bodies)
            assert all(sender.send(to, Lane.VOTE, vote) for vote in votes)
            assert await receive(receiver.votes, 300) == votes
            assert await receive(receiver.bulk, 20) == bodies


async def test_the_largest_messages_pass() -> None:
    async with a_pair() as (low, high):
        for lane, size in ((Lane.VOTE, 60 * 1024), (Lane.BULK, 4 * 1024 * 1024)):
            message = bytes(range(256)) * (size // 256)
            assert low.send(ValidatorIndex(1), lane, message)
            assert await receive(high.votes if lane is Lane.VOTE else high.bulk, 1) == [message]


async def test_a_dialler_who_offers_plaintext_only_is_refused() -> None:
    from libp2p.network.exceptions import SwarmException

    async with a_pair() as (low, _), an_outsider("plaintext") as host:
        with pytest.raises(SwarmException):
            await dial(host, low.config)
        assert all_up(low)


async def test_a_stranger_may_connect_but_not_open_a_lane() -> None:
    async with a_pair() as (low, _), an_outsider() as host:
        await dial(host, low.config)
        stream = await open_lane(host, low.config, Lane.VOTE)
        with pytest.raises(Exception):  # noqa: B017
            for _ in range(100):
                await stream.read(1)
        await until(lambda: low.counters.get(GossipReason.UNKNOWN_PEER) == 1)
        assert all_up(low)


async def test_another_chain_is_refused_by_both_and_said_so() -> None:
    ours, theirs = configs(2)
    low = Libp2pNetwork(ours)
    high = Libp2pNetwork(replace(theirs, chain_id=ChainId(b"\1" * 32)))
    async with running(low, high):
        await until(lambda: low.counters.get(GossipReason.WRONG_CHAIN) > 0)
        await until(lambda: high.counters.get(GossipReason.WRONG_CHAIN) > 0)
        assert not low.peers()[0].connected
        assert not high.peers()[0].connected


async def test_a_malformed_frame_ends_that_link_which_then_comes_back() -> None:
    async with a_pair() as (low, high):
        stream = high._links[ValidatorIndex(0)]._queues[Lane.VOTE].stream
        assert stream is not None
        await stream.write(b"\0" * 8)
        await until(lambda: low.counters.get(GossipReason.BAD_VERSION) == 1)
        await until(lambda: back_again(low, high))
        assert low.peers()[0].score == 50
        low.broadcast(Lane.VOTE, b"still here")
        assert await receive(high.votes, 1) == [b"still here"]


async def test_an_exception_in_a_stream_handler_does_not_end_the_host() -> None:
    async def broken(peer: PeerName, request: bytes) -> bytes:
        raise ZeroDivisionError

    first, second = configs(2)
    low, high = Libp2pNetwork(first, on_request=broken), Libp2pNetwork(second)
    async with running(low, high):
        await until(lambda: all_up(low, high))
        with pytest.raises(NoAnswer):
            await high.request(ValidatorIndex(0), b"block 7")
        await until(lambda: low.counters.get(GossipReason.HANDLER_FAILED) == 1)
        await until(lambda: back_again(low, high))
        low.broadcast(Lane.VOTE, b"alive")
        assert await receive(high.votes, 1) == [b"alive"]


async def test_a_penalised_validator_is_cut_and_then_banned() -> None:
    async with a_pair() as (low, high):
        for _ in range(10):
            low.penalise(ValidatorIndex(1), GossipReason.INVALID_MESSAGE)
        await until(lambda: back_again(low, high))
        for _ in range(10):
            low.penalise(ValidatorIndex(1), GossipReason.INVALID_MESSAGE)
        await until(lambda: not low.peers()[0].connected)
        assert low.peers()[0].banned
        await until(lambda: low.counters.get(GossipReason.BANNED) > 0)
        assert not low.peers()[0].connected


async def test_publications_reach_validators_and_a_follower_once() -> None:
    first, second = configs(2)
    low = Libp2pNetwork(first)
    high = Libp2pNetwork(replace(second, topics=(Topic.EVIDENCE,)))
    follower = Libp2pNetwork(
        replace(
            first, own_index=None, identity_seed=STRANGER_SEED, topics=(Topic.FINAL_BLOCKS, Topic.EVIDENCE)
        )
    )
    async with running(low, high, follower):
        await until(lambda: all_up(low, high))
        await until(lambda: low._edge is not None and len(low._edge.connected_peers()) == 2)
        await trio.sleep(1.5)  # Two gossipsub heartbeats: the meshes are formed.
        blocks = [b"block %d" % number + b"x" * 10_000 for number in range(50)]
        for block in blocks:
            assert low.publish(Topic.FINAL_BLOCKS, block)
        assert sorted(await receive(follower.bulk, 50)) == sorted(blocks)
        assert low.publish(Topic.EVIDENCE, b"proof")
        assert await receive(high.bulk, 1) == [b"proof"]
        assert await receive(follower.bulk, 1) == [b"proof"]
        with trio.move_on_after(0.3):
            assert not await follower.bulk.receive(), "every publication is delivered once"


async def test_a_follower_asks_and_is_answered_within_its_quota() -> None:
    async def blocks(peer: PeerName, request: bytes) -> bytes:
        return b"block " + request * 1000

    config = configs(1)[0]
    validator = Libp2pNetwork(config, on_request=blocks)
    follower = Libp2pNetwork(replace(config, own_index=None, identity_seed=STRANGER_SEED))
    async with running(validator, follower):
        await until(lambda: follower._edge is not None and follower._edge.connected_peers())
        assert await follower.request(ValidatorIndex(0), b"7") == b"block " + b"7" * 1000
        with pytest.raises(NoAnswer):
            await follower.request(ValidatorIndex(0), b"7" * (REQUEST_BYTES_MAX + 1))
        await until(lambda: validator.counters.get(GossipReason.TOO_LARGE) == 1)


async def test_many_requests_at_once_are_answered_later_and_nobody_is_blamed() -> None:
    async def blocks(peer: PeerName, request: bytes) -> bytes:
        return b"x" * 100_000

    config = configs(1)[0]
    validator = Libp2pNetwork(config, on_request=blocks)
    follower = Libp2pNetwork(replace(config, own_index=None, identity_seed=STRANGER_SEED))
    answered: list[int] = []
    async with running(validator, follower):
        await until(lambda: follower._edge is not None and follower._edge.connected_peers())

        async def ask() -> None:
            with suppress(NoAnswer):
                answered.append(len(await follower.request(ValidatorIndex(0), b"7")))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
        assert REQUESTS_PER_PEER_MAX <= len(answered) <= 12
        assert set(answered) == {100_000}
        assert await follower.request(ValidatorIndex(0), b"7") == b"x" * 100_000
        assert validator.counters.get(GossipReason.OVER_BUDGET) == 0


async def test_a_port_in_use_is_one_clear_sentence() -> None:
    config = configs(1)[0]
    with socket.socket() as taken:
        taken.bind((config.listen_host, config.listen_port))
        taken.listen()
        with pytest.raises(OperatorError, match=f"port {config.listen_port} on 127.0.0.1 is in use"):
            await Libp2pNetwork(config).run()


async def test_many_broken_dials_do_not_close_the_door() -> None:
    async with a_pair() as (low, _):
        for _ in range(300):
            stream = await trio.open_tcp_stream("127.0.0.1", low.config.listen_port)
            await stream.send_all(b"\x13/multistream/1.0.0\n")
            await stream.aclose()
        async with an_outsider() as host:
            await dial(host, low.config)
            await until(lambda: low._edge is not None and len(low._edge.connected_peers()) == 2)


async def test_half_open_connections_are_capped_and_spare_those_who_are_in() -> None:
    async with a_pair() as (low, high):
        streams = [await trio.open_tcp_stream("127.0.0.1", low.config.listen_port) for _ in range(80)]
        await until(lambda: low.counters.get(GossipReason.TOO_MANY_CONNECTIONS) >= 16)
        high.broadcast(Lane.VOTE, b"through")
        assert await receive(low.votes, 1) == [b"through"]
        for stream in streams:
            await trio.aclose_forcefully(stream)


@pytest.mark.slow
async def test_three_hundred_connections_come_and_go_and_the_door_stays_open() -> None:
    """libp2p 0.8.1 by itself accepts about 250 inbound connections in the life of a host."""
    from gossip.counters import Counters
    from gossip.host import Edge

    validator = Libp2pNetwork(configs(1)[0])
    peer = validator.config.validators[0]

    async def come_and_go(seed: bytes) -> None:
        config = replace(validator.config, own_index=None, identity_seed=seed)
        edge = Edge(config, Counters(), lambda _: True, lambda _: None)
        async with edge.run():
            for _ in range(20):
                await edge.connect(peer.peer_id, peer.host, peer.port)
                edge.abort_peer(peer.peer_id)
                await until(lambda: not edge.is_connected(peer.peer_id))

    async with running(validator):
        async with trio.open_nursery() as nursery:
            for number in range(15):
                nursery.start_soon(come_and_go, bytes([100 + number]) * 32)
        async with an_outsider() as host:
            await dial(host, validator.config)
        assert validator.counters.get(GossipReason.TOO_MANY_CONNECTIONS) == 0


# --- a validator behind sentries ---


@asynccontextmanager
async def behind_a_sentry() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork, SentryNetwork]]:
    """Validator 0 in the open, validator 1 behind a sentry; in this order: 0, the sentry, 1."""
    first, second = configs(2)
    seed = second.identity_seed
    sentry = Libp2pNetwork(replace(second, sentry_of=private_peer_id(seed)), on_request=told_by_the_sentry)
    nowhere = tuple(replace(peer, host="", port=0) for peer in second.validators)
    address = second.validators[1].host, second.validators[1].port
    hidden = SentryNetwork(
        replace(second, validators=nowhere, listen_host="", listen_port=0), [("127.0.0.1", 1), address]
    )
    peer = Libp2pNetwork(first)
    async with trio.open_nursery() as nursery:
        for network in (peer, sentry, hidden):
            await nursery.start(network.run)
        await until(lambda: peer.peers()[0].connected and hidden.peers()[0].connected)
        yield peer, sentry, hidden
        nursery.cancel_scope.cancel()


async def told_by_the_sentry(peer: PeerName, request: bytes) -> bytes:
    return b"the sentry knows " + request


async def test_votes_and_proposals_pass_a_sentry_both_ways() -> None:
    async with behind_a_sentry() as (peer, sentry, hidden):
        for lane, inbox, own in ((Lane.VOTE, peer.votes, hidden.votes), (Lane.BULK, peer.bulk, hidden.bulk)):
            assert hidden.send(ValidatorIndex(0), lane, b"from 1")
            assert hidden.broadcast(lane, b"to all") == 1
            assert await receive(inbox, 2) == [b"from 1", b"to all"]
            assert peer.send(ValidatorIndex(1), lane, b"from 0")
            with trio.fail_after(5):
                frame = await own.receive()
            assert (frame.peer, frame.lane, frame.messages) == (0, lane, (b"from 0",))
        assert not sentry.send(ValidatorIndex(0), Lane.VOTE, b"a sentry has no votes")


async def test_a_large_proposal_passes_a_sentry() -> None:
    async with behind_a_sentry() as (peer, _, hidden):
        proposal = b"x" * (4 * 2**20)
        assert hidden.send(ValidatorIndex(0), Lane.BULK, proposal)
        assert await receive(peer.bulk, 1) == [proposal]
        assert peer.send(ValidatorIndex(1), Lane.BULK, proposal)
        assert await receive(hidden.bulk, 1) == [proposal]


async def test_the_sentry_answers_its_validator_and_blames_whom_it_blames() -> None:
    async with behind_a_sentry() as (_, sentry, hidden):
        assert await hidden.request(ValidatorIndex(0), b"7") == b"the sentry knows 7"
        hidden.penalise(ValidatorIndex(0), GossipReason.INVALID_MESSAGE)
        await until(lambda: sentry.peers()[0].score == 10)


async def test_nobody_but_its_validator_may_use_a_sentry() -> None:
    async with behind_a_sentry() as (peer, sentry, _):
        edge = peer._edge
        assert edge is not None
        stream = await edge.open(sentry.config.validators[1].peer_id, RELAY_PROTOCOLS[Lane.VOTE])
        with pytest.raises(StreamBroken):
            while True:
                await stream.read()
        assert sentry.counters.get(GossipReason.UNKNOWN_PEER) == 1


async def test_the_validators_peers_never_learn_its_address() -> None:
    async with behind_a_sentry() as (peer, _, hidden):
        assert hidden._edge is not None
        assert not hidden._edge.swarm.listeners
        assert peer._edge is not None
        assert private_peer_id(hidden.config.identity_seed) not in peer._edge.connected_peers()


async def test_without_its_validator_a_sentry_keeps_its_links_and_the_validator_comes_back() -> None:
    async with behind_a_sentry() as (peer, sentry, hidden):
        assert hidden._edge is not None
        hidden._link.abort()
        await until(lambda: not hidden.peers()[0].connected)
        assert peer.peers()[0].connected
        peer.send(ValidatorIndex(1), Lane.VOTE, b"while away")
        await until(lambda: hidden.peers()[0].connected)
        assert await receive(hidden.votes, 1) == [b"while away"]
        assert sentry.peers()[0].connected
