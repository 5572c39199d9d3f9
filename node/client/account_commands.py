"""`quorate account`: keys, balances, positions, history, money. Prints; writes key files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from ledger.transactions import Deposit, SessionScope
from node.client import market as words
from node.client import questions
from node.client.market import Market, uusd
from node.client.sentences import sentence
from node.client.terminal import (
    DEFAULT_GATEWAY,
    DEFAULT_SIGNING,
    HEALTH_STYLE,
    Gateway,
    Signing,
    account_of,
    console,
    helpful,
    money,
    orders_table,
    perform,
    print_json,
    read_address,
    read_key,
    table,
)
from node.keystore import WALLET_KEY_NAME, read_password, save_seeds
from node.rpc.answers import AccountAnswer
from primitives.amounts import NS
from primitives.errors import OperatorError
from primitives.signing import SEED_BYTES, SigningKey, address_of
from primitives.wallet import WalletKey

app = App(name="account", help="Keys, balances, positions and history of an account.")

Who = Annotated[str | None, Parameter(help="ADDRESS or ADDRESS/SUBACCOUNT; the key file's own if not given.")]
ScopeName = Literal["trade", "cancel", "transfer", "negotiate"]


@app.command
def create(
    *,
    key: Annotated[Path, Parameter(env_var="QUORATE_KEY", help="File to write; never overwritten.")] = Path(
        "account.json"
    ),
    wallet: Annotated[bool, Parameter(negative="", help="A secp256k1 key with an Ethereum address.")] = False,
    insecure: Annotated[
        bool, Parameter(negative="", help="Do not encrypt it. For testnets and session keys of machines.")
    ] = False,
    password_file: Annotated[
        Path | None, Parameter(help="Its password; else QUORATE_PASSWORD or asked.")
    ] = None,
) -> None:
    """Make a key; the account exists from its first deposit on.

    Example: quorate account create --key me.json
    """
    password = None if insecure else read_password(password_file, os.environ, f"Password for {key}: ")
    seed = os.urandom(SEED_BYTES)
    save_seeds({WALLET_KEY_NAME if wallet else "account": seed}, key, password)
    address = WalletKey(seed).address if wallet else address_of(SigningKey(seed).public_key)
    print(address.hex())


@app.command
def show(
    who: Who = None, /, *, signing: Signing = DEFAULT_SIGNING, gateway: Gateway = DEFAULT_GATEWAY
) -> None:
    """Cash, margin, positions and open orders.

    Example: quorate account show --key me.json
    """
    owner, subaccount = account_of(who, signing)
    with helpful(), gateway.client() as client:
        account = client.ask(questions.account(owner, subaccount))
        if gateway.as_json:
            print_json(account)
            return
        _print_account(account, client.market)


@app.command
def orders(
    who: Who = None, /, *, signing: Signing = DEFAULT_SIGNING, gateway: Gateway = DEFAULT_GATEWAY
) -> None:
    """Open orders."""
    owner, subaccount = account_of(who, signing)
    with helpful(), gateway.client() as client:
        open_orders = client.ask(questions.account(owner, subaccount)).orders
        if gateway.as_json:
            print_json(open_orders)
        elif open_orders:
            console().print(orders_table(open_orders, client.market))
        else:
            print("no open orders")


@app.command
def history(
    who: Who = None,
    /,
    *,
    limit: Annotated[int, Parameter(help="Newest events to show, at most 500.")] = 30,
    cursor: Annotated[str, Parameter(help="Go on where an earlier answer's `next` says.")] = "",
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """What happened to an account, newest first."""
    owner, subaccount = account_of(who, signing)
    with helpful(), gateway.client() as client:
        page = client.ask(questions.account_history(owner, subaccount, cursor=cursor, limit=limit))
        if gateway.as_json:
            print_json(page)
            return
        for row in page.items:
            if said := sentence(row.event, owner, client.market):
                print(f"{row.height:>8}  {said}")


@app.command
def deposit(
    who: Annotated[str, Parameter(help="ADDRESS or ADDRESS/SUBACCOUNT.")],
    amount: Annotated[str, Parameter(help="Dollars.")],
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Credit an account; only the custodian's key may. The first deposit opens the account.

    Example: quorate account deposit 0123...cdef 100000 --key network/custodian.json
    """
    with helpful():
        owner, subaccount = read_address(who)
        perform(signing, gateway, lambda _: Deposit(owner, subaccount, uusd(amount)))


@app.command
def withdraw(
    amount: Annotated[str, Parameter(help="Dollars.")],
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Take money out; the initial requirement must hold afterwards."""
    perform(signing, gateway, lambda _: words.withdraw(amount))


@app.command
def transfer(
    to_subaccount: int,
    amount: Annotated[str, Parameter(help="Dollars.")],
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Move cash to another of your sub-accounts, which exists from then on."""
    perform(signing, gateway, lambda _: words.transfer(to_subaccount, amount))


@app.command
def grant(
    session_key: Annotated[Path, Parameter(help="Key file of the key that may act, not a wallet's.")],
    /,
    *,
    scope: Annotated[tuple[ScopeName, ...], Parameter(negative="", help="What it may sign.")] = (
        "trade",
        "cancel",
    ),
    hours: Annotated[int, Parameter(help="For how long, in market time.")] = 24,
    notional: Annotated[str, Parameter(help="Dollars of positions and orders it may build up.")] = "100000",
    session_password_file: Path | None = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Let another key trade for this sub-account; it signs with --owner ADDRESS from then on.

    Example: quorate account grant robot.json --wallet 0xABC... --hours 8
    """
    seed = _session_seed(session_key, session_password_file)
    with helpful(), gateway.client() as client:
        status = client.ask(questions.status())
    action = words.register_session(
        SigningKey(seed),
        status.chain_id,
        signing.address(),
        signing.subaccount,
        scopes=[SessionScope[name.upper()] for name in scope],
        expires_ns=status.market_time_ns + hours * 3_600 * NS,
        notional=notional,
    )
    perform(signing, gateway, lambda _: action)


@app.command
def revoke(
    public_key: Annotated[str, Parameter(help="64 hexadecimal digits.")],
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """End a session key's right to act."""
    try:
        raw = bytes.fromhex(public_key)
    except ValueError:
        raise OperatorError(f"{public_key} is not hexadecimal") from None
    perform(signing, gateway, lambda _: words.revoke_session(raw))


def _session_seed(path: Path, password_file: Path | None) -> bytes:
    name, seed = read_key(path, password_file)
    if name == WALLET_KEY_NAME:
        raise OperatorError(
            f"{path} is a wallet's key: a session key is an Ed25519 one, made without --wallet"
        )
    return seed


def _print_account(account: AccountAnswer, market: Market) -> None:
    out, style = console(), HEALTH_STYLE[account.health]
    out.print(f"[bold]{account.address.hex()}/{account.subaccount}[/]  [{style}]{account.health}[/]")
    facts = table("", ">USD")
    facts.add_row("cash", money(account.cash_uusd))
    if account.margin is not None:
        facts.add_row("equity", money(account.margin.equity_uusd))
        facts.add_row("above initial margin", money(account.margin.im_excess_uusd))
        facts.add_row("above maintenance", money(account.margin.mm_excess_uusd))
    out.print(facts)
    if account.positions:
        positions = table("position", ">contracts", ">cost", title="\nPositions")
        for item in account.positions:
            positions.add_row(
                item.name, str(market.size(item.instrument, item.lots)), money(item.cost_uusd or None)
            )
        out.print(positions)
    if account.orders:
        out.print(orders_table(account.orders, market))
