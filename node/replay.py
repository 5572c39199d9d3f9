"""Executes a history again and says where it first differs from what validators agreed on. Pure.

`History` trusts a starting state and the epochs up to there, nothing else: every block must stand on the one before,
carry certificates of its own epoch's validators, hold transactions with valid signatures, and name the state root that
we compute. Validator sets of later epochs are decided by the replayed ledger itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.admission import check, signatures_of
from consensus.certificates import (
    SignatureCheck,
    check_certificate,
    finality_proof,
    signatures_of_certificate,
)
from consensus.effects import OpenedEpoch
from consensus.epoch import Epoch, first_epoch, genesis_block
from consensus.epochs import restored_epoch
from consensus.messages import Block, BlockResponse, QuorumCertificate, hash_of
from consensus.validator_set import ValidatorSet
from ledger.admission import signatures_of_block
from ledger.apply import BlockResult, apply_block
from ledger.state import State
from node.epoch_service import decide
from node.genesis import GenesisDocument, chain_id_of
from node.observations import context_of
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.identifiers import BlockHash
from primitives.wallet import is_valid_by_any


class HistoryDiffers(Exception):
    """The first place where a history is not what it claims; one sentence."""

    def __init__(self, height: int, sentence: str) -> None:
        super().__init__(f"height {height}: {sentence}")
        self.height = height
        self.sentence = sentence


def execute(state: State, block: Block) -> BlockResult:
    """Execute the child of `state`'s block, for good.

    Raises:
        HistoryDiffers: it stands on another state, or is not valid on this one. `state` is then as before.
    """
    header = block.header
    if header.parent_state_root != state.root():
        raise HistoryDiffers(
            header.height - 1,
            f"the state root is {state.root().hex()[:16]} here, but block {header.height} says "
            f"{header.parent_state_root.hex()[:16]}",
        )
    state.begin_block()
    try:
        result = apply_block(state, context_of(block), block.transactions)
    except (ProtocolViolation, InvariantViolation) as error:
        state.rollback_block()
        raise HistoryDiffers(header.height, f"the block cannot be executed: {error}") from None
    state.commit_oldest()
    return result


class History:
    """A replay under way: `step` takes block after block."""

    def __init__(self, state: State, epoch: Epoch, tip: BlockHash) -> None:
        self.state = state
        self._epoch = epoch
        self._tip = tip
        self.proved_height = state.clock.height
        """Up to here a certificate has been seen that makes the blocks final."""

    @property
    def height(self) -> int:
        """Of the last block executed."""
        return self.state.clock.height

    def step(self, block: Block, proof: QuorumCertificate | None) -> BlockResult:
        """Verify and execute the next block. `proof`: the certificate stored with it.

        Raises:
            HistoryDiffers: with the first reason; nothing after it is to be believed.
        """
        header, name = block.header, hash_of(block.header)
        if (header.height, header.parent_hash) != (self.height + 1, self._tip):
            raise HistoryDiffers(self.height + 1, "the stored block does not stand on the one before")
        try:
            shown = BlockResponse(name, (block,))
            check(shown, self._epoch)
            checks = signatures_of(shown, self._epoch)
            if proof is not None and proof.block == name and proof.epoch == self._epoch.number:
                checks += self._final(proof)
                self.proved_height = header.height
            checks += [SignatureCheck(*item) for item in signatures_of_block(self.state, block.transactions)]
        except ProtocolViolation as violation:
            raise HistoryDiffers(header.height, str(violation)) from None
        if not all(is_valid_by_any(*item) for item in checks):
            raise HistoryDiffers(header.height, "a signature in the block or its certificates is not valid")
        result = execute(self.state, block)
        self._tip = name
        self._turn_epoch(header.height)
        return result

    def _final(self, proof: QuorumCertificate) -> Sequence[SignatureCheck]:
        check_certificate(proof, self._epoch)
        if finality_proof(proof, self._epoch.validators) is None:
            raise HistoryDiffers(self.height + 1, "the stored certificate does not make the block final")
        return signatures_of_certificate(proof, self._epoch)

    def _turn_epoch(self, height: int) -> None:
        if height == self._epoch.last_height:
            decided = decide(self.state, self._epoch.number, self._epoch.next_set)
            self._epoch = self._epoch.following(self._tip, decided.validators, decided.version)


def from_genesis(genesis: GenesisDocument) -> History:
    """Before the first block."""
    chain_id = chain_id_of(genesis)
    state = State.from_genesis(genesis.ledger, chain_id)
    return History(state, epoch_of(genesis, (), 0), hash_of(genesis_block(chain_id).header))


def epoch_of(genesis: GenesisDocument, opened: Sequence[OpenedEpoch], height: int) -> Epoch:
    """The epoch of the block after `height`, as a node's epoch files remember it."""
    validators = ValidatorSet(
        tuple(entry.consensus_key for entry in genesis.validators),
        tuple(entry.weight for entry in genesis.validators),
        genesis.consensus.final_weight or None,
    )
    staking, version = genesis.ledger.staking, genesis.ledger.protocol.version
    blocks = staking.epoch_blocks if staking.validators else 0
    epoch = first_epoch(chain_id_of(genesis), validators, blocks, version)
    for one in opened:
        if one.first_height <= height:
            epoch = restored_epoch(epoch.chain_id, one, epoch)
    return epoch
