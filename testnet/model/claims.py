"""What must hold in every state: one chain of final blocks, and the claims of the safety argument. Pure.

consensus.md section 10 proves agreement from claims about one view and one about the views above it; each is
checked on its own, so that a mistake shows where it is made and not only where it leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from testnet.model.blocks import BlockTable
from testnet.model.rules import Provable


def conflicting_final_blocks(table: BlockTable, provable: Sequence[Provable]) -> tuple[int, int] | None:
    """Two final blocks of which neither is below the other, or None: agreement (R6)."""
    final = sorted({block for view in provable for block in view.final})
    for index, low in enumerate(final):
        for high in final[index + 1 :]:
            if not table.is_on_chain_of(low, high):
                return low, high
    return None


def broken_claims(table: BlockTable, provable: Sequence[Provable]) -> Iterator[str]:
    """A sentence for each claim that does not hold; `provable` is that of the views 1, 2, ..."""
    if conflicting_final_blocks(table, provable) is not None:
        yield "two final blocks are not on one chain"
    for view, proof in enumerate(provable, 1):
        if len(proof.notarized) > 1:
            yield f"view {view} has two notarizations"
        if proof.finalized and proof.has_timeout:
            yield f"view {view} has a finalization and a timeout certificate"
        if proof.final and (proof.skips or proof.carried - proof.final):
            yield f"view {view} has a final block, and a timeout certificate that does not carry it"
        if len(proof.certified | proof.final) > 1 and proof.final:
            yield f"view {view} has a final block, and a child may stand on another one"
    for view, proof in enumerate(provable, 1):
        for final in sorted(proof.final):
            for above in provable[view - 1 :]:
                if not all(table.is_on_chain_of(final, block) for block in above.certified):
                    yield f"a block certified in view {view} or later leaves the final block of view {view}"
