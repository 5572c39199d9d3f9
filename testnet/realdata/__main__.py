"""`python -m testnet.realdata`: chains and crashes from a directory of market data, as a JSON report. Prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from primitives.errors import OperatorError
from testnet.realdata.chains import replay_chains
from testnet.realdata.crashes import CRASHES, read_path, replay_crash
from testnet.realdata.report import chains_report, crashes_report

app = App(name="realdata", help="Real option chains and crashes through fitter, marks and ledger.")


@app.default
def run(*, data: Path = Path("../shared/data"), report: Path | None = None) -> int:
    """Replay every chain snapshot and every crash; exit code 1 when money or arbitrage is not as promised.

    Parameters
    ----------
    data
        Directory of chain snapshots and spot bars.
    report
        Write the whole JSON report there.
    """
    chains = chains_report(replay_chains(data))
    crashes = crashes_report(replay_crash(read_path(data, day), day) for day in CRASHES)
    _show(chains, crashes)
    if report is not None:
        text = json.dumps({"chains": chains, "crashes": crashes}, indent=2)
        report.write_text(text + "\n", encoding="utf-8")
    arbitrage = (
        chains["all"]["slices_with_butterfly_arbitrage"] + chains["all"]["neighbours_with_calendar_arbitrage"]
    )
    unbalanced = any(item["money_difference_uusd"] or item["unborne_uusd"] for item in crashes)
    return 1 if arbitrage or unbalanced else 0


def _show(chains: dict[str, dict[str, object]], crashes: list[dict[str, object]]) -> None:
    console = Console()
    for name in ("calm", "all"):
        table = Table("figure", "value", title=f"chains, {name} snapshots")
        for figure, value in chains[name].items():
            if isinstance(value, dict):
                for part, detail in value.items():
                    table.add_row(f"{figure}.{part}", str(detail))
            else:
                table.add_row(figure, str(value))
        console.print(table)
    table = Table("figure", *(str(item["day"]) for item in crashes), title="crashes")
    for figure in list(crashes[0])[1:-1]:
        table.add_row(figure, *(str(item[figure]) for item in crashes))
    console.print(table)


if __name__ == "__main__":
    try:
        app()
    except OperatorError as error:
        sys.exit(str(error))
