"""A validator behind two sentries that both live: one is its face, the other stands by. Real libp2p hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from gossip.network import Lane
from gossip.reasons import GossipReason
from gossip.relay import SentryNetwork, private_peer_id
from gossip.service import Libp2pNetwork
from primitives.identifiers import ValidatorIndex
from tests.network.test_network_libp2p import configs, free_ports, until

HIDDEN = ValidatorIndex(1)


class Fortress:
    """Validators 0 and 2 in the open; 1 behind sentries, of which the others know only the first's address."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        low, self.own, high = configs(3)
        self.ports = [self.own.listen_port, *free_ports(2)]
        self.open = [Libp2pNetwork(low), Libp2pNetwork(high)]
        nowhere = tuple(replace(peer, host="", port=0) for peer in self.own.validators)
        own = replace(self.own, validators=nowhere, listen_host="", listen_port=0)
        self.hidden = SentryNetwork(own, [("127.0.0.1", port) for port in self.ports])
        self.sentries: dict[int, tuple[Libp2pNetwork, trio.CancelScope, trio.Event]] = {}

    async def raise_sentry(self, number: int) -> None:
        """Start one of the three that the hidden one knows."""
        sentry = Libp2pNetwork(
            replace(
                self.own,
                listen_port=self.ports[number],
                sentry_of=private_peer_id(self.own.identity_seed),
            )
        )
        scope, ended = trio.CancelScope(), trio.Event()

        async def life(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            try:
                with scope:
                    await sentry.run(task_status=task_status)
            finally:
                ended.set()

        await self.nursery.start(life)
        self.sentries[number] = sentry, scope, ended

    async def fell_sentry(self, number: int) -> None:
        """End one: its sockets are shut, and it says no farewell."""
        _, scope, ended = self.sentries.pop(number)
        scope.cancel()
        await ended.wait()

    async def is_heard(self, word: bytes, seconds: float = 6) -> None:
        """Until a vote of the hidden one is with both others, and one of theirs with it."""
        with trio.fail_after(seconds):
            for one in self.open:
                while True:
                    self.hidden.broadcast(Lane.VOTE, word)
                    one.send(HIDDEN, Lane.VOTE, word)
                    with trio.move_on_after(0.1):
                        if word in (await one.votes.receive()).messages:
                            break
                while True:
                    frame = await self.hidden.votes.receive()
                    if frame.peer == one.config.own_index and word in frame.messages:
                        break


@asynccontextmanager
async def a_fortress() -> AsyncIterator[Fortress]:
    async with trio.open_nursery() as nursery:
        fortress = Fortress(nursery)
        for number in (0, 1):
            await fortress.raise_sentry(number)
        for network in (*fortress.open, fortress.hidden):
            await nursery.start(network.run)
        await fortress.is_heard(b"at first")
        yield fortress
        nursery.cancel_scope.cancel()


async def test_a_validator_is_heard_whichever_of_its_sentries_falls() -> None:
    async with a_fortress() as fortress:
        await fortress.fell_sentry(0)
        await fortress.is_heard(b"through the second")
        await fortress.raise_sentry(2)
        await fortress.fell_sentry(1)
        await fortress.is_heard(b"through the one that came since")


async def test_the_sentry_that_stands_by_disturbs_nobody() -> None:
    async with a_fortress() as fortress:
        (face, _, _), (other, _, _) = (fortress.sentries[number] for number in (0, 1))
        replaced = [one.counters.get(GossipReason.REPLACED) for one in fortress.open]
        await trio.sleep(2)
        assert [one.counters.get(GossipReason.REPLACED) for one in fortress.open] == replaced
        assert [peer.connected for peer in face.peers()] == [True, True]
        assert [peer.connected for peer in other.peers()] == [False, False]
        assert other._edge is not None
        assert not {peer.peer_id for peer in fortress.own.validators} & set(other._edge.connected_peers())
        await until(lambda: other._eye is not None and len(other._eye.connected_peers()) == 2)


async def test_a_sentry_that_its_validator_left_gives_up_its_face() -> None:
    async with a_fortress() as fortress:
        face, _, _ = fortress.sentries[0]
        fortress.hidden._sentries = (("127.0.0.1", fortress.ports[1]),)
        fortress.hidden._link.abort()
        await until(lambda: not any(peer.connected for peer in face.peers()))
        # The second knocked before the first let go; its knocks are ever further apart.
        await fortress.is_heard(b"through the second", seconds=25)
