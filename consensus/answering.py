"""Answers to peers that lag: status, certificates, blocks. Pure. A halted validator still answers."""

from __future__ import annotations

from consensus.certificates import finality_proof
from consensus.effects import Effect, Send, ServeBlocks
from consensus.messages import (
    BLOCK_BYTES_MAX,
    Block,
    BlockRequest,
    BlockResponse,
    Certificate,
    CertificateMessage,
    CertificateRequest,
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


def on_status_request(state: ConsensusState, peer: ValidatorIndex, request: StatusRequest) -> None:
    """Our Status; and, to a peer that lags, what admits it to our view and what proves our final tip."""
    root = state.tree.root
    status = Status(state.epoch.number, root.height, root.view, state.view)
    state.out.add(Send(peer, status))
    proof = final_proof(state)
    if root.height > request.final_height and proof is not None:
        state.out.add(_certificate(peer, proof))
    if state.view > request.view and state.admitted is not None and state.admitted != proof:
        state.out.add(_certificate(peer, state.admitted))


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
    if node is None or node.height == 0:
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
