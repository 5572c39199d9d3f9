"""Options, futures and the manners of each exchange: what is asked for, converted, answered, noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from ledger.instruments import Kind
from node.oracle.adapters import bybit, coinbase, connection, deribit, okx
from node.oracle.adapters.assembler import ChainAssembler
from node.oracle.adapters.connection import WebSocketAdapter
from node.oracle.adapters.said import OptionQuote, UnderlyingPrice
from node.oracle.adapters.shares import shared
from node.oracle.quotes import ChainSnapshot, ForwardQuote, IndexQuote
from primitives.amounts import NS, USD
from tests.node.exchange_server import (
    EXPIRY,
    LISTED,
    NOW,
    BinanceSpeech,
    BybitSpeech,
    CoinbaseSpeech,
    KrakenSpeech,
    Socket,
    an_exchange,
    an_option,
    hurry,
    iso,
    ms,
    number,
    says,
    text_of,
    wait_until,
)

__all__ = ["hurry"]

SERIES = (0, EXPIRY)
NAMES = {
    "deribit": {"C": "BTC-6FEB26-88000-C", "P": "BTC-6FEB26-88000-P", "C9": "BTC-6FEB26-90000-C"},
    "okx": {"C": "BTC-USD-260206-88000-C", "P": "BTC-USD-260206-88000-P", "C9": "BTC-USD-260206-90000-C"},
    "bybit": {
        "C": "BTC-6FEB26-88000-C-USDT",
        "P": "BTC-6FEB26-88000-P-USDT",
        "C9": "BTC-6FEB26-90000-C-USDT",
    },
}


def deribit_option(
    name: str, bid: str, ask: str, *, underlying: str = "80000.5", time_ns: int = NOW, state: str = "open"
) -> str:
    data = {
        "timestamp": ms(time_ns),
        "state": state,
        "stats": {"high": None},
        "instrument_name": name,
        "underlying_price": number(underlying),
        "underlying_index": "SYN.BTC-6FEB26",
        "index_price": 79_999.1,
        "mark_price": 0.02,
        "mark_iv": 61.2,
        "greeks": {"delta": 0.5},
        "best_bid_price": number(bid),
        "best_bid_amount": 3.5,
        "best_ask_price": number(ask),
    }
    params = {"channel": f"ticker.{name}.agg2", "data": data}
    return text_of({"jsonrpc": "2.0", "method": "subscription", "params": params})


def okx_option(name: str, bid: str, ask: str, *, time_ns: int = NOW) -> str:
    sides = {"askPx": ask, "askSz": "11", "bidPx": bid, "bidSz": "5"}
    data = {"instType": "OPTION", "instId": name, "last": "0.02", **sides, "ts": str(ms(time_ns))}
    return text_of({"arg": {"channel": "tickers", "instId": name}, "data": [data]})


def okx_summary(*names: str, forward: str = "80000.5", time_ns: int = NOW) -> str:
    items = [
        {"instType": "OPTION", "instId": name, "uly": "BTC-USD", "fwdPx": forward, "ts": str(ms(time_ns))}
        for name in names
    ]
    return json.dumps({"arg": {"channel": "opt-summary", "instFamily": "BTC-USD"}, "data": items})


def bybit_option(name: str, bid: str, ask: str, *, underlying: str = "80000.5", time_ns: int = NOW) -> str:
    data = {
        "symbol": name,
        "bidPrice": bid,
        "bidSize": "1",
        "bidIv": "0.5",
        "askPrice": ask,
        "askSize": "2",
        "markPrice": "7.8",
        "indexPrice": "79999",
        "underlyingPrice": underlying,
    }
    head = {"id": f"tickers.{name}-1-2", "topic": f"tickers.{name}", "ts": ms(time_ns), "type": "snapshot"}
    return text_of({**head, "data": data})


def option_of(exchange: str, key: str, bid: str, ask: str, **more: Any) -> list[str]:
    """A quote of premium `bid` and `ask`, in coin at a forward of 80,000.5, at any of the three exchanges."""
    name = NAMES[exchange].get(key, key)
    if exchange == "deribit":
        return [deribit_option(name, bid or "null", ask or "null", **more)]
    if exchange == "okx":
        underlying = more.pop("underlying", "80000.5")
        return [
            okx_summary(NAMES["okx"]["C"], forward=underlying, **more),
            okx_option(name, bid, ask, **more),
        ]
    return [bybit_option(name, bid, ask, **more)]


three_exchanges = pytest.mark.parametrize("exchange", ["deribit", "okx", "bybit"])


def refusals(adapter: WebSocketAdapter) -> dict[str, int]:
    ours = ("frames", "quotes", "connects", "chains")
    return {name: count for name, count in adapter.counters.items() if name not in ours and count}


def on_options(exchange: str, *messages: str) -> Any:
    """Says this where the options are; on Bybit's spot connection, nothing."""

    async def script(socket: Socket, turn: int) -> None:
        if exchange != "bybit" or socket.path.endswith("/option"):
            for message in messages:
                await socket.send_message(message)
        await trio.sleep_forever()

    return script


