"""Pages of history through a real gateway: cursors join without overlap or gap, in both directions and for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger.events import CashMoved, Event, Trade
from primitives.amounts import USD
from tests.node.running_gateway import EVENTS, OWNER, PERPETUAL, Running, running

OTHER = b"\7" * 20
ACCOUNT = f"/v1/accounts/{OWNER.hex()}/0/history"


def a_trade(number: int, instrument: int = 0) -> Trade:
    return Trade(instrument, 99_000 * USD, number, 20, 21, OWNER, 0, OTHER, 1, 100, -50)


BLOCKS: list[list[Event]] = [
    [a_trade(1), CashMoved(OTHER, 0, 5, "deposit"), a_trade(2, instrument=2), a_trade(3)],
    [],
    [CashMoved(OWNER, 0, 7, "deposit"), a_trade(4), a_trade(5)],
]


async def page(it: Running, path: str, **query: Any) -> Any:
    answer = await it.http.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def walked(it: Running, path: str, **query: Any) -> list[Any]:
    """All items from page to page, until there is nothing more."""
    items: list[Any] = []
    cursor = ""
    while True:
        answer = await page(it, path, cursor=cursor, **query)
        if not answer["items"] and (answer["next"] is None or query.get("direction") == "newer"):
            return items
        items += answer["items"]
        cursor = answer["next"]
        if cursor is None:
            return items


async def test_pages_of_any_size_and_direction_tell_the_same_history(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        for events in BLOCKS:
            it.become_final(events)
        for path, count in (("/v1/trades", 6), ("/v1/events", 10), (ACCOUNT, 9), ("/v1/blocks", 4)):
            whole = (await page(it, path))["items"]
            assert len(whole) == count
            for limit in (1, 2, 3):
                assert await walked(it, path, limit=limit) == whole, (path, limit)
                newer = await walked(it, path, limit=limit, direction="newer")
                assert newer == whole[::-1], (path, limit)


async def test_a_cursor_goes_on_after_what_came_later(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        newest = (await page(it, "/v1/trades", limit=1))["items"][0]
        assert newest["event"]["size_lots"] == EVENTS[2].size_lots
        after = await page(it, "/v1/trades", cursor=newest["cursor"], direction="newer")
        assert after["items"] == []
        it.become_final([a_trade(9)])
        later = await page(it, "/v1/trades", cursor=after["next"], direction="newer")
        assert [item["event"]["size_lots"] for item in later["items"]] == [9]
        assert later["height"] == 2


async def test_history_is_asked_by_instrument_by_kind_and_by_account(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        for events in BLOCKS:
            it.become_final(events)

        async def sizes(path: str, **query: Any) -> list[int]:
            return [item["event"]["size_lots"] for item in (await page(it, path, **query))["items"]]

        assert await sizes("/v1/trades", instrument=PERPETUAL) == [5, 4, 3, 1, 5]
        assert await sizes("/v1/trades", instrument="2") == [2]
        moved = (await page(it, "/v1/events", event="cash_moved"))["items"]
        assert [(item["height"], item["place"]) for item in moved] == [(4, 0), (2, 1)]
        assert len((await page(it, f"/v1/accounts/{OTHER.hex()}/0/history"))["items"]) == 1
        assert len((await page(it, f"/v1/accounts/{OTHER.hex()}/1/history"))["items"]) == 6
        assert (await page(it, f"/v1/accounts/{'ab' * 20}/0/history"))["items"] == []
        for path, query, code in (
            ("/v1/trades", {"instrument": "DOGE"}, 404),
            ("/v1/events", {"event": "nothing_such"}, 404),
            ("/v1/trades", {"cursor": "AAAA"}, 400),
            ("/v1/trades", {"cursor": "_" * 16}, 400),
            ("/v1/trades", {"limit": "0"}, 400),
            ("/v1/trades", {"direction": "sideways"}, 400),
            ("/v1/trades", {"page": "1"}, 400),
            ("/v1/trades", {"limit": ["1", "2"]}, 400),
        ):
            assert (await it.http.get(path, params=query)).status_code == code, (path, query)


async def test_the_account_tells_which_nonces_it_may_use(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:
        account = await page(it, f"/v1/accounts/{OWNER.hex()}/0")
        told = [account[name] for name in ("nonce_floor", "next_nonce", "nonce_max")]
        assert told == ["0", "0", "199"]
