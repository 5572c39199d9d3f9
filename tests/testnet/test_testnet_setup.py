"""What a testnet writes: homes whose nodes would start, one genesis, traders with keys that own its accounts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from rich.console import Console

from node.config import load_config
from node.genesis import chain_id_of, load_genesis
from node.keystore import load_keystore
from node.storage.watermark import START, Watermark, observer_reason
from node.wiring import check_identity
from primitives.amounts import USD
from primitives.errors import OperatorError
from primitives.signing import SigningKey, address_of
from testnet import commands, run
from testnet.commands import up
from testnet.market.config import MarketConfig
from testnet.plan import Plan
from testnet.processes import Process, free_ports
from testnet.setup import CASH_USD, create, secret, trader_specs
from testnet.traders.config import Role, TradersConfig
from testnet.view import Picture, Smile, ValidatorRow, draw_smile, render, status_line

PLAN = replace(Plan(), seconds=12.0, traders=7)


def test_every_home_is_one_that_its_node_would_accept(tmp_path: Path) -> None:
    layout = create(PLAN, tmp_path / "t")
    assert len(layout.node_homes) == 4
    ports: list[int] = []
    for index, home in enumerate(layout.node_homes):
        config = load_config(home)
        genesis = load_genesis(config.genesis_path)
        assert chain_id_of(genesis) == layout.chain_id
        check_identity(config, genesis, load_keystore(config.keystore_path, None, allow_insecure=True))
        assert observer_reason(Watermark.open(config.watermark_path), START) is None
        assert config.socket_path == layout.sockets[index]
        assert config.gateway.port == layout.gateway_ports[index]
        assert len(config.venues) == 4 and "mirage" in config.venues
        ports += [config.listen.port, config.gateway.port]
    assert len(set(ports)) == 8
    left_out = [
        {venue.name for venue in layout.market.venues} - set(load_config(home).venues)
        for home in layout.node_homes
    ]
    assert len({name for names in left_out for name in names}) == 4, "no two validators see the same venues"


def test_every_trader_owns_an_account_with_its_roles_cash(tmp_path: Path) -> None:
    layout = create(PLAN, tmp_path / "t")
    traders = msgspec.json.decode(layout.traders_config.read_bytes(), type=TradersConfig)
    cash = {account.owner: account.cash_uusd for account in layout.genesis.ledger.accounts}
    for spec in traders.traders:
        owner = address_of(SigningKey(bytes.fromhex(spec.key_seed)).public_key)
        assert cash.pop(owner) == CASH_USD[spec.role] * USD
    assert cash == {}
    assert "mirage" not in traders.venues, "traders look at honest venues"
    assert msgspec.json.decode(layout.market_config.read_bytes(), type=MarketConfig) == layout.market


@pytest.mark.parametrize("count", [4, 6, 11])
def test_one_of_each_role_and_makers_and_takers_in_turn(count: int) -> None:
    specs = trader_specs(replace(Plan(), traders=count))
    roles = [spec.role for spec in specs]
    assert set(roles) == set(Role) and len({spec.name for spec in specs}) == count
    assert (roles.count(Role.GAMBLER), roles.count(Role.HEDGER)) == (1, 1)
    assert {spec.gateway for spec in specs} == {0, 1, 2, 3}
    assert specs == trader_specs(replace(Plan(), traders=count)), "the seed decides"


def test_secrets_follow_from_seed_and_name() -> None:
    secrets = {
        secret(seed, use, index) for seed in (1, 2) for use in ("vote", "oracle") for index in range(3)
    }
    assert len(secrets) == 12 and secret(1, "vote", 0) in secrets


def test_an_expiry_falls_into_a_run_of_a_minute(tmp_path: Path) -> None:
    plan = replace(Plan(), seconds=60.0)
    layout = create(plan, tmp_path / "t")
    start_ns = layout.market.start_market_ns
    first = min(item.expiry_ns for item in layout.instruments if item.expiry_ns)
    assert 0 < first - start_ns < plan.seconds * plan.speed * 10**9
    assert start_ns < layout.market.shock_at_ns < start_ns + plan.seconds * plan.speed * 10**9


def test_a_home_whose_sockets_would_have_too_long_names_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    home = tmp_path / ("x" * 100)
    with pytest.raises(OperatorError, match="is too long a path"):
        create(PLAN, home)
    assert not home.exists()


def test_a_home_in_use_and_one_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="is not empty: a testnet starts in a new directory"):
        up(replace(Plan(), home=tmp_path))
    with pytest.raises(OperatorError, match="Cannot use"):
        up(replace(Plan(), home=tmp_path / "file" / "home"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- processes ---


def a_process(tmp_path: Path, script: str) -> Process:
    return Process("it", ["-c", script], tmp_path / "it.log")


async def test_a_process_is_started_killed_and_started_again_with_one_log(tmp_path: Path) -> None:
    process = a_process(tmp_path, "print('hello', flush=True); import time; time.sleep(60)")
    assert (process.pid, process.exit_code, process.log_tail()) == (None, None, "")
    for life in (1, 2):
        process.start()
        assert process.pid is not None and process.expected_to_run
        with trio.fail_after(5):
            while process.log_tail().count("hello") < life:  # noqa: ASYNC110 - another process writes.
                await trio.sleep(0.01)
        process.kill()
        assert (process.pid, process.exit_code, process.expected_to_run) == (None, -9, False)
    assert process.rss_mb_max > 1 and process.cpu_seconds >= 0


async def test_a_process_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("testnet.processes.STOP_SECONDS", 0.2)
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('up', flush=True); time.sleep(60)"
    )
    process = a_process(tmp_path, script)
    process.start()
    with trio.fail_after(5):
        while "up" not in process.log_tail():  # noqa: ASYNC110 - another process writes.
            await trio.sleep(0.01)
    process.terminate()
    await process.wait_ended()
    assert process.exit_code == -9


async def test_a_process_that_ends_by_itself_says_how(tmp_path: Path) -> None:
    process = a_process(tmp_path, "raise SystemExit('the last word')")
    process.start()
    await process.wait_ended()
    assert (process.exit_code, process.pid, process.expected_to_run) == (1, None, True)
    assert run._last_line(process) == "the last word"


def test_free_ports_are_different_and_free() -> None:
    import socket

    ports = free_ports(5)
    assert len(set(ports)) == 5
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass


# --- a run that cannot begin ---


async def test_validators_that_cannot_start_end_the_run_at_once_with_their_last_words(tmp_path: Path) -> None:
    layout = create(PLAN, tmp_path / "t")
    for home in layout.node_homes:
        (home / "genesis.json").write_text("{")
    it = run.Run(PLAN, layout, lambda picture: None)
    with pytest.RaisesGroup(OperatorError, allow_unwrapped=True, flatten_subgroups=True) as refused:
        with trio.fail_after(20):
            await it.execute()
    assert "is not valid JSON" in repr(refused.value.exceptions)
    assert [process.pid for process in it.processes] == [None] * len(it.processes)


# --- what a person sees ---


def a_picture(**changes: Any) -> Picture:
    rows = [
        ValidatorRow("node0", "voting", 10, 12, 20.0, 0.75, 3, "ab" * 32, 120.0),
        ValidatorRow("node1", "down"),
    ]
    fields = {
        "elapsed_seconds": 5.0,
        "total_seconds": 60.0,
        "market_time": "2026-02-06 07:59:30",
        "validators": rows,
        "indices": {"BTC": 100_000.0},
        "trades": 7,
        "compared_heights": 9,
    }
    return Picture(**{**fields, **changes})


def shown(picture: Picture) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(picture))
    return console.export_text()


def test_the_view_shows_validators_market_and_agreement() -> None:
    text = shown(
        a_picture(smile=Smile("smile", [90_000.0, 110_000.0], [50.0, 55.0]), notes=["node1 was killed"])
    )
    for word in (
        "node0",
        "voting",
        "down",
        "75%",
        "100,000.00",
        "state roots agree",
        "smile",
        "node1 was killed",
    ):
        assert word in text
    assert "STATE ROOTS DIFFER" in shown(a_picture(roots_agree=False))
    assert shown(Picture())


def test_the_status_line_is_one_line_and_shouts_when_roots_differ() -> None:
    line = status_line(a_picture())
    assert "height 0..10  roots agree at 9 heights  finality p50 20 ms" in line and "\n" not in line
    assert "ROOTS DIFFER" in status_line(a_picture(roots_agree=False))


def test_a_flat_smile_is_drawn_too() -> None:
    lines = draw_smile(Smile("flat", [1.0, 2.0, 3.0], [50.0, 50.0, 50.0]), rows=4).plain.splitlines()
    assert len(lines) == 5 and lines[-1].strip() == "1 .. 3"


def test_the_verdict_is_printed_with_its_reasons_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from testnet.report import Facts

    home = tmp_path / "t"
    monkeypatch.setattr(
        commands, "_watched", lambda plan, layout, console: Facts(4, 1.0, halted=["node2: conflict"])
    )
    code = up(replace(PLAN, home=home, report=tmp_path / "r.json"))
    report = json.loads((tmp_path / "r.json").read_text())
    assert (code, report["verdict"], report["broken"]) == (
        1,
        "broken",
        ["a validator halted: node2: conflict"],
    )
    assert "PROMISE BROKEN: a validator halted: node2: conflict" in capsys.readouterr().out
    assert home.exists()


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_command_exits_with_the_verdicts_code(code: int) -> None:
    script = (
        f"import testnet.commands as commands; commands._run = lambda plan: {code}\n"
        "from node.__main__ import main; main(['testnet', 'up'])"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == code


def test_a_plan_that_cannot_be_run_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    home = tmp_path / "t"
    command = [sys.executable, "-m", "node", "testnet", "up", "--home", str(home), "--kill", "9@1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (
        *(2, ""),
        "quorate: --kill names validator 9, there are 4.\n",
    )
    assert not home.exists()
