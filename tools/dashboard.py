"""Writes configs/grafana/quorate.json, the dashboard of a network of nodes, from the table below. Writes one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TARGET = Path(__file__).resolve().parents[1] / "configs" / "grafana" / "quorate.json"
COLUMNS = 3
WIDTH, HEIGHT = 8, 8
NODE = 'instance=~"$node"'
"""Every query is narrowed to the nodes chosen at the top of the page."""


def quantile(share: float, histogram: str) -> str:
    """PromQL: a percentile of a histogram of ours over five minutes, per node."""
    return f"histogram_quantile({share}, sum by (le, instance) (rate({histogram}_bucket{{{NODE}}}[5m])))"


def rate(counter: str, by: str = "instance") -> str:
    """PromQL: a counter's rate per second over five minutes."""
    return f"sum by ({by}) (rate({counter}{{{NODE}}}[5m]))"


def gauge(name: str) -> str:
    """PromQL: a gauge as it is."""
    return f"{name}{{{NODE}}}"


STAGES = ("build", "validate", "execute", "journal", "store")

ROWS: dict[str, list[tuple[str, str, str, dict[str, str]]]] = {
    "Is it well?": [
        (
            "Final height",
            "none",
            "Equal lines that rise. A flat one is a node left behind.",
            {"{{instance}}": gauge("quorate_final_height")},
        ),
        (
            "Age of the newest final block",
            "s",
            "Rises when nothing becomes final.",
            {"{{instance}}": gauge("quorate_final_block_age_seconds")},
        ),
        (
            "Voting, halted",
            "none",
            "1 and 0 are good. A halted validator has seen a broken promise.",
            {
                "voting {{instance}}": gauge("quorate_is_voting"),
                "halted {{instance}}": gauge("quorate_is_halted"),
            },
        ),
    ],
    "Consensus": [
        (
            "Finality",
            "s",
            "From first sight of a block to its finality.",
            {
                "p50 {{instance}}": quantile(0.5, "quorate_finality_seconds"),
                "p99 {{instance}}": quantile(0.99, "quorate_finality_seconds"),
            },
        ),
        (
            "Final blocks by path",
            "cps",
            "slow: somebody is late or absent.",
            {"{{path}}": rate("quorate_final_blocks_total", "path")},
        ),
        (
            "Views by what admitted",
            "cps",
            "timeout: a leader failed and the view was skipped.",
            {"{{by}}": rate("quorate_views_total", "by")},
        ),
        (
            "Delay of each leader's proposals",
            "percentunit",
            "Of the view timer. In the last fifth, repeatedly, it costs rewards.",
            {"validator {{validator}}": f"quorate_validator_leader_delay_ppm{{{NODE}}} / 1e6"},
        ),
        (
            "Votes missing from certificates",
            "none",
            "In the sliding window; too many lead to jail.",
            {"validator {{validator}}": gauge("quorate_validator_missed_blocks")},
        ),
        (
            "Proved offences",
            "none",
            "Any is somebody who signed two contradicting messages.",
            {"{{kind}} {{instance}}": gauge("quorate_evidence_total")},
        ),
    ],
    "Stages of a block (p99)": [
        (
            stage,
            "s",
            f"p99 of the stage {stage}.",
            {"{{instance}}": quantile(0.99, f"quorate_{stage}_seconds")},
        )
        for stage in STAGES
    ],
    "Network and market": [
        (
            "Peers connected",
            "none",
            "Below two thirds of the power nothing is final.",
            {"{{instance}}": gauge("quorate_peers_connected")},
        ),
        (
            "Bytes sent",
            "Bps",
            "By lane.",
            {"{{label}} {{instance}}": f"rate(quorate_bytes_sent{{{NODE}}}[5m])"},
        ),
        (
            "Refusals",
            "cps",
            "By stable reason code.",
            {"{{name}} {{reason}}": rate("quorate_events_total", "name, reason")},
        ),
        (
            "Waiting transactions",
            "none",
            "At 20,000 clients are answered busy.",
            {"{{instance}}": gauge("quorate_mempool_transactions")},
        ),
        (
            "Epsilon",
            "none",
            "External mark against the chain's, millionths; the goal is less than the quoted spread.",
            {"{{instance}}": gauge("quorate_epsilon_ppm")},
        ),
        ("Memory", "bytes", "Flat.", {"{{instance}}": gauge("quorate_resident_bytes")}),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it; the data source is asked for on import."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "type": "row",
                "title": title,
                "gridPos": _place(0, top, 24, 1),
                "id": len(panels) + 1,
                "panels": [],
            }
        )
        top += 1
        for number, (name, unit, text, queries) in enumerate(row):
            place = _place(number % COLUMNS * WIDTH, top + number // COLUMNS * HEIGHT, WIDTH, HEIGHT)
            panels.append(_panel(len(panels) + 1, name, unit, text, queries, place))
        top += -(-len(row) // COLUMNS) * HEIGHT
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "title": "Quorate",
        "uid": "quorate",
        "schemaVersion": 39,
        "tags": ["quorate"],
        "timezone": "utc",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Data source"},
                {
                    "name": "node",
                    "type": "query",
                    "label": "Node",
                    "datasource": source,
                    "query": "label_values(quorate_final_height, instance)",
                    "includeAll": True,
                    "multi": True,
                    "refresh": 2,
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(
    number: int, title: str, unit: str, text: str, queries: dict[str, str], place: dict[str, int]
) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    targets = [
        {"refId": chr(ord("A") + index), "datasource": source, "expr": query, "legendFormat": legend}
        for index, (legend, query) in enumerate(queries.items())
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "description": text,
        "datasource": source,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")
