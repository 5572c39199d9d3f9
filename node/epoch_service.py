"""What an epoch change needs beside consensus: the ledger's decision, and the epochs kept on disk. Trio, disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from consensus.effects import EpochClosed, EpochOpened, ServeEpochProof
from consensus.epochs import upgrade_sentence
from consensus.inputs import NextSetDecided
from consensus.messages import VERSION_MAX, EpochClosing
from consensus.validator_set import ValidatorSet
from gossip.network import Network
from ledger.oracle import reporters_of
from ledger.staking.epochs import next_validator_set
from ledger.staking.state import is_staking
from ledger.state import State
from node.ledger_service import LedgerService
from node.messages import lane_of
from node.storage.epoch_files import EpochFiles
from primitives.codec import encode

log = structlog.get_logger()


class EpochService:
    """Performs the effects of epoch changes for the consensus service."""

    def __init__(
        self,
        files: EpochFiles,
        ledger: LedgerService,
        network: Network,
        on_reporters: Callable[[Mapping[int, bytes]], None],
    ) -> None:
        """`on_reporters`: told the oracle keys, by number, of those who report in the epoch that begins."""
        self._on_reporters = on_reporters
        self._files = files
        self._ledger = ledger
        self._network = network

    async def decide(self, effect: EpochClosed, known: ValidatorSet) -> NextSetDecided:
        """The set of the epoch after the next, once the ledger has executed the boundary.

        `known` is the next epoch's set: a chain without staking keeps it for ever.
        """
        await self._ledger.wait_final(effect.boundary.header.height)
        decided = await self._ledger.read(lambda state: decide(state, effect.epoch, known))
        self._on_reporters(await self._ledger.read(oracle_keys))
        log.info("epoch_closed", epoch=effect.epoch, height=effect.boundary.header.height)
        return decided

    def keep(self, effect: EpochOpened) -> None:
        """Store an epoch that begins, before anything is sent in it."""
        self._files.keep(effect)
        opened = effect.opened
        members = sum(weight > 0 for weight in opened.validators.weights)
        log.info("epoch_opened", epoch=opened.number, height=opened.first_height, validators=members)
        if opened.next_version > VERSION_MAX:
            sentence = upgrade_sentence(opened.next_version, opened.last_height + 1, VERSION_MAX)
            log.error("upgrade_due", detail=sentence)

    def serve(self, effect: ServeEpochProof) -> None:
        """Answer a peer that is still in a closed epoch."""
        proof = self._files.proof_of(effect.epoch)
        if proof is not None:
            message = EpochClosing(proof)
            self._network.send(effect.to, lane_of(message), encode(message))


def oracle_keys(state: State) -> dict[int, bytes]:
    """The keys of those whose reports the next block may hold, by number."""
    return {number: item.oracle_key for number, item in reporters_of(state).items()}


def decide(state: State, epoch: int, known: ValidatorSet) -> NextSetDecided:
    """The ledger's decision at an epoch's last block; members by place."""
    if not is_staking(state):
        return NextSetDecided(epoch, known, state.genesis.protocol.version)
    found = next_validator_set(state)
    validators = known.following((one.place, one.consensus_key, one.weight) for one in found.members)
    return NextSetDecided(epoch, validators, found.version)
