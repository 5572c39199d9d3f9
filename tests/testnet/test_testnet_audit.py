"""After the run: real block stores, compared height by height."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from consensus.epoch import genesis_block
from consensus.messages import hash_of
from node.rpc.views import StatusView
from node.storage.block_store import BlockStore, FinalBlock
from primitives.codec import encode
from testnet.audit import Audit, audit_stores
from testnet.report import Divergence
from tests.node.network_of_nodes import a_block

CHAIN = bytes(32)
ROOT, OTHER_ROOT = b"\x01" * 32, b"\x02" * 32
ORDERS = tuple(bytes([number]) * 32 for number in range(3))


def final_block(height: int, *, root: bytes = ROOT, after: bytes = ROOT, view: int = 0) -> FinalBlock:
    """A block that holds one order; `root` is its parent's in the header, `after` its own in the status view."""
    block = a_block(CHAIN, bytes(32), height, (b"",), time_ns=height, root=root, view=view or height)
    block_hash = hash_of(block.header)
    return FinalBlock(
        *(height, block_hash, encode(block), b"", encode(())),
        transaction_ids=(ORDERS[height - 1],),
        views={"status": encode(StatusView(height, block_hash, after, height))},
    )


def a_store(path: Path, *blocks: FinalBlock) -> Path:
    store = BlockStore.open(path)
    genesis = genesis_block(CHAIN)
    store.commit(FinalBlock(0, hash_of(genesis.header), encode(genesis), b"", encode(())))
    for block in blocks:
        store.commit(block)
    store.close()
    return path


def audited(tmp_path: Path, *chains: list[FinalBlock], orders: int = 0) -> Audit:
    paths = [a_store(tmp_path / str(index), *chain) for index, chain in enumerate(chains)]
    return audit_stores(paths, [item.hex() for item in ORDERS[:orders]])


def test_equal_chains_agree_and_have_every_order(tmp_path: Path) -> None:
    chain = [final_block(1), final_block(2), final_block(3)]
    assert audited(tmp_path, chain, chain, chain, orders=3) == Audit({0: 3, 1: 3, 2: 3}, 3, [], {})


def test_only_common_heights_are_compared(tmp_path: Path) -> None:
    chain = [final_block(1), final_block(2), final_block(3)]
    audit = audited(tmp_path, chain, chain[:2])
    assert (audit.final_heights, audit.compared_heights, audit.divergences) == ({0: 3, 1: 2}, 2, [])


def test_an_acknowledged_order_that_one_chain_lacks_is_missing_there(tmp_path: Path) -> None:
    chain = [final_block(1), final_block(2)]
    audit = audited(tmp_path, chain, chain[:1], orders=2)
    assert audit.missing == {1: [ORDERS[1].hex()]}
    audit = audit_stores([tmp_path / "0", tmp_path / "1"], [ORDERS[2].hex()])
    assert audit.missing == {0: [ORDERS[2].hex()], 1: [ORDERS[2].hex()]}


def test_a_block_of_another_view_is_a_divergence_at_its_height(tmp_path: Path) -> None:
    one, other = final_block(2), final_block(2, view=9)
    audit = audited(tmp_path, [final_block(1), one], [final_block(1), other])
    assert audit.divergences == [Divergence(2, ((0, one.block_hash.hex()), (1, other.block_hash.hex())))]


def test_different_roots_after_the_last_block_are_found_where_no_header_has_them_yet(tmp_path: Path) -> None:
    audit = audited(tmp_path, [final_block(1)], [final_block(1, after=OTHER_ROOT)])
    assert audit.divergences == [Divergence(1, ((0, ROOT.hex()), (1, OTHER_ROOT.hex())))]


def test_a_store_that_lies_about_a_hash_is_found_by_the_root_in_its_block(tmp_path: Path) -> None:
    honest, liar = final_block(1), final_block(1, root=OTHER_ROOT)
    audit = audited(tmp_path, [honest], [replace(liar, block_hash=honest.block_hash, views=honest.views)])
    assert audit.divergences == [Divergence(0, ((-1, ROOT.hex()), (-1, OTHER_ROOT.hex())))]


def test_a_validator_without_a_store_is_at_height_zero_and_lacks_everything(tmp_path: Path) -> None:
    path = a_store(tmp_path / "0", final_block(1))
    audit = audit_stores([path, tmp_path / "never"], [ORDERS[0].hex()])
    assert (audit.compared_heights, audit.missing) == (0, {1: [ORDERS[0].hex()]})
    assert audit.final_heights[1] == 0
    assert not (tmp_path / "never").exists(), "looking changes nothing"


def test_an_audit_can_be_repeated(tmp_path: Path) -> None:
    chain = [final_block(1)]
    assert audited(tmp_path, chain, chain) == audit_stores([tmp_path / "0", tmp_path / "1"], [])


@pytest.mark.parametrize("count", [0, 1])
def test_nobody_or_one_alone_cannot_diverge(tmp_path: Path, count: int) -> None:
    assert audited(tmp_path, *[[final_block(1)]] * count).divergences == []
