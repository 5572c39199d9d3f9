"""Makes what node/light/verifier.py checks, from a node's store and its epoch files. Reads the disk.

The state that can be proven is the one before the newest final block: that block's header holds its root. The
store keeps what the block changed, so the leaves before it are at hand. The tree over them is built when it is
asked for, at most once for a block, and no more often than BUILD_REST times what building took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from consensus.certificates import finality_proof
from consensus.effects import EpochSet
from consensus.messages import Block, Header, QuorumCertificate, VoteKind, hash_of
from consensus.validator_set import ValidatorSet
from ledger.accounts import Account
from ledger.breakers.state import KEY_BREAKERS, drift_key, phase_key
from ledger.genesis import LedgerGenesis
from ledger.instruments import Instrument, Kind
from ledger.listing import Listing
from ledger.settlement.state import KEY_EXPOSURE, funding_key
from ledger.state_keys import listing_key, oracle_key, underlying_key, window_key
from ledger.state_tree import StateTree
from ledger.trading.state import KEY_TRADING, trading_key
from node.genesis import GenesisDocument, chain_id_of
from node.light.verifier import VERSION, keys_of
from node.storage.block_store import Before, BlockStore
from node.storage.epoch_files import EpochFiles
from primitives.codec import Wire, decode_own, encode
from primitives.errors import OperatorError

BUILD_REST = 10
"""A tree is built anew after this many times what building took: proving takes at most a tenth of a core."""
LINKS_MAX = 256
"""Epoch links in one answer; ask again from where it ended."""


class NotProvable(OperatorError):
    """There is nothing to prove yet; the sentence says what is missing."""


class FinalityProof(Wire):
    """A header, those of empty blocks upon it if there are any, and a finality certificate for the last."""

    headers: tuple[Header, ...]
    certificate: QuorumCertificate


class EpochLink(Wire):
    """What leads from one epoch's validators to the next one's; `next_set` None: they are the same."""

    header: Header
    certificate: QuorumCertificate
    next_set: EpochSet | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state under a root that validators have signed."""

    tip: Header
    finality: FinalityProof
    tree: StateTree
    leaves: dict[bytes, bytes]
    made_s: float
    cost_s: float

    @property
    def height(self) -> int:
        """Of the block after which the state is this one."""
        return self.tip.height - 1


class Prover:
    """Proofs from one store; may be asked from several threads, holds one snapshot."""

    def __init__(self, store: BlockStore, epochs: EpochFiles, genesis: GenesisDocument) -> None:
        self._store = store
        self._epochs = epochs
        self._genesis = genesis
        self._chain_id = chain_id_of(genesis)
        self._genesis_set = ValidatorSet(
            tuple(entry.consensus_key for entry in genesis.validators),
            tuple(entry.weight for entry in genesis.validators),
            genesis.consensus.final_weight or None,
        )
        self._building = threading.Lock()
        self._snapshot: Snapshot | None = None

    @property
    def chain_id(self) -> bytes:
        """The chain's name."""
        return self._chain_id

    # --- epochs ---

    def set_of(self, epoch: int) -> ValidatorSet:
        """The validators of an epoch that began here. Raises NotProvable."""
        if epoch == 0:
            return self._genesis_set
        opened = self._epochs.opened(epoch)
        if opened is None:
            raise NotProvable(f"epoch {epoch} has not begun here")
        kept = opened.validators
        return ValidatorSet(kept.public_keys, kept.weights, kept.final_weight)

    def links(self, first: int, end: int | None = None) -> list[EpochLink]:
        """What leads from epoch `first` towards `end` (None: as far as we know), at most LINKS_MAX."""
        links: list[EpochLink] = []
        members = self.set_of(first)
        for epoch in range(first, first + LINKS_MAX if end is None else end):
            proof, opened = self._epochs.proof_of(epoch), self._epochs.opened(epoch + 1)
            if proof is None or opened is None:
                if end is not None:
                    raise NotProvable(f"why epoch {epoch} is over is not kept here")
                break
            following = self.set_of(epoch + 1)
            is_same = following.set_hash() == members.set_hash()
            # Every header of an epoch names the next set, so the last one, which is signed, is enough.
            certificate = trimmed(proof.certificate, members)
            links.append(EpochLink(proof.headers[-1], certificate, None if is_same else opened.validators))
            members = following
        return links

    # --- the state ---

    def snapshot(self) -> Snapshot:
        """The newest provable state, or one of shortly before. Raises NotProvable when there never was one."""
        with self._building:
            held = self._snapshot
            if held is None:
                self._snapshot = held = self._built()
            elif time.monotonic() - held.made_s >= BUILD_REST * held.cost_s and not self._is_newest(held):
                # While an epoch ends its last block may not be provable yet.
                with suppress(NotProvable):
                    self._snapshot = held = self._built()
            return held

    def _is_newest(self, held: Snapshot) -> bool:
        tip = self._store.tip()
        return tip is not None and tip.height == held.tip.height

    def _built(self) -> Snapshot:
        start_s = time.monotonic()
        before = self._store.before_tip()
        if before is None:
            raise NotProvable("no block is final and stored here yet")
        header = decode_own(Block, before.block).header
        finality = self._finality(header, before)
        tree = StateTree().update(before.leaves)
        if tree.root != header.parent_state_root:
            raise OperatorError(f"the stored state is not the one that block {before.height} commits to")
        now_s = time.monotonic()
        return Snapshot(header, finality, tree, dict(before.leaves), now_s, now_s - start_s)

    def _finality(self, header: Header, before: Before) -> FinalityProof:
        name, members = hash_of(header), self.set_of(header.epoch)
        if before.proof:
            certificate = decode_own(QuorumCertificate, before.proof)
            if certificate.block == name and finality_proof(certificate, members) is not None:
                return FinalityProof((header,), trimmed(certificate, members))
        closing = self._epochs.proof_of(header.epoch)
        if closing is not None and hash_of(closing.headers[0]) == name:
            # The last block of an epoch may be final only through empty blocks upon it.
            return FinalityProof(closing.headers, trimmed(closing.certificate, members))
        raise NotProvable(f"the finality proof of block {header.height} is that of a later one: ask again")

    def proof_file(self, kind: str, subject: bytes, first_epoch: int = 0) -> bytes:
        """A proof file (docs/spec/proofs.md) that starts at the validators of `first_epoch`. Raises NotProvable."""
        snapshot = self.snapshot()
        keys = keys_of(kind, subject)
        if kind == "margin":
            keys += margin_keys(self._genesis.ledger, subject, snapshot.leaves.get)
        leaves = [(key, snapshot.leaves.get(key), snapshot.tree.prove(key)) for key in keys]
        last = snapshot.tip.epoch
        if first_epoch > last:
            raise NotProvable(f"the newest provable block is of epoch {last}, before {first_epoch}")
        links = self.links(first_epoch, last)
        fields: Any = (kind, subject, self._chain_id, first_epoch, links, snapshot.finality, leaves)
        return encode((VERSION, *fields))


