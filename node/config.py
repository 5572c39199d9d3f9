"""One node's own choices: node.toml, environment and command line into frozen structs. Reads files.

Precedence: command line, then QUORATE_* environment variables, then node.toml, then the defaults here. Every
scalar setting has a variable: `[gateway] port` is QUORATE_GATEWAY_PORT. Paths are relative to the home
directory.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec

from node.logs import LEVELS
from node.oracle.addresses import FORMS, host_of, parse_exchange
from node.signer.address import SignerAddress, parse_address
from primitives.errors import OperatorError

CONFIG_FILE = "node.toml"
ENVIRONMENT_PREFIX = "QUORATE_"

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table of the file: unknown names are refused, so that a typing error is not silent."""


class ListenConfig(_Section, frozen=True, kw_only=True):
    """Where other validators reach this node (libp2p over TCP)."""

    host: Text = "127.0.0.1"
    port: Port = 26_600
    dial_private: bool = False
    """Dial announced addresses of private ranges too; a node that listens on one does so anyway."""


class PeerAddress(_Section, frozen=True, kw_only=True):
    """Where this node dials the validator with this index: its number in genesis, or its later place."""

    index: Annotated[int, msgspec.Meta(ge=0, le=255)]
    host: Text
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    peer_id: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Of a validator that joined later; those of genesis have theirs there."""


class GatewayConfig(_Section, frozen=True, kw_only=True):
    """The HTTP and WebSocket interface for clients, its own process."""

    enabled: bool = True
    host: Text = "127.0.0.1"
    port: Port = 26_700
    token_file: str = ""
    """File of bearer tokens (docs/spec/api.md); empty asks for none."""
    public_read: bool = False
    """Without a token whoever asks may read, but neither trade nor administrate."""
    tls_certificate: str = ""
    """PEM file with the certificate and its chain: the gateway then speaks TLS."""
    tls_key: str = ""
    behind_tls_proxy: bool = False
    """The operator's word that a proxy with TLS stands in front; clients' addresses are what it forwards."""
    address_units_per_second: Count = 100
    """Quota of an address without a token; ten seconds' worth may come at once. 0: no limit."""
    token_units_per_second: Count = 1_000
    """Quota of a token whose entry names none."""
    key_transactions_per_second: Count = 500
    """Accepted transactions of one account key; ten seconds' worth may come at once. 0: no limit."""
    limit_loopback: bool = False
    """Hold clients on this machine to the quotas too."""


class MarketClockConfig(_Section, frozen=True, kw_only=True):
    """Market time: the wall clock, or for a testnet start_market_ns + speed * (monotonic -
    start_monotonic_ns)."""

    start_market_ns: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """0: market time is the wall clock, and `speed` must be 1."""
    start_monotonic_ns: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """CLOCK_MONOTONIC of this machine at start_market_ns; shared by all processes on it."""
    speed: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1


class OracleConfig(_Section, frozen=True, kw_only=True):
    """How often this validator reports what its venues show, in real milliseconds."""

    index_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 250
    surface_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=600_000)] = 5_000


class SentryAddress(_Section, frozen=True, kw_only=True):
    """Where this validator dials one of its own sentries."""

    host: Text
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class SentryConfig(_Section, frozen=True, kw_only=True):
    """What a follower is beside following."""

    validator: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    """Index of the validator whose face to the network this node is; its keystore has that one's network key."""


class SyncConfig(_Section, frozen=True, kw_only=True):
    """How a node that has nothing gets what there is."""

    snapshot: bool = False
    """Take a snapshot of the ledger from peers into an empty block store, instead of every block since genesis."""
    trusted_epoch: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    """With `trusted_boundary`: a point that the chain must pass; needed once genesis is too old to be trusted."""
    trusted_boundary: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")] = ""
    """Hash (hex) of the block on which that epoch began."""


class SignerConfig(_Section, frozen=True, kw_only=True):
    """A remote signer that holds the consensus key; over TCP both sides show certificates."""

    address: str = ""
    """`unix:/path` or `tcp:host:port`; empty: the key is in this node's keystore."""
    certificate: str = "signer-node.pem"
    """This node's own, for TCP, as `quorate signer certificate` makes it."""
    private_key: str = "signer-node.key"
    trusted: str = "signer.pem"
    """The signer's certificate."""


