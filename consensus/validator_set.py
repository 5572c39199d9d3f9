"""Voting power and the arithmetic of quorums. Pure.

W is the total weight, q the quorum, f = W - q the weight that may be Byzantine (consensus.md section 1).
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus.messages import VALIDATORS_MAX
from primitives.codec import encode
from primitives.errors import ensure
from primitives.hashing import digest

WEIGHT_TOTAL_MAX = 2**53
"""Keeps every product of weights far inside 63 bits on any machine that re-implements this."""


class ValidatorSet:
    """The ordered validators of one epoch: keys, integer weights, and the thresholds that follow from them."""

    def __init__(
        self,
        public_keys: tuple[bytes, ...],
        weights: tuple[int, ...] | None = None,
        final_weight: int | None = None,
    ) -> None:
        """`weights` default to 1 each; `final_weight` (F_FINAL) to F(f), the one that assumes nothing beyond f.

        A place of weight 0 belongs to a validator that is not in this epoch's set: it keeps its place, so that
        an index names the same validator in every epoch, and can neither vote nor lead.

        A smaller `final_weight` is a chain's open choice to assume fewer Byzantine validators on the fast
        path.
        """
        self.public_keys = public_keys
        self.weights = weights if weights is not None else (1,) * len(public_keys)
        ensure(0 < len(public_keys) <= VALIDATORS_MAX, f"a set has 1 to {VALIDATORS_MAX} validators")
        ensure(len(set(public_keys)) == len(public_keys), "every validator has its own key")
        ensure(len(self.weights) == len(public_keys), "every validator has a weight")
        ensure(min(self.weights) >= 0, "no weight is negative")
        self.count = len(public_keys)
        self.total = sum(self.weights)
        ensure(self.total > 0, "somebody has weight")
        ensure(self.total <= WEIGHT_TOTAL_MAX, "the total weight is bounded")
        self.quorum = 2 * self.total // 3 + 1
        self.faulty = self.total - self.quorum
        self.final_weight = (
            final_weight if final_weight is not None else max(self.quorum, self.fast_weight(self.faulty))
        )
        ensure(
            max(self.quorum, self.fast_weight(0)) <= self.final_weight <= self.total,
            "the weight of fast finality lies between max(q, F(0)) and the total",
        )
        self._set_hash = digest(
            b"quorate-valset", encode((self.public_keys, self.weights, self.final_weight))
        )

    def fast_weight(self, byzantine_weight: int) -> int:
        """F(t): the smallest weight of notarize votes that is final against Byzantine weight t. Section 1."""
        return byzantine_weight + self.total - self.quorum + self.quorum // 2 + 1

    def tolerated_weight(self, notarize_weight: int) -> int:
        """confirmed(t) of R6: the Byzantine weight against which this many notarize votes are final; may be < 0."""
        return notarize_weight + self.quorum - self.total - self.quorum // 2 - 1

    def weight_of(self, signers: Iterable[int]) -> int:
        """Total weight of distinct signers, all inside the set."""
        weights = self.weights
        return sum(weights[signer] for signer in signers)

    def set_hash(self) -> bytes:
        """What a header commits to as the next epoch's set: digest of keys, weights and F_FINAL."""
        return self._set_hash

    def is_member(self, index: int) -> bool:
        """Whether this place exists and has weight."""
        return index < self.count and self.weights[index] > 0

    def following(self, members: Iterable[tuple[int, bytes, int]]) -> ValidatorSet:
        """The set of a later epoch: (index, public key, weight) of its members.

        A validator keeps its place as long as evidence can name it. Known places that are not named have weight 0
        from now on. F_FINAL is this set's if the total is the same, and F(f) otherwise.
        """
        chosen = {index: (key, weight) for index, key, weight in members}
        count = max(self.count, *(index + 1 for index in chosen))
        taken = {key for key, _ in chosen.values()}
        keys = [_nobody(index) if key in taken else key for index, key in enumerate(self.public_keys)]
        keys += [_nobody(index) for index in range(self.count, count)]
        weights = [0] * count
        for index, (key, weight) in chosen.items():
            keys[index], weights[index] = key, weight
        same = sum(weights) == self.total
        return ValidatorSet(tuple(keys), tuple(weights), self.final_weight if same else None)


def _nobody(index: int) -> bytes:
    """A key that nobody has, for a place that was never a member."""
    return digest(b"quorate-nobody", index.to_bytes(2, "big"))