@pytest.mark.parametrize(
    ("exchange", "premiums", "bids", "asks"),
    [
        ("deribit", ("0.0205", "0.0215"), 1_640_010_250, 1_720_010_750),
        ("okx", ("0.0205", "0.0215"), 1_640_010_250, 1_720_010_750),
        ("bybit", ("1640.1", "1720.2"), 1_640_100_000, 1_720_200_000),
    ],
)
async def test_a_chain_is_drawn_in_dollars_with_its_forward(
    exchange: str, premiums: tuple[str, str], bids: int, asks: int
) -> None:
    bid, ask = premiums
    none = "0" if exchange == "bybit" else ""
    messages = [
        *option_of(exchange, "C", bid, ask),
        *option_of(exchange, "P", none, ask),
        *option_of(exchange, "C9", bid, none),
    ]
    async with an_exchange(exchange, on_options(exchange, *messages)) as (adapter, _):
        await wait_until(lambda: adapter.counters["chains"] >= 1)
        forward = 80_000_500_000
        assert adapter.book.forwards == {SERIES: ForwardQuote(*SERIES, NOW, forward, forward)}
        strikes = (88_000 * USD, 88_000 * USD, 90_000 * USD)
        kinds = (Kind.CALL, Kind.PUT, Kind.CALL)
        assert adapter.book.chains == {
            SERIES: ChainSnapshot(*SERIES, NOW, strikes, kinds, (bids, 0, bids), (asks, asks, 0))
        }
        assert refusals(adapter) == {}


