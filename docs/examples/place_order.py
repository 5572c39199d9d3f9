"""Deposits into a new account, buys 0.05 BTC-PERPETUAL at market, shows the account. HTTP, WebSocket, standard output.

    .venv/bin/python docs/examples/place_order.py http://127.0.0.1:PORT CUSTODIAN.json

CUSTODIAN.json is the key file that signs deposits: of a testnet or of `quorate init`, without a password. Before the
makers of a testnet quote, some seconds after its first block, the order finds nobody.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ledger.transactions import Deposit
from node.client import questions
from node.client.blocking import Client
from node.client.market import dollars, uusd
from node.client.sentences import sentences
from node.client.signers import KeySigner
from node.keystore import load_seeds
from primitives.signing import SigningKey

gateway, custodian_path = sys.argv[1], Path(sys.argv[2])
custodian = KeySigner(SigningKey(load_seeds(custodian_path, None, allow_insecure=True)["custodian"]))
me = KeySigner(SigningKey(os.urandom(32)))

with Client(gateway, custodian) as bank:
    bank.submit(Deposit(me.address, 0, uusd(100_000))).check()

with Client(gateway, me) as client:
    receipt = client.submit(client.market.market("BTC-PERPETUAL", "buy", "0.05")).check()
    print(f"final in block {receipt.height}")
    events = client.with_consequences(receipt).events
    print("\n".join(sentences(events, me.address, client.market)))
    account = client.ask(questions.account(me.address))
    print(f"cash ${dollars(account.cash_uusd)}, positions:")
    for position in account.positions:
        print(f"  {client.market.size(position.name, position.lots)} {position.name}")
