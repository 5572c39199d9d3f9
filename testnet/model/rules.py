"""The production rules, asked about the model's votes. Pure.

A record is what one validator signed in one view; a column holds the records of all honest validators for one view.
Nothing here decides by itself: `OwnVotes` says who may sign, `certificates` what votes prove and which blocks are
justified. Answers are cached, because they depend on their arguments alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from typing import NamedTuple

from consensus.certificates import (
    assemble_quorum,
    assemble_timeout,
    certified_block,
    check_certificate,
    check_justified,
    finality_proof,
)
from consensus.effects import OwnVote
from consensus.epoch import Epoch
from consensus.leader import LeaderSchedule
from consensus.messages import (
    VERSION_FIRST,
    Block,
    Certificate,
    Header,
    Justification,
    QuorumCertificate,
    TimeoutCertificate,
    Vote,
    VoteKind,
    justification_root,
)
from consensus.safety import OwnVotes
from consensus.validator_set import ValidatorSet
from primitives.errors import ProtocolViolation
from primitives.identifiers import NO_BLOCK, ValidatorIndex
from testnet.model.blocks import GENESIS, BlockTable

HONEST = (0, 1, 2)
BYZANTINE = 3
CHAIN_ID = bytes(32)
NO_SIGNATURE = bytes(64)
"""Signatures are taken as unforgeable: only the Byzantine validator's votes are made up."""
UNSIGNED = -1


class Record(NamedTuple):
    """One validator's votes in one view, by block number; 0 is none. `nullified` is the report, or UNSIGNED."""

    notarized: int = 0
    nullified: int = UNSIGNED
    finalized: int = 0


Column = tuple[Record, ...]
"""What the honest validators signed in one view, in their order."""
EMPTY_COLUMN: Column = (Record(),) * len(HONEST)


class AdversaryLeads(LeaderSchedule):
    """The Byzantine validator leads every view: whatever an honest leader can propose, it can propose too."""

    def leader_of(self, view: int) -> ValidatorIndex:
        """Always the Byzantine validator."""
        return ValidatorIndex(BYZANTINE)


@dataclass(frozen=True, slots=True)
class Provable:
    """Everything that can be proved about one view from the honest votes and any votes of the Byzantine one."""

    certificates: tuple[Certificate, ...]
    """One of each meaning: signers do not matter, since all weigh the same."""
    notarized: frozenset[int]
    final: frozenset[int]
    finalized: frozenset[int]
    """Final by a finalization; the others are final by a heavy notarization."""
    certified: frozenset[int]
    """Blocks that a child may stand on."""
    carried: frozenset[int]
    has_timeout: bool
    skips: bool
    """Whether some timeout certificate skips the view."""


