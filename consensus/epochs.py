"""One core after another: epochs, each with its own validators, views and genesis. Pure.

`EpochManager` takes and gives what a core does, and owns the current one. When an epoch is closed, the driver
decides the set of the epoch after the next (`EpochClosed`, answered by `NextSetDecided` once the ledger has
executed the boundary), and the next core starts with view 1 on the boundary block. A validator of the new set
has therefore executed the boundary before it votes. Rules: consensus.md section 7.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from consensus.admission import other_epoch
from consensus.core import Core
from consensus.effects import (
    Effect,
    EpochOpened,
    EpochSet,
    JournalRecord,
    OpenedEpoch,
    Persist,
    RaisedFloor,
    Readmit,
    Send,
    ServeEpochProof,
    SetTimer,
    UpgradeRequired,
    WatchEnded,
)
from consensus.epoch import EVIDENCE_AGE_EPOCHS_MAX, Epoch, first_epoch
from consensus.evidence_pool import EvidencePool
from consensus.inputs import Input, MessageReceived, NextSetDecided, OtherEpochHeard, Started, TimerKind
from consensus.leader import LeaderSchedule
from consensus.messages import (
    CertificateMessage,
    ConsensusMessage,
    EpochRequest,
    Proposal,
    Votes,
    hash_of,
)
from consensus.safety import epoch_of_record
from consensus.state import ConsensusState, CoreConfig, FinalTip, Signer
from consensus.validator_set import ValidatorSet
from primitives.errors import OperatorError, ensure
from primitives.identifiers import BlockHash, ValidatorIndex

EARLY_MESSAGES_MAX = 32
"""Messages of the next epoch kept from each peer until it begins here; further ones are dropped and sent again."""
EARLY_PROPOSALS_MAX = 1
"""Proposals among them."""
PROOFS_SERVED_MAX = 8
"""Epoch proofs sent to one peer between two retries of ours; it asks again for the others."""
EARLY_TYPES = (Proposal, Votes, CertificateMessage)
"""What is worth keeping; everything else is asked for or told again."""


class EpochManager:
    """The driver's view of consensus over all epochs; the same methods as Core."""

    def __init__(
        self,
        config: CoreConfig,
        signer: Signer,
        tip: FinalTip | None = None,
        records: Iterable[JournalRecord] = (),
        pool: EvidencePool | None = None,
        *,
        epoch_blocks: int = 0,
        opened: Sequence[OpenedEpoch] = (),
        rotated: Mapping[bytes, Signer] | None = None,
    ) -> None:
        """`opened`: what EpochOpened gave in earlier lives, oldest first. `epoch_blocks` 0: one endless epoch.

        `rotated`: our other consensus keys, by public key. In each epoch only the key that its set names at our
        place signs.

        `config.validator_set` is that of epochs 0 and 1. An epoch that began above `tip` is left out: the store
        is older than that, and the epoch will begin again.

        Raises:
            OperatorError: the chain has passed on to a protocol version that this build does not know.
        """
        self._config = config
        self._signer = signer
        self._rotated = rotated or {}
        self._pool = EvidencePool() if pool is None else pool
        height = 0 if tip is None else tip.block.header.height
        epoch = first_epoch(config.chain_id, config.validator_set, epoch_blocks, config.version)
        for one in opened:
            if one.first_height <= height:
                epoch = restored_epoch(config.chain_id, one, epoch)
        if epoch.version > config.version_max:
            raise OperatorError(upgrade_sentence(epoch.version, epoch.first_height + 1, config.version_max))
        self._records = tuple(records)
        self._conflicts = tuple(one for one in self._records if epoch_of_record(one) is None)
        """The journal of earlier lives: an epoch of it may lie ahead, when the store is older than the journal."""
        self._core = self._core_of(epoch, tip)
        self._early: dict[ValidatorIndex, deque[ConsensusMessage]] = {}
        self._asked: set[ValidatorIndex] = set()
        self._served: Counter[ValidatorIndex] = Counter()

    def _core_of(self, epoch: Epoch, tip: FinalTip | None) -> Core:
        self._pool.expire(epoch.number)
        self._records = records = tuple(one for one in self._records if self._may_matter(one, epoch.number))
        key = self._key_in(epoch.validators)
        config = replace(self._config, validator_set=epoch.validators, epoch=epoch, own_key=key)
        signer = self._rotated.get(key or b"", self._signer)
        return Core(config, signer, tip, (*records, *self._conflicts), self._pool)

    def _key_in(self, validators: ValidatorSet) -> bytes | None:
        """Which of our keys the set names at our place; our first one where it names none of them."""
        place = self._config.own_index
        if (
            place is not None
            and validators.is_member(place)
            and validators.public_keys[place] in self._rotated
        ):
            return validators.public_keys[place]
        return self._config.own_key

    @staticmethod
    def _may_matter(record: JournalRecord, epoch: int) -> bool:
        """Whether a record belongs to this epoch or one to come."""
        number = epoch_of_record(record)
        return number is not None and number >= epoch

    @property
    def core(self) -> Core:
        """The core of the current epoch; another object after each NextSetDecided."""
        return self._core

    @property
    def state(self) -> ConsensusState:
        """What the current core knows."""
        return self._core.state

    @property
    def epoch(self) -> Epoch:
        """What messages are checked under."""
        return self._core.epoch

    @property
    def view(self) -> int:
        """The view we are in, counted from 1 in each epoch."""
        return self._core.view

    @property
    def final_height(self) -> int:
        """Height of our final tip."""
        return self._core.final_height

    @property
    def is_halted(self) -> bool:
        """Whether R9 has stopped us."""
        return self._core.is_halted

    def journal_records(self) -> list[JournalRecord]:
        """What a rewritten journal must hold."""
        records = self._core.journal_records()
        records += [one for one in self._records if self._may_matter(one, self.epoch.number + 1)]
        return [one for one in records if not (self.is_watching and isinstance(one, RaisedFloor))]

    @property
    def is_watching(self) -> bool:
        """Whether we sign nothing because we do not know what we signed before."""
        watch = self._config.watch
        return watch is not None and not watch.may_sign(self.epoch.number)

    def step(self, event: Input) -> list[Effect]:
        """Take one input; the effects are to be performed in order."""
        match event:
            case MessageReceived(peer=peer, message=message):
                other = other_epoch(message, self._core.epoch)
                if other is not None:
                    # It was checked before our epoch changed.
                    return self._on_other_epoch(peer, other, message)
            case NextSetDecided(epoch=number):
                return self._open(event) if number == self.epoch.number else []
            case OtherEpochHeard(peer=peer, epoch=number, message=message):
                return self._on_other_epoch(peer, number, message)
        effects = self._core.step(event)
        return self._rarely(effects) if effects else effects

    def _rarely(self, effects: list[Effect]) -> list[Effect]:
        """Serve each peer few epoch proofs per retry: they are large answers to small questions."""
        if any(isinstance(one, SetTimer) and one.kind is TimerKind.RETRY for one in effects):
            self._asked.clear()
            self._served.clear()
        allowed: list[Effect] = []
        for one in effects:
            if isinstance(one, ServeEpochProof):
                self._served[one.to] += 1
                if self._served[one.to] > PROOFS_SERVED_MAX:
                    continue
            allowed.append(one)
        return allowed

    def _on_other_epoch(self, peer: ValidatorIndex, number: int, message: ConsensusMessage) -> list[Effect]:
        """Nothing of an epoch before ours matters; one after ours says that we lag: ask why, once per retry."""
        if number < self.epoch.number or self.is_halted:
            return []
        if number == self.epoch.number + 1:
            self._keep_early(peer, message)
        if peer in self._asked or self._core.state.closed is not None:
            return []
        self._asked.add(peer)
        return [Send(peer, EpochRequest(self.epoch.number))]

    def _keep_early(self, peer: ValidatorIndex, message: ConsensusMessage) -> None:
        kept = self._early.setdefault(peer, deque(maxlen=EARLY_MESSAGES_MAX))
        proposals = sum(isinstance(one, Proposal) for one in kept)
        if isinstance(message, Proposal) and proposals >= EARLY_PROPOSALS_MAX:
            return
        if isinstance(message, EARLY_TYPES):
            kept.append(message)

    def _open(self, decided: NextSetDecided) -> list[Effect]:
        """The next epoch begins: nothing of the old one is signed again, its core is gone.

        Unless its protocol version is one that we do not know: then we remain where we are, and sign nothing.
        """
        state = self._core.state
        proof, boundary = state.closed, state.boundary_block
        if proof is None or state.conflict is not None:
            return []
        epoch = self.epoch.following(hash_of(boundary.header), decided.validators, decided.version)
        if epoch.version > self._config.version_max:
            return [UpgradeRequired(epoch.version, epoch.first_height + 1)]
        watched = self.is_watching
        self._core = self._core_of(epoch, FinalTip(boundary, None))
        early, self._early = self._early, {}
        self._asked.clear()
        effects: list[Effect] = []
        if not self.is_watching:
            # The signer's watermark moves into the new epoch before anything is signed in it.
            effects.append(Persist((RaisedFloor(epoch.number, 0),)))
        effects.append(EpochOpened(opened(epoch), proof))
        if watched and not self.is_watching:
            effects.append(WatchEnded(epoch.number))
        effects += self._core.step(Started())
        effects += [Readmit(peer, one) for peer, kept in sorted(early.items()) for one in kept]
        return effects


