"""`quorate forensics`: who forked the chain, and the proof for each. Reads chains and a genesis file; prints."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
from cyclopts import App

from consensus.epoch import Epoch, first_epoch
from consensus.evidence import offence_in, vote_of
from consensus.forensics import Accusation, FinalChain, check_accusation, find_culprits, weight_named
from consensus.messages import Block, Evidence, QuorumCertificate
from consensus.validator_set import ValidatorSet
from node.config import load_config
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.storage.block_store import BlockStore
from node.storage.files import write_durably
from primitives.codec import Wire, decode, decode_own, encode
from primitives.errors import OperatorError, ProtocolViolation

FILE_BYTES_MAX = 1024 * 1024 * 1024
"""A longer chain or proof file is refused."""

app = App(name="forensics", help="Name the guilty of a fork, from two conflicting final chains alone.")
T = TypeVar("T")


class ProofFile(Wire):
    """What `quorate forensics verify` reads: evidence that stands without the chains it came from."""

    accusations: tuple[Evidence, ...]


@app.default
def culprits(one: Path, other: Path, *, genesis: Path, output: Path | None = None) -> int:
    """Compare two final chains and print who is guilty of the fork, with the proof for each.

    Each chain is a file written by `quorate forensics export`, or a node's home directory.
    Exit code: 0 no fork, 1 a fork whose guilty are named, 2 the chains cannot be judged.

    Example: quorate forensics node0.chain node1.chain --genesis genesis.json --output proof.msgpack
    """
    epoch, names = _epoch(load_genesis(genesis))
    chains = [_chain(path) for path in (one, other)]
    try:
        found = find_culprits(chains[0], chains[1], epoch)
    except ProtocolViolation as violation:
        raise OperatorError(f"these chains prove nothing: {violation}") from None
    if not found:
        print("no fork: one chain continues the other")
        return 0
    for accusation in found:
        print(_sentence(accusation, names))
    weight, total = weight_named(found, epoch), epoch.validators.total
    print(f"guilty weight {weight} of {total}; the chain bears {epoch.validators.faulty}")
    if output is not None:
        write_durably(output, encode(ProofFile(tuple(accusation.proof for accusation in found))))
        print(f"proof: {output}")
    return 1


@app.command
def verify(proof: Path, *, genesis: Path) -> int:
    """Check every accusation in a proof file, offline. Exit code: 0 all stand, 1 one does not.

    Example: quorate forensics verify proof.msgpack --genesis genesis.json
    """
    epoch, names = _epoch(load_genesis(genesis))
    stands = True
    for evidence in _decoded(ProofFile, proof).accusations:
        try:
            accusation = Accusation(vote_of(evidence).signer, offence_in(evidence), evidence)
            check_accusation(accusation, epoch)
            print(f"stands: {_sentence(accusation, names)}")
        except ProtocolViolation as violation:
            stands = False
            print(f"does not stand: {violation}")
    return 0 if stands else 1


@app.command
def export(home: Path, *, output: Path) -> None:
    """Write the final chain of a node's home to a file.

    Example: quorate forensics export network/node0 --output node0.chain
    """
    write_durably(output, encode(_chain(home)))
    print(f"chain: {output}")


def _epoch(document: GenesisDocument) -> tuple[Epoch, list[str]]:
    """The first epoch, and the validators' names."""
    entries = document.validators
    validators = ValidatorSet(
        tuple(entry.consensus_key for entry in entries),
        tuple(entry.weight for entry in entries),
        document.consensus.final_weight or None,
    )
    return first_epoch(chain_id_of(document), validators), [entry.name for entry in entries]


def _sentence(accusation: Accusation, names: list[str]) -> str:
    vote = vote_of(accusation.proof)
    return (
        f"validator {accusation.offender} ({names[accusation.offender]}): {accusation.offence.value} "
        f"{accusation.offence.name.lower()} in view {vote.view}"
    )


def _chain(path: Path) -> FinalChain:
    return _stored_chain(path) if path.is_dir() else _decoded(FinalChain, path)


def _stored_chain(home: Path) -> FinalChain:
    """Everything that a node's store still has, up to its highest block with a proof of its own."""
    store = BlockStore.open(load_config(home).store_path, read_only=True)
    try:
        tip, first = store.tip(), store.first_height()
        if tip is None or first is None:
            raise OperatorError(f"{home} holds no final block")
        for height in range(tip.height, max(first, 1) - 1, -1):
            raw_proof = store.proof_at(height)
            if raw_proof:
                raws = [store.block_at(at) for at in range(max(first, 1), height + 1)]
                blocks = tuple(decode_own(Block, raw) for raw in raws if raw is not None)
                return FinalChain(blocks, decode_own(QuorumCertificate, raw_proof))
    finally:
        store.close()
    raise OperatorError(f"{home} holds no proof of finality")


def _decoded(kind: type[T], path: Path) -> T:
    try:
        return decode(kind, path.read_bytes(), bytes_max=FILE_BYTES_MAX)
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from None
    except (ProtocolViolation, msgspec.MsgspecError) as error:
        raise OperatorError(f"{path} is not a file of this kind: {error}") from None
