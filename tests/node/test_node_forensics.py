"""`quorate forensics` on real forks in a later epoch: from homes, files and real gateways, and the proof offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from consensus.effects import EpochOpened
from consensus.messages import hash_of
from node import forensics_commands as forensics
from node.config import NodeConfig, load_config
from node.genesis import GenesisDocument, chain_id_of, save_genesis
from node.home import create_homes
from node.rpc.supervisor import GatewayProcess
from node.shown_chains import ChainFile, opened_chain
from node.storage.block_store import BlockStore, FinalBlock
from node.storage.epoch_files import EpochFiles
from primitives.codec import encode
from primitives.errors import OperatorError
from testnet.sim import simulation as simulated
from testnet.sim.campaign import quiet
from testnet.sim.signers import KeyRing
from testnet.sim.simulation import Simulation
from testnet.sim.stores import FinalStore
from testnet.sim.swarm import Wishes, draw_plan
from tests.node.network_of_nodes import keys_of
from tests.node.test_node_epochs import a_staking_genesis
from tests.simulation import forging


@dataclass(frozen=True)
class Forked:
    """Two homes whose stores hold conflicting chains of one genesis."""

    genesis: Path
    homes: tuple[Path, Path]
    height: int
    traitors: frozenset[int]

    def judge(self, one: object, other: object, output: Path | None = None) -> int:
        return forensics.culprits(str(one), str(other), genesis=self.genesis, output=output)


def a_genesis_of(keys: list[bytes], epoch_blocks: int = 6) -> GenesisDocument:
    """With these consensus keys."""
    genesis = a_staking_genesis()
    entries = tuple(
        replace(one, consensus_key=key) for one, key in zip(genesis.validators, keys, strict=True)
    )
    staking = genesis.ledger.staking
    stakes = tuple(replace(one, consensus_key=key) for one, key in zip(staking.validators, keys, strict=True))
    staking = replace(staking, validators=stakes, epoch_blocks=epoch_blocks)
    ledger = replace(genesis.ledger, staking=staking)
    return replace(genesis, validators=entries, ledger=ledger)


def a_fork_in_a_later_epoch(seed: int) -> tuple[GenesisDocument, Simulation] | None:
    """The run of a seed, on the chain of a genesis of its own, if colluders fork it after an epoch has passed."""
    plan = draw_plan(seed, Wishes(validators=4, hostile_ms=6_000, over_threshold=True))
    genesis = a_genesis_of([signer.public_key for signer in KeyRing(seed, 4, "ed25519").signers])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "CHAIN_ID", chain_id_of(genesis))
        simulation = Simulation(replace(plan, signatures="ed25519", epoch_blocks=6))
        simulation.run()
    return (genesis, simulation) if simulation.sometimes["fork in a later epoch"] else None


def fill(config: NodeConfig, chain: FinalStore) -> None:
    """Put a simulated validator's final blocks and epochs into a home."""
    store, epochs = BlockStore.open(config.store_path), EpochFiles(config.data_path / "epochs")
    store.commit(FinalBlock(0, bytes(32), b"", b"", encode(()), leaves=()))
    for height, block in enumerate(chain.blocks, 1):
        proof = chain.proofs.get(height)
        raw_proof = b"" if proof is None else encode(proof)
        name = hash_of(block.header)
        store.commit(FinalBlock(height, name, encode(block), raw_proof, encode(()), leaves=()))
    store.close()
    for opened, closing in chain.opened:
        epochs.keep(EpochOpened(opened, closing))


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    quiet()
    path = tmp_path_factory.mktemp("forked")
    genesis, simulation = next(run for seed in range(1, 500) if (run := a_fork_in_a_later_epoch(seed)))
    homes = path / "left", path / "right"
    settings = [{"gateway": {"port": 0}, "log_file": "node.log"} for _ in homes]
    addresses = [("127.0.0.1", 1_000 + place) for place in range(4)]
    create_homes(list(homes), [keys_of(0), keys_of(1)], genesis, addresses, password=None, settings=settings)
    height = simulation.chain.forked_at or 0
    branches = {}
    for validator in simulation.validators:
        if validator.is_honest and len(validator.store.blocks) >= height:
            branches.setdefault(hash_of(validator.store.block(height).header), validator.store)
    for home, branch in zip(homes, branches.values(), strict=True):
        fill(load_config(home), branch)
    yield Forked(load_config(homes[0]).genesis_path, homes, height, simulation.plan.traitor_set)


def check_names(text: str, forked: Forked) -> None:
    """At least f + 1 of the traitors, and nobody else."""
    named = {int(line.split()[1]) for line in text.splitlines() if line.startswith("validator ")}
    assert len(named) >= 2 and named <= forked.traitors
    assert f"the chains part at height {forked.height}, in epoch {(forked.height - 1) // 6}" in text