@three_exchanges
@pytest.mark.parametrize(
    ("key", "bid", "ask", "reason"),
    [
        ("BTC-6FEB26-1-C", "0.02", "0.03", "unknown_series"),
        ("C", "0.03", "0.02", "crossed"),
        ("C", "-0.03", "0.02", "not_positive"),
        ("C", "0.03", "-0.02", "not_positive"),
        ("C", "0.01", "1e30", "price_too_large"),
        ("C", '"NaN"', "0.02", "not_a_number"),
        ("C", "0.01", '"Infinity"', "not_a_number"),
        ("C", '"x"', "0.02", "malformed"),
    ],
)
async def test_an_unsound_option_is_refused_and_the_chain_stands(
    exchange: str, key: str, bid: str, ask: str, reason: str
) -> None:
    if exchange != "deribit":
        bid, ask = bid.strip('"'), ask.strip('"')
    messages = [
        *option_of(exchange, "C", "0.01", "0.02"),
        option_of(exchange, key, bid, ask)[-1],
        *option_of(exchange, "P", "0.01", "0.02"),
    ]
    async with an_exchange(exchange, on_options(exchange, *messages)) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 2 and adapter.counters["chains"] >= 1)
        chain = adapter.book.chains[SERIES]
        worth = USD if exchange == "bybit" else 80_000_500_000
        assert (chain.kinds, chain.bids_uusd, chain.asks_uusd) == (
            (Kind.CALL, Kind.PUT),
            (worth // 100, worth // 100),
            (worth // 50, worth // 50),
        )
        assert refusals(adapter) == {reason: 1}


@three_exchanges
@pytest.mark.parametrize(
    ("offset_ns", "reason"),
    [(-7_200 * NS, "stale"), (60 * NS, "from_the_future"), (-NS, "out_of_order")],
)
async def test_an_option_of_a_wrong_time_is_refused(exchange: str, offset_ns: int, reason: str) -> None:
    late = option_of(exchange, "C", "0.5", "0.6", time_ns=NOW + offset_ns, underlying="9")
    messages = [*option_of(exchange, "C", "0.01", "0.02"), *late, *option_of(exchange, "P", "0.01", "0.02")]
    async with an_exchange(exchange, on_options(exchange, *messages)) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 2 and adapter.counters["chains"] >= 1)
        worth = USD if exchange == "bybit" else 80_000_500_000
        assert adapter.book.chains[SERIES].asks_uusd == (worth // 50, worth // 50)
        assert refusals(adapter) == {reason: 2}, "the option's, and that of its underlying's price"


@three_exchanges
@pytest.mark.parametrize(
    ("underlying", "reason"),
    [("1e30", "price_too_large"), ("-1", "not_positive"), ("0", "not_positive"), ("NaN", "not_a_number")],
)
async def test_an_impossible_underlying_converts_nothing(exchange: str, underlying: str, reason: str) -> None:
    text = f'"{underlying}"' if exchange == "deribit" and underlying == "NaN" else underlying
    messages = [*option_of(exchange, "C", "0.01", "0.02", underlying=text)]
    good = option_of(exchange, "C", "0.01", "0.02")
    async with an_exchange(exchange, on_options(exchange, *messages, *good)) as (adapter, _):
        await wait_until(lambda: adapter.counters["chains"] >= 1)
        worth = USD if exchange == "bybit" else 80_000_500_000
        assert adapter.book.chains[SERIES].asks_uusd == (worth // 50,)
        assert refusals(adapter) == {reason: 1}


async def test_after_a_reconnect_no_chain_is_drawn_from_what_is_still_half() -> None:
    async def script(socket: Socket, turn: int) -> None:
        if turn == 0:
            for key in ("C", "P", "C9"):
                await socket.send_message(option_of("deribit", key, "0.01", "0.02")[0])
            await trio.sleep(0.05)
            await socket.aclose()
        await socket.send_message(option_of("deribit", "C", "0.03", "0.04")[0])
        await trio.sleep(0.1)
        await socket.send_message(option_of("deribit", "P", "0.03", "0.04")[0])
        await trio.sleep_forever()

    async with an_exchange("deribit", script) as (adapter, _):
        with pytest.MonkeyPatch.context() as patch:
            await wait_until(lambda: adapter.counters["chains"] == 1)
            patch.setattr(connection, "SETTLE_SECONDS", 0.2)
            await wait_until(lambda: adapter.counters["quotes"] == 4)
            await trio.sleep(0.03)
            assert adapter.book.chains[SERIES].asks_uusd == (1_600_010_000,) * 3, "the old chain stands"
            await wait_until(lambda: adapter.counters["chains"] == 2)
            assert adapter.book.chains[SERIES].asks_uusd == (3_200_020_000,) * 2


def test_premiums_in_coin_follow_the_underlying() -> None:
    assembler = ChainAssembler(premiums_in_coin=True)
    for said in deribit.Deribit(LISTED).translate(deribit_option(NAMES["deribit"]["C"], "0.01", "0.02")):
        if isinstance(said, OptionQuote):
            assembler.add_option(said)
    assert assembler.draw(0) == [], "without an underlying's price there is no chain"
    for price in (80_000, 90_000):
        assembler.add_underlying(UnderlyingPrice(SERIES, NOW + price, price * USD))
        forward, chain = assembler.draw(0)
        assert forward == ForwardQuote(*SERIES, NOW + price, price * USD, price * USD)
        assert isinstance(chain, ChainSnapshot)
        assert (chain.time_ns, chain.bids_uusd) == (NOW + price, (price * USD // 100,))
    assert assembler.draw(0) == [], "nothing changed"
    assembler.add_underlying(UnderlyingPrice(SERIES, NOW + 100_000, USD))
    assert [type(quote) for quote in assembler.draw(NOW + 1)] == [ForwardQuote], "its only option was too old"


@pytest.mark.parametrize(
    ("exchange", "message"),
    [
        (
            "deribit",
            '{"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.BTC-6FEB26.100ms","data":'
            f'{{"timestamp":{ms(NOW)},"state":"open","instrument_name":"BTC-6FEB26","best_bid_price":80100.5,'
            '"best_ask_price":80101.0,"mark_price":80100.7,"index_price":80000.1}}}',
        ),
        (
            "okx",
            '{"arg":{"channel":"tickers","instId":"BTC-USD-260206"},"data":[{"instType":"FUTURES","instId":'
            f'"BTC-USD-260206","bidPx":"80100.5","askPx":"80101","ts":"{ms(NOW)}"}}]}}',
        ),
    ],
)
async def test_a_dated_future_is_the_forward_where_there_is_one(exchange: str, message: str) -> None:
    messages = [message, *option_of(exchange, "C", "0.01", "0.02")]
    async with an_exchange(exchange, on_options(exchange, *messages)) as (adapter, _):
        await wait_until(lambda: adapter.counters["chains"] >= 1)
        future = ForwardQuote(*SERIES, NOW, 80_100_500_000, 80_101_000_000)
        assert adapter.book.forwards == {SERIES: future}
        assert adapter.book.chain_forwards == {SERIES: future}
        assert adapter.book.chains[SERIES].asks_uusd == (1_600_010_000,), (
            "premiums are worth the venue's price"
        )


# --- what is asked for ---


async def test_deribit_is_asked_for_a_heartbeat_indices_futures_and_listed_options() -> None:
    async with an_exchange("deribit", says()) as (_, server):
        await wait_until(lambda: len(server.received) == 2)
        heartbeat, subscribe = server.received
        params = {"interval": 10}
        assert heartbeat == {"jsonrpc": "2.0", "id": 0, "method": "public/set_heartbeat", "params": params}
        assert (subscribe["jsonrpc"], subscribe["method"]) == ("2.0", "public/subscribe")
        assert subscribe["params"]["channels"] == [
            *("deribit_price_index.btc_usd", "deribit_price_index.eth_usd", "ticker.BTC-6FEB26.100ms"),
            *(f"ticker.{name}.agg2" for name in NAMES["deribit"].values()),
        ]


async def test_what_deribit_does_not_grant_is_counted() -> None:
    async def script(socket: Socket, turn: int) -> None:
        granted = ["deribit_price_index.btc_usd", "ticker.BTC-6FEB26-88000-C.agg2"]
        await socket.send_message(json.dumps({"jsonrpc": "2.0", "id": 1, "result": granted, "usIn": 1}))
        await socket.send_message(
            '{"jsonrpc":"2.0","id":2,"error":{"code":-32602,"message":"Invalid params"}}'
        )
        await trio.sleep_forever()

    async with an_exchange("deribit", script) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 2)
        assert refusals(adapter) == {"subscription_refused": 5}


async def test_deribits_test_request_is_answered() -> None:
    request = '{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}'
    async with an_exchange("deribit", says(request, request)) as (_, server):
        await wait_until(lambda: len(server.received) == 4)
        tests = [message for message in server.received if message["method"] == "public/test"]
        assert tests == [{"jsonrpc": "2.0", "id": 0, "method": "public/test", "params": {}}] * 2


@pytest.mark.parametrize("state", ["halted", "locked", "settlement", "inactive"])
async def test_what_deribit_calls_halted_is_not_believed(state: str) -> None:
    halted = deribit_option(NAMES["deribit"]["C"], "0.01", "0.02", state=state)
    async with an_exchange("deribit", says(halted)) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 1)
        assert (refusals(adapter), adapter.book.chains) == ({"not_trading": 1}, {})


async def test_a_deribit_option_without_its_underlying_is_refused() -> None:
    bad = deribit_option(NAMES["deribit"]["C"], "0.01", "0.02", underlying="null")
    async with an_exchange("deribit", says(bad)) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 1)
        assert refusals(adapter) == {"no_underlying": 1}


async def test_okx_is_asked_for_indices_forwards_futures_and_listed_options() -> None:
    async with an_exchange("okx", says()) as (_, server):
        await wait_until(lambda: any(message != "ping" for message in server.received))
        (subscribe,) = [message for message in server.received if message != "ping"]
        assert subscribe == {
            "op": "subscribe",
            "args": [
                {"channel": "index-tickers", "instId": "BTC-USD"},
                {"channel": "index-tickers", "instId": "ETH-USD"},
                {"channel": "opt-summary", "instFamily": "BTC-USD"},
                {"channel": "tickers", "instId": "BTC-USD-260206"},
                *({"channel": "tickers", "instId": name} for name in NAMES["okx"].values()),
            ],
        }


async def test_okx_is_pinged_with_a_bare_word_and_its_errors_are_counted() -> None:
    answers = (
        '{"event":"subscribe","arg":{"channel":"tickers","instId":"BTC-USD-260206"},"connId":"a4d3ae55"}',
        "pong",
        '{"event":"error","msg":"channel:tickers,instId:BTC-USD-260206 doesn\'t exist","code":"60018"}',
    )
    async with an_exchange("okx", says(*answers)) as (adapter, server):
        await wait_until(lambda: server.received.count("ping") >= 2 and adapter.counters["frames"] == 3)
        assert refusals(adapter) == {"subscription_refused": 1}


async def test_one_bad_item_of_an_okx_push_does_not_cost_the_others() -> None:
    good, bad = (okx_option(NAMES["okx"][key], bid, "0.02") for key, bid in (("C", "0.01"), ("P", "-1")))
    both = good[:-2] + "," + bad[bad.index('"data":[') + 8 :]
    async with an_exchange("okx", says(both, okx_summary(NAMES["okx"]["P"], "BTC-USD-990101-1-C"))) as (
        adapter,
        _,
    ):
        await wait_until(lambda: adapter.counters["chains"] >= 1)
        assert adapter.book.chains[SERIES].kinds == (Kind.CALL,)
        assert refusals(adapter) == {"not_positive": 1}


@pytest.mark.parametrize(
    ("exchange", "notice", "index"),
    [
        (
            "okx",
            '{"event":"notice","code":"64008","msg":"The connection will soon be closed.","connId":"a4d3ae55"}',
            '{"arg":{"channel":"index-tickers","instId":"BTC-USD"},"data":[{"instId":"BTC-USD","idxPx":"70000",'
            f'"ts":"{ms(NOW)}"}}]}}',
        ),
        ("binance", f'{{"e":"serverShutdown","E":{ms(NOW)}}}', BinanceSpeech().index("70000")),
    ],
)
async def test_an_exchange_that_will_hang_up_is_left_at_once(exchange: str, notice: str, index: str) -> None:
    async def script(socket: Socket, turn: int) -> None:
        await socket.send_message(notice if turn == 0 else index)
        await trio.sleep_forever()

    async with an_exchange(exchange, script) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert (adapter.counters["venue_closing"], adapter.counters["connects"]) == (1, 2)


async def test_bybit_has_a_connection_for_spot_and_one_for_options_and_is_pinged_on_both() -> None:
    async with an_exchange("bybit", says(), path="/v5/public") as (_, server):
        await wait_until(lambda: server.received.count({"op": "ping"}) >= 4)
        assert sorted(server.paths) == ["/v5/public/option", "/v5/public/spot"]
        subscribed = sorted(message["args"] for message in server.received if message["op"] == "subscribe")
        assert subscribed == [
            [f"tickers.{name}" for name in NAMES["bybit"].values()],
            ["tickers.BTCUSDT", "tickers.ETHUSDT"],
        ]


async def test_topics_that_bybit_refuses_are_counted() -> None:
    answers = (
        '{"success":true,"conn_id":"aa01","data":{"failTopics":["tickers.BTC-6FEB26-88000-C-USDT"],'
        '"successTopics":["tickers.BTC-6FEB26-88000-P-USDT"]},"type":"COMMAND_RESP"}',
        '{"args":["1672916271846"],"op":"pong"}',
        '{"success":false,"ret_msg":"error:handler not found","conn_id":"1","op":"subscribe"}',
    )
    async with an_exchange("bybit", on_options("bybit", *answers)) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 3)
        assert refusals(adapter) == {"subscription_refused": 2}


def test_bybits_options_are_cut_between_expiries() -> None:
    listed = [
        an_option(strike, Kind.CALL, expiry_ns=EXPIRY + day * 86_400 * NS)
        for day in range(3)
        for strike in range(1_000, 1_300)
    ]
    spot, options = bybit.FEEDS
    shares = shared([], listed, options.options_max)
    assert (spot.path, options.path, [len(share) for share in shares]) == ("/spot", "/option", [300] * 3)
    topics = [options.dialect(share).requests() for share in shares]
    characters = [sum(len(name) for text in chunk for name in json.loads(text)["args"]) for chunk in topics]
    assert all(0 < count < 21_000 for count in characters)


async def test_an_older_sequence_of_bybits_spot_is_refused() -> None:
    said = BybitSpeech()
    first, second = said.index("60000"), said.index("70000")
    async with an_exchange("bybit", says(second, first), listed=()) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] >= 2)
        assert refusals(adapter) == {"out_of_order": 1}
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_000 * USD, 70_000 * USD)}


