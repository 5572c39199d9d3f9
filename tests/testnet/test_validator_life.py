"""A validator's life as docs/operators.md tells it, with real processes: follow, fund, bond, join, vote, report, rotate
its key, unbond, leave. Every step is a `quorate` command; the timings are printed (pytest -s)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consensus.messages import Block, QuorumCertificate
from ledger.oracle import decode_update
from ledger.transactions import OracleReport
from node.config import PeerAddress
from node.genesis import GenesisDocument, save_genesis
from node.genesis_defaults import trial_staking
from node.home import config_toml
from node.storage.block_store import BlockStore
from primitives.codec import decode_own
from testnet.plan import Plan
from testnet.processes import Process, free_ports
from testnet.setup import Layout, create
from testnet.signatures import double_signed

pytestmark = pytest.mark.slow

PLACE = 4
"""That of the newcomer: the first after the four of genesis."""
EPOCH_BLOCKS = 40
STAKE, CASH = 600_000, 700_000


class Network:
    """Four validators, a market, and a newcomer's commands."""

    def __init__(self, home: Path) -> None:
        plan = Plan(validators=4, seconds=900, speed=1, traders=4, min_block_ms=50, view=False)
        self.layout: Layout = create(plan, home)
        self.genesis = with_trial_staking(self.layout)
        self.home = home
        self.mine = home / "mine"
        self.url = f"http://127.0.0.1:{self.layout.gateway_ports[0]}"
        self.nodes = [node_process(path) for path in self.layout.node_homes]
        self.newcomer = node_process(self.mine)
        arguments = ["-m", "testnet.market", str(self.layout.market_config)]
        self.market = Process("market", arguments, home / "market.log")
        self.began = time.monotonic()

    def quorate(self, *arguments: str, key: str = "") -> str:
        """Output of one command that must succeed."""
        options = ["--key", str(self.home / key), "--node", self.url] if key else []
        command = [sys.executable, "-m", "node", *arguments, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def ask(self, path: str, url: str = "") -> Any:
        """A gateway's answer; None while it gives none."""
        try:
            with urllib.request.urlopen((url or self.url) + path, timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return None

    @property
    def own_url(self) -> str:
        """The newcomer's gateway."""
        return f"http://127.0.0.1:{settings_of(self.mine)['gateway']['port']}"

    def standing(self) -> dict[str, Any]:
        """What the chain says of the newcomer."""
        answer = self.ask("/v1/validators")
        found: dict[str, Any] = answer["validators"][PLACE]
        return found

    def until(self, what: str, is_so: Callable[[], bool], seconds: float = 600) -> None:
        """Wait, and say when it was so."""
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: {self.last_words()}"
            time.sleep(0.3)
        self.tell(what)

    def tell(self, what: str) -> None:
        """For the reader of pytest -s."""
        print(f"{time.monotonic() - self.began:7.1f} s  {what}")

    def last_words(self) -> str:
        """Of every process."""
        return "\n".join(f"{one.name}: {one.log_tail()}" for one in (*self.nodes, self.newcomer))

    def restart(self, process: Process, home: Path) -> None:
        """Stop it, start it, and wait until it follows the chain again."""
        stop(process)
        process.start()
        port = settings_of(home)["gateway"]["port"]
        wanted = self.height() + 5

        def is_back() -> bool:
            assert process.pid is not None, process.log_tail()
            status = self.ask("/v1/status", f"http://127.0.0.1:{port}") or {}
            return bool(status.get("final_height", 0) >= wanted)

        self.until(f"{process.name} is back", is_back)

    def height(self) -> int:
        """The highest final height that any of the four tells."""
        heights: list[int] = [
            (self.ask("/v1/status", f"http://127.0.0.1:{port}") or {}).get("final_height", 0)
            for port in self.layout.gateway_ports
        ]
        return max(heights)

    def met(self) -> list[list[int]]:
        """Whom each of the four is connected to."""
        answers = [self.ask("/v1/status", f"http://127.0.0.1:{port}") for port in self.layout.gateway_ports]
        return [
            [peer["index"] for peer in (one or {}).get("peers", ()) if peer["connected"]] for one in answers
        ]

    def stored(self, height: int) -> Iterator[tuple[Block, QuorumCertificate]]:
        """Final blocks above a height that have their own proof, from the first validator's store."""
        store = BlockStore.open(self.layout.node_homes[0] / "data" / "blocks", read_only=True)
        tip = store.tip()
        for number in range(height + 1, 0 if tip is None else tip.height + 1):
            raw, proof = store.block_at(number), store.proof_at(number)
            if raw and proof:
                yield decode_own(Block, raw), decode_own(QuorumCertificate, proof)
        store.close()

    def votes_above(self, height: int) -> bool:
        """Whether the newcomer's vote stands in a finality proof."""
        return any(PLACE in proof.signers for _, proof in self.stored(height))

    def reports_above(self, height: int) -> bool:
        """Whether the newcomer's prices stand in a block."""
        return any(
            decode_own(OracleReport, report.payload).reporter == PLACE
            for block, _ in self.stored(height)
            for report in decode_update(block.transactions[0]).reports
        )


def node_process(home: Path) -> Process:
    return Process(home.name, ["-m", "node", "start", "--home", str(home)], home.parent / f"{home.name}.log")


def stop(process: Process) -> None:
    process.terminate()
    deadline = time.monotonic() + 20
    while process.pid is not None:
        assert time.monotonic() < deadline, f"{process.name} does not end"
        time.sleep(0.05)


def settings_of(home: Path) -> dict[str, Any]:
    return tomllib.loads((home / "node.toml").read_text())


def change_settings(home: Path, change: dict[str, Any]) -> None:
    """Edit node.toml, as its operator would."""
    settings = settings_of(home)
    peers = [PeerAddress(**peer) for peer in settings.pop("peers")]
    (home / "node.toml").write_text(config_toml({**settings, **change}, peers))


def with_trial_staking(layout: Layout) -> GenesisDocument:
    """The testnet's genesis with the staking of `quorate init --trial`, and epochs that end even on a busy machine."""
    genesis = layout.genesis
    staking = msgspec.structs.replace(trial_staking(genesis.validators), epoch_blocks=EPOCH_BLOCKS)
    ledger = msgspec.structs.replace(genesis.ledger, staking=staking)
    genesis = msgspec.structs.replace(genesis, ledger=ledger)
    for home in layout.node_homes:
        (home / "genesis.json").unlink()
        save_genesis(genesis, home / "genesis.json")
    return genesis


@contextmanager
def running(home: Path) -> Iterator[Network]:
    network = Network(home)
    processes = [network.market, *network.nodes]
    try:
        for process in processes:
            process.start()
        network.until("four validators are final", lambda: network.height() > 3)
        yield network
    finally:
        for process in (*processes, network.newcomer):
            process.kill()


def test_a_validator_comes_and_goes_by_the_operators_guide(tmp_path: Path) -> None:
    with running(tmp_path) as network:
        follow_and_fund(network)
        join(network)
        rotate(network)
        leave(network)
        homes = [*network.layout.node_homes, network.mine]
        for process in (*network.nodes, network.newcomer):
            stop(process)
        broken, compared = double_signed(homes)
        network.tell(f"{compared} signatures compared")
        assert (broken, compared > 1_000) == ([], True)


def follow_and_fund(network: Network) -> None:
    """Make a home that knows one validator, and follow the chain; open the operator's account; register with stake."""
    settings = [settings_of(home) for home in network.layout.node_homes]
    peers = [f"127.0.0.1:{settings[0]['listen']['port']}"]
    listen, gateway = free_ports(2)
    made = network.quorate(
        *("init-validator", "--home", str(network.mine), "--insecure-keys", "--peers", *peers),
        *("--genesis", str(network.layout.node_homes[0] / "genesis.json")),
        *("--listen-port", str(listen), "--gateway-port", str(gateway)),
    )
    assert "it follows the chain until node.toml names its place" in made
    shared = {name: settings[0][name] for name in ("market_clock", "oracle", "venues")}
    change_settings(network.mine, shared)
    network.newcomer.start()
    network.until(
        "the newcomer follows",
        lambda: (
            (network.ask("/v1/status", network.own_url) or {}).get("final_height", 0) >= network.height() - 5
        ),
    )
    address = network.quorate("account", "create", "--insecure", "--key", str(network.home / "operator.json"))
    network.quorate("account", "deposit", address.strip(), str(CASH), key="custodian.json")
    bonded = network.quorate(
        "validator", "bond", str(STAKE), "--home", str(network.mine), key="operator.json"
    )
    assert f"validator {PLACE} has a stake of {STAKE:,}.00" in bonded
    network.tell("bonded")


def join(network: Network) -> None:
    """Announce the address, attest readiness; once the place is known, restart as a validator; vote and report."""
    told = network.quorate("validator", "announce", "--home", str(network.mine), key="operator.json")
    own = settings_of(network.mine)["listen"]
    assert f"/ip4/{own['host']}/tcp/{own['port']}" in told
    network.quorate("validator", "join", "--no-wait", key="operator.json")
    network.tell("readiness attested")

    def is_decided() -> bool:
        # By its own node, which would refuse a place that it does not know of yet.
        answer = network.ask("/v1/validators", network.own_url)
        return answer is not None and any(one["place"] == PLACE for one in answer["next_set"]["members"])

    network.until("in the next set", is_decided)
    change_settings(network.mine, {"index": PLACE})
    network.restart(network.newcomer, network.mine)
    network.until("all four have met it", lambda: all(PLACE in met for met in network.met()))
    said = network.quorate("validator", "join", key="operator.json")
    assert f"votes at place {PLACE}" in said
    height = network.height()
    network.until("its vote is in a finality proof", lambda: network.votes_above(height))
    network.until("its prices are in a block", lambda: network.reports_above(height))
    status = network.ask("/v1/status", network.own_url)
    assert (status["index"], status["observer"], status["halted"]) == (PLACE, "", "")


def rotate(network: Network) -> None:
    """Other consensus and network keys: one restart, a transaction for each."""
    old = network.standing()["consensus_key"]
    stop(network.newcomer)
    network.quorate("keys", "new-consensus", "--home", str(network.mine))
    network.quorate("keys", "new-network", "--home", str(network.mine))
    peer_id = network.standing()["peer_id"]
    network.quorate("validator", "announce", "--home", str(network.mine), key="operator.json")
    assert network.standing()["peer_id"] != peer_id
    network.newcomer.start()
    network.until("all four have met its new key", lambda: all(PLACE in met for met in network.met()))
    said = network.quorate("validator", "rotate-key", "--home", str(network.mine), key="operator.json")
    assert "keep both keys until then" in said
    epoch = network.ask("/v1/validators")["epoch"]
    network.until("the epoch of the new key", lambda: network.ask("/v1/validators")["epoch"] >= epoch + 2)
    new = network.standing()["consensus_key"]
    members = network.ask("/v1/validators")["set"]["members"]
    assert [one["consensus_key"] for one in members if one["place"] == PLACE] == [new]
    assert new != old
    height = network.height()
    network.until("a vote of the new key is in a finality proof", lambda: network.votes_above(height))


def leave(network: Network) -> None:
    """Take a part of the stake out, leave, wait until it is out, take the rest out, and have the money back."""
    network.quorate("validator", "unbond", "50000", key="operator.json")
    network.quorate("validator", "leave", key="operator.json")
    network.tell("leaves")
    network.until("out of the set", lambda: network.standing()["place"] is None)
    network.quorate("validator", "unbond", "all", key="operator.json")
    address = network.standing()["operator"]

    def has_money() -> bool:
        account = network.ask(f"/v1/accounts/{address}/0")
        return account is not None and int(account["cash_uusd"]) >= CASH * 1_000_000

    network.until("the stake is cash again", has_money)
