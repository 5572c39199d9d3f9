"""Simulations for clients, done by a process of their own. asyncio; starts, watches and kills that process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ledger.transactions import ACTIONS_MAX
from node.config import NodeConfig
from node.rpc.answers import Refusal, SimulateAnswer
from node.rpc.api_route import Asked, Reply
from node.rpc.protocol import ANSWER_BYTES_MAX, LENGTH_BYTES, frame
from node.rpc.reasons import GatewayReason
from node.rpc.simulation_call import SimulateCall, SimulatedAction, SimulateReply
from node.rpc.wire_form import from_client_form
from primitives.codec import U8, Bytes20
from primitives.errors import ProtocolViolation
from primitives.reasons import CodecReason

SECONDS_MAX = 3.0
"""A simulation that takes longer, its wait for others included, is given up, and its process killed."""
WAITING_MAX = 32
"""Simulations waiting for their turn; a further one is refused as BUSY."""
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_REPLY = msgspec.msgpack.Decoder(SimulateReply)


class SimulateBody(msgspec.Struct, frozen=True):
    """Whose margin, and the actions in their order."""

    address: Bytes20
    subaccount: U8
    actions: Annotated[tuple[SimulatedAction, ...], msgspec.Meta(min_length=1, max_length=ACTIONS_MAX)]


class Simulations:
    """One process, started when it is first needed, and again after it was killed."""

    def __init__(self, config: NodeConfig) -> None:
        self._config = config
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._process: Process | None = None

    async def post(self, asked: Asked) -> SimulateAnswer | Reply:
        """What these actions would do; 422 when the ledger knows no such account, or a number is out of its range."""
        try:
            body = from_client_form(SimulateBody, _decoded(asked.body))
        except ProtocolViolation as violation:
            if violation.reason != CodecReason.OUT_OF_RANGE:
                raise
            return Reply(422, Refusal(reason=violation.reason.value, detail=violation.detail))
        reply = await self._ask(SimulateCall(body.address, body.subaccount, body.actions))
        if reply.answer is not None:
            return reply.answer
        if reply.reason == GatewayReason.BUSY:
            raise ProtocolViolation(GatewayReason.BUSY, reply.detail)
        return Reply(422, Refusal(reason=reply.reason, detail=reply.detail))

    async def _ask(self, call: SimulateCall) -> SimulateReply:
        if self._waiting >= WAITING_MAX:
            raise ProtocolViolation(GatewayReason.BUSY, "too many simulations are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(SECONDS_MAX), self._turn:
                return await self._exchange(call)
        except TimeoutError:
            raise ProtocolViolation(GatewayReason.TIMEOUT, "the simulation took too long") from None
        finally:
            self._waiting -= 1

    async def _exchange(self, call: SimulateCall) -> SimulateReply:
        is_done = False
        try:
            process = await self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(frame(call))
            await process.stdin.drain()
            length = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES), "big")
            reply = _REPLY.decode(await process.stdout.readexactly(min(length, ANSWER_BYTES_MAX)))
            is_done = True
        except (OSError, asyncio.IncompleteReadError):
            raise ProtocolViolation(GatewayReason.INTERNAL, "the simulation failed") from None
        finally:
            if not is_done:
                self.close()
        return reply

    async def _running(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            command = (sys.executable, "-m", "node.rpc.simulation_worker")
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, cwd=_PACKAGE_ROOT
            )
            assert self._process.stdin is not None
            self._process.stdin.write(msgspec.json.encode(self._config) + b"\n")
        return self._process

    def close(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise ProtocolViolation(GatewayReason.BAD_REQUEST, "the body is not JSON") from None
