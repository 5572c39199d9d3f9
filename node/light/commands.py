"""The `quorate proof` and `quorate light` commands. Print; read a home or a gateway; write the files asked for."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from ledger.listing import Listing
from node.account_names import read_account
from node.config import load_config
from node.genesis import GenesisDocument, load_genesis
from node.light.describe import describe
from node.light.prover import Prover, account_subject, instrument_subject, order_subject
from node.light.sync import from_gateway, from_prover, sync_epochs, trust_of
from node.light.verifier import ProofRefused, Trust, trust_of_checkpoint, verify_proof_file
from node.storage.block_store import BlockStore
from node.storage.epoch_files import EpochFiles
from node.storage.files import write_durably
from primitives.codec import decode_own, encode
from primitives.errors import OperatorError

app = App(name="proof", help="Write a proof of a part of the state, and check one without a node.")
light_app = App(name="light", help="Follow the chain's epochs without running a node.")

Home = Annotated[Path, Parameter(help="A node's home directory; its node may be running.")]
Out = Annotated[Path, Parameter(help="Where to write; an existing file is replaced.")]
Since = Annotated[
    Path | None,
    Parameter(name="--checkpoint", help="Begin the epoch chain at this checkpoint, not at genesis."),
]
Genesis = Annotated[Path, Parameter(help="The chain's genesis.json.")]
Address = Annotated[str, Parameter(help="ADDRESS or ADDRESS/SUBACCOUNT, 40 hexadecimal digits.")]
Name = Annotated[str, Parameter(help="An instrument, such as BTC-PERPETUAL.")]


@app.command
def account(address: Address, *, home: Home, out: Out, checkpoint: Since = None) -> None:
    """Prove an account's cash, positions and open orders, or that there is no such account.

    Example: quorate proof account 0123...cdef/0 --home net/node0 --out account.proof
    """
    _write_proof("account", account_subject(*read_account(address)), home, out, checkpoint)


@app.command
def margin(address: Address, *, home: Home, out: Out, checkpoint: Since = None) -> None:
    """Prove everything that an account's margin follows from; `verify` computes the margin again.

    Example: quorate proof margin 0123...cdef --home net/node0 --out margin.proof
    """
    _write_proof("margin", account_subject(*read_account(address)), home, out, checkpoint)


@app.command
def mark(name: Name, *, home: Home, out: Out, checkpoint: Since = None) -> None:
    """Prove an instrument's mark.

    Example: quorate proof mark BTC-PERPETUAL --home net/node0 --out mark.proof
    """
    _write_proof("mark", instrument_subject(_instrument(home, name)), home, out, checkpoint)


@app.command
def settlement(name: Name, *, home: Home, out: Out, checkpoint: Since = None) -> None:
    """Prove an option's settlement price, or that it has not settled.

    Example: quorate proof settlement BTC-6FEB26-88000-P --home net/node0 --out settlement.proof
    """
    _write_proof("settlement", instrument_subject(_instrument(home, name)), home, out, checkpoint)


@app.command
def order(order_id: int, name: Name, *, home: Home, out: Out, checkpoint: Since = None) -> None:
    """Prove that an order rests on an instrument's book, or that it does not.

    Example: quorate proof order 17 BTC-PERPETUAL --home net/node0 --out order.proof
    """
    if not 0 <= order_id < 2**63:
        raise OperatorError(f"{order_id} is no order id")
    _write_proof("order", order_subject(order_id, _instrument(home, name)), home, out, checkpoint)


@app.command
def verify(
    file: Annotated[Path, Parameter(help="A proof file.")],
    *,
    genesis: Genesis,
    checkpoint: Annotated[Path | None, Parameter(help="Trust this checkpoint's validators.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> None:
    """Check a proof file offline and print what it proves. Exit code 0 when it proves it, 2 when not.

    Example: quorate proof verify account.proof --genesis genesis.json
    """
    document = load_genesis(genesis)
    trust, raw = _trust(document, checkpoint), _read(file)
    start_ns = time.perf_counter_ns()
    try:
        proven = verify_proof_file(raw, trust)
        checked_us = (time.perf_counter_ns() - start_ns) // 1_000
        content = describe(proven, document)
    except ProofRefused as refusal:
        raise OperatorError(f"{file} proves nothing: {refusal}") from None
    if as_json:
        print(json.dumps({**content, "bytes": len(raw), "checked_us": checked_us}))
        return
    for field, value in content.items():
        print(f"{field}: {value if isinstance(value, str) else json.dumps(value)}")
    print(f"proven by {len(raw)} bytes, checked in {checked_us / 1_000:.1f} ms")


@light_app.command
def sync(
    *,
    genesis: Genesis,
    out: Annotated[Path, Parameter(help="The checkpoint to write.")],
    url: Annotated[str | None, Parameter(help="A gateway, such as http://127.0.0.1:26700.")] = None,
    home: Annotated[Path | None, Parameter(help="A node's home directory, instead of a gateway.")] = None,
    token_file: Annotated[Path | None, Parameter(help="File with the gateway's token.")] = None,
    checkpoint: Annotated[
        Path | None, Parameter(help="Go on from this trusted checkpoint; may be the same file as --out.")
    ] = None,
) -> None:
    """Follow the epochs, each signed by the one before, and write whom to trust now.

    Example: quorate light sync --genesis genesis.json --url http://127.0.0.1:26700 --out trust.checkpoint
    """
    if (url is None) == (home is None):
        raise OperatorError("give either --url or --home")
    document = load_genesis(genesis)
    trust = _trust(document, checkpoint)
    token = None if token_file is None else _read(token_file).decode("ascii", "replace").strip()
    try:
        if url is not None:
            reached = sync_epochs(trust, from_gateway(url, token))
        else:
            with closing(_store(home or Path())) as store:
                reached = sync_epochs(trust, from_prover(_prover(home or Path(), store)))
    except ProofRefused as refusal:
        raise OperatorError(f"the epochs offered are not the chain's: {refusal}") from None
    write_durably(out, reached.checkpoint(), mode=0o644)
    members = sum(weight > 0 for weight in reached.validators.weights)
    print(f"epoch {reached.epoch}, {reached.epoch - trust.epoch} followed, {members} validators")
    print(f"validator set {reached.validators.set_hash().hex()}")


@light_app.command(name="genesis")
def write_genesis(*, genesis: Genesis, out: Out) -> None:
    """Write a genesis in its wire form, for programs that embed node/light/verifier.py.

    Example: quorate light genesis --genesis genesis.json --out genesis.msgpack
    """
    write_durably(out, encode(load_genesis(genesis)), mode=0o644)


def _write_proof(kind: str, subject: bytes, home: Path, out: Path, checkpoint: Path | None) -> None:
    first_epoch = 0 if checkpoint is None else _checkpoint(checkpoint).epoch
    with closing(_store(home)) as store:
        raw = _prover(home, store).proof_file(kind, subject, first_epoch)
    write_durably(out, raw, mode=0o644)
    print(f"wrote {out}: {len(raw)} bytes")


def _store(home: Path) -> BlockStore:
    return BlockStore.open(load_config(home).store_path, read_only=True)


def _prover(home: Path, store: BlockStore) -> Prover:
    config = load_config(home)
    return Prover(store, EpochFiles(config.data_path / "epochs"), load_genesis(config.genesis_path))


def _trust(document: GenesisDocument, checkpoint: Path | None) -> Trust:
    trust = trust_of(document)
    if checkpoint is None:
        return trust
    kept = _checkpoint(checkpoint)
    if kept.chain_id != trust.chain_id:
        raise OperatorError(f"{checkpoint} is of another chain than the genesis")
    return kept


def _checkpoint(path: Path) -> Trust:
    try:
        return trust_of_checkpoint(_read(path))
    except ProofRefused as refusal:
        raise OperatorError(f"{path} is no checkpoint: {refusal}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from None


def _instrument(home: Path, name: str) -> int:
    with closing(_store(home)) as store:
        listed = [decode_own(Listing, raw).instrument for _, raw in store.leaves(b"i")]
    for item in listed:
        if item.name == name.upper():
            return item.id
    raise OperatorError(f"there is no instrument {name}")
