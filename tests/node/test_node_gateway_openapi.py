"""The OpenAPI document and the gateway say the same: schemathesis asks a real gateway everything the document allows,
and much that it does not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio

from ledger.transactions import transaction_id
from tests.node.running_gateway import OWNER, PERPETUAL, RAW, leaves_at, running

EXPECTED = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 404, 422]
"""
"""A well-formed question may be about something that does not exist, and a transaction may be refused."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,positive_data_acceptance,unsupported_method"
)


async def fuzzed(path: Path, *options: str) -> str:
    """What schemathesis found; "" for nothing."""
    (path / "schemathesis.toml").write_text(EXPECTED)
    async with running(path / "h") as it:
        it.become_final([], leaves_at(it, 2))
        url = f"http://127.0.0.1:{it.gateway.port}/openapi.json"
        config = ["--config-file", str(path / "schemathesis.toml")]
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            *config,
            "run",
            url,
            "--checks",
            CHECKS,
            "--no-color",
            *options,
        ]
        done = await trio.run_process(
            command, capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=path
        )
        assert it.gateway.restarts == 0
        assert (await it.http.get("/health")).status_code == 200
    return "" if done.returncode == 0 else done.stdout.decode()


async def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    few = ("--seed", "1", "--max-examples", "4", "--exclude-path", "/v1/simulate")
    found = await fuzzed(tmp_path, *few, "--phases", "examples,coverage,fuzzing")
    assert not found, found


@pytest.mark.slow
async def test_schemathesis_finds_nothing_in_simulations(tmp_path: Path) -> None:
    few = ("--seed", "1", "--max-examples", "25", "--include-path", "/v1/simulate")
    found = await fuzzed(tmp_path, *few, "--phases", "fuzzing")
    assert not found, found


def schema_refs(value: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        yield from [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from schema_refs(item)


async def test_real_answers_have_the_form_that_the_document_gives_them(tmp_path: Path) -> None:
    account = f"/v1/accounts/{OWNER.hex()}/0"
    paths = {
        "/v1/blocks/{height}": "/v1/blocks/latest",
        "/v1/books/{instrument}": f"/v1/books/{PERPETUAL}",
        "/v1/transactions/{id}": f"/v1/transactions/{transaction_id(RAW).hex()}",
        "/v1/accounts/{address}/{subaccount}": account,
        "/v1/accounts/{address}/{subaccount}/stake": f"{account}/stake",
        "/v1/accounts/{address}/{subaccount}/history": f"{account}/history",
    }
    async with running(tmp_path / "h") as it:
        document = (await it.http.get("/openapi.json")).json()
        for template in document["paths"]:
            path = paths.get(template, template)
            if "{" in path or template in ("/metrics", "/v1/epochs", "/v1/orders", "/v1/simulate"):
                continue
            answer = await it.http.get(path)
            assert answer.status_code == 200, (path, answer.text)
            schema = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"][
                "schema"
            ]
            whole = {**schema, "components": document["components"]}
            problems = [
                error.message for error in jsonschema_rs.validator_for(whole).iter_errors(answer.json())
            ]
            assert (path, problems) == (path, [])
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert set(schema_refs(document)) <= known
        page = await it.http.get("/docs")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "src=" not in page.text and "http://" not in page.text and "https://" not in page.text


@pytest.mark.slow
async def test_schemathesis_finds_nothing_in_many_requests(tmp_path: Path) -> None:
    found = await fuzzed(tmp_path, "--max-examples", "100")
    assert not found, found
