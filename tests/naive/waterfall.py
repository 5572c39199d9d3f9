"""An account below maintenance, step by step: auction, vault, deleveraging, debt. Pure.

Bids on auctions are in `bids.py`.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ledger.events import AuctionEnded, AuctionStarted, DebtChanged, Deleveraged, VaultTook
from ledger.settlement.state import VAULT_KEY, Liquidation
from tests.naive.account import LIQUIDATION, NaiveAccount
from tests.naive.standard import margin_of

if TYPE_CHECKING:
    from tests.naive.account import AccountKey
    from tests.naive.ledger import NaiveLedger

PPM = 1_000_000
WINNERS_MAX = 64


def end_recovered(ledger: NaiveLedger, healths_before: dict[AccountKey, int]) -> None:
    """Above maintenance again: the liquidation is over, and its auction with it."""
    for key in sorted(ledger.accounts):
        if healths_before[key] == LIQUIDATION != ledger.accounts[key].health:
            leaf = ledger.liquidations.pop(key, None)
            if leaf is not None and leaf.auction_ns:
                ledger.events.append(AuctionEnded(*key))


def advance(ledger: NaiveLedger, key: AccountKey) -> None:
    """One account's next step, if it is time."""
    leaf = ledger.liquidations.setdefault(key, Liquidation(*key, ledger.time_ns, 0, False, False, 0))
    account, auction = ledger.accounts[key], ledger.protection.auction
    if not account.positions:
        return
    equity = equity_uusd(ledger, account)
    if equity > 0:
        patience = auction.patience_ns if _has_takers(ledger, account) else auction.empty_book_patience_ns
        if ledger.time_ns < leaf.since_ns + patience or (leaf.auction_ns and not leaf.is_insolvent):
            return
    elif _vault_takes(ledger, key, equity):
        return
    elif leaf.is_insolvent:
        if (
            ledger.supply["fund_uusd"] + equity < 0
            or ledger.time_ns >= leaf.auction_ns + auction.insolvent_ns
        ):
            _deleverage(ledger, key, equity)
        return
    excess = margin_of(ledger, account).mm_excess_uusd
    ledger.events.append(AuctionStarted(*key, equity <= 0, equity, excess))
    ledger.liquidations[key] = replace(
        leaf, auction_ns=ledger.time_ns, is_insolvent=equity <= 0, reserved_uusd=0
    )


def postpone(ledger: NaiveLedger, key: AccountKey) -> None:
    """A breaker pauses it: everything but what was paid begins anew afterwards."""
    leaf = ledger.liquidations.get(key)
    if leaf is not None:
        if leaf.auction_ns:
            ledger.events.append(AuctionEnded(*key))
        ledger.liquidations[key] = Liquidation(*key, ledger.time_ns, 0, False, leaf.is_fee_paid, 0)


def equity_uusd(ledger: NaiveLedger, account: NaiveAccount) -> int:
    """Cash and positions at the marks, each rounded down."""
    equity = account.cash_uusd
    for instrument, (lots, cost) in account.positions.items():
        row = ledger.rows.row_of[instrument]
        equity += lots * ledger.rows.basis[row] // ledger.rows.lots_per_contract[row] - cost
    return equity


def _has_takers(ledger: NaiveLedger, account: NaiveAccount) -> bool:
    return any(
        order.instrument == instrument and order.is_buy == (lots > 0) and order.height < ledger.height
        for instrument, (lots, _) in account.positions.items()
        for order in ledger.orders.values()
    )


# --- passing portfolios on ---


def _after(ledger: NaiveLedger, taker: NaiveAccount, lots: dict[int, int], value_uusd: int) -> NaiveAccount:
    """The taker with these lots bought at the marks, on the grid of lots, and this cash."""
    after = NaiveAccount(taker.cash_uusd + value_uusd, positions=dict(taker.positions), model=taker.model)
    for instrument, signed in sorted(lots.items()):
        ledger.give(after, ledger.instruments[instrument], signed, _grid_mark(ledger, instrument))
    return after


def _grid_mark(ledger: NaiveLedger, instrument: int) -> int:
    per = ledger.instruments[instrument].lots_per_contract
    return ledger.rows.mark[ledger.rows.row_of[instrument]] // per * per


def room_uusd(ledger: NaiveLedger, key: AccountKey, lots: dict[int, int], value_uusd: int) -> int:
    """IM excess afterwards with its open orders; -1 for more instruments than an account may be in."""
    after = _after(ledger, ledger.accounts[key], lots, value_uusd)
    if len(after.positions) > ledger.genesis.parameters.positions_max:
        return -1
    orders = [
        (item.instrument, item.lots if item.is_buy else -item.lots, item.price_uusd)
        for _, item in sorted(ledger.orders.items())
        if item.account == key and not item.reduce_only
    ]
    return margin_of(ledger, after, orders).im_excess_uusd


def pass_on(
    ledger: NaiveLedger, giver: AccountKey, taker: AccountKey, lots: dict[int, int], value_uusd: int
) -> None:
    """Lots at the marks, and cash beside them, from one account to another."""
    reverse = {instrument: -signed for instrument, signed in lots.items()}
    for key, change, value in ((giver, reverse, -value_uusd), (taker, lots, value_uusd)):
        after = _after(ledger, ledger.accounts[key], change, value)
        ledger.accounts[key].cash_uusd = after.cash_uusd
        ledger.accounts[key].positions = after.positions
    for key in (giver, taker):
        for instrument in sorted(lots):
            ledger.trim(key, instrument)


