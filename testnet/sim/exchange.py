"""The real ledger under a stream of orders, for runs in which blocks do something. No I/O.

Each validator holds its own state and mempool; the state moves along one branch at a time, as in the node. Orders and
reports come from the run's own streams; a report's time is its reporter's own, skewed, wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consensus.messages import Block, QuorumCertificate, hash_of
from ledger.admission import signatures_of_block
from ledger.apply import BlockContext, apply_block, validate_block
from ledger.genesis import GenesisAccount, LedgerGenesis, OracleReporter
from ledger.instruments import Instrument, Kind, Underlying
from ledger.invariants import check_everything
from ledger.oracle import build_oracle_update, compute_block_time
from ledger.state import State
from ledger.transactions import (
    UUSD_PER_CENT,
    CancelAll,
    IndexReport,
    NamedInstrument,
    OracleReport,
    PlaceOrder,
    QuotesReport,
    Side,
    SignedReport,
    TimeInForce,
    Transaction,
    report_sign_bytes,
    transaction_id,
)
from ledger.typed_data import instruments_of
from node.client.signers import KeySigner, Signer, WalletSigner
from node.genesis_defaults import default_ledger_genesis
from node.mempool import Mempool
from primitives.amounts import NS, USD
from primitives.codec import encode
from primitives.errors import InvariantViolation, ProtocolViolation
from primitives.hashing import digest
from primitives.identifiers import BlockHash
from primitives.signing import SigningKey
from primitives.wallet import WalletKey, is_valid_by_any
from testnet.checkers import Violation
from testnet.sim.streams import stream

START_NS = 1_770_000_000 * NS
INDEX_USD = 100_000
INSTRUMENTS = [
    Instrument(0, Underlying.BTC, Kind.PERPETUAL, 0, 0, 100),
    Instrument(1, Underlying.ETH, Kind.PERPETUAL, 0, 0, 10),
]
TRADERS = 6
ORDER_EVERY_NS = NS // 2
BLOCK_TRANSACTIONS_MAX = 50
REMEMBERED_MAX = 50_000
"""Signatures known to be valid; forgotten all at once."""


@dataclass(frozen=True, slots=True)
class Payload:
    """What a leader puts into its block."""

    transactions: tuple[bytes, ...]
    time_ns: int
    parent_state_root: bytes


class Market:
    """What the validators of one run share: genesis, keys, orders, and the world's prices."""

    def __init__(self, seed: int, validators: int, chain_id: bytes, clock_of: Callable[[int], int]) -> None:
        """`clock_of(index)` is a validator's wall clock in simulated nanoseconds since the start."""
        self._chain_id, self._clock_of = chain_id, clock_of
        self._orders = stream(seed, "orders")
        self._prices = stream(seed, "prices")
        self._index_uusd = [INDEX_USD * USD]
        self._traders = [self._trader(seed, number) for number in range(TRADERS)]
        self._reporters = [self._key(seed, f"reporter {number}") for number in range(validators)]
        self._nonces = [0] * TRADERS
        self._reports: dict[tuple[int, int], SignedReport] = {}
        self._valid: set[tuple[bytes, bytes, bytes]] = set()
        self.genesis: LedgerGenesis = default_ledger_genesis(
            time_ns=START_NS,
            custodian_key=self._key(seed, "custodian").public_key,
            reporters=[OracleReporter(key.public_key, 1) for key in self._reporters],
            index_uusd={Underlying.BTC: INDEX_USD * USD, Underlying.ETH: 4_000 * USD},
            instruments=INSTRUMENTS,
            accounts=[
                GenesisAccount(address, 0, 1_000_000 * USD)
                for address in sorted(trader.address for trader in self._traders)
            ],
        )

    @classmethod
    def _trader(cls, seed: int, number: int) -> Signer:
        """The first one signs in a wallet."""
        if number == 0:
            return WalletSigner(WalletKey(digest(b"sim-wallet", str(seed).encode())))
        return KeySigner(cls._key(seed, f"trader {number}"))

    @staticmethod
    def _key(seed: int, name: str) -> SigningKey:
        return SigningKey(digest(b"sim-exchange", f"{seed}|{name}".encode()))

    def new_state(self) -> State:
        """Before the first block."""
        return State.from_genesis(self.genesis, self._chain_id)

    def state_of(self, leaves: dict[bytes, bytes]) -> State:
        """As stored."""
        return State.from_leaves(self._chain_id, self.genesis, sorted(leaves.items()))

    def next_order(self) -> tuple[bytes, bytes]:
        """(sender's address, encoded transaction): an order near the index, or now and then a cancel."""
        rng = self._orders
        trader = rng.randrange(TRADERS)
        instrument = rng.randrange(2)
        near_uusd = self._index_uusd[-1] if instrument == 0 else 4_000 * USD
        price_uusd = near_uusd * (1_000 + rng.randint(-4, 4)) // 1_000 // USD * USD
        order = PlaceOrder(
            instrument=instrument,
            side=rng.choice([Side.BUY, Side.SELL]),
            price_uusd=price_uusd,
            size_lots=rng.randint(1, 300),
            time_in_force=TimeInForce.GTC,
            post_only=False,
            reduce_only=False,
            label=0,
        )
        action = CancelAll(None) if rng.random() < 0.1 else order
        content = Transaction(self._chain_id, 0, self._nonces[trader], (action,))
        self._nonces[trader] += 1
        shown = [INSTRUMENTS[number] for number in instruments_of(content)]
        names = [NamedInstrument(item.id, item.name, item.lots_per_contract) for item in shown]
        signer = self._traders[trader]
        return signer.address, signer.sign(content, names)

    def reports(self) -> list[SignedReport]:
        """The newest report of every reporter, each half a second by its own clock."""
        return [self._report(reporter) for reporter in range(len(self._reporters))]

    def _report(self, reporter: int) -> SignedReport:
        tick = max(0, self._clock_of(reporter)) * 2 // NS
        known = self._reports.get((reporter, tick))
        if known is None:
            indices = (
                IndexReport(Underlying.BTC, self._index_at(tick)),
                IndexReport(Underlying.ETH, 4_000 * USD),
            )
            time_ns = START_NS + tick * NS // 2 + 1
            cents = tuple(item.index_uusd // UUSD_PER_CENT for item in indices)
            quotes = QuotesReport((0, 1), cents, (500, 50))
            payload = encode(OracleReport(self._chain_id, reporter, time_ns, indices, (), (), quotes))
            signature = self._reporters[reporter].sign(report_sign_bytes(payload))
            known = self._reports[reporter, tick] = SignedReport(payload, reporter, signature)
        return known

    def _index_at(self, tick: int) -> int:
        """A random walk, the same whoever looks first."""
        while len(self._index_uusd) <= tick:
            step_ppm = self._prices.randint(-800, 800)
            self._index_uusd.append(self._index_uusd[-1] * (1_000_000 + step_ppm) // 1_000_000)
        return self._index_uusd[tick]

    def all_valid(self, checks: list[tuple[bytes, bytes, bytes]]) -> bool:
        """Every signature, each verified once."""
        for check in checks:
            if check not in self._valid:
                if not is_valid_by_any(*check):
                    return False
                if len(self._valid) >= REMEMBERED_MAX:
                    self._valid.clear()
                self._valid.add(check)
        return True


@dataclass(frozen=True, slots=True)
class _Layer:
    block_hash: BlockHash
    leaves: list[tuple[bytes, bytes | None]]
    transaction_ids: list[bytes]


class ExchangeExecutor:
    """One validator's ledger and mempool."""

    def __init__(self, market: Market, leaves: dict[bytes, bytes], tip: BlockHash, height: int) -> None:
        """`leaves` are the stored ones at the final `tip`, kept up to date; empty before the first block."""
        self._market, self._leaves = market, leaves
        self._state = market.state_of(leaves) if leaves else market.new_state()
        if not leaves:
            leaves.update(self._state.all_leaves())
        self._final, self.final_height = tip, height
        self._layers: list[_Layer] = []
        self._blocks: dict[BlockHash, Block] = {}
        self.find_block: Callable[[BlockHash], Block | None] = lambda _: None
        """Where consensus keeps blocks that came before a restart."""
        self.mempool = Mempool()

    def submit(self, sender: bytes, raw: bytes) -> None:
        """A client's transaction; a full pool refuses."""
        try:
            self.mempool.add(transaction_id(raw), sender, raw)
        except ProtocolViolation:
            return

    def build(self, parent: BlockHash, height: int, now_ns: int) -> Payload | None:
        """The newest reports and the oldest orders on the parent's state."""
        if not self._move_to(parent, height - 1):
            return None
        update = build_oracle_update(self._state, self._market.reports())
        excluded = {name for layer in self._layers for name in layer.transaction_ids}
        waiting = self.mempool.pick(BLOCK_TRANSACTIONS_MAX, 1_000_000, excluded)
        time_ns = compute_block_time(self._state, update)
        return Payload((encode(update), *waiting), time_ns, self._state.root())

    def is_valid(self, block_hash: BlockHash, block: Block) -> bool | None:
        """The parent's root, the time, the reports, every signature."""
        try:
            checks = signatures_of_block(self._state, block.transactions)
            if not self._market.all_valid([(key, message, raw) for key, message, raw in checks]):
                return False
            if not self._move_to(BlockHash(block.header.parent_hash), block.header.height - 1):
                return None
            header = block.header
            context = BlockContext(header.height, header.time_ns)
            validate_block(
                self._state, context, block.transactions, parent_state_root=header.parent_state_root
            )
        except ProtocolViolation:
            return False
        self._blocks[block_hash] = block
        return True

    def adopt(self, block_hash: BlockHash, block: Block) -> None:
        """Know our own block."""
        self._blocks[block_hash] = block

    def finalize(self, blocks: tuple[Block, ...], proof: QuorumCertificate) -> None:
        """Execute, check the books from scratch, and store the leaves."""
        for block in blocks:
            header = block.header
            if header.height != self.final_height + 1:
                continue
            name = hash_of(header)
            self._blocks[name] = block
            if not self._move_to(BlockHash(header.parent_hash), header.height - 1, keep=name):
                raise InvariantViolation("a final block stands on the final tip")
            if self._root_before(name) != header.parent_state_root:
                raise Violation("replay", f"the root before height {header.height} is another one")
            if not self._layers:
                self._layers.append(self._apply(name, block))
            layer = self._layers.pop(0)
            self._state.commit_oldest()
            for key, raw in layer.leaves:
                if raw is None:
                    self._leaves.pop(key, None)
                else:
                    self._leaves[key] = raw
            self.mempool.finish(layer.transaction_ids)
            self._final, self.final_height = name, header.height
            if not self._layers:
                self._check_books()
        self._blocks = {
            name: block for name, block in self._blocks.items() if block.header.height > self.final_height
        }

    def root(self) -> bytes:
        """At the final tip."""
        while self._layers:
            self._layers.pop()
            self._state.rollback_block()
        return self._state.root()

    def _check_books(self) -> None:
        try:
            check_everything(self._state)
        except InvariantViolation as broken:
            raise Violation("conservation", str(broken)) from None

    def _root_before(self, name: BlockHash) -> bytes:
        """The root on which `name` stands, when its layer is the next one or not there yet."""
        return self._blocks[name].header.parent_state_root if self._layers else self._state.root()

    def _move_to(self, target: BlockHash, height: int, keep: BlockHash | None = None) -> bool:
        """Roll back and execute until the state is the one after `target`; False when finality overtook it.

        A first layer called `keep` stays: it is the block that is final now, executed already.
        """
        if keep is not None and self._layers and self._layers[0].block_hash == keep:
            return target == self._final
        place = {layer.block_hash: at for at, layer in enumerate(self._layers)}
        path: list[BlockHash] = []
        while target != self._final and target not in place:
            block = self._blocks.get(target) or self.find_block(target)
            if block is None or height <= self.final_height:
                return False
            self._blocks[target] = block
            path.append(target)
            target, height = BlockHash(block.header.parent_hash), height - 1
        kept = place[target] + 1 if target in place else 0
        while len(self._layers) > kept:
            self._layers.pop()
            self._state.rollback_block()
        for name in reversed(path):
            self._layers.append(self._apply(name, self._blocks[name]))
        return True

    def _apply(self, name: BlockHash, block: Block) -> _Layer:
        self._state.begin_block()
        apply_block(self._state, BlockContext(block.header.height, block.header.time_ns), block.transactions)
        ids = [transaction_id(raw) for raw in block.transactions[1:]]
        return _Layer(name, self._state.changed_leaves(), ids)
