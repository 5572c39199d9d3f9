"""An account as a person writes it. Pure."""

from __future__ import annotations

from primitives.errors import OperatorError

ADDRESS_BYTES = 20
SUBACCOUNT_MAX = 255


def read_account(text: str) -> tuple[bytes, int]:
    """(owner's address, sub-account) of ADDRESS or ADDRESS/SUBACCOUNT. Raises OperatorError."""
    address, _, number = text.partition("/")
    try:
        owner, subaccount = bytes.fromhex(address), int(number or 0)
    except ValueError:
        owner, subaccount = b"", 0
    if len(owner) != ADDRESS_BYTES or not 0 <= subaccount <= SUBACCOUNT_MAX:
        raise OperatorError(
            f"{text!r} is no account: give ADDRESS or ADDRESS/SUBACCOUNT, 40 hexadecimal digits"
        )
    return owner, subaccount