class NodeConfig(_Section, frozen=True, kw_only=True):
    """Everything one operator may choose; what all validators must agree on is in genesis."""

    home: str = ""
    """Set by the loader, not in the file."""
    name: Text
    index: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    """Place in genesis' validator list; None follows and does not vote."""
    genesis: Text = "genesis.json"
    keystore: Text = "keystore.json"
    data: Text = "data"
    log_level: str = "info"
    log_file: str = ""
    """Empty: standard error."""
    insecure_keys: bool = False
    """Accept a keystore without encryption: for testnets only."""
    retention_blocks: Count = 0
    """Final blocks kept below the tip; 0 asks for none."""
    retention_seconds: Count = 0
    """Final blocks younger than this, in block time, are kept; 0 asks for none. Both 0: all are kept."""
    snapshot_blocks: Count = 10_000
    """A snapshot of the ledger at every multiple of this height; 0: none."""
    snapshots_kept: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 2
    """So many of the newest snapshots."""
    listen: ListenConfig = ListenConfig()
    gateway: GatewayConfig = GatewayConfig()
    market_clock: MarketClockConfig = MarketClockConfig()
    oracle: OracleConfig = OracleConfig()
    sync: SyncConfig = SyncConfig()
    sentry: SentryConfig = SentryConfig()
    sentries: tuple[SentryAddress, ...] = ()
    """A validator's own sentries: it talks to nobody else, and listens nowhere. Empty: it talks to everybody itself."""
    signer: SignerConfig = SignerConfig()
    peers: tuple[PeerAddress, ...] = ()
    venues: dict[str, str] = {}
    """Venue name -> `unix:/path/to.sock`, `tcp:host:port` or `<exchange>:wss://host/path`."""

    @property
    def home_path(self) -> Path:
        """The home directory, absolute."""
        return Path(self.home)

    def signer_address(self) -> SignerAddress | None:
        """Where the remote signer is, or None. Raises OperatorError for what is no address."""
        return parse_address(self.signer.address) if self.signer.address else None

    @property
    def genesis_path(self) -> Path:
        """The genesis document."""
        return self.home_path / self.genesis

    @property
    def keystore_path(self) -> Path:
        """The file with this validator's secret keys."""
        return self.home_path / self.keystore

    @property
    def data_path(self) -> Path:
        """The directory of everything the node writes itself."""
        return self.home_path / self.data

    @property
    def journal_path(self) -> Path:
        """Directory of the safety journal."""
        return self.data_path / "journal"

    @property
    def watermark_path(self) -> Path:
        """The signer's watermark: beside the keystore, apart from the journal."""
        return self.keystore_path.with_suffix(".watermark")

    @property
    def store_path(self) -> Path:
        """Directory of the block store."""
        return self.data_path / "blocks"

    @property
    def snapshots_path(self) -> Path:
        """Directory of the ledger's snapshots."""
        return self.data_path / "snapshots"

    @property
    def socket_path(self) -> Path:
        """The Unix socket between the node and its gateway."""
        return self.data_path / "node.sock"

    @property
    def log_path(self) -> Path | None:
        """The log file, or None for standard error."""
        return self.home_path / self.log_file if self.log_file else None

    @property
    def token_path(self) -> Path | None:
        """The gateway's token file, or None."""
        return self.home_path / self.gateway.token_file if self.gateway.token_file else None

    @property
    def tls_paths(self) -> tuple[Path, Path] | None:
        """Certificate and key of the gateway, or None."""
        gateway = self.gateway
        if not gateway.tls_certificate:
            return None
        return self.home_path / gateway.tls_certificate, self.home_path / gateway.tls_key


