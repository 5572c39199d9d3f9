"""How soon something must become final after the healing: a bound from the protocol's own waits. No I/O.

consensus.md sections 5 and 11: at most 64 times the base wait in a view; leaders outside the healed core may come in a
row over the border of two cycles; then one honest leader has its turn. Each validator that is behind also asks, waits
a retry, and fetches.
"""

from __future__ import annotations

FACTOR_MAX = 64
TIP_MS = 2_000 + 250
"""network.md: how long the answers about the tip are waited for."""
PAUSE_MS = 500
REQUEST_MS = 10_000
"""network.md: how long one question may take; a range is asked of two peers at most, who may both be silent."""


def bound_ms(
    *, bad_turns: int, delta_ms: int, min_block_ms: int, views_behind: int, epochs_behind: int
) -> int:
    """Milliseconds within which every healed validator must have a new final block.

    `bad_turns` of a cycle belong to leaders outside the healed core. `views_behind` is how many views the fastest is
    ahead of its final tip: the waits have grown by that. Each epoch that the slowest lags behind the fastest costs it
    a retry at most.
    """
    waits = sum(
        _view_wait_ms(delta_ms, views_behind + one) + min_block_ms for one in range(2 * bad_turns + 4)
    )
    return waits + (30 + epochs_behind) * (2 * delta_ms + min_block_ms)


def catch_up_ms(epochs_behind: int) -> int:
    """What is owed besides to a validator so far behind that it fetches ranges, within which the core's own way waits.

    A question may be on its way to the silent when the network heals, and another one goes to them before they are
    known; each epoch asks for the tip again.
    """
    return 2 * (REQUEST_MS + TIP_MS + PAUSE_MS) + epochs_behind * (TIP_MS + PAUSE_MS)


def _view_wait_ms(delta_ms: int, views: int) -> int:
    """T_view of a view that is `views` above the final tip, rounded up."""
    factor_milli = 1_000
    for _ in range(min(views, 20) - 3):
        factor_milli = min(FACTOR_MAX * 1_000, factor_milli * 3 // 2 + 1)
    return 32 * delta_ms * factor_milli // 10_000 + 1
