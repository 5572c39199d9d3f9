"""After the run: what the validators' stores say, compared height by height. Reads their block stores.

The roots were compared while the network ran; this catches what a validator executed while nobody listened to it, and
whether every acknowledged transaction is in every chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from consensus.messages import Block
from node.rpc.views import StatusView, ViewName
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from primitives.errors import OperatorError
from testnet.report import Divergence


@dataclass(slots=True)
class Audit:
    """What the stores of all validators show."""

    final_heights: dict[int, int] = field(default_factory=dict)
    compared_heights: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    missing: dict[int, list[str]] = field(default_factory=dict)
    """Transaction ids (hex) that a validator's chain does not have, by validator."""


def audit_stores(stores: Sequence[Path], transactions: Iterable[str]) -> Audit:
    """Compare block hashes, which commit to the parents' state roots, and the last roots; look up transactions."""
    audit, wanted = Audit(), list(transactions)
    opened: list[BlockStore] = []
    try:
        for index, path in enumerate(stores):
            audit.final_heights[index] = 0
            try:
                opened.append(BlockStore.open(path, read_only=True))
            except OperatorError:
                audit.missing[index] = wanted  # This validator never got as far as to make a store.
        if audit.missing:
            return audit
        tips = [store.tip() for store in opened]
        audit.final_heights = {index: tip.height if tip else 0 for index, tip in enumerate(tips)}
        common = min(audit.final_heights.values(), default=0)
        for height in range(1, common + 1):
            _compare(audit, height, opened)
        _compare_last_roots(audit, opened)
        for index, store in enumerate(opened):
            lost = [item for item in wanted if store.height_of_transaction(bytes.fromhex(item)) is None]
            if lost:
                audit.missing[index] = lost
    finally:
        for store in opened:
            store.close()
    return audit


def _compare_last_roots(audit: Audit, stores: Sequence[BlockStore]) -> None:
    """The roots after the last blocks, which no header carries yet, where validators ended at one height."""
    by_height: dict[int, dict[int, bytes]] = {}
    for index, store in enumerate(stores):
        raw = store.view(ViewName.STATUS.value)
        if raw is not None:
            status = decode_own(StatusView, raw)
            by_height.setdefault(status.height, {})[index] = status.state_root
    for height, roots in sorted(by_height.items()):
        if len(set(roots.values())) > 1:
            shown = tuple((index, root.hex()) for index, root in sorted(roots.items()))
            audit.divergences.append(Divergence(height, shown))


def _compare(audit: Audit, height: int, stores: Sequence[BlockStore]) -> None:
    raws = [store.block_at(height) for store in stores]
    hashes = [store.hash_at(height) for store in stores]
    audit.compared_heights += 1
    if len(set(hashes)) > 1:
        shown = tuple((index, (value or b"").hex()) for index, value in enumerate(hashes))
        audit.divergences.append(Divergence(height, shown))
        return
    roots = {decode_own(Block, raw).header.parent_state_root for raw in raws if raw is not None}
    if len(roots) > 1:
        audit.divergences.append(Divergence(height - 1, tuple((-1, root.hex()) for root in sorted(roots))))
