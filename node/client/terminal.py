"""What the client's commands share: where the gateway is, who signs, how things are said. Terminal, key files.

A ClientError becomes an OperatorError with a hint: one line on standard error, exit code 2.
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ledger.events import ActionRejected
from ledger.transactions import Action
from node.account_names import read_account
from node.client.addresses import DEFAULT_URL
from node.client.blocking import Client
from node.client.errors import ClientError, NotAllowed, NotFound, Unreachable
from node.client.market import Market
from node.client.sentences import sentences
from node.client.signers import ExternalWallet, KeySigner, Signer, WalletSigner
from node.keystore import WALLET_KEY_NAME, are_validator_names, is_insecure, load_seeds, read_password
from node.rpc.answers import OrderForm
from node.rpc.client_form import client_form
from primitives.amounts import USD
from primitives.errors import OperatorError
from primitives.identifiers import Address
from primitives.signing import SigningKey
from primitives.wallet import WalletKey

HEALTH_STYLE = {"healthy": "green", "reduce_only": "yellow", "liquidation": "red"}


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Gateway:
    """Where the gateway is, and how answers are printed."""

    node: Annotated[str, Parameter(env_var="QUORATE_NODE", help="Address of any validator's gateway.")] = (
        DEFAULT_URL
    )
    token_file: Annotated[
        Path | None, Parameter(env_var="QUORATE_TOKEN_FILE", help="File with the gateway's bearer token.")
    ] = None
    ca_file: Annotated[
        Path | None,
        Parameter(
            env_var="QUORATE_CA_FILE", help="Certificate that its https must lead to; else the system's."
        ),
    ] = None
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, as the API has it.")] = (
        False
    )

    def client(self, signer: Signer | None = None, subaccount: int = 0, owner: bytes | None = None) -> Client:
        """A blocking client of it."""
        try:
            token = None if self.token_file is None else self.token_file.read_text(encoding="utf-8").strip()
            tls = None if self.ca_file is None else ssl.create_default_context(cafile=self.ca_file)
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"cannot read the token or the certificate: {error}") from None
        return Client(self.node, signer, token=token, subaccount=subaccount, owner=owner, tls=tls)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Signing:
    """Whose account it is, and the key that signs."""

    key: Annotated[
        Path, Parameter(env_var="QUORATE_KEY", help="Key file, as `quorate account create` writes it.")
    ] = Path("account.json")
    password_file: Annotated[
        Path | None, Parameter(help="Its password; else QUORATE_PASSWORD, else you are asked.")
    ] = None
    subaccount: Annotated[int, Parameter(help="Which sub-account, 0 to 255.")] = 0
    owner: Annotated[
        str | None, Parameter(help="Address of the account, when the key is one of its session keys.")
    ] = None
    wallet: Annotated[
        str | None,
        Parameter(
            help="Address of a wallet that signs instead: prints what it is to sign, reads the signature."
        ),
    ] = None

    def client(self, gateway: Gateway) -> Client:
        """A blocking client that signs with the key."""
        owner = None if self.owner is None else read_address(self.owner)[0]
        return gateway.client(self.signer(), self.subaccount, owner)

    def signer(self) -> Signer:
        """From the key file, or a wallet that its owner holds. Raises OperatorError."""
        if self.wallet is not None:
            return ExternalWallet(Address(read_address(self.wallet)[0]), _ask_wallet)
        name, seed = read_key(self.key, self.password_file)
        return WalletSigner(WalletKey(seed)) if name == WALLET_KEY_NAME else KeySigner(SigningKey(seed))

    def address(self) -> bytes:
        """Of the account."""
        return self.signer().address if self.owner is None else read_address(self.owner)[0]


DEFAULT_GATEWAY = Gateway()
DEFAULT_SIGNING = Signing()


def read_key(path: Path, password_file: Path | None) -> tuple[str, bytes]:
    """The name and the secret of the one key in a file; of a validator's keystore the oracle key's.

    Raises OperatorError.
    """
    if not path.exists():
        raise OperatorError(f"there is no key file {path}: `quorate account create --key {path}` makes one")
    password = None
    if not is_insecure(path):
        password = read_password(password_file, os.environ, f"Password for {path}: ")
    seeds = load_seeds(path, password, allow_insecure=True)
    if are_validator_names(seeds):
        return "oracle", seeds["oracle"]
    if len(seeds) != 1:
        raise OperatorError(f"{path} holds {', '.join(seeds)}: not the key of an account")
    [(name, seed)] = seeds.items()
    return name, seed


def _ask_wallet(data: dict[str, Any]) -> bytes:
    """The typed data on standard error, the signature from standard input."""
    print(msgspec.json.encode(data).decode(), file=sys.stderr)
    print("Sign this with eth_signTypedData_v4, then enter the signature (0x...):", file=sys.stderr)
    try:
        return bytes.fromhex(input().strip().removeprefix("0x"))
    except (EOFError, ValueError):
        raise OperatorError("no signature was given") from None


def read_address(text: str) -> tuple[bytes, int]:
    """An account, with or without 0x before it. Raises OperatorError."""
    return read_account(text.lower().removeprefix("0x"))


def account_of(who: str | None, signing: Signing) -> tuple[bytes, int]:
    """The account that was named, or the key's own."""
    return read_address(who) if who is not None else (signing.address(), signing.subaccount)


