"""Channels of a real gateway: sequences without holes, resuming, gaps, deltas that add up, orders without waiting."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio
from websockets.sync.client import ClientConnection, connect

from ledger.events import HealthChanged, OrderCancelled, Trade
from ledger.matching.book import Book
from ledger.state_keys import book_key
from node.rpc.channels import LOG_BYTES_MAX, LOG_MESSAGES_MAX, LOGS_BYTES_MAX, Channel, Source
from node.rpc.protocol import BlockTiming, TransactionStatus
from node.rpc.views import GreeksRow, GreeksView, MarginRow, MarkRow, MarksView, packed_margins
from primitives.amounts import USD
from primitives.codec import encode
from tests.node.running_gateway import OWNER, PERPETUAL, TIME_NS, Running, an_order, running

TRADE = Trade(0, 99_000 * USD, 5, 13, 14, OWNER, 0, b"\7" * 20, 1, 100, -50)
CANCELLED = OrderCancelled(1, OWNER, 0, 0, 5, "user")


class Client:
    """One WebSocket client, used from a thread."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def asks(self, **request: Any) -> Any:
        self._connection.send(json.dumps(request))
        return self.hears()

    def hears(self) -> Any:
        return json.loads(self._connection.recv(5))

    def follows(self, *channels: str, **more: Any) -> str:
        answer = self.asks(op="subscribe", channels=list(channels), **more)
        assert answer["type"] == "subscribed", answer
        return str(answer["stream"])


async def with_client(it: Running, work: Callable[[Client], None]) -> None:
    def run() -> None:
        with connect(it.ws_url, open_timeout=5) as connection:
            work(Client(connection))

    await trio.to_thread.run_sync(run)


def on_trio(act: Callable[[], Any]) -> Any:
    return trio.from_thread.run_sync(act)