def trimmed(certificate: QuorumCertificate, members: ValidatorSet) -> QuorumCertificate:
    """The same certificate with no more signatures than it takes, the heaviest signers first."""
    needed = members.quorum if certificate.kind == VoteKind.FINALIZE else members.final_weight
    signatures = dict(zip(certificate.signers, certificate.signatures, strict=True))
    heaviest = sorted(certificate.signers, key=lambda one: (-members.weights[one], one))
    chosen = sorted(_first(heaviest, needed, lambda one: members.weights[one]))
    return QuorumCertificate(
        kind=certificate.kind,
        epoch=certificate.epoch,
        view=certificate.view,
        block=certificate.block,
        signers=tuple(chosen),
        signatures=tuple(signatures[one] for one in chosen),
    )


def _first(signers: Sequence[int], needed: int, weight_of: Callable[[int], int]) -> list[int]:
    chosen, weight = [], 0
    for one in signers:
        if weight >= needed:
            break
        chosen.append(one)
        weight += weight_of(one)
    return chosen


def margin_keys(genesis: LedgerGenesis, subject: bytes, find: Callable[[bytes], bytes | None]) -> list[bytes]:
    """Leaves beyond the account's, the clock's, the marks' and the parameters' that its margin follows from.

    `find` gives a leaf's bytes, None when there is none.
    """
    raw = find(b"a" + subject)
    account = None if raw is None else decode_own(Account, raw)
    listings = [listing_key(item.instrument) for item in (account.positions if account else ())]
    held = [decode_own(Listing, raw).instrument for key in listings if (raw := find(key)) is not None]
    oracles = [oracle_key(item.underlying) for item in genesis.underlyings]
    trading = trading_key((subject[:20], subject[20]))
    windows, perpetuals = _window_keys(held), [item.id for item in held if item.kind == Kind.PERPETUAL]
    models = [underlying_key(item.underlying) for item in genesis.underlyings]
    settlement = [KEY_EXPOSURE, *windows, *(funding_key(item) for item in perpetuals)]
    return [KEY_TRADING, trading, *models, *oracles, *listings, *settlement, *_breaker_keys(genesis, held)]


def _breaker_keys(genesis: LedgerGenesis, held: Iterable[Instrument]) -> list[bytes]:
    """The breakers' numbers, phases, and the drifts of what is held: a doubtful mark requires more."""
    phases = [phase_key(item.underlying) for item in genesis.underlyings]
    drifts = sorted({drift_key(item.underlying, item.expiry_ns) for item in held})
    return [KEY_BREAKERS, *phases, *drifts]


def _window_keys(held: Iterable[Instrument]) -> list[bytes]:
    """The settlement averages that options take part in, under way or not."""
    expiries = {(item.underlying, item.expiry_ns) for item in held if item.kind != Kind.PERPETUAL}
    return [window_key(*expiry) for expiry in sorted(expiries)]


def account_subject(owner: bytes, subaccount: int) -> bytes:
    """The subject of a proof of an account or its margin."""
    return owner + bytes((subaccount,))


def instrument_subject(instrument: int) -> bytes:
    """The subject of a proof of a mark or a settlement."""
    return instrument.to_bytes(4, "big")


def order_subject(order_id: int, instrument: int) -> bytes:
    """The subject of a proof of an order on the book, or of its absence."""
    return order_id.to_bytes(8, "big") + instrument.to_bytes(4, "big")
