"""What the gateway is told of every account's margin: packed, and the same as looking each account up."""

from __future__ import annotations

from ledger.apply import BlockResult
from ledger.margin.health import Health
from ledger.state import State
from ledger.transactions import Deposit
from node.rpc.views import MarginRow, MarginsView, ViewName, packed_margins
from node.views import views_of
from primitives.amounts import USD
from primitives.codec import decode_own
from tests.ledger.exchange import BTC_PERP, CALL_110, Exchange, address_of_person, buy, sell


def an_exchange() -> Exchange:
    exchange = Exchange(maker=1_000_000, alice=100_000, bob=30_000)
    exchange.block()
    return exchange


def margins_after(result: BlockResult) -> MarginsView:
    return decode_own(MarginsView, views_of(bytes(32), result)[ViewName.MARGINS])


def looked_up(state: State, result: BlockResult) -> MarginsView:
    """Account by account: the margin as the block began, cash and health as it left them."""
    rows = []
    for key in result.valuation.table.keys:
        account, margin = state.account(key), result.valuation.margin(key)
        assert account is not None
        equity_uusd = margin.mtm_uusd + account.cash_uusd
        name = Health(account.health).name.lower()
        rows.append(MarginRow(*key, equity_uusd, margin.im_excess_uusd, margin.mm_excess_uusd, name))
    return packed_margins(result.height, rows)


def test_every_account_has_the_row_it_would_have_by_itself() -> None:
    exchange = an_exchange()
    exchange.does("maker", sell(BTC_PERP, 100_000, 150), sell(CALL_110, 1_500, 20))
    exchange.does("bob", buy(BTC_PERP, 100_000, 100))
    exchange.does("alice", buy(CALL_110, 1_500, 20))
    traded = exchange.block()
    assert margins_after(traded) == looked_up(exchange.state, traded)
    exchange.btc_usd = 80_000
    fallen = exchange.block()
    view = margins_after(fallen)
    assert view == looked_up(exchange.state, fallen)
    row = view.find(*exchange.key("bob"))
    assert row is not None and row.health != "healthy"


def test_an_account_opened_in_the_block_has_its_row_from_the_next_one_on() -> None:
    exchange = an_exchange()
    exchange.does("custodian", Deposit(address_of_person("carol"), 0, 5_000 * USD))
    opening = margins_after(exchange.block())
    following = margins_after(exchange.block())
    carol = exchange.key("carol")
    assert opening.find(*carol) is None
    assert following.find(*carol) == MarginRow(*carol, 5_000 * USD, 5_000 * USD, 5_000 * USD, "healthy")


def test_an_account_whose_opening_was_undone_has_no_row() -> None:
    exchange = an_exchange()
    exchange.does("custodian", Deposit(address_of_person("carol"), 0, 5_000 * USD))
    exchange.block()
    margins_after(exchange.block())
    exchange.state.rollback_block()
    exchange.state.rollback_block()
    result = exchange.block()
    assert margins_after(result) == looked_up(exchange.state, result)
    assert margins_after(result).find(*exchange.key("carol")) is None


def test_nobody_is_found_between_two_accounts_or_beyond_them() -> None:
    rows = [MarginRow(bytes([number]) * 20, 1, number, 2, 3, "healthy") for number in (3, 5)]
    view = packed_margins(1, rows)
    asked = [(bytes([number]) * 20, sub) for number in (0, 3, 4, 5, 255) for sub in (0, 1, 2)]
    found = [view.find(*key) for key in asked]
    assert [row for row in found if row is not None] == rows
