"""Who the validators are and where, as a node reads it from the chain, genesis and its node.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from gossip.network import PeerConfig
from gossip.peer_id import peer_id_of, peer_id_of_seed
from ledger.staking.state import Announcement, EpochSet, SetMember, announcement_key, epoch_key
from ledger.state import State
from ledger.transactions import Announce, peer_proof_bytes
from node import address_book as address_book_module
from node.address_book import address_book
from node.config import NodeConfig, PeerAddress
from node.genesis import GenesisDocument, chain_id_of
from node.genesis_defaults import default_staking
from primitives.identifiers import ValidatorIndex
from primitives.signing import SigningKey, address_of
from tests.node import network_of_nodes
from tests.node.network_of_nodes import a_genesis, keys_of, running_nodes
from tests.node.test_node_staking import by_operator, with_short_epochs

SEED = b"\x2a" * 32
NETWORK = SigningKey(SEED)
HERE, THERE = ("203.0.113.9", 26_600), ("validator.example", 1)
TEXTS = ("/ip4/203.0.113.9/tcp/26600", "/dns/validator.example/tcp/1")
WRITTEN = tuple(PeerAddress(index=index, host="10.0.0.1", port=100 + index) for index in range(3))


def a_staked_genesis() -> GenesisDocument:
    genesis = a_genesis(3)
    staking = default_staking(genesis.validators)
    return msgspec.structs.replace(genesis, ledger=msgspec.structs.replace(genesis.ledger, staking=staking))


class Chain:
    """A state whose sets and announcements a test writes, and how validator 0 reads it."""

    def __init__(self) -> None:
        self.genesis = a_staked_genesis()
        self.state = State.from_genesis(self.genesis.ledger, chain_id_of(self.genesis))
        self.state.begin_block()

    def announces(self, number: int, *addresses: str) -> None:
        self.state.put(announcement_key(number), Announcement(NETWORK.public_key, addresses))

    def sets(self, epoch: int, *places: tuple[int, int]) -> None:
        members = tuple(SetMember(place, number, bytes(32), 1, 1) for place, number in places)
        self.state.put(epoch_key(epoch), EpochSet(epoch, members, 0, 1))

    def book(self, *written: PeerAddress, index: int | None = 0) -> tuple[PeerConfig, ...]:
        config = NodeConfig(name="one", index=index, peers=written)
        return address_book(self.state, config, self.genesis, keys_of(0))


def a_peer(
    index: int, *announced: tuple[str, int], seed: bytes = b"", written: PeerAddress | None = None
) -> PeerConfig:
    peer_id = peer_id_of_seed(seed) if seed else keys_of(index).peer_id
    address = ("", 0) if written is None else (written.host, written.port)
    return PeerConfig(ValidatorIndex(index), peer_id, *address, announced)


OURSELVES = PeerConfig(ValidatorIndex(0), keys_of(0).peer_id, "127.0.0.1", 26_600)


def test_before_anybody_announces_genesis_and_node_toml_are_what_there_is() -> None:
    assert Chain().book(WRITTEN[1]) == (OURSELVES, a_peer(1, written=WRITTEN[1]), a_peer(2))


def test_what_is_announced_stands_beside_what_the_operator_wrote() -> None:
    chain = Chain()
    chain.announces(1, *TEXTS)
    chain.announces(2, *TEXTS)
    assert chain.book(WRITTEN[1]) == (
        OURSELVES,
        a_peer(1, HERE, THERE, seed=SEED, written=WRITTEN[1]),
        a_peer(2, HERE, THERE, seed=SEED),
    )


def test_we_are_ourselves_whatever_was_announced() -> None:
    chain = Chain()
    chain.announces(0, *TEXTS)
    assert chain.book()[0] == OURSELVES


def test_a_newcomer_is_found_once_a_set_names_it() -> None:
    chain = Chain()
    chain.announces(7, *TEXTS)
    chain.sets(1, (0, 0), (1, 1), (4, 7))
    assert chain.book()[3] == a_peer(4, HERE, THERE, seed=SEED)


def test_a_newcomer_without_announcement_needs_its_peer_id_in_node_toml() -> None:
    chain = Chain()
    chain.sets(1, (0, 0), (4, 7))
    named = PeerAddress(index=4, host="10.0.0.9", port=9, peer_id=keys_of(9).peer_id)
    assert [peer.index for peer in chain.book()] == [0, 1, 2]
    assert chain.book(named)[3] == PeerConfig(ValidatorIndex(4), keys_of(9).peer_id, "10.0.0.9", 9)


def test_a_place_given_anew_is_that_of_its_newest_holder() -> None:
    chain = Chain()
    chain.announces(7, *TEXTS)
    chain.sets(1, (0, 0), (1, 7))
    assert chain.book()[1] == a_peer(1, HERE, THERE, seed=SEED)


def test_who_is_in_no_kept_set_is_forgotten() -> None:
    chain = Chain()
    for epoch in (0, 1):
        chain.sets(epoch, (0, 0), (2, 2))
    assert [peer.index for peer in chain.book(*WRITTEN)] == [0, 2]
    assert [peer.index for peer in chain.book(*WRITTEN, index=None)] == [0, 2]


async def test_a_running_network_learns_what_is_announced(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", with_short_epochs)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        operator, told = keys_of(1).oracle, structlog.testing.LogCapture()
        monkeypatch.setattr(address_book_module, "log", structlog.wrap_logger(None, processors=[told]))
        proof = NETWORK.sign(peer_proof_bytes(nodes.chain_id, address_of(operator.public_key), 1))
        announce = by_operator(nodes, 1, Announce(1, NETWORK.public_key, TEXTS, proof))
        assert [reply.reason for reply in await nodes[0].transactions.submit([announce])] == [""]
        expected = (peer_id_of(NETWORK.public_key), (HERE, THERE))
        with trio.fail_after(10):
            while [(one.peer_id, one.announced) for one in nodes.network(0).known[1:2]] != [expected]:  # noqa: ASYNC110
                await trio.sleep(0.05)
            while not any(line["event"] == "network_key_unknown" for line in told.entries):  # noqa: ASYNC110
                await trio.sleep(0.05)
        (line,) = (line for line in told.entries if line["event"] == "network_key_unknown")
        assert (line["ours"], line["announced"]) == (keys_of(1).peer_id, expected[0])
        assert nodes.network(1).known == ()  # It knew all that before: what it is itself.
