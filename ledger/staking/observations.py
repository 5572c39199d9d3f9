"""What consensus tells the ledger with each block; everything here is agreed on, so replicas see the same. Pure."""

from __future__ import annotations

from typing import NamedTuple

FORK = "FORK"
"""Kind of an offence extracted from two conflicting finalized chains, whatever votes prove it."""


class Offence(NamedTuple):
    """A proved offence. `kind` is consensus' name for it ("E1" to "E6", "E6'") or FORK."""

    offender: int
    """Place (consensus' index) in the validator set of `epoch`."""
    epoch: int
    kind: str
    view: int


class Observations(NamedTuple):
    """Everything that consensus says with one block."""

    offences: tuple[Offence, ...]
    signers: tuple[int, ...]
    """Ascending places in the set of the parent's epoch; empty when the parent has no certificate."""
