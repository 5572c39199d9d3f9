"""Writes everything a testnet's processes read: homes, genesis, market and traders' configuration. Disk.

All keys are derived from the seed and stored unencrypted: a testnet's keys protect nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ledger.genesis import GenesisAccount
from ledger.instruments import Instrument
from node.genesis import ConsensusParameters, GenesisDocument, chain_id_of
from node.genesis_defaults import default_ledger_genesis, default_staking, make_genesis, reporters_of
from node.home import create_homes, entry_of
from node.keystore import ValidatorKeys, save_seeds
from node.rpc.node_socket import SOCKET_PATH_BYTES_MAX
from primitives.amounts import NS, USD
from primitives.errors import OperatorError
from primitives.hashing import digest
from primitives.identifiers import Address
from primitives.signing import SigningKey, address_of
from testnet.market import replay, synthetic
from testnet.market.config import MarketConfig, MarketKind, VenueSpec, default_venues, venue_address
from testnet.market.source import MarketSource, listing
from testnet.market.sources import open_source
from testnet.plan import Plan
from testnet.processes import free_ports
from testnet.traders.config import Role, TradersConfig, TraderSpec

START_UP_SECONDS = 8.0
"""Real time that the processes may take before the first block; the expiry is placed after it."""
SHOCK_SHARE_OF_RUN = 0.35
SHOCK_PPM = -80_000
"""A synthetic market falls by 8 % once, so that whoever has too much leverage is liquidated in every run."""
SURFACE_INTERVAL_MS = 1_000
DELTA_MS = 150
"""Loopback needs far less; the rest is for a machine that is busy with everything else."""
CASH_USD = {Role.MAKER: 50_000_000, Role.TAKER: 2_000_000, Role.HEDGER: 5_000_000, Role.GAMBLER: 30_000}
STRIKES_MAX = 8
EXPIRIES_MAX = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a testnet is."""

    home: Path
    node_homes: tuple[Path, ...]
    sockets: tuple[Path, ...]
    gateway_ports: tuple[int, ...]
    genesis: GenesisDocument
    chain_id: bytes
    instruments: tuple[Instrument, ...]
    market_config: Path
    market: MarketConfig
    traders_config: Path
    traders_result: Path


def secret(seed: int, *names: object) -> bytes:
    """32 bytes for a testnet's key, from the seed and a name."""
    return digest(b"quorate-testkey", "|".join(map(str, (seed, *names))).encode())


def trader_specs(plan: Plan) -> tuple[TraderSpec, ...]:
    """One gambler, one hedger, makers and takers in turn; spread over the gateways."""
    roles = [Role.MAKER, Role.GAMBLER, Role.HEDGER, Role.TAKER]
    roles += [Role.MAKER if number % 2 == 0 else Role.TAKER for number in range(plan.traders - len(roles))]
    counts: dict[Role, int] = {}
    specs: list[TraderSpec] = []
    for number, role in enumerate(roles):
        counts[role] = counts.get(role, 0) + 1
        name = f"{role.value}{counts[role]}"
        seed = secret(plan.seed, "trader", name).hex()
        specs.append(TraderSpec(name, role, seed, number % plan.validators))
    return tuple(specs)


def create(plan: Plan, home: Path) -> Layout:
    """Write a new testnet into an empty directory. Raises OperatorError when it cannot be done."""
    _check_socket_paths(home, plan.validators)
    market = _market_config(plan, home)
    source = open_source(market)
    source.advance_to(market.start_market_ns)
    instruments = tuple(listing(source, EXPIRIES_MAX, STRIKES_MAX))
    keys = [
        ValidatorKeys(*(secret(plan.seed, "validator", index, use) for use in ("vote", "oracle", "network")))
        for index in range(plan.validators)
    ]
    traders = trader_specs(plan)
    genesis = _genesis(plan, market, source, instruments, keys, traders)
    ports = free_ports(2 * plan.validators)
    listen, gateways = ports[: plan.validators], ports[plan.validators :]
    node_homes = tuple(home / f"node{index}" for index in range(plan.validators))
    create_homes(
        node_homes,
        keys,
        genesis,
        [("127.0.0.1", port) for port in listen],
        password=None,
        settings=[_settings(market, index, gateways[index]) for index in range(plan.validators)],
    )
    layout = Layout(
        home=home,
        node_homes=node_homes,
        sockets=tuple(path / "data" / "node.sock" for path in node_homes),
        gateway_ports=tuple(gateways),
        genesis=genesis,
        chain_id=chain_id_of(genesis),
        instruments=instruments,
        market_config=home / "market.json",
        market=market,
        traders_config=home / "traders.json",
        traders_result=home / "traders-result.json",
    )
    save_seeds({"custodian": secret(plan.seed, "custodian")}, home / "custodian.json", None)
    layout.market_config.write_bytes(msgspec.json.format(msgspec.json.encode(market)))
    layout.traders_config.write_bytes(msgspec.json.encode(_traders_config(plan, layout, traders)))
    return layout


