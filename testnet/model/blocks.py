"""Every block that a model of a few views can contain, under small numbers. Pure."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

from primitives.hashing import digest
from primitives.identifiers import NO_BLOCK, BlockHash

GENESIS = 0
"""The number of the block in view 0. In a vote, 0 stands for "no block": nobody votes for genesis."""
LABELS = 3
"""Blocks of one view on one parent that can matter: a block that no honest validator notarizes gets no certificate,
and each of the three honest validators notarizes one."""


class ModelBlock(NamedTuple):
    """A block is its view, its parent, and which of the blocks that share both it is."""

    view: int
    parent: int
    label: int


class BlockTable:
    """Numbers blocks in ascending view; a parent always has a smaller number than its child."""

    def __init__(self, views: int) -> None:
        self.views = views
        self.blocks = [ModelBlock(0, 0, 0)]
        for view in range(1, views + 1):
            parents = range(len(self.blocks))
            self.blocks += [ModelBlock(view, *rest) for rest in product(parents, range(LABELS))]
        self.numbers = {block: number for number, block in enumerate(self.blocks)}
        self.hashes = [
            BlockHash(digest(b"quorate-model", n.to_bytes(4, "big"))) for n in range(len(self.blocks))
        ]
        self._number_of_hash = {block_hash: number for number, block_hash in enumerate(self.hashes)}

    def hash_of(self, number: int) -> BlockHash:
        """The stand-in for the block's hash, as a vote names it; NO_BLOCK for 0."""
        return self.hashes[number] if number else NO_BLOCK

    def number_of(self, block_hash: bytes) -> int:
        """The inverse of `hash_of`."""
        return self._number_of_hash[BlockHash(block_hash)] if block_hash != NO_BLOCK else 0

    def parents_of_view(self, view: int) -> range:
        """The blocks that a block of `view` may name as its parent: all of earlier views."""
        return range(self.numbers.get(ModelBlock(view, GENESIS, 0), len(self.blocks)))

    def is_on_chain_of(self, ancestor: int, number: int) -> bool:
        """Whether `ancestor` is the block or lies below it."""
        while number > ancestor:
            number = self.blocks[number].parent
        return number == ancestor
