"""Agreement: one block at each height, each on the one below, each justified and proved final; one set of
validators and one protocol version for each height. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.effects import DeliverFinal, OpenedEpoch
from consensus.messages import Block, hash_of
from primitives.identifiers import BlockHash
from testnet.checkers import Violation
from testnet.checkers.rules import Rules


class OneChain:
    """What everybody has called final. One instance watches all honest validators."""

    def __init__(
        self, rules: Rules, epoch_blocks: int, version_in: Callable[[int], int], *, forks_allowed: bool
    ) -> None:
        self._rules = rules
        self._epoch_blocks = epoch_blocks
        self._version_in = version_in
        self._forks_allowed = forks_allowed
        self.final: dict[int, BlockHash] = {}
        self.blocks: dict[int, Block] = {}
        self.forked_at: int | None = None
        """The lowest height at which two validators disagree."""

    def on_final(self, node: int, height_before: int, delivered: DeliverFinal) -> None:
        """An honest validator delivers blocks; `height_before` is its final height until now."""
        blocks = delivered.blocks
        if blocks[0].header.height > height_before + 1:
            raise Violation(
                "one chain", f"validator {node} skips from {height_before} to {blocks[0].header.height}"
            )
        previous: BlockHash | None = None
        for block in blocks:
            header = block.header
            name = hash_of(header)
            if previous is not None and header.parent_hash != previous:
                raise Violation("one chain", f"validator {node} delivers {header.height} on another parent")
            previous = name
            self._check_agreement(node, block, name)
        if delivered.proof.block == previous:
            self._check_proof(node, delivered)

    def _check_agreement(self, node: int, block: Block, name: BlockHash) -> None:
        height = block.header.height
        known = self.final.get(height)
        if known == name:
            return
        if known is not None:
            if not self._forks_allowed:
                detail = (
                    f"validator {node} has {name.hex()[:12]} at height {height}, others {known.hex()[:12]}"
                )
                raise Violation("agreement", detail)
            self.forked_at = min(height, self.forked_at or height)
        if self.forked_at is not None:
            return  # The other checks know one chain.
        fault = self._rules.fault_of_block(block)
        if fault is not None:
            raise Violation("justified", f"final block of height {height}, view {block.header.view}: {fault}")
        self._check_place(block)
        self.final[height], self.blocks[height] = name, block
        if self._epoch_blocks and height % self._epoch_blocks == 0:
            self._rules.genesis[height // self._epoch_blocks] = name

    def _check_place(self, block: Block) -> None:
        """The epoch, the version and the next set are those that were decided for this height."""
        header = block.header
        epoch = (header.height - 1) // self._epoch_blocks if self._epoch_blocks else 0
        following = epoch + 1 if self._epoch_blocks else 0
        said = (header.epoch, header.version, header.next_set_hash)
        if said != (epoch, self._version_in(epoch), self._rules.set_hash(following)):
            raise Violation("one set", f"height {header.height} has another epoch, version or next set")

    def on_epoch(self, node: int, opened: OpenedEpoch, before: int) -> None:
        """A validator begins an epoch after epoch `before`: on the one boundary, with the set decided for it."""
        number = opened.number
        if number != before + 1:
            raise Violation("one set", f"validator {node} goes from epoch {before} to {number}")
        for epoch, found in ((number, opened.validators), (number + 1, opened.next_validators)):
            if found.weights != self._rules.members(epoch).weights:
                raise Violation("one set", f"validator {node} has another set for epoch {epoch}")
        if self.final.get(opened.first_height) != opened.genesis and self.forked_at is None:
            raise Violation("one set", f"validator {node} begins epoch {number} on another block")

    def _check_proof(self, node: int, delivered: DeliverFinal) -> None:
        fault = self._rules.fault_of_certificate(delivered.proof)
        if fault is None and not self._rules.is_final(delivered.proof):
            fault = "its weight proves no finality"
        if fault is not None:
            raise Violation("justified", f"validator {node}: proof of view {delivered.proof.view}: {fault}")
