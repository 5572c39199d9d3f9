"""Whole nodes in one process, wired as usual, over the memory network; and a ledger service alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from consensus.epoch import genesis_block
from consensus.messages import (
    Block,
    Header,
    Justification,
    QuorumCertificate,
    hash_of,
    transaction_root,
)
from ledger.genesis import GenesisAccount
from ledger.instruments import Instrument, Underlying
from ledger.state import State
from ledger.transactions import (
    NO_QUOTES,
    Action,
    IndexReport,
    OracleReport,
    SeenDelay,
    SignedReport,
    SurfaceReport,
    Transaction,
    report_sign_bytes,
)
from node import network_config, wiring
from node.config import NodeConfig, load_config
from node.genesis import ConsensusParameters, GenesisDocument, chain_id_of
from node.genesis_defaults import (
    default_instruments,
    default_ledger_genesis,
    default_staking,
    make_genesis,
    reporters_of,
)
from node.home import create_follower_home, create_homes, entry_of
from node.keystore import ValidatorKeys
from node.ledger_service import LedgerService
from node.messages import ReportMessage, lane_of
from node.storage.block_store import BlockStore, FinalBlock
from node.verifier import SignatureVerifier
from primitives.amounts import USD
from primitives.codec import decode_own, encode
from primitives.identifiers import BlockHash
from primitives.signing import address_of
from tests.ledger.exchange import a_key, a_slice, sign
from tests.node.memory_network import Hub, MemoryNetwork

TIME_NS = 1_770_000_000_000_000_000
INDEX_UUSD = {Underlying.BTC: 100_000 * USD, Underlying.ETH: 4_000 * USD}
INSTRUMENTS: tuple[Instrument, ...] = tuple(default_instruments(TIME_NS, INDEX_UUSD)[:20])
BTC_PERP = 0
PEOPLE = ("alice", "bob")
CUSTODIAN = a_key("custodian")


def keys_of(index: int) -> ValidatorKeys:
    """The keys of a validator: the same in every test."""
    return ValidatorKeys(*(bytes([index + 1, use]) * 16 for use in (1, 2, 3)))


def a_genesis(validators: int = 4) -> GenesisDocument:
    """Validators with one weight each; alice and bob with a million each."""
    entries = [entry_of(f"node{index}", keys_of(index)) for index in range(validators)]
    accounts = [GenesisAccount(address_of(a_key(name).public_key), 0, 1_000_000 * USD) for name in PEOPLE]
    ledger = default_ledger_genesis(
        time_ns=TIME_NS,
        custodian_key=CUSTODIAN.public_key,
        reporters=reporters_of(entries),
        staking=default_staking(entries),
        index_uusd=INDEX_UUSD,
        instruments=INSTRUMENTS,
        accounts=accounts,
    )
    consensus = ConsensusParameters(
        delta_ms=100, min_block_ms=20, retain_views=1_024, lookahead_views=64, final_weight=0
    )
    return make_genesis("tests", entries, ledger, consensus)


def sent_by(name: str, chain_id: bytes, nonce: int, *actions: Action, subaccount: int = 0) -> bytes:
    """A transaction as its client sends it."""
    return sign(a_key(name), Transaction(chain_id, subaccount, nonce, actions))


def a_report(
    reporter: int, chain_id: bytes, time_ns: int, btc_usd: int = 100_000, delays: tuple[SeenDelay, ...] = ()
) -> SignedReport:
    """What an honest validator reports: both indices, and a slice for each BTC expiry."""
    indices = (IndexReport(0, btc_usd * USD), IndexReport(1, 4_000 * USD))
    expiries = sorted({item.expiry_ns for item in INSTRUMENTS if item.expiry_ns > time_ns})
    surfaces = (SurfaceReport(0, tuple(a_slice(item, time_ns, btc_usd * USD) for item in expiries)),)
    payload = encode(OracleReport(chain_id, reporter, time_ns, indices, surfaces, delays, NO_QUOTES))
    return SignedReport(payload, reporter, keys_of(reporter).oracle.sign(report_sign_bytes(payload)))


def reports_at(chain_id: bytes, time_ns: int, reporters: Iterable[int] = range(4)) -> list[SignedReport]:
    """A report of each validator, a nanosecond apart."""
    return [a_report(index, chain_id, time_ns + index) for index in reporters]


# --- a ledger service without consensus ---

NOBODYS_PROOF = QuorumCertificate(1, 0, 1, bytes(32), (), ())
"""The ledger stores proofs and does not look inside."""


class Ledger:
    """A LedgerService on a real state and store, and blocks for it as consensus would hand them over."""

    def __init__(self, path: Path, genesis: GenesisDocument | None = None) -> None:
        self.genesis = genesis or a_genesis()
        self.chain_id = chain_id_of(self.genesis)
        self.store = BlockStore.open(path, chain_id=self.chain_id)
        tip = self.store.tip()
        if tip is None:
            self.state = State.from_genesis(self.genesis.ledger, self.chain_id)
            block = genesis_block(self.chain_id)
            block_hash = hash_of(block.header)
            self.store.commit(
                FinalBlock(0, block_hash, encode(block), b"", encode(()), leaves=self.state.all_leaves())
            )
            tip = self.store.tip()
            assert tip is not None
        else:
            self.state = State.from_leaves(self.chain_id, self.genesis.ledger, self.store.leaves())
        self.verifier = SignatureVerifier()
        self.service = LedgerService(
            self.state, BlockHash(tip.block_hash), tip.height, self.store, self.verifier
        )
        self.now_ns = max(TIME_NS, self.state.clock.time_ns)

    async def build(self, parent: Block | None = None, *, view: int = 0, reports: bool = True) -> Block:
        """The block that this service would propose on `parent` (None: the final tip), a second later."""
        self.now_ns += 10**9
        parent_hash = self.service.final_hash if parent is None else hash_of(parent.header)
        height = 1 + (self.service.final_height if parent is None else parent.header.height)
        fresh = reports_at(self.chain_id, self.now_ns) if reports else []
        payload = await self.service.build(parent_hash, height, fresh)
        assert payload is not None
        return a_block(
            self.chain_id,
            parent_hash,
            height,
            payload.transactions,
            time_ns=payload.time_ns,
            root=payload.parent_state_root,
            view=view or height,
        )

    async def validates(self, block: Block) -> bool | None:
        """Whether the block may be voted for."""
        return await self.service.is_valid(hash_of(block.header), block)

    async def finalizes(self, *blocks: Block) -> list[bytes]:
        """Make blocks final; the state root after each."""
        results = await self.service.finalize(blocks, NOBODYS_PROOF)
        return [item.result.root for item in results]


def a_block(
    chain_id: bytes,
    parent_hash: bytes,
    height: int,
    transactions: tuple[bytes, ...],
    *,
    time_ns: int,
    root: bytes,
    view: int,
) -> Block:
    """A block with what the ledger looks at; consensus' own fields are zeros."""
    zero = bytes(32)
    header = Header(
        *(1, chain_id, 0, view, height, parent_hash, max(0, view - 1), 0, time_ns),
        *(transaction_root(transactions), root, zero, zero, zero, 0),
    )
    return Block(header, transactions, (), Justification(None, ()))


