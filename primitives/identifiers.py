"""Names of things, as types. Pure."""

from __future__ import annotations

from typing import NewType

ValidatorIndex = NewType("ValidatorIndex", int)
"""Place in the epoch's ordered validator list, from 0."""

BlockHash = NewType("BlockHash", bytes)
"""32 bytes: the domain-separated digest of a header."""

ChainId = NewType("ChainId", bytes)
"""32 bytes: the digest of the genesis document."""

Height = NewType("Height", int)
View = NewType("View", int)
Epoch = NewType("Epoch", int)

TimestampNs = NewType("TimestampNs", int)
"""Integer nanoseconds since 1970-01-01 UTC, in market (block) time."""

Address = NewType("Address", bytes)
"""20 bytes: digest of an owner's public key."""

InstrumentId = NewType("InstrumentId", int)
OrderId = NewType("OrderId", int)

NO_BLOCK = BlockHash(bytes(32))
"""The report of a nullify vote whose signer notarized nothing in that view."""
