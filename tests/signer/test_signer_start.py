"""`quorate signer` beside `quorate start`: a chain of one validator stands still without its signer, and goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.signer.tls import create_certificate
from testnet.processes import free_ports
from tests.signer.signer_process import ROOT, SignerProcess

pytestmark = pytest.mark.slow


def quorate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


class Validator:
    """The only validator of its chain, as a process, with its signer's home beside it."""

    def __init__(self, directory: Path) -> None:
        listen, self.port = free_ports(2)
        done = quorate(
            *("init", "--home", str(directory), "--validators", "1", "--insecure-keys"),
            *("--port", str(listen), "--gateway-port", str(self.port)),
        )
        assert done.returncode == 0, done.stderr
        self.home, self.signer_home = directory / "node0", directory / "signer"
        done = quorate("signer", "init", "--home", str(self.signer_home), "--node", str(self.home))
        assert "signed up to epoch 0 view 0" in done.stdout, done.stderr

    def start(self, address: str) -> subprocess.Popen[bytes]:
        settings = self.home / "node.toml"
        if "[signer]" not in settings.read_text():
            settings.write_text(f'{settings.read_text()}\n[signer]\naddress = "{address}"\n')
        command = [sys.executable, "-m", "node", "start", "--home", str(self.home), "--log-file", "node.log"]
        return subprocess.Popen(command, cwd=ROOT)

    def height(self) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status", timeout=5) as answer:
                return int(json.load(answer)["final_height"])
        except OSError:
            return 0

    def wait_above(self, height: int) -> None:
        deadline = time.monotonic() + 60
        while self.height() <= height:
            assert time.monotonic() < deadline, (self.home / "node.log").read_text()[-2_000:]
            time.sleep(0.1)


@pytest.fixture(params=["unix", "tcp"])
def validator(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Validator, SignerProcess]]:
    """One whose signer runs."""
    made = Validator(tmp_path)
    if request.param == "unix":
        address = f"unix:{made.signer_home}/s.sock"
    else:
        address = f"tcp:127.0.0.1:{free_ports(1)[0]}"
        for home, name in ((made.signer_home, "signer"), (made.home, "signer-node")):
            create_certificate(home / f"{name}.pem", home / f"{name}.key", name)
        (made.home / "signer.pem").write_bytes((made.signer_home / "signer.pem").read_bytes())
        (made.signer_home / "signer-node.pem").write_bytes((made.home / "signer-node.pem").read_bytes())
    signer = SignerProcess(made.signer_home, address)
    signer.start()
    yield made, signer
    signer.kill()


def test_the_chain_stands_still_without_the_signer_and_goes_on_with_it(
    validator: tuple[Validator, SignerProcess],
) -> None:
    made, signer = validator
    process = made.start(signer.listen)
    try:
        made.wait_above(3)
        signer.kill()
        time.sleep(0.5)
        still = made.height()
        time.sleep(2)
        assert made.height() == still
        signer.start()
        made.wait_above(still + 3)
    finally:
        process.kill()
        process.wait()


def test_a_node_without_its_signer_does_not_start(tmp_path: Path) -> None:
    made = Validator(tmp_path)
    process = made.start(f"unix:{made.signer_home}/s.sock")
    assert process.wait(timeout=60) == 2