async def test_a_gap_at_coinbase_is_counted_and_the_ticker_subscribed_again_for_a_snapshot() -> None:
    said, subscribed = CoinbaseSpeech(), trio.Event()

    async def script(socket: Socket, turn: int) -> None:
        await socket.send_message(said.index("70000"))
        await subscribed.wait()
        said.sequence += 3
        await socket.send_message(said.index("70001"))
        said.sequence += 1
        await socket.send_message(said.index("70002"))
        await trio.sleep_forever()

    async with an_exchange("coinbase", script) as (adapter, server):
        await wait_until(lambda: len(server.received) == 2)
        subscribed.set()
        await wait_until(lambda: adapter.counters["quotes"] == 3 and len(server.received) == 4)
        products = ["BTC-USD", "ETH-USD"]
        assert server.received == [
            {"type": "subscribe", "product_ids": products, "channel": "heartbeats"},
            {"type": "subscribe", "product_ids": products, "channel": "ticker"},
            {"type": "unsubscribe", "product_ids": products, "channel": "ticker"},
            {"type": "subscribe", "product_ids": products, "channel": "ticker"},
        ], "the second gap comes too soon after the first to ask again"
        assert refusals(adapter) == {"sequence_gap": 2}
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_002 * USD, 70_002 * USD)}


