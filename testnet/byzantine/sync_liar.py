"""Answers questions wrongly: great heights, other blocks than asked for, blocks out of order, nothing. No I/O."""

from __future__ import annotations

from random import Random

import msgspec

from consensus.effects import Effect, Send, ServeBlocks
from consensus.messages import (
    SUFFIX_HEADERS_MAX,
    Block,
    BlockResponse,
    Header,
    QuorumCertificate,
    Status,
    hash_of,
)
from node.sync.answers import NOTHING
from node.sync.messages import Question, Range, Tip
from primitives.codec import decode_own, encode
from testnet.byzantine.actor import Actor, Later, twin_of

TIP_TRUTH_SHARE = 0.7
RANGE_TRUTH_SHARE = 0.2
"""How often an answer is true, so that the liar is asked again: for ranges, whoever gave a good tip."""


class SyncLiar(Actor):
    """Honest in voting."""

    def act(self, effect: Effect) -> list[Effect | Later]:
        if isinstance(effect, ServeBlocks):
            return [Send(effect.to, BlockResponse(effect.request.block, ()))]
        if not isinstance(effect, Send):
            return [effect]
        match effect.message:
            case Status():
                far = msgspec.structs.replace(
                    effect.message, final_height=2**40, final_view=2**40, view=2**40
                )
                return [Send(effect.to, far)]
            case BlockResponse(requested=requested, blocks=blocks) if blocks:
                wrong = [
                    BlockResponse(requested, ()),
                    BlockResponse(requested, (twin_of(blocks[0]), *blocks[1:])),
                    BlockResponse(requested, blocks[::-1]),
                    BlockResponse(requested, (blocks[0], blocks[0])),
                ]
                return [Send(effect.to, self.rng.choice(wrong))]
        return [effect]

    def answer(self, question: Question, honest: Range | Tip) -> Range | Tip | None:
        """Now and then the truth, so that it is asked again; now and then a head of long ago."""
        if isinstance(honest, Tip) and honest.header is not None and self.rng.random() < 0.1:
            stale: Tip = self.__dict__.setdefault("stale", honest)
            return stale
        return lie_about(honest, self.rng)


def lie_about(honest: Range | Tip, rng: Random) -> Range | Tip | None:
    """One of many lies, or the truth."""
    if rng.random() < (TIP_TRUTH_SHARE if isinstance(honest, Tip) else RANGE_TRUTH_SHARE):
        return honest
    return rng.choice(_tips(honest)) if isinstance(honest, Tip) else rng.choice(_ranges(honest))


def _tips(honest: Tip) -> list[Tip | None]:
    """Silence, nothing, and heads that no certificate is for."""
    lies: list[Tip | None] = [None, Tip(None, None, None)]
    if honest.header is not None and honest.proof is not None:
        far = msgspec.structs.replace(honest.header, height=2**40)
        lies += [Tip(far, honest.proof, None), Tip(far, None, None)]
        lies.append(Tip(far, _for_another(honest.proof, far), None))
    if honest.closing is not None:
        unsigned = _unsigned(honest.closing.certificate)
        lies.append(Tip(None, None, msgspec.structs.replace(honest.closing, certificate=unsigned)))
    return lies


def _ranges(honest: Range) -> list[Range | None]:
    """Silence, nothing, little, and blocks that nobody has decided."""
    raws, proof = honest.blocks, honest.proof
    if not raws or proof is None:
        return [None, honest]
    blocks = [decode_own(Block, raw) for raw in raws]
    twin = twin_of(blocks[-1])
    gift = msgspec.structs.replace(blocks[-1], transactions=(b"a gift",))
    little = (*(block.header for block in blocks[1:]), *honest.headers)
    return [
        None,
        NOTHING,
        Range(raws[:1], little[:SUFFIX_HEADERS_MAX], proof),
        Range(raws, honest.headers, None),
        Range(raws, honest.headers, _unsigned(proof)),
        Range(raws[::-1], honest.headers, proof),
        Range((*raws[:-1], encode(gift)), honest.headers, proof),
        Range((*raws[:-1], encode(twin)), (), _for_another(proof, twin.header)),
    ]


def _unsigned(proof: QuorumCertificate) -> QuorumCertificate:
    return msgspec.structs.replace(proof, signatures=(bytes(64), *proof.signatures[1:]))


def _for_another(proof: QuorumCertificate, header: Header) -> QuorumCertificate:
    return msgspec.structs.replace(proof, block=hash_of(header))
