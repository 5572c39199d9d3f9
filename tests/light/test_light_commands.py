"""`quorate proof` and `quorate light` over nodes that really ran, and over a gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from ledger.margin.requirements import compute_margin
from ledger.margin.standard import compute_standard_margin
from ledger.prices import get_prices
from ledger.queries import get_account
from ledger.settlement.state import funding_key
from ledger.trading.margin_model import parameters_of
from ledger.transactions import MarginModel, QuotesReport, SetMarginModel
from ledger.valuation import positions_of
from node.__main__ import app
from node.config import load_config
from node.genesis import GenesisDocument
from node.genesis_defaults import default_staking
from node.home import create_homes
from node.light.describe import describe
from node.light.margin import recompute_margin
from node.light.prover import account_subject
from node.light.sync import from_gateway, sync_epochs, trust_of
from node.light.verifier import ProofRefused, verify_proof_file
from node.rpc.supervisor import GatewayProcess
from primitives.errors import OperatorError
from primitives.signing import address_of
from tests.ledger.exchange import BTC_PERP, CALL_110, Exchange, a_key, buy, sell
from tests.light.light_chain import LightChain
from tests.node import network_of_nodes
from tests.node.network_of_nodes import Nodes, a_genesis, keys_of, running_nodes

ALICE = address_of(a_key("alice").public_key)


def a_genesis_with_epochs(validators: int = 4) -> GenesisDocument:
    """Epochs of six blocks."""
    genesis = a_genesis(validators)
    staking = msgspec.structs.replace(default_staking(genesis.validators), epoch_blocks=6)
    return msgspec.structs.replace(genesis, ledger=msgspec.structs.replace(genesis.ledger, staking=staking))


def quorate(*words: str | Path) -> None:
    app([str(word) for word in words], result_action="return_value")


async def ran(tmp_path: Path, monkeypatch: Any) -> Nodes:
    """Four nodes that ran through two epochs, and stopped."""
    monkeypatch.setattr(network_of_nodes, "a_genesis", a_genesis_with_epochs)
    async with running_nodes(tmp_path, monkeypatch) as (nodes, _):
        await nodes.wait_height(15)
        for index in range(4):
            await nodes.stop(index)
    return nodes


async def test_what_real_nodes_agreed_on_is_proven_from_a_home_and_checked_without_it(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = await ran(tmp_path, monkeypatch)
    home, genesis = nodes.homes[0], nodes.homes[3] / "genesis.json"
    perpetual = nodes.genesis.ledger.instruments[0].name
    subjects: dict[str, list[str]] = {
        "account": [f"{ALICE.hex()}/0"],
        "margin": [ALICE.hex()],
        "mark": [perpetual],
        "settlement": [nodes.genesis.ledger.instruments[3].name],
        "order": ["1", perpetual],
    }
    said = {}
    for kind, words in subjects.items():
        quorate("proof", kind, *words, "--home", home, "--out", tmp_path / kind)
        capsys.readouterr()
        quorate("proof", "verify", tmp_path / kind, "--genesis", genesis, "--json")
        said[kind] = json.loads(capsys.readouterr().out)
    assert {one["epoch"] for one in said.values()} & {2, 3, 4}
    assert said["account"]["cash_uusd"] == said["margin"]["equity_uusd"] == 1_000_000_000_000
    assert said["mark"]["mark_uusd"] > 0
    assert (said["settlement"]["is_settled"], said["order"]["rests"]) == (False, False)


async def test_a_light_client_goes_from_genesis_to_a_checkpoint_and_on(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = await ran(tmp_path, monkeypatch)
    home, genesis, kept = nodes.homes[0], nodes.homes[3] / "genesis.json", tmp_path / "kept"
    quorate("light", "sync", "--genesis", genesis, "--home", home, "--out", kept)
    assert "epoch 2, 2 followed, 4 validators" in capsys.readouterr().out
    quorate("light", "sync", "--genesis", genesis, "--home", home, "--checkpoint", kept, "--out", kept)
    assert "epoch 2, 0 followed" in capsys.readouterr().out
    proof = tmp_path / "proof"
    quorate("proof", "account", ALICE.hex(), "--home", home, "--checkpoint", kept, "--out", proof)
    quorate("proof", "verify", proof, "--genesis", genesis, "--checkpoint", kept)
    assert "checked in" in capsys.readouterr().out
    with pytest.raises(OperatorError, match="do not pass through epoch 0"):
        quorate("proof", "verify", proof, "--genesis", genesis)


# --- margin ---


@pytest.fixture
def exchange() -> Exchange:
    """Alice is long 10 perpetual lots and short 4 calls against Bob."""
    exchange = Exchange(alice=100_000, bob=100_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 10), sell(CALL_110, 2_300, 4))
    exchange.does("bob", sell(BTC_PERP, 100_000, 10), buy(CALL_110, 2_300, 4))
    exchange.block()
    return exchange


@pytest.fixture
def chain(exchange: Exchange, tmp_path: Path) -> LightChain:
    """A chain whose newest header commits to the exchange's state."""
    genesis = msgspec.structs.replace(a_genesis(), ledger=exchange.state.genesis)
    chain = LightChain(tmp_path, genesis)
    chain.block(dict(exchange.state.all_leaves()))
    chain.block()
    return chain


