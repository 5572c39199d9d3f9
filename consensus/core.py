"""The consensus core: step(input) -> effects. Rules R0 to R9 of consensus.md section 5. Pure.

Simplex with carried votes. Views are entered one by one or jumped to by any certificate (R1, here); the
leader builds on the highest certified parent (R2, proposing.py); validators notarize, nullify and finalize
(R3 to R5, voting.py); blocks become final by a finalization or a heavy notarization (R6, finality.py). R7 is
in retransmission.py, R0 in safety.py, R8 in vote_keeper.py, R9 in finality.py.

The driver gives inputs one at a time, messages only after admission.check and valid signatures, and performs
the effects of a step in order, with Persist as a barrier. Our own blocks come without ValidatePayload: the
driver built them and sees them in Broadcast(Proposal). Time rules of a block are the driver's: too early a
time is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable

from consensus import answering, finality, proposing, retransmission, voting
from consensus.block_tree import Node, Standing
from consensus.certificates import finality_proof, votes_of
from consensus.effects import (
    Admitted,
    Broadcast,
    CancelTimer,
    ClosedEpoch,
    Conflict,
    Effect,
    EnteredView,
    HeldBlock,
    JournalRecord,
    OwnProposal,
    ReportEvidence,
    ReportNotarized,
    Send,
    SetTimer,
    ValidatePayload,
)
from consensus.evidence import offence_in, vote_of
from consensus.evidence_pool import EvidencePool
from consensus.inputs import (
    BlocksProved,
    Input,
    MessageReceived,
    PayloadBuilt,
    Started,
    TimerFired,
    TimerKind,
    Validated,
)
from consensus.messages import (
    BlockResponse,
    Certificate,
    CertificateMessage,
    ConsensusMessage,
    EpochClosing,
    EpochRequest,
    Evidence,
    EvidenceMessage,
    Proposal,
    QuorumCertificate,
    Status,
    StatusRequest,
    Vote,
    VoteKind,
    Votes,
    hash_of,
)
from consensus.retransmission import EVIDENCE_PERIOD_MS
from consensus.state import ConsensusState, CoreConfig, FinalTip, Signer
from primitives.identifiers import BlockHash, ValidatorIndex

BLOCKS_PER_VIEW_MAX = 2
"""Proposals held per view unless certified: the leader's block, and one that proves it equivocated."""
CHASE_HEIGHTS = 64
"""A proposal further above our final tip is not chased by parents: a finality proof is asked for instead."""


