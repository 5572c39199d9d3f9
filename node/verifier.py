"""Signatures, each verified once: a bounded cache, small batches in place, large ones on worker threads.

A hop to a thread costs as much as three verifications (36 microseconds each) and a turn of the scheduler, so a batch
as small as one vote is cheaper in place; libsodium and libsecp256k1 release the GIL, so large batches use both cores.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import trio

from primitives.hashing import digest
from primitives.wallet import is_valid_by_any

CACHE_ENTRIES_MAX = 65_536
"""Digests of valid signatures kept; the oldest goes. At 64 bytes or so each, about 10 MB."""
INLINE_MAX = 4
"""Fresh signatures verified in place; more go to threads."""
CHUNK = 128
"""Signatures verified by one thread call."""


def _all_valid(checks: Sequence[tuple[bytes, bytes, bytes]]) -> bool:
    return all(is_valid_by_any(*check) for check in checks)


class SignatureVerifier:
    """Shared by every service of a node. Only valid signatures are cached: a forged one costs one verification."""

    def __init__(self) -> None:
        self._valid: OrderedDict[bytes, None] = OrderedDict()
        self.verified = 0
        self.cached = 0

    async def all_valid(self, checks: Iterable[tuple[bytes, bytes, bytes]]) -> bool:
        """Whether every signature is valid. May wait for worker threads when there are many."""
        fresh: list[tuple[bytes, bytes, bytes]] = []
        keys: list[bytes] = []
        for check in checks:
            public_key, message, signature = check
            # The lengths keep bytes from passing from one part to the next: another check, another entry.
            lengths = bytes((len(public_key), len(signature)))
            key = digest(b"quorate-sigcache", b"".join((lengths, public_key, signature, message)))
            if key in self._valid:
                self.cached += 1
            else:
                fresh.append(check)
                keys.append(key)
        if not fresh:
            return True
        self.verified += len(fresh)
        if len(fresh) <= INLINE_MAX:
            valid = _all_valid(fresh)
        else:
            valid = await self._on_threads(fresh)
        if valid:
            self._remember(keys)
        return valid

    async def _on_threads(self, fresh: list[tuple[bytes, bytes, bytes]]) -> bool:
        verdicts: list[bool] = []

        async def verify(chunk: list[tuple[bytes, bytes, bytes]]) -> None:
            verdicts.append(await trio.to_thread.run_sync(_all_valid, chunk))

        async with trio.open_nursery() as nursery:
            for start in range(0, len(fresh), CHUNK):
                nursery.start_soon(verify, fresh[start : start + CHUNK])
        return all(verdicts)

    def _remember(self, keys: list[bytes]) -> None:
        for key in keys:
            self._valid[key] = None
        while len(self._valid) > CACHE_ENTRIES_MAX:
            self._valid.popitem(last=False)
