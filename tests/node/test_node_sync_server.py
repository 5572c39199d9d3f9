"""What a node answers to those who catch up: always something that proves itself, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.epoch import Epoch
from consensus.final_range import check_closing, check_final_header, check_range
from consensus.messages import Block
from gossip.network import FollowerId
from node.messages import TransactionBundle
from node.storage.snapshots import SnapshotFiles
from node.sync.messages import (
    Chunk,
    ChunkRequest,
    Range,
    RangeRequest,
    SnapshotOffers,
    SnapshotRequest,
    Taken,
    Tip,
    TipRequest,
    decode_reply,
)
from node.sync.server import SyncServer
from primitives.codec import Wire, decode_own, encode
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
from primitives.signing import is_valid
from testnet.bench.history import History
from tests.node.network_of_nodes import INDEX_UUSD, keys_of
from tests.node.test_node_sync import EPOCH_BLOCKS, a_short_epoch_genesis

BLOCKS = 40


class Served:
    """A history in two epochs, its server, and what was passed on to the mempool."""

    def __init__(self, data: Path) -> None:
        self.history = History(a_short_epoch_genesis(), [keys_of(i) for i in range(4)], data, INDEX_UUSD)
        self.epochs: list[Epoch] = [self.history.epoch]
        trio.run(self.history.grow, BLOCKS)
        self.epochs.append(self.history.epoch)
        self.bundles: list[TransactionBundle] = []
        self.server = SyncServer(
            self.history.store,
            self.history.epochs,
            SnapshotFiles(data / "snapshots"),
            EPOCH_BLOCKS,
            self.take,
        )

    async def take(self, bundle: TransactionBundle) -> None:
        self.bundles.append(bundle)

    async def ask(self, question: Wire, kind: type[Any]) -> Any:
        return decode_reply(kind, await self.server.answer(ValidatorIndex(3), encode(question)))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("served"))


def heights(answer: Range) -> list[int]:
    return [decode_own(Block, raw).header.height for raw in answer.blocks]


def proves(answer: Range, first: int, epoch: Epoch) -> bool:
    assert answer.proof is not None
    blocks = [decode_own(Block, raw) for raw in answer.blocks]
    return all(is_valid(*one) for one in check_range(blocks, answer.headers, answer.proof, first, epoch))


def only_proved_at(served: Served, monkeypatch: Any, *proved: int) -> None:
    store = served.history.store
    real = store.proof_at
    monkeypatch.setattr(store, "proof_at", lambda height: real(height) if height in proved else None)


async def test_a_range_ends_with_a_block_that_has_a_certificate(served: Served, monkeypatch: Any) -> None:
    only_proved_at(served, monkeypatch, 4, 7, 12)
    answer = await served.ask(RangeRequest(3, 6), Range)
    assert (heights(answer), answer.headers) == ([3, 4, 5, 6, 7], ())
    assert proves(answer, 3, served.epochs[0])


async def test_headers_lead_to_the_next_certificate_if_the_range_has_none(
    served: Served, monkeypatch: Any
) -> None:
    only_proved_at(served, monkeypatch, 12)
    answer = await served.ask(RangeRequest(3, 4), Range)
    assert heights(answer) == [3, 4, 5, 6]
    assert [header.height for header in answer.headers] == list(range(7, 13))
    assert proves(answer, 3, served.epochs[0])


async def test_a_range_does_not_cross_the_end_of_its_epoch(served: Served) -> None:
    answer = await served.ask(RangeRequest(EPOCH_BLOCKS - 2, 10), Range)
    assert heights(answer) == [EPOCH_BLOCKS - 2, EPOCH_BLOCKS - 1, EPOCH_BLOCKS]
    assert proves(answer, EPOCH_BLOCKS - 2, served.epochs[0])


async def test_the_proof_of_the_epochs_end_serves_its_last_range(served: Served, monkeypatch: Any) -> None:
    only_proved_at(served, monkeypatch)
    answer = await served.ask(RangeRequest(EPOCH_BLOCKS - 5, 3), Range)
    assert heights(answer) == [EPOCH_BLOCKS - 5, EPOCH_BLOCKS - 4, EPOCH_BLOCKS - 3]
    assert proves(answer, EPOCH_BLOCKS - 5, served.epochs[0])


async def test_what_is_not_proved_or_not_there_is_not_offered(served: Served, monkeypatch: Any) -> None:
    nothing = Range((), (), None)
    assert await served.ask(RangeRequest(BLOCKS + 1, 5), Range) == nothing
    assert await served.ask(RangeRequest(2**60, 64), Range) == nothing
    only_proved_at(served, monkeypatch)
    assert await served.ask(RangeRequest(EPOCH_BLOCKS + 2, 5), Range) == nothing


async def test_the_tip_comes_with_its_proof_and_a_past_epoch_with_the_proof_that_it_is_over(
    served: Served,
) -> None:
    tip = await served.ask(TipRequest(1), Tip)
    assert (tip.header.height, tip.closing) == (BLOCKS, None)
    checks = check_final_header(tip.header, tip.proof, served.epochs[1])
    past = await served.ask(TipRequest(0), Tip)
    assert (past.header, past.proof) == (None, None)
    assert past.closing.headers[0].height == EPOCH_BLOCKS
    checks += check_closing(past.closing, served.epochs[0])
    assert all(is_valid(*check) for check in checks)


async def test_orders_of_a_followers_clients_are_passed_on(served: Served) -> None:
    bundle = TransactionBundle((b"one", b"two"))
    assert await served.ask(bundle, Taken) == Taken(2)
    assert served.bundles == [bundle]


async def test_a_follower_that_passes_on_too_much_is_refused_and_others_are_not(served: Served) -> None:
    flood = TransactionBundle(tuple(b"%d" % number for number in range(500)))
    before = len(served.bundles)
    taken = [
        decode_reply(Taken, await served.server.answer(FollowerId("12D3flood"), encode(flood))).count
        for _ in range(3)
    ]
    assert taken == [500, 500, 0]
    assert await served.ask(TransactionBundle((b"one",)), Taken) == Taken(1)
    assert len(served.bundles) == before + 3


async def test_without_snapshots_none_is_offered(served: Served) -> None:
    assert await served.ask(SnapshotRequest(), SnapshotOffers) == SnapshotOffers(())
    assert await served.ask(ChunkRequest(bytes(32), 2**31), Chunk) == Chunk(b"")


@pytest.mark.parametrize("raw", [b"", b"\xff", encode(Taken(1)), encode(RangeRequest(1, 1)) + b"\0"])
async def test_what_is_no_question_is_refused(served: Served, raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await served.server.answer(ValidatorIndex(3), raw)
