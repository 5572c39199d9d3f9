"""The Unix socket between node and clients: answers, notices, and what no client can do to the node."""

from __future__ import annotations

import random
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from node.rpc import node_socket
from node.rpc.client_trio import CallRefused, NodeClient, open_node_client
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import (
    CALL_BYTES_MAX,
    Answer,
    Call,
    FinalBlockNotice,
    FrameBuffer,
    GetStatus,
    Refused,
    StatusReply,
    SubmitReply,
    SubmitTransactions,
    Subscribe,
    decode_from_node,
    frame,
)
from primitives.errors import InvariantViolation, OperatorError, ProtocolViolation
from primitives.hashing import digest

STATUS = StatusReply(
    name="node0",
    index=0,
    chain_id=bytes(32),
    validators=4,
    height=8,
    view=12,
    final_height=7,
    final_hash=b"\7" * 32,
    state_root=b"\1" * 32,
    block_time_ns=5,
    market_time_ns=6,
    halted="",
    observer="",
    peers=(),
    finality_us_p50=40_000,
    finality_us_p99=90_000,
    finality_count=100,
    fast_share_ppm=600_000,
    mempool_size=3,
    rss_bytes=10**8,
    cpu_ms=1_000,
    epsilon_ppm_p50=0,
    counters=(("a", 1),),
)


class Handler:
    """Accepts every transaction but `bad`; `crash` and `broken promise` fail as a buggy node would."""

    def __init__(self) -> None:
        self.submitted: list[bytes] = []

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitReply]:
        await trio.lowlevel.checkpoint()
        if b"crash" in raws:
            raise ZeroDivisionError("secret detail")
        if b"broken promise" in raws:
            raise InvariantViolation("cash is conserved")
        self.submitted += raws
        return [
            SubmitReply(digest(b"test", raw), raw != b"bad", "" if raw != b"bad" else "bad_nonce", "")
            for raw in raws
        ]

    def status(self) -> StatusReply:
        return STATUS

    def metrics_text(self) -> bytes:
        return b"quorate_view 12\n"


def a_notice(height: int, events: bytes = b"") -> FinalBlockNotice:
    return FinalBlockNotice(height, bytes(32), bytes(32), height, height, events)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[NodeSocket]:
    async with trio.open_nursery() as nursery:
        server = NodeSocket(path, Handler())
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def answered(client: NodeClient) -> bool:
    with trio.fail_after(2):
        return await client.status() == STATUS


