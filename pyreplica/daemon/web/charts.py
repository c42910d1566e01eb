"""Charts of the last hour as SVG, made here, so that they need no script."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 600
HEIGHT = 120
_TOP = 4
"""Room above the highest value, so that its line is seen whole."""


def area(values: Sequence[float | None], kind: str, label: str) -> str:
    """An area under a line, as wide as the page gives it room.

    Args:
        values: from left to right; None is a gap.
        kind: the class of the drawing, for its colour.
        label: what it shows, in words, escaped for HTML.
    """
    highest = max((value for value in values if value), default=0.0)
    lines: list[str] = []
    areas: list[str] = []
    for run in _runs(values):
        points = [(_x(n, len(values)), _y(value, highest)) for n, value in run]
        if len(points) == 1:  # a line needs two
            ((x, y),) = points
            points.insert(0, (max(0.0, x - WIDTH / len(values)), y))
        path = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
        lines.append(f"M{path}")
        areas.append(f"M{points[0][0]:.1f},{HEIGHT} L{path} L{points[-1][0]:.1f},{HEIGHT} Z")
    grid = "".join(
        f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>'
        for y in (_TOP, (HEIGHT + _TOP) / 2, HEIGHT)
    )
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="{label}">{grid}'
        f'<path class="area" d="{" ".join(areas)}"/><path class="line" d="{" ".join(lines)}"/>'
        "</svg>"
    )


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """The stretches without gaps, each value with its place."""
    runs: list[list[tuple[int, float]]] = []
    known_before = False
    for n, value in enumerate(values):
        if value is not None:
            if not known_before:
                runs.append([])
            runs[-1].append((n, value))
        known_before = value is not None
    return runs


def _x(n: int, count: int) -> float:
    return n * WIDTH / max(1, count - 1)


def _y(value: float, highest: float) -> float:
    return HEIGHT - (value / highest if highest else 0.0) * (HEIGHT - _TOP)
