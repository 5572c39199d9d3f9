"""Raw final blocks with their proofs, and the epochs' proofs: for forensics and mirrors. Reads LMDB and epoch files.

Whoever asks believes nothing of it: blocks name each other by hash, and `consensus/fork.py` judges the rest.
"""

from __future__ import annotations

from node.rpc.answers import RawBlockForm, RawBlocksAnswer, StepAnswer
from node.rpc.queries import not_found
from node.shown_chains import HomeChain
from primitives.codec import encode
from primitives.errors import OperatorError

PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of blocks in one page; the block that passes it is the page's last."""


class ChainQueries:
    """Pages of what the store still has."""

    def __init__(self, chain: HomeChain) -> None:
        self._chain = chain

    def blocks(self, first: int, limit: int) -> RawBlocksAnswer:
        """At most `limit` blocks from height `first` on, fewer when they are large or there are no more."""
        try:
            lowest, tip = self._chain.heights()
            rows: list[RawBlockForm] = []
            size = 0
            for height in range(max(first, lowest), min(first + limit - 1, tip) + 1):
                block, proof = encode(self._chain.block(height)), self._chain.proof_at(height)
                raw_proof = b"" if proof is None else encode(proof)
                rows.append(RawBlockForm(height=height, block=block.hex(), proof=raw_proof.hex()))
                size += len(block)
                if size > PAGE_BYTES_MAX:
                    break
        except OperatorError as error:
            raise not_found(str(error)) from None
        return RawBlocksAnswer(first=lowest, tip=tip, blocks=tuple(rows))

    def step(self, epoch: int) -> StepAnswer:
        """Why an epoch is closed, and the set of the next."""
        step = self._chain.step(epoch)
        if step is None:
            raise not_found(f"epoch {epoch} is not closed here")
        return StepAnswer(epoch=epoch, step=encode(step).hex())
