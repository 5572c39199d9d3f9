"""Everything a validator knows, and the outbox of the current step: what the rules read and change. Pure.

Volatile except for `own` (consensus.md section 4). Rules live in core.py, voting.py, proposing.py,
finality.py, retransmission.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from consensus.block_tree import BlockTree, Node
from consensus.catch_up import Fetcher, FinalTargets
from consensus.certificate_store import CertificateStore
from consensus.certificates import epoch_proof_of
from consensus.effects import (
    Admitted,
    Broadcast,
    Conflict,
    Effect,
    Halt,
    JournalRecord,
    OwnVote,
    Persist,
    Send,
)
from consensus.epoch import Epoch, first_epoch, genesis_block
from consensus.evidence_pool import EvidencePool
from consensus.messages import (
    VERSION_FIRST,
    VERSION_MAX,
    Block,
    Certificate,
    EpochProof,
    Evidence,
    QuorumCertificate,
    Vote,
    Votes,
    hash_of,
)
from consensus.pacemaker import Pacemaker
from consensus.safety import OwnVotes, restore
from consensus.validator_set import ValidatorSet
from consensus.vote_keeper import VoteKeeper
from consensus.watch import Watch
from primitives.identifiers import BlockHash, ValidatorIndex


class Signer(Protocol):
    """Holds the consensus key. Deterministic: the same bytes give the same 64-byte signature."""

    def sign(self, message: bytes) -> bytes | None:
        """Sign the bytes of one vote; None: the holder of the key is away or refuses, and the vote is not cast."""
        ...


@dataclass(frozen=True, slots=True)
class Parameters:
    """Waits and limits of one chain, from genesis; F_FINAL is part of the validator set."""

    delta_ms: int = 150
    """Delta: the assumed bound on a message delay, fsync and validation included."""
    min_block_ms: int = 0
    """How far apart leaders keep their blocks; the driver delays PayloadBuilt accordingly."""
    lookahead_views: int = 64
    """Votes for views further ahead than this are dropped; certificates never are."""
    retain_views: int = 1024
    """Views below finality whose votes are kept as evidence."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """Who we are, on which chain. `own_index` None is an observer: follows everything, signs nothing."""

    chain_id: bytes
    validator_set: ValidatorSet
    own_index: int | None
    parameters: Parameters = Parameters()
    own_key: bytes | None = None
    """Our public key, where sets change: when our place belongs to another key, we are an observer."""
    watch: Watch | None = None
    """Set when the journal cannot be trusted: sign nothing until it says that we may."""
    version: int = VERSION_FIRST
    """The protocol version that the chain begins with."""
    version_max: int = VERSION_MAX
    """The newest one that this build knows: it takes no part in an epoch of a later one."""
    epoch: Epoch | None = None
    """None: one endless epoch of `validator_set`; EpochManager gives each core its epoch, whose set counts."""


@dataclass(frozen=True, slots=True)
class FinalTip:
    """The last final block that the driver has stored, with the proof it was delivered with (None for genesis)."""

    block: Block
    proof: QuorumCertificate | None


class Outbox:
    """Effects of one step: one Persist first, then our votes in one message, then the rest in order."""

    def __init__(self) -> None:
        self.records: list[JournalRecord] = []
        self.votes: list[Vote] = []
        self.effects: list[Effect] = []

    def add(self, effect: Effect) -> None:
        """Put an effect behind those already there."""
        self.effects.append(effect)

    def take(self) -> list[Effect]:
        """The effects of the step that ends, in the order in which the driver performs them."""
        effects: list[Effect] = []
        if self.records:
            effects.append(Persist(tuple(self.records)))
        if self.votes:
            effects.append(Broadcast(Votes(tuple(dict.fromkeys(self.votes)))))
        effects += self.effects
        self.records, self.votes, self.effects = [], [], []
        return effects


class ConsensusState:
    """Built from the configuration, the final tip in storage, and the journal of earlier lives."""

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        tip: FinalTip | None,
        records: Iterable[JournalRecord],
        pool: EvidencePool,
    ) -> None:
        parameters = config.parameters
        tip = tip or FinalTip(genesis_block(config.chain_id), None)
        self.parameters = parameters
        self.epoch: Epoch = config.epoch or first_epoch(
            config.chain_id, config.validator_set, version=config.version
        )
        validators = self.validators = self.epoch.validators
        self._identify(config)
        self.pacemaker = Pacemaker(parameters.delta_ms, parameters.min_block_ms)
        self.own = OwnVotes(config.chain_id, self.epoch.number, self.own_index, signer.sign)
        tip_hash = hash_of(tip.block.header)
        proved = tip.proof is None or tip.proof.block == tip_hash
        begins = tip_hash == self.epoch.genesis
        self.tree = BlockTree(
            tip.block, tip_hash, parameters.retain_views, proved or begins, 0 if begins else None
        )
        self.votes = VoteKeeper(validators)
        self.certificates = CertificateStore(validators)
        self.fetcher = Fetcher(validators.count, config.own_index)
        self.targets = FinalTargets()
        self.out = Outbox()
        self.uncounted: deque[Vote] = deque()
        """Votes waiting to be counted in this step: our own, and those inside certificates."""
        self.tree_changed = True
        self.reported: set[tuple[int, str, int]] = set()
        """(view, offence, offender) already reported; pruned with the votes."""
        self.peer_view = [0] * validators.count
        """The highest view each validator has shown to have entered."""
        self.last_seen = [0] * validators.count
        """The highest view each validator has voted in, for R4e."""
        self.retried_view = 0
        """The view at the last retry: still the same means stuck."""
        self.building: BlockHash | None = None
        """The parent that the driver is filling our block on."""
        self.pool = pool
        self.offered: tuple[Evidence, ...] = ()
        """The evidence for the block that is being built."""
        self._expect_end(tip)
        self._restore(records, tip)
        self.observed_from = self.view
        """The view from which on we have listened without a gap."""

    def _identify(self, config: CoreConfig) -> None:
        """Who we are in this epoch, and whether we may sign."""
        self.place = config.own_index
        """Our place in the directory of validators, whether we have weight in this epoch or not."""
        self.watch = config.watch
        silent = self.watch is not None and not self.watch.may_sign(self.epoch.number)
        self.holds_place = (
            config.own_index is not None
            and self.validators.is_member(config.own_index)
            and config.own_key in (None, self.validators.public_keys[config.own_index])
        )
        """Whether votes under our place are votes under our key."""
        votes = self.holds_place and not silent
        self.own_index = ValidatorIndex(config.own_index or 0) if votes else None
        """Our place, if we have weight in this epoch and may sign; None for an observer."""

    def _expect_end(self, tip: FinalTip) -> None:
        """What leads to the end of the epoch; the tip may be its boundary."""
        self.closed: EpochProof | None = None
        """Why this epoch is over: nothing is voted or delivered any more, only questions are answered."""
        self.tail: list[Block] = []
        """The boundary and the suffix blocks upon it that are final: headers of the epoch's proof."""
        self.boundary_proof: EpochProof | None = None
        """The proof that a peer gave us, before we have delivered the boundary."""
        if self.tree.root.height == self.epoch.last_height:
            self.tail.append(tip.block)
        self.boundary_block = tip.block
        """The epoch's last block, once it is delivered."""

    def _restore(self, records: Iterable[JournalRecord], tip: FinalTip) -> None:
        restored = restore(self.own, records)
        self.conflict: Conflict | None = restored.conflict
        self.proposals: dict[int, Block] = restored.proposals
        """Our own proposals of views that are not final: sent again as they are, never built again."""
        self.view = max(restored.view, self.tree.root.view + 1)
        self.admitted: Certificate | None = None
        self.saved: set[tuple[int, bool]] = set()
        """(view, whether a quorum certificate) of the certificates in the journal, for views that are not final."""
        for certificate in restored.admitted:
            if certificate.view >= self.tree.root.view:
                self.certificates.add(certificate)
                self.saved.add((certificate.view, isinstance(certificate, QuorumCertificate)))
            if certificate.view == self.view - 1:
                self.admitted = certificate
        self.boundary_proof = restored.closed
        if tip.proof is None or self.tree.root.view == 0:
            pass
        elif tip.proof.block == self.tree.root.hash:
            self.certificates.add(tip.proof)
            if self.tail:
                self.boundary_proof = epoch_proof_of(self.tail, tip.proof)
        elif not self.tail:
            self.targets.prove(tip.proof)
        for block_hash, block in restored.held.items():
            if block.header.view > self.tree.root.view and block.header.height > self.tree.root.height:
                self.tree.add(block, block_hash)

    @property
    def is_stopped(self) -> bool:
        """Whether nothing but questions is taken any more: R9, or the end of the epoch."""
        return self.conflict is not None or self.closed is not None

    def leader_of(self, view: int) -> ValidatorIndex:
        """Who leads `view`."""
        return self.epoch.leaders.leader_of(view)

    def is_leader(self) -> bool:
        """Whether we lead the current view."""
        return self.own_index is not None and self.leader_of(self.view) == self.own_index

    def others(self) -> list[ValidatorIndex]:
        """Every validator but us."""
        return [ValidatorIndex(i) for i in range(self.validators.count) if i != self.place]

    def note_progress(self, peer: int, view: int) -> None:
        """A peer has shown that it is in `view` or beyond; one whose place is of a later epoch does not count."""
        if peer < self.validators.count:
            self.peer_view[peer] = max(self.peer_view[peer], view)

    def cast(self, signed: tuple[Vote, OwnVote], before: tuple[JournalRecord, ...] = ()) -> Vote:
        """Take a vote that we just signed: journal it (after `before`), and count it at once."""
        vote, record = signed
        if self.admitted is not None:
            self.save(self.admitted)
        self.out.records += (*before, record)
        self.uncounted.append(vote)
        return vote

    def save(self, certificate: Certificate) -> None:
        """Journal a certificate with the next vote, once."""
        key = (certificate.view, isinstance(certificate, QuorumCertificate))
        if key not in self.saved:
            self.saved.add(key)
            self.out.records.append(Admitted(certificate.view + 1, certificate))

    def hold(self, block: Block, block_hash: BlockHash) -> Node:
        """Put a justified block into the tree."""
        self.tree_changed = True
        return self.tree.add(block, block_hash)

    def fetch(self, block: BlockHash, hint: ValidatorIndex | None = None) -> None:
        """Ask somebody for a block and its ancestors down to our final tip."""
        asked = self.fetcher.ask(block, self.tree.root.height, hint)
        if asked is not None:
            self.out.add(Send(*asked))

    def halt(self, conflict: Conflict, detail: str) -> None:
        """R9: sign nothing ever again, keep both sides, tell the operator."""
        if self.conflict is None:
            self.conflict = conflict
            self.own.halted = True
            self.out.records.append(conflict)
            self.out.add(Halt(conflict.reason, detail))
