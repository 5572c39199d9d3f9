"""What a checked proof file says, in names and numbers that people read. Pure."""

from __future__ import annotations

from typing import Any

from ledger.state import State
from ledger.trading.state import AccountTrading, trading_key
from ledger.transactions import MarginModel
from node.genesis import GenesisDocument
from node.light.margin import recompute_margin, state_of
from node.light.verifier import Proven
from node.named_form import to_named
from primitives.codec import decode_own

Content = dict[str, Any]


def describe(proven: Proven, document: GenesisDocument) -> Content:
    """Where the proof stands, and its subject. Raises ProofRefused when a margin's leaves are not all there."""
    content: Content = {
        "kind": proven.kind,
        "chain_id": proven.trust.chain_id.hex(),
        "height": proven.height,
        "state_root": proven.state_root.hex(),
        "final_block": proven.block_hash.hex(),
        "epoch": proven.trust.epoch,
    }
    if proven.kind == "margin":
        return content | _margin(proven, document)
    state = state_of(proven, document.ledger)
    return content | _DESCRIBED[proven.kind](proven, state)


def _account(proven: Proven, state: State) -> Content:
    key = proven.subject[:20], proven.subject[20]
    account = state.account(key)
    named: Content = {"owner": key[0].hex(), "subaccount": key[1], "exists": account is not None}
    return named if account is None else named | to_named(account)


def _margin(proven: Proven, document: GenesisDocument) -> Content:
    view = recompute_margin(proven, document.ledger)
    if view is None:
        return {"owner": proven.subject[:20].hex(), "subaccount": proven.subject[20], "exists": False}
    return {
        "owner": proven.subject[:20].hex(),
        "subaccount": proven.subject[20],
        "cash_uusd": view.account.cash_uusd,
        "equity_uusd": view.equity_uusd,
        "health": view.health.name.lower(),
        "margin_model": _model(proven).name.lower(),
        "margin": view.margin._asdict(),
    }


def _model(proven: Proven) -> MarginModel:
    raw = proven.leaves.get(trading_key((proven.subject[:20], proven.subject[20])))
    return MarginModel(0 if raw is None else decode_own(AccountTrading, raw).margin_model)


def _mark(proven: Proven, state: State) -> Content:
    (number, name), marks = _instrument(proven, state), state.marks
    agreed = {} if marks is None else dict(marks.marks)
    return {"instrument": name, "mark_uusd": agreed.get(number, "none: settled, or not live yet")}


def _settlement(proven: Proven, state: State) -> Content:
    number, name = _instrument(proven, state)
    listing = state.listing(number)
    settled = listing is not None and listing.is_settled
    price = listing.settlement_price_uusd if listing is not None and settled else "none"
    return {"instrument": name, "is_settled": settled, "settlement_price_uusd": price}


def _order(proven: Proven, state: State) -> Content:
    order_id, (number, name) = int.from_bytes(proven.subject[:8], "big"), _instrument(proven, state)
    found = state.book(number).find(order_id)
    content: Content = {"order_id": order_id, "instrument": name, "rests": found is not None}
    return content if found is None else content | to_named(found)


_DESCRIBED = {"account": _account, "mark": _mark, "settlement": _settlement, "order": _order}


def _instrument(proven: Proven, state: State) -> tuple[int, str]:
    """Its id, and its name if genesis or a proven leaf says it."""
    number = int.from_bytes(proven.subject[-4:], "big")
    known = {item.id: item.name for item in (*state.genesis.instruments, *state.instruments.values())}
    return number, known.get(number, str(number))
