"""Follows the epochs from a trusted one, with what a gateway or a node's home offers. Network (HTTP) or disk.

Whoever offers is not trusted: every link is checked by node/light/verifier.py. One who offers nothing, or less
than there is, can hold us back but not mislead us.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from consensus.validator_set import ValidatorSet as ConsensusSet
from node.genesis import GenesisDocument, chain_id_of
from node.light.prover import NotProvable, Prover
from node.light.verifier import FILE_BYTES_MAX, ProofRefused, Trust, ValidatorSet, follow, unpack
from primitives.codec import encode
from primitives.errors import OperatorError

REQUEST_SECONDS_MAX = 10.0
"""A gateway that does not answer for so long is given up."""

Links = Callable[[int], list[bytes]]
"""Encoded links that lead on from an epoch; none when it is the newest."""


def trust_of(document: GenesisDocument) -> Trust:
    """The validators of epoch 0, as genesis says."""
    members = ConsensusSet(
        tuple(entry.consensus_key for entry in document.validators),
        tuple(entry.weight for entry in document.validators),
        document.consensus.final_weight or None,
    )
    own = ValidatorSet(members.public_keys, members.weights, members.final_weight)
    return Trust(chain_id_of(document), 0, own)


def sync_epochs(trust: Trust, links_from: Links) -> Trust:
    """The newest epoch that the links lead to. Raises ProofRefused at the first that does not hold."""
    while links := links_from(trust.epoch):
        for link in links:
            trust = follow(trust, unpack(link))
    return trust


def from_prover(prover: Prover) -> Links:
    """The links of a node's home."""

    def links(epoch: int) -> list[bytes]:
        try:
            return [encode(link) for link in prover.links(epoch)]
        except NotProvable:
            return []

    return links


def from_gateway(url: str, token: str | None = None) -> Links:
    """The links of a gateway, over HTTP; `token` if it asks for one. Raises OperatorError when it does not answer."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise OperatorError(f"{url} is no gateway: give http://HOST:PORT or https://HOST")

    def links(epoch: int) -> list[bytes]:
        address = f"{url.rstrip('/')}/v1/epochs?from={epoch}"
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(address, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS_MAX) as answer:
                body = answer.read(2 * FILE_BYTES_MAX + 1)
        except (OSError, ValueError) as error:
            raise OperatorError(f"the gateway {url} does not answer: {error}") from None
        return _decode_links(body)

    return links


def _decode_links(body: bytes) -> list[bytes]:
    try:
        return [bytes.fromhex(item["link"]) for item in json.loads(body)["links"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ProofRefused("the gateway's answer is not a list of epoch links") from None
