"""Answers questions wrongly: great heights, other blocks than asked for, blocks out of order, nothing. No I/O."""

from __future__ import annotations

import msgspec

from consensus.effects import Effect, Send, ServeBlocks
from consensus.messages import BlockResponse, Status
from testnet.byzantine.actor import Actor, Later, twin_of


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
