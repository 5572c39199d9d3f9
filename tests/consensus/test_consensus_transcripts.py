"""Two scenarios and everything the cores said, as text to review.

After a deliberate change of the protocol: `python -m tests.consensus.test_consensus_transcripts` writes them anew;
the difference belongs into the review.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.consensus.builders import EPOCH
from tests.consensus.cluster import Cluster, steady_link

FOLDER = Path(__file__).parent.parent / "transcripts"
WORDS = """\
Four validators; every message takes 10 ms, validating and building 1 ms, Delta is 100 ms.
'<' is what a core was told, '>' what it answered, in order. Blocks are named by the first two bytes of their hash.
"""


def happy_path() -> str:
    """Two views in which everybody answers: two delays to finality, the next leader one step ahead."""
    cluster = Cluster(4, link=steady_link, narrate=True)
    cluster.run(48)
    return (
        f"{WORDS}Everybody answers: blocks of the first two views become final by the fast path.\n\n"
        + "\n".join(cluster.observed.log)
    )


def view_change() -> str:
    """The first leader never starts: three nullify votes skip its view, and the next block says so."""
    leader = EPOCH.leaders.leader_of(1)
    cluster = Cluster(4, link=steady_link, silent=frozenset({leader}), narrate=True)
    cluster.run(275)
    return (
        f"{WORDS}Validator {leader} leads view 1 and never starts: the view is nullified, the next block skips it\n"
        "and is final by the slow path.\n\n" + "\n".join(cluster.observed.log)
    )


SCENARIOS = {"consensus_happy_path.txt": happy_path, "consensus_view_change.txt": view_change}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_cores_say_what_the_transcript_says(name: str) -> None:
    assert SCENARIOS[name]() + "\n" == (FOLDER / name).read_text()


if __name__ == "__main__":
    for name, scenario in SCENARIOS.items():
        (FOLDER / name).write_text(scenario() + "\n")
