"""The `quorate risk` command. Prints; writes the files it is asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from ledger.breakers.queries import BreakersView, get_breakers_view
from ledger.instruments import Kind, Underlying
from ledger.queries import get_instruments, get_market, get_open_interest
from ledger.state import State
from node.account_names import read_account
from node.risk.account import AccountRisk, account_risk, parse_leg
from node.risk.exposure import exposure_lines, exposure_view
from node.risk.source import open_state
from node.risk.surface import draw_html, draw_text, smiles_of
from primitives.errors import OperatorError

app = App(name="risk", help="Risk of an account, a volatility surface, or the whole protocol.")

DRIFTS_SHOWN = 10
"""Instruments in the table of drifts; JSON has all of them."""

Home = Annotated[Path, Parameter(help="A node's home directory; its node may be running.")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON instead of tables.")]


@app.command
def account(
    address: Annotated[str, Parameter(help="ADDRESS or ADDRESS/SUBACCOUNT, 40 hexadecimal digits.")],
    *,
    home: Home,
    leg: Annotated[tuple[str, ...], Parameter(help="What if: NAME:CONTRACTS more, at the mark.")] = (),
    as_json: Json = False,
) -> None:
    """Positions, Greeks, margins and scenarios of one account, and what extra legs would change.

    Example: quorate risk account 0123...cdef --home net/node0 --leg BTC-PERPETUAL:-0.5
    """
    state = open_state(home)
    risk = account_risk(state, read_account(address), [parse_leg(state, text) for text in leg])
    console = _console()
    if as_json:
        console.print_json(json.dumps(_account_json(risk)))
        return
    console.print(f"equity {risk.equity_usd:,.2f} USD, {risk.health}")
    console.print(_positions_table(risk))
    console.print(_margin_table(risk))
    console.print(_scenario_table(risk))


@app.command
def surface(
    underlying: Annotated[str, Parameter(help="BTC or ETH.")],
    *,
    home: Home,
    html: Annotated[Path | None, Parameter(help="Write a self-contained page with the smiles.")] = None,
    png: Annotated[Path | None, Parameter(help="Write a picture (needs matplotlib).")] = None,
    as_json: Json = False,
) -> None:
    """The volatility smiles that the chain agreed on, drawn in the terminal and on a page.

    Example: quorate risk surface BTC --home net/node0 --html smiles.html
    """
    state = open_state(home)
    try:
        smiles = smiles_of(state, Underlying[underlying.upper()])
    except KeyError:
        known = ", ".join(item.name for item in Underlying)
        raise OperatorError(f"there is no underlying {underlying}: choose one of {known}") from None
    console = _console()
    title = f"{underlying.upper()} implied volatility at height {state.clock.height}"
    if as_json:
        console.print_json(json.dumps([smile._asdict() for smile in smiles]))
    else:
        for smile in smiles:
            console.print(
                f"\n{smile.name}: forward {smile.forward_usd:,.2f}, confidence {smile.confidence:.2f}",
                highlight=False,
            )
            console.print(draw_text(smile), style="cyan", highlight=False)
    if html is not None and smiles:
        html.write_text(draw_html(title, smiles), encoding="utf-8")
    if png is not None and smiles:
        _write_png(title, smiles, png)


@app.command
def protocol(*, home: Home, as_json: Json = False) -> None:
    """Open interest and its Greeks, the protocol's money and exposure, its trading phases, the drift of its marks.

    Example: quorate risk protocol --home net/node0
    """
    state = open_state(home)
    rows = _open_interest_rows(state)
    supply, totals = state.supply, state.totals
    money = {
        "accounts_cash_usd": totals.cash_uusd / 1e6,
        "fund_usd": supply.fund_uusd / 1e6,
        "fees_usd": supply.fees_uusd / 1e6,
        "vault_usd": supply.vault_uusd / 1e6,
    }
    breakers, exposure = get_breakers_view(state), exposure_view(state)
    console = _console()
    if as_json:
        shown = {"height": state.clock.height, "money": money, "open_interest": rows}
        shown["exposure"] = None if exposure is None else exposure._asdict()
        console.print_json(json.dumps({**shown, "breakers": _breakers_json(breakers)}))
        return
    table = Table(title=f"open interest at height {state.clock.height} (held long)", title_justify="left")
    for name in ("expiry", "contracts", "delta", "gamma per 1 %", "vega per point", "theta per day"):
        table.add_column(name, justify="left" if name == "expiry" else "right")
    for row in rows:
        table.add_row(row["expiry"], *(f"{row[name]:,.2f}" for name in _GREEKS))
    console.print(table)
    for name, value in money.items():
        console.print(f"{name}: {value:,.2f}", highlight=False)
    for line in exposure_lines(exposure) if exposure is not None else ():
        console.print(line, highlight=False)
    console.print(_phases_table(breakers))
    console.print(_drifts_table(breakers))


def _breakers_json(view: BreakersView) -> dict[str, Any]:
    drifts = [{"name": item.instrument.name, **item._asdict()} for item in view.drifts]
    for row in drifts:
        del row["instrument"]
    phases = [
        {**item._asdict(), "underlying": Underlying(item.underlying).name, "causes": list(item.causes)}
        for item in view.phases
    ]
    return {"judged_epochs": view.epochs, "phases": phases, "drifts": drifts}


def _phases_table(view: BreakersView) -> Table:
    table = Table(title="trading phases", title_justify="left")
    for name in ("underlying", "phase", "causes", "green", "amber", "red", "usual move, bp", "bands times"):
        table.add_column(name, justify="left" if name in ("underlying", "phase", "causes") else "right")
    for item in view.phases:
        counts = map(str, item.colours)
        factors = f"{item.moved_ppm / 100:.2f}", f"{item.widening_ppm / 1e6:.2f}"
        causes = ", ".join(item.causes)
        table.add_row(Underlying(item.underlying).name, item.phase, causes, *counts, *factors)
    return table


def _drifts_table(view: BreakersView) -> Table:
    """Those furthest from the venues, measured in half-spreads."""
    worst = sorted(
        view.drifts, key=lambda item: (-item.epsilon_uusd / max(1, item.half_spread_uusd), item.instrument.id)
    )
    title = f"epsilon against half-spread after {view.epochs} epochs, the {DRIFTS_SHOWN} worst"
    table = Table(title=title, title_justify="left")
    for name in (
        "instrument",
        "colour",
        "epsilon, USD",
        "half-spread, USD",
        "epsilon, bp",
        "half-spread, bp",
    ):
        table.add_column(name, justify="left" if name in ("instrument", "colour") else "right")
    for item in worst[:DRIFTS_SHOWN]:
        colour = f"{item.colour}, paused" if item.is_paused else item.colour
        usd = f"{item.epsilon_uusd / 1e6:,.2f}", f"{item.half_spread_uusd / 1e6:,.2f}"
        bp = f"{item.epsilon_ppm / 100:.2f}", f"{item.half_spread_ppm / 100:.2f}"
        table.add_row(item.instrument.name, colour, *usd, *bp)
    return table


_GREEKS = ("contracts", "delta", "gamma_usd_per_percent", "vega_usd", "theta_usd")


def _open_interest_rows(state: State) -> list[dict[str, Any]]:
    held = get_open_interest(state)
    index = {item: get_market(state, item).index_uusd / 1e6 for item in sorted({*Underlying})}
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for item in get_instruments(state):
        instrument = item.instrument
        if instrument.id not in held:
            continue
        key = (instrument.underlying, instrument.expiry_ns)
        is_perpetual = instrument.kind == Kind.PERPETUAL
        name = instrument.name if is_perpetual else instrument.name.rsplit("-", 2)[0]
        row = rows.setdefault(key, {"expiry": name, **dict.fromkeys(_GREEKS, 0.0)})
        contracts = held[instrument.id] / instrument.lots_per_contract
        spot = index[Underlying(instrument.underlying)]
        row["contracts"] += contracts
        row["delta"] += contracts * item.delta_ppm / 1e6
        row["gamma_usd_per_percent"] += contracts * item.gamma_e12 / 1e12 * spot * spot / 100
        row["vega_usd"] += contracts * item.vega_uusd / 1e6
        row["theta_usd"] += contracts * item.theta_uusd / 1e6
    return [rows[key] for key in sorted(rows)]


def _console() -> Console:
    """As wide as the terminal; where there is none, wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else 120)


