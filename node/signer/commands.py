"""The `quorate signer` commands: make a signer's home, its certificates, and run it. Files, the terminal, sockets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import trio
from cyclopts import App, Parameter
from prometheus_client import start_http_server

from node.config import load_config
from node.genesis import chain_id_of, load_genesis
from node.keystore import is_consensus_name, open_seeds, replace_seeds, save_seeds
from node.logs import configure_logs
from node.signer.address import parse_address
from node.signer.desk import (
    KEYSTORE_FILE,
    RECORD_DIRECTORY,
    WATERMARK_FILE,
    SignerSettings,
    SigningDesk,
    write_settings,
)
from node.signer.server import SignerServer, run_signer
from node.signer.tls import context_of, create_certificate
from node.signing_record import copy_record
from node.storage.home_lock import HomeLock
from primitives.errors import OperatorError
from primitives.signing import SigningKey

app = App(name="signer", help="Keep the consensus key in a process of its own, away from the node.")

PasswordFile = Annotated[
    Path | None,
    Parameter(help="File with the keystore's password; else QUORATE_PASSWORD, else you are asked."),
]


@app.command
def init(*, home: Path, node: Path, password_file: PasswordFile = None) -> None:
    """Move the consensus keys of a stopped node, and the record of what they signed, into a signer's home.

    The node's keystore keeps its oracle and network keys. Then set [signer] address in its node.toml.

    Example: quorate signer init --home signer --node network/node0

    Parameters
    ----------
    home
        New directory for the signer.
    node
        Home of the node, which must not be running.
    """
    config = load_config(node, environment=os.environ)
    chain_id = chain_id_of(load_genesis(config.genesis_path))
    lock = HomeLock(config.home_path)
    try:
        if home.exists() and any(home.iterdir()):
            raise OperatorError(f"{home} is not empty: nothing was written")
        seeds, password = open_seeds(config.keystore_path, password_file)
        moved = {name: seed for name, seed in seeds.items() if is_consensus_name(name)}
        if not moved:
            raise OperatorError(f"the keystore {config.keystore_path} holds no consensus key")
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_settings(home, SignerSettings(chain_id.hex(), {}))
        position = copy_record(
            config.journal_path, config.watermark_path, home / RECORD_DIRECTORY, home / WATERMARK_FILE
        )
        save_seeds(moved, home / KEYSTORE_FILE, password)
        kept = {name: seed for name, seed in seeds.items() if name not in moved}
        replace_seeds(kept, config.keystore_path, password)
    finally:
        lock.release()
    for name, seed in moved.items():
        print(f"{name} {SigningKey(seed).public_key.hex()}")
    print(f"signed up to epoch {position.epoch} view {position.view}; chain {chain_id.hex()}")
    print(f"start it with: quorate signer start --home {home} --listen unix:{home.absolute()}/signer.sock")
    print(f'then put under [signer] in {node}/node.toml: address = "unix:{home.absolute()}/signer.sock"')


@app.command
def certificate(*, out: Path, name: str = "quorate-signer") -> None:
    """Write a new certificate (OUT.pem) and its secret key (OUT.key), for a signer on TCP or for its node.

    Give the .pem file, never the .key, to the other side; compare fingerprints over another channel.

    Example: quorate signer certificate --out signer/signer

    Parameters
    ----------
    out
        Path without its ending.
    name
        Stands in the certificate for people to read; nothing depends on it.
    """
    made = out.with_name(f"{out.name}.pem")
    print(f"{made}  sha256 {create_certificate(made, out.with_name(f'{out.name}.key'), name)}")


@app.command
def start(
    *,
    home: Path,
    listen: str,
    password_file: PasswordFile = None,
    insecure_keys: Annotated[bool, Parameter(negative="")] = False,
    certificate: Path | None = None,
    private_key: Path | None = None,
    trusted: Path | None = None,
    metrics_port: int = 0,
    log_level: str = "info",
    log_file: Path | None = None,
) -> None:
    """Run a signer until SIGTERM or Ctrl-C.

    It signs votes of one chain for one node at a time, each once its record is on disk, and refuses whatever
    contradicts one before. On a Unix socket only this user may ask; on TCP only the owner of the trusted certificate.

    Example: quorate signer start --home signer --listen unix:/run/quorate/signer.sock

    Parameters
    ----------
    home
        Directory that `quorate signer init` made.
    listen
        unix:/path or tcp:host:port.
    insecure_keys
        Accept a keystore without encryption. For testnets only.
    certificate
        For TCP: this signer's own; HOME/signer.pem if not given.
    private_key
        For TCP: its key; HOME/signer.key if not given.
    trusted
        For TCP: the node's certificate; HOME/signer-node.pem if not given.
    metrics_port
        Serve Prometheus metrics on this port of 127.0.0.1; 0: none.
    log_level
        debug, info, warning, error or critical.
    log_file
        Append JSON log lines to this file instead of standard error.
    """
    address = parse_address(listen)
    configure_logs(log_level, log_file, signer=str(home))
    lock = HomeLock(home)
    try:
        seeds, _ = open_seeds(home / KEYSTORE_FILE, password_file, allow_insecure=insecure_keys)
        keys = {key.public_key: key for key in map(SigningKey, seeds.values())}
        node, tls = trusted or home / "signer-node.pem", None
        if address.path is None:
            own = certificate or home / "signer.pem", private_key or home / "signer.key"
            tls = context_of(*own, node, is_server=True)
        with SigningDesk(home, keys) as desk:
            server = SignerServer(desk, address, tls, node)
            if metrics_port:
                start_http_server(metrics_port, "127.0.0.1", server.registry)
            trio.run(run_signer, server)
    finally:
        lock.release()
