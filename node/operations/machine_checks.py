"""Whether this machine can carry a validator: clock, disk, files, memory, versions, ports. Measures all of them."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import socket
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from node.operations.findings import Finding, Level, graded

FSYNC_SAMPLES = 100
FSYNC_MS_LIMITS = (5.0, 50.0)
"""The median sync of one small append; each vote waits for one, and views are timed in tenths of a second."""
CLOCK_MS_LIMITS = (100.0, 500.0)
"""The kernel's own bound on its clock's error; reports carry this clock and their median is the block's time."""
FREE_BYTES_MIN = 10 * 2**30
OPEN_FILES_MIN = 4_096
MEMORY_BYTES_MIN = 2 * 2**30
CLOCK_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})
CONNECT_SECONDS_MAX = 3.0


def check_versions() -> list[Finding]:
    """The interpreter and every required package, against what this version of Quorate asks for."""
    from packaging.requirements import Requirement

    python = Finding(
        "python",
        Level.GOOD,
        f"Python {platform.python_version()}, {platform.system()} {platform.release()}",
    )
    try:
        lines = requires("quorate") or []
        own = version("quorate")
    except PackageNotFoundError:
        advice = "install it (make install), so that its requirements can be checked"
        return [python, Finding("packages", Level.NOTE, "quorate runs from a source tree", advice)]
    wrong = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    if wrong:
        advice = "install from requirements.lock again"
        return [python, Finding("packages", Level.PROBLEM, "; ".join(wrong), advice)]
    return [python, Finding("packages", Level.GOOD, f"quorate {own} with all it needs")]


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as we read it; the rest is room for what the kernel writes."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    ]


def check_clock() -> Finding:
    """What the kernel says of its own clock: synchronised or not, and its bound on the error."""
    advice = "run an NTP client (chrony, systemd-timesyncd): reports with a clock far off do not count"
    try:
        reading = _Timex()
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(reading))
    except (OSError, AttributeError):
        state = -1
    if state < 0:
        return Finding("clock", Level.WARNING, "this system does not say how exact its clock is", advice)
    bound_ms = reading.maxerror / 1_000
    if reading.status & CLOCK_UNSYNCHRONISED:
        return Finding("clock", Level.WARNING, "not synchronised with any time server", advice)
    return graded(
        "clock", f"synchronised, error at most {bound_ms:.1f} ms", bound_ms, CLOCK_MS_LIMITS, advice
    )


def check_disk(directory: Path) -> list[Finding]:
    """Kind, room and speed of the disk under `directory`: FSYNC_SAMPLES appends of 512 bytes, each synced."""
    place = directory
    while not place.exists():
        place = place.parent
    usage = psutil.disk_usage(str(place))
    room = f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.0f}"
    findings = [
        Finding("disk space", Level.GOOD, room)
        if usage.free >= FREE_BYTES_MIN
        else Finding(
            "disk space", Level.WARNING, room, "make room, or set retention_blocks so that old blocks go"
        )
    ]
    kind = filesystem_of(place)
    if kind in NETWORK_FILESYSTEMS:
        advice = "move `data` and the keystore to a local disk: locks and syncs over a network do not hold"
        findings.append(Finding("file system", Level.PROBLEM, kind, advice))
    elif kind in ("tmpfs", "ramfs"):
        advice = "move `data` to a disk: what was signed is forgotten with the power"
        findings.append(Finding("file system", Level.PROBLEM, f"{kind}, in memory", advice))
    else:
        findings.append(Finding("file system", Level.GOOD, kind))
    try:
        times_ms = sorted(fsync_times_ms(place))
    except OSError as error:
        advice = f"let this user write to {place}"
        return [*findings, Finding("disk latency", Level.PROBLEM, f"cannot write: {error.strerror}", advice)]
    median, worst = times_ms[len(times_ms) // 2], times_ms[-1]
    found = f"sync of a small append: median {median:.2f} ms, worst of {FSYNC_SAMPLES} {worst:.1f} ms"
    advice = (
        "use a faster or less busy disk (an SSD with power-loss protection): every vote waits for one sync"
    )
    return [*findings, graded("disk latency", found, median, FSYNC_MS_LIMITS, advice)]


def filesystem_of(place: Path) -> str:
    """Type of the mounted file system that holds an existing path; "unknown" if the system does not tell."""
    best, kind = "", "unknown"
    for part in psutil.disk_partitions(all=True):
        mount = part.mountpoint
        inside = place.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, part.fstype
    return kind


def fsync_times_ms(directory: Path) -> list[float]:
    """Milliseconds of each of FSYNC_SAMPLES appends with fdatasync, in a file that is removed. Raises OSError."""
    path = directory / f".doctor-{os.getpid()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        times = []
        for _ in range(FSYNC_SAMPLES):
            began = time.perf_counter()
            os.write(descriptor, bytes(512))
            os.fdatasync(descriptor)
            times.append((time.perf_counter() - began) * 1_000)
        return times
    finally:
        os.close(descriptor)
        path.unlink()


def check_limits() -> list[Finding]:
    """Open files, memory and processors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    findings = [
        Finding("open files", Level.GOOD, count)
        if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES_MIN
        else Finding(
            "open files",
            Level.WARNING,
            count,
            f"raise it: ulimit -n {OPEN_FILES_MIN}, or LimitNOFILE= in the unit",
        )
    ]
    memory = psutil.virtual_memory()
    found = f"{memory.available / 2**30:.1f} GiB available of {memory.total / 2**30:.1f}"
    if memory.available >= MEMORY_BYTES_MIN:
        findings.append(Finding("memory", Level.GOOD, found))
    else:
        findings.append(
            Finding("memory", Level.WARNING, found, "a node and its gateway want 2 GiB: free some")
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores >= 2:
        findings.append(Finding("processors", Level.GOOD, str(cores)))
    else:
        advice = "give it 2: voting and execution run beside each other"
        findings.append(Finding("processors", Level.WARNING, str(cores), advice))
    return findings


def check_port(name: str, host: str, port: int, *, is_running: bool) -> Finding:
    """A port of ours: with the node running somebody must answer on it, else it must be free."""
    place = f"{host} port {port}"
    if is_running:
        took_ms = connect_ms(host, port)
        if took_ms is not None:
            return Finding(name, Level.GOOD, f"{place} answers")
        return Finding(name, Level.PROBLEM, f"{place} does not answer", "look into the node's log")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return Finding(
            name, Level.PROBLEM, f"{place}: {error.strerror}", "choose another, or end what uses it"
        )
    return Finding(name, Level.GOOD, f"{place} is free")


def connect_ms(host: str, port: int) -> float | None:
    """Milliseconds until a TCP connection stands; None if it does not within CONNECT_SECONDS_MAX."""
    began = time.perf_counter()
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS_MAX):
            return (time.perf_counter() - began) * 1_000
    except OSError:
        return None
