"""Three families of error, and none of them is another."""

from __future__ import annotations

import pytest

from primitives.errors import InvariantViolation, OperatorError, ProtocolViolation, ensure
from primitives.reasons import CodecReason


def test_a_violation_carries_its_reason_and_one_sentence() -> None:
    violation = ProtocolViolation(CodecReason.TOO_LARGE, "12 bytes, the limit is 10")
    assert (violation.reason, violation.detail) == (CodecReason.TOO_LARGE, "12 bytes, the limit is 10")
    assert str(violation) == "too_large: 12 bytes, the limit is 10"
    assert str(ProtocolViolation(CodecReason.TOO_LARGE)) == "too_large"


def test_a_broken_promise_of_ours_stops_us() -> None:
    ensure(True, "holds")
    with pytest.raises(InvariantViolation, match="cash is conserved"):
        ensure(False, "cash is conserved")


def test_catching_one_family_never_catches_another() -> None:
    families = (ProtocolViolation, OperatorError, InvariantViolation)
    assert [
        one for one in families for other in families if one is not other and issubclass(one, other)
    ] == []
