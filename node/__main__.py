"""The `quorate` command: init, start, testnet. Reads and writes files, the terminal and the environment.

What a command needs is imported when it runs, so that `quorate --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from primitives.errors import OperatorError

EXIT_OPERATOR = 2
"""The operator can fix it: one line on standard error says how."""


def _version() -> str:
    try:
        return f"quorate {version('quorate')}"
    except PackageNotFoundError:
        return "quorate (from a source tree)"


app = cyclopts.App(
    name="quorate",
    help=(
        "A peer-to-peer node with which validators run an options exchange together.\n\n"
        "Four validators on this machine, with a market and traders:\n\n"
        "    quorate testnet up --validators 4 --seconds 60\n\n"
        "A network of your own, one home directory for each validator:\n\n"
        "    quorate init --home network --validators 4 --insecure-keys\n\n"
        "    quorate start --home network/node0"
    ),
    version=_version,
    help_format="plaintext",
)


@app.command
def init(
    *,
    home: Path,
    validators: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1, lte=256))] = 4,
    chain_name: str = "quorate-local",
    hosts: Annotated[tuple[str, ...], Parameter(negative="", show_default=False, consume_multiple=True)] = (),
    port: int = 26_600,
    gateway_port: int = 26_700,
    insecure_keys: Annotated[bool, Parameter(negative="")] = False,
    password_file: Path | None = None,
    trial: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write keys, genesis and configuration for a new network, one home directory for each validator.

    HOME/node0, HOME/node1, ... each get a keystore, the shared genesis.json and a node.toml.

    HOME/custodian.json signs deposits. Nothing is ever overwritten.

    Example: quorate init --home network --validators 4 --insecure-keys

    Parameters
    ----------
    home
        Directory for the homes; it may exist, the homes in it may not.
    validators
        How many validators, all with weight 1.
    chain_name
        Name of the chain: part of genesis, hence of the chain id.
    hosts
        Address of each validator as the others dial it, in order; 127.0.0.1 for all if not given.
    port
        libp2p port of the first validator; the others count up.
    gateway_port
        HTTP port of the first gateway, on loopback; the others count up.
    insecure_keys
        Write keys without encryption. For testnets only.
    password_file
        File with the password of all keystores; else QUORATE_PASSWORD, else you are asked.
    trial
        Epochs of 200 blocks and unbonding within minutes, to try staking on one machine.
    """
    commands = import_module("node.init_command")
    password = None if insecure_keys else _password(password_file, "Password for the new keystores: ")
    lines = commands.initialise(
        home=home,
        validators=validators,
        chain_name=chain_name,
        hosts=hosts,
        port=port,
        gateway_port=gateway_port,
        password=password,
        trial=trial,
    )
    print("\n".join(lines))


@app.command
def init_follower(
    *,
    home: Path,
    genesis: Path,
    peers: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)],
    gateway_port: int = 26_700,
) -> None:
    """Write the home of a node that follows the chain and does not vote: ledger, gateway, no votes.

    Its keystore only names it to its peers and is not encrypted: nothing is signed with it.

    Example: quorate init-follower --home mirror --genesis genesis.json --peers 127.0.0.1:26600 127.0.0.1:26601

    Parameters
    ----------
    home
        New directory for the node.
    genesis
        The chain's genesis.json, from a source that you trust.
    peers
        HOST:PORT of validators, in the order of genesis; - for one that you do not know.
    gateway_port
        HTTP port for clients, on loopback.
    """
    commands = import_module("node.init_command")
    print("\n".join(commands.initialise_follower(home, genesis, peers, gateway_port)))


