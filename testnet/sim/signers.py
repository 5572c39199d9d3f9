"""Signatures inside the simulator: keyed hashes that nobody can forge, or real Ed25519. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from consensus.certificates import SignatureCheck
from primitives.hashing import digest
from primitives.signing import SigningKey, is_valid

REMEMBERED_MAX = 100_000
"""Signatures known to be valid; forgotten all at once when full, and checked again."""


class ModelSigner:
    """A digest under a secret that only this object holds. Deterministic, like Ed25519."""

    def __init__(self, seed: bytes) -> None:
        self._secret = digest(b"sim-secret", seed)
        self.public_key = digest(b"sim-public", self._secret)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        half = digest(b"sim-sign", self._secret + message)
        return half + digest(b"sim-sign-b", half)


class KeyRing:
    """The keys of one run, and the one place where signatures are verified."""

    def __init__(self, seed: int, count: int, kind: str) -> None:
        """`kind`: model or ed25519."""
        seeds = [
            digest(b"sim-key", seed.to_bytes(8, "big") + index.to_bytes(2, "big")) for index in range(count)
        ]
        self.signers: list[ModelSigner | SigningKey]
        self._verify: Callable[[bytes, bytes, bytes], bool]
        if kind == "ed25519":
            self.signers = [SigningKey(one) for one in seeds]
            self._verify = is_valid
        else:
            models = [ModelSigner(one) for one in seeds]
            self._models = {model.public_key: model for model in models}
            self.signers = list(models)
            self._verify = self._verify_model
        self._valid: set[tuple[bytes, bytes, bytes]] = set()

    def _verify_model(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        model = self._models.get(public_key)
        return model is not None and model.sign(message) == signature

    def is_valid(self, check: SignatureCheck | tuple[bytes, bytes, bytes]) -> bool:
        """Whether this is the key's signature over the message; valid ones are remembered."""
        if check in self._valid:
            return True
        if not self._verify(*check):
            return False
        if len(self._valid) >= REMEMBERED_MAX:
            self._valid.clear()
        self._valid.add(check)
        return True
