"""What must hold in every run, judged independently of the code that should uphold it."""

from __future__ import annotations


class Violation(Exception):
    """A promise is broken. `oracle` names the promise, `detail` says what was seen."""

    def __init__(self, oracle: str, detail: str) -> None:
        super().__init__(f"{oracle}: {detail}")
        self.oracle = oracle
        self.detail = detail
