"""What blocks do in a consensus campaign: nothing, but every block has a state root of its own. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from consensus.messages import Block, QuorumCertificate, hash_of
from primitives.hashing import EMPTY_ROOT, digest
from primitives.identifiers import BlockHash


class BuiltPayload(Protocol):
    """What a leader puts into its block."""

    @property
    def transactions(self) -> tuple[bytes, ...]: ...
    @property
    def time_ns(self) -> int: ...
    @property
    def parent_state_root(self) -> bytes: ...


class Executor(Protocol):
    """The application of one validator, as the driver of consensus sees it."""

    def build(self, parent: BlockHash, height: int, now_ns: int) -> BuiltPayload | None:
        """Fill a block on `parent`; None when finality has overtaken it."""
        ...

    def is_valid(self, block_hash: BlockHash, block: Block) -> bool | None:
        """Whether it may be voted for; None when finality has overtaken it."""
        ...

    def adopt(self, block_hash: BlockHash, block: Block) -> None:
        """A block of our own, which needs no validation."""
        ...

    def finalize(self, blocks: tuple[Block, ...], proof: QuorumCertificate) -> None:
        """Decided for good, in height order; known ones are skipped."""
        ...

    def root(self) -> bytes:
        """State root at the final tip."""
        ...


INVALID = b"invalid"
"""A transaction that makes a block unacceptable to every honest validator."""


class EmptyPayload:
    """No transactions."""

    transactions: tuple[bytes, ...] = ()

    def __init__(self, time_ns: int, parent_state_root: bytes) -> None:
        self.time_ns = time_ns
        self.parent_state_root = parent_state_root


class Roots:
    """State roots by block, a function of the chain alone; shared between the validators of a run as a memo."""

    def __init__(self) -> None:
        self._roots: dict[bytes, bytes] = {}

    def after(self, block_hash: BlockHash, block: Block, before: bytes) -> bytes:
        """The root after a block on the state `before`."""
        known = self._roots.get(block_hash)
        if known is None:
            known = digest(b"sim-root", before + block.header.transaction_root)
            self._roots[block_hash] = known
        return known

    def of(self, block_hash: BlockHash) -> bytes | None:
        """The root after a block that somebody executed."""
        return self._roots.get(block_hash)


class EmptyExecutor:
    """Valid is what states its parent's root, moves time on, and has no transaction called invalid."""

    def __init__(self, roots: Roots) -> None:
        self._roots = roots
        self._final = EMPTY_ROOT
        self.final_height = 0
        self.find_block: Callable[[BlockHash], Block | None] = lambda _: None
        """Where consensus keeps blocks: our own, while it waits for the disk, is in no message yet."""

    def build(self, parent: BlockHash, height: int, now_ns: int) -> EmptyPayload:
        """Never overtaken: there is no state to move."""
        return EmptyPayload(max(1, now_ns), self._root_after(parent))

    def _root_after(self, block_hash: BlockHash) -> bytes:
        known = self._roots.of(block_hash)
        block = self.find_block(block_hash) if known is None else None
        if block is not None:
            return self._roots.after(block_hash, block, block.header.parent_state_root)
        return EMPTY_ROOT if known is None else known

    def is_valid(self, block_hash: BlockHash, block: Block) -> bool:
        """A pure function of the block and its parent's root."""
        before = self._root_after(BlockHash(block.header.parent_hash))
        if block.header.parent_state_root != before or INVALID in block.transactions:
            return False
        self._roots.after(block_hash, block, before)
        return True

    def adopt(self, block_hash: BlockHash, block: Block) -> None:
        """Execute it."""
        self._roots.after(block_hash, block, block.header.parent_state_root)

    def finalize(self, blocks: tuple[Block, ...], proof: QuorumCertificate) -> None:
        """Execute what is new."""
        for block in blocks:
            if block.header.height == self.final_height + 1:
                self._final = self._roots.after(hash_of(block.header), block, self._final)
                self.final_height += 1

    def root(self) -> bytes:
        """At the final tip."""
        return self._final
