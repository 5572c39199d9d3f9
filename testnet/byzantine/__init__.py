"""The Byzantine cast: one misbehaviour in each file, by name."""

from __future__ import annotations

from testnet.byzantine.actor import Actor
from testnet.byzantine.colluder import Colluder
from testnet.byzantine.dawdler import Dawdler
from testnet.byzantine.delayed_proposer import DelayedProposer
from testnet.byzantine.denier import Denier
from testnet.byzantine.doppelganger import Doppelganger
from testnet.byzantine.double_voter import DoubleVoter
from testnet.byzantine.equivocating_leader import EquivocatingLeader
from testnet.byzantine.false_reporter import FalseReporter
from testnet.byzantine.late_releaser import LateReleaser
from testnet.byzantine.liar import Liar
from testnet.byzantine.mutator import Mutator
from testnet.byzantine.silent import Silent
from testnet.byzantine.spammer import Spammer
from testnet.byzantine.stale_leader import StaleLeader
from testnet.byzantine.sync_liar import SyncLiar
from testnet.byzantine.vote_withholder import VoteWithholder

BEHAVIOURS: dict[str, type[Actor]] = {
    "silent": Silent,
    "equivocating leader": EquivocatingLeader,
    "double voter": DoubleVoter,
    "false reporter": FalseReporter,
    "vote withholder": VoteWithholder,
    "late releaser": LateReleaser,
    "delayed proposer": DelayedProposer,
    "stale leader": StaleLeader,
    "mutator": Mutator,
    "spammer": Spammer,
    "liar in catch-up": SyncLiar,
    "dawdler": Dawdler,
    "liar": Liar,
    "colluder": Colluder,
    "denier": Denier,
    "doppelganger": Doppelganger,
}
