"""The files to deploy with: they parse, name only what exists, and pass their own tools where those are installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gossip.reasons import Traffic
from node.config import NodeConfig, load_config, setting_origins
from node.home import config_toml
from node.metrics import NodeMetrics
from tests.node.test_node_socket import STATUS
from tools.dashboard import TARGET, dashboard

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed here")
    return path


def passes(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [item for item in yaml.safe_load_all(text) if item]


def shown_metrics() -> set[str]:
    """Every name that a node's /metrics can show, histograms by the names that queries use."""
    metrics = NodeMetrics()
    metrics.set_status(STATUS)
    families = re.findall(r"(?m)^# TYPE (\S+) (\S+)", metrics.text().decode())
    shown = {f"{name}_bucket" if kind == "histogram" else name for name, kind in families}
    return shown | {f"quorate_{name}" for name in Traffic}


def asked_metrics(text: str) -> set[str]:
    return set(re.findall(r"quorate_\w+", text))


def test_the_committed_dashboard_is_what_its_generator_writes() -> None:
    assert json.loads(TARGET.read_text()) == dashboard()


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_a_node_has() -> None:
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((CONFIGS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]

    asked = asked_metrics("\n".join(queries)) | asked_metrics("\n".join(rule["expr"] for rule in rules))

    assert asked - shown_metrics() == set()


def test_every_alert_says_what_is_wrong_how_urgent_it_is_and_what_to_do() -> None:
    for rule in yaml.safe_load((CONFIGS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_prometheus_accepts_its_configuration_and_the_alerts(name: str, tmp_path: Path) -> None:
    shutil.copytree(CONFIGS / "prometheus", tmp_path / "p")
    (tmp_path / "token").write_text("x" * 16)
    path = tmp_path / "p" / name
    path.write_text(path.read_text().replace("/network/token", str(tmp_path / "token")))

    passes(tool("promtool"), "check", "config", str(path))


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "quorate@node0.service"
    text = (CONFIGS / "systemd" / "quorate@.service").read_text()
    unit.write_text(text.replace("/opt/quorate/bin/quorate", "/bin/true"))

    passes(tool("systemd-analyze"), "verify", "--man=no", str(unit))


def settings_named(environment: dict[str, str], tmp_path: Path) -> set[str]:
    """Variables that a node would read as settings of its own."""
    (tmp_path / "node.toml").write_text(config_toml({"name": "n"}))
    origins = setting_origins(tmp_path, None, environment)
    return {origin for _, origin in origins if origin.startswith("QUORATE_")}


def test_compose_runs_four_nodes_whose_settings_are_valid(tmp_path: Path) -> None:
    compose = yaml.safe_load((CONFIGS / "docker" / "compose.yaml").read_text())
    nodes = {name: item for name, item in compose["services"].items() if name.startswith("node")}

    assert sorted(nodes) == ["node0", "node1", "node2", "node3"]
    for name, node in nodes.items():
        environment = node["environment"]
        assert settings_named(environment, tmp_path) == environment.keys()
        assert isinstance(load_config(tmp_path, environment=environment), NodeConfig)
        assert node["command"] == ["start", "--home", f"/network/{name}"]
        assert all(port.startswith("127.0.0.1:") for port in node["ports"])


def test_the_image_is_built_from_the_hashed_locks_and_runs_without_privileges() -> None:
    text = (CONFIGS / "docker" / "Dockerfile").read_text()
    installs = re.findall(r"pip install (.*?)(?: \\)?$", text, re.MULTILINE)

    assert ["--require-hashes" in line for line in installs] == [True, True, False]
    assert installs[2].endswith("--no-deps --no-build-isolation .")
    assert text.index("USER quorate") > text.rindex("FROM ${BASE}")


def rendered(*settings: str) -> list[dict[str, Any]]:
    chart = str(CONFIGS / "helm" / "quorate")
    options = [part for setting in ("gateway.tokenSecret=t", *settings) for part in ("--set", setting)]
    return documents(passes(tool("helm"), "template", "quorate", chart, *options))


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    passes(
        tool("helm"), "lint", "--strict", str(CONFIGS / "helm" / "quorate"), "--set", "gateway.tokenSecret=t"
    )


def test_the_chart_never_runs_one_key_twice_and_gives_each_validator_its_own(tmp_path: Path) -> None:
    sets = [item for item in rendered("validators=7") if item["kind"] == "StatefulSet"]

    assert [item["metadata"]["name"] for item in sets] == [f"quorate-{index}" for index in range(7)]
    assert {item["spec"]["replicas"] for item in sets} == {1}
    for number, item in enumerate(sets):
        pod = item["spec"]["template"]["spec"]
        assert pod["volumes"][0]["secret"]["secretName"] == f"quorate-{number}-home"
        environment = {entry["name"]: entry.get("value", "") for entry in pod["containers"][0]["env"]}
        del environment["QUORATE_PASSWORD"]
        assert settings_named(environment, tmp_path) == environment.keys()
        assert environment["QUORATE_LISTEN_PORT"] == str(26_600 + number)


def test_the_chart_copies_a_watermark_on_the_first_start_only() -> None:
    def script(*settings: str) -> str:
        first = next(item for item in rendered(*settings) if item["kind"] == "StatefulSet")
        text: str = first["spec"]["template"]["spec"]["initContainers"][0]["args"][0]
        return text

    assert "watermark" not in script()
    assert "watermark" in script("firstStart=true")
