"""A violation as sentences: who signed what, in which order, and what the adversary proves with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from consensus.certificates import certified_block, finality_proof
from consensus.messages import Certificate, QuorumCertificate, VoteKind
from testnet.model.blocks import GENESIS, BlockTable
from testnet.model.explorer import Violation
from testnet.model.rules import BYZANTINE, Rules
from testnet.model.states import State, Step, StepKind, Steps, column_of, initial_state

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Names:
    """Calls blocks A1, B2, ...: a letter in order of first mention, and the view."""

    def __init__(self, table: BlockTable) -> None:
        self._table = table
        self._names = {GENESIS: "genesis"}

    def of(self, block: int) -> str:
        """The block's name."""
        if block not in self._names:
            self._names[block] = f"{LETTERS[len(self._names) - 1]}{self._table.blocks[block].view}"
        return self._names[block]

    def is_new(self, block: int) -> bool:
        """Whether the block has not been mentioned yet."""
        return block not in self._names


def narrate(rules: Rules, violation: Violation) -> list[str]:
    """The steps, numbered, and then the proofs that contradict each other. Validator 3* is the Byzantine one."""
    names, steps = Names(rules.table), Steps(rules)
    state, lines = initial_state(rules.table.views), list[str]()
    for number, step in enumerate(violation.steps, 1):
        lines.append(f"{number:3}. {_sentence(rules, names, state, step)}")
        state = next(after for taken, after in steps.of(state) if taken == step)
    lines += [f"  => {line}" for line in _proofs(rules, names, violation.state)]
    return [*lines, f"  => {violation.sentence}"]


def _sentence(rules: Rules, names: Names, state: State, step: Step) -> str:
    who = f"view {step.view}: validator {step.validator}"
    match step.kind:
        case StepKind.NULLIFY:
            record = state[step.validator].records[step.view - 1]
            changed = rules.nullify(step.view, record)
            report = names.of(changed.nullified) if changed is not None and changed.nullified else "nothing"
            return f"{who} nullifies and reports {report}"
        case StepKind.ENTER:
            return f"{who} enters on {_admitting(rules, names, state, step.view - 1)}"
        case StepKind.NOTARIZE if names.is_new(step.block):
            name = names.of(step.block)
            return f"{who} notarizes {name}, {_origin(rules, names, state, step.block)}"
        case _:
            return f"{who} {step.kind} {names.of(step.block)}"


def _admitting(rules: Rules, names: Names, state: State, view: int) -> str:
    return _certificate(rules, names, rules.provable(view, column_of(state, view)).certificates[0])


def _origin(rules: Rules, names: Names, state: State, block: int) -> str:
    """What the leader shows for a new block."""
    view, parent, _ = rules.table.blocks[block]
    columns = tuple(column_of(state, lower) for lower in range(1, view))
    justification = rules.may_stand_on(view, parent, columns)
    shown = () if justification is None else (justification.parent, *justification.skips)
    proofs = [_certificate(rules, names, one) for one in shown if one is not None]
    return f"on {names.of(parent)}" + ("".join(f"; shown {proof}" for proof in proofs))


def _who(signer: int) -> str:
    return f"{signer}*" if signer == BYZANTINE else str(signer)


def _certificate(rules: Rules, names: Names, certificate: Certificate) -> str:
    number_of = rules.table.number_of
    if isinstance(certificate, QuorumCertificate):
        kind = "finalization" if certificate.kind == VoteKind.FINALIZE else "notarization"
        signers = ", ".join(_who(signer) for signer in certificate.signers)
        return f"the {kind} of {names.of(number_of(certificate.block))} by {signers}"
    reports = [
        f"{_who(signer)} reports {names.of(number_of(group.report)) if number_of(group.report) else 'nothing'}"
        for group in certificate.groups
        for signer in group.signers
    ]
    carried = number_of(certified_block(certificate, rules.validators))
    decides = f"carries {names.of(carried)}" if carried else f"skips view {certificate.view}"
    return f"a timeout certificate ({', '.join(sorted(reports))}) that {decides}"


def _proofs(rules: Rules, names: Names, state: State) -> Iterator[str]:
    """What proves finality in the end."""
    for view in range(1, rules.table.views + 1):
        for certificate in rules.provable(view, column_of(state, view)).certificates:
            proof = finality_proof(certificate, rules.validators)
            if proof is not None:
                block = rules.table.number_of(proof.block)
                parent = names.of(rules.table.blocks[block].parent)
                name = names.of(block)
                yield f"{name} (view {view}, on {parent}) is final by {_certificate(rules, names, proof)}"