@app.command
def init_sentry(
    *,
    home: Path,
    validator_home: Path,
    host: str = "127.0.0.1",
    port: int = 26_600,
    gateway_port: int = 26_700,
    password_file: Path | None = None,
) -> None:
    """Write the home of a sentry: a follower that is one validator's face to all others, and hides its address.

    The sentry gets the validator's network key and none that votes or reports.

    Example: quorate init-sentry --home sentry --validator-home network/node3 --host 10.0.0.7

    Parameters
    ----------
    home
        New directory for the sentry.
    validator_home
        The validator's, which tells the chain, the key and the other validators' addresses.
    host
        Address of the sentry, as the others and the validator dial it.
    port
        Port for them.
    gateway_port
        HTTP port for clients, on loopback.
    password_file
        File with the password of the validator's keystore, and of the sentry's; else QUORATE_PASSWORD, else you are
        asked.
    """
    from node.config import load_config
    from node.keystore import is_insecure

    commands = import_module("node.init_command")
    path = load_config(validator_home).keystore_path
    password = None if is_insecure(path) else _password(password_file, f"Password for {path}: ")
    print("\n".join(commands.initialise_sentry(home, validator_home, password, host, port, gateway_port)))


@app.command
def init_validator(
    *,
    home: Path,
    genesis: Path,
    peers: Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)],
    listen_host: str = "127.0.0.1",
    listen_port: int = 26_600,
    gateway_port: int = 26_700,
    insecure_keys: Annotated[bool, Parameter(negative="")] = False,
    password_file: Path | None = None,
) -> None:
    """Write the home of a validator that is to join a running chain; until it has a place, its node follows.

    Then fund an account, `quorate validator bond`, `announce` and `join` (docs/operators.md).

    Example: quorate init-validator --home mine --genesis genesis.json --peers 10.0.0.1:26600 10.0.0.2:26600

    Parameters
    ----------
    home
        New directory for the node.
    genesis
        The chain's genesis.json, from a source that you trust.
    peers
        HOST:PORT of one or two validators to start from, in the order of genesis; - for one that you leave out.
    listen_host
        This validator's address for the others.
    listen_port
        Its libp2p port.
    gateway_port
        HTTP port for clients, on loopback.
    insecure_keys
        Write keys without encryption. For testnets only.
    password_file
        File with the keystore's password; else QUORATE_PASSWORD, else you are asked.
    """
    commands = import_module("node.init_command")
    password = None if insecure_keys else _password(password_file, "Password for the new keystore: ")
    lines = commands.initialise_validator(
        home,
        genesis,
        peers,
        listen=(listen_host, listen_port),
        gateway_port=gateway_port,
        password=password,
    )
    print("\n".join(lines))


@app.command
def start(
    *,
    home: Path,
    config: Path | None = None,
    password_file: Path | None = None,
    insecure_keys: bool | None = None,
    listen_host: str | None = None,
    listen_port: int | None = None,
    gateway_port: int | None = None,
    log_level: str | None = None,
    log_file: str | None = None,
) -> None:
    """Run one node until SIGTERM or Ctrl-C.

    Options here go before QUORATE_* environment variables, those before node.toml.

    Exit code: 0 after SIGTERM or Ctrl-C, 2 for what the operator can fix (one line says what).

    Example: quorate start --home network/node0 --log-level warning

    Parameters
    ----------
    home
        The node's home directory, as written by `quorate init`.
    config
        Another configuration file than HOME/node.toml.
    password_file
        File with the keystore's password; else QUORATE_PASSWORD, else you are asked.
    insecure_keys
        Accept a keystore without encryption. For testnets only.
    listen_host
        Address for other validators.
    listen_port
        Port for other validators.
    gateway_port
        HTTP port for clients.
    log_level
        debug, info, warning, error or critical.
    log_file
        Append JSON log lines to this file, relative to the home, instead of standard error.
    """
    overrides = {
        "insecure_keys": insecure_keys,
        "listen.host": listen_host,
        "listen.port": listen_port,
        "gateway.port": gateway_port,
        "log_level": log_level,
        "log_file": log_file,
    }
    _run_node(home, config, password_file, overrides)


