"""A real gateway process before a real block store and a socket on which a node seems to answer."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import trio
from msgspec.structs import replace

from consensus.messages import Block, Header, Justification
from ledger.accounts import new_account
from ledger.events import Event, OrderAccepted, Trade, TransactionApplied
from ledger.genesis import GenesisAccount
from ledger.instruments import Underlying
from ledger.listing import Listing
from ledger.matching.book import Book
from ledger.matching.orders import RestingOrder
from ledger.state import Clock, State
from ledger.state_keys import KEY_CLOCK, account_key, book_key, listing_key
from ledger.transactions import transaction_id
from node.config import NodeConfig, load_config
from node.event_parties import parties_of
from node.genesis import chain_id_of, load_genesis
from node.genesis_defaults import (
    default_instruments,
    default_ledger_genesis,
    default_staking,
    make_genesis,
    reporters_of,
)
from node.home import create_homes, entry_of
from node.keystore import ValidatorKeys
from node.rpc.node_socket import NodeSocket
from node.rpc.protocol import FinalBlockNotice, StatusReply, SubmitReply
from node.rpc.supervisor import GatewayProcess
from node.rpc.views import GreeksRow, GreeksView, MarginRow, MarkRow, MarksView, packed_margins
from node.storage.block_store import BlockStore, FinalBlock
from primitives.amounts import USD
from primitives.codec import encode
from primitives.signing import SigningKey

TIME_NS = 1_770_000_000_000_000_000
INDEX_UUSD = {Underlying.BTC: 100_000 * USD}
OWNER = b"\5" * 20
RAW = b"a transaction"
"""In the first block; LATER is in none yet."""
LATER = b"a later transaction"
PERPETUAL = "BTC-PERPETUAL"
Leaves = Sequence[tuple[bytes, bytes | None]]


class Node:
    """Stands where consensus would: says yes to every transaction but `bad`."""

    def __init__(self) -> None:
        self.standing = StatusReply(
            *("node0", 0, bytes(32), 1, 1, 9, 1, b"\1" * 32, b"\2" * 32, TIME_NS, TIME_NS, "", "", ()),
            *(40_000, 90_000, 100, 600_000, 3, 10**8, 1_000, 0, (("journal", 2),)),
        )

    async def submit(self, raws: Sequence[bytes]) -> list[SubmitReply]:
        return [
            SubmitReply(transaction_id(raw), raw != b"bad", "bad_nonce" if raw == b"bad" else "", "")
            for raw in raws
        ]

    def status(self) -> StatusReply:
        return self.standing

    def metrics_text(self) -> bytes:
        return b"quorate_view 9\n"


class Running(NamedTuple):
    """A gateway and what stands behind it."""

    http: httpx.AsyncClient
    gateway: GatewayProcess
    node: NodeSocket
    config: NodeConfig
    store: BlockStore

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.gateway.port}/v1/ws"

    def become_final(
        self, events: Sequence[Event], leaves: Leaves = (), views: Mapping[str, bytes] | None = None
    ) -> int:
        """The next block, with these events, is in the store, and its notice on the way."""
        tip = self.store.tip()
        height = 1 if tip is None else tip.height + 1
        commit_block(self.store, height, events, leaves, views or {})
        self.node.publish(
            FinalBlockNotice(height, bytes([height]) * 32, b"\2" * 32, TIME_NS, TIME_NS, encode(events))
        )
        return height


def a_home(path: Path, **gateway: Any) -> NodeConfig:
    keys = ValidatorKeys.generate()
    entries = [entry_of("node0", keys)]
    ledger = default_ledger_genesis(
        time_ns=TIME_NS,
        custodian_key=SigningKey(b"\6" * 32).public_key,
        reporters=reporters_of(entries),
        staking=default_staking(entries),
        index_uusd=INDEX_UUSD,
        instruments=default_instruments(TIME_NS, INDEX_UUSD),
        accounts=[GenesisAccount(OWNER, 0, 1_000 * USD)],
    )
    genesis = make_genesis("gateway-test", entries, ledger)
    settings = [{"gateway": {"port": 0, **gateway}, "log_file": "node.log"}]
    create_homes([path], [keys], genesis, [("127.0.0.1", 1)], password=None, settings=settings)
    return load_config(path)


def a_block() -> Block:
    zero = bytes(32)
    header = Header(1, zero, 0, 1, 1, zero, 0, 0, TIME_NS, zero, zero, zero, zero, zero, 0)
    return Block(header, (b"oracle update", RAW), (), Justification(None, ()))


def an_order(order_id: int, side: int, price: int, lots: int) -> RestingOrder:
    return RestingOrder(order_id, OWNER, 0, side, price * USD, lots, 1, 0, 0, True, False)


EVENTS = (
    TransactionApplied(transaction_id(RAW), OWNER, 0, 3),
    OrderAccepted(transaction_id(RAW), 0, 11, OWNER, 0, 0, 0, 99_000 * USD, 5, 2**60),
    Trade(0, 99_000 * USD, 5, 11, 12, OWNER, 0, b"\7" * 20, 1, 100, -50),
)


LATER_EVENTS = (
    TransactionApplied(transaction_id(LATER), OWNER, 0, 4),
    OrderAccepted(transaction_id(LATER), 0, 13, OWNER, 0, 0, 0, 99_000 * USD, 5, 2**60),
    Trade(0, 99_000 * USD, 5, 13, 14, OWNER, 0, b"\7" * 20, 1, 100, -50),
)


def commit_block(
    store: BlockStore, height: int, events: Sequence[Event], leaves: Leaves, views: Mapping[str, bytes]
) -> None:
    block = a_block()
    header = replace(block.header, height=height, view=height)
    store.commit(
        FinalBlock(
            height=height,
            block_hash=bytes([height]) * 32,
            block=encode(replace(block, header=header)),
            proof=b"",
            events=encode(events),
            accounts=sorted(
                {owner + bytes((number,)) for event in events for owner, number in parties_of(event)}
            ),
            transaction_ids=(transaction_id(RAW),) if height == 1 else (),
            leaves=leaves,
            views=views,
        )
    )


def commit_first_block(store: BlockStore, config: NodeConfig) -> None:
    bids = (an_order(1, 0, 99_000, 5), an_order(2, 0, 99_000, 7), an_order(3, 0, 98_000, 1))
    listing = default_instruments(TIME_NS, INDEX_UUSD)
    genesis = load_genesis(config.genesis_path).ledger
    state = State.from_genesis(genesis, bytes(32))
    stake_leaves = [(key, raw) for key, raw in state.all_leaves() if key.startswith(b"k")]
    leaves = [
        (account_key((OWNER, 0)), encode(new_account(OWNER, 0, 2**60))),
        (book_key(0), encode(Book(bids, (an_order(4, 1, 101_000, 2),)))),
        *stake_leaves,
        *((listing_key(item.id), encode(Listing(item, item.id == 1, 7 * USD))) for item in listing),
    ]
    views = {
        "greeks": encode(GreeksView(1, (GreeksRow(0, 0, 0, 0),))),
        "marks": encode(MarksView(1, TIME_NS, (MarkRow(0, 100_000 * USD, 0, 1_000_000),))),
        "margins": encode(packed_margins(1, [MarginRow(OWNER, 0, 2**60, 5, 6, "healthy")])),
    }
    commit_block(store, 1, EVENTS, leaves, views)


def leaves_at(it: Running, height: int) -> Leaves:
    """The whole state of genesis, as of a height; nothing rests on a book."""
    genesis = load_genesis(it.config.genesis_path)
    state = State.from_genesis(genesis.ledger, chain_id_of(genesis))
    state.put(KEY_CLOCK, Clock(height, state.clock.time_ns, 1, 0))
    return [*state.all_leaves(), (book_key(0), None)]


@asynccontextmanager
async def running(
    home: Path, *, node: Node | None = None, trust: ssl.SSLContext | None = None, **gateway: Any
) -> AsyncIterator[Running]:
    """A gateway with these settings, once it answers and listens to its node."""
    config = a_home(home, **gateway)
    store = BlockStore.open(config.store_path)
    commit_first_block(store, config)
    line, process = NodeSocket(config.socket_path, node or Node()), GatewayProcess(config)
    async with trio.open_nursery() as nursery, httpx.AsyncClient(verify=trust or True, timeout=30) as http:
        http.base_url = httpx.URL(
            f"http://127.0.0.1:{process.port}" if trust is None else f"https://localhost:{process.port}"
        )
        await nursery.start(line.run)
        nursery.start_soon(process.run)
        with trio.fail_after(30):
            while (await http.get("/health")).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.02)
            while line.subscribers == 0:  # noqa: ASYNC110
                await trio.sleep(0.02)
        yield Running(http, process, line, config, store)
        nursery.cancel_scope.cancel()