class Rules:
    """The rules as they are in this process now; make a new one after planting a mutation."""

    def __init__(self, table: BlockTable) -> None:
        self.table = table
        keys = tuple(bytes([index]) * 32 for index in (*HONEST, BYZANTINE))
        self.validators = ValidatorSet(keys)
        leaders = AdversaryLeads(CHAIN_ID, len(keys))
        self.epoch = Epoch(CHAIN_ID, 0, self.validators, leaders, table.hashes[GENESIS])
        self.notarize = cache(self._notarize)
        self.nullify = cache(self._nullify)
        self.finalize = cache(self._finalize)
        self.provable = cache(self._provable)
        self.may_stand_on = cache(self._may_stand_on)

    # --- R3, R4, R5: what one honest validator may sign ---

    def _own(self, view: int, record: Record) -> OwnVotes:
        own = OwnVotes(CHAIN_ID, 0, HONEST[0], lambda message: NO_SIGNATURE)
        hash_of = self.table.hash_of
        for kind, number, absent in (
            (VoteKind.NOTARIZE, record.notarized, 0),
            (VoteKind.NULLIFY, record.nullified, UNSIGNED),
            (VoteKind.FINALIZE, record.finalized, 0),
        ):
            if number != absent:
                own.restore(OwnVote(kind, 0, view, hash_of(number)))
        return own

    def _read(self, own: OwnVotes, view: int) -> Record:
        signed, number_of = own.of(view), self.table.number_of
        return Record(
            number_of(signed.notarized or NO_BLOCK),
            UNSIGNED if signed.nullified is None else number_of(signed.nullified),
            number_of(signed.finalized or NO_BLOCK),
        )

    def _notarize(self, view: int, record: Record, block: int) -> Record | None:
        """R3 about own votes: the record afterwards, or None where the vote is refused."""
        own = self._own(view, record)
        if not own.may_notarize(view, self.table.hash_of(block)):
            return None
        own.notarize(view, self.table.hash_of(block))
        return self._read(own, view)

    def _nullify(self, view: int, record: Record) -> Record | None:
        """R4 about own votes."""
        own = self._own(view, record)
        if not own.may_nullify(view):
            return None
        own.nullify(view)
        return self._read(own, view)

    def _finalize(self, view: int, record: Record, block: int) -> Record | None:
        """R5 about own votes."""
        own = self._own(view, record)
        if not own.may_finalize(view, self.table.hash_of(block)):
            return None
        own.finalize(view, self.table.hash_of(block))
        return self._read(own, view)

    # --- certificates ---

    def _provable(self, view: int, column: Column) -> Provable:
        validators, number_of = self.validators, self.table.number_of
        certificates = tuple(self._assemblable(view, column))
        quorums = [one for one in certificates if isinstance(one, QuorumCertificate)]
        timeouts = [one for one in certificates if isinstance(one, TimeoutCertificate)]
        proofs = [one for one in quorums if finality_proof(one, validators) is not None]
        resolutions = {number_of(certified_block(one, validators)) for one in timeouts}
        return Provable(
            certificates=certificates,
            notarized=frozenset(number_of(q.block) for q in quorums if q.kind == VoteKind.NOTARIZE),
            final=frozenset(number_of(proof.block) for proof in proofs),
            finalized=frozenset(number_of(q.block) for q in quorums if q.kind == VoteKind.FINALIZE),
            certified=frozenset(number_of(q.block) for q in quorums) | resolutions - {0},
            carried=frozenset(resolutions - {0}),
            has_timeout=bool(timeouts),
            skips=0 in resolutions,
        )

    def _assemblable(self, view: int, column: Column) -> Iterator[Certificate]:
        """Every certificate that the adversary can assemble and that production accepts, one of each meaning."""
        assembled: list[Certificate] = []
        for kind, blocks in (
            (VoteKind.NOTARIZE, [record.notarized for record in column]),
            (VoteKind.FINALIZE, [record.finalized for record in column]),
        ):
            # More votes never prove less, so the Byzantine vote is always added.
            for block in sorted(set(blocks) - {0}):
                signed = {i: blocks[i] for i in HONEST if blocks[i] == block} | {BYZANTINE: block}
                assembled.append(assemble_quorum(self._votes(kind, view, signed)))
        reports = {i: column[i].nullified for i in HONEST if column[i].nullified != UNSIGNED}
        lies = sorted({0} | {block for record in column for block in (record.notarized, record.finalized)})
        choices: dict[tuple[int, ...], dict[int, int]] = {}
        for count in range(1, len(reports) + 1):
            for signers, lie in product(combinations(sorted(reports), count), (None, *lies)):
                chosen = {i: reports[i] for i in signers} | ({} if lie is None else {BYZANTINE: lie})
                choices.setdefault(tuple(sorted(chosen.values())), chosen)
        for chosen in choices.values():
            assembled.append(assemble_timeout(self._votes(VoteKind.NULLIFY, view, chosen)))
        return (one for one in assembled if self._is_accepted(one))

    def _votes(self, kind: VoteKind, view: int, blocks: Mapping[int, int]) -> dict[int, Vote]:
        hash_of = self.table.hash_of
        return {i: Vote(kind, 0, view, hash_of(block), i, NO_SIGNATURE) for i, block in blocks.items()}

    def _is_accepted(self, certificate: Certificate) -> bool:
        try:
            check_certificate(certificate, self.epoch)
        except ProtocolViolation:
            return False
        return True

    # --- justified and acceptable blocks ---

    def _may_stand_on(self, view: int, parent: int, columns: tuple[Column, ...]) -> Justification | None:
        """A justification by which a block of `view` on `parent` is acceptable; None if there is none.

        `columns` are those of the views 1..view-1. The adversary tries every certificate of every earlier
        view, and none, in every place; production accepts or refuses.
        """
        if parent != GENESIS:
            below = self.table.blocks[parent]
            if self.may_stand_on(below.view, below.parent, columns[: below.view - 1]) is None:
                return None
        proofs = [self.provable(v, column).certificates for v, column in enumerate(columns, 1)]
        timeouts = [tuple(one for one in p if isinstance(one, TimeoutCertificate)) for p in proofs]
        parent_view = self.table.blocks[parent].view
        parents: list[Certificate | None] = [None, *(one for proof in proofs for one in proof)]
        for certificate in parents:
            for tried in product(*((None, *timeouts[v - 1]) for v in range(parent_view + 1, view))):
                skips = tuple(one for one in tried if one is not None)
                justification = Justification(certificate, skips)
                if self._is_justified(view, parent, justification):
                    return justification
        return None

    def _is_justified(self, view: int, parent: int, justification: Justification) -> bool:
        header = Header(
            version=VERSION_FIRST,
            chain_id=CHAIN_ID,
            epoch=0,
            view=view,
            height=view,
            parent_hash=self.table.hashes[parent],
            parent_view=self.table.blocks[parent].view,
            proposer=BYZANTINE,
            time_ns=0,
            transaction_root=bytes(32),
            parent_state_root=bytes(32),
            next_set_hash=bytes(32),
            justification_root=justification_root(justification),
            evidence_root=bytes(32),
            flags=0,
        )
        try:
            check_justified(Block(header, (), (), justification), self.epoch)
        except ProtocolViolation:
            return False
        return True
