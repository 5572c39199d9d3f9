"""Catch-up: what it believes is proved, by the rules written a second time; who lied is dropped for the run. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from consensus.messages import Block, Header, QuorumCertificate, hash_of
from node.sync.messages import Range, RangeRequest, Tip, TipRequest
from primitives.codec import decode_own, encode
from primitives.hashing import digest, merkle_root
from testnet.checkers import Violation
from testnet.checkers.rules import Rules

ORACLE = "catch-up"


class BelievedRanges:
    """Watches the answers that honest validators take for true, and whom they ask."""

    def __init__(self, rules: Rules, epoch_blocks: int) -> None:
        self._rules = rules
        self._epoch_blocks = epoch_blocks
        self._dropped: dict[int, set[int]] = {}
        """By validator: who lied about a range in its present run."""

    def on_run(self, node: int) -> None:
        """A run begins: everybody may be asked."""
        self._dropped[node] = set()

    def on_asked(self, node: int, server: int) -> None:
        """`node` asks `server` for a range."""
        if server in self._dropped.get(node, ()):
            raise Violation(ORACLE, f"validator {node} asks {server} again, whose lie it has noticed")

    def on_liar(self, node: int, server: int) -> None:
        """`node` has noticed that `server` lied about a range."""
        self._dropped.setdefault(node, set()).add(server)

    def on_believed(self, node: int, question: TipRequest | RangeRequest, raw: bytes) -> None:
        """`node` takes an answer for true that says something."""
        if isinstance(question, RangeRequest):
            fault = self._fault_of_range(question, decode_own(Range, raw))
        else:
            fault = self._fault_of_tip(question, decode_own(Tip, raw))
        if fault is not None:
            raise Violation(ORACLE, f"validator {node} believes an answer that proves nothing: {fault}")

    def _fault_of_tip(self, question: TipRequest, answer: Tip) -> str | None:
        headers: tuple[Header, ...]
        if answer.closing is not None:
            headers, proof = answer.closing.headers, answer.closing.certificate
            if headers[0].height != (question.epoch + 1) * self._epoch_blocks:
                return "not the last block of its epoch"
        elif answer.header is None or answer.proof is None:
            return "no certificate"
        else:
            headers, proof = (answer.header,), answer.proof
        return self._fault_of_chain(headers, proof)

    def _fault_of_range(self, question: RangeRequest, answer: Range) -> str | None:
        blocks = [decode_own(Block, raw) for raw in answer.blocks]
        if answer.proof is None or not 0 < len(blocks) <= question.count_max:
            return "no certificate, or more than was asked for"
        if blocks[0].header.height != question.height_first:
            return "another height"
        for block in blocks:
            if block.header.transaction_root != merkle_root(block.transactions):
                return "another body"
            if block.header.justification_root != digest(b"quorate-justif", encode(block.justification)):
                return "another justification"
        return self._fault_of_chain([*(block.header for block in blocks), *answer.headers], answer.proof)

    def _fault_of_chain(self, headers: Sequence[Header], proof: QuorumCertificate) -> str | None:
        for lower, upper in pairwise(headers):
            if upper.parent_hash != hash_of(lower) or upper.height != lower.height + 1:
                return "not linked"
        last = headers[-1]
        if (last.epoch, hash_of(last)) != (proof.epoch, proof.block):
            return "the certificate is for another block"
        fault = self._rules.fault_of_certificate(proof)
        return fault if fault is not None or self._rules.is_final(proof) else "its weight proves no finality"
