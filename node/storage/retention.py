"""Which final blocks may be forgotten. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from primitives.amounts import NS


@dataclass(frozen=True, slots=True)
class Retention:
    """A block is kept as long as any of these asks for it; `blocks` and `seconds` 0 ask for nothing.

    With both 0 every block is kept. The state is not a matter of retention: it is always there.
    """

    blocks: int = 0
    """So many below the newest."""
    seconds: int = 0
    """Blocks younger than this, by block time."""
    needed_blocks: int = 0
    """So many in any case: blocks that evidence of an offence may still be about."""

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever forgotten."""
        return not (self.blocks or self.seconds)

    def may_forget(self, height: int, time_ns: int, tip_height: int, tip_time_ns: int) -> bool:
        """Whether a block is older than all that is asked for."""
        return (
            not self.keeps_all
            and height + max(self.blocks, self.needed_blocks) < tip_height
            and (not self.seconds or time_ns + self.seconds * NS < tip_time_ns)
        )


KEEP_ALL = Retention()