def test_a_margin_is_computed_again_from_proven_leaves_alone(exchange: Exchange, chain: LightChain) -> None:
    owner, subaccount = exchange.key("alice")
    raw = chain.proof("margin", account_subject(owner, subaccount))
    proven = verify_proof_file(raw, trust_of(chain.genesis))
    assert proven.state_root == exchange.state.root()
    view = recompute_margin(proven, chain.genesis.ledger)
    assert view is not None and len(view.positions) == 2
    full = get_account(exchange.state, (owner, subaccount))
    assert full is not None
    # The proof holds only what is traded here, so ETH, of which alice has nothing, has no worst scenario.
    assert (view.margin.worst_scenario, full.margin.worst_scenario) == ((27,), (27, 0))
    assert view == full._replace(margin=full.margin._replace(worst_scenario=(27,)))


def test_what_funding_took_is_proven_too(exchange: Exchange, tmp_path: Path) -> None:
    exchange.does("bob", buy(BTC_PERP, 100_300, 1), sell(BTC_PERP, 100_400, 1))
    for _ in range(6):
        exchange.block(50)
    state, key = exchange.state, exchange.key("alice")
    genesis = msgspec.structs.replace(a_genesis(), ledger=state.genesis)
    chain = LightChain(tmp_path, genesis)
    chain.block(dict(state.all_leaves()))
    chain.block()
    proven = verify_proof_file(chain.proof("margin", account_subject(*key)), trust_of(genesis))
    view, full = recompute_margin(proven, genesis.ledger), get_account(state, key)
    assert view is not None and full is not None
    assert view.margin._replace(worst_scenario=()) == full.margin._replace(worst_scenario=())
    assert state.leaves.values[funding_key(BTC_PERP)].cumulative_e6 > 10**9


def test_what_a_doubtful_mark_adds_is_proven_too(exchange: Exchange, tmp_path: Path) -> None:
    exchange.quotes = QuotesReport((BTC_PERP, CALL_110), (10_030_000, 240_000), (500, 1_000))
    exchange.block()
    state, key = exchange.state, exchange.key("alice")
    genesis = msgspec.structs.replace(a_genesis(), ledger=state.genesis)
    chain = LightChain(tmp_path, genesis)
    chain.block(dict(state.all_leaves()))
    chain.block()
    proven = verify_proof_file(chain.proof("margin", account_subject(*key)), trust_of(genesis))
    view, full = recompute_margin(proven, genesis.ledger), get_account(state, key)
    assert view is not None and full is not None
    assert view.margin.im_excess_uusd == full.margin.im_excess_uusd
    assert view.margin.oracle_contingency_uusd == full.margin.oracle_contingency_uusd > 0


def test_the_standard_model_of_an_account_that_chose_it_is_proven_with_it(
    exchange: Exchange, tmp_path: Path
) -> None:
    key = exchange.key("alice")
    exchange.does("alice", SetMarginModel(MarginModel.STANDARD))
    exchange.block()
    state = exchange.state
    genesis = msgspec.structs.replace(a_genesis(), ledger=state.genesis)
    chain = LightChain(tmp_path, genesis)
    chain.block(dict(state.all_leaves()))
    chain.block()
    proven = verify_proof_file(chain.proof("margin", account_subject(*key)), trust_of(genesis))
    view, account = recompute_margin(proven, genesis.ledger), state.account(key)
    assert view is not None and account is not None
    risk, held = get_prices(state).risk, positions_of(account)
    standard = compute_standard_margin(risk, account.cash_uusd, held, parameters_of(state))
    assert view.margin.im_excess_uusd == standard.im_excess_uusd
    assert standard.im_excess_uusd != compute_margin(risk, account.cash_uusd, held).im_excess_uusd
    assert describe(proven, genesis)["margin_model"] == "standard"


def test_a_margin_proof_without_a_leaf_that_matters_is_refused(exchange: Exchange, chain: LightChain) -> None:
    fields = msgspec.msgpack.decode(chain.proof("margin", account_subject(*exchange.key("alice"))))
    for place in range(4, len(fields[7])):
        left_out = [*fields[:7], fields[7][:place] + fields[7][place + 1 :]]
        proven = verify_proof_file(msgspec.msgpack.encode(left_out), trust_of(chain.genesis))
        with pytest.raises(ProofRefused, match="not in the proof"):
            recompute_margin(proven, chain.genesis.ledger)


