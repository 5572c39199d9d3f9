"""The client as its users meet it: a real node of one validator, its gateway process, real orders."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
import trio

from ledger.events import CashMoved, OrderAccepted, OrderCancelled, Trade
from ledger.transactions import Deposit, SessionScope
from node.__main__ import app
from node.client import questions
from node.client.blocking import Client
from node.client.errors import (
    ActionsRejected,
    BadOrder,
    ClientError,
    NotFound,
    Refused,
    TimedOut,
    TransactionRefused,
    Unreachable,
)
from node.client.feed import AccountEvent, account_channel
from node.client.market import cancel_label, register_session, uusd, withdraw
from node.client.on_trio import open_client
from node.client.signers import KeySigner, WalletSigner
from node.client.submissions import Stage
from node.keystore import save_seeds
from node.rpc.stream_forms import BlockMessage, BookMessage, TradeMessage
from primitives.amounts import NS, USD
from tests.ledger.exchange import a_key, a_wallet
from tests.node.network_of_nodes import CUSTODIAN
from tests.node.reachable_node import a_gateway

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
PERPETUAL = "BTC-PERPETUAL"
ALICE, BOB, WANDA = KeySigner(a_key("alice")), KeySigner(a_key("bob")), WalletSigner(a_wallet("wanda"))


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Log lines go to a list instead of the terminal."""
    with structlog.testing.capture_logs() as lines:
        yield lines


async def in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work)


async def test_the_blocking_client_trades_under_both_schemes(tmp_path: Path, monkeypatch: Any) -> None:
    def work() -> None:
        with (
            Client(url, ALICE) as alice,
            Client(url, WANDA) as wanda,
            Client(url, KeySigner(CUSTODIAN)) as bank,
        ):
            with pytest.raises(NotFound):
                wanda.submit(withdraw(1))
            bank.submit(Deposit(WANDA.address, 0, uusd(50_000))).check()
            offer = alice.submit(alice.market.limit(PERPETUAL, "sell", "0.05", 100_000, label=9)).check()
            [order] = [event for event in offer.events if isinstance(event, OrderAccepted)]
            assert (order.owner, order.size_lots, order.label) == (ALICE.address, 5, 9)
            bought = wanda.submit(wanda.market.market(PERPETUAL, "buy", "0.03")).check()
            [trade] = [item for item in wanda.with_consequences(bought).events if isinstance(item, Trade)]
            assert (trade.buyer, trade.seller, trade.size_lots) == (WANDA.address, ALICE.address, 3)
            account = wanda.ask(questions.account(WANDA.address))
            assert [(item.name, item.lots) for item in account.positions] == [(PERPETUAL, 3)]
            assert [item.left_lots for item in alice.ask(questions.account(ALICE.address)).orders] == [2]
            assert alice.ask(questions.book(PERPETUAL)).asks[0].size_lots == 2
            cancelled = alice.with_consequences(alice.submit(cancel_label(9)))
            assert [item.reason for item in cancelled.events if isinstance(item, OrderCancelled)] == [
                "requested"
            ]
            rows = wanda.ask(questions.account_history(WANDA.address)).items
            assert isinstance(rows[-1].event, CashMoved)

    async with a_gateway(tmp_path, monkeypatch) as url:
        await in_thread(work)


async def test_whatever_goes_wrong_is_an_exception_that_says_what(tmp_path: Path, monkeypatch: Any) -> None:
    def work() -> None:
        with Client(["http://127.0.0.1:1", url], ALICE) as alice:
            assert alice.ask(questions.status()).validators == 1, "the second gateway answers"
            refused = alice.submit(alice.market.limit(PERPETUAL, "buy", 1, 90_000), withdraw(10**9))
            with pytest.raises(ActionsRejected, match="insufficient_margin"):
                refused.check()
            with pytest.raises(TransactionRefused) as off_tick:
                alice.submit(alice.market.limit(PERPETUAL, "buy", 1, "90000.01"))
            assert off_tick.value.reason == "off_tick"
            with pytest.raises(BadOrder):
                alice.submit(alice.market.limit("BTC-NEVER", "buy", 1, 1))
            with pytest.raises(NotFound):
                alice.ask(questions.book("NOPE"))
            with pytest.raises(Refused, match="not_found"):
                next(alice.follow("book:NOPE"))
            submission = alice.send(withdraw(1))
            with pytest.raises(TimedOut) as late:
                alice.wait(submission, seconds=0)
            assert late.value.transaction_id == submission.receipt.transaction_id
        with Client("http://127.0.0.1:1", ALICE) as nobody:
            with pytest.raises(Unreachable):
                nobody.ask(questions.status())
            with pytest.raises(Unreachable):
                next(nobody.follow("blocks"))
        with Client(url) as stranger, pytest.raises(ClientError, match="no key"):
            stranger.submit(withdraw(1))

    async with a_gateway(tmp_path, monkeypatch) as url:
        await in_thread(work)


