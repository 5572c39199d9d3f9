"""Where a signer listens: `unix:/path` or `tcp:host:port`. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from primitives.errors import OperatorError


class SignerAddress(NamedTuple):
    """A Unix socket, or (`path` None) a TCP address, where both sides show certificates."""

    path: Path | None
    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{self.host}:{self.port}" if self.path is None else f"unix:{self.path}"


def parse_address(text: str) -> SignerAddress:
    """Raises OperatorError for anything else than the two forms."""
    scheme, _, rest = text.partition(":")
    if scheme == "unix" and rest:
        return SignerAddress(Path(rest), "", 0)
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and port.isdecimal() and int(port) <= 65_535:
        return SignerAddress(None, host.strip("[]"), int(port))
    raise OperatorError(f"{text!r} is neither unix:/path nor tcp:host:port")
