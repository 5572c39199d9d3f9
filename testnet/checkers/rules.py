"""The protocol's arithmetic and predicates once more, written from the text and not from the product. No I/O.

consensus.md sections 1, 3 and 6. Nothing here calls the product's certificates, validator set or leader schedule: a
mistake there must not excuse itself here. Only the wire types and the digest are shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import gcd

from consensus.messages import Block, Certificate, QuorumCertificate, TimeoutCertificate
from primitives.codec import encode
from primitives.hashing import digest, merkle_root

Verify = Callable[[tuple[bytes, bytes, bytes]], bool]
NOTHING = bytes(32)


class Members:
    """One validator set's arithmetic, from its weights alone."""

    def __init__(self, weights: tuple[int, ...]) -> None:
        self.weights = weights
        self.turns = _turns(weights)
        """Who leads in a cycle, before it is permuted: as often as its weight says."""
        total = sum(weights)
        self.quorum = next(q for q in range(1, total + 1) if 3 * q > 2 * total)
        self.faulty = total - self.quorum
        # The smallest weight whose honest part is a majority of every possible timeout certificate.
        overlap = next(
            m for m in range(total + 1) if 2 * (m + self.quorum - total - self.faulty) > self.quorum
        )
        self.final_weight = max(self.quorum, overlap)

    def weight_of(self, places: Iterable[int]) -> int:
        """Together, each counted once."""
        return sum(self.weights[place] for place in set(places))


@lru_cache(maxsize=256)
def members_of(weights: tuple[int, ...]) -> Members:
    """The same object for the same weights."""
    return Members(weights)


