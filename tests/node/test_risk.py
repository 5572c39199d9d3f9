"""What `quorate risk` tells a person."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.breakers.queries import get_breakers_view
from ledger.instruments import Underlying
from ledger.margin.requirements import compute_margin
from ledger.prices import get_prices
from ledger.queries import get_account
from ledger.state import State
from ledger.transactions import QuotesReport
from ledger.valuation import positions_of
from node.__main__ import app
from node.genesis import chain_id_of, load_genesis
from node.risk.account import account_risk, parse_leg
from node.risk.exposure import exposure_lines, exposure_view
from node.risk.source import open_state
from node.risk.surface import draw_html, draw_text, smiles_of
from node.storage.block_store import BlockStore, FinalBlock
from primitives.amounts import USD
from primitives.errors import OperatorError
from tests.ledger.exchange import BTC_PERP, CALL_110, Exchange, a_genesis, buy, sell


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    """Alice is long 10 perpetual lots and short 4 calls against Bob."""
    exchange = Exchange(alice=100_000, bob=100_000)
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 10), sell(CALL_110, 2_300, 4))
    exchange.does("bob", sell(BTC_PERP, 100_000, 10), buy(CALL_110, 2_300, 4))
    exchange.block()
    return exchange


def call_name(exchange: Exchange) -> str:
    return exchange.state.instruments[CALL_110].name


def test_an_account_shows_its_positions_with_greeks_of_the_whole_position(exchange: Exchange) -> None:
    risk = account_risk(exchange.state, exchange.key("alice"))
    perpetual, call = risk.positions
    assert (perpetual.name, perpetual.contracts, perpetual.delta, perpetual.gamma) == (
        "BTC-PERPETUAL",
        0.1,
        0.1,
        0.0,
    )
    assert (call.name, call.contracts) == (call_name(exchange), -0.04)
    assert call.delta < 0 and call.vega_usd < 0 < call.theta_usd


def test_the_scenario_table_has_every_scenario_of_the_model(exchange: Exchange) -> None:
    rows = account_risk(exchange.state, exchange.key("alice")).scenarios
    assert (len(rows), {row.underlying for row in rows}) == (37, {"BTC"})
    crash = next(row for row in rows if row.scenario == "-16 % vol same")
    assert crash.pnl_usd == pytest.approx(-0.1 * 16_000 + 0.04 * 2_115.8, abs=20)


def test_a_what_if_leg_gives_the_margin_of_really_holding_it(exchange: Exchange) -> None:
    leg = parse_leg(exchange.state, f"{call_name(exchange)}:+0.04")
    risk = account_risk(exchange.state, exchange.key("alice"), [leg])
    view = get_account(exchange.state, exchange.key("alice"))
    assert view is not None and risk.with_legs is not None
    prices = get_prices(exchange.state)
    cash = view.account.cash_uusd - 4 * prices.mark_uusd(CALL_110) // 100
    alone = [item for item in positions_of(view.account) if item.instrument_id == BTC_PERP]
    assert risk.with_legs == compute_margin(prices.risk, cash, alone)


@pytest.mark.parametrize("text", ["BTC-PERPETUAL", "BTC-PERPETUAL:0", "BTC-PERPETUAL:0.001", "NOTHING:1"])
def test_a_leg_that_cannot_be_held_is_one_clear_sentence(exchange: Exchange, text: str) -> None:
    with pytest.raises(OperatorError):
        parse_leg(exchange.state, text)


def test_smiles_are_drawn_in_text_and_on_a_page_without_scripts(exchange: Exchange) -> None:
    smiles = smiles_of(exchange.state, Underlying.BTC)
    assert [len(smile.points) for smile in smiles] == [1, 3]
    assert draw_text(smiles[1]).count("\n") == 8
    page = draw_html("BTC", smiles)
    assert page.count("<polyline") == len(smiles) and "<script" not in page


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a node that has stored its genesis state."""
    app(
        ["init", "--home", str(tmp_path), "--validators", "1", "--insecure-keys"],
        result_action="return_value",
    )
    node = tmp_path / "node0"
    genesis = load_genesis(node / "genesis.json")
    chain_id = chain_id_of(genesis)
    store = BlockStore.open(node / "data" / "blocks", chain_id=chain_id)
    leaves = State.from_genesis(genesis.ledger, chain_id).all_leaves()
    store.commit(FinalBlock(0, bytes(32), b"", b"", b"", leaves=leaves))
    store.close()
    return node


def test_the_command_reads_a_node_s_store(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    app(["risk", "protocol", "--home", str(home), "--json"], result_action="return_value")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["height"], shown["open_interest"], shown["money"]["fund_usd"]) == (0, [], 1_000_000.0)
    assert shown["exposure"] is None
    phases = [(item["underlying"], item["phase"], item["causes"]) for item in shown["breakers"]["phases"]]
    assert phases == [("BTC", "open", []), ("ETH", "open", [])]
    app(["risk", "protocol", "--home", str(home)], result_action="return_value")
    assert "epsilon against half-spread after 0 epochs" in capsys.readouterr().out


def test_the_exposure_is_told_in_dollars_beside_its_limits() -> None:
    genesis = a_genesis({"alice": 20_000, "bob": 1_000_000}, insurance_fund_uusd=10_000 * USD)
    exchange = Exchange().start(genesis)
    assert exposure_view(exchange.state) is None
    exchange.block()
    exchange.does("alice", buy(BTC_PERP, 100_000, 100))
    exchange.does("bob", sell(BTC_PERP, 100_000, 100))
    exchange.block()
    exchange.btc_usd = 93_000
    exchange.block()
    view = exposure_view(exchange.state)
    assert view is not None
    assert view.worst_scenario == "BTC -66 % vol up, ETH -66 % vol up"
    assert (view.delta_usd_per_percent, view.delta_limit_usd, view.vega_limit_usd) == (930, 500, 200)
    assert not view.is_within_limits
    stress, own = exposure_lines(view)
    assert (
        "at BTC -66 % vol up, ETH -66 % vol up, fund and vault 10,000.00: stress, initial factor +0.00"
        in stress
    )
    assert own == (
        "the protocol's own exposure, BEYOND its limits: 1 % of the indices 930.00 of 500.00, "
        "a volatility point 0.00 of 200.00"
    )


def test_a_view_of_breakers_tells_colours_and_ppm_of_the_index() -> None:
    exchange = Exchange(alice=100_000)
    exchange.block()
    exchange.quotes = QuotesReport((BTC_PERP,), (10_020_000,), (5_000,))
    exchange.block()
    view = get_breakers_view(exchange.state)
    assert (view.epochs, view.judged_ns) == (1, exchange.state.clock.time_ns)
    assert [(item.phase, item.colours) for item in view.phases] == [("open", (0, 1, 0)), ("open", (0, 0, 0))]
    (drift,) = view.drifts
    assert (drift.instrument.id, drift.colour, drift.epsilon_ppm, drift.half_spread_ppm) == (
        *(BTC_PERP, "amber", 2_000, 500),
    )


def test_a_page_of_smiles_is_written(home: Path, tmp_path: Path) -> None:
    page = tmp_path / "smiles.html"
    app(["risk", "surface", "eth", "--home", str(home), "--html", str(page)], result_action="return_value")
    assert "ETH implied volatility at height 0" in page.read_text()


def test_a_home_without_anything_stored_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"no configuration at .*node\.toml"):
        open_state(tmp_path)
