"""Real processes of a testnet: start, watch, kill, stop. Starts and ends only its own. Uses psutil and prctl."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import trio

STOP_SECONDS = 8.0
"""How long a process may take to end after SIGTERM before it is killed."""
LOG_TAIL_BYTES = 4_000

PR_SET_PDEATHSIG = 1
"""From <sys/prctl.h>: a signal for the child when the thread that started it ends. Ours start on the main thread."""
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded before there is a child: between fork and exec nothing may be loaded."""


def _end_with_parent() -> None:
    """In the child, before its program begins."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # type: ignore[union-attr]


class Process:
    """One child process with its output in a log file; on Linux it is told to end when we are killed."""

    def __init__(self, name: str, arguments: Sequence[str], log_path: Path) -> None:
        self.name = name
        self._arguments = tuple(arguments)
        self.log_path = log_path
        self._popen: subprocess.Popen[bytes] | None = None
        self._cpu_before = 0.0
        self._cpu_now = 0.0
        self.rss_mb_max = 0.0
        self.expected_to_run = False

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it (again); output is appended to its log."""
        self._cpu_before += self._cpu_now
        self._cpu_now = 0.0
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    **(environment or {}),
                },
                preexec_fn=_end_with_parent if _LIBC is not None else None,  # noqa: PLW1509 - one system call, no lock.
            )
        self.expected_to_run = True

    @property
    def pid(self) -> int | None:
        """Of the running process, else None."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """Of the ended process, else None."""
        return None if self._popen is None else self._popen.poll()

    def sample(self) -> None:
        """Note memory of this process and CPU of it and its children; cheap, call it about once a second."""
        pid = self.pid
        if pid is None:
            return
        try:
            process = psutil.Process(pid)
            self.rss_mb_max = max(self.rss_mb_max, process.memory_info().rss / 1e6)
            times = process.cpu_times()
            self._cpu_now = times.user + times.system
        except psutil.Error:
            return

    @property
    def cpu_seconds(self) -> float:
        """User and system time over all starts, as of the last sample; without children."""
        return self._cpu_before + self._cpu_now

    def kill(self) -> None:
        """SIGKILL, as a power cut would."""
        self.expected_to_run = False
        if self._popen is not None and self._popen.poll() is None:
            self.sample()
            self._popen.send_signal(signal.SIGKILL)
            self._popen.wait()

    def terminate(self) -> None:
        """SIGTERM; follow with `wait_ended`."""
        self.expected_to_run = False
        if self._popen is not None and self._popen.poll() is None:
            self.sample()
            self._popen.terminate()

    async def wait_ended(self) -> None:
        """Wait for the end; kill it after STOP_SECONDS."""
        if self._popen is None:
            return
        try:
            await trio.to_thread.run_sync(self._popen.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def log_tail(self) -> str:
        """The end of its log, for a person who wonders why it ended."""
        try:
            raw = self.log_path.read_bytes()[-LOG_TAIL_BYTES:]
        except OSError:
            return ""
        return raw.decode(errors="replace")


async def end_all(*processes: Process) -> None:
    """SIGTERM to every one, then wait for each of them; a cancellation does not cut it short."""
    with trio.CancelScope(shield=True):
        for process in processes:
            process.terminate()
        for process in processes:
            await process.wait_ended()


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that are free right now."""
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()