async def test_a_client_submits_and_asks(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"), open_node_client(tmp_path / "s") as client:
        assert await client.submit([b"good", b"bad"]) == (
            SubmitReply(digest(b"test", b"good"), True, "", ""),
            SubmitReply(digest(b"test", b"bad"), False, "bad_nonce", ""),
        )
        assert await client.status() == STATUS
        assert await client.metrics() == b"quorate_view 12\n"


async def test_only_its_owner_can_open_the_socket(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600


async def test_a_socket_left_by_a_killed_node_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").touch()
    async with serving(tmp_path / "s"), open_node_client(tmp_path / "s") as client:
        assert await answered(client)


async def test_a_path_that_no_socket_can_have_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="use a home directory with a shorter name"):
        await NodeSocket(tmp_path / ("x" * 120), Handler()).run()


async def test_notices_come_in_order_to_those_who_asked(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, open_node_client(tmp_path / "s") as client:
        server.publish(a_notice(7))
        assert await client.subscribe() == 7
        for height in (8, 9):
            server.publish(a_notice(height))
        assert [await client.notices.receive(), await client.notices.receive()] == [a_notice(8), a_notice(9)]


async def test_a_subscriber_that_does_not_read_is_dropped_and_nobody_else_notices(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, open_node_client(tmp_path / "s") as reader:
        deaf = await trio.open_unix_socket(str(tmp_path / "s"))
        await deaf.send_all(frame(Call(1, Subscribe())))
        await deaf.receive_some()
        await reader.subscribe()
        for height in range(1, 6_000):
            server.publish(a_notice(height, bytes(1_000)))
            assert await reader.notices.receive() == a_notice(height, bytes(1_000))
        assert (server.subscribers, server.counters["slow_consumer"]) == (1, 1)
        assert await answered(reader)


async def test_a_failing_handler_is_refused_without_its_secrets_and_the_node_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"), open_node_client(tmp_path / "s") as client:
        with pytest.raises(CallRefused, match="internal: the node failed to answer"):
            await client.submit([b"crash"])
        assert await answered(client)


async def test_our_own_broken_promise_stops_the_node(tmp_path: Path) -> None:
    with pytest.RaisesGroup(InvariantViolation, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(tmp_path / "s"), open_node_client(tmp_path / "s") as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.submit([b"broken promise"])


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ((CALL_BYTES_MAX + 1).to_bytes(4, "big"), "too_large"),
        (b"\xff\xff\xff\xff", "too_large"),
        (b"\0\0\0\0", "malformed"),
        (b"\0\0\0\1\xc0", "malformed"),
        (frame(Answer(1, Refused("x", ""))), "malformed"),
        (b"\0\0\0\5\x92\x01\x91\xcc\x02", "not_canonical"),
        (b"\0\0\0\4\x92\x01\x91\x63", "malformed"),
        (frame(SubmitTransactions((bytes(65_537),))), "malformed"),
    ],
)
async def test_a_malformed_frame_ends_its_connection_with_a_reason(
    tmp_path: Path, raw: bytes, reason: str
) -> None:
    async with serving(tmp_path / "s") as server:
        stream = await trio.open_unix_socket(str(tmp_path / "s"))
        await stream.send_all(raw)
        received = b""
        with trio.fail_after(2):
            while data := await stream.receive_some():
                received += data
        (body,) = FrameBuffer(1_000).feed(received)
        answer = decode_from_node(body)
        assert isinstance(answer, Answer) and isinstance(answer.body, Refused)
        assert (answer.id, answer.body.reason, server.counters[reason]) == (0, reason, 1)


async def test_random_bytes_never_stop_the_node(tmp_path: Path) -> None:
    chance = random.Random(20_26)
    sound = frame(Call(7, GetStatus())) + frame(Call(8, SubmitTransactions((b"x" * 40,))))
    async with serving(tmp_path / "s") as server, open_node_client(tmp_path / "s") as client:
        for _ in range(300):
            raw = bytearray(sound)
            for _ in range(chance.randint(0, 4)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            raw = raw[: chance.randint(1, len(raw))] + chance.randbytes(chance.choice((0, 0, 30)))
            stream = await trio.open_unix_socket(str(tmp_path / "s"))
            await stream.send_all(bytes(raw))
            await stream.aclose()
        assert await answered(client)
        assert server.counters["barrier"] == 0


async def test_a_frame_may_come_byte_by_byte(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        stream = await trio.open_unix_socket(str(tmp_path / "s"))
        for byte in frame(Call(5, GetStatus())):
            await stream.send_all(bytes([byte]))
        (body,) = FrameBuffer(10_000).feed(await stream.receive_some())
        assert decode_from_node(body) == Answer(5, STATUS)


async def test_connections_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_socket, "CLIENTS_MAX", 2)
    async with serving(tmp_path / "s") as server:
        async with open_node_client(tmp_path / "s") as one, open_node_client(tmp_path / "s") as two:
            assert await answered(one) and await answered(two)
            third = await trio.open_unix_socket(str(tmp_path / "s"))
            (body,) = FrameBuffer(1_000).feed(await third.receive_some())
            assert decode_from_node(body) == Answer(0, Refused("too_many_clients", "at most 2 connections"))
        assert server.counters["connections"] == 3


async def test_a_client_learns_that_its_node_is_gone(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"), open_node_client(tmp_path / "s") as client:
        assert await answered(client)
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await client.status()


def test_a_claimed_length_allocates_nothing() -> None:
    buffer = FrameBuffer(1_000)
    with pytest.raises(ProtocolViolation, match="too_large"):
        buffer.feed((1_001).to_bytes(4, "big"))