def load_config(
    home: Path,
    path: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> NodeConfig:
    """Read and check one node's configuration.

    Args:
        path: the TOML file; node.toml in the home directory when None.
        environment: usually os.environ; only QUORATE_* names of settings are read.
        overrides: dotted setting -> value from the command line, such as {"gateway.port": 0}; None values
        are skipped.

    Raises:
        OperatorError: one clear sentence that names the file or variable and the setting.
    """
    path = home / CONFIG_FILE if path is None else path
    raw = _read_toml(path)
    if "home" in raw:
        raise OperatorError(f"{path}: `home` is given on the command line, not in the file")
    for setting, kind in _scalar_settings(NodeConfig):
        variable = ENVIRONMENT_PREFIX + "_".join(setting).upper()
        if environment is not None and variable in environment:
            _set(raw, setting, _from_text(variable, environment[variable], kind), path)
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _set(raw, tuple(dotted.split(".")), value, path)
    raw["home"] = str(home.absolute())
    try:
        config = msgspec.convert(raw, NodeConfig)
    except msgspec.ValidationError as error:
        raise OperatorError(f"{path}: {_sentence(error)}") from None
    check_config(config, path)
    return config


def setting_origins(home: Path, path: Path | None, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """(dotted name, where its value comes from) of every scalar setting, in the order of the tables.

    The origin is the variable's name, "file" or "default". Raises OperatorError as load_config does.
    """
    raw = _read_toml(home / CONFIG_FILE if path is None else path)
    origins = []
    for setting, _ in _scalar_settings(NodeConfig):
        variable = ENVIRONMENT_PREFIX + "_".join(setting).upper()
        table: Any = raw
        for name in setting:
            table = table.get(name) if isinstance(table, dict) else None
        origin = variable if variable in environment else "default" if table is None else "file"
        origins.append((".".join(setting), origin))
    return origins


def check_config(config: NodeConfig, path: Path) -> None:
    """Relations between settings that no type can state. Raises OperatorError."""
    if config.log_level not in LEVELS:
        known = ", ".join(LEVELS)
        raise OperatorError(f"{path}: log_level: {config.log_level!r} is none of {known}")
    indices = [peer.index for peer in config.peers]
    if len(set(indices)) != len(indices):
        raise OperatorError(f"{path}: peers: an index appears twice")
    if config.sentries and config.index is None:
        raise OperatorError(f"{path}: sentries: only a validator (one with an index) has sentries")
    if config.sentry.validator is not None and config.index is not None:
        raise OperatorError(f"{path}: sentry.validator: a validator is nobody's sentry; remove index")
    if config.index in indices:
        raise OperatorError(f"{path}: peers: index {config.index} is this node itself")
    clock = config.market_clock
    if clock.start_market_ns == 0 and (clock.speed != 1 or clock.start_monotonic_ns):
        raise OperatorError(f"{path}: market_clock: the wall clock (start_market_ns = 0) runs at speed 1")
    _check_gateway(config, path)
    _check_venues(config, path)
    try:
        config.signer_address()
    except OperatorError as error:
        raise OperatorError(f"{path}: signer.address: {error}") from None


def _check_venues(config: NodeConfig, path: Path) -> None:
    for name, address in config.venues.items():
        if not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
            raise OperatorError(f"{path}: venues: {name!r}: a name is 1 to 32 of a-z, 0-9, _ and -")
        try:
            exchange = parse_exchange(address)
        except OperatorError as error:
            raise OperatorError(f"{path}: venues.{name}: {error}") from None
        if exchange is None:
            scheme, _, rest = address.partition(":")
            if scheme not in ("unix", "tcp") or not rest:
                raise OperatorError(f"{path}: venues.{name}: {address!r} is none of {FORMS}")
            continue
        _, url = exchange
        if url.startswith("ws:") and not is_loopback(host_of(url)):
            raise OperatorError(
                f"{path}: venues.{name}: prices over {url} could be forged on the way; use wss://"
            )
        if config.market_clock.start_market_ns:
            raise OperatorError(
                f"{path}: venues.{name}: an exchange stamps its prices with the wall clock, but market_clock is "
                "another; remove the venue or market_clock"
            )


def _check_gateway(config: NodeConfig, path: Path) -> None:
    gateway = config.gateway
    if bool(gateway.tls_certificate) != bool(gateway.tls_key):
        raise OperatorError(f"{path}: gateway: tls_certificate and tls_key come together")
    if not gateway.enabled or is_loopback(gateway.host):
        return
    if not gateway.token_file and not gateway.public_read:
        raise OperatorError(
            f"{path}: gateway.host: {gateway.host} is not loopback; set gateway.token_file, or gateway.public_read = "
            "true to let everybody read"
        )
    if not gateway.tls_certificate and not gateway.behind_tls_proxy:
        raise OperatorError(
            f"{path}: gateway.host: {gateway.host} is not loopback; set gateway.tls_certificate and tls_key or, once "
            "a proxy with TLS stands in front, gateway.behind_tls_proxy = true"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; unknown names count as public."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"there is no configuration at {path}: `quorate init` writes one") from None
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OperatorError(f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise OperatorError(f"{path} is not valid TOML: {error}") from None


def _scalar_settings(kind: type[_Section], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """(path, type) of every setting that a variable can carry: neither lists nor free tables nor home."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, _Section):
            found += _scalar_settings(hint, (*prefix, name))
        elif name not in ("home", "peers", "venues", "sentries"):
            found.append(((*prefix, name), hint))
    return found


def _from_text(variable: str, text: str, kind: Any) -> Any:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise OperatorError(f"environment variable {variable}={text!r}: {_sentence(error)}") from None


def _set(raw: dict[str, Any], setting: tuple[str, ...], value: Any, path: Path) -> None:
    table = raw
    for name in setting[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise OperatorError(f"{path}: {name} must be a table")
    table[setting[-1]] = value


def _sentence(error: msgspec.ValidationError) -> str:
    """msgspec's message with its path in our words: "Expected `int`, got `str` - at `$.gateway.port`"."""
    message, _, place = str(error).partition(" - at ")
    setting = place.strip("`").removeprefix("$.")
    return f"{setting}: {message}" if setting else message
