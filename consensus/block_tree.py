"""Blocks above the last final one: ancestry, missing parents, standing, pruning. Pure.

The root is the last final block. A block stands WAITING until its parent is acceptable, VALIDATING while the
driver looks at it, and then ACCEPTABLE or UNACCEPTABLE for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum

from consensus.messages import Block
from primitives.identifiers import BlockHash

TREE_BLOCKS_MAX = 1_024
"""Blocks above the root. When full, further ones are refused and fetched again after finality has moved."""
TREE_HEIGHTS_MAX = 512
"""A fetched block more than this above the root is not kept: catch-up comes back for it."""


class Standing(Enum):
    """What is known about a block's acceptability (consensus.md section 3)."""

    WAITING = "waiting"
    VALIDATING = "validating"
    ACCEPTABLE = "acceptable"
    UNACCEPTABLE = "unacceptable"


@dataclass(slots=True, eq=False)
class Node:
    """One known block."""

    hash: BlockHash
    block: Block
    standing: Standing
    view: int
    """The view it was proposed in; 0 for the block that the epoch begins on."""

    @property
    def height(self) -> int:
        """Its distance from genesis."""
        return self.block.header.height

    @property
    def parent(self) -> BlockHash:
        """Its parent's hash."""
        return BlockHash(self.block.header.parent_hash)


class BlockTree:
    """The final tip and everything known above it."""

    def __init__(
        self,
        root: Block,
        root_hash: BlockHash,
        retain_views: int,
        proved: bool = True,
        root_view: int | None = None,
    ) -> None:
        """`retain_views`: how far below the root the final chain's (view, hash) are remembered, for R9.

        `proved`: whether the root has a finality proof of its own, not only a descendant's. `root_view`: 0 if the
        epoch begins on the root, which was proposed in a view of the epoch before.
        """
        view = root.header.view if root_view is None else root_view
        self.root = Node(root_hash, root, Standing.ACCEPTABLE, view)
        self._nodes: dict[BlockHash, Node] = {root_hash: self.root}
        self._children: dict[BlockHash, list[Node]] = {}
        self._retain = retain_views
        self._final_views = [self.root.view]
        self._final_hashes = [root_hash]
        self._proved_views = [self.root.view] if proved else []

    def get(self, block: BlockHash) -> Node | None:
        """A known block that may still matter."""
        return self._nodes.get(block)

    def has_room(self, height: int) -> bool:
        """Whether a block of this height may be added now."""
        return len(self._nodes) <= TREE_BLOCKS_MAX and height <= self.root.height + TREE_HEIGHTS_MAX

    def add(self, block: Block, block_hash: BlockHash) -> Node:
        """Hold a justified block above the root; its standing is found by `ready`."""
        node = self._nodes.get(block_hash)
        if node is None:
            node = self._nodes[block_hash] = Node(block_hash, block, Standing.WAITING, block.header.view)
            self._children.setdefault(node.parent, []).append(node)
        return node

    def ready(self) -> list[Node]:
        """Waiting blocks whose parent is acceptable, in view order; children of a bad parent turn bad on the way."""
        found: list[Node] = []
        stack = [self.root]
        while stack:
            parent = stack.pop()
            for child in self._children.get(parent.hash, ()):
                if child.standing is Standing.WAITING:
                    fits = child.height == parent.height + 1 and child.block.header.parent_view == parent.view
                    if parent.standing is Standing.UNACCEPTABLE or not fits:
                        child.standing = Standing.UNACCEPTABLE
                    elif parent.standing is Standing.ACCEPTABLE:
                        found.append(child)
                stack.append(child)
        return sorted(found, key=lambda node: (node.view, node.hash))

    def path(self, block: BlockHash) -> list[Node] | BlockHash:
        """From just above the root up to `block`, or the hash of the lowest block at which the walk ends.

        That hash is unknown (to be fetched), or a child of something below the root: `conflicts` tells.
        """
        nodes: list[Node] = []
        cursor = block
        while cursor != self.root.hash:
            node = self._nodes.get(cursor)
            if node is None or node.height <= self.root.height:
                return cursor
            nodes.append(node)
            cursor = node.parent
        return nodes[::-1]

    def missing_ancestor(self, block: BlockHash) -> BlockHash | None:
        """The block to fetch before `block` can connect to the root; None when it does, or never can."""
        found = self.path(block)
        return None if isinstance(found, list) or self.conflicts(block) else found

    def conflicts(self, block: BlockHash) -> bool:
        """Whether a known chain from `block` downwards passes the root's height without meeting the root."""
        found = self.path(block)
        if isinstance(found, list):
            return False
        if found in self._nodes:
            return True
        children = self._children.get(found, ())
        return any(child.height <= self.root.height + 1 for child in children)

    def orphans(self) -> list[BlockHash]:
        """Hashes of unknown parents of known blocks, sorted."""
        unknown = [parent for parent in self._children if parent not in self._nodes]
        return sorted(
            one for one in unknown if any(c.height > self.root.height + 1 for c in self._children[one])
        )

    def finalize(self, path: list[Node], proved: bool = True) -> None:
        """Make the last node of a path from the root the new root; forget what it overtakes.

        `proved`: whether the last node has a finality proof of its own; its ancestors are final through it.
        """
        for node in path:
            self._final_views.append(node.view)
            self._final_hashes.append(node.hash)
        self.root = path[-1]
        self.root.standing = Standing.ACCEPTABLE
        keep_from = bisect_left(self._final_views, self.root.view - self._retain)
        del self._final_views[:keep_from], self._final_hashes[:keep_from]
        if proved:
            self._proved_views.append(self.root.view)
        del self._proved_views[: bisect_left(self._proved_views, self._final_views[0])]
        self._prune()

    def _prune(self) -> None:
        """Drop what is not above the root, and every branch that does not reach it by known blocks."""
        reached = {self.root.hash}
        branches = [self.root.hash]
        while branches:
            for child in self._children.get(branches.pop(), ()):
                reached.add(child.hash)
                branches.append(child.hash)
        unconnected = [n for n in self._nodes.values() if n.hash not in reached]
        waiting = {n.hash for n in unconnected if n.height > self.root.height + 1 and n.view > self.root.view}
        self._nodes = {name: n for name, n in self._nodes.items() if name in reached or name in waiting}
        self._children = {}
        for node in self._nodes.values():
            if node is not self.root:
                self._children.setdefault(node.parent, []).append(node)

    def final_at(self, view: int) -> BlockHash | None:
        """The final block of `view`, as far back as remembered."""
        at = bisect_left(self._final_views, view)
        if at < len(self._final_views) and self._final_views[at] == view:
            return self._final_hashes[at]
        return None

    def remembers(self, view: int) -> bool:
        """Whether the final chain is known at `view` (at or below the root's)."""
        return self._final_views[0] <= view <= self.root.view

    def skips_final(self, block: Block) -> bool:
        """R9: whether a justified block passes over a final one: no honest quorum certifies such a chain.

        Looks at the last block below the block's view that is final by a proof of its own: the parent must
        be it, or lie above it. A block that is final only through a descendant may have been skipped
        lawfully by a block between the two: a timeout certificate of its view that skips can exist beside
        one that carries it.
        """
        header = block.header
        at = bisect_left(self._proved_views, header.view) - 1
        if at < 0:
            return False
        view = self._proved_views[at]
        other = header.parent_view == view and header.parent_hash != self.final_at(view)
        return header.parent_view < view or other

    def nodes(self) -> list[Node]:
        """Everything above the root, in view order."""
        above = [node for node in self._nodes.values() if node is not self.root]
        return sorted(above, key=lambda node: (node.view, node.hash))
