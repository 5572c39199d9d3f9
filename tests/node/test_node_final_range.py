"""Ranges under one certificate: what is believed, and what an old validator set may say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace as replace_struct

from consensus.certificates import SignatureCheck
from consensus.effects import DeliverFinal, Effect, Halt, Send
from consensus.epoch import Epoch
from consensus.epochs import EpochManager
from consensus.final_range import check_closing, check_final_header, check_range
from consensus.inputs import BlocksProved, MessageReceived, Started, TimerFired, TimerKind
from consensus.messages import (
    Block,
    BlockRequest,
    CertificateMessage,
    EpochProof,
    Header,
    QuorumCertificate,
)
from consensus.state import CoreConfig
from consensus.validator_set import ValidatorSet
from node.genesis import chain_id_of
from primitives.codec import decode_own
from primitives.errors import ProtocolViolation
from primitives.identifiers import ValidatorIndex
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


def test_a_body_that_is_not_its_headers_is_refused(chain: Chain) -> None:
    block = chain.blocks[8]
    gift = replace_struct(block, transactions=(*block.transactions, b"a gift"))
    bare = replace_struct(block, justification=replace_struct(block.justification, parent=None))
    for forged in (gift, bare):
        blocks = [*chain.blocks[2:8], forged]
        assert refused(check_range, blocks, (), chain.proofs[8], 3, chain.epoch) == "wrong_root"


def test_a_changed_header_breaks_the_chain(chain: Chain) -> None:
    header = replace_struct(chain.blocks[2].header, parent_state_root=bytes(32))
    blocks = [replace_struct(chain.blocks[2], header=header), *chain.blocks[3:9]]
    assert refused(check_range, blocks, (), chain.proofs[8], 3, chain.epoch) == "not_linked"


def test_a_certificate_of_too_few_proves_nothing(chain: Chain) -> None:
    proof = chain.proofs[8]
    few = replace_struct(proof, signers=proof.signers[:2], signatures=proof.signatures[:2])
    assert refused(check_range, chain.blocks[2:9], (), few, 3, chain.epoch) == "below_quorum"


def test_a_certificate_for_another_block_proves_nothing(chain: Chain) -> None:
    assert refused(check_range, chain.blocks[2:8], (), chain.proofs[8], 3, chain.epoch) == "unproved"


def test_a_tip_of_a_great_height_is_not_believed(chain: Chain) -> None:
    far = replace_struct(chain.blocks[-1].header, height=2**40)
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
    proof = EpochProof((chain.blocks[4].header,), chain.proofs[4], ())
    assert refused(check_closing, proof, chain.epoch) == "not_closed"


# --- what the core makes of a checked range ---


def a_core(chain: Chain) -> EpochManager:
    """An observer at genesis."""
    config = CoreConfig(chain_id_of(a_genesis()), chain.epoch.validators, own_index=None)
    core = EpochManager(config, keys_of(9).consensus)
    core.step(Started())
    return core


def given(core: EpochManager, chain: Chain, first: int, last: int) -> list[Effect]:
    return core.step(BlocksProved(tuple(chain.blocks[first - 1 : last]), chain.proofs[last - 1]))


def delivered(effects: list[Effect]) -> list[int]:
    return [
        block.header.height
        for effect in effects
        if isinstance(effect, DeliverFinal)
        for block in effect.blocks
    ]


def test_a_range_on_the_final_tip_is_delivered_with_its_proof(chain: Chain) -> None:
    core = a_core(chain)
    effects = given(core, chain, 1, 5)
    assert [effect for effect in effects if isinstance(effect, DeliverFinal)] == [
        DeliverFinal(tuple(chain.blocks[:5]), chain.proofs[4])
    ]
    assert (core.final_height, core.is_halted) == (5, False)


def test_only_what_is_new_of_an_overlapping_range_is_delivered(chain: Chain) -> None:
    core = a_core(chain)
    given(core, chain, 1, 5)
    assert delivered(given(core, chain, 3, 8)) == [6, 7, 8]
    assert delivered(given(core, chain, 2, 7)) == []


def test_a_range_above_a_gap_is_dropped_and_may_come_again(chain: Chain) -> None:
    core = a_core(chain)
    assert delivered(given(core, chain, 4, 8)) == []
    assert delivered(given(core, chain, 1, 3)) == [1, 2, 3]
    assert delivered(given(core, chain, 4, 8)) == [4, 5, 6, 7, 8]


def test_a_target_reached_by_ranges_is_asked_for_no_more(chain: Chain) -> None:
    core = a_core(chain)
    asked = core.step(MessageReceived(ValidatorIndex(0), CertificateMessage(chain.proofs[8])))
    assert BlockRequest in {type(effect.message) for effect in asked if isinstance(effect, Send)}
    given(core, chain, 1, 9)
    effects = core.step(TimerFired(TimerKind.RETRY, core.view))
    assert BlockRequest not in {type(effect.message) for effect in effects if isinstance(effect, Send)}
    assert core.final_height == 9


def test_two_histories_that_are_both_proved_halt_the_core(chain: Chain) -> None:
    core = a_core(chain)
    given(core, chain, 1, 5)
    header = replace_struct(chain.blocks[5].header, parent_hash=b"\x07" * 32)
    other = replace_struct(chain.blocks[5], header=header)
    effects = core.step(BlocksProved((other,), chain.proofs[5]))
    assert [effect.reason for effect in effects if isinstance(effect, Halt)] == ["conflicting_finality"]
    assert (core.is_halted, core.final_height) == (True, 5)


def test_a_range_of_another_epoch_is_dropped(chain: Chain) -> None:
    core = a_core(chain)
    header = replace_struct(chain.blocks[0].header, epoch=4)
    other = replace_struct(chain.blocks[0], header=header)
    assert delivered(core.step(BlocksProved((other,), chain.proofs[0]))) == []
    assert not core.is_halted


def test_blocks_under_a_descendants_proof_are_final_as_well(chain: Chain) -> None:
    core = a_core(chain)
    effects = core.step(BlocksProved(tuple(chain.blocks[:4]), chain.proofs[7]))
    assert delivered(effects) == [1, 2, 3, 4]
    assert delivered(given(core, chain, 5, 8)) == [5, 6, 7, 8]