class Core:
    """One validator (or observer) of one epoch."""

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        tip: FinalTip | None = None,
        records: Iterable[JournalRecord] = (),
        pool: EvidencePool | None = None,
    ) -> None:
        """`tip`: the last final block in storage (None: genesis); `records`: the whole journal, oldest first.

        `pool`: the evidence that the driver has kept (none by default).
        """
        self.state = ConsensusState(config, signer, tip, records, EvidencePool() if pool is None else pool)
        self.epoch = self.state.epoch

    @property
    def view(self) -> int:
        """The view we are in."""
        return self.state.view

    @property
    def final_height(self) -> int:
        """Height of our final tip."""
        return self.state.tree.root.height

    @property
    def is_halted(self) -> bool:
        """Whether R9 has stopped us."""
        return self.state.conflict is not None

    def step(self, event: Input) -> list[Effect]:
        """Take one input; the effects are to be performed in order."""
        state = self.state
        match event:
            case MessageReceived(peer=peer, message=message):
                self._on_message(peer, message)
            case TimerFired(kind=kind, view=view):
                self._on_timer(kind, view)
            case PayloadBuilt():
                if not state.is_stopped:
                    proposing.on_payload_built(state, event)
            case Validated(block=block, ok=ok):
                self._on_validated(block, ok)
            case BlocksProved(blocks=blocks, proof=proof):
                finality.on_blocks_proved(state, blocks, proof)
            case Started():
                self._on_started()
        self._settle()
        return state.out.take()

    def journal_records(self) -> list[JournalRecord]:
        """What a rewritten journal must hold for us to restart exactly as safe as we are now."""
        state = self.state
        records: list[JournalRecord] = list(state.own.records())
        for view in state.certificates.views():
            records += [Admitted(view + 1, one) for one in state.certificates.all_of(view)]
        records += [OwnProposal(block) for _, block in sorted(state.proposals.items())]
        held = [node for node in state.tree.nodes() if state.own.of(node.view).notarized == node.hash]
        records += [HeldBlock(node.block) for node in held if node.view not in state.proposals]
        records += [] if state.closed is None else [ClosedEpoch(state.closed)]
        records += [] if state.conflict is None else [state.conflict]
        return records

    # --- inputs ---

    def _on_started(self) -> None:
        """Go on where the journal ends: count our own votes again, repeat them, ask everybody how far they are."""
        state = self.state
        if state.tail and state.boundary_proof is not None:
            finality.close_if_proved(state)
            return
        if state.boundary_proof is not None:
            proof = state.boundary_proof
            state.targets.bound(hash_of(proof.headers[0]), proof.certificate)
        for view in state.own.views_above(state.tree.root.view):
            state.uncounted += state.own.votes_in(view)
        self._enter(state.view, None)
        finality.advance(state)
        retransmission.resend(state, stuck=True)
        if state.fetcher.has_peers():
            state.out.add(Broadcast(StatusRequest(state.view, state.tree.root.height)))
        state.out.add(SetTimer(TimerKind.RETRY, state.view, state.pacemaker.retry_ms()))
        retransmission.gossip_evidence(state)

    def _on_message(self, peer: ValidatorIndex, message: ConsensusMessage) -> None:
        """One verified message. Questions are answered even when halted; nothing else is taken then."""
        state = self.state
        if answering.answer(state, peer, message) or state.is_stopped:
            return
        match message:
            case Votes(votes=votes):
                for vote in votes:
                    self._count(vote)
            case Proposal():
                self._on_proposal(peer, message)
            case CertificateMessage(certificate=certificate):
                self._on_certificate(certificate, peer)
            case BlockResponse():
                self._on_blocks(peer, message)
            case Status(epoch=epoch, view=view):
                if state.watch is not None and peer < state.validators.count:
                    state.watch.on_status(peer, message, state.epoch.number, state.validators)
                if epoch == state.epoch.number:
                    state.note_progress(peer, view)
                elif epoch > state.epoch.number:
                    state.out.add(Send(peer, EpochRequest(state.epoch.number)))
            case EpochClosing(proof=proof):
                finality.on_epoch_proof(state, proof, peer)
            case EvidenceMessage(evidence=evidence):
                self._on_evidence(evidence, is_own_finding=False)

    def _on_proposal(self, peer: ValidatorIndex, proposal: Proposal) -> None:
        """Its certificates first (R1: they admit us to its view), then the block, then its leader's vote."""
        state, block = self.state, proposal.block
        for certificate in (block.justification.parent, *block.justification.skips):
            if certificate is not None:
                self._on_certificate(certificate, None)
        if state.is_stopped or not finality.check_extends_final(state, block):
            return
        self._hold_proposal(peer, proposal)
        self._count(proposal.leader_vote)

    def _hold_proposal(self, peer: ValidatorIndex, proposal: Proposal) -> None:
        state, header = self.state, proposal.block.header
        block_hash = BlockHash(proposal.leader_vote.subject)
        if header.view <= state.tree.root.view or state.tree.get(block_hash) is not None:
            return
        in_view = [node for node in state.tree.nodes() if node.view == header.view]
        if len(in_view) >= BLOCKS_PER_VIEW_MAX or not state.tree.has_room(header.height):
            return
        state.hold(proposal.block, block_hash)
        if state.tree.get(BlockHash(header.parent_hash)) is None and not state.targets:
            if header.height > state.tree.root.height + CHASE_HEIGHTS:
                state.out.add(Send(peer, StatusRequest(state.view, state.tree.root.height)))
            else:
                state.fetch(BlockHash(header.parent_hash), peer)
        finality.advance(state, peer)
        self._report_notarized(header.view)

    def _on_blocks(self, peer: ValidatorIndex, response: BlockResponse) -> None:
        """Blocks that we asked for, linked by hash to the one we named; an empty answer waits for the retry."""
        state = self.state
        if not response.blocks or not state.fetcher.answered(BlockHash(response.requested)):
            return
        is_target = bool(state.targets) and state.tree.path(state.targets.lowest()) == response.requested
        dropped = False
        for block in response.blocks:
            height = block.header.height
            if height <= state.tree.root.height:
                break
            if state.tree.has_room(height):
                state.hold(block, hash_of(block.header))
            else:
                dropped = True
        parent = BlockHash(response.blocks[-1].header.parent_hash)
        if is_target and dropped and parent != state.tree.root.hash:
            state.targets.descend(parent)
        finality.advance(state, peer)
        if not state.targets:
            missing = state.tree.missing_ancestor(BlockHash(response.requested))
            if missing is not None:
                state.fetch(missing, peer)

    def _on_validated(self, block: BlockHash, ok: bool) -> None:
        """The driver's verdict on a block: R3 and R5 may fire, or R4c when the leader's block is bad for ever."""
        state = self.state
        node = state.tree.get(block)
        if node is state.tree.root and not ok:
            state.halt(
                Conflict("final_block_invalid", None, None, node.block), "a final block is invalid here"
            )
        if node is None or node.standing is not Standing.VALIDATING or state.is_stopped:
            return
        state.tree_changed = True
        node.standing = Standing.UNACCEPTABLE
        if ok:
            self._accept(node)
        elif node.view == state.view and not voting.has_notarized(state):
            voting.nullify(state)

    def _accept(self, node: Node) -> None:
        """A block whose ancestors are acceptable is so too: R3 and R5 may fire, and we may lead on it."""
        state = self.state
        state.tree_changed = True
        node.standing = Standing.ACCEPTABLE
        voting.notarize(state, node)
        voting.finalize(state, node.view)
        proposing.propose(state)

    def _on_timer(self, kind: TimerKind, view: int) -> None:
        state = self.state
        if state.is_stopped:
            return
        if kind is TimerKind.RETRY:
            retransmission.on_retry(state)
        elif kind is TimerKind.EVIDENCE:
            retransmission.gossip_evidence(state)
        elif view == state.view:
            if kind is TimerKind.FORWARD:
                retransmission.forward(state)
                retransmission.fetch_missing(state)
            elif (
                kind is TimerKind.VIEW
                or (kind is TimerKind.PROPOSAL and not voting.has_notarized(state))
                or (kind is TimerKind.PROPOSE and proposing.may_propose(state) and state.building is None)
            ):
                voting.nullify(state)

    # --- R1: entering views ---

    def _on_certificate(
        self, certificate: Certificate, peer: ValidatorIndex | None, own: bool = False
    ) -> None:
        """Take a certificate, from a message or (`own`) from votes that we counted."""
        state, view = self.state, certificate.view
        if peer is not None:
            state.note_progress(peer, view + 1)
        proof = finality_proof(certificate, state.validators)
        if view <= state.tree.root.view:
            if proof is not None:
                finality.on_proof(state, proof, peer)
            return
        is_new = state.certificates.add(certificate)
        if not own and (is_new or certificate not in state.certificates.all_of(view)):
            state.uncounted += votes_of(certificate)
        if not is_new:
            return
        self._report_notarized(view)
        voting.finalize(state, view)
        if proof is not None:
            finality.on_proof(state, proof, peer)
        if view >= state.view and not state.is_stopped:
            self._enter(view + 1, certificate)
        else:
            proposing.propose(state)

    def _enter(self, view: int, certificate: Certificate | None) -> None:
        """R1: the view is `view` now. Timers start anew; its leader learns at once why, the others after T_fwd."""
        state = self.state
        if view > state.view + 1:
            state.observed_from = view
        state.view, state.building = view, None
        if certificate is not None:
            state.admitted = certificate
        leader, final_view, pace = state.leader_of(view), state.tree.root.view, state.pacemaker
        state.out.add(EnteredView(view, leader, _name_of(certificate)))
        state.out.add(SetTimer(TimerKind.PROPOSAL, view, pace.proposal_ms(view, final_view)))
        state.out.add(SetTimer(TimerKind.VIEW, view, pace.view_ms(view, final_view)))
        state.out.add(SetTimer(TimerKind.FORWARD, view, pace.forward_ms()))
        if certificate is not None and leader != state.own_index and state.peer_view[leader] < view:
            state.out.add(Send(leader, CertificateMessage(certificate)))
        self._lead()
        for node in state.tree.nodes():
            if node.view == view:
                voting.notarize(state, node)
        voting.nullify_for_leader(state)
        voting.nullify_for_absence(state)

    def _lead(self) -> None:
        """R2 on entering: propose, or say what is missing and how long we wait for it."""
        state = self.state
        proposing.propose(state)
        if proposing.may_propose(state) and state.building is None:
            proposing.request_certificates(state)
            wait_ms = state.pacemaker.proposal_ms(state.view, state.tree.root.view) // 2
            state.out.add(SetTimer(TimerKind.PROPOSE, state.view, wait_ms))
        else:
            state.out.add(CancelTimer(TimerKind.PROPOSE))

    # --- R8: counting ---

    def _count(self, vote: Vote) -> None:
        """Count one vote; what it completes is taken as a certificate, what it proves is reported."""
        state = self.state
        if vote.view > state.view + state.parameters.lookahead_views:
            return
        counted = state.votes.add(vote)
        if counted is None:
            return
        signer = vote.signer
        state.last_seen[signer] = max(state.last_seen[signer], vote.view)
        state.note_progress(signer, vote.view + (1 if vote.kind == VoteKind.FINALIZE else 0))
        for evidence in counted.evidence:
            self._on_evidence(evidence, is_own_finding=True)
        if signer == state.place and state.holds_place:
            self._check_own(vote)
        if counted.certificate is not None:
            self._on_certificate(counted.certificate, None, own=True)
        if signer == state.leader_of(vote.view):
            voting.on_leader_vote(state, vote)

    def _check_own(self, vote: Vote) -> None:
        """A vote under our key that our journal does not know: another process has the key, or the journal is old."""
        state = self.state
        if state.own_index is None:
            if state.watch is not None and state.watch.is_elsewhere(vote):
                detail = f"a vote of epoch {vote.epoch}, view {vote.view} carries our key while we are silent"
                state.halt(Conflict("own_key_elsewhere", None, None, None), detail)
            return
        known = dict(state.own.of(vote.view).subjects()).get(vote.kind) == vote.subject
        if not known and vote.view > state.own.floor and not (state.own.halted or state.own.closed):
            detail = f"a vote of view {vote.view} carries our key, but our journal does not hold it"
            state.halt(Conflict("own_key_elsewhere", None, None, None), detail)

    def _on_evidence(self, evidence: Evidence, is_own_finding: bool) -> None:
        """Report each offence once; what the pool takes is told to the others, now and until it is on chain."""
        state, vote = self.state, vote_of(evidence)
        lowest = state.tree.root.view - state.parameters.retain_views
        entry = (vote.view, offence_in(evidence).value, vote.signer)
        is_past = vote.epoch < state.epoch.number
        in_window = lowest < vote.view <= state.view + state.parameters.lookahead_views
        if not is_past and (entry in state.reported or not in_window):
            return
        is_news = state.pool.add(evidence)
        if is_past and not is_news:
            return
        if not is_past:
            state.reported.add(entry)
        state.out.add(ReportEvidence(entry[1], ValidatorIndex(vote.signer), evidence))
        if is_news and state.fetcher.has_peers():
            state.out.add(SetTimer(TimerKind.EVIDENCE, state.view, EVIDENCE_PERIOD_MS))
            if is_own_finding:
                state.out.add(Broadcast(EvidenceMessage(evidence)))

    def _report_notarized(self, view: int) -> None:
        """For clients and metrics: a block whose notarization and body we hold."""
        state = self.state
        known = state.certificates.of(view)
        node = None if known.notarization is None else state.tree.get(BlockHash(known.notarization.block))
        if node is not None and not known.is_reported:
            known.is_reported = True
            state.out.add(ReportNotarized(node.hash, node.height, view))

    def _settle(self) -> None:
        """Follow up until nothing more happens in this step: count what waits, have ready blocks validated."""
        state = self.state
        while not state.is_stopped and (state.uncounted or state.tree_changed):
            while state.uncounted and not state.is_stopped:
                self._count(state.uncounted.popleft())
            if state.tree_changed:
                state.tree_changed = False
                for node in state.tree.ready():
                    if state.epoch.is_suffix(node.height):
                        self._accept(node)  # It is empty: there is nothing for the driver to look at.
                        continue
                    node.standing = Standing.VALIDATING
                    state.out.add(ValidatePayload(node.hash, node.block))


def _name_of(certificate: Certificate | None) -> str:
    if certificate is None:
        return "start"
    if isinstance(certificate, QuorumCertificate):
        return "finalization" if certificate.kind == VoteKind.FINALIZE else "notarization"
    return "timeout"