def _vault_takes(ledger: NaiveLedger, key: AccountKey, equity: int) -> bool:
    if VAULT_KEY not in ledger.accounts or key == VAULT_KEY:
        return False
    lots = {instrument: held for instrument, (held, _) in ledger.accounts[key].positions.items()}
    if room_uusd(ledger, VAULT_KEY, lots, equity) < 0:
        return False
    pass_on(ledger, key, VAULT_KEY, lots, equity)
    ledger.events.append(VaultTook(*key, equity))
    return True


def _deleverage(ledger: NaiveLedger, key: AccountKey, equity: int) -> None:
    """To the other side: the same part of every leg to each, and with it a part of the deficit."""
    scores = _scores(ledger, key)
    while scores:
        shares = _shares(ledger, key, scores)
        rooms = {winner: room_uusd(ledger, winner, shares[winner], 0) for winner in scores}
        if min(rooms.values()) >= 0:
            break
        scores = {winner: score for winner, score in scores.items() if rooms[winner] >= 0}
    if not scores:
        return
    paid = min(-equity, ledger.supply["fund_uusd"])
    if paid:
        ledger.supply["fund_uusd"] -= paid
        ledger.move_cash(key, paid, "insurance_fund")
    deficit = -equity - paid
    losses = {
        winner: min(part, rooms[winner])
        for winner, part in zip(scores, apportioned(deficit, list(scores.values())), strict=True)
    }
    for winner in scores:
        losses[winner] += min(deficit - sum(losses.values()), rooms[winner] - losses[winner])
    for winner in scores:
        pass_on(ledger, key, winner, shares[winner], -losses[winner])
        ledger.events.append(Deleveraged(*key, *winner, losses[winner]))


def _scores(ledger: NaiveLedger, key: AccountKey) -> dict[AccountKey, int]:
    """What each opposed when the block began, at the index, times its leverage; the highest first."""
    scores = {}
    for other in sorted(ledger.held_before):
        opposing = 0
        for instrument, (lots, _) in ledger.accounts[key].positions.items():
            item = ledger.instruments[instrument]
            against = ledger.held_before[other].get(instrument, 0)
            if lots * against < 0:
                unit = ledger.oracle.agreed[item.underlying].index_uusd // item.lots_per_contract
                opposing += min(abs(lots), abs(against)) * unit
        excess = ledger.margins[other].im_excess_uusd
        equity = ledger.margins[other].mtm_uusd + ledger.accounts[other].cash_uusd
        if opposing and other not in (key, VAULT_KEY) and excess >= 0 and equity > 0:
            leverage_ppm = (equity - excess) * PPM // equity
            scores[other] = max(1, opposing * leverage_ppm // PPM)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:WINNERS_MAX])


def _shares(
    ledger: NaiveLedger, key: AccountKey, scores: dict[AccountKey, int]
) -> dict[AccountKey, dict[int, int]]:
    shares: dict[AccountKey, dict[int, int]] = {winner: {} for winner in scores}
    for instrument, (held, _) in ledger.accounts[key].positions.items():
        parts = apportioned(abs(held), list(scores.values()))
        for winner, part in zip(scores, parts, strict=True):
            if part:
                shares[winner][instrument] = part if held > 0 else -part
    return shares


def apportioned(total: int, weights: list[int]) -> list[int]:
    """Whole parts by weight; what flooring leaves goes one each to the largest remainders, then the first."""
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    parts = [int(part) for part in exact]
    claims = sorted(range(len(weights)), key=lambda place: (parts[place] - exact[place], place))
    for place in claims[: total - sum(parts)]:
        parts[place] += 1
    return parts


# --- debts ---


def absorb_debts(ledger: NaiveLedger, debt_before_uusd: int) -> None:
    """The fund pays what accounts without positions owe; the rest is everybody's; income repays it first."""
    supply = ledger.supply
    for key, account in sorted(ledger.accounts.items()):
        if account.cash_uusd >= 0 or account.positions:
            continue
        paid = min(-account.cash_uusd, supply["fund_uusd"])
        left = -account.cash_uusd - paid
        supply["fund_uusd"] -= paid
        supply["debt_uusd"] += left
        for amount, cause in ((paid, "insurance_fund"), (left, "shortfall")):
            if amount:
                ledger.move_cash(key, amount, cause)
    for source in ("fees_uusd", "fund_uusd"):
        repaid = min(supply["debt_uusd"], supply[source])
        supply[source] -= repaid
        supply["debt_uusd"] -= repaid
    if supply["debt_uusd"] != debt_before_uusd:
        ledger.events.append(DebtChanged(supply["debt_uusd"]))


def haircut_uusd(ledger: NaiveLedger, amount_uusd: int) -> int:
    """What a withdrawal leaves behind for the debt, rounded up."""
    debt = ledger.supply["debt_uusd"]
    cash = max(0, sum(item.cash_uusd for item in ledger.accounts.values()))
    if not debt:
        return 0
    return min(debt, amount_uusd, -(-amount_uusd * debt // (debt + cash)))
