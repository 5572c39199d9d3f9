"""How long both clients wait, and how much they take. Pure."""

from __future__ import annotations

REQUEST_SECONDS_MAX = 10.0
WAIT_SECONDS = 30.0
"""How long a transaction is waited for, unless said otherwise."""
POLL_SECONDS = 0.2
"""Between two questions about a transaction that only the chain can tell of."""
RECONNECT_SECONDS = 0.5
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
LISTED_SECONDS = 1.0
"""What is listed is asked for at most so often, however many unknown names are looked for."""
