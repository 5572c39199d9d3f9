"""Why the network edge refuses, drops or disconnects; also the names of its counters. Pure."""

from __future__ import annotations

from enum import StrEnum


class GossipReason(StrEnum):
    """Values are stable: they label metrics and logs. Each says who is to blame, if anybody."""

    # A peer's mistakes: counted and scored against it.
    TOO_LARGE = "too_large"
    """A frame or message longer than its lane allows."""
    TRUNCATED = "truncated"
    """A frame that ends before the length it claims."""
    TRAILING_BYTES = "trailing_bytes"
    """A frame with bytes after its last message."""
    EMPTY = "empty"
    """A frame without messages, or a message without bytes, where one is required."""
    TOO_MANY_MESSAGES = "too_many_messages"
    """More messages in one frame than the lane allows."""
    BAD_VERSION = "bad_version"
    """Another frame version, or not a frame of ours at all."""
    BAD_KIND = "bad_kind"
    """A frame kind that does not exist or does not belong on this stream."""
    BAD_HELLO = "bad_hello"
    """The first frame of a stream is not a hello we can read."""
    WRONG_CHAIN = "wrong_chain"
    """The peer runs another genesis."""
    WRONG_PROTOCOL = "wrong_protocol"
    """The peer speaks another version of this protocol."""
    WRONG_INDEX = "wrong_index"
    """The peer claims a validator index that its peer id is not bound to."""
    FOLLOWS_ONLY = "follows_only"
    """A validator that is not started as one yet, or any more, has no lanes."""
    OVER_BUDGET = "over_budget"
    """More messages or bytes per second than a peer may send."""
    INVALID_MESSAGE = "invalid_message"
    """The node above judged a message of this peer invalid."""
    FALSE_ANSWER = "false_answer"
    """What the peer answered to one who catches up does not verify: it lies, or its disk does."""
    BAD_REQUEST = "bad_request"
    """A follower's request that is too large, too slow or too frequent."""

    # Refused without blame beyond the connection itself.
    UNKNOWN_PEER = "unknown_peer"
    """A peer id that is no validator where only validators may speak."""
    BANNED = "banned"
    """The peer is serving a ban."""
    TOO_MANY_FOLLOWERS = "too_many_followers"
    """The follower quota is full."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    """Too many half-open or open connections from one address."""

    # Nobody's fault, or the weather's: counted, never scored.
    DUPLICATE = "duplicate"
    """Already seen."""
    QUEUE_FULL = "queue_full"
    """An outbound queue was full: the lane's rule says which message was lost."""
    INBOX_FULL = "inbox_full"
    """The node did not read fast enough: the arriving frame was dropped."""
    NOT_CONNECTED = "not_connected"
    """A bulk message for a validator to whom no link is up."""
    SILENT = "silent"
    """No heartbeat for longer than a peer may be quiet: its socket was shut down."""
    DIAL_FAILED = "dial_failed"
    """A validator did not answer our dial."""
    HANDSHAKE_FAILED = "handshake_failed"
    """A connection broke or ran out of time before the hello was done."""
    LINK_LOST = "link_lost"
    """An established link ended."""
    REPLACED = "replaced"
    """A newer stream of the same peer and lane took over."""
    HANDLER_FAILED = "handler_failed"
    """A fault barrier caught an exception that should not have happened: worth a bug report."""


class Traffic(StrEnum):
    """What is counted when things go well, per lane or topic."""

    MESSAGES_SENT = "messages_sent"
    MESSAGES_RECEIVED = "messages_received"
    FRAMES_SENT = "frames_sent"
    FRAMES_RECEIVED = "frames_received"
    BYTES_SENT = "bytes_sent"
    BYTES_RECEIVED = "bytes_received"
