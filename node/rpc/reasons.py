"""Why the gateway refuses a client. Pure."""

from __future__ import annotations

from enum import StrEnum


class GatewayReason(StrEnum):
    """Values are stable: clients may act on them. The ledger's and mempool's reasons pass unchanged."""

    NOT_FOUND = "not_found"
    """No such block, account, instrument, transaction or path."""
    BAD_REQUEST = "bad_request"
    """A path, query or body that does not have the documented form."""
    BODY_TOO_LARGE = "body_too_large"
    """More bytes than any request may have."""
    TIMEOUT = "timeout"
    """The request's body, or the node's answer, did not come in time."""
    BUSY = "busy"
    """Too many requests are being served: try again in a moment."""
    UNAUTHORIZED = "unauthorized"
    """The bearer token is missing or wrong."""
    FORBIDDEN = "forbidden"
    """The token's scopes, or what is public, do not include this."""
    QUOTA_EXCEEDED = "quota_exceeded"
    """Too many requests from this token, address or account key: wait as long as `retry-after` says."""
    NODE_UNAVAILABLE = "node_unavailable"
    """The node does not answer: queries still work from what is stored, orders do not."""
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    """One connection may follow only so many channels."""
    TOO_MANY_WAITING = "too_many_waiting"
    """Too many of this connection's orders are not final yet."""
    SLOW_CONSUMER = "slow_consumer"
    """The client did not read fast enough and was disconnected."""
    INTERNAL = "internal"
    """Our mistake; it is logged."""
