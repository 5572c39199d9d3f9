"""The line to an exchange: TLS, absence, addresses; and that no bytes whatever get past the dialects."""

from __future__ import annotations

import ipaddress
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from node.oracle.adapters import FEEDS, open_adapter
from node.oracle.adapters.connection import WebSocketAdapter
from node.oracle.adapters.said import (
    Dialect,
    Feed,
    OptionQuote,
    Reply,
    UnderlyingPrice,
    iso_time,
    milliseconds,
)
from node.oracle.addresses import EXCHANGES, parse_exchange
from node.oracle.quotes import PRICE_UUSD_MAX, ForwardQuote, IndexQuote
from node.oracle.venue_client import VenueClient
from primitives.amounts import NS, USD
from primitives.errors import OperatorError, ProtocolViolation
from tests.node.exchange_server import (
    LISTED,
    NOW,
    SPEECHES,
    KrakenSpeech,
    Socket,
    Speech,
    an_exchange,
    hurry,
    ms,
    says,
    text_of,
    wait_until,
)

__all__ = ["hurry"]


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) of a server on loopback that only itself vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    certificate, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, key_file


def tls_of(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_an_exchange_whose_certificate_this_machine_trusts_is_heard(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    script = says(KrakenSpeech().index("70000"))
    async with an_exchange("kraken", script, tls=tls_of(certificate)) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert adapter.book.indexes == {0: IndexQuote(0, NOW, 70_000 * USD, 70_000 * USD)}


async def test_an_exchange_whose_certificate_nobody_vouches_for_is_not(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        tls = trio.SSLListener(listener, tls_of(certificate))

        async def shake_hands(stream: trio.SSLStream[trio.SocketStream]) -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            await stream.transport_stream.aclose()

        nursery.start_soon(trio.serve_listeners, shake_hands, [tls])
        port = listener.socket.getsockname()[1]
        adapter = open_adapter("kraken", f"kraken:wss://127.0.0.1:{port}/v2", (), 1.0, lambda: NOW)
        nursery.start_soon(adapter.run)
        await wait_until(lambda: adapter.counters["connect_failed"] >= 2)
        assert (adapter.counters["connects"], adapter.book.indexes) == (0, {})
        nursery.cancel_scope.cancel()


# --- absence and addresses ---


async def test_an_exchange_that_is_not_there_is_tried_again() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    adapter = open_adapter("okx", f"okx:ws://127.0.0.1:{port}", LISTED, 1.0, lambda: NOW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(adapter.run)
        await wait_until(lambda: adapter.counters["connect_failed"] == 2)
        nursery.cancel_scope.cancel()
    assert adapter.counters == {"connect_failed": 2}


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", b"\x00" * 5_000, b"SSH-2.0-x\r\n"]
)
async def test_what_is_no_websocket_server_is_left_and_tried_again(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some(1_000)
        if answer:
            await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        port = listener.socket.getsockname()[1]
        adapter = open_adapter("deribit", f"deribit:ws://127.0.0.1:{port}", LISTED, 1.0, lambda: NOW)
        nursery.start_soon(adapter.run)
        await wait_until(lambda: adapter.counters["connect_failed"] >= 2)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "junk",
    [b"\xff" * 100, b"\x81\x02\xc3\x28", b"\x80\x01x", b"\x81\xff" + b"\xff" * 8],
    ids=["no opcode", "no UTF-8", "nothing to continue", "endless length"],
)
async def test_frames_that_break_the_protocol_end_the_connection_and_only_it(junk: bytes) -> None:
    async def script(socket: Socket, turn: int) -> None:
        if turn == 0:
            await socket._stream.send_all(junk)
        await socket.send_message(KrakenSpeech().index("70000"))
        await trio.sleep_forever()

    async with an_exchange("kraken", script) as (adapter, _):
        await wait_until(lambda: adapter.counters["quotes"] == 1)
        assert (adapter.counters["connects"], adapter.counters["disconnects"]) == (2, 1)


def test_the_factory_knows_every_exchange_and_our_own_venues() -> None:
    assert sorted(FEEDS) == list(EXCHANGES)
    kinds = {
        address: type(open_adapter("a", address, LISTED, 1.0, lambda: NOW))
        for address in ("unix:/run/a.sock", "tcp:127.0.0.1:9", *(f"{name}:wss://host/" for name in EXCHANGES))
    }
    assert kinds == {
        "unix:/run/a.sock": VenueClient,
        "tcp:127.0.0.1:9": VenueClient,
        **{f"{name}:wss://host/": WebSocketAdapter for name in EXCHANGES},
    }


@pytest.mark.parametrize(
    "address", ["okx:", "okx:tcp:a:1", "okx:wss://", "okx:wss://a:x/", "http://a", "", "ftx:wss://a"]
)
def test_what_is_no_address_of_a_venue_is_the_operators_mistake(address: str) -> None:
    with pytest.raises(OperatorError, match="address"):
        open_adapter("a", address, LISTED, 1.0, lambda: NOW)


def test_an_exchanges_address_is_its_name_and_a_url() -> None:
    assert parse_exchange("okx:wss://ws.okx.com:8443/ws/v5/public/") == (
        "okx",
        "wss://ws.okx.com:8443/ws/v5/public",
    )
    assert parse_exchange("tcp:okx:8443") is None


# --- times ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-02-04T08:00:00Z", NOW),
        ("2026-02-04T08:00:00.1Z", NOW + NS // 10),
        ("2026-02-04T08:00:00.123456789Z", NOW + 123_456_789),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert iso_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "2026-02-04", "2026-02-30T08:00:00Z", "2026-02-04T08:00:00", "2026-02-04T08:00:00+01:00"),
        *("2026-02-04T24:00:00Z", "2026-02-04T08:00:00.1234567890Z", "٢٠٢٦-02-04T08:00:00Z"),
    ],
)
def test_what_is_no_utc_time_is_malformed(text: str) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        iso_time(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "1e3", " 1", "٣", "12345678901234567"])
def test_what_is_no_number_of_milliseconds_is_malformed(text: str) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        milliseconds(text)


