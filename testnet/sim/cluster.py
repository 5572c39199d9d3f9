"""Tasks spread over a Dask cluster (extra `cluster`), results in the order of the tasks. Talks to its scheduler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from primitives.errors import OperatorError
from testnet.sim.campaign import R, Spread, T, quiet

CONNECT_S = 10
"""How long the scheduler has to answer, and then to find a first worker."""
ROOT = Path(__file__).parents[2]
PACKAGES = ("consensus", "gossip", "ledger", "node", "primitives", "testnet")


def on_cluster(address: str) -> Spread:
    """On the workers of the scheduler at `address` (tcp://host:port).

    Raises OperatorError, when used, without the extra, a scheduler or a worker, and when a worker has other source
    files.
    """

    def spread(work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
        try:
            distributed = import_module("distributed")
        except ImportError:
            raise OperatorError("--cluster needs Dask: install the extra quorate[cluster].") from None
        _check_address(address)
        try:
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except OSError as error:
            raise OperatorError(f"no Dask scheduler answers at {address}: {error}") from None
        with client:
            yield from _gathered(client, address, work, tasks)

    return spread


def _gathered(client: Any, address: str, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[R]:
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError:
        raise OperatorError(f"the Dask scheduler at {address} has no workers.") from None
    # Impure: a result of an earlier campaign must never stand for one of this build.
    futures = client.map(partial(_done_there, work), tasks, pure=False)
    while futures:
        build, result = futures.pop(0).result()
        if build != build_hash():
            raise OperatorError("a worker of the cluster has other source files: install this version there.")
        yield result


def _check_address(address: str) -> None:
    """Dask's client never ends its threads after an address that it cannot read."""
    try:
        parts = urlsplit(address)
        is_readable = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port
    except ValueError:
        is_readable = False
    if not is_readable:
        raise OperatorError(f"a scheduler's address is like tcp://127.0.0.1:8786, not {address!r}.")


def _done_there(work: Callable[[T], R], task: T) -> tuple[str, R]:
    """One task: the build it ran on, and its result."""
    quiet()
    return build_hash(), work(task)


@cache
def build_hash() -> str:
    """Over every source file of this build, by name."""
    total = blake2b(digest_size=16)
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        name, source = path.relative_to(ROOT).as_posix().encode(), path.read_bytes()
        total.update(b"%d %b %d " % (len(name), name, len(source)) + source)
    return total.hexdigest()
