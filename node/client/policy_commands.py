"""`quorate validator numbers` and `vote`: what validators can change while the chain runs, and changing it. Prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated

from cyclopts import Parameter

from ledger.policy import SECTIONS
from ledger.transactions import VoteParameter
from node.client import questions
from node.client.blocking import Client
from node.client.terminal import (
    DEFAULT_GATEWAY,
    DEFAULT_SIGNING,
    Gateway,
    Signing,
    console,
    helpful,
    print_json,
    table,
)
from node.rpc.answers import NumberForm, PolicyAnswer
from primitives.amounts import NS
from primitives.errors import OperatorError


def numbers(
    beginning: Annotated[str, Parameter(help="Only names that begin like this.")] = "",
    /,
    *,
    signing: Signing = DEFAULT_SIGNING,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Every number that validators can change by vote: its value, its hard bounds, and what is voted for.

    Example: quorate validator numbers margin.btc.forward
    """
    del signing
    with helpful(), gateway.client() as client:
        answer = client.ask(questions.policy())
    if gateway.as_json:
        print_json(answer)
        return
    shown = [item for item in answer.numbers if item.name.startswith(beginning)]
    if not shown:
        raise OperatorError(f"no number's name begins with {beginning!r}: see `quorate validator numbers`")
    made = table("number", ">value", ">least", ">most", "unit")
    for item in shown:
        made.add_row(item.name, str(item.value), str(item.low), str(item.high), item.unit)
    console().print(made)
    _print_votes(answer, {item.name for item in shown})


def describe_numbers() -> str:
    """Help of `vote`: every section with the numbers in it and their bounds."""
    lines = [
        "Vote for values of numbers of policy: NAME=VALUE, as many as wanted, each judged with those before it.",
        "",
        "Two thirds of the weight decide, and after the delay the value holds for everybody from one block on.",
        "UNDERLYING is btc or eth, N counts from 0. A later vote on the same number replaces an earlier one.",
        "",
        "Example: quorate validator vote auction.fee_ppm=80000 margin.btc.im_factor_ppm=1100000 --key operator.json",
        "",
    ]
    for section, where in SECTIONS.items():
        for row, (low, high) in where.rows.items():
            lines.append(f"  {pattern(section, row)}: {low} to {high}")
    return "\n".join(lines)


def pattern(section: str, row: str) -> str:
    """A row's name with UNDERLYING and N where the chain's own stand."""
    if SECTIONS[section].key is None:
        return f"{section}.UNDERLYING.{row.replace('*', 'N')}"
    by_underlying = section in ("fees", "monitors")
    if by_underlying:
        row = row.replace("*", "UNDERLYING", 1).replace(".monitors.", ".")
    return f"{section}.{row.replace('*', 'N')}"


def votes_of(client: Client, validator: int, wanted: Iterable[str]) -> list[VoteParameter]:
    """The votes that NAME=VALUE arguments ask for. Raises OperatorError for one that could not count."""
    known = {item.name: item for item in client.ask(questions.policy()).numbers}
    votes = [VoteParameter(validator, *_read(item, known)) for item in wanted]
    return in_order(votes, {name: item.value for name, item in known.items()})


def in_order(votes: Iterable[VoteParameter], now: Mapping[str, int]) -> list[VoteParameter]:
    """Votes as asked for, but moves of scenarios last, so that no two scenarios are ever the same on the way.

    Those that shrink begin with the smallest, those that grow with the largest: a grid that is scaled always fits.
    """

    def place(vote: VoteParameter) -> tuple[bool, bool, int]:
        if not vote.name.endswith(".move_ppm") or ".scenarios." not in vote.name:
            return False, False, 0
        size = abs(now[vote.name])
        grows = abs(vote.value) > size
        return True, grows, -size if grows else size

    return sorted(votes, key=place)


def print_standing(gateway: Gateway, names: set[str]) -> None:
    """What the votes on some numbers have come to."""
    with helpful(), gateway.client() as client:
        _print_votes(client.ask(questions.policy()), names)


def _read(text: str, known: dict[str, NumberForm]) -> tuple[str, int]:
    name, _, value = text.partition("=")
    item = known.get(name)
    if item is None:
        raise OperatorError(f"no number is called {name!r}: see `quorate validator numbers`")
    try:
        number = int(value)
    except ValueError:
        raise OperatorError(f"{text!r} is not NAME=VALUE with a whole number") from None
    if not item.low <= number <= item.high:
        raise OperatorError(f"{name} is {item.low} to {item.high} {item.unit}")
    return name, number


def _print_votes(answer: PolicyAnswer, names: set[str]) -> None:
    for ballot in answer.ballots:
        if ballot.name in names:
            voters = ", ".join(str(item) for item in ballot.voters)
            print(f"{ballot.name} = {ballot.value}: wanted by validators {voters}")
    for change in answer.decided:
        if change.name in names:
            when = datetime.fromtimestamp(change.effective_ns // NS, UTC)
            print(f"{change.name} = {change.value}: decided, holds from {when:%Y-%m-%d %H:%M:%S} UTC on")
