"""Whether a home can start: its settings, genesis, keys and places, each with what to do. Reads files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from node.config import CONFIG_FILE, NodeConfig, load_config
from node.genesis import GenesisDocument, chain_id_of, load_genesis
from node.keystore import are_validator_names, is_consensus_name, is_insecure, read_public_keys
from node.network_config import face_of
from node.operations.findings import Finding, Level
from primitives.errors import OperatorError


def check_home(
    home: Path, path: Path | None, environment: Mapping[str, str]
) -> tuple[NodeConfig | None, list[Finding]]:
    """Everything that can be said without a password; the settings are None when they cannot be read."""
    try:
        config = load_config(home, path, environment=environment)
    except OperatorError as error:
        return None, [_mistake("settings", error)]
    findings = [Finding("settings", Level.GOOD, str(home / CONFIG_FILE if path is None else path))]
    try:
        genesis = load_genesis(config.genesis_path)
    except OperatorError as error:
        return config, [*findings, _mistake("genesis", error), *_keys(config, None)]
    chain = f"chain {genesis.chain_name}, id {chain_id_of(genesis).hex()[:16]}..."
    findings.append(Finding("genesis", Level.GOOD, f"{chain}, {len(genesis.validators)} validators"))
    return config, [
        *findings,
        *_keys(config, genesis),
        *_peers(config, genesis),
        *_gateway(config),
        _venues(config),
    ]


def _mistake(name: str, error: OperatorError) -> Finding:
    return Finding(name, Level.PROBLEM, str(error), "correct this; nothing starts before")


def _keys(config: NodeConfig, genesis: GenesisDocument | None) -> list[Finding]:
    try:
        public = read_public_keys(config.keystore_path)
        insecure = is_insecure(config.keystore_path)
    except OperatorError as error:
        return [_mistake("keystore", error)]
    if not are_validator_names(public):
        found = f"{config.keystore_path} holds {', '.join(public)}"
        return [Finding("keystore", Level.PROBLEM, found, "name a validator's keystore in `keystore`")]
    if insecure and not config.insecure_keys:
        found = f"{config.keystore_path} is not encrypted"
        return [
            Finding(
                "keystore", Level.PROBLEM, found, "for a testnet set insecure_keys = true; else make new keys"
            )
        ]
    findings = [
        Finding(
            "keystore",
            Level.WARNING,
            "keys without encryption",
            "fine for a testnet; never where there is money",
        )
        if insecure
        else Finding("keystore", Level.GOOD, "encrypted, readable by its owner alone")
    ]
    if config.index is not None and genesis is not None:
        findings.append(_identity(config, config.index, public, genesis))
    return findings


def _identity(
    config: NodeConfig, index: int, public: Mapping[str, bytes], genesis: GenesisDocument
) -> Finding:
    if index >= len(genesis.validators) and genesis.ledger.staking.validators:
        return Finding(
            "identity", Level.NOTE, f"place {index}, given after genesis: the chain says whose it is"
        )
    if index >= len(genesis.validators):
        found = f"index {index}, but genesis has {len(genesis.validators)} validators, counted from 0"
        return Finding("identity", Level.PROBLEM, found, "correct `index`, or leave it out to follow")
    entry = genesis.validators[index]
    consensus = [key for name, key in public.items() if is_consensus_name(name)]
    if not consensus and not config.signer.address:
        found = f"{config.keystore_path} holds no consensus key"
        return Finding("identity", Level.PROBLEM, found, "set [signer] address to the signer that has it")
    if public["oracle"] == entry.oracle_key and (not consensus or entry.consensus_key in consensus):
        return Finding("identity", Level.GOOD, f"validator {index} ({entry.name})")
    found = f"the keys are not those of validator {index} ({entry.name}) in genesis"
    return Finding("identity", Level.PROBLEM, found, "correct `index` or `keystore`")


def _peers(config: NodeConfig, genesis: GenesisDocument) -> list[Finding]:
    if config.sentries:
        return [Finding("peers", Level.GOOD, f"through {len(config.sentries)} sentries of our own")]
    named = {peer.index for peer in config.peers}
    missing = [i for i in range(len(genesis.validators)) if i not in named and i != face_of(config)]
    if not named and missing:
        found, advice = "no address of any validator", "add a [[peers]] entry for at least one"
        return [Finding("peers", Level.PROBLEM, found, advice)]
    if not missing or face_of(config) not in range(len(genesis.validators)):
        return [Finding("peers", Level.GOOD, f"{len(named)} addresses; others as they are announced")]
    who = ", ".join(f"{i} ({genesis.validators[i].name})" for i in missing)
    advice = "until they announce one (quorate validator announce) or dial us, add a [[peers]] entry for each"
    return [Finding("peers", Level.WARNING, f"no address of validator {who}", advice)]


def _gateway(config: NodeConfig) -> list[Finding]:
    path = config.token_path
    if not config.gateway.enabled or path is None or path.is_file():
        return []
    return [
        Finding(
            "gateway", Level.PROBLEM, f"there is no token file at {path}", "write it, or clear token_file"
        )
    ]


def _venues(config: NodeConfig) -> Finding:
    count = len(config.venues)
    if config.index is None:
        return Finding("venues", Level.NOTE, "a node that only follows reports no prices")
    if count >= 3:
        return Finding("venues", Level.GOOD, f"{count} sources of prices")
    advice = "name at least 3 in [venues]: one that errs is only outvoted by two others"
    return Finding("venues", Level.WARNING, f"{count} sources of prices", advice)
