"""Dutch auction of a part of a whole portfolio, solvent or insolvent. Pure.

Solvent: bidders take a part of positions and free cash for less than it is worth, until the buffer margin is 0
again; the discount grows with time. Insolvent: the fund pays bidders to take positions and debt. What earlier
bids paid in is reserved: it is not sold again. Source: market.md section 5, steps 3 and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from ledger.breakers.reasons import BreakerReason
from ledger.events import AuctionBid
from ledger.margin.health import Health
from ledger.matching.orders import AccountKey
from ledger.reasons import LedgerReason
from ledger.settlement.parameters import AuctionParameters
from ledger.settlement.state import Liquidation, get_liquidation, get_protection, liquidation_key
from ledger.settlement.transfer import excess_after_uusd, transfer_at_mark, withdraw_offers
from ledger.transactions import BidAuction
from primitives.amounts import PPM, ceil_div
from primitives.errors import ProtocolViolation

if TYPE_CHECKING:
    from ledger.valuation import Valuation
    from ledger.workspace import OpenAccount, Workspace

E12 = 10**12
"""Units of the fraction of a portfolio that is sold."""


def buffer_margin_uusd(equity_uusd: int, mm_excess_uusd: int, buffer_ppm: int) -> int:
    """BM = MM - buffer (MtM - MM), MtM including cash; rounded down."""
    return mm_excess_uusd - ceil_div(buffer_ppm * (equity_uusd - mm_excess_uusd), PPM)


def discount_ppm(elapsed_ns: int, parameters: AuctionParameters) -> int:
    """Discount of a solvent auction after so much time, rounded down."""
    start, fast = parameters.discount_start_ppm, parameters.discount_fast_ppm
    if elapsed_ns < parameters.fast_ns:
        return start + (fast - start) * elapsed_ns // parameters.fast_ns
    slow_ns = parameters.slow_ns - parameters.fast_ns
    return fast + (PPM - fast) * min(elapsed_ns - parameters.fast_ns, slow_ns) // slow_ns


def largest_fraction_e12(equity_uusd: int, bm_uusd: int, discount: int, reserved_uusd: int) -> int:
    """f_max = BM / (BM - (1 - d) MtM - d R), rounded up and at most 1; 0 when BM is not below 0."""
    if bm_uusd >= 0:
        return 0
    below = -bm_uusd * PPM + (PPM - discount) * equity_uusd + discount * reserved_uusd
    return min(E12, ceil_div(-bm_uusd * PPM * E12, below))


def fee_uusd(equity_uusd: int, bm_uusd: int, fee_ppm: int) -> int:
    """fee * MtM * BM / (BM - MtM), rounded up; for a solvent account below its buffer margin."""
    return ceil_div(fee_ppm * equity_uusd * -bm_uusd, PPM * (equity_uusd - bm_uusd))


def insolvent_payment_uusd(equity_uusd: int, mm_excess_uusd: int, elapsed_ns: int, insolvent_ns: int) -> int:
    """What the fund pays for the whole portfolio: from -MtM up to -MM in time; rounded down."""
    return -equity_uusd + (equity_uusd - mm_excess_uusd) * min(elapsed_ns, insolvent_ns) // insolvent_ns


class _Sale(NamedTuple):
    """What one bid would do. `value_uusd` of cash passes from the account to the bidder."""

    fraction_e12: int
    payment_uusd: int
    """By the bidder; below 0 the fund pays it."""
    fee_uusd: int
    value_uusd: int
    fund_to_account_uusd: int
    fund_to_bidder_uusd: int


class AuctionDesk:
    """Takes the bids of one block, each on the portfolio that earlier bids left."""

    def __init__(self, workspace: Workspace, valuation: Valuation) -> None:
        self._workspace = workspace
        self._valuation = valuation
        self._parameters = get_protection(workspace.state).auction

    def bid(self, bidder: OpenAccount, action: object) -> None:
        """Sell a part of the portfolio to the bidder.

        Raises:
            ProtocolViolation: LIQUIDATIONS_PAUSED, NO_AUCTION, BID_PRICE, INSUFFICIENT_MARGIN, ACCOUNT_MUST_REDUCE,
            limits of the bidder's portfolio.
        """
        assert isinstance(action, BidAuction)
        workspace, key = self._workspace, (action.owner, action.subaccount)
        leaf, account = get_liquidation(workspace.state, key), workspace.account(key)
        if account is not None and not workspace.phases.may_liquidate(account.positions):
            raise ProtocolViolation(
                BreakerReason.LIQUIDATIONS_PAUSED,
                "nothing of it is sold while the marks it holds are in doubt",
            )
        if leaf is None or account is None or not leaf.auction_ns or not account.positions:
            raise ProtocolViolation(LedgerReason.NO_AUCTION, "nothing of this account is for sale")
        if bidder.health != Health.HEALTHY or bidder.key == key:
            raise ProtocolViolation(
                LedgerReason.ACCOUNT_MUST_REDUCE, "a bidder's own account must be healthy"
            )
        sale = self._sale(account, leaf, action.fraction_ppm)
        if sale.payment_uusd > action.pay_at_most_uusd:
            raise ProtocolViolation(
                LedgerReason.BID_PRICE, f"it costs {sale.payment_uusd}, more than the bid allows"
            )
        lots = {
            instrument: ceil_div(abs(held) * sale.fraction_e12, E12) * (1 if held > 0 else -1)
            for instrument, (held, _) in account.positions.items()
        }
        gain_uusd = sale.value_uusd + sale.fund_to_bidder_uusd
        if excess_after_uusd(workspace, self._valuation, bidder, lots, gain_uusd) < 0:
            raise ProtocolViolation(
                LedgerReason.INSUFFICIENT_MARGIN, "the bidder's initial requirement would not hold"
            )
        self._settle(account, leaf, bidder, lots, sale)

    def _sale(self, account: OpenAccount, leaf: Liquidation, wanted_ppm: int) -> _Sale:
        margin = self._valuation.margin_now(account)
        equity_uusd, mm_uusd = margin.mtm_uusd + account.cash_uusd, margin.mm_excess_uusd
        elapsed_ns, parameters = self._workspace.time_ns - leaf.auction_ns, self._parameters
        if leaf.is_insolvent:
            pay = insolvent_payment_uusd(equity_uusd, mm_uusd, elapsed_ns, parameters.insolvent_ns)
            fund_uusd = self._workspace.supply["fund_uusd"]
            fraction = min(wanted_ppm * E12 // PPM, fund_uusd * E12 // pay if pay > 0 else E12)
            if fraction == 0:
                raise ProtocolViolation(LedgerReason.NO_AUCTION, "the fund has nothing to pay with")
            total, part = max(0, fraction * pay // E12), max(0, fraction * -equity_uusd // E12)
            return _Sale(fraction, -total, 0, 0, part, total - part)
        bm_uusd = buffer_margin_uusd(equity_uusd, mm_uusd, parameters.buffer_ppm)
        if bm_uusd >= 0:
            raise ProtocolViolation(LedgerReason.NO_AUCTION, "enough of this account is sold")
        fee = 0 if leaf.is_fee_paid else fee_uusd(equity_uusd, bm_uusd, parameters.fee_ppm)
        equity_uusd, bm_uusd = equity_uusd - fee, bm_uusd - fee
        reserved_uusd = min(leaf.reserved_uusd, max(0, account.cash_uusd - fee))
        reserved_uusd = reserved_uusd if reserved_uusd < equity_uusd else 0
        discount = discount_ppm(elapsed_ns, parameters)
        fraction = min(
            wanted_ppm * E12 // PPM, largest_fraction_e12(equity_uusd, bm_uusd, discount, reserved_uusd)
        )
        free_uusd = equity_uusd - reserved_uusd
        payment = ceil_div(fraction * (PPM - discount) * free_uusd, E12 * PPM)
        return _Sale(fraction, payment, fee, fraction * free_uusd // E12 - payment, 0, 0)

    def _settle(
        self, account: OpenAccount, leaf: Liquidation, bidder: OpenAccount, lots: dict[int, int], sale: _Sale
    ) -> None:
        workspace = self._workspace
        withdraw_offers(workspace, account)
        workspace.supply["fund_uusd"] += sale.fee_uusd - sale.fund_to_account_uusd - sale.fund_to_bidder_uusd
        workspace.add_cash(account, sale.fund_to_account_uusd - sale.fee_uusd)
        workspace.add_cash(bidder, sale.fund_to_bidder_uusd)
        transfer_at_mark(workspace, self._valuation, account, bidder, lots, sale.value_uusd)
        paid_in = max(0, sale.payment_uusd)
        workspace.state.put(
            liquidation_key(account.key),
            replace(
                leaf,
                is_fee_paid=leaf.is_fee_paid or not leaf.is_insolvent,
                reserved_uusd=leaf.reserved_uusd + paid_in,
            ),
        )
        workspace.events.append(
            AuctionBid(*account.key, *bidder.key, sale.fraction_e12, sale.payment_uusd, sale.fee_uusd)
        )


def check_no_auction(workspace: Workspace, key: AccountKey) -> None:
    """Nobody may pay into an account that is for sale. Raises ProtocolViolation(AUCTION_UNDER_WAY)."""
    leaf = get_liquidation(workspace.state, key)
    if leaf is not None and leaf.auction_ns:
        raise ProtocolViolation(
            LedgerReason.AUCTION_UNDER_WAY, "nothing may be paid into an account that is for sale"
        )