class Rules:
    """One chain's constants, and what they make of a certificate or a block."""

    def __init__(
        self,
        chain_id: bytes,
        keys: Sequence[bytes],
        weights_in: Callable[[int], tuple[int, ...]],
        genesis: bytes,
        verify: Verify,
    ) -> None:
        """`weights_in(epoch)`: everybody's weight, 0 for whoever is not in that epoch's set."""
        self.chain_id, self.keys = chain_id, tuple(keys)
        self.genesis = {0: genesis}
        """By epoch: the block that its first blocks stand on, the boundary of the epoch before."""
        self._weights_in = weights_in
        self._verify = verify

    def members(self, epoch: int) -> Members:
        """The set of an epoch."""
        return members_of(self._weights_in(epoch))

    def set_hash(self, epoch: int) -> bytes:
        """Section 7: what every header of the epoch before commits to."""
        members = self.members(epoch)
        return digest(b"quorate-valset", encode((self.keys, members.weights, members.final_weight)))

    def leader_of(self, epoch: int, view: int) -> int:
        """Section 6: drawn from the boundary two epochs before, from the chain's name at first."""
        source = self.genesis[epoch - 1] if epoch else self.chain_id
        seed = digest(b"quorate-leadseed", source + epoch.to_bytes(8, "big"))
        turns = self.members(epoch).turns
        return turns[_cycle(seed, view // len(turns), len(turns))[view % len(turns)]]

    def fault_of_certificate(self, certificate: Certificate) -> str | None:
        """What is wrong with it, signatures included; None when nothing is."""
        if isinstance(certificate, QuorumCertificate):
            votes = [
                (certificate.kind, certificate.block, signer, signature)
                for signer, signature in zip(certificate.signers, certificate.signatures, strict=False)
            ]
            if certificate.kind not in (1, 3) or certificate.block == NOTHING:
                return "a certificate of this kind cannot be"
        else:
            votes = [
                (2, group.report, signer, signature)
                for group in certificate.groups
                for signer, signature in zip(group.signers, group.signatures, strict=False)
            ]
        signers = [signer for _, _, signer, _ in votes]
        members = self.members(certificate.epoch)
        if len(set(signers)) != len(signers) or not set(signers) <= set(range(len(self.keys))):
            return "signers repeat or are unknown"
        if not all(members.weights[signer] for signer in signers):
            return "a signer is not of the epoch's set"
        if members.weight_of(signers) < members.quorum:
            return "below the quorum"
        for kind, subject, signer, signature in votes:
            signed = self.signed_bytes(kind, certificate.epoch, certificate.view, subject)
            if not self._verify((self.keys[signer], signed, signature)):
                return f"the signature of {signer} is not valid"
        return None

    def signed_bytes(self, kind: int, epoch: int, view: int, subject: bytes) -> bytes:
        """Section 2."""
        parts = (
            b"QUORATE-BFT-1",
            bytes([kind]),
            self.chain_id,
            epoch.to_bytes(8, "big"),
            view.to_bytes(8, "big"),
        )
        return b"".join((*parts, subject))

    def is_final(self, certificate: QuorumCertificate) -> bool:
        """Whether it proves finality: section 3, FC and HC."""
        members = self.members(certificate.epoch)
        needed = members.quorum if certificate.kind == 3 else members.final_weight
        return members.weight_of(certificate.signers) >= needed

    def carried_by(self, certificate: TimeoutCertificate) -> bytes:
        """resolve(TC) of section 3: the block that more than half of its weight reports, or nothing."""
        reported: dict[bytes, int] = {}
        for group in certificate.groups:
            for signer in group.signers:
                weight = self.members(certificate.epoch).weights[signer]
                reported[group.report] = reported.get(group.report, 0) + weight
        total = sum(reported.values())
        return next(
            (b for b in sorted(reported) if b != NOTHING and reported[b] > total - reported[b]), NOTHING
        )

    def certifies(self, certificate: Certificate) -> bytes:
        """The block for which it is a parent certificate, or nothing."""
        if isinstance(certificate, TimeoutCertificate):
            return self.carried_by(certificate)
        return certificate.block

    def fault_of_block(self, block: Block) -> str | None:
        """Why it is not justified (section 3); None when it is."""
        header, justification = block.header, block.justification
        if (header.chain_id, header.proposer) != (self.chain_id, self.leader_of(header.epoch, header.view)):
            return "another chain, or not the leader's"
        if header.parent_view >= header.view or header.justification_root != digest(
            b"quorate-justif", encode(justification)
        ):
            return "the parent is not older, or the justification is another one"
        if header.transaction_root != merkle_root(block.transactions):
            return "the body is another one"
        parent = justification.parent
        if parent is None:
            if (header.parent_view, header.parent_hash) != (0, self.genesis.get(header.epoch)):
                return "no certificate for the parent"
        elif (parent.view, self.certifies(parent)) != (header.parent_view, header.parent_hash):
            return "the certificate is not the parent's"
        views = [skip.view for skip in justification.skips]
        if views != list(range(header.parent_view + 1, header.view)):
            return "the skipped views are not all accounted for"
        if any(self.carried_by(skip) != NOTHING for skip in justification.skips):
            return "a view is skipped that carries a block"
        certificates = [parent] if parent is not None else []
        faults = (self.fault_of_certificate(one) for one in (*certificates, *justification.skips))
        return next((fault for fault in faults if fault is not None), None)


def _turns(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Section 6, smooth weighted round-robin: whoever is owed most, the first of equals, until all is paid."""
    length = sum(weights) // gcd(*weights)
    owed = [0] * len(weights)
    turns = []
    for _ in range(length):
        owed = [debt + weight for debt, weight in zip(owed, weights, strict=True)]
        turns.append(owed.index(max(owed)))
        owed[turns[-1]] -= sum(weights)
    return tuple(turns)


@lru_cache(maxsize=4_096)
def _cycle(seed: bytes, cycle: int, count: int) -> tuple[int, ...]:
    order = list(range(count))
    for last in reversed(range(1, count)):
        drawn = digest(b"quorate-leader", seed + cycle.to_bytes(8, "big") + last.to_bytes(4, "big"))
        other = int.from_bytes(drawn, "big") % (last + 1)
        order[last], order[other] = order[other], order[last]
    return tuple(order)
