"""The figures of catching up, and of writers with more slaves, as a picture (SVG): bars."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape

from tests.bench.report import OURS
from tests.bench.run import Figures, Plan
from tests.bench.slaves import CLIENTS

_WIDTH = 720
_LABELS = 150
_NUMBERS = 80
_BAR = 14
_STEP = 18
_GAP = 34
_INK, _FAINT, _OURS, _OTHERS, _PAPER = "#24292f", "#57606a", "#0969da", "#afb8c1", "#ffffff"


def chart(plan: Plan, titles: Mapping[str, str], figures: Figures) -> str:
    """The picture.

    Args:
        titles: what the systems are called, by their names.
    """
    parts = list(_parts(plan, titles, figures))
    height = max(y for y, _ in parts) + 24
    body = "\n".join(part for _, part in parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12">\n'
        "<title>Catching up with a backlog, rows a second</title>\n"
        f'<rect width="{_WIDTH}" height="{height}" fill="{_PAPER}"/>\n{body}\n</svg>\n'
    )


def _parts(plan: Plan, titles: Mapping[str, str], figures: Figures) -> Iterator[tuple[int, str]]:
    """Each part with the height at which it stands."""
    y = 24
    yield y, _text(16, y, "Catching up with a backlog, rows a second", size=15, weight=600)
    for backlog in plan.work:
        if backlog.name not in figures.caught_up:
            continue
        rates = {
            name: statistics.median(figures.rates(backlog, name))
            for name in figures.caught_up[backlog.name]
        }
        heading = f"{backlog.name}: {backlog.title}"
        yield from _bars(y, heading, [(titles[name], rates[name], name == OURS) for name in rates])
        y += _height(len(rates))
    if figures.slaves:
        y += _GAP
        title = "Writing to a master with more slaves, transactions a second"
        yield y, _text(16, y, title, size=15, weight=600)
        bars = [
            (f"{count} slave{'s' if count > 1 else ''}", statistics.median(rates), True)
            for count, *rates in zip(plan.slaves, *figures.slaves, strict=True)
        ]
        yield from _bars(y, f"PyReplica: {CLIENTS} clients, nothing is applied meanwhile", bars)


def _height(bars: int) -> int:
    return _GAP + 8 + bars * _STEP


def _bars(
    y: int, heading: str, bars: Sequence[tuple[str, float, bool]]
) -> Iterator[tuple[int, str]]:
    """Bars below a height, each with its name, its figure, and whether it is ours."""
    y += _GAP
    yield y, _text(16, y, heading, colour=_FAINT)
    y += 8
    for name, rate, ours in bars:
        length = (_WIDTH - _LABELS - _NUMBERS) * rate / max(one for _, one, _ in bars)
        middle = y + _BAR - 3
        weight = 600 if ours else 400
        yield middle, _text(_LABELS - 8, middle, name, anchor="end", weight=weight)
        yield (
            middle,
            f'<rect x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" '
            f'fill="{_OURS if ours else _OTHERS}"/>',
        )
        yield middle, _text(_LABELS + length + 6, middle, f"{rate:,.0f}", weight=weight)
        y += _STEP


def _text(
    x: float,
    y: float,
    words: str,
    *,
    colour: str = _INK,
    size: int = 12,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}" font-size="{size}" font-weight="{weight}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )
