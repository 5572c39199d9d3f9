"""Who signs a client's transactions: an Ed25519 key, a wallet's key, or a wallet that asks its owner. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ledger.transactions import (
    NamedInstrument,
    SignedTransaction,
    Transaction,
    WalletTransaction,
    transaction_sign_bytes,
)
from ledger.typed_data import typed_data
from node.client.errors import ClientError
from primitives.codec import encode
from primitives.identifiers import Address
from primitives.signing import SigningKey, address_of
from primitives.wallet import WalletKey, recover_address


class Signer(Protocol):
    """`address`: whose account it is, or of which session key."""

    address: Address

    def sign(self, content: Transaction, names: Sequence[NamedInstrument]) -> bytes:
        """The bytes to hand in; `names` are those of the instruments that the actions name."""


class KeySigner:
    """An Ed25519 key: an account's own, or a session key."""

    def __init__(self, key: SigningKey) -> None:
        self.address = address_of(key.public_key)
        self._key = key

    def sign(self, content: Transaction, names: Sequence[NamedInstrument]) -> bytes:
        """The Ed25519 envelope."""
        del names
        payload = encode(content)
        signature = self._key.sign(transaction_sign_bytes(payload))
        return encode(SignedTransaction(payload, self._key.public_key, signature))


class ExternalWallet:
    """A secp256k1 wallet elsewhere: a browser's, a phone's, a piece of hardware.

    `ask` is given the argument of eth_signTypedData_v4 as plain JSON and returns the 65-byte signature.
    """

    def __init__(self, address: Address, ask: Callable[[dict[str, Any]], bytes]) -> None:
        self.address = address
        self._ask = ask

    def sign(self, content: Transaction, names: Sequence[NamedInstrument]) -> bytes:
        """The wallet's envelope. Raises ClientError if the signature is not this wallet's, before it is sent."""
        payload = encode(content)
        data = typed_data(content, payload, names)
        signature = self._ask(data.to_wallet())
        if recover_address(data.digest(), signature) != self.address:
            raise ClientError("the wallet's signature is not by its own address over what it was shown")
        return encode(WalletTransaction(payload, tuple(names), self.address, signature))


class WalletSigner:
    """A secp256k1 key in this process, as a wallet would use it."""

    def __init__(self, key: WalletKey) -> None:
        self.address = key.address
        self._key = key

    def sign(self, content: Transaction, names: Sequence[NamedInstrument]) -> bytes:
        """The wallet's envelope."""
        payload = encode(content)
        signature = self._key.sign(typed_data(content, payload, names).digest())
        return encode(WalletTransaction(payload, tuple(names), self.address, signature))
