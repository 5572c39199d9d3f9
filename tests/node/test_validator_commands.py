"""`quorate validator` against a real gateway: what each command does, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from node.client import policy_commands, questions
from node.client import validator_commands as commands
from node.client.terminal import Gateway, Signing
from node.keystore import save_keystore, save_seeds
from primitives.errors import OperatorError
from tests.node.network_of_nodes import keys_of
from tests.node.reachable_node import a_gateway


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Alice's account, and the home of a validator that she is to operate."""
    made = tmp_path / "desk"
    made.mkdir()
    save_seeds({"account": b"alice".ljust(32, b".")}, made / "alice.json", None)
    save_keystore(keys_of(7), made / "keystore.json", None)
    return made


async def test_an_operator_bonds_and_is_told_what_is_possible(
    tmp_path: Path, desk: Path, monkeypatch: Any, capsys: Any
) -> None:
    def work() -> None:
        gateway, alice = Gateway(node=url), Signing(key=desk / "alice.json")

        def said(command: Callable[..., None], *arguments: Any, **options: Any) -> str:
            command(*arguments, **options, signing=alice, gateway=gateway)
            return str(capsys.readouterr().out)

        def refused(command: Callable[..., None], *arguments: Any, **options: Any) -> str:
            with pytest.raises(OperatorError) as error:
                command(*arguments, **options, signing=alice, gateway=gateway)
            return str(error.value)

        assert "operates no validator" in refused(commands.leave)
        assert "stake_too_small" in refused(commands.bond, "5", home=desk)
        assert "commission_limit" in refused(commands.bond, "200000", home=desk, commission="99")
        first = said(commands.bond, "200000", home=desk, commission="7.5")
        assert "validator 1 has a stake of 200,000.00; it may join from epoch 1 on" in first
        assert "validator 1 has a stake of 250,000.00" in said(commands.bond, "50000", home=desk)
        row = said(commands.status, 1).splitlines()[1]
        assert [part for part in row.split() if part in ("250,000.00", "7.5", "not", "ready")] == [
            *("250,000.00", "7.5", "not", "ready")
        ]
        assert "already" in refused(commands.rotate_key, home=desk)
        assert "not_ready" in refused(commands.leave)
        assert "not_jailed" in refused(commands.unjail)
        assert "not_operator" in refused(commands.leave, 0)
        assert "see `quorate validator status`" in refused(commands.leave, 9)
        assert "is no percentage" in refused(commands.commission, "a lot")
        assert "final in block" in said(commands.commission, "6")
        assert "final in block" in said(commands.unbond, "all")
        assert "has no stake with validator 1" in refused(commands.unbond, "all")

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await trio.to_thread.run_sync(work)


async def test_an_operator_announces_where_the_validator_is(
    tmp_path: Path, desk: Path, monkeypatch: Any, capsys: Any
) -> None:
    save_keystore(keys_of(0), desk / "node0.json", None)
    (desk / "node.toml").write_text('name = "mine"\n[listen]\nhost = "203.0.113.9"\n')

    def work() -> None:
        oracle, gateway = Signing(key=desk / "node0.json"), Gateway(node=url)

        def announced(*address: str, **options: Any) -> tuple[str, tuple[str, ...]]:
            commands.announce(home=desk, address=address, **options, signing=oracle, gateway=gateway)
            assert f"{keys_of(7).peer_id} is at " in capsys.readouterr().out
            with gateway.client() as client:
                (told,) = client.ask(questions.validators()).validators
            return told.peer_id, told.addresses

        assert announced() == (keys_of(7).peer_id, ("/ip4/203.0.113.9/tcp/26600",))
        assert announced("Validator.example:1", "[2001:DB8::9]:2")[1] == (
            "/dns/validator.example/tcp/1",
            "/ip6/2001:db8::9/tcp/2",
        )
        assert announced(unlisted=True)[1] == ()

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await trio.to_thread.run_sync(work)


