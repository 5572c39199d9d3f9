"""A stored chain with real keys and epochs, made in the test; and the proof files of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from consensus.effects import EpochOpened, EpochSet, OpenedEpoch
from consensus.epoch import genesis_block
from consensus.messages import (
    Block,
    EpochProof,
    Flag,
    Header,
    Justification,
    QuorumCertificate,
    VoteKind,
    hash_of,
    sign_bytes,
)
from consensus.validator_set import ValidatorSet
from ledger.state import State
from node.genesis import GenesisDocument, chain_id_of
from node.light.prover import Prover
from node.storage.block_store import BlockStore, FinalBlock
from node.storage.epoch_files import EpochFiles
from primitives.codec import encode
from primitives.signing import SigningKey
from tests.node.network_of_nodes import TIME_NS, a_genesis, keys_of

EMPTY = Justification(None, ())
BLOCKS_PER_EPOCH = 4


def key_of(epoch_key: int, index: int) -> SigningKey:
    """The consensus key of a validator of a later epoch."""
    return SigningKey(bytes([200 + epoch_key, index]) * 16)


def a_set(keys: Sequence[SigningKey], weights: Sequence[int] | None = None) -> ValidatorSet:
    return ValidatorSet(
        tuple(key.public_key for key in keys), None if weights is None else tuple(weights), None
    )


class LightChain:
    """Blocks over a real ledger state; every epoch's validators are the caller's choice."""

    def __init__(
        self, path: Path, genesis: GenesisDocument | None = None, signers: Sequence[SigningKey] | None = None
    ) -> None:
        self.genesis = genesis or a_genesis()
        self.chain_id = chain_id_of(self.genesis)
        self.store = BlockStore.open(path / "blocks", chain_id=self.chain_id)
        self.epochs = EpochFiles(path / "epochs")
        self.state = State.from_genesis(self.genesis.ledger, self.chain_id)
        self.epoch = self.height = self.view = 0
        self.keys: dict[bytes, SigningKey] = {}
        known = signers or [keys_of(index).consensus for index in range(len(self.genesis.validators))]
        self.know(known)
        entries = self.genesis.validators
        self.validators = self.next_set = ValidatorSet(
            tuple(entry.consensus_key for entry in entries),
            tuple(entry.weight for entry in entries),
            self.genesis.consensus.final_weight or None,
        )
        self.tip = genesis_block(self.chain_id).header
        first = encode(genesis_block(self.chain_id))
        self.store.commit(
            FinalBlock(0, hash_of(self.tip), first, b"", encode(()), leaves=self.state.all_leaves())
        )

    @property
    def prover(self) -> Prover:
        return Prover(self.store, self.epochs, self.genesis)

    def know(self, keys: Sequence[SigningKey]) -> None:
        """Hold the secret keys of validators."""
        self.keys.update({key.public_key: key for key in keys})

    def header(self, **changes: object) -> Header:
        """The child of the tip."""
        header = Header(
            *(1, self.chain_id, self.epoch, self.view + 1, self.height + 1, hash_of(self.tip), self.view, 0),
            *(TIME_NS + self.height, bytes(32), self.state.root(), self.next_set.set_hash()),
            *(bytes(32), bytes(32), 0),
        )
        return msgspec.structs.replace(header, **changes)

    def certificate(
        self, header: Header, kind: int = VoteKind.FINALIZE, signers: Sequence[int] | None = None
    ) -> QuorumCertificate:
        """Signed by the epoch's validators, or some of them."""
        who = [
            index
            for index in (range(self.validators.count) if signers is None else signers)
            if self.validators.is_member(index)
        ]
        message = sign_bytes(self.chain_id, kind, header.epoch, header.view, hash_of(header))
        keys = self.validators.public_keys
        signatures = tuple(self.keys[keys[index]].sign(message) for index in who)
        return QuorumCertificate(kind, header.epoch, header.view, hash_of(header), tuple(who), signatures)

    def block(
        self,
        changes: Mapping[bytes, bytes | None] | None = None,
        *,
        kind: int = VoteKind.FINALIZE,
        proof: QuorumCertificate | None = None,
    ) -> Header:
        """One more final block, which writes leaves: bytes, or None to delete."""
        header = self.header()
        self.state.begin_block()
        for key, raw in (changes or {}).items():
            leaf = (
                None
                if raw is None
                else State.from_leaves(self.chain_id, self.genesis.ledger, [(key, raw)]).leaves.values[key]
            )
            self.state.put(key, leaf)
        leaves = self.state.changed_leaves()
        self.state.commit_oldest()
        certificate = proof or self.certificate(header, kind)
        raw_block = encode(Block(header, (), (), EMPTY))
        self.store.commit(
            FinalBlock(
                header.height, hash_of(header), raw_block, encode(certificate), encode(()), leaves=leaves
            )
        )
        self.tip, self.height, self.view = header, header.height, header.view
        return header

    def end_epoch(self, following: ValidatorSet | None = None, suffix: int = 0) -> None:
        """Close the epoch at the tip; `following` is the set of the epoch after the next."""
        headers = [self.tip]
        for step in range(suffix):
            headers.append(
                self.header(
                    height=self.height + 1 + step,
                    view=self.view + 1 + step,
                    parent_hash=hash_of(headers[-1]),
                    parent_state_root=bytes(32),
                    flags=int(Flag.SUFFIX),
                )
            )
        proof = EpochProof(tuple(headers), self.certificate(headers[-1]), ())
        self.epoch += 1
        self.validators, self.next_set = self.next_set, following or self.next_set
        sets = [
            EpochSet(one.public_keys, one.weights, one.final_weight)
            for one in (self.validators, self.next_set)
        ]
        ends = (self.height, self.height + BLOCKS_PER_EPOCH)
        opened = OpenedEpoch(self.epoch, hash_of(self.tip), bytes(32), *ends, *sets, 1, 1)
        self.epochs.keep(EpochOpened(opened, proof))
        self.view = 0

    def proof(self, kind: str, subject: bytes, first_epoch: int = 0) -> bytes:
        """A proof file of the state before the tip."""
        return self.prover.proof_file(kind, subject, first_epoch)
