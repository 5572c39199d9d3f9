"""`quorate sim model`: check the rules, or plant a mistake and be shown the fork. Prints."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from testnet.model.blocks import BlockTable
from testnet.model.by_view import explore_by_view
from testnet.model.explorer import Exploration, explore, forks_only
from testnet.model.narrate import narrate
from testnet.model.planted import MUTATIONS, MutationName, planted
from testnet.model.rules import Rules

app = App(name="model", help="Check the consensus rules exhaustively: 4 validators, one of them Byzantine.")

Views = Annotated[int, Parameter(validator=Number(gte=0, lte=4))]


@app.default
def model(*, views: Views = 2, deep_views: Views = 3, plant: MutationName | None = None) -> int:
    """Explore everything that honest validators and the adversary can do; print states, seconds and the result.

    Exit code: 0 no violation, 1 a violation, with the steps that lead to it.

    Examples:

        quorate sim model

        quorate sim model --plant report-dropped

    Parameters
    ----------
    views
        Views of the exploration of every interleaving; 0 leaves it out. 3 needs more memory than most machines have.
    deep_views
        Views of the exploration of one view after the other; 0 leaves it out. 4 takes more than 15 minutes.
    plant
        A mistake to make in the production rules first. Then only forks are looked for, in every interleaving.
    """
    if plant is not None:
        print(f"planted: {MUTATIONS[plant].sentence}")
    with planted(MUTATIONS[plant]) if plant is not None else nullcontext():
        broken = views > 0 and _run(f"every interleaving, {views} views", views, plant is not None, explore)
        if deep_views > 0 and not broken and plant is None:
            broken = _run(f"view after view, {deep_views} views", deep_views, False, explore_by_view)
    return int(broken)


def _run(title: str, views: int, only_forks: bool, search: Callable[..., Exploration]) -> bool:
    """Explore and print; whether there was a violation."""
    rules, started = Rules(BlockTable(views)), time.monotonic()
    found = search(rules, forks_only) if only_forks else search(rules)
    seconds = time.monotonic() - started
    result = "no violation" if found.violation is None else "VIOLATION"
    print(
        f"{title}: {found.states} states, {found.transitions} transitions, depth {found.depth}, "
        f"{seconds:.1f} s: {result}",
        flush=True,
    )
    if found.violation is not None:
        print("\n".join(narrate(rules, found.violation)))
    return found.violation is not None
