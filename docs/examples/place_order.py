"""Deposits into a new account on a local testnet, buys 0.05 BTC-PERPETUAL and shows the account. HTTP, standard output.

    .venv/bin/python docs/examples/place_order.py http://127.0.0.1:PORT NONCE

NONCE is the custodian's: 0 the first time, counted up with each further use on the same testnet. Before the testnet's
makers quote, some seconds after its first block, the order finds nobody and the account stays without a position.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from ledger.transactions import (
    Action,
    Deposit,
    PlaceOrder,
    Side,
    SignedTransaction,
    TimeInForce,
    Transaction,
    transaction_sign_bytes,
)
from primitives.amounts import USD
from primitives.codec import encode
from primitives.signing import SigningKey, address_of
from testnet.setup import secret

gateway, custodian_nonce = sys.argv[1], int(sys.argv[2])


def ask(path: str, body: bytes | None = None) -> Any:
    """What the gateway says; a refusal is JSON too: {"reason": ..., "detail": ...}."""
    try:
        with urllib.request.urlopen(urllib.request.Request(gateway + path, body)) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refusal:
        return json.load(refusal)
    except urllib.error.URLError as error:
        sys.exit(f"no gateway answers at {gateway}: {error.reason}")


def submit(key: SigningKey, nonce: int, *actions: Action) -> list[Any]:
    """Sign one batch, hand it in, wait until it is final; the events it caused."""
    payload = encode(Transaction(chain_id, 0, nonce, actions))
    signed = SignedTransaction(payload, key.public_key, key.sign(transaction_sign_bytes(payload)))
    reply = ask("/v1/orders", encode(signed))
    if not reply["accepted"]:
        sys.exit(f"{reply['reason']}: {reply['detail']}")
    while "events" not in (found := ask(f"/v1/transactions/{reply['transaction_id']}")):
        time.sleep(0.05)
    return list(found["events"])


def say(events: list[Any]) -> None:
    """One line for each event."""
    for event in events:
        print(event["event"], event.get("reason", ""), event.get("detail", ""))


chain_id = bytes.fromhex(ask("/v1/status")["chain_id"])
custodian = SigningKey(secret(1, "custodian"))  # a testnet's keys follow from its --seed
me = SigningKey(os.urandom(32))
address = address_of(me.public_key)
say(submit(custodian, custodian_nonce, Deposit(address, 0, 100_000 * USD)))

perpetual = next(item for item in ask("/v1/instruments")["instruments"] if item["name"] == "BTC-PERPETUAL")
limit = int(perpetual["mark"]["mark_uusd"]) * 101 // 100 // USD * USD  # 1 % above the mark, in whole dollars
order = PlaceOrder(perpetual["id"], Side.BUY, limit, 5, TimeInForce.IOC, False, False, 1)
say(submit(me, 0, order))
print(json.dumps(ask(f"/v1/accounts/{address.hex()}/0"), indent=2))