# --- whole nodes ---


class Nodes:
    """Homes on disk, and the nodes that run in this process; the follower's number comes after the validators'."""

    def __init__(self, home: Path, count: int = 4, settings: Mapping[str, Any] | None = None) -> None:
        self.genesis = a_genesis(count)
        self.chain_id = chain_id_of(self.genesis)
        self.hub = Hub(count)
        self.homes = [home / f"n{index}" for index in range(count)]
        self.running: dict[int, tuple[wiring.Wiring, trio.CancelScope, trio.Event]] = {}
        clock = {"start_market_ns": TIME_NS, "start_monotonic_ns": time.monotonic_ns(), "speed": 1}
        own = {"gateway": {"enabled": False}, "market_clock": clock, **(settings or {})}
        addresses = [("127.0.0.1", 1_000 + index) for index in range(count)]
        keys = [keys_of(index) for index in range(count)]
        create_homes(self.homes, keys, self.genesis, addresses, password=None, settings=[own] * count)
        self.homes.append(home / "follower")
        validators = dict(enumerate(addresses))
        create_follower_home(
            self.homes[count], keys_of(count), self.genesis, validators, {"name": "follower", **own}
        )

    def join_by_memory(self, monkeypatch: object) -> None:
        """From now on nodes are joined at the hub, not by sockets."""
        monkeypatch.setattr(network_config, "Libp2pNetwork", self.hub.join)  # type: ignore[attr-defined]

    def config(self, index: int) -> NodeConfig:
        """The node's configuration, as on disk."""
        return load_config(self.homes[index])

    def __getitem__(self, index: int) -> wiring.Wiring:
        return self.running[index][0]

    def network(self, index: int) -> MemoryNetwork:
        """Where the node is joined to the others."""
        return self.hub.places[index]

    async def start(self, nursery: trio.Nursery, index: int) -> None:
        """Start one node, from whatever its home holds."""
        scope, ended = trio.CancelScope(), trio.Event()

        async def life(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            try:
                with scope, ExitStack() as stack:
                    node = wiring.Wiring(self.config(index), self.genesis, keys_of(index), stack)
                    self.running[index] = (node, scope, ended)
                    async with trio.open_nursery() as parts:
                        await parts.start(node.serve)
                        if index < self.hub.count:
                            parts.start_soon(self._report, node, index)
                        task_status.started()
            finally:
                ended.set()

        await nursery.start(life)

    async def stop(self, index: int) -> None:
        """End one node; cancellation is all the warning it gets."""
        _, scope, ended = self.running[index]
        scope.cancel()
        await ended.wait()

    async def _report(self, node: wiring.Wiring, index: int) -> None:
        """The oracle of one validator, without venues: the same index for ever."""
        while True:
            seen = node.consensus.delays.seen()
            report = a_report(index, self.chain_id, node.clock.now_ns(), delays=seen)
            if node.reports.number_of(keys_of(index).oracle.public_key) is not None:
                message = ReportMessage(report)
                time_ns, _ = node.reports.check(report)
                node.reports.add(time_ns, report)
                node.network.broadcast(lane_of(message), encode(message))
            await trio.sleep(0.05)

    async def wait_height(self, height: int, who: Sequence[int] | None = None, seconds: float = 10) -> None:
        """Until the nodes have stored a final block of that height."""
        wanted = range(self.hub.count) if who is None else who
        with trio.fail_after(seconds):
            while min(self[index].ledger.final_height for index in wanted) < height:  # noqa: ASYNC110
                await trio.sleep(0.005)

    def final_root(self, index: int, height: int) -> bytes:
        """The parent state root in the final block of a height: that of the block below."""
        raw = self[index].store.block_at(height)
        assert raw is not None
        return decode_own(Block, raw).header.parent_state_root


@asynccontextmanager
async def running_nodes(
    home: Path, monkeypatch: object, count: int = 4, settings: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[Nodes, trio.Nursery]]:
    """All nodes up, joined by the memory network."""
    nodes = Nodes(home, count, settings)
    nodes.join_by_memory(monkeypatch)
    async with trio.open_nursery() as nursery:
        for index in range(count):
            await nodes.start(nursery, index)
        yield nodes, nursery
        nursery.cancel_scope.cancel()
