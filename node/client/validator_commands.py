"""`quorate validator`: become one, stand in its sets, rotate its key, leave. Prints; reads a home's public keys.

The operator's account signs. That of a genesis validator belongs to its oracle key: give its keystore as --key.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from gossip.peer_id import peer_id_of
from ledger.staking.addresses import address_text, parse_address
from ledger.transactions import (
    Action,
    Announce,
    AttestReadiness,
    Delegate,
    LeaveValidatorSet,
    RegisterValidator,
    RotateConsensusKey,
    SetCommission,
    Unbond,
    Unjail,
    VoteParameter,
    peer_proof_bytes,
)
from node.client import policy_commands, questions
from node.client.blocking import Client
from node.client.market import uusd
from node.client.terminal import (
    DEFAULT_GATEWAY,
    DEFAULT_SIGNING,
    Gateway,
    Signing,
    console,
    helpful,
    money,
    perform,
    print_json,
    table,
)
from node.config import load_config
from node.keystore import is_consensus_name, open_seeds, read_public_keys
from node.rpc.answers import ValidatorForm, ValidatorsAnswer
from node.signer.desk import KEYSTORE_FILE
from primitives.amounts import PPM
from primitives.errors import OperatorError, ProtocolViolation
from primitives.signing import SigningKey

app = App(name="validator", help="Become a validator, stand in its sets, rotate its key, leave.")

POLL_SECONDS = 1.0
WAIT_SECONDS = 86_400
"""How long `join` waits at most for an epoch."""

Home = Annotated[Path, Parameter(help="The validator's home: whose public keys are registered.")]
SignerHome = Annotated[
    Path | None, Parameter(help="Home of its remote signer, if that has the consensus key.")
]
Number = Annotated[
    int | None, Parameter(help="The validator's number; that of the account's own validator if not given.")
]


@app.command
def status(
    number: Number = None, /, *, signing: Signing = DEFAULT_SIGNING, gateway: Gateway = DEFAULT_GATEWAY
) -> None:
    """Every validator: stake, place and weight in this epoch and the next, and what keeps it out.

    Example: quorate validator status
    """
    del signing
    with helpful(), gateway.client() as client:
        answer = client.ask(questions.validators())
    if gateway.as_json:
        print_json(answer)
        return
    made = table(
        "validator", "operator", ">stake", ">commission", ">place", ">weight", ">next", ">missed", "standing"
    )
    for item in answer.validators:
        if number in (None, item.number):
            made.add_row(*_row(item, answer))
    console().print(made)
    print(f"epoch {answer.epoch}")


@app.command
def bond(
    amount: Annotated[str, Parameter(help="Dollars.")],
    /,
    *,
    home: Home,
    signer: SignerHome = None,
    commission: Annotated[str, Parameter(help="Part of rewards that the operator takes, percent.")] = "5",
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Register a validator with stake of one's own; once it is registered, add to its stake.

    Example: quorate validator bond 150000 --home validator --key operator.json
    """
    keys, consensus = _keys_of(home, signer)

    def make(client: Client) -> Action:
        mine = _with_key(client.ask(questions.validators()), consensus)
        if mine is not None:
            return Delegate(mine.number, uusd(amount))
        return RegisterValidator(
            consensus_key=consensus[-1],
            oracle_key=keys["oracle"],
            peer_id=peer_id_of(keys["network"]),
            commission_ppm=_ppm(commission),
            stake_uusd=uusd(amount),
        )

    perform(signing, gateway, make)
    with helpful(), gateway.client() as client:
        answer = client.ask(questions.validators())
    mine = _with_key(answer, consensus)
    if mine is not None and not gateway.as_json:
        stake = money(mine.stake_uusd)
        print(
            f"validator {mine.number} has a stake of {stake}; it may join from epoch {mine.joined_epoch + 1} on"
        )