def _check_socket_paths(home: Path, validators: int) -> None:
    """Linux refuses longer names of Unix sockets; every process would say so in its own log only."""
    names = [
        f"node{validators - 1}/data/node.sock",
        *(f"venues/{venue.name}.sock" for venue in default_venues()),
    ]
    longest = max(len(str(home / name).encode()) for name in names)
    if longest > SOCKET_PATH_BYTES_MAX:
        raise OperatorError(
            f"{home} is too long a path: the sockets in it would have names of {longest} bytes, "
            f"Linux allows {SOCKET_PATH_BYTES_MAX}. Choose a shorter one with --home."
        )


def _market_config(plan: Plan, home: Path) -> MarketConfig:
    seconds = plan.seconds + START_UP_SECONDS
    if plan.is_synthetic:
        kind, path = MarketKind.SYNTHETIC, ""
        start_ns = synthetic.suggest_start_ns(plan.speed, seconds)
        shock_at_ns = start_ns + int((START_UP_SECONDS + plan.seconds * SHOCK_SHARE_OF_RUN) * plan.speed) * NS
    else:
        kind, path = MarketKind.REPLAY, str(Path(plan.market).absolute())
        start_ns = replay.suggest_start_ns(Path(path), plan.speed, seconds)
        shock_at_ns = 0
    sockets = home / "venues"
    sockets.mkdir(parents=True)
    return MarketConfig(
        kind=kind,
        seed=plan.seed,
        speed=plan.speed,
        start_market_ns=start_ns,
        start_monotonic_ns=time.monotonic_ns(),
        socket_dir=str(sockets),
        venues=default_venues(),
        path=path,
        expiries_max=EXPIRIES_MAX,
        shock_at_ns=shock_at_ns,
        shock_size_ppm=SHOCK_PPM if shock_at_ns else 0,
    )


def _genesis(
    plan: Plan,
    market: MarketConfig,
    source: MarketSource,
    instruments: tuple[Instrument, ...],
    keys: list[ValidatorKeys],
    traders: tuple[TraderSpec, ...],
) -> GenesisDocument:
    entries = tuple(entry_of(f"node{index}", key) for index, key in enumerate(keys))
    accounts = sorted(
        (GenesisAccount(_address(spec), 0, CASH_USD[spec.role] * USD) for spec in traders),
        key=lambda account: account.owner,
    )
    ledger = default_ledger_genesis(
        time_ns=market.start_market_ns,
        custodian_key=SigningKey(secret(plan.seed, "custodian")).public_key,
        reporters=reporters_of(entries),
        staking=default_staking(entries, speed=plan.speed),
        index_uusd={item: int(source.index(item) * USD) for item in source.underlyings},
        instruments=instruments,
        accounts=accounts,
        listing=synthetic.SCHEDULE if plan.is_synthetic else None,
        speed=plan.speed,
    )
    consensus = ConsensusParameters(
        delta_ms=DELTA_MS,
        min_block_ms=plan.min_block_ms,
        retain_views=1_024,
        lookahead_views=64,
        final_weight=0,
    )
    return make_genesis(f"testnet-{plan.seed}", entries, ledger, consensus)


def _address(spec: TraderSpec) -> Address:
    return address_of(SigningKey(bytes.fromhex(spec.key_seed)).public_key)


def _settings(market: MarketConfig, index: int, gateway_port: int) -> dict[str, object]:
    return {
        "log_level": "info",
        "log_file": "node.log",
        "gateway": {"port": gateway_port},
        "market_clock": {
            "start_market_ns": market.start_market_ns,
            "start_monotonic_ns": market.start_monotonic_ns,
            "speed": int(market.speed),
        },
        "oracle": {"index_interval_ms": 250, "surface_interval_ms": SURFACE_INTERVAL_MS},
        "venues": {
            venue.name: venue_address(market.socket_dir, venue.name)
            for venue in _venues_of(market.venues, index)
        },
    }


def _venues_of(venues: tuple[VenueSpec, ...], index: int) -> list[VenueSpec]:
    """Every validator sees the liar and all honest venues but one, which differs from validator to validator."""
    honest = [venue for venue in venues if not venue.lies]
    left_out = honest[index % len(honest)]
    return [venue for venue in venues if venue is not left_out]


def _traders_config(plan: Plan, layout: Layout, traders: tuple[TraderSpec, ...]) -> TradersConfig:
    market = layout.market
    return TradersConfig(
        gateways=tuple(f"127.0.0.1:{port}" for port in layout.gateway_ports),
        instruments=layout.instruments,
        venues={v.name: venue_address(market.socket_dir, v.name) for v in market.venues if not v.lies},
        traders=traders,
        seed=plan.seed,
        speed=market.speed,
        start_market_ns=market.start_market_ns,
        start_monotonic_ns=market.start_monotonic_ns,
        orders_per_second=plan.orders_per_second,
        result_path=str(layout.traders_result),
    )