def test_the_margin_of_nobody_is_that_there_is_no_account(chain: LightChain) -> None:
    proven = verify_proof_file(chain.proof("margin", bytes(21)), trust_of(chain.genesis))
    assert recompute_margin(proven, chain.genesis.ledger) is None


# --- a gateway ---


async def test_a_gateway_serves_proofs_and_epochs_that_nobody_has_to_believe(tmp_path: Path) -> None:
    genesis, home = a_genesis(1), tmp_path / "home"
    settings = [{"gateway": {"port": 0}, "log_file": "node.log"}]
    create_homes([home], [keys_of(0)], genesis, [("127.0.0.1", 1)], password=None, settings=settings)
    config = load_config(home)
    chain = LightChain(config.data_path, genesis)
    for _ in range(3):
        chain.block()
        chain.end_epoch()
    chain.block()
    trust, gateway = trust_of(genesis), GatewayProcess(config)
    url = f"http://127.0.0.1:{gateway.port}"
    name = genesis.ledger.instruments[0].name
    async with trio.open_nursery() as nursery, httpx.AsyncClient(base_url=url) as http:
        nursery.start_soon(gateway.run)
        with trio.fail_after(10):
            while not await answers(http):  # noqa: ASYNC110
                await trio.sleep(0.05)
        reached = await trio.to_thread.run_sync(lambda: sync_epochs(trust, from_gateway(url)))
        assert (reached.epoch, reached.validators) == (3, trust.validators)
        paths = [f"account/{ALICE.hex()}/0", f"margin/{ALICE.hex()}/0", f"mark/{name}"]
        for path in [*paths, f"settlement/{name}", f"order/{name}/7"]:
            for since, start in (("", trust), ("?from=3", reached)):
                answer = (await http.get(f"/v1/proofs/{path}{since}")).json()
                proven = verify_proof_file(bytes.fromhex(answer["proof"]), start)
                assert (proven.height, proven.kind) == (3, path.partition("/")[0])
                assert answer["bytes"] == len(answer["proof"]) // 2
        refusals = {
            f"/v1/proofs/account/{ALICE.hex()}/256": 400,
            "/v1/proofs/account/00/0": 400,
            f"/v1/proofs/wish/{ALICE.hex()}/0": 404,
            "/v1/proofs/wish/BTC-PERPETUAL": 404,
            "/v1/proofs/mark/NOPE": 404,
            f"/v1/proofs/order/{name}/-1": 400,
            f"/v1/proofs/order/{name}/999999999999999": 200,
            f"/v1/proofs/mark/{name}?from=9": 404,
            "/v1/epochs?from=9": 404,
            "/v1/epochs?from=x": 400,
            "/v1/epochs?from=99999999999": 400,
            "/v1/epochs?from=3": 200,
        }
        assert {path: (await http.get(path)).status_code for path in refusals} == refusals
        nursery.cancel_scope.cancel()


async def test_a_gateway_that_asks_for_a_token_is_synced_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genesis, home = a_genesis(1), tmp_path / "home"
    settings = [{"gateway": {"port": 0, "token_file": "token"}, "log_file": "node.log"}]
    create_homes([home], [keys_of(0)], genesis, [("127.0.0.1", 1)], password=None, settings=settings)
    (home / "token").write_text("0123456789abcdef")
    config = load_config(home)
    chain = LightChain(config.data_path, genesis)
    chain.block()
    chain.end_epoch()
    gateway = GatewayProcess(config)
    words = ["--genesis", config.genesis_path, "--url", f"http://127.0.0.1:{gateway.port}"]
    out = ["--out", tmp_path / "kept"]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gateway.run)
        # The listening socket is bound already: the request waits for the process.
        with pytest.raises(OperatorError, match="401"):
            await trio.to_thread.run_sync(lambda: quorate("light", "sync", *words, *out))
        given = ["--token-file", home / "token"]
        await trio.to_thread.run_sync(lambda: quorate("light", "sync", *words, *given, *out))
        nursery.cancel_scope.cancel()
    assert "epoch 1, 1 followed, 1 validators" in capsys.readouterr().out


async def answers(http: httpx.AsyncClient) -> bool:
    """Whether the gateway is up; without a node it says 503 for its health."""
    try:
        return (await http.get("/v1/epochs")).status_code == 200
    except httpx.HTTPError:
        return False


def test_what_is_no_gateway_is_one_clear_sentence() -> None:
    with pytest.raises(OperatorError, match="is no gateway"):
        from_gateway("file:///etc/hosts")
    with pytest.raises(OperatorError, match="does not answer"):
        from_gateway("http://127.0.0.1:1")(0)
