"""`quorate forensics`: who forked the chain, and the proof for each. Reads chains and a genesis file; prints."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from consensus.epoch import Epoch, first_epoch
from consensus.evidence import offence_in, vote_of
from consensus.forensics import Accusation, check_accusation, weight_named
from consensus.fork import EpochStep, epoch_after, find_fork
from consensus.messages import Evidence
from consensus.validator_set import ValidatorSet
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.shown_chains import exported, opened_chain, read_wire
from node.storage.files import write_durably
from primitives.codec import Wire, encode
from primitives.errors import OperatorError, ProtocolViolation

app = App(name="forensics", help="Name the guilty of a fork, from two conflicting final chains alone.")


class ProofFile(Wire):
    """What `quorate forensics verify` reads: evidence that stands without the chains it came from, and what leads
    from genesis to the validators of its epoch.
    """

    steps: tuple[EpochStep, ...]
    accusations: tuple[Evidence, ...]


@app.default
def culprits(
    one: str, other: str, *, genesis: Path, output: Path | None = None, token: str | None = None
) -> int:
    """Compare two final chains and print who is guilty of the fork, with the proof for each.

    Each chain is a gateway's address, a node's home directory, or a file written by `quorate forensics export`.
    Exit code: 0 no fork, 1 a fork whose guilty are named, 2 the chains cannot be judged.

    Examples:

        quorate forensics http://127.0.0.1:26700 http://127.0.0.1:26701 --genesis genesis.json

        quorate forensics network/node0 node1.chain --genesis genesis.json --output proof.msgpack

    Parameters
    ----------
    token
        What the gateways ask for, if they do.
    """
    document = load_genesis(genesis)
    try:
        with opened_chain(one, token) as first, opened_chain(other, token) as second:
            fork = find_fork(first, second, _first_epoch(document))
    except ProtocolViolation as violation:
        raise OperatorError(f"these chains prove nothing: {violation}") from None
    if fork is None:
        print("no fork: one chain continues the other")
        return 0
    print(f"the chains part at height {fork.height}, in epoch {fork.epoch.number}")
    for accusation in fork.accusations:
        print(_sentence(accusation, document))
    weight, total = weight_named(fork.accusations, fork.epoch), fork.epoch.validators.total
    print(f"guilty weight {weight} of {total}; the chain bears {fork.epoch.validators.faulty}")
    if output is not None:
        proofs = tuple(accusation.proof for accusation in fork.accusations)
        write_durably(output, encode(ProofFile(fork.steps, proofs)))
        print(f"proof: {output}")
    return 1


@app.command
def verify(proof: Path, *, genesis: Path) -> int:
    """Check every accusation in a proof file, offline. Exit code: 0 all stand, 1 one does not.

    Example: quorate forensics verify proof.msgpack --genesis genesis.json
    """
    document, file = load_genesis(genesis), read_wire(ProofFile, proof)
    try:
        epoch = epoch_after(_first_epoch(document), file.steps)
    except ProtocolViolation as violation:
        print(f"does not stand: {violation}")
        return 1
    stands = True
    for evidence in file.accusations:
        try:
            accusation = Accusation(vote_of(evidence).signer, offence_in(evidence), evidence)
            check_accusation(accusation, epoch)
            print(f"stands: {_sentence(accusation, document)}")
        except ProtocolViolation as violation:
            stands = False
            print(f"does not stand: {violation}")
    return 0 if stands else 1


@app.command
def export(source: str, *, output: Path, token: str | None = None) -> None:
    """Write the final chain of a node's home, or of a gateway, to a file.

    Example: quorate forensics export network/node0 --output node0.chain
    """
    with opened_chain(source, token) as chain:
        write_durably(output, encode(exported(chain)))
    print(f"chain: {output}")


def _first_epoch(document: GenesisDocument) -> Epoch:
    entries, staking = document.validators, document.ledger.staking
    validators = ValidatorSet(
        tuple(entry.consensus_key for entry in entries),
        tuple(entry.weight for entry in entries),
        document.consensus.final_weight or None,
    )
    epoch_blocks = staking.epoch_blocks if staking.validators else 0
    return first_epoch(chain_id_of(document), validators, epoch_blocks, document.ledger.protocol.version)


def _sentence(accusation: Accusation, document: GenesisDocument) -> str:
    vote, place = vote_of(accusation.proof), accusation.offender
    name = f" ({document.validators[place].name})" if place < len(document.validators) else ""
    return (
        f"validator {place}{name}: {accusation.offence.value} {accusation.offence.name.lower()} "
        f"in epoch {vote.epoch}, view {vote.view}"
    )