def test_coinbase_counts_every_channel_and_refuses_what_comes_twice() -> None:
    said, dialect = CoinbaseSpeech(), coinbase.Coinbase()
    subscriptions = (
        '{"channel":"subscriptions","timestamp":"2026-02-04T08:00:00Z","sequence_num":%d,"events":[]}'
    )
    assert dialect.translate(subscriptions % 0) == []
    said.sequence = 1
    ticker = said.index("70000")
    assert dialect.translate(ticker) == [IndexQuote(0, NOW, 70_000 * USD, 70_000 * USD)]
    with pytest.raises(Exception, match="out_of_order"):
        dialect.translate(ticker)
    with pytest.raises(Exception, match="subscription_refused"):
        dialect.translate('{"type":"error","message":"failure to subscribe"}')


async def test_a_kraken_ticker_without_a_time_has_that_of_the_last_pong() -> None:
    def untimed(price: str) -> str:
        message = json.loads(KrakenSpeech().index(price))
        del message["data"][0]["timestamp"]
        return json.dumps(message)

    pong = f'{{"method":"pong","time_in":"{iso(NOW)}","time_out":"{iso(NOW - 1_000)}"}}'
    script = says(untimed("60000"), pong, untimed("70000"))
    async with an_exchange("kraken", script) as (adapter, server):
        await wait_until(lambda: adapter.counters["frames"] == 3 and len(server.received) >= 3)
        assert refusals(adapter) == {"no_time": 1}
        assert adapter.book.indexes == {0: IndexQuote(0, NOW - 1_000, 70_000 * USD, 70_000 * USD)}
        subscribe = {"channel": "ticker", "symbol": ["BTC/USD", "ETH/USD"], "event_trigger": "bbo"}
        assert {"method": "subscribe", "params": {**subscribe, "snapshot": True}} in server.received
        assert {"method": "ping"} in server.received


