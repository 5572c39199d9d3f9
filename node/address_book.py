"""Who the validators are and where: from the chain, genesis and node.toml; told whenever it changes. Trio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog
import trio

from gossip.network import PeerConfig
from gossip.peer_id import peer_id_of
from ledger.staking.addresses import parse_address
from ledger.staking.state import get_announcement, get_epoch_set, is_staking
from ledger.state import State
from node.config import NodeConfig
from node.genesis import GenesisDocument
from node.keystore import ValidatorKeys
from node.ledger_service import LedgerService
from node.network_config import face_of, known_validators
from primitives.identifiers import ValidatorIndex

LOOK_SECONDS = 1.0
"""The shortest time between two looks into the state."""

log = structlog.get_logger()


class AddressBook:
    """Keeps the network's knowledge of validators as the state has it."""

    def __init__(
        self,
        config: NodeConfig,
        genesis: GenesisDocument,
        keys: ValidatorKeys,
        ledger: LedgerService,
        know: Callable[[Sequence[PeerConfig]], None],
    ) -> None:
        """`know` is told of all validators whenever anything about them has changed."""
        self._config = config
        self._genesis = genesis
        self._keys = keys
        self._ledger = ledger
        self._know = know
        self._known = known_validators(config, genesis, keys)
        self._named: str | None = None

    async def run(self) -> None:
        """Look once after each final block, but not too often; until cancelled."""
        while True:
            book = await self._ledger.read(self._read)
            if book != self._known:
                self._known = book
                self._know(book)
                log.info(
                    "address_book", validators=len(book), announced=sum(bool(one.announced) for one in book)
                )
            await trio.sleep(LOOK_SECONDS)
            await self._ledger.wait_final(self._ledger.final_height + 1)

    def _read(self, state: State) -> tuple[PeerConfig, ...]:
        places = places_of(state)
        own = face_of(self._config)
        if own in places:
            self._check_own(state, places[own])
        return address_book(state, self._config, self._genesis, self._keys)

    def _check_own(self, state: State, number: int) -> None:
        """Say it when others look for us under another key than ours."""
        named = peer_id_at(state, self._genesis, number)
        if named != self._named and named not in (None, self._keys.peer_id):
            log.error("network_key_unknown", ours=self._keys.peer_id, announced=named)
        self._named = named


def places_of(state: State) -> dict[int, int]:
    """Place -> number of the validator that has or last had it, of all sets that are kept; newer sets first."""
    places: dict[int, int] = {}
    if not is_staking(state):
        return places
    epoch = state.genesis.staking.epoch_of(state.clock.height + 1) + 1
    while epoch >= 0 and (found := get_epoch_set(state, epoch)) is not None:
        for member in found.members:
            places.setdefault(member.place, member.validator)
        epoch -= 1
    return places


def peer_id_at(state: State, genesis: GenesisDocument, number: int) -> str | None:
    """The peer id that a validator announced, or had in genesis; None: it has told of none."""
    announced = get_announcement(state, number)
    if announced is not None:
        return peer_id_of(announced.peer_key)
    return genesis.validators[number].peer_id if number < len(genesis.validators) else None


def address_book(
    state: State, config: NodeConfig, genesis: GenesisDocument, keys: ValidatorKeys
) -> tuple[PeerConfig, ...]:
    """All validators that a set names in which evidence may still be found, by place, ourselves included.

    What node.toml says of a place is tried before what was announced; its peer id counts while nothing was.
    """
    known = known_validators(config, genesis, keys)
    if not is_staking(state):
        return known
    written = {peer.index: peer for peer in config.peers}
    book = {peer.index: peer for peer in known if peer.index == face_of(config)}
    for place, number in places_of(state).items():
        index, ours = ValidatorIndex(place), written.get(place)
        announced = get_announcement(state, number)
        peer_id = peer_id_at(state, genesis, number) or (ours.peer_id if ours else "")
        if peer_id and index not in book:
            host, port = (ours.host, ours.port) if ours else ("", 0)
            addresses = () if announced is None else tuple(map(parse_address, announced.addresses))
            book[index] = PeerConfig(index, peer_id, host, port, addresses)
    return tuple(book[index] for index in sorted(book))
