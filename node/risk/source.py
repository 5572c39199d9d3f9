"""The ledger's state as a node has stored it. Reads a home directory; the node may be running."""

from __future__ import annotations

from pathlib import Path

from ledger.instruments import Instrument
from ledger.state import State
from node.config import load_config
from node.genesis import chain_id_of, load_genesis
from node.storage.block_store import BlockStore
from primitives.errors import OperatorError


def open_state(home: Path) -> State:
    """The state at the node's final tip, rebuilt from its leaves.

    Raises:
        OperatorError: no node's home, or nothing final is stored yet.
    """
    config = load_config(home)
    genesis = load_genesis(config.genesis_path)
    chain_id = chain_id_of(genesis)
    store = BlockStore.open(config.store_path, read_only=True, chain_id=chain_id)
    try:
        if store.tip() is None:
            raise OperatorError(f"the node of {home} has stored nothing yet: start it first")
        return State.from_leaves(chain_id, genesis.ledger, store.leaves())
    finally:
        store.close()


def find_instrument(state: State, name: str) -> Instrument:
    """A live instrument by its name, such as BTC-6FEB26-88000-P. Raises OperatorError."""
    wanted = name.upper()
    for item in state.instruments.values():
        if item.name == wanted:
            return item
    raise OperatorError(f"there is no instrument {name}: `quorate risk protocol` lists what is open")