def opened(epoch: Epoch) -> OpenedEpoch:
    """An epoch for the driver to keep."""
    ensure(epoch.last_height is not None, "only epochs that end are kept")
    return OpenedEpoch(
        number=epoch.number,
        genesis=epoch.genesis,
        seed=epoch.leaders.seed,
        first_height=epoch.first_height,
        last_height=epoch.last_height or 0,
        validators=_stored(epoch.validators),
        next_validators=_stored(epoch.next_set),
        version=epoch.version,
        next_version=epoch.next_version,
    )


def restored_epoch(chain_id: bytes, kept: OpenedEpoch, previous: Epoch | None) -> Epoch:
    """The epoch that was kept; `previous` is the one before it, for evidence."""
    validators = _loaded(kept.validators)
    return Epoch(
        chain_id=chain_id,
        number=kept.number,
        validators=validators,
        leaders=LeaderSchedule(kept.seed, validators.count, validators.weights),
        genesis=BlockHash(kept.genesis),
        next_validators=_loaded(kept.next_validators),
        first_height=kept.first_height,
        last_height=kept.last_height,
        previous=previous.trimmed(EVIDENCE_AGE_EPOCHS_MAX) if previous is not None else None,
        version=kept.version,
        next_version=kept.next_version,
    )


def upgrade_sentence(version: int, height: int, known: int) -> str:
    """What the operator of a build that is too old must do."""
    return (
        f"from height {height} on the chain runs protocol version {version}, and this build knows versions up to"
        f" {known}: install one that knows {version} and start again; nothing of that version has been signed here"
    )


def _stored(validators: ValidatorSet) -> EpochSet:
    return EpochSet(validators.public_keys, validators.weights, validators.final_weight)


def _loaded(kept: EpochSet) -> ValidatorSet:
    return ValidatorSet(kept.public_keys, kept.weights, kept.final_weight)
