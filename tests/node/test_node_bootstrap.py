"""A new node takes a snapshot from peers: what it believes, whom it drops, what survives a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
import trio

from gossip.network import PeerName
from gossip.reasons import GossipReason
from ledger import snapshot as ledger_snapshot
from node.config import SyncConfig
from node.network_config import network_config
from node.recovery import is_intact
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.snapshot_writer import make_snapshot
from node.storage.snapshots import SnapshotFiles, SnapshotHead
from node.sync import bootstrap as bootstrap_module
from node.sync.bootstrap import Bootstrap
from node.sync.epoch_chain import genesis_epoch
from node.sync.messages import Chunk, EpochLink, SnapshotOffers
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError
from primitives.identifiers import ValidatorIndex
from testnet.bench.history import History
from tests.node import network_of_nodes
from tests.node.memory_network import MemoryNetwork
from tests.node.network_of_nodes import INDEX_UUSD, Nodes, keys_of
from tests.node.test_node_sync import EPOCH_BLOCKS, FOLLOWER, a_short_epoch_genesis, give, is_at

BLOCKS = 70
OLD, NEW = 40, 65
NO_TRUST = SyncConfig()
Answerer = Callable[[PeerName, bytes], Awaitable[bytes]]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Log lines go to a list instead of the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with BLOCKS blocks in three epochs, and two snapshots of many small chunks."""
    data = tmp_path_factory.mktemp("history")
    genesis = a_short_epoch_genesis()
    chain = History(genesis, [keys_of(i) for i in range(4)], data, INDEX_UUSD, absent=(3,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_snapshot, "CHUNK_BYTES_MAX", 600)
        for height in (OLD, NEW):
            trio.run(chain.grow, height + 2 - chain.ledger.final_height)
            SnapshotFiles(data / "snapshots").put(*make_snapshot(chain.store, height))
        trio.run(chain.grow, BLOCKS - chain.ledger.final_height)
    chain.store.close()
    return data


class World:
    """Three validators with snapshots, and a new node that looks for one."""

    def __init__(self, home: Path, monkeypatch: Any, history: Path) -> None:
        monkeypatch.setattr(network_of_nodes, "a_genesis", lambda _: a_short_epoch_genesis())
        monkeypatch.setattr(bootstrap_module, "OFFER_SECONDS_MAX", 1.5)
        monkeypatch.setattr(bootstrap_module, "ASK_AGAIN_SECONDS", 0.1)
        self.nodes = Nodes(home)
        self.nodes.join_by_memory(monkeypatch)
        give(self.nodes, history, 0, 1, 2)
        self.data = self.nodes.config(FOLLOWER).data_path
        self.snapshots = SnapshotFiles(self.data / "snapshots")
        config = network_config(self.nodes.config(FOLLOWER), self.nodes.genesis, keys_of(FOLLOWER))
        self.network = self.nodes.hub.join(config)
        self.genesis = self.nodes.genesis
        """What the new node takes for the chain's parameters."""
        self.bootstrap: Bootstrap | None = None

    @asynccontextmanager
    async def up(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            for index in range(3):
                await self.nodes.start(nursery, index)
            yield nursery
            nursery.cancel_scope.cancel()

    async def fetch(self, config: SyncConfig = NO_TRUST) -> int:
        """Run the new node's bootstrap once; the height it stands on."""
        store = BlockStore.open(self.data / "blocks", chain_id=self.nodes.chain_id)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.network.run)
                self.bootstrap = Bootstrap(
                    config=config,
                    genesis=self.genesis,
                    first_epoch=genesis_epoch(self.nodes.genesis),
                    network=self.network,
                    store=store,
                    snapshots=self.snapshots,
                    epochs=EpochFiles(self.data / "epochs"),
                    peers=[ValidatorIndex(index) for index in range(4)],
                )
                height = await self.bootstrap.run()
                nursery.cancel_scope.cancel()
            return height
        finally:
            store.close()

    @property
    def liars(self) -> dict[ValidatorIndex, str]:
        assert self.bootstrap is not None
        return self.bootstrap.liars

    def corrupt(self, index: int, kind: type[Any], lie: Callable[[Any], Any]) -> None:
        """From now on a validator lies in one kind of answer."""
        place: MemoryNetwork = self.nodes.network(index)
        honest = place.on_request
        assert honest is not None

        async def answer(peer: PeerName, raw: bytes) -> bytes:
            reply = await honest(peer, raw)
            if msgspec.msgpack.decode(reply)[0] != kind.__struct_config__.tag:
                return reply
            return encode(lie(decode_own(kind, reply)))

        place.on_request = answer


@pytest.fixture
def world(tmp_path: Path, monkeypatch: Any, history: Path) -> World:
    return World(tmp_path, monkeypatch, history)


async def test_a_new_node_stands_on_the_newest_snapshot_and_follows_from_there(world: World) -> None:
    async with world.up() as nursery:
        assert await world.fetch() == NEW
        assert world.liars == {}
        await world.nodes.start(nursery, FOLLOWER)
        follower = world.nodes[FOLLOWER]
        assert (follower.restored.tip_height, follower.core.epoch.number) == (NEW, NEW // EPOCH_BLOCKS)
        await is_at(world.nodes, FOLLOWER, 3 * EPOCH_BLOCKS + 5, 30)
        assert is_intact(follower.store)
        assert follower.store.first_height() == NEW
        for height in (NEW + 1, 3 * EPOCH_BLOCKS + 5):
            assert world.nodes.final_root(FOLLOWER, height) == world.nodes.final_root(0, height)


def another_value(raw: bytes) -> bytes:
    (key, value), *others = msgspec.msgpack.decode(raw)
    return encode([[key, value + b"."], *others])


async def test_a_bad_chunk_costs_its_sender_its_trust_and_the_others_give_it(
    world: World, quiet: list[dict[str, Any]]
) -> None:
    async with world.up():
        world.corrupt(1, Chunk, lambda chunk: Chunk(another_value(chunk.raw)))
        assert await world.fetch() == NEW
        assert world.liars == {1: "snapshot_wrong_chunk"}
        assert set(world.network.blamed) == {(1, GossipReason.FALSE_ANSWER)}
        assert {line["peer"] for line in quiet if line["event"] == "sync_liar"} == {1}


def another_root(offers: SnapshotOffers) -> SnapshotOffers:
    head = decode_own(SnapshotHead, offers.heads[0])
    parts = (bytes(32), *head.manifest.parts[1:])
    manifest = msgspec.structs.replace(head.manifest, parts=parts)
    return SnapshotOffers((encode(msgspec.structs.replace(head, manifest=manifest)),))


def unsigned(offers: SnapshotOffers) -> SnapshotOffers:
    head = decode_own(SnapshotHead, offers.heads[0])
    proof = msgspec.structs.replace(head.certificate, signatures=(bytes(64),) * len(head.certificate.signers))
    return SnapshotOffers((encode(msgspec.structs.replace(head, certificate=proof)),))


def higher(offers: SnapshotOffers) -> SnapshotOffers:
    head = decode_own(SnapshotHead, offers.heads[0])
    manifest = msgspec.structs.replace(head.manifest, height=2**40)
    return SnapshotOffers((encode(msgspec.structs.replace(head, manifest=manifest)),))


HEADS = [
    (another_root, "snapshot_wrong_root"),
    (higher, "snapshot_wrong_height"),
]


@pytest.mark.parametrize(("lie", "reason"), HEADS, ids=[lie.__name__ for lie, _ in HEADS])
async def test_a_snapshot_that_validators_have_not_signed_is_refused(
    world: World, lie: Callable[[SnapshotOffers], SnapshotOffers], reason: str
) -> None:
    async with world.up():
        world.corrupt(0, SnapshotOffers, lie)
        assert await world.fetch() == NEW
        assert world.liars == {0: reason}


async def test_an_unsigned_newest_snapshot_costs_its_giver_alone_its_trust(world: World) -> None:
    async with world.up():
        world.corrupt(0, SnapshotOffers, unsigned)
        for honest in (1, 2):
            world.corrupt(honest, SnapshotOffers, lambda offers: SnapshotOffers(offers.heads[1:]))
        assert await world.fetch() == OLD
        assert world.liars == {0: "sync_bad_signature"}


def with_strangers(link: EpochLink) -> EpochLink:
    """The long range: the next epoch's validators are said to be others."""
    assert link.opened is not None
    keys = tuple(keys_of(index + 20).consensus.public_key for index in range(4))
    stranger = msgspec.structs.replace(link.opened.next_validators, public_keys=keys)
    return EpochLink(msgspec.structs.replace(link.opened, next_validators=stranger), link.proof)


def with_no_set(link: EpochLink) -> EpochLink:
    assert link.opened is not None
    empty = msgspec.structs.replace(link.opened.next_validators, public_keys=(), weights=())
    return EpochLink(msgspec.structs.replace(link.opened, next_validators=empty), link.proof)


def without_proof(link: EpochLink) -> EpochLink:
    return EpochLink(link.opened, None)


def on_another_boundary(link: EpochLink) -> EpochLink:
    assert link.proof is not None
    other = msgspec.structs.replace(link.proof.headers[0], parent_state_root=bytes(32))
    return EpochLink(link.opened, msgspec.structs.replace(link.proof, headers=(other,)))


@pytest.mark.parametrize("lie", [with_strangers, with_no_set, without_proof, on_another_boundary])
async def test_a_false_history_of_epochs_leads_nowhere(
    world: World, lie: Callable[[EpochLink], EpochLink]
) -> None:
    async with world.up():
        world.corrupt(0, EpochLink, lie)
        assert await world.fetch() == NEW
        assert set(world.liars) == {0}


async def test_what_was_fetched_before_a_crash_is_not_fetched_again(world: World) -> None:
    async with world.up():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.fetch)
            with trio.fail_after(5):
                while len(list(world.snapshots.directory.rglob("*.chunk"))) < 4:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        present = len(list(world.snapshots.directory.rglob("*.chunk")))
        assert world.snapshots.heights() == []
        assert await world.fetch() == NEW
        assert world.bootstrap is not None
        total = world.snapshots.open(NEW).count
        assert 0 < world.bootstrap.fetched_chunks <= total - present


async def test_an_old_snapshot_offered_by_one_delays_nobody(world: World) -> None:
    async with world.up():
        world.corrupt(0, SnapshotOffers, lambda offers: SnapshotOffers(offers.heads[1:]))
        assert await world.fetch() == NEW
        assert world.liars == {}


async def test_a_genesis_older_than_unbonding_is_not_enough(world: World) -> None:
    staking = world.nodes.genesis.ledger.staking
    async with world.up():
        opened = EpochFiles(world.nodes.config(0).data_path / "epochs").opened(2)
        assert opened is not None
        young = world.nodes.genesis
        short = msgspec.structs.replace(staking, unbonding_epochs=1, unbonding_ns=1)
        ledger = msgspec.structs.replace(young.ledger, staking=short)
        world.genesis = msgspec.structs.replace(young, ledger=ledger)
        with pytest.raises(BaseExceptionGroup) as caught:
            await world.fetch()
        assert caught.group_contains(OperatorError, match="trusted_boundary")
        trusted = SyncConfig(trusted_epoch=2, trusted_boundary=opened.genesis.hex())
        assert await world.fetch(trusted) == NEW


async def test_another_history_than_the_trusted_one_is_refused(world: World) -> None:
    async with world.up():
        trusted = SyncConfig(trusted_epoch=1, trusted_boundary="ab" * 32)
        assert await world.fetch(trusted) == 0
        assert world.liars == dict.fromkeys(range(3), "sync_wrong_epoch")


async def test_without_any_snapshot_the_blocks_are_fetched(world: World) -> None:
    async with world.up() as nursery:
        for index in range(3):
            world.corrupt(index, SnapshotOffers, lambda _: SnapshotOffers(()))
        assert await world.fetch() == 0
        await world.nodes.start(nursery, FOLLOWER)
        await is_at(world.nodes, FOLLOWER, BLOCKS, 30)
