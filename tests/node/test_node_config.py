"""node.toml, environment and command line: who wins, and one sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from node.config import NodeConfig, PeerAddress, load_config
from primitives.errors import OperatorError

MINIMAL = 'name = "node0"\n'


def loaded(home: Path, toml: str, **arguments: object) -> NodeConfig:
    (home / "node.toml").write_text(toml)
    return load_config(home, **arguments)  # type: ignore[arg-type]


def test_a_name_is_enough(tmp_path: Path) -> None:
    assert loaded(tmp_path, MINIMAL) == NodeConfig(home=str(tmp_path), name="node0")


def test_paths_are_relative_to_the_home_unless_absolute(tmp_path: Path) -> None:
    config = loaded(tmp_path, MINIMAL + 'genesis = "../genesis.json"\nkeystore = "/keys/one.json"\n')
    assert (config.genesis_path, config.keystore_path) == (
        tmp_path / "../genesis.json",
        Path("/keys/one.json"),
    )
    assert config.watermark_path == Path("/keys/one.watermark")


def test_tables_and_peers_are_read(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        MINIMAL
        + 'index = 0\n[venues]\nalpha = "unix:/run/a.sock"\n[[peers]]\nindex = 1\nhost = "b"\nport = 5\n',
    )
    assert config.peers == (PeerAddress(index=1, host="b", port=5),)
    assert config.venues == {"alpha": "unix:/run/a.sock"}


def test_exchanges_are_venues_over_tls_or_on_loopback(tmp_path: Path) -> None:
    venues = {
        "deribit": "deribit:wss://www.deribit.com/ws/api/v2",
        "own": "okx:ws://127.0.0.1:9/ws/v5/public",
    }
    toml = "".join(f'{name} = "{address}"\n' for name, address in venues.items())
    assert loaded(tmp_path, MINIMAL + "[venues]\n" + toml).venues == venues


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    toml = MINIMAL + 'log_level = "error"\n[gateway]\nport = 1\n[listen]\nport = 1\n'
    environment = {"QUORATE_GATEWAY_PORT": "2", "QUORATE_LISTEN_PORT": "2", "QUORATE_INSECURE_KEYS": "true"}
    overrides = {"gateway.port": 3, "log_level": None}
    config = loaded(tmp_path, toml, environment=environment, overrides=overrides)
    assert (config.gateway.port, config.listen.port, config.log_level, config.insecure_keys) == (
        *(3, 2, "error", True),
    )


def test_other_variables_of_the_prefix_are_none_of_our_business(tmp_path: Path) -> None:
    environment = {"QUORATE_PASSWORD": "secret", "QUORATE_SERVICE_HOST": "10.0.0.1"}
    assert loaded(tmp_path, MINIMAL, environment=environment) == loaded(tmp_path, MINIMAL)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("name = ", "is not valid TOML: Invalid value"),
        ("", "Object missing required field `name`"),
        (MINIMAL + "prot = 1", "Object contains unknown field `prot`"),
        (MINIMAL + "[gateway]\nprot = 1", "gateway: Object contains unknown field `prot`"),
        (MINIMAL + "[gateway]\nport = 70000", "gateway.port: Expected `int` <= 65535"),
        (MINIMAL + '[listen]\nport = "26600"', "listen.port: Expected `int`, got `str`"),
        (MINIMAL + 'listen = "here"', "listen: Expected `object`, got `str`"),
        (MINIMAL + 'home = "."', "`home` is given on the command line"),
        (MINIMAL + 'log_level = "loud"', "log_level: 'loud' is none of debug"),
        (MINIMAL + '[gateway]\nhost = "0.0.0.0"', "gateway.host: 0.0.0.0 is not loopback"),
        (MINIMAL + '[gateway]\nhost = "0.0.0.0"\ntoken_file = "t"', "behind_tls_proxy = true"),
        (MINIMAL + "[market_clock]\nspeed = 2", "the wall clock .* runs at speed 1"),
        (MINIMAL + "[market_clock]\nspeed = 0", "market_clock.speed: Expected `int` >= 1"),
        (MINIMAL + '[venues]\na = "http://x"', "venues.a: 'http://x' is none of unix:/path"),
        (MINIMAL + """[venues]\n'a"b' = "tcp:a:1\"""", "a name is 1 to 32 of a-z"),
        (MINIMAL + '[venues]\na = "gemini:wss://x/y"', "venues.a: 'gemini:wss://x/y' is none of unix:/path"),
        (MINIMAL + '[venues]\na = "okx:https://x"', "venues.a: 'okx:https://x' is no address of an exchange"),
        (MINIMAL + '[venues]\na = "okx:wss://"', "venues.a: 'okx:wss://' is no address of an exchange"),
        (MINIMAL + '[venues]\na = "okx:wss://x:99999/"', "no address of an exchange: write okx:wss://host"),
        (MINIMAL + '[venues]\na = "okx:ws://x/y"', "venues.a: prices over ws://x/y could be forged"),
        (
            MINIMAL + '[venues]\na = "okx:wss://x/y"\n[market_clock]\nstart_market_ns = 5\n',
            "venues.a: an exchange stamps its prices with the wall clock",
        ),
        (MINIMAL + 'peers = [{index = 1, host = "a"}]', "missing required field `port`"),
        (
            MINIMAL + 'peers = [{index = 1, host = "a", port = 1}, {index = 1, host = "b", port = 1}]',
            "peers: an index appears twice",
        ),
        (MINIMAL + 'index = 1\npeers = [{index = 1, host = "a", port = 1}]', "index 1 is this node itself"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence_that_names_it(
    tmp_path: Path, toml: str, sentence: str
) -> None:
    with pytest.raises(OperatorError, match=sentence) as refusal:
        loaded(tmp_path, toml)
    assert str(refusal.value).startswith(str(tmp_path / "node.toml"))
    assert "\n" not in str(refusal.value)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(
        OperatorError, match=r"environment variable QUORATE_GATEWAY_PORT='many': Expected `int`"
    ):
        loaded(tmp_path, MINIMAL, environment={"QUORATE_GATEWAY_PORT": "many"})


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"there is no configuration at .*: `quorate init` writes one"):
        load_config(tmp_path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OperatorError, match="is not UTF-8 text"):
        load_config(tmp_path)


def test_the_example_file_shows_every_setting_with_its_default() -> None:
    example = Path(__file__).resolve().parents[2] / "configs" / "node.example.toml"
    config = load_config(example.parent, example)
    defaults = NodeConfig(home=config.home, name=config.name)
    text = example.read_text()
    settings = [name for name in config.__struct_fields__ if name not in ("home", "name")]
    assert [name for name in settings if name not in text] == []
    changed = [name for name in settings if getattr(config, name) != getattr(defaults, name)]
    assert changed == ["index", "peers", "venues"]
    assert msgspec.json.decode(msgspec.json.encode(config), type=NodeConfig) == config
