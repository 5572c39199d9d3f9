"""Quotes BTC-PERPETUAL around its mark for a while, and says what trades. WebSocket on trio, standard output.

    .venv/bin/python docs/examples/make_market.py http://127.0.0.1:PORT KEY.json SECONDS

KEY.json is an account's key file without a password, as `quorate account create --insecure` writes it. All quotes are
replaced by one mass quote whenever the mark moves; a dead-man switch takes them away if this program is gone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from node.client import questions
from node.client.feed import AccountEvent, account_channel
from node.client.market import dead_man_switch
from node.client.on_trio import TrioClient, open_client
from node.client.sentences import sentence
from node.client.signers import KeySigner
from node.client.submissions import Stage
from node.keystore import load_seeds
from node.rpc.stream_forms import MarksMessage
from primitives.amounts import NS, USD
from primitives.signing import SigningKey

NAME, SIZE, HALF_SPREAD_USD = "BTC-PERPETUAL", "0.2", 20
gateway, key_path, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
signer = KeySigner(SigningKey(load_seeds(key_path, None, allow_insecure=True)["account"]))


async def quote(client: TrioClient, mark_uusd: int) -> None:
    """Both sides a little off the mark, and the switch an hour of market time ahead."""
    market = await client.market()
    now_ns = (await client.ask(questions.status())).market_time_ns
    middle = mark_uusd // USD
    sides = (middle - HALF_SPREAD_USD, SIZE, middle + HALF_SPREAD_USD, SIZE)
    switch = dead_man_switch(now_ns + 3_600 * NS)
    receipt = await client.submit(market.mass_quote({NAME: sides}), switch, stage=Stage.FINAL)
    refused = ", ".join(item.reason for item in receipt.rejections)
    print(f"quoted {sides[0]} and {sides[2]}" + (f", refused: {refused}" if refused else ""), flush=True)


async def main() -> None:
    """Follow the mark and the account until the time is over, then take the quotes away."""
    async with open_client(gateway, signer) as client:
        market = await client.market()
        with trio.move_on_after(seconds):
            async with client.follow(f"marks:{NAME}", account_channel(signer.address)) as messages:
                async for message in messages:
                    if isinstance(message, MarksMessage):
                        await quote(client, message.marks[0].mark_uusd)
                    elif isinstance(message, AccountEvent) and type(message.event).__name__ == "Trade":
                        print(sentence(message.event, signer.address, market))
        await client.submit(market.mass_quote({}), dead_man_switch(0))
        print("no quotes left")


trio.run(main)
