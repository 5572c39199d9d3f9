"""Words of the consensus tests: four validators, votes, certificates, blocks, and one core on its own. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consensus.certificates import assemble_quorum, assemble_timeout
from consensus.core import Core
from consensus.effects import Broadcast, Effect, JournalRecord, Persist, Send
from consensus.epoch import Epoch, first_epoch
from consensus.inputs import Input, MessageReceived, Started, Validated
from consensus.messages import (
    Block,
    Certificate,
    CertificateMessage,
    ConsensusMessage,
    Header,
    Justification,
    Proposal,
    QuorumCertificate,
    TimeoutCertificate,
    Vote,
    VoteKind,
    Votes,
    evidence_root,
    hash_of,
    justification_root,
    sign_bytes,
    transaction_root,
)
from consensus.state import CoreConfig, FinalTip, Parameters
from primitives.identifiers import NO_BLOCK, BlockHash, ValidatorIndex
from tests.consensus.cluster import CHAIN_ID, ModelSigner, a_validator_set

NOTARIZE, NULLIFY, FINALIZE = VoteKind


def an_epoch(count: int = 4) -> Epoch:
    return first_epoch(CHAIN_ID, a_validator_set(count))


EPOCH = an_epoch()


def a_vote(kind: int, view: int, subject: bytes, signer: int) -> Vote:
    signature = ModelSigner(signer).sign(sign_bytes(CHAIN_ID, kind, 0, view, subject))
    return Vote(kind, 0, view, subject, signer, signature)


def a_notarization(view: int, block: bytes, signers: Iterable[int] = (0, 1, 2)) -> QuorumCertificate:
    return assemble_quorum({s: a_vote(NOTARIZE, view, block, s) for s in signers})


def a_finalization(view: int, block: bytes, signers: Iterable[int] = (0, 1, 2)) -> QuorumCertificate:
    return assemble_quorum({s: a_vote(FINALIZE, view, block, s) for s in signers})


def a_timeout(view: int, reports: dict[int, bytes] | None = None) -> TimeoutCertificate:
    """`reports` by signer; by default three validators that notarized nothing."""
    chosen = reports if reports is not None else {0: NO_BLOCK, 1: NO_BLOCK, 2: NO_BLOCK}
    return assemble_timeout({s: a_vote(NULLIFY, view, report, s) for s, report in chosen.items()})


def a_block(
    view: int,
    parent: Block | None = None,
    certificate: Certificate | None = None,
    skips: Sequence[TimeoutCertificate] = (),
    text: bytes = b"payload",
    epoch: Epoch = EPOCH,
) -> Block:
    """A block by the view's leader on `parent` (genesis by default)."""
    justification = Justification(certificate, tuple(skips))
    header = Header(
        version=epoch.version,
        chain_id=epoch.chain_id,
        epoch=0,
        view=view,
        height=1 if parent is None else parent.header.height + 1,
        parent_hash=epoch.genesis if parent is None else hash_of(parent.header),
        parent_view=0 if parent is None else parent.header.view,
        proposer=epoch.leaders.leader_of(view),
        time_ns=view,
        transaction_root=transaction_root((text,)),
        parent_state_root=bytes(32),
        next_set_hash=epoch.validators.set_hash(),
        justification_root=justification_root(justification),
        evidence_root=evidence_root(()),
        flags=0,
    )
    return Block(header, (text,), (), justification)


def a_child(parent: Block, text: bytes = b"payload") -> Block:
    """In the next view, on a notarization by 0, 1, 2."""
    view, block_hash = parent.header.view, hash_of(parent.header)
    return a_block(view + 1, parent, a_notarization(view, block_hash), text=text)


def a_proposal(block: Block) -> Proposal:
    header = block.header
    return Proposal(block, a_vote(NOTARIZE, header.view, hash_of(header), header.proposer))


def a_follower(view: int = 1) -> int:
    """A validator that does not lead `view`."""
    return (EPOCH.leaders.leader_of(view) + 1) % 4


class Alone:
    """One core out of four, told everything by the test; keeps its journal and what it said."""

    def __init__(
        self,
        index: int | None,
        records: Sequence[JournalRecord] = (),
        tip: FinalTip | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.index = index
        config = CoreConfig(CHAIN_ID, a_validator_set(4), index, parameters or Parameters(delta_ms=100))
        self.core = Core(config, ModelSigner(index or 0), tip, records)
        self.journal: list[JournalRecord] = list(records)
        self.effects: list[Effect] = []
        self.give(Started())

    def give(self, event: Input) -> list[Effect]:
        """One step; its effects are returned and kept."""
        effects = self.core.step(event)
        self.journal += [r for effect in effects if isinstance(effect, Persist) for r in effect.records]
        self.effects += effects
        return effects

    def hear(self, message: ConsensusMessage, peer: int | None = None) -> list[Effect]:
        """A message from a peer (by default one that is not us)."""
        sender = peer if peer is not None else (1 if self.index == 0 else 0)
        return self.give(MessageReceived(ValidatorIndex(sender), message))

    def hear_votes(self, *votes: Vote) -> list[Effect]:
        """Each from its own signer."""
        return [e for vote in votes for e in self.hear(Votes((vote,)), vote.signer)]

    def hear_certificate(self, certificate: Certificate) -> list[Effect]:
        return self.hear(CertificateMessage(certificate))

    def see(self, block: Block, ok: bool = True) -> list[Effect]:
        """A proposal, found valid (or not) by the driver."""
        heard = self.hear(a_proposal(block), block.header.proposer)
        return heard + self.give(Validated(hash_of(block.header), ok))

    def restarted(self, tip: FinalTip | None = None) -> Alone:
        """A new life from the journal alone."""
        return Alone(self.index, tuple(self.journal), tip)


def votes_in(effects: Iterable[Effect]) -> list[tuple[str, int, bytes]]:
    """(kind, view, subject) of every own vote broadcast, proposals included."""
    said: list[tuple[str, int, bytes]] = []
    for effect in effects:
        if isinstance(effect, Broadcast) and isinstance(effect.message, Votes):
            said += [(VoteKind(v.kind).name, v.view, v.subject) for v in effect.message.votes]
        elif isinstance(effect, Broadcast) and isinstance(effect.message, Proposal):
            vote = effect.message.leader_vote
            said.append(("NOTARIZE", vote.view, vote.subject))
    return said


def sent(effects: Iterable[Effect], kind: type) -> list[tuple[int | None, object]]:
    """(receiver or None for all, message) of one message type."""
    found: list[tuple[int | None, object]] = []
    for effect in effects:
        if isinstance(effect, Send) and isinstance(effect.message, kind):
            found.append((effect.to, effect.message))
        elif isinstance(effect, Broadcast) and isinstance(effect.message, kind):
            found.append((None, effect.message))
    return found


def of_type(effects: Iterable[Effect], kind: type) -> list[Effect]:
    return [effect for effect in effects if isinstance(effect, kind)]


def name_of(block: Block) -> BlockHash:
    return hash_of(block.header)