async def test_two_programs_with_one_account_do_not_trip_over_nonces(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def work() -> None:
        with Client(url, ALICE) as one, Client(url, ALICE) as other:
            assert one.account.next_nonce == other.account.next_nonce == 0
            for _ in range(3):
                one.submit(withdraw(1)).check()
            other.submit(withdraw(1)).check()
            assert other.account.next_nonce == 4

    async with a_gateway(tmp_path, monkeypatch) as url:
        await in_thread(work)


async def test_the_trio_client_trades_follows_and_survives_its_gateway(
    tmp_path: Path, monkeypatch: Any
) -> None:
    channels = (account_channel(BOB.address), "trades", f"book:{PERPETUAL}", "blocks")
    async with (
        a_gateway(tmp_path, monkeypatch) as url,
        open_client(url, ALICE) as alice,
        open_client(url, BOB) as bob,
        bob.follow(*channels) as news,
    ):
        market = await alice.market()
        await alice.submit(market.limit(PERPETUAL, "sell", "0.5", 100_000), stage=Stage.NOTARIZED)
        bids = [await bob.send(market.limit(PERPETUAL, "buy", "0.05", 100_000)) for _ in range(8)]
        receipts = [(await bob.wait(bid)).check() for bid in bids]
        assert {receipt.stage for receipt in receipts} == {Stage.FINAL}
        wanted = {AccountEvent, TradeMessage, BookMessage, BlockMessage}
        async for message in news:
            wanted -= {type(message)}
            if not wanted:
                break
        account = await bob.ask(questions.account(BOB.address))
        assert [(item.name, item.lots) for item in account.positions] == [(PERPETUAL, 40)]
        kill_gateway_of(url)
        receipt = await bob.submit(market.limit(PERPETUAL, "buy", "0.01", 100_000))
        assert receipt.check().stage is Stage.FINAL
        async for message in news:
            if isinstance(message, BlockMessage) and message.height >= (receipt.height or 0):
                break


def kill_gateway_of(url: str) -> None:
    import psutil

    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children(recursive=True):
        if any(item.laddr and item.laddr.port == port for item in child.net_connections("tcp")):
            child.kill()
            return
    raise AssertionError("no gateway process")


async def test_a_wallet_lets_a_session_key_trade_for_it(tmp_path: Path, monkeypatch: Any) -> None:
    robot = a_key("robot")
    async with a_gateway(tmp_path, monkeypatch) as url:
        async with open_client(url, KeySigner(CUSTODIAN)) as bank:
            await bank.submit(Deposit(WANDA.address, 0, 50_000 * USD))
        async with open_client(url, WANDA) as wanda:
            status = await wanda.ask(questions.status())
            session = register_session(
                robot,
                status.chain_id,
                WANDA.address,
                0,
                scopes=[SessionScope.TRADE],
                expires_ns=status.market_time_ns + 3_600 * NS,
                notional=20_000,
            )
            (await wanda.submit(session)).check()
        async with open_client(url, KeySigner(robot), owner=WANDA.address) as trader:
            market = await trader.market()
            placed = (await trader.submit(market.limit(PERPETUAL, "buy", "0.1", 90_000))).check()
            assert [e.owner for e in placed.events if isinstance(e, OrderAccepted)] == [WANDA.address]
            with pytest.raises(TransactionRefused, match="session_scope"):
                await trader.submit(withdraw(1))


async def test_what_a_program_raises_inside_the_client_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with open_client("http://127.0.0.1:1") as client, client.follow("blocks"):
            raise KeyError


# --- the command line ---


def quorate(*arguments: object, url: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "QUORATE_NODE": url, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


async def test_a_user_at_the_terminal_funds_trades_and_looks(tmp_path: Path, monkeypatch: Any) -> None:
    desk = tmp_path / "desk"
    desk.mkdir()
    save_seeds({"custodian": b"custodian".ljust(32, b".")}, desk / "custodian.json", None)
    save_seeds({"account": b"alice".ljust(32, b".")}, desk / "alice.json", None)

    def work() -> None:
        def run(*arguments: object) -> str:
            done = quorate(*arguments, url=url, cwd=desk)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            return done.stdout

        def patiently(*arguments: object) -> str:
            """A gateway gives up a simulation after three seconds, which a busy machine may need to start it."""
            for _ in range(10):
                if "timeout" not in quorate(*arguments, url=url, cwd=desk).stderr:
                    break
            return run(*arguments)

        address = run("account", "create", "--wallet", "--insecure").strip()
        assert len(address) == 40
        run("account", "deposit", f"0x{address}", "50000", "--key", "custodian.json")
        sold = run("order", "place", "sell", "0.5", PERPETUAL, "--price", "100000", "--key", "alice.json")
        assert "sell 0.5 BTC-PERPETUAL at $100,000.00" in sold
        assert "bought 0.05 BTC-PERPETUAL at $100,000.00" in run("order", "place", "buy", "0.05", PERPETUAL)
        shown = json.loads(run("account", "show", "--json"))
        assert [(item["name"], item["lots"]) for item in shown["positions"]] == [(PERPETUAL, 5)]
        assert "100,000.00" in run("book", PERPETUAL)
        assert "bought 0.05" in run("account", "history")
        what_if = patiently("order", "simulate", "buy", "1", PERPETUAL, "--price", "99000")
        assert "buy 1 BTC-PERPETUAL at $99,000.00" in what_if
        assert "initial requirement" in what_if
        lines = run("watch", PERPETUAL, "--seconds", "1", "--json").splitlines()
        assert {json.loads(line)["type"] for line in lines} >= {"block", "finality", "marks"}
        run("order", "cancel-all", "--key", "alice.json")
        assert run("account", "orders", "--key", "alice.json") == "no open orders\n"
        mistakes = {
            ("order", "place", "buy", "0.055", PERPETUAL): "0.055",
            ("order", "place", "buy", "1", "BTC-PERP"): "did you mean",
            ("order", "cancel", "99"): "unknown_order",
            ("account", "show", "--key", "nobody.json"): "quorate account create",
            ("account", "show", "ff"): "40 hexadecimal digits",
            ("book", PERPETUAL, "--node", "http://127.0.0.1:1"): "--node",
        }
        for arguments, hint in mistakes.items():
            done = quorate(*arguments, url=url, cwd=desk)
            assert done.returncode == 2, arguments
            assert hint in done.stderr and "Traceback" not in done.stderr, done.stderr

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await in_thread(work)


async def test_the_example_programs_of_the_documentation_run(tmp_path: Path, monkeypatch: Any) -> None:
    save_seeds({"custodian": b"custodian".ljust(32, b".")}, tmp_path / "custodian.json", None)
    save_seeds({"account": b"alice".ljust(32, b".")}, tmp_path / "alice.json", None)

    def started(name: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, ROOT / "docs" / "examples" / name, url, *arguments]
        environment = {"PATH": "", "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, text=True, env=environment
        )

    def work() -> None:
        alice = tmp_path / "alice.json"
        with started("make_market.py", alice, 1) as brief:
            assert brief.communicate()[0].endswith("no quotes left\n")
        with started("make_market.py", alice, 600) as market:
            assert market.stdout is not None
            assert market.stdout.readline().startswith("quoted ")
            with started("place_order.py", tmp_path / "custodian.json") as buyer:
                bought = buyer.communicate()[0]
            market.terminate()
        assert "bought 0.05 BTC-PERPETUAL at $100," in bought

    async with a_gateway(tmp_path / "node", monkeypatch) as url:
        await in_thread(work)


def documented_commands() -> Iterator[str]:
    for name in ("README.md", "docs/client.md"):
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            found = re.match(r"    (?:\$ )?(?:\.venv/bin/)?quorate ((?:account|order|book|watch) .*)", line)
            if found:
                yield found[1]


def test_the_documented_commands_are_commands() -> None:
    commands = list(documented_commands())
    assert len(commands) > 15
    for command in commands:
        app.parse_args(command, exit_on_error=False, print_error=False)


def test_the_client_needs_neither_libp2p_nor_numpy_nor_a_server() -> None:
    code = (
        "import sys, node.client.blocking, node.client.on_trio\n"
        "print([name for name in ('numpy', 'libp2p', 'lmdb', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ},
    )
    assert done.stdout == "[]\n"