# --- whatever the bytes ---

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["NaN", "sNaN", "-Infinity", "1e30", "1e-999999", "", "0", "99999999999999999999", "BTC-USD"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def option_messages() -> list[dict[str, Any]]:
    stamp = ms(NOW)
    deribit = {
        "timestamp": stamp,
        "state": "open",
        "instrument_name": "BTC-6FEB26-88000-C",
        "underlying_price": 8e4,
        "best_bid_price": 0.01,
        "best_ask_price": 0.02,
    }
    okx = {
        "instId": "BTC-USD-260206-88000-C",
        "bidPx": "0.01",
        "askPx": "0.02",
        "fwdPx": "80000",
        "ts": str(stamp),
    }
    name = "BTC-6FEB26-88000-C-USDT"
    bybit = {"symbol": name, "bidPrice": "1", "askPrice": "2", "underlyingPrice": "80000"}
    return [
        {"method": "subscription", "params": {"channel": "ticker.X.agg2", "data": deribit}},
        {"id": 1, "result": ["deribit_price_index.btc_usd"]},
        {"arg": {"channel": "tickers"}, "data": [okx]},
        {"arg": {"channel": "opt-summary"}, "data": [okx]},
        {"topic": f"tickers.{name}", "ts": stamp, "data": bybit},
        {"type": "COMMAND_RESP", "success": True, "data": {"failTopics": ["x"]}},
        {"u": 5, "s": "BTCUSDC", "b": "1", "a": "2"},
        {"method": "pong", "time_out": "2026-02-04T08:00:00.5Z"},
    ]


MESSAGES = [
    *(speech().message("70000", "70001", NOW, speech.symbol) for speech in SPEECHES if not speech.numbers),
    *option_messages(),
]


def places(message: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a message."""
    inside = (
        message.items()
        if isinstance(message, dict)
        else enumerate(message)
        if isinstance(message, list)
        else ()
    )
    found = [(*path, key) for key, _ in inside]
    return found + [deeper for way in found for deeper in places(_at(message, way[len(path) :]), way)]


def _at(message: Any, way: tuple[Any, ...]) -> Any:
    for key in way:
        message = message[key]
    return message


def dialects() -> list[Dialect]:
    every: list[Feed] = [feed for feeds in FEEDS.values() for feed in feeds]
    made = [feed.dialect(LISTED) for feed in every]
    for dialect in made:
        dialect.requests()
    return made


def check_said(dialect: Dialect, message: str | bytes) -> None:
    """Nothing but typed, bounded statements and refusals ever comes out."""
    try:
        all_said = dialect.translate(message)
    except ProtocolViolation:
        return
    for said in all_said:
        assert isinstance(
            said, IndexQuote | ForwardQuote | OptionQuote | UnderlyingPrice | Reply | ProtocolViolation
        )
        if isinstance(said, IndexQuote | ForwardQuote):
            assert 0 <= said.bid_uusd <= PRICE_UUSD_MAX and 0 < said.ask_uusd <= PRICE_UUSD_MAX
        if isinstance(said, OptionQuote):
            assert (
                said.bid_pico >= 0
                and said.ask_pico >= 0
                and (said.bid_pico <= said.ask_pico or not said.ask_pico)
            )
        if isinstance(said, UnderlyingPrice):
            assert 0 <= said.price_uusd <= PRICE_UUSD_MAX


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_value_in_any_place_is_said_soundly_or_refused(data: st.DataObject) -> None:
    message = msgspec.json.decode(text_of(data.draw(st.sampled_from(MESSAGES))))
    way = data.draw(st.sampled_from(places(message)))
    _at(message, way[:-1])[way[-1]] = data.draw(JSON)
    for dialect in dialects():
        check_said(dialect, text_of(message))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MESSAGES), st.integers(0, 400), st.integers(0, 40), st.binary(max_size=40))
def test_any_bytes_are_said_soundly_or_refused(message: object, start: int, length: int, junk: bytes) -> None:
    raw = text_of(message).encode()
    for dialect in dialects():
        check_said(dialect, raw[:start] + junk + raw[start + length :])


@pytest.mark.parametrize("opening", ['{"x":', '{"params":{"data":', '{"data":', '{"events":['])
def test_nesting_without_end_is_malformed(opening: str) -> None:
    for dialect in dialects():
        with pytest.raises(ProtocolViolation, match="malformed"):
            dialect.translate(opening + "[" * 200_000)


# --- cost ---


@pytest.mark.parametrize("speech", SPEECHES, ids=lambda speech: speech.name)
def test_a_ticker_costs_some_microseconds(speech: type[Speech]) -> None:
    said = speech()
    messages = [said.index(f"{70_000 + turn}.5") for turn in range(1_000)]
    dialect = FEEDS[said.name][0].dialect(LISTED)
    began = time.perf_counter()
    for message in messages:
        dialect.translate(message)
    assert (time.perf_counter() - began) / len(messages) < 200e-6, "some 5 us on an idle core"
