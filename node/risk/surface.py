"""An underlying's smiles: what the chain agreed on, as points, as a terminal drawing and as a web page. Pure."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from ledger.instruments import Kind, Underlying
from ledger.queries import get_instruments, get_market
from ledger.state import State

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT, MARGIN = 860, 420, 56
COLORS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


class Smile(NamedTuple):
    """One expiry: out-of-the-money volatility (percent) by strike (USD), ascending."""

    name: str
    forward_usd: float
    confidence: float
    points: tuple[tuple[float, float], ...]


def smiles_of(state: State, underlying: Underlying) -> list[Smile]:
    """One smile per live expiry, ascending."""
    live = [
        item
        for item in get_instruments(state)
        if item.instrument.underlying == underlying and item.instrument.kind != Kind.PERPETUAL
    ]
    smiles: list[Smile] = []
    for piece in get_market(state, underlying).slices:
        forward = piece.forward_uusd / 1e6
        chain = [item for item in live if item.instrument.expiry_ns == piece.expiry_ns]
        points = sorted(
            (item.instrument.strike_uusd / 1e6, item.volatility_e6 / 1e4)
            for item in chain
            if (item.instrument.kind == Kind.CALL) == (item.instrument.strike_uusd / 1e6 >= forward)
        )
        if points:
            name = chain[0].instrument.name.rsplit("-", 2)[0]
            smiles.append(Smile(name, forward, piece.confidence_ppm / 1e6, tuple(points)))
    return smiles


def draw_text(smile: Smile, rows: int = 8) -> str:
    """Columns of blocks, one for each strike; strikes in thousands below."""
    vols = [vol for _, vol in smile.points]
    low, span = min(vols), max(max(vols) - min(vols), 0.5)
    lines: list[str] = []
    for row in range(rows - 1, -1, -1):
        filled = (round(((vol - low) / span * rows - row) * 8) for vol in vols)
        cells = (BLOCKS[max(int(row == 0), min(8, eighths))] * 4 for eighths in filled)
        lines.append(f"{low + span * row / (rows - 1):6.1f} %  " + " ".join(cells))
    strikes = " ".join(f"{strike / 1000:.4g}"[:4].rjust(4) for strike, _ in smile.points)
    return "\n".join([*lines, f"{'':10}{strikes}"])


def draw_html(title: str, smiles: list[Smile]) -> str:
    """One self-contained page with an SVG: volatility against strike, a line for each expiry."""
    points = [point for smile in smiles for point in smile.points]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points) - 1, max(y for _, y in points) + 1

    def x_of(strike: float) -> float:
        return MARGIN + (strike - left) / max(right - left, 1e-9) * (WIDTH - 2 * MARGIN)

    def y_of(vol: float) -> float:
        return HEIGHT - MARGIN - (vol - low) / (high - low) * (HEIGHT - 2 * MARGIN)

    parts: list[str] = []
    for step in range(6):
        vol, strike = low + (high - low) * step / 5, left + (right - left) * step / 5
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y_of(vol):.1f}" y2="{y_of(vol):.1f}" class="grid"/>'
            f'<text x="8" y="{y_of(vol) + 4:.1f}">{vol:.1f} %</text>'
            f'<text x="{x_of(strike) - 20:.1f}" y="{HEIGHT - 24}">{strike:,.0f}</text>'
        )
    for number, smile in enumerate(smiles):
        color = COLORS[number % len(COLORS)]
        line = " ".join(f"{x_of(strike):.1f},{y_of(vol):.1f}" for strike, vol in smile.points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        for strike, vol in smile.points:
            label = escape(f"{smile.name} {strike:,.0f}: {vol:.2f} %")
            parts.append(
                f'<circle cx="{x_of(strike):.1f}" cy="{y_of(vol):.1f}" r="3.5" fill="{color}">'
                f"<title>{label}</title></circle>"
            )
        parts.append(
            f'<text x="{WIDTH - 2 * MARGIN - 40}" y="{MARGIN + 18 * number}" fill="{color}">{escape(smile.name)}</text>'
        )
    style = "body{font:14px system-ui;margin:24px}text{font:12px system-ui}.grid{stroke:#ddd}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style><h1>{escape(title)}</h1>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">{"".join(parts)}</svg></html>\n'
    )