def test_homes_are_compared_and_the_proof_stands_offline(
    forked: Forked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "proof"
    assert forked.judge(*forked.homes, proof) == 1
    check_names(capsys.readouterr().out, forked)
    assert forensics.verify(proof, genesis=forked.genesis) == 0
    assert "stands: validator" in capsys.readouterr().out


def test_exported_files_say_what_the_homes_say(
    forked: Forked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / home.name for home in forked.homes]
    for home, file in zip(forked.homes, files, strict=True):
        forensics.export(str(home), output=file)
    capsys.readouterr()
    assert forked.judge(files[0], forked.homes[1]) == 1
    check_names(capsys.readouterr().out, forked)
    assert forked.judge(files[0], forked.homes[0]) == 0


async def test_two_gateways_are_enough_to_name_the_guilty(
    forked: Forked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = tmp_path / "proof"
    gateways = [GatewayProcess(load_config(home)) for home in forked.homes]
    urls = [f"http://127.0.0.1:{gateway.port}" for gateway in gateways]
    async with trio.open_nursery() as nursery:
        for gateway in gateways:
            nursery.start_soon(gateway.run)
        # The listening sockets are bound already: the first request waits for the process.
        assert await trio.to_thread.run_sync(lambda: forked.judge(*urls, proof)) == 1
        check_names(capsys.readouterr().out, forked)
        exported = tmp_path / "exported"
        await trio.to_thread.run_sync(lambda: forensics.export(urls[0], output=exported))
        with opened_chain(str(exported)) as file, opened_chain(str(forked.homes[0])) as home:
            assert file.heights() == home.heights()
            assert [file.step(epoch) for epoch in range(9)] == [home.step(epoch) for epoch in range(9)]
        assert await trio.to_thread.run_sync(lambda: forked.judge(urls[1], forked.homes[1])) == 0
        nursery.cancel_scope.cancel()
    assert forensics.verify(proof, genesis=forked.genesis) == 0


def test_a_last_block_of_an_epoch_that_only_suffix_blocks_make_final_names_the_guilty_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genesis = a_genesis_of([key.public_key for key in forging.KEYS], epoch_blocks=1)
    save_genesis(genesis, tmp_path / "genesis.json")
    epoch = forensics._first_epoch(genesis)
    files = []
    for name, shown in (
        ("direct", forging.directly(3, epoch)),
        ("indirect", forging.through_suffix(1, 4, epoch)),
    ):
        step, proof = shown.step(0), shown.proof_at(1)
        assert step is not None
        file = ChainFile((shown.block(1),), () if proof is None else (proof,), (step,))
        files.append(tmp_path / name)
        files[-1].write_bytes(encode(file))
    paths = [str(file) for file in files]
    proof_path = tmp_path / "proof"
    assert forensics.culprits(*paths, genesis=tmp_path / "genesis.json", output=proof_path) == 1
    said = capsys.readouterr().out
    assert "the chains part at height 1, in epoch 0" in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("validator ")] == ["0", "1"]
    assert forensics.verify(proof_path, genesis=tmp_path / "genesis.json") == 0


def broken_proofs() -> list[tuple[str, Callable[[forensics.ProofFile], forensics.ProofFile], str]]:
    """A name, what is changed in a proof file, and what verify says."""

    def without_steps(file: forensics.ProofFile) -> forensics.ProofFile:
        return replace(file, steps=())

    def other_set(file: forensics.ProofFile) -> forensics.ProofFile:
        members = replace(file.steps[0].validators, final_weight=3)
        return replace(file, steps=(replace(file.steps[0], validators=members), *file.steps[1:]))

    return [
        ("steps", without_steps, "epoch"),
        ("set", other_set, "the boundary names another next set"),
    ]


@pytest.mark.parametrize(("name", "change", "word"), broken_proofs(), ids=lambda value: str(value)[:8])
def test_a_changed_proof_does_not_stand(
    forked: Forked,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[forensics.ProofFile], forensics.ProofFile],
    word: str,
) -> None:
    proof = tmp_path / name
    forked.judge(*forked.homes, proof)
    file = forensics.read_wire(forensics.ProofFile, proof)
    proof.write_bytes(encode(change(file)))
    capsys.readouterr()
    assert forensics.verify(proof, genesis=forked.genesis) == 1
    said = capsys.readouterr().out
    assert "does not stand" in said and word in said


def test_what_is_no_chain_is_one_clear_sentence(forked: Forked, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"noise")
    with pytest.raises(OperatorError, match="is not a file of this kind"):
        forked.judge(tmp_path / "noise", forked.homes[0])
    with pytest.raises(OperatorError, match="does not answer"):
        forked.judge("http://127.0.0.1:1", forked.homes[0])
    with pytest.raises(OperatorError, match="cannot read"):
        forked.judge(tmp_path / "nothing", forked.homes[0])