@contextmanager
def helpful() -> Iterator[None]:
    """What went wrong at the exchange, as one sentence and what may help."""
    try:
        yield
    except Unreachable as error:
        raise OperatorError(
            f"{error}. Is the node running? Give its gateway with --node or QUORATE_NODE"
        ) from None
    except NotAllowed as error:
        raise OperatorError(f"{error}. Give a token with --token-file") from None
    except NotFound as error:
        hint = ". An account exists from its first deposit on" if "account" in error.detail else ""
        raise OperatorError(f"{error}{hint}") from None
    except ClientError as error:
        raise OperatorError(str(error)) from None


def perform(signing: Signing, gateway: Gateway, make: Callable[[Client], Action | Sequence[Action]]) -> None:
    """Sign actions, wait until they are final, and say what they did. Raises OperatorError if one was refused."""
    with helpful(), signing.client(gateway) as client:
        made, started = make(client), time.monotonic()
        receipt = client.submit(*(made if isinstance(made, Sequence) else (made,)))
        milliseconds = (time.monotonic() - started) * 1e3
        receipt = client.with_consequences(receipt)
        if gateway.as_json:
            print_json(receipt)
        else:
            print(f"final in block {receipt.height} after {milliseconds:.0f} ms")
            done = [event for event in receipt.events if not isinstance(event, ActionRejected)]
            for line in sentences(done, client.account.address, client.market):
                print(f"  {line}")
        receipt.check()


def console() -> Console:
    """As wide as the terminal; where there is none, wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def print_json(value: Any) -> None:
    """In the API's own form."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(client_form(value))).decode() + "\n")


def table(*columns: str, title: str | None = None) -> Table:
    """Names to the left, numbers (columns that begin with >) to the right."""
    made = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return made


def orders_table(orders: Sequence[OrderForm], market: Market) -> Table:
    """Open orders."""
    made = table("order", "side", ">contracts", "instrument", ">price", "terms", title="\nOpen orders")
    for item in orders:
        flags = (("post only", item.post_only), ("reduce only", item.reduce_only))
        terms = [name for name, is_set in flags if is_set]
        terms += [f"label {item.label}"] if item.label else []
        size = str(market.size(item.instrument, item.left_lots))
        price = money(item.price_uusd)
        made.add_row(str(item.order_id), side_name(item.side), size, item.name, price, ", ".join(terms))
    return made


def money(uusd: int | None) -> str:
    """Dollars and cents, more digits where there are more below a dollar."""
    if uusd is None:
        return "-"
    digits = 2 if abs(uusd) >= USD or uusd % 10_000 == 0 else 6
    return f"{Decimal(uusd) / USD:,.{digits}f}"


def side_name(side: int) -> str:
    """Coloured as everybody expects."""
    return "[red]sell[/]" if side else "[green]buy[/]"
