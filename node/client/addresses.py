"""Where gateways are, and the headers that a client sends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from node.client.errors import ClientError

DEFAULT_URL = "http://127.0.0.1:26700"
"""The first gateway of `quorate init` on this machine."""


class Gateways:
    """Several gateways of one network, of which one is in use; the next one when it fails."""

    def __init__(self, urls: str | Sequence[str], token: str | None = None, *, first: int = 0) -> None:
        """`urls`: http(s)://host:port. Raises ClientError for anything else."""
        self._urls = [_checked(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self._turn = first
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}

    def __len__(self) -> int:
        return len(self._urls)

    @property
    def url(self) -> str:
        """Of the one in use."""
        return self._urls[self._turn % len(self._urls)]

    def leave(self, url: str) -> None:
        """That one has failed: on to the next, unless somebody else has left it already."""
        if self.url == url:
            self._turn += 1


def stream_url(url: str) -> str:
    """The WebSocket of a gateway."""
    return "ws" + url.removeprefix("http") + "/v1/ws"


def _checked(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ClientError(f"{url} is no address of a gateway: give it as http://HOST:PORT")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