def _run_node(home: Path, path: Path | None, password_file: Path | None, overrides: dict[str, Any]) -> None:
    import structlog
    import trio

    from node.config import load_config
    from node.genesis import load_genesis
    from node.keystore import is_insecure, load_keystore
    from node.logs import configure_logs

    config = load_config(home, path, environment=os.environ, overrides=overrides)
    configure_logs(config.log_level, config.log_path, node=config.name)
    genesis = load_genesis(config.genesis_path)
    insecure = is_insecure(config.keystore_path)
    password = None if insecure else _password(password_file, f"Password for {config.keystore_path}: ")
    keys = load_keystore(config.keystore_path, password, allow_insecure=config.insecure_keys)
    if insecure:
        structlog.get_logger().warning("insecure_keys", keystore=str(config.keystore_path))
    run_node = import_module("node.wiring").run_node
    trio.run(run_node, config, genesis, keys)


def _password(file: Path | None, prompt: str) -> str:
    from node.keystore import read_password

    return read_password(file, os.environ, prompt)


app.command("testnet.bench.commands:app", name="bench", help="Measure what this machine does in a second.")
app.command("testnet.sim.commands:app", name="sim", help="Simulate networks from a seed and break them.")
app.command("node.operations.commands:app", name="config", help="Check and show one node's settings.")
app.command(
    "node.operations.commands:doctor", name="doctor", help="Examine a node's home, machine and network."
)
app.command(
    "node.operations.commands:trace", name="trace", help="Follow one transaction through nodes' logs."
)
app.command("node.forensics_commands:app", name="forensics", help="Name the guilty of a fork, with proof.")
app.command("node.backup_commands:backup", name="backup", help="Write a node's home to one file.")
app.command(
    "node.backup_commands:restore", name="restore", help="Make a home from a backup; it observes first."
)
app.command("node.history_commands:replay", name="replay", help="Verify a node's whole history again.")
app.command("node.history_commands:diverge", name="diverge", help="Find where two nodes' states part.")
app.command("node.light.commands:app", name="proof", help="Prove a part of the state; check a proof offline.")
app.command("node.light.commands:light_app", name="light", help="Follow the epochs without a node.")
app.command(
    "node.keys_commands:app", name="keys", help="A home's secret keys, and the record of what they signed."
)
app.command("node.signer.commands:app", name="signer", help="Keep the consensus key in a process of its own.")
app.command(
    "node.client.validator_commands:app",
    name="validator",
    help="Become a validator, stand in its sets, rotate its key, leave.",
)
app.command("node.risk.commands:app", name="risk", help="Risk of an account, a surface or the protocol.")
app.command("node.client.account_commands:app", name="account", help="An account: keys, balances, history.")
app.command("node.client.order_commands:app", name="order", help="Place, replace and cancel orders.")
app.command("node.client.market_commands:book", name="book", help="The order book of one instrument.")
app.command("node.client.market_commands:watch", name="watch", help="A market or an account, live.")
app.command(
    "testnet.commands:app", name="testnet", help="Run several validators on this machine, with a market."
)


def main(arguments: list[str] | None = None) -> None:
    """Run one command; the process's exit code says how it went."""
    try:
        app(arguments)
    except OperatorError as error:
        print(f"quorate: {error}", file=sys.stderr)
        sys.exit(EXIT_OPERATOR)
    except BaseExceptionGroup as group:
        sentence = _operator_sentence(group)
        if sentence is None:
            raise
        print(f"quorate: {sentence}", file=sys.stderr)
        sys.exit(EXIT_OPERATOR)
    except KeyboardInterrupt:
        sys.exit(130)


def _operator_sentence(group: BaseExceptionGroup[BaseException]) -> str | None:
    """The operator's mistake that ended a nursery, if nothing worse is in the group."""
    mistakes, rest = group.split(OperatorError)
    if mistakes is None or rest is not None:
        return None
    error: BaseException = mistakes
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


if __name__ == "__main__":
    main()
