"""What people and programs use to trade: a typed client of any gateway, blocking or on trio. Imports nothing.

`node.client.blocking.Client` and `node.client.on_trio.open_client` share everything that is not I/O: errors, types,
signers, orders and conversations. Neither needs libp2p, numpy or a node on this machine.
"""
