"""A chain of any length in a store, made quickly: real blocks, executed and signed by all validators. Trio, disk.

One process has every validator's keys, so that a block costs its execution and its signatures and no waiting: what a
network would have stored after hours. Nodes go on from it as after a restart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from consensus.effects import EpochOpened
from consensus.epoch import GENESIS_JUSTIFICATION, genesis_block
from consensus.epochs import opened
from consensus.messages import (
    Block,
    EpochProof,
    Header,
    Justification,
    QuorumCertificate,
    VoteKind,
    evidence_root,
    hash_of,
    justification_root,
    sign_bytes,
    transaction_root,
)
from ledger.genesis import LedgerGenesis
from ledger.instruments import Underlying
from ledger.market import Slice
from ledger.state import State
from ledger.transactions import (
    NO_QUOTES,
    IndexReport,
    OracleReport,
    SignedReport,
    SurfaceReport,
    report_sign_bytes,
)
from node.epoch_service import decide
from node.genesis import GenesisDocument, chain_id_of
from node.keystore import ValidatorKeys
from node.ledger_service import LedgerService
from node.storage.block_store import BlockStore, FinalBlock
from node.storage.epoch_files import EpochFiles
from node.sync.epoch_chain import genesis_epoch
from node.verifier import SignatureVerifier
from primitives.amounts import NS, SECONDS_PER_YEAR
from primitives.codec import encode
from primitives.errors import ensure
from primitives.identifiers import BlockHash

BLOCK_NS = 1_000_000
"""Market time between two blocks: ten thousand pass in ten seconds."""
SURFACES_EVERY_BLOCKS = 25
"""How often the reports carry surfaces, as they do in a network: the other ones carry the indices."""
VOLATILITY_PPM = 500_000


class History:
    """Grows one store."""

    def __init__(
        self,
        genesis: GenesisDocument,
        keys: Sequence[ValidatorKeys],
        data: Path,
        index_uusd: dict[Underlying, int],
        absent: Collection[int] = (),
        block_ns: int = BLOCK_NS,
    ) -> None:
        """`data`: a node's data directory, without a store; `keys` in genesis' order.

        `absent`: validators who signed nothing, and so may take part later without their journal's history.
        `block_ns`: market time between two blocks.
        """
        self._absent = frozenset(absent)
        self._block_ns = block_ns
        self.genesis = genesis
        self._keys = keys
        self._index_uusd = index_uusd
        self._chain_id = chain_id_of(genesis)
        self.store = BlockStore.open(data / "blocks", chain_id=self._chain_id)
        self.epochs = EpochFiles(data / "epochs")
        self._state = State.from_genesis(genesis.ledger, self._chain_id)
        block = genesis_block(self._chain_id)
        self._tip = block
        leaves = self._state.all_leaves()
        block_hash = hash_of(block.header)
        self.store.commit(FinalBlock(0, block_hash, encode(block), b"", encode(()), leaves=leaves))
        self.ledger = LedgerService(self._state, block_hash, 0, self.store, SignatureVerifier())
        self.epoch = genesis_epoch(genesis)
        self._proof: QuorumCertificate | None = None
        """Of the tip, within its epoch."""

    async def grow(self, blocks: int) -> None:
        """That many blocks more."""
        for _ in range(blocks):
            await self._add_block()

    async def _add_block(self) -> None:
        height, parent = self._tip.header.height + 1, hash_of(self._tip.header)
        payload = await self.ledger.build(parent, height, list(self._reports(height)))
        ensure(payload is not None, "the history has one branch")
        assert payload is not None
        epoch, view = self.epoch, height - self.epoch.first_height
        justification = GENESIS_JUSTIFICATION if self._proof is None else Justification(self._proof, ())
        header = Header(
            version=epoch.version,
            chain_id=self._chain_id,
            epoch=epoch.number,
            view=view,
            height=height,
            parent_hash=parent,
            parent_view=view - 1,
            proposer=epoch.leaders.leader_of(view),
            time_ns=payload.time_ns,
            transaction_root=transaction_root(payload.transactions),
            parent_state_root=payload.parent_state_root,
            next_set_hash=epoch.next_set.set_hash(),
            justification_root=justification_root(justification),
            evidence_root=evidence_root(()),
            flags=0,
        )
        block = Block(header, payload.transactions, (), justification)
        proof = self._certificate(view, hash_of(header))
        await self.ledger.finalize((block,), proof)
        self._tip, self._proof = block, proof
        if height == epoch.last_height:
            await self._next_epoch()

    def _certificate(self, view: int, block: BlockHash) -> QuorumCertificate:
        """Everybody's notarizations, a proof of finality in two delays; or a finalization by those who are there."""
        number, members = self.epoch.number, self.epoch.validators
        signers = tuple(i for i in range(len(self._keys)) if members.is_member(i) and i not in self._absent)
        is_heavy = members.weight_of(signers) >= members.final_weight
        kind = VoteKind.NOTARIZE if is_heavy else VoteKind.FINALIZE
        message = sign_bytes(self._chain_id, kind, number, view, block)
        signatures = tuple(self._keys[i].consensus.sign(message) for i in signers)
        return QuorumCertificate(kind, number, view, block, signers, signatures)

    async def _next_epoch(self) -> None:
        ensure(self._proof is not None, "the boundary is proved")
        assert self._proof is not None
        number, known = self.epoch.number, self.epoch.next_set
        decided = await self.ledger.read(lambda state: decide(state, number, known))
        boundary = self._tip.header
        self.epoch = self.epoch.following(hash_of(boundary), decided.validators, decided.version)
        self.epochs.keep(EpochOpened(opened(self.epoch), EpochProof((boundary,), self._proof, ())))
        self._proof = None

    def _reports(self, height: int) -> Iterator[SignedReport]:
        now_ns = self.genesis.time_ns + height * self._block_ns
        indices = tuple(IndexReport(int(one), price) for one, price in sorted(self._index_uusd.items()))
        with_surfaces = height % SURFACES_EVERY_BLOCKS == 1
        surfaces = tuple(_surfaces(self.genesis.ledger, self._index_uusd, now_ns)) if with_surfaces else ()
        for reporter, keys in enumerate(self._keys):
            report = OracleReport(
                self._chain_id, reporter, now_ns + reporter, indices, surfaces, (), NO_QUOTES
            )
            payload = encode(report)
            yield SignedReport(payload, reporter, keys.oracle.sign(report_sign_bytes(payload)))


def _surfaces(
    genesis: LedgerGenesis, index_uusd: dict[Underlying, int], now_ns: int
) -> Iterator[SurfaceReport]:
    for underlying, price_uusd in sorted(index_uusd.items()):
        expiries = sorted(
            {
                item.expiry_ns
                for item in genesis.instruments
                if item.underlying == underlying and item.expiry_ns > now_ns
            }
        )
        slices = []
        for expiry_ns in expiries:
            theta = max(10_000, VOLATILITY_PPM**2 * (expiry_ns - now_ns) // (SECONDS_PER_YEAR * NS))
            slices.append(
                Slice(expiry_ns, price_uusd, 1_000_000, theta, 0, max(1, theta // 2_000), 0, 1_000_000)
            )
        if slices:
            yield SurfaceReport(int(underlying), tuple(slices))
