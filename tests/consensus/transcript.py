"""Words for what a core is told and what it answers: one line each, for people to review. Pure."""

from __future__ import annotations

from functools import singledispatch

from consensus import effects as out
from consensus import inputs
from consensus.messages import (
    BlockRequest,
    BlockResponse,
    Certificate,
    CertificateMessage,
    CertificateRequest,
    EvidenceMessage,
    PairEvidence,
    Proposal,
    QuorumCertificate,
    Status,
    StatusRequest,
    TimeoutCertificate,
    Vote,
    VoteKind,
    Votes,
    hash_of,
)
from primitives.identifiers import NO_BLOCK


def name(block: bytes) -> str:
    """A block in two bytes; dashes for none."""
    return "----" if block == NO_BLOCK else block.hex()[:4]


def of_vote(vote: Vote) -> str:
    return f"{VoteKind(vote.kind).name.lower()}({vote.view}, {name(vote.subject)}) by {vote.signer}"


def of_certificate(certificate: Certificate) -> str:
    if isinstance(certificate, QuorumCertificate):
        word = "finalization" if certificate.kind == VoteKind.FINALIZE else "notarization"
        signers = ",".join(map(str, certificate.signers))
        return f"{word}({certificate.view}, {name(certificate.block)}) by {signers}"
    assert isinstance(certificate, TimeoutCertificate)
    groups = "; ".join(f"{name(g.report)} by {','.join(map(str, g.signers))}" for g in certificate.groups)
    return f"timeout({certificate.view}: {groups})"


@singledispatch
def words(thing: object) -> str:
    raise TypeError(f"no words for {type(thing)}")


@words.register
def _(thing: Proposal) -> str:
    header = thing.block.header
    skips = "".join(f" skips {skip.view}" for skip in thing.block.justification.skips)
    return (
        f"proposal({header.view}, {name(thing.leader_vote.subject)}) height {header.height}"
        f" on {name(header.parent_hash)}{skips}, {of_vote(thing.leader_vote)}"
    )


@words.register
def _(thing: Votes) -> str:
    return "; ".join(map(of_vote, thing.votes))


@words.register
def _(thing: CertificateMessage) -> str:
    return of_certificate(thing.certificate)


@words.register
def _(thing: Status) -> str:
    return f"status: view {thing.view}, final height {thing.final_height}"


@words.register
def _(thing: StatusRequest) -> str:
    return f"status? (view {thing.view}, final height {thing.final_height})"


@words.register
def _(thing: BlockRequest) -> str:
    return f"blocks? {name(thing.block)} down to above {thing.height_above}"


@words.register
def _(thing: BlockResponse) -> str:
    return f"blocks {name(thing.requested)}: {len(thing.blocks)}"


@words.register
def _(thing: CertificateRequest) -> str:
    return f"certificates? {thing.view_first}..{thing.view_last}"


@words.register
def _(thing: EvidenceMessage) -> str:
    evidence = thing.evidence
    if isinstance(evidence, PairEvidence):
        return f"evidence: {of_vote(evidence.vote_a)} / {of_vote(evidence.vote_b)}"
    return f"evidence: {of_vote(evidence.vote)} / unjustified block"


@words.register
def _(thing: inputs.Started) -> str:
    return "started"


@words.register
def _(thing: inputs.MessageReceived) -> str:
    return f"from {thing.peer}: {words(thing.message)}"


@words.register
def _(thing: inputs.TimerFired) -> str:
    return f"timer {thing.kind.name.lower()} of view {thing.view}"


@words.register
def _(thing: inputs.PayloadBuilt) -> str:
    return f"payload for view {thing.view} on {name(thing.parent)}"


@words.register
def _(thing: inputs.Validated) -> str:
    return f"{name(thing.block)} is {'valid' if thing.ok else 'invalid'}"


@words.register
def _(thing: out.Persist) -> str:
    parts = []
    for record in thing.records:
        match record:
            case out.OwnVote(kind=kind, view=view, subject=subject):
                parts.append(f"{VoteKind(kind).name.lower()}({view}, {name(subject)})")
            case out.OwnProposal(block=block) | out.HeldBlock(block=block):
                parts.append(f"block {name(hash_of(block.header))}")
            case out.RaisedFloor(view=view):
                parts.append(f"floor {view}")
            case out.Admitted(view=view):
                parts.append(f"admitted to {view}")
            case out.Conflict(reason=reason):
                parts.append(f"conflict {reason}")
    return "persist " + ", ".join(parts)


@words.register
def _(thing: out.Send) -> str:
    return f"to {thing.to}: {words(thing.message)}"


@words.register
def _(thing: out.Broadcast) -> str:
    return f"to all: {words(thing.message)}"


@words.register
def _(thing: out.SetTimer) -> str:
    return f"set {thing.kind.name.lower()} {thing.delay_ms} ms"


@words.register
def _(thing: out.CancelTimer) -> str:
    return f"cancel {thing.kind.name.lower()}"


@words.register
def _(thing: out.BuildPayload) -> str:
    return f"build for view {thing.view} on {name(thing.parent)}, height {thing.height}"


@words.register
def _(thing: out.ValidatePayload) -> str:
    return f"validate {name(thing.block_hash)}"


@words.register
def _(thing: out.DeliverFinal) -> str:
    heights = ", ".join(str(block.header.height) for block in thing.blocks)
    return f"FINAL height {heights}, {'fast' if thing.is_fast else 'slow'}: {of_certificate(thing.proof)}"


@words.register
def _(thing: out.ServeBlocks) -> str:
    return f"serve {thing.to} from storage: {words(thing.request)}"


@words.register
def _(thing: out.ReportNotarized) -> str:
    return f"notarized {name(thing.block_hash)}, height {thing.height}"


@words.register
def _(thing: out.EnteredView) -> str:
    return f"ENTERED view {thing.view} by {thing.admitted_by}, led by {thing.leader}"


@words.register
def _(thing: out.ReportEvidence) -> str:
    return f"EVIDENCE {thing.kind} against {thing.offender}"


@words.register
def _(thing: out.Halt) -> str:
    return f"HALT {thing.reason}: {thing.detail}"


def describe(now_ms: int, index: int, event: inputs.Input, effects: list[out.Effect]) -> list[str]:
    """One step: the input, then each effect, indented."""
    return [f"{now_ms:>5} ms  {index} < {words(event)}", *(f"             > {words(e)}" for e in effects)]