async def test_who_comes_back_gets_what_he_missed_and_nothing_twice(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    stream: list[str] = []

    async with running(tmp_path / "h") as it:

        def first(client: Client) -> None:
            stream.append(client.follows("trades", "blocks"))
            on_trio(lambda: it.become_final([TRADE, TRADE]))
            seen.extend((item["channel"], item["seq"]) for item in (client.hears() for _ in range(3)))

        def again(client: Client) -> None:
            client.follows("trades", "blocks", stream=stream[0], resume={"trades": 2, "blocks": 1})
            seen.extend((item["channel"], item["seq"]) for item in (client.hears() for _ in range(3)))
            on_trio(lambda: it.become_final([]))
            seen.append((client.hears()["channel"], 3))

        await with_client(it, first)
        assert sorted(seen) == [("blocks", 1), ("trades", 1), ("trades", 2)]
        it.become_final([TRADE, TRADE])
        seen.clear()
        await with_client(it, again)
        assert sorted(seen) == [("blocks", 2), ("blocks", 3), ("trades", 3), ("trades", 4)]


async def test_what_is_not_kept_any_more_is_a_gap_and_a_snapshot(tmp_path: Path) -> None:
    account = f"account:{OWNER.hex()}/0"

    async with running(tmp_path / "h") as it:

        def work(client: Client) -> None:
            stream = client.follows("trades")
            on_trio(lambda: it.become_final([TRADE] * (LOG_MESSAGES_MAX + 10)))
            for _ in range(LOG_MESSAGES_MAX + 10):
                client.hears()
            client.asks(op="unsubscribe", channels=["trades"])
            client.follows("trades", stream=stream, resume={"trades": 9})
            last_seq = LOG_MESSAGES_MAX + 10
            assert client.hears() == {"type": "gap", "channel": "trades", "last_seq": 9, "seq": last_seq}
            client.follows(
                f"book:{PERPETUAL}",
                account,
                stream="another life",
                resume={account: 4, f"book:{PERPETUAL}": 1},
            )
            told = [client.hears() for _ in range(4)]
            assert [item["type"] for item in told] == ["gap", "book", "gap", "account_snapshot"]
            assert told[3]["account"]["next_nonce"] == "0"

        await with_client(it, work)


async def test_depth_deltas_turn_the_snapshot_into_the_book(tmp_path: Path) -> None:
    books = [
        Book((an_order(1, 0, 99_000, 5), an_order(3, 0, 98_000, 1)), (an_order(4, 1, 101_000, 2),)),
        Book((an_order(3, 0, 98_000, 1),), ()),
        Book((an_order(3, 0, 98_000, 1), an_order(9, 0, 97_000, 4)), (an_order(8, 1, 100_000, 3),)),
    ]

    async with running(tmp_path / "h") as it:

        def become(book: Book) -> None:
            it.become_final([CANCELLED], [(book_key(0), encode(book))])

        def work(client: Client) -> None:
            client.follows(f"depth:{PERPETUAL}")
            message = client.hears()
            assert (message["type"], message["seq"]) == ("depth_snapshot", 0)
            sides = {
                side: {row["price_uusd"]: row["size_lots"] for row in message[side]}
                for side in ("bids", "asks")
            }
            for seq, book in enumerate(books, 1):
                on_trio(partial(become, book))
                message = client.hears()
                assert (message["type"], message["seq"]) == ("depth", seq)
                for side, levels in sides.items():
                    for row in message[side]:
                        levels[row["price_uusd"]] = row["size_lots"]
                        if not row["size_lots"]:
                            del levels[row["price_uusd"]]
                for side, orders in (("bids", book.bids), ("asks", book.asks)):
                    assert sides[side] == {str(order.price_uusd): order.left_lots for order in orders}

        await with_client(it, work)


async def test_marks_greeks_margins_and_finality_are_told_as_they_change(tmp_path: Path) -> None:
    def views(mark: int, vega: int, excess: int) -> dict[str, bytes]:
        return {
            "marks": encode(
                MarksView(2, TIME_NS, (MarkRow(0, mark * USD, 0, 1), MarkRow(1, USD, 500_000, 2)))
            ),
            "greeks": encode(GreeksView(2, (GreeksRow(0, 0, 0, 0), GreeksRow(1, 7, vega, -3)))),
            "margins": encode(packed_margins(2, [MarginRow(OWNER, 0, 9, excess, 8, "healthy")])),
        }

    async with running(tmp_path / "h") as it:

        def work(client: Client) -> None:
            client.follows("marks", "greeks", f"margin:{OWNER.hex()}/0", "finality")
            told = [client.hears() for _ in range(3)]
            assert [item["type"] for item in told] == ["marks", "greeks", "margin"]
            assert [item.get("is_snapshot") for item in told] == [True, True, None]
            on_trio(lambda: it.become_final([], views=views(100_000, 11, 5)))
            changed = [client.hears() for _ in range(3)]
            assert changed[0]["marks"] == [{"instrument": 1, "mark_uusd": str(USD)}]
            assert [row["instrument"] for row in changed[1]["greeks"]] == [0, 1]
            assert changed[1]["greeks"][1] | {"name": ""} == {
                "instrument": 1,
                "name": "",
                "mark_uusd": str(USD),
                "vol_e6": 500_000,
                "delta_e6": 2,
                "gamma_e12": "7",
                "vega_uusd": "11",
                "theta_uusd": "-3",
            }
            assert changed[2]["margin"] == {"equity_uusd": "9", "im_excess_uusd": "5", "mm_excess_uusd": "8"}
            on_trio(lambda: it.become_final([], views=views(100_000, 12, 5)))
            # Marks and margin are as they were, so the next message is of the Greeks.
            assert client.hears()["greeks"][0]["vega_uusd"] == "12"
            on_trio(lambda: it.node.publish(TransactionStatus("notarized", 4, (bytes(32),))))
            on_trio(lambda: it.node.publish(BlockTiming(4, b"\4" * 32, 0, 0, 1, True, (0, 2))))
            stages = [client.hears() for _ in range(2)]
            assert [(item["stage"], item["seq"], item["is_fast"]) for item in stages] == [
                ("notarized", 1, None),
                ("final", 2, True),
            ]

        await with_client(it, work)


async def test_an_account_hears_of_everything_that_names_it(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:

        def work(client: Client) -> None:
            client.follows(f"account:{OWNER.hex()}/0")
            health = HealthChanged(OWNER, 0, "liquidation", -5, -1)
            on_trio(lambda: it.become_final([TRADE, health, HealthChanged(b"\1" * 20, 0, "healthy", 1, 1)]))
            trade, changed = client.hears(), client.hears()
            assert (trade["event"], trade["seq"], trade["height"]) == ("trade", 1, 2)
            assert (changed["event"], changed["seq"], changed["health"]) == (
                "health_changed",
                2,
                "liquidation",
            )

        await with_client(it, work)


async def test_orders_are_handed_over_without_waiting_for_each_other(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:

        def work(client: Client) -> None:
            for number in range(50):
                raw = base64.b64encode(f"order {number}".encode()).decode()
                client._connection.send(json.dumps({"op": "submit", "id": number, "transaction": raw}))
            answers = [client.hears() for _ in range(50)]
            assert sorted(answer["id"] for answer in answers) == list(range(50))
            assert {answer["type"] for answer in answers} == {"accepted"}
            waiting = answers[7]["transaction_id"]
            found = trio.from_thread.run(it.http.get, f"/v1/transactions/{waiting}").json()
            assert (found["status"], found["height"], found["events"]) == ("accepted", None, [])

        await with_client(it, work)


async def test_channels_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path / "h") as it:

        def work(client: Client) -> None:
            for channel, reason in (
                ("everything", "bad_request"),
                ("blocks:1", "bad_request"),
                ("book", "bad_request"),
                ("book:0", "bad_request"),
                ("depth:DOGE", "not_found"),
                ("marks:DOGE", "not_found"),
                ("account:00/0", "bad_request"),
                (f"margin:{OWNER.hex()}/256", "bad_request"),
                (f"margin:{OWNER.hex()}/01", "bad_request"),
            ):
                answer = client.asks(op="subscribe", channels=[channel])
                assert (channel, answer["type"], answer["reason"]) == (channel, "refused", reason)

        await with_client(it, work)


def test_all_channels_together_keep_only_so_much() -> None:
    class Counting(Channel):
        def messages(self, news: Any) -> list[dict[str, Any]]:
            return [{"text": news}]

    source = Source(None)  # type: ignore[arg-type]  # these channels ask nothing
    channels = [Counting(str(number), source) for number in range(LOGS_BYTES_MAX // LOG_BYTES_MAX + 2)]
    for _ in range(3):
        for channel in channels:
            channel.on_news("x" * (LOG_BYTES_MAX // 2))  # type: ignore[arg-type]
    assert source.log_bytes < LOGS_BYTES_MAX + LOG_BYTES_MAX
    assert channels[0].missed(2) is not None and channels[0].missed(0) is None
    for channel in channels:
        channel.close()
    assert source.log_bytes == 0
