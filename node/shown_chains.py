"""Final chains to compare: of a home, of a file, or of a gateway. Reads LMDB, files and HTTP; blocking.

Each is a fork.ShownChain. Nothing that it shows is believed: consensus/fork.py checks what it uses.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from consensus.fork import EpochStep, ShownChain
from consensus.messages import BLOCK_BYTES_MAX, Block, QuorumCertificate, hash_of
from node.config import load_config
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from primitives.codec import Wire, decode, decode_own
from primitives.errors import OperatorError, ProtocolViolation

FILE_BYTES_MAX = 1024 * 1024 * 1024
"""A longer chain or proof file is refused."""
ANSWER_BYTES_MAX = 32 * 1024 * 1024
"""A longer answer of a gateway is refused."""
STEP_BYTES_MAX = 4 * 1024 * 1024
REQUEST_SECONDS_MAX = 30.0
BLOCKS_PER_REQUEST = 64


class ChainFile(Wire):
    """What `quorate forensics export` writes: consecutive final blocks, the proofs held for them, and the epochs."""

    blocks: tuple[Block, ...]
    proofs: tuple[QuorumCertificate, ...]
    steps: tuple[EpochStep, ...]


class FileChain:
    """A chain as exported."""

    def __init__(self, file: ChainFile) -> None:
        if not file.blocks:
            raise OperatorError("the chain has no blocks")
        self._file = file
        self._first = file.blocks[0].header.height
        self._proofs = {proof.block: proof for proof in file.proofs}

    def heights(self) -> tuple[int, int]:
        """As counted from the first block."""
        return self._first, self._first + len(self._file.blocks) - 1

    def block(self, height: int) -> Block:
        """By its place."""
        return self._file.blocks[height - self._first]

    def proof_at(self, height: int) -> QuorumCertificate | None:
        """By the block's hash."""
        return self._proofs.get(hash_of(self.block(height).header))

    def step(self, epoch: int) -> EpochStep | None:
        """By number."""
        return self._file.steps[epoch] if epoch < len(self._file.steps) else None


class HomeChain:
    """What a node's store still has."""

    def __init__(self, store: BlockStore, epochs: EpochFiles) -> None:
        self._store, self._epochs = store, epochs

    def heights(self) -> tuple[int, int]:
        """Without genesis, which everybody has."""
        tip, first = self._store.tip(), self._store.first_height()
        if tip is None or first is None or tip.height == 0:
            raise OperatorError("it holds no final block")
        return max(first, 1), tip.height

    def block(self, height: int) -> Block:
        """As stored."""
        raw = self._store.block_at(height)
        if raw is None:
            raise OperatorError(f"it no longer holds block {height}")
        return decode_own(Block, raw)

    def proof_at(self, height: int) -> QuorumCertificate | None:
        """As stored, or the proof that the epoch is closed if that is for this very block."""
        raw = self._store.proof_at(height)
        name = self._store.hash_at(height)
        proof = decode_own(QuorumCertificate, raw) if raw else None
        if proof is not None and proof.block == name:
            return proof
        closing = self._epochs.proof_of(self.block(height).header.epoch)
        return closing.certificate if closing is not None and closing.certificate.block == name else None

    def step(self, epoch: int) -> EpochStep | None:
        """As kept."""
        closing, opened = self._epochs.proof_of(epoch), self._epochs.opened(epoch + 1)
        return None if closing is None or opened is None else EpochStep(closing, opened.validators)


class GatewayChain:
    """What a node's gateway serves: pages of blocks with their proofs, and the epochs."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._blocks: dict[int, tuple[Block, QuorumCertificate | None]] = {}
        self._heights: tuple[int, int] | None = None

    def heights(self) -> tuple[int, int]:
        """As of the first question."""
        if self._heights is None:
            answer = self._ask("/v1/chain/blocks?from=1&limit=1")
            self._heights = int(answer["first"]), int(answer["tip"])
        return self._heights

    def block(self, height: int) -> Block:
        """From the page that begins here, if it is not held yet."""
        return self._held(height)[0]

    def proof_at(self, height: int) -> QuorumCertificate | None:
        """As served with the block."""
        return self._held(height)[1]

    def step(self, epoch: int) -> EpochStep | None:
        """As served; None when the gateway has none."""
        try:
            answer = self._ask(f"/v1/chain/epochs/{epoch}")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        step: EpochStep = self._decoded(EpochStep, answer["step"], STEP_BYTES_MAX)
        return step

    def _held(self, height: int) -> tuple[Block, QuorumCertificate | None]:
        if height not in self._blocks:
            # Bisection jumps about; only what follows a block that is held is asked for in pages.
            limit = BLOCKS_PER_REQUEST if height - 1 in self._blocks else 1
            for item in self._ask(f"/v1/chain/blocks?from={height}&limit={limit}")["blocks"]:
                block = self._decoded(Block, item["block"], BLOCK_BYTES_MAX)
                proof = (
                    self._decoded(QuorumCertificate, item["proof"], BLOCK_BYTES_MAX)
                    if item["proof"]
                    else None
                )
                self._blocks[block.header.height] = block, proof
        if height not in self._blocks:
            raise OperatorError(f"the gateway {self._url} does not show block {height}")
        return self._blocks[height]

    def _decoded(self, kind: Any, text: str, bytes_max: int) -> Any:
        try:
            return decode(kind, bytes.fromhex(text), bytes_max=bytes_max)
        except (ProtocolViolation, ValueError) as error:
            raise OperatorError(f"the gateway {self._url} answers with no {kind.__name__}: {error}") from None

    def _ask(self, path: str) -> Any:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS_MAX) as answer:
                return json.loads(answer.read(ANSWER_BYTES_MAX))
        except urllib.error.HTTPError:
            raise
        except (OSError, ValueError) as error:
            raise OperatorError(f"the gateway {self._url} does not answer: {error}") from None


@contextmanager
def opened_chain(source: str, token: str | None = None) -> Iterator[ShownChain]:
    """The chain of a gateway's address, of a home directory, or of a file. Raises OperatorError."""
    if urlsplit(source).scheme in ("http", "https"):
        try:
            yield GatewayChain(source, token)
        except urllib.error.HTTPError as error:
            raise OperatorError(f"the gateway {source} refuses: {error}") from None
    elif Path(source).is_dir():
        config = load_config(Path(source))
        store = BlockStore.open(config.store_path, read_only=True)
        try:
            yield HomeChain(store, EpochFiles(config.data_path / "epochs"))
        finally:
            store.close()
    else:
        yield FileChain(read_wire(ChainFile, Path(source)))


def exported(chain: ShownChain) -> ChainFile:
    """Everything that a chain shows, for a file."""
    first, last = chain.heights()
    blocks = tuple(chain.block(height) for height in range(first, last + 1))
    proofs = [proof for height in range(first, last + 1) if (proof := chain.proof_at(height)) is not None]
    steps: list[EpochStep] = []
    for epoch in count():
        step = chain.step(epoch)
        if step is None:
            return ChainFile(blocks, tuple(proofs), tuple(steps))
        steps.append(step)
    raise AssertionError("counting ends at the first epoch that is not closed")


def read_wire(kind: Any, path: Path) -> Any:
    """A file in wire form. Raises OperatorError."""
    try:
        return decode(kind, path.read_bytes(), bytes_max=FILE_BYTES_MAX)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from None
    except (ProtocolViolation, msgspec.MsgspecError) as error:
        raise OperatorError(f"{path} is not a file of this kind: {error}") from None
