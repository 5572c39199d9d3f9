"""Ranges under one certificate: what is believed, and what an old validator set may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from consensus.certificates import SignatureCheck
from consensus.epoch import Epoch
from consensus.final_range import check_closing, check_final_header, check_range
from consensus.messages import Block, EpochProof, Header, QuorumCertificate
from consensus.validator_set import ValidatorSet
from primitives.codec import decode_own
from primitives.errors import ProtocolViolation
from primitives.signing import is_valid
from testnet.bench.history import History
from tests.node.network_of_nodes import INDEX_UUSD, a_genesis, keys_of

BLOCKS = 12


class Chain:
    """The first epoch of a real history."""

    def __init__(self, data: Path) -> None:
        history = History(a_genesis(), [keys_of(i) for i in range(4)], data, INDEX_UUSD)
        trio.run(history.grow, BLOCKS)
        self.epoch: Epoch = history.epoch
        store = history.store
        heights = range(1, BLOCKS + 1)
        self.blocks = [decode_own(Block, store.block_at(at) or b"") for at in heights]
        self.proofs = [decode_own(QuorumCertificate, store.proof_at(at) or b"") for at in heights]
        store.close()

    def headers(self, first: int, last: int) -> list[Header]:
        return [block.header for block in self.blocks[first - 1 : last]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


def are_valid(checks: list[SignatureCheck]) -> bool:
    return all(is_valid(*check) for check in checks)


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.reason.value


def test_one_certificate_proves_all_blocks_below_it(chain: Chain) -> None:
    checks = check_range(chain.blocks[2:9], (), chain.proofs[8], 3, chain.epoch)
    assert len(checks) == 4
    assert are_valid(checks)


def test_headers_may_lead_to_a_certificate_further_up(chain: Chain) -> None:
    checks = check_range(chain.blocks[2:6], chain.headers(7, 10), chain.proofs[9], 3, chain.epoch)
    assert are_valid(checks)


def test_a_range_of_other_heights_is_refused(chain: Chain) -> None:
    assert refused(check_range, chain.blocks[2:9], (), chain.proofs[8], 4, chain.epoch) == "not_linked"


def test_a_missing_block_is_noticed(chain: Chain) -> None:
    holed = [*chain.blocks[2:4], *chain.blocks[5:9]]
    assert refused(check_range, holed, (), chain.proofs[8], 3, chain.epoch) == "not_linked"


def test_a_certificate_for_another_block_proves_nothing(chain: Chain) -> None:
    assert refused(check_range, chain.blocks[2:8], (), chain.proofs[8], 3, chain.epoch) == "unproved"


def test_a_tip_of_a_great_height_is_not_believed(chain: Chain) -> None:
    far = msgspec.structs.replace(chain.blocks[-1].header, height=2**40)
    assert refused(check_final_header, far, chain.proofs[-1], chain.epoch) == "unproved"


def test_what_an_old_validator_set_signs_for_a_later_epoch_does_not_verify(chain: Chain) -> None:
    """Long range: who once had the keys of the first epoch's validators signs a history of his own with them."""
    keys = tuple(keys_of(index + 10).consensus.public_key for index in range(4))
    today = replace(chain.epoch, validators=ValidatorSet(keys, (1,) * 4))
    checks = check_range(chain.blocks, (), chain.proofs[-1], 1, today)
    assert not are_valid(checks)


def test_a_range_of_an_old_epoch_is_none_of_a_later_one(chain: Chain) -> None:
    later = replace(chain.epoch, number=5)
    assert refused(check_range, chain.blocks, (), chain.proofs[-1], 1, later) == "wrong_epoch"


def test_an_epoch_is_not_over_because_a_block_in_its_middle_is_final(chain: Chain) -> None:
    proof = EpochProof((chain.blocks[4].header,), chain.proofs[4])
    assert refused(check_closing, proof, chain.epoch) == "not_closed"
