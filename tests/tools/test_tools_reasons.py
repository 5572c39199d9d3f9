"""The page of reason codes is generated, and current."""

from __future__ import annotations

import runpy
from pathlib import Path

from ledger.reasons import LedgerReason

ROOT = Path(__file__).resolve().parents[2]
GENERATED = runpy.run_path(str(ROOT / "tools" / "reasons.py"))["page"]()


def test_the_page_of_reasons_is_current() -> None:
    """If not: `python tools/reasons.py`."""
    assert (ROOT / "docs" / "spec" / "reasons.md").read_text(encoding="utf-8") == GENERATED


def test_every_reason_of_the_ledger_is_on_it() -> None:
    assert [reason.value for reason in LedgerReason if f"| `{reason.value}` |" not in GENERATED] == []
