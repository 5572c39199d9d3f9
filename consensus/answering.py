"""Answers to peers that lag: status, certificates, blocks. Pure. A halted validator still answers."""

from __future__ import annotations

from consensus.certificates import finality_proof
from consensus.effects import Effect, Send, ServeBlocks, ServeEpochProof
from consensus.messages import (
    BLOCK_BYTES_MAX,
    Block,
    BlockRequest,
    BlockResponse,
    Certificate,
    CertificateMessage,
    CertificateRequest,
    ConsensusMessage,
    EpochClosing,
    EpochRequest,
    QuorumCertificate,
    Status,
    StatusRequest,
    Votes,
)
from consensus.state import ConsensusState
from primitives.codec import encode
from primitives.identifiers import BlockHash, ValidatorIndex


def final_proof(state: ConsensusState) -> QuorumCertificate | None:
    """The proof of our final tip; None for genesis."""
    for block, certificate in state.certificates.parents(state.tree.root.view):
        if block == state.tree.root.hash:
            return finality_proof(certificate, state.validators)
    return None


def answer(state: ConsensusState, peer: ValidatorIndex, message: ConsensusMessage) -> bool:
    """Answer a question; False when the message is none."""
    match message:
        case StatusRequest():
            on_status_request(state, peer, message)
        case CertificateRequest():
            on_certificate_request(state, peer, message)
        case BlockRequest():
            on_block_request(state, peer, message)
        case EpochRequest(epoch=epoch):
            on_epoch_request(state, peer, epoch)
        case _:
            return False
    return True


def on_status_request(state: ConsensusState, peer: ValidatorIndex, request: StatusRequest) -> None:
    """Our Status; and, to a peer that lags, what admits it to our view and what proves our final tip."""
    root = state.tree.root
    status = Status(state.epoch.number, root.height, root.view, state.view)
    state.out.add(Send(peer, status))
    if state.closed is not None:
        state.out.add(Send(peer, EpochClosing(state.closed)))
    proof = final_proof(state)
    if root.height > request.final_height and proof is not None:
        state.out.add(_certificate(peer, proof))
    if state.view > request.view and state.admitted is not None and state.admitted != proof:
        state.out.add(_certificate(peer, state.admitted))


def on_epoch_request(state: ConsensusState, peer: ValidatorIndex, epoch: int) -> None:
    """Why an epoch is over: our own one when it has just closed, an earlier one from the driver's storage."""
    if epoch == state.epoch.number and state.closed is not None:
        state.out.add(Send(peer, EpochClosing(state.closed)))
    elif epoch < state.epoch.number:
        state.out.add(ServeEpochProof(peer, epoch))


def on_certificate_request(state: ConsensusState, peer: ValidatorIndex, request: CertificateRequest) -> None:
    """What we know of each view asked for; for a view without a certificate our own votes, to make one from."""
    root = state.tree.root
    if request.view_first <= root.view:
        proof = final_proof(state)
        if proof is not None:
            state.out.add(_certificate(peer, proof))
    for view in range(max(request.view_first, root.view + 1), min(request.view_last, state.view) + 1):
        certificates = state.certificates.all_of(view)
        for certificate in certificates:
            state.out.add(_certificate(peer, certificate))
        own = tuple(state.own.votes_in(view))
        if own and not certificates:
            state.out.add(Send(peer, Votes(own)))


def on_block_request(state: ConsensusState, peer: ValidatorIndex, request: BlockRequest) -> None:
    """A block and its ancestors from the tree; from the driver's storage when the tree does not hold it."""
    node = state.tree.get(BlockHash(request.block))
    if node is None or node.view == 0:
        state.out.add(ServeBlocks(peer, request))
        return
    blocks: list[Block] = []
    room = BLOCK_BYTES_MAX
    while node is not None and node.height > request.height_above and len(blocks) < request.count_max:
        room -= len(encode(node.block))
        if blocks and room < 0:
            break
        blocks.append(node.block)
        node = state.tree.get(node.parent)
    state.out.add(Send(peer, BlockResponse(request.block, tuple(blocks))))


def _certificate(peer: ValidatorIndex, certificate: Certificate) -> Effect:
    return Send(peer, CertificateMessage(certificate))