@app.command
def join(
    number: Number = None,
    /,
    *,
    no_wait: Annotated[bool, Parameter(negative="", help="Return once readiness is attested.")] = False,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Say that the validator's node is synchronised, and wait until it is in the set.

    Readiness is attested in an epoch after that of the registration; the set of the second epoch after counts it.

    Example: quorate validator join --key operator.json
    """
    with helpful(), signing.client(gateway) as client:
        mine = _own(client, signing, number)
        told = ""
        while client.ask(questions.validators()).epoch <= mine.joined_epoch and not mine.is_ready:
            told = _tell(told, f"waiting for epoch {mine.joined_epoch + 1}")
            time.sleep(POLL_SECONDS)
    if not mine.addresses and not gateway.as_json:
        print("it has announced no address, so nobody can dial it: see `quorate validator announce`")
    if not mine.is_ready:
        perform(signing, gateway, lambda _: AttestReadiness(mine.number))
    if no_wait:
        return
    _follow(gateway, mine.number)


@app.command
def announce(
    number: Number = None,
    /,
    *,
    home: Home,
    address: Annotated[
        tuple[str, ...],
        Parameter(
            negative="", consume_multiple=True, help="HOST:PORT for the others; [listen] of its node.toml."
        ),
    ] = (),
    unlisted: Annotated[bool, Parameter(negative="", help="No address: it dials the others itself.")] = False,
    home_password_file: Annotated[
        Path | None, Parameter(help="The home's password; else QUORATE_PASSWORD, else you are asked.")
    ] = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Tell the chain, and so every node, under which network key and at which addresses the validator is reached.

    Whenever one of them changes, announce again. A validator behind sentries announces their addresses.

    Example: quorate validator announce --home validator --key operator.json --address 203.0.113.9:26600
    """
    if unlisted and address:
        raise OperatorError("--unlisted announces no address: leave --address out")
    addresses = () if unlisted else _addresses(home, address)
    seeds, _ = open_seeds(home / KEYSTORE_FILE, home_password_file)
    if "network" not in seeds:
        raise OperatorError(f"{home} is not the home of a validator")
    network = SigningKey(seeds["network"])

    def make(client: Client) -> Action:
        mine, chain_id = _own(client, signing, number), client.ask(questions.status()).chain_id
        proof = network.sign(peer_proof_bytes(chain_id, mine.operator, mine.number))
        return Announce(mine.number, network.public_key, addresses, proof)

    perform(signing, gateway, make)
    if not gateway.as_json:
        print(f"{peer_id_of(network.public_key)} is at {', '.join(addresses) or 'no address'}")


def _addresses(home: Path, given: tuple[str, ...]) -> tuple[str, ...]:
    """As they are announced. Raises OperatorError for what is none, and when the home cannot tell its own."""
    if not given:
        config = load_config(home)
        if config.sentries or config.listen.host in ("0.0.0.0", "::"):
            raise OperatorError(f"{home} does not tell where others reach it: give --address or --unlisted")
        given = (f"{config.listen.host}:{config.listen.port}",)
    texts = []
    for one in given:
        host, _, port = one.rpartition(":")
        text = address_text(host.strip("[]"), int(port)) if port.isdecimal() else one
        try:
            parse_address(text)
        except ProtocolViolation:
            raise OperatorError(f"--address: {one!r} is not HOST:PORT") from None
        texts.append(text)
    return tuple(texts)


@app.command
def rotate_key(
    number: Number = None,
    /,
    *,
    home: Home,
    signer: SignerHome = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Vote with the newest consensus key of the home from the epoch after the next on.

    First `quorate keys new-consensus` and start the node (or signer) again: it needs both keys until then.

    Example: quorate validator rotate-key --home validator --key operator.json
    """
    _, consensus = _keys_of(home, signer)
    with helpful(), signing.client(gateway) as client:
        mine = _own(client, signing, number)
    if mine.consensus_key not in consensus:
        raise OperatorError(f"validator {mine.number} votes with a key that {signer or home} does not hold")
    if mine.consensus_key == consensus[-1]:
        raise OperatorError(
            f"validator {mine.number} votes with the newest key of {signer or home} already: "
            "make another with `quorate keys new-consensus`"
        )
    perform(signing, gateway, lambda _: RotateConsensusKey(mine.number, consensus[-1]))
    if not gateway.as_json:
        with helpful(), gateway.client() as client:
            epoch = client.ask(questions.validators()).epoch
        print(f"{consensus[-1].hex()} votes from epoch {epoch + 2} on; keep both keys until then")


@app.command
def unbond(
    amount: Annotated[str, Parameter(help="Dollars, or all.")],
    number: Number = None,
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Take stake out. It becomes cash of the account by itself when the unbonding period is over.

    Example: quorate validator unbond all --key operator.json
    """

    def make(client: Client) -> Action:
        mine = _own(client, signing, number).number
        if amount != "all":
            return Unbond(mine, uusd(amount))
        bonded = client.ask(questions.stake(signing.address(), signing.subaccount)).bonded
        worth = sum(item.value_uusd for item in bonded if item.validator == mine)
        if not worth:
            raise OperatorError(f"this account has no stake with validator {mine}")
        return Unbond(mine, worth)

    perform(signing, gateway, make)


@app.command
def leave(
    number: Number = None, /, *, signing: Signing = DEFAULT_SIGNING, gateway: Gateway = DEFAULT_GATEWAY
) -> None:
    """Be in no set decided from now on. Keep the node running until it is out: `quorate validator status`.

    Example: quorate validator leave --key operator.json
    """
    perform(signing, gateway, lambda client: LeaveValidatorSet(_own(client, signing, number).number))


@app.command
def unjail(
    number: Number = None, /, *, signing: Signing = DEFAULT_SIGNING, gateway: Gateway = DEFAULT_GATEWAY
) -> None:
    """Return from jail once its time is over.

    Example: quorate validator unjail --key operator.json
    """
    perform(signing, gateway, lambda client: Unjail(_own(client, signing, number).number))


@app.command
def commission(
    percent: Annotated[str, Parameter(help="Part of rewards that the operator takes.")],
    number: Number = None,
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Change the operator's part of rewards, from the next epoch on.

    Example: quorate validator commission 4.5 --key operator.json
    """
    perform(
        signing, gateway, lambda client: SetCommission(_own(client, signing, number).number, _ppm(percent))
    )


@app.command(help=policy_commands.describe_numbers(), help_format="plaintext")
def vote(
    *wanted: Annotated[str, Parameter(help="NAME=VALUE; names are those of `quorate validator numbers`.")],
    validator: Annotated[int | None, Parameter(help="Its number, for who operates several.")] = None,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """See describe_numbers."""
    if not wanted:
        raise OperatorError("say what to vote for, as NAME=VALUE: see `quorate validator numbers`")

    def make(client: Client) -> list[VoteParameter]:
        return policy_commands.votes_of(client, _own(client, signing, validator).number, wanted)

    perform(signing, gateway, make)
    if not gateway.as_json:
        policy_commands.print_standing(gateway, {item.partition("=")[0] for item in wanted})


app.command(policy_commands.numbers)


def _keys_of(home: Path, signer: Path | None) -> tuple[dict[str, bytes], list[bytes]]:
    """All public keys of a home, and the consensus keys, oldest first. Raises OperatorError."""
    keys = read_public_keys(home / KEYSTORE_FILE)
    elsewhere = {} if signer is None else read_public_keys(signer / KEYSTORE_FILE)
    consensus = [key for name, key in (*keys.items(), *elsewhere.items()) if is_consensus_name(name)]
    if not consensus:
        raise OperatorError(f"{home} holds no consensus key: give the signer's home with --signer")
    if "oracle" not in keys or "network" not in keys:
        raise OperatorError(f"{home} is not the home of a validator")
    return keys, consensus


def _with_key(answer: ValidatorsAnswer, consensus: list[bytes]) -> ValidatorForm | None:
    return next((item for item in answer.validators if item.consensus_key in consensus), None)


def _own(client: Client, signing: Signing, number: int | None) -> ValidatorForm:
    """The validator of that number, or the one that the account operates. Raises OperatorError."""
    validators = client.ask(questions.validators()).validators
    operator = signing.address()
    found = [
        item for item in validators if number == item.number or (number is None and item.operator == operator)
    ]
    if not found:
        who = f"no validator {number}" if number is not None else f"{operator.hex()} operates no validator"
        raise OperatorError(f"{who}: see `quorate validator status`")
    if len(found) > 1:
        raise OperatorError(
            f"this account operates validators {', '.join(str(item.number) for item in found)}: say which"
        )
    return found[0]


def _follow(gateway: Gateway, number: int) -> None:
    """Say what changes until the validator is in the set."""
    told, until = "", time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        with helpful(), gateway.client() as client:
            answer = client.ask(questions.validators())
        item = next(one for one in answer.validators if one.number == number)
        coming = _member(answer, number)
        if item.place is not None:
            print(
                f"epoch {answer.epoch}: validator {number} votes at place {item.place} with weight {item.weight}"
            )
            return
        if coming is not None:
            told = _tell(
                told, f"epoch {answer.epoch}: in the next set, at place {coming[0]} with weight {coming[1]}"
            )
        else:
            told = _tell(told, f"epoch {answer.epoch}: in no decided set yet")
        time.sleep(POLL_SECONDS)
    raise OperatorError(f"validator {number} is in no set yet: see `quorate validator status`")


def _tell(told: str, line: str) -> str:
    if line != told:
        print(line, flush=True)
    return line


def _member(answer: ValidatorsAnswer, number: int) -> tuple[int, int] | None:
    """(place, weight) in the next set."""
    members = () if answer.next_set is None else answer.next_set.members
    return next(((one.place, one.weight) for one in members if one.validator == number), None)


def _row(item: ValidatorForm, answer: ValidatorsAnswer) -> tuple[str, ...]:
    coming = _member(answer, item.number)
    if item.is_tombstoned:
        standing = "out for good"
    elif item.is_jailed:
        standing = "in jail"
    else:
        standing = "ready" if item.is_ready else "not ready"
    return (
        str(item.number),
        item.operator.hex(),
        money(item.stake_uusd),
        f"{item.commission_ppm * 100 / PPM:g} %",
        "-" if item.place is None else str(item.place),
        str(item.weight),
        "-" if coming is None else str(coming[1]),
        str(item.missed_blocks),
        standing,
    )


def _ppm(percent: str) -> int:
    try:
        return round(float(percent) * PPM / 100)
    except ValueError:
        raise OperatorError(f"{percent!r} is no percentage") from None