@pytest.mark.parametrize(
    ("toml", "options", "why"),
    [
        ('[listen]\nhost = "0.0.0.0"', {}, "does not tell where others reach it"),
        ('index = 0\n[[sentries]]\nhost = "10.0.0.1"\nport = 1', {}, "does not tell where others reach it"),
        ("", {"address": ("here",)}, "'here' is not HOST:PORT"),
        ("", {"address": ("10.0.0.1:70000",)}, "'10.0.0.1:70000' is not HOST:PORT"),
        ("", {"address": ("10.0.0.1:1",), "unlisted": True}, "leave --address out"),
    ],
)
def test_an_announcement_that_leads_nowhere_is_refused(
    desk: Path, toml: str, options: dict[str, Any], why: str
) -> None:
    (desk / "node.toml").write_text(f'name = "mine"\n{toml}\n')
    with pytest.raises(OperatorError, match=why):
        commands.announce(home=desk, **options)


async def test_the_operator_of_a_genesis_validator_signs_with_its_keystore(
    tmp_path: Path, desk: Path, monkeypatch: Any, capsys: Any
) -> None:
    save_keystore(keys_of(0), desk / "node0.json", None)

    def work() -> None:
        oracle = Signing(key=desk / "node0.json")
        commands.leave(signing=oracle, gateway=Gateway(node=url))
        assert "final in block" in capsys.readouterr().out

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await trio.to_thread.run_sync(work)


async def test_an_operator_sees_every_number_of_policy_and_votes_for_several_at_once(
    tmp_path: Path, desk: Path, monkeypatch: Any, capsys: Any
) -> None:
    save_keystore(keys_of(0), desk / "node0.json", None)

    def work() -> None:
        oracle, gateway = Signing(key=desk / "node0.json"), Gateway(node=url)

        def vote(*wanted: str) -> str:
            commands.vote(*wanted, signing=oracle, gateway=gateway)
            return str(capsys.readouterr().out)

        policy_commands.numbers("margin.btc.scenarios.0.", gateway=gateway)
        [_, move, weight] = capsys.readouterr().out.splitlines()
        assert move.split() == ["margin.btc.scenarios.0.move_ppm", "-160000", "-900000", "5000000", "ppm"]
        assert weight.split() == ["margin.btc.scenarios.0.weight_ppm", "1000000", "1000", "2000000", "ppm"]
        said = vote("margin.btc.scenarios.0.move_ppm=-200000", "auction.fee_ppm=80000")
        assert "margin.btc.scenarios.0.move_ppm = -200000: decided, holds from 20" in said
        assert "auction.fee_ppm = 80000: decided, holds from 20" in said
        for wanted, why in (
            ("auction.fee=1", "no number is called 'auction.fee'"),
            ("auction.fee_ppm=a lot", "is not NAME=VALUE"),
            ("auction.fee_ppm=300001", "auction.fee_ppm is 0 to 300000 ppm"),
            ("auction.patience_ns=1000000000", "an empty book makes an auction begin earlier"),
        ):
            with pytest.raises(OperatorError, match=why):
                vote(wanted)

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await trio.to_thread.run_sync(work)


def test_help_names_every_number_with_its_bounds() -> None:
    help_text = policy_commands.describe_numbers()
    for line in (
        "  margin.UNDERLYING.scenarios.N.move_ppm: -900000 to 5000000",
        "  monitors.UNDERLYING.N.move_ppm: 1000 to 1000000",
        "  fees.UNDERLYING.taker_ppm: 0 to 10000",
        "  gaps.N.gap_ns: 1000000000 to 86400000000000",
    ):
        assert line in help_text.splitlines()


def test_a_home_without_the_keys_is_one_sentence(desk: Path) -> None:
    other = desk / "other"
    other.mkdir()
    save_seeds({"oracle": b"\1" * 32, "network": b"\2" * 32}, other / "keystore.json", None)
    with pytest.raises(OperatorError, match="give the signer's home with --signer"):
        commands.bond("5", home=other)