def _positions_table(risk: AccountRisk) -> Table:
    table = Table(title="positions", title_justify="left")
    for name in ("instrument", "contracts", "mark", "value", "delta", "gamma", "vega", "theta"):
        table.add_column(name, justify="left" if name == "instrument" else "right")
    for row in risk.positions:
        table.add_row(
            row.name,
            f"{row.contracts:,.2f}",
            f"{row.mark_usd:,.2f}",
            f"{row.value_usd:,.2f}",
            f"{row.delta:,.3f}",
            f"{row.gamma:.2e}",
            f"{row.vega_usd:,.2f}",
            f"{row.theta_usd:,.2f}",
        )
    return table


def _margin_table(risk: AccountRisk) -> Table:
    table = Table(title="margin, USD", title_justify="left")
    table.add_column("")
    table.add_column("now", justify="right")
    if risk.with_legs is not None:
        table.add_column("with the extra legs", justify="right")
    now = risk.margin._asdict()
    then = risk.with_legs._asdict() if risk.with_legs is not None else None
    for name, value in now.items():
        if not isinstance(value, int):
            continue
        cells = [f"{value / 1e6:,.2f}"] + ([f"{then[name] / 1e6:,.2f}"] if then is not None else [])
        table.add_row(name.removesuffix("_uusd").replace("_", " "), *cells)
    return table


def _scenario_table(risk: AccountRisk) -> Table:
    table = Table(title="scenarios, before expiry discounts and weights", title_justify="left")
    for name in ("underlying", "scenario", "weight", "PnL, USD"):
        table.add_column(name, justify="right" if name in ("weight", "PnL, USD") else "left")
    for row in risk.scenarios:
        table.add_row(row.underlying, row.scenario, f"{row.weight:.3f}", f"{row.pnl_usd:,.2f}")
    return table


def _account_json(risk: AccountRisk) -> dict[str, Any]:
    return {
        "equity_usd": risk.equity_usd,
        "health": risk.health,
        "margin": risk.margin._asdict(),
        "margin_with_legs": None if risk.with_legs is None else risk.with_legs._asdict(),
        "positions": [row._asdict() for row in risk.positions],
        "scenarios": [row._asdict() for row in risk.scenarios],
    }


def _write_png(title: str, smiles: list[Any], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        raise OperatorError(
            "--png needs matplotlib: install the extra quorate[plots], or use --html"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for smile in smiles:
        axes.plot(*zip(*smile.points, strict=True), marker="o", label=smile.name)
    axes.set(title=title, xlabel="strike, USD", ylabel="implied volatility, %")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
