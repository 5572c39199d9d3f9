"""Real processes on loopback: kill -9 and return, and a stopped peer that holds nobody up."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

SCRIPT = Path(__file__).with_name("network_node.py")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class NodeProcess:
    """One running node and what it told."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.events: list[tuple[float, dict[str, Any]]] = []

    async def listen(self) -> None:
        rest = b""
        assert self.process.stdout is not None
        async for data in self.process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.events += [(time.monotonic(), json.loads(line)) for line in lines]

    async def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(command.encode() + b"\n")

    async def wait_for(self, wanted: Callable[[dict[str, Any]], bool], after: int, seconds: float) -> float:
        """When the first event from number `after` on that is `wanted` came. Fails after `seconds`."""
        with trio.fail_after(seconds):
            while True:
                for when, event in self.events[after:]:
                    if wanted(event):
                        return when
                await trio.sleep(0.005)

    async def wait_up(self, peers: list[int], after: int = 0, seconds: float = 10) -> float:
        return await self.wait_for(lambda event: event.get("up") == peers, after, seconds)

    async def wait_got(self, peer: int, lane: str, text: str, seconds: float = 5) -> float:
        return await self.wait_for(lambda event: event.get("got") == [peer, lane, text], 0, seconds)


async def start(nursery: trio.Nursery, index: int, ports: list[int]) -> NodeProcess:
    command = [sys.executable, str(SCRIPT), str(index), *map(str, ports)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    node = NodeProcess(process)
    nursery.start_soon(node.listen)
    return node


@asynccontextmanager
async def four_nodes() -> AsyncIterator[tuple[list[NodeProcess], Callable[[int], Any]]]:
    """Four connected nodes, and a way to start one of them again."""
    ports = free_ports(4)
    started: list[NodeProcess] = []
    async with trio.open_nursery() as nursery:

        async def begin(index: int) -> NodeProcess:
            started.append(await start(nursery, index, ports))
            return started[-1]

        try:
            nodes = [await begin(index) for index in range(4)]
            for index, node in enumerate(nodes):
                await node.wait_up([other for other in range(4) if other != index], seconds=20)
            yield nodes, begin
        finally:
            for node in started:
                if node.process.returncode is None:
                    node.process.send_signal(signal.SIGKILL)
                    node.process.send_signal(signal.SIGCONT)
            nursery.cancel_scope.cancel()


async def test_both_lanes_deliver_to_every_other_process() -> None:
    async with four_nodes() as (nodes, _):
        await nodes[2].tell("say vote")
        await nodes[2].tell("body block")
        for node in (nodes[0], nodes[1], nodes[3]):
            await node.wait_got(2, "VOTE", "vote")
            await node.wait_got(2, "BULK", "block")


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 3])
async def test_a_killed_process_is_missed_at_once_and_back_soon_after_its_return(victim: int) -> None:
    async with four_nodes() as (nodes, begin):
        others = [node for index, node in enumerate(nodes) if index != victim]
        marks = [len(node.events) for node in others]
        nodes[victim].process.kill()
        for node, mark in zip(others, marks, strict=True):
            rest = [other for other in range(4) if other not in (victim, nodes.index(node))]
            await node.wait_up(rest, mark, seconds=1)
        await trio.sleep(0.5)
        returned = await begin(victim)
        up = await returned.wait_up([other for other in range(4) if other != victim], seconds=10)
        listening = returned.events[0][0]
        assert up - listening < 2.5
        await returned.tell("say I am back")
        for node in others:
            await node.wait_got(victim, "VOTE", "I am back")


@pytest.mark.slow
async def test_a_stopped_process_is_noticed_and_delays_nobody_elses_votes() -> None:
    async with four_nodes() as (nodes, _):
        mark = len(nodes[0].events)
        nodes[3].process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        delays = []
        for number in range(30):
            said = time.monotonic()
            await nodes[0].tell(f"say {number}")
            delays.append(await nodes[1].wait_got(0, "VOTE", str(number)) - said)
            await trio.sleep(0.05)
        noticed = await nodes[0].wait_up([1, 2], mark, seconds=3)
        assert noticed - stopped < 2.5
        assert sorted(delays)[len(delays) * 9 // 10] < 0.1
        mark = len(nodes[0].events)
        nodes[3].process.send_signal(signal.SIGCONT)
        await nodes[0].wait_up([1, 2, 3], mark, seconds=6)
        await nodes[3].tell("say awake")
        await nodes[0].wait_got(3, "VOTE", "awake")
