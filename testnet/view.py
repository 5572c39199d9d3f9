"""The live terminal view of a testnet: validators, market, a smile. Draws with rich, in the parent process only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class ValidatorRow:
    """One line of the validators' table."""

    name: str
    state: str = "starting"
    height: int = 0
    view: int = 0
    finality_p50_ms: float | None = None
    fast_share: float | None = None
    peers: int = 0
    root: str = ""
    rss_mb: float = 0.0


@dataclass(slots=True)
class Smile:
    """One expiry's implied volatilities, ascending by strike."""

    title: str
    strikes: Sequence[float]
    vols_percent: Sequence[float]


@dataclass(slots=True)
class Picture:
    """Everything the view shows at one moment."""

    elapsed_seconds: float = 0.0
    total_seconds: float = 0.0
    market_time: str = ""
    validators: list[ValidatorRow] = field(default_factory=list)
    indices: dict[str, float] = field(default_factory=dict)
    smile: Smile | None = None
    epsilon_bp: float | None = None
    spread_bp: float | None = None
    phases: dict[str, str] = field(default_factory=dict)
    """The trading phase of each underlying that ever left the open one."""
    orders: int = 0
    trades: int = 0
    liquidations: int = 0
    expiries: int = 0
    series: int = 0
    conservation_checked: int = 0
    roots_agree: bool = True
    compared_heights: int = 0
    notes: list[str] = field(default_factory=list)


def render(picture: Picture) -> RenderableType:
    """The whole screen as one renderable."""
    return Group(
        _headline(picture),
        _validators(picture),
        _market(picture),
        *(Text(f"  {note}", style="yellow") for note in picture.notes[-4:]),
    )


def status_line(picture: Picture) -> str:
    """One line for logs and pipes, where a live view would be noise."""
    heights = [row.height for row in picture.validators]
    agreement = "roots agree" if picture.roots_agree else "ROOTS DIFFER"
    return (
        f"[{picture.elapsed_seconds:5.1f}s] height {min(heights, default=0)}..{max(heights, default=0)}  "
        f"{agreement} at {picture.compared_heights} heights  finality p50 {_ms(_median_finality(picture))}  "
        f"orders {picture.orders}  trades {picture.trades}  liquidations {picture.liquidations}  "
        f"expiries {picture.expiries}"
    )


def _headline(picture: Picture) -> Text:
    left = f"Quorate testnet  {picture.elapsed_seconds:.0f}/{picture.total_seconds:.0f} s"
    agreement = (
        ("state roots agree", "bold green") if picture.roots_agree else ("STATE ROOTS DIFFER", "bold red")
    )
    return Text.assemble(
        (left, "bold"),
        f"   market time {picture.market_time}   ",
        agreement,
        f" at {picture.compared_heights} heights",
    )


def _validators(picture: Picture) -> Table:
    table = Table(expand=False, title_justify="left")
    for name in (
        "validator",
        "state",
        "height",
        "view",
        "finality p50",
        "fast",
        "peers",
        "state root",
        "memory",
    ):
        table.add_column(name, justify="left" if name in ("validator", "state", "state root") else "right")
    for row in picture.validators:
        style = {"voting": "green", "down": "red", "halted": "bold red"}.get(row.state, "yellow")
        share = "-" if row.fast_share is None else f"{row.fast_share:.0%}"
        table.add_row(
            row.name,
            Text(row.state, style=style),
            str(row.height),
            str(row.view),
            _ms(row.finality_p50_ms),
            share,
            str(row.peers),
            row.root,
            f"{row.rss_mb:.0f} MB",
        )
    return table


def _market(picture: Picture) -> Table:
    left = Table.grid(padding=(0, 2))
    for name, price in picture.indices.items():
        left.add_row(f"{name} index", f"{price:,.2f}")
    left.add_row("epsilon p50 / spread p50", f"{_bp(picture.epsilon_bp)} / {_bp(picture.spread_bp)}")
    if picture.phases:
        left.add_row("phase", ", ".join(f"{name} {phase}" for name, phase in sorted(picture.phases.items())))
    left.add_row("orders / trades", f"{picture.orders:,} / {picture.trades:,}")
    left.add_row("liquidations", str(picture.liquidations))
    left.add_row("settled / newly listed", f"{picture.expiries} / {picture.series} expiries")
    left.add_row("conservation", f"exact at {picture.conservation_checked:,} blocks")
    grid = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [Panel(left, title="market", width=56)]
    if picture.smile is not None and len(picture.smile.strikes) > 1:
        cells.append(Panel(draw_smile(picture.smile), title=picture.smile.title, width=48))
    grid.add_row(*cells)
    return grid


def draw_smile(smile: Smile, rows: int = 6) -> Text:
    """Volatility against strike as columns of blocks, lowest to highest strike."""
    low, high = min(smile.vols_percent), max(smile.vols_percent)
    span = max(high - low, 0.5)
    lines: list[str] = []
    for row in range(rows - 1, -1, -1):
        label = f"{low + span * row / (rows - 1):5.1f}% "
        cells = (_column((vol - low) / span * rows, row) for vol in smile.vols_percent)
        lines.append(label + " ".join(cells))
    lines.append(f"       {smile.strikes[0]:,.0f} .. {smile.strikes[-1]:,.0f}")
    return Text("\n".join(lines), style="cyan")


def _column(filled: float, row: int) -> str:
    part = filled - row
    if part >= 1:
        return _BLOCKS[-1] * 2
    return _BLOCKS[max(0, int(part * 8))] * 2 if part > 0 or row == 0 else "  "


def _median_finality(picture: Picture) -> float | None:
    known = sorted(row.finality_p50_ms for row in picture.validators if row.finality_p50_ms is not None)
    return known[len(known) // 2] if known else None


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


def _bp(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} bp"
