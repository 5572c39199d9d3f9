"""One question to a running node, for commands on its machine. Uses its Unix socket, blocking."""

from __future__ import annotations

import socket
from pathlib import Path

from node.rpc.protocol import (
    ANSWER_BYTES_MAX,
    Answer,
    Call,
    FrameBuffer,
    GetStatus,
    StatusReply,
    decode_from_node,
    frame,
)
from primitives.errors import ProtocolViolation

ASK_SECONDS_MAX = 5.0


def ask_status(path: Path) -> StatusReply | None:
    """Where the node behind this socket stands; None when none answers within ASK_SECONDS_MAX."""
    buffer = FrameBuffer(ANSWER_BYTES_MAX)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(ASK_SECONDS_MAX)
            line.connect(str(path))
            line.sendall(frame(Call(1, GetStatus())))
            while chunk := line.recv(65_536):
                for body in buffer.feed(chunk):
                    answer = decode_from_node(body)
                    if isinstance(answer, Answer) and isinstance(answer.body, StatusReply):
                        return answer.body
    except (OSError, ProtocolViolation):
        return None
    return None
