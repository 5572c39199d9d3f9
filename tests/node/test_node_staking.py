"""Whole nodes with stake: a validator leaves by transaction, and the others go on without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import trio

from ledger.staking.queries import get_delegations, get_validators
from ledger.transactions import Action, Delegate, LeaveValidatorSet, Transaction
from node.genesis import GenesisDocument
from node.genesis_defaults import default_staking
from primitives.amounts import USD
from primitives.signing import address_of
from tests.ledger.exchange import a_key, sign
from tests.node import network_of_nodes
from tests.node.network_of_nodes import Nodes, a_genesis, keys_of, running_nodes, sent_by

EPOCH_BLOCKS = 6


def with_short_epochs(validators: int = 4) -> GenesisDocument:
    """Epochs of six blocks."""
    genesis = a_genesis(validators)
    staking = msgspec.structs.replace(default_staking(genesis.validators), epoch_blocks=EPOCH_BLOCKS)
    ledger = msgspec.structs.replace(genesis.ledger, staking=staking)
    return msgspec.structs.replace(genesis, ledger=ledger)


def by_operator(nodes: Nodes, index: int, *actions: Action) -> bytes:
    """A validator's operator is the owner of its oracle key."""
    return sign(keys_of(index).oracle, Transaction(nodes.chain_id, 0, 0, actions))


async def wait_epoch(nodes: Nodes, number: int, seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while min(node.core.epoch.number for node, _, _ in nodes.running.values()) < number:  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_validator_leaves_and_the_rest_keep_their_places(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", with_short_epochs)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        leave = by_operator(nodes, 1, LeaveValidatorSet(1))
        assert [reply.reason for reply in await nodes[0].transactions.submit([leave])] == [""]
        await wait_epoch(nodes, 4)
        for node, _, _ in nodes.running.values():
            assert node.core.epoch.validators.weights == (1, 0, 1, 1)
            views = await node.ledger.read(get_validators)
            assert [(view.place, view.weight) for view in views] == [(0, 1), (None, 0), (2, 1), (3, 1)]
            assert not node.consensus.halted
        before = [view.missed_blocks for view in await nodes[0].ledger.read(get_validators)]
        await wait_epoch(nodes, 5)
        # Three of three must sign, each counted to its own place: nobody misses anything any more.
        assert [view.missed_blocks for view in await nodes[0].ledger.read(get_validators)] == before


async def test_validators_agree_on_how_late_leaders_are(tmp_path: Path, monkeypatch: Any) -> None:
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        counted: list[list[tuple[int, int]]] = []
        with trio.fail_after(20):
            while not counted or min(led for led, _ in counted[0]) == 0:
                await trio.sleep(0.05)
                counted = [
                    [
                        (view.led_proposals, view.leader_delay_ppm)
                        for view in await nodes[index].ledger.read(get_validators)
                    ]
                    for index in range(4)
                ]
        assert all(delay_ppm < 800_000 for _, delay_ppm in counted[0])


async def test_delegated_stake_moves_voting_power_in_an_epoch_to_come(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(network_of_nodes, "a_genesis", with_short_epochs)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        bond = sent_by("alice", nodes.chain_id, 0, Delegate(2, 500_000 * USD))
        assert [reply.reason for reply in await nodes[1].transactions.submit([bond])] == [""]
        await wait_epoch(nodes, 3)
        alice = (address_of(a_key("alice").public_key), 0)
        for node, _, _ in nodes.running.values():
            assert node.core.epoch.validators.weights == (2, 2, 3, 2)
            held = await node.ledger.read(lambda state: get_delegations(state, alice))
            assert [(item.validator, item.value_uusd) for item in held] == [(2, 500_000 * USD)]