async def test_a_refused_kraken_subscription_is_counted() -> None:
    refusal = '{"error":"Currency pair not supported DOGE/XYZ","method":"subscribe","success":false}'
    async with an_exchange("kraken", says(refusal)) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 1)
        assert refusals(adapter) == {"subscription_refused": 1}


async def test_binances_book_tickers_have_the_time_of_the_last_ticker_and_keep_their_order() -> None:
    def book(update: int, price: str) -> str:
        return f'{{"u":{update},"s":"BTCUSDC","b":"{price}","B":"3.5","a":"{price}","A":"4.5"}}'

    script = says(
        book(5, "1"),
        BinanceSpeech().index("70000"),
        book(7, "70001"),
        book(6, "2"),
        book(7, "3"),
        book(9, "70002"),
    )
    async with an_exchange("binance", script) as (adapter, server):
        await wait_until(lambda: adapter.counters["frames"] == 6)
        assert refusals(adapter) == {"no_time": 1, "out_of_order": 2}
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_002 * USD, 70_002 * USD)}
        names = [
            f"{symbol}@{stream}" for symbol in ("btcusdc", "ethusdc") for stream in ("ticker", "bookTicker")
        ]
        assert server.received == [{"method": "SUBSCRIBE", "params": names, "id": 1}]


async def test_a_future_time_at_binance_does_not_poison_the_book_tickers_after_it() -> None:
    said = BinanceSpeech()
    book = '{"u":7,"s":"BTCUSDC","b":"70001","B":"3.5","a":"70001","A":"4.5"}'
    script = says(said.index("1", time_ns=NOW + 60 * NS), said.index("70000"), book)
    async with an_exchange("binance", script) as (adapter, _):
        await wait_until(lambda: adapter.counters["frames"] == 3)
        assert refusals(adapter) == {"from_the_future": 1}
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_001 * USD, 70_001 * USD)}


def test_what_expires_at_another_hour_is_another_contract() -> None:
    odd = [an_option(88_000, Kind.CALL, expiry_ns=EXPIRY + 3_600 * NS), LISTED[0]]
    assert [
        len(json.loads(text).get("params", {}).get("channels", ()))
        for text in deribit.Deribit(odd).requests()
    ] == [
        0,
        2,
    ]
    assert [len(json.loads(text)["args"]) for text in okx.Okx(odd).requests()] == [2]
    assert shared([], odd, bybit.OPTIONS_MAX) == []


def test_a_whole_listing_takes_few_requests() -> None:
    listed = [an_option(strike, kind) for strike in range(1_000, 1_450) for kind in (Kind.CALL, Kind.PUT)]
    requests = deribit.Deribit(listed).requests()
    sizes = [len(json.loads(text)["params"].get("channels", ())) for text in requests]
    assert sizes == [0, 200, 200, 200, 200, 103]
    assert all(len(text) < 64_000 for text in okx.Okx(listed).requests())
