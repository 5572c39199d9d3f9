"""The process that simulates for the gateway: reads the block store, answers on standard output. LMDB, pipes.

Apart, so that a heavy question neither holds up the gateway's clients nor survives being killed. It builds the part
of the state that a simulation needs once for each final block: everything but the accounts and their stake, and of
the accounts those with resting orders; the one that is asked about is added.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from ledger.matching.book import Book
from ledger.matching.orders import AccountKey
from ledger.prices import get_prices
from ledger.simulation import MarginNow, Simulation, simulate
from ledger.state import State
from ledger.state_keys import account_key
from ledger.trading.state import trading_key
from ledger.transactions import MarginModel
from node.config import NodeConfig
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.rpc.answers import ActionOutcome, MarginPicture, SimulateAnswer
from node.rpc.protocol import LENGTH_BYTES, frame
from node.rpc.reasons import GatewayReason
from node.rpc.simulation_call import SimulateCall, SimulateReply
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from primitives.errors import OperatorError, ProtocolViolation

NICENESS = 5
"""Beside the gateway's own."""
READINGS_MAX = 20
"""A block may come between two looks at the store: begin again, so often at most."""
_WITHOUT = {b"a", b"k", b"q"}
"""First bytes of leaves that are many: accounts, stake, and what accounts keep for trading."""


class Simulator:
    """Holds the state of the newest final block, as far as simulations need it."""

    def __init__(self, store: BlockStore, genesis: GenesisDocument) -> None:
        self._store = store
        self._genesis = genesis
        self._chain_id = chain_id_of(genesis)
        self._held: State | None = None
        self._known: set[AccountKey] = set()

    def answer(self, call: SimulateCall) -> SimulateReply:
        """Never raises what a client could cause."""
        key = call.owner, call.subaccount
        try:
            state = self._state_with(key)
            outcome = simulate(state, key, call.actions)
        except ProtocolViolation as violation:
            return SimulateReply(None, violation.reason.value, violation.detail)
        return SimulateReply(_answer_of(state, len(call.actions), outcome), "", "")

    def _state_with(self, key: AccountKey) -> State:
        for _ in range(READINGS_MAX):
            tip = self._store.tip()
            if tip is None:
                break
            if self._held is None or self._held.clock.height != tip.height:
                self._held = None
                self._build()
            if self._held is not None:
                missing = {} if key in self._known else dict(self._account_leaves([key]))
                if self._store.tip() == tip:
                    self._add(self._held, missing, key)
                    return self._held
                self._held = None
        raise ProtocolViolation(GatewayReason.BUSY, "no final block stood still: ask again")

    def _build(self) -> None:
        leaves = dict(self._common_leaves())
        books = [decode_own(Book, raw) for prefix, raw in leaves.items() if prefix[:1] == b"b"]
        makers = {order.account for book in books for order in (*book.bids, *book.asks)}
        leaves |= dict(self._account_leaves(sorted(makers)))
        state = State.from_leaves(self._chain_id, self._genesis.ledger, sorted(leaves.items()))
        tip = self._store.tip()
        if tip is not None and state.clock.height == tip.height:
            self._held, self._known = state, makers
            get_prices(state)

    def _common_leaves(self) -> Iterator[tuple[bytes, bytes]]:
        for first in range(256):
            prefix = bytes((first,))
            if prefix not in _WITHOUT:
                yield from self._store.leaves(prefix)
        for second in range(256):
            if second != ord("a"):
                yield from self._store.leaves(bytes((ord("q"), second)))

    def _account_leaves(self, keys: list[AccountKey]) -> Iterator[tuple[bytes, bytes]]:
        for key in keys:
            for leaf_key in (account_key(key), trading_key(key)):
                raw = self._store.leaf(leaf_key)
                if raw is not None:
                    yield leaf_key, raw

    def _add(self, state: State, leaves: dict[bytes, bytes], key: AccountKey) -> None:
        """An account that nobody has asked about before joins the state."""
        joined = State.from_leaves(self._chain_id, self._genesis.ledger, leaves.items())
        account = joined.account(key)
        if account is not None:
            state.put_account(account)
        if trading_key(key) in leaves:
            state.put_trading(key, joined.leaves.get(trading_key(key)))
        self._known.add(key)


def _answer_of(state: State, count: int, outcome: Simulation) -> SimulateAnswer:
    actions = []
    for index in range(count):
        refused = outcome.refused.get(index)
        reason, detail = ("", "") if refused is None else (refused.reason, refused.detail)
        actions.append(ActionOutcome(index=index, accepted=refused is None, reason=reason, detail=detail))
    return SimulateAnswer(
        height=state.clock.height,
        before=_picture(outcome.before),
        after=_picture(outcome.after),
        actions=tuple(actions),
        events=outcome.events,
    )


def _picture(margin: MarginNow) -> MarginPicture:
    values = margin._asdict()
    values["model"] = MarginModel(margin.model).name.lower()
    return MarginPicture(
        **values,
        im_requirement_uusd=margin.equity_uusd - margin.im_excess_uusd,
        mm_requirement_uusd=margin.equity_uusd - margin.mm_excess_uusd,
    )


def _frames(source: BinaryIO) -> Iterator[bytes]:
    while len(head := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
        yield source.read(int.from_bytes(head, "big"))


def main() -> int:
    """Answer one question after another until standard input ends; its first line is the configuration."""
    try:
        os.nice(NICENESS)
        config = msgspec.json.decode(sys.stdin.buffer.readline(), type=NodeConfig)
        simulator = Simulator(
            BlockStore.open(config.store_path, read_only=True), load_genesis(config.genesis_path)
        )
        for raw in _frames(sys.stdin.buffer):
            reply = simulator.answer(decode_own(SimulateCall, raw))
            sys.stdout.buffer.write(frame(reply))
            sys.stdout.buffer.flush()
    except OperatorError as error:
        print(f"quorate gateway: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
