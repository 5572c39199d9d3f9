"""`quorate init`: a new network's keys, genesis and homes. Writes files; reads the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from node.config import CONFIG_FILE, load_config
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.genesis_defaults import (
    DEFAULT_INDEX_USD,
    default_ledger_genesis,
    default_listing,
    default_staking,
    make_genesis,
    reporters_of,
    scheduled_instruments,
    trial_staking,
)
from node.home import create_follower_home, create_homes, entry_of
from node.keystore import ValidatorKeys, load_keystore, save_seeds
from primitives.amounts import USD
from primitives.errors import OperatorError
from primitives.signing import SEED_BYTES, SigningKey

PORT_MAX = 65_535


def initialise(
    *,
    home: Path,
    validators: int,
    chain_name: str,
    hosts: Sequence[str],
    port: int,
    gateway_port: int,
    password: str | None,
    trial: bool = False,
) -> list[str]:
    """Write HOME/node0 ...; returns what to tell the operator. `trial`: epochs and unbonding of minutes.

    Raises:
        OperatorError: a home is in use, or an option does not fit another.
    """
    if hosts and len(hosts) != validators:
        raise OperatorError(f"--hosts names {len(hosts)} addresses for {validators} validators")
    if not 1 <= port <= PORT_MAX - validators or not 1 <= gateway_port <= PORT_MAX - validators:
        raise OperatorError(
            "--port and --gateway-port must leave room for one port per validator below 65536"
        )
    homes = [home / f"node{index}" for index in range(validators)]
    keys = [ValidatorKeys.generate() for _ in homes]
    custodian_path = home / "custodian.json"
    entries = [entry_of(f"node{index}", own) for index, own in enumerate(keys)]
    time_ns = time.time_ns()
    index_uusd = {underlying: usd * USD for underlying, usd in DEFAULT_INDEX_USD.items()}
    custodian_seed = os.urandom(SEED_BYTES)
    ledger = default_ledger_genesis(
        time_ns=time_ns,
        custodian_key=SigningKey(custodian_seed).public_key,
        reporters=reporters_of(entries),
        staking=trial_staking(entries) if trial else default_staking(entries),
        index_uusd=index_uusd,
        instruments=scheduled_instruments(time_ns, index_uusd, default_listing()),
        listing=default_listing(),
    )
    genesis = make_genesis(chain_name, entries, ledger)
    addresses = [(hosts[index] if hosts else "127.0.0.1", port + index) for index in range(validators)]
    settings = [{"gateway": {"port": gateway_port + index}} for index in range(validators)]
    create_homes(homes, keys, genesis, addresses, password=password, settings=settings)
    save_seeds({"custodian": custodian_seed}, custodian_path, password)
    return [
        f"chain {chain_name} {chain_id_of(genesis).hex()}",
        *(f"{own}  {entry.peer_id}" for own, entry in zip(homes, entries, strict=True)),
        f"{custodian_path}  signs deposits: keep it apart from the nodes",
        f"start each with: quorate start --home {homes[0]}",
    ]


def initialise_follower(home: Path, genesis_path: Path, peers: Sequence[str], gateway_port: int) -> list[str]:
    """Write the home of a node that does not vote; returns what to tell the operator.

    Raises:
        OperatorError: the home is in use, or an option does not fit another.
    """
    genesis = load_genesis(genesis_path)
    settings = {"name": "follower", "gateway": {"port": gateway_port}, "sync": {"snapshot": True}}
    addresses = _addresses(genesis, peers)
    create_follower_home(home, ValidatorKeys.generate(), genesis, addresses, settings)
    return [
        f"chain {genesis.chain_name} {chain_id_of(genesis).hex()}",
        f"{home}  follows {len(addresses)} of {len(genesis.validators)} validators",
        f"start it with: quorate start --home {home}",
    ]


def initialise_sentry(
    home: Path, validator_home: Path, password: str | None, host: str, port: int, gateway_port: int
) -> list[str]:
    """Write the home of a validator's sentry, from the validator's; returns what to tell the operator.

    Its keystore has the validator's network key, under the same password, and no key that votes or reports.

    Raises:
        OperatorError: the home is in use, or the validator's cannot be read.
    """
    config = load_config(validator_home)
    if config.index is None:
        raise OperatorError(f"{validator_home} is no validator's home: only a validator has sentries")
    genesis = load_genesis(config.genesis_path)
    keys = load_keystore(config.keystore_path, password, allow_insecure=config.insecure_keys)
    settings = {
        "name": f"{config.name}-sentry",
        "insecure_keys": password is None,
        "listen": {"host": host, "port": port},
        "gateway": {"port": gateway_port},
        "sentry": {"validator": config.index},
        "sync": {"snapshot": True},
    }
    addresses = {peer.index: (peer.host, peer.port) for peer in config.peers}
    own = ValidatorKeys(os.urandom(SEED_BYTES), os.urandom(SEED_BYTES), keys.network_seed)
    create_follower_home(home, own, genesis, addresses, settings, password)
    return [
        f"{home}  is to be the face of validator {config.index} ({config.name}) at {host} port {port}",
        f"start it with: quorate start --home {home}",
        f"announce it: quorate validator announce --home {validator_home} --address {host}:{port}",
        f"then add to {validator_home / CONFIG_FILE}, and start the validator again:",
        "",
        "[[sentries]]",
        f'host = "{host}"',
        f"port = {port}",
    ]


def initialise_validator(
    home: Path,
    genesis_path: Path,
    peers: Sequence[str],
    *,
    listen: tuple[str, int],
    gateway_port: int,
    password: str | None,
) -> list[str]:
    """Write the home of a validator that is to join a running chain; returns what to tell the operator.

    Raises:
        OperatorError: the home is in use, or an option does not fit another.
    """
    genesis = load_genesis(genesis_path)
    addresses = _addresses(genesis, peers)
    host, port = listen
    settings = {
        "name": home.name,
        "insecure_keys": password is None,
        "listen": {"host": host, "port": port},
        "gateway": {"port": gateway_port},
    }
    keys = ValidatorKeys.generate()
    create_follower_home(home, keys, genesis, addresses, settings, password)
    return [
        f"chain {genesis.chain_name} {chain_id_of(genesis).hex()}",
        f"{home}  {keys.peer_id}",
        f"consensus key {keys.consensus.public_key.hex()}",
        f"it follows the chain until node.toml names its place: quorate start --home {home}",
    ]


def _addresses(genesis: GenesisDocument, peers: Sequence[str]) -> dict[int, tuple[str, int]]:
    if len(peers) > len(genesis.validators):
        raise OperatorError(f"--peers names {len(peers)} addresses for {len(genesis.validators)} validators")
    found: dict[int, tuple[str, int]] = {}
    for index, text in enumerate(peers):
        host, _, port = text.rpartition(":")
        if text != "-":
            if not host or not port.isdecimal() or not 1 <= int(port) <= PORT_MAX:
                raise OperatorError(f"--peers: {text!r} is not HOST:PORT")
            found[index] = (host.strip("[]"), int(port))
    if not found:
        raise OperatorError("--peers names no validator to follow")
    return found
