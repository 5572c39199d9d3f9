"""A signer as an operator starts it, and a node's side of it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from node.config import NodeConfig
from node.keystore import save_seeds
from node.signer.address import parse_address
from node.signer.client import RemoteSigner, SignerAccess
from node.signer.desk import KEYSTORE_FILE, RECORD_DIRECTORY, WATERMARK_FILE, SignerSettings, write_settings
from node.signing_record import copy_record
from node.storage.watermark import Watermark

ROOT = Path(__file__).resolve().parents[2]


def make_home(home: Path, chain_id: bytes, *seeds: bytes, node: NodeConfig | None = None) -> Path:
    """A signer's home whose keys have signed what the node's record says; nothing without a node."""
    home.mkdir(parents=True)
    write_settings(home, SignerSettings(chain_id.hex(), {}))
    if node is None:
        Watermark.create(home / WATERMARK_FILE)
    else:
        copy_record(node.journal_path, node.watermark_path, home / RECORD_DIRECTORY, home / WATERMARK_FILE)
    names = ["consensus", *(f"consensus-{number}" for number in range(2, len(seeds) + 1))]
    save_seeds(dict(zip(names, seeds, strict=True)), home / KEYSTORE_FILE, None)
    return home


class SignerProcess:
    """`quorate signer start`."""

    def __init__(self, home: Path, listen: str, *options: str) -> None:
        self.home, self.listen, self.options = home, listen, options
        self.process: subprocess.Popen[bytes] | None = None
        self.log = home / "signer.log"

    def start(self) -> None:
        """Returns when it listens."""
        lines = self._lines()
        command = [
            sys.executable,
            "-m",
            "node",
            "signer",
            "start",
            "--home",
            str(self.home),
            "--insecure-keys",
        ]
        command += ["--listen", self.listen, "--log-file", str(self.log), *self.options]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        until = time.monotonic() + 20
        while self._lines() == lines:
            assert time.monotonic() < until and self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def _lines(self) -> int:
        return self.log.read_text().count('"signer_listening"') if self.log.exists() else 0

    def kill(self) -> None:
        """As a power cut would."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()

    def access(self, chain_id: bytes, name: str = "a node") -> SignerAccess:
        """How a node reaches it over its Unix socket."""
        return SignerAccess(parse_address(self.listen), chain_id, name)


def observed(remote: RemoteSigner) -> RemoteSigner:
    """With metrics of its own."""
    from prometheus_client import CollectorRegistry

    remote.observe_with(CollectorRegistry())
    return remote
