"""One question, one answer: what happens when the other side takes nothing, not even the end of the stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from gossip.envelope import HELLO_LIMITS, FrameDecoder, Kind, encode_frame
from gossip.link import StreamBroken
from gossip.request_response import END_SECONDS_MAX, REQUEST_SECONDS_MAX, WRITE_SECONDS_MAX, ask


class Stuck:
    """A stream on which some calls never return."""

    def __init__(self, *stuck: str, answer: bytes = b"") -> None:
        self.stuck = stuck
        self.answer = answer
        self.calls: list[str] = []

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.stuck:
            await trio.sleep_forever()

    async def write(self, data: bytes) -> None:
        await self._call("write")

    async def read(self) -> bytes:
        await self._call("read")
        return self.answer

    async def close(self) -> None:
        await self._call("close")

    async def reset(self) -> None:
        await self._call("reset")

    async def widen(self) -> None:
        await self._call("widen")

    def abort(self) -> None:
        self.calls.append("abort")


def run(story: Callable[[], Awaitable[float]]) -> float:
    return trio.run(story, clock=MockClock(autojump_threshold=0))


def seconds_of(stream: Stuck, error: type[Exception]) -> float:
    async def story() -> float:
        began = trio.current_time()
        with pytest.raises(error):
            await ask(stream, FrameDecoder(HELLO_LIMITS), b"question")
        return trio.current_time() - began

    return run(story)


def test_an_answer_ends_the_stream_politely() -> None:
    stream = Stuck(answer=encode_frame(Kind.MESSAGES, [b"answer"]))

    async def story() -> float:
        assert await ask(stream, FrameDecoder(HELLO_LIMITS), b"question") == b"answer"
        return 0

    run(story)
    assert stream.calls == ["widen", "write", "read", "close"]


def test_who_does_not_answer_loses_the_stream_and_keeps_the_connection() -> None:
    stream = Stuck("read")
    assert seconds_of(stream, trio.TooSlowError) == REQUEST_SECONDS_MAX
    assert stream.calls == ["widen", "write", "read", "reset"]


def test_who_takes_no_question_loses_the_connection() -> None:
    stream = Stuck("write", "reset")
    assert seconds_of(stream, StreamBroken) == WRITE_SECONDS_MAX + END_SECONDS_MAX
    assert stream.calls == ["widen", "write", "abort", "reset", "abort"]


def test_a_cancelled_question_returns_even_if_the_stream_cannot_be_ended() -> None:
    stream = Stuck("read", "reset")

    async def story() -> float:
        began = trio.current_time()
        with trio.move_on_after(1):
            await ask(stream, FrameDecoder(HELLO_LIMITS), b"question")
        return trio.current_time() - began

    assert run(story) == 1 + END_SECONDS_MAX
    assert stream.calls[-2:] == ["reset", "abort"]
