"""Compute the coordinates of the SVG drawings in the templates, as data of paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 720.0
HEIGHT = 160.0
"""The size of a drawing, in its own units."""

SPARK_HEIGHT = 20.0
"""The height of a drawing in a row of a table."""


class Bar(NamedTuple):
    """A rectangle with its title."""

    x: float
    width: float
    kind: str
    title: str


def line(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """Return a line, as data of a path.

    Args:
        points: pairs of x and y.
        x: the values at the left and at the right edge.
        y_max: the value at the top; 0 is at the bottom.
    """
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in _places(points, x, y_max)) if points else ""


def dots(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """Return a dot for each point: a line without a length, which has round ends."""
    return "".join(f"M{across:.1f} {down:.1f}h0" for across, down in _places(points, x, y_max))


def _places(points: Sequence[tuple[float, float]], x: tuple[float, float], y_max: float) -> list[tuple[float, float]]:
    span = (x[1] - x[0]) or 1.0
    top = y_max or 1.0
    return [((at - x[0]) / span * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in points]


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line that keeps each value until the next one."""
    corners: list[tuple[float, float]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def stacked(columns: Sequence[Sequence[tuple[str, float]]], *, y_max: float) -> dict[str, str]:
    """Return bars beside each other, each a stack of `(kind, value)` from the bottom: a path per kind."""
    paths: dict[str, str] = {}
    spacing = WIDTH / max(1, len(columns))
    width = round(spacing * 0.86, 2)
    for place, column in enumerate(columns):
        y = HEIGHT
        for kind, value in column:
            height = value / (y_max or 1.0) * HEIGHT
            y -= height
            if height:
                left = (place + 0.07) * spacing
                paths[kind] = f"{paths.get(kind, '')}M{left:.1f} {y:.1f}h{width}v{height:.1f}h-{width}z"
    return paths


def spans(parts: Sequence[tuple[str, float, str]], *, least: float = 2.0) -> list[Bar]:
    """Return bars one after the other, `(kind, length, title)`, to scale, but each at least `least` wide."""
    total = sum(length for _, length, _ in parts) or 1.0
    room = WIDTH - least * len(parts)
    bars = []
    x = 0.0
    for kind, length, title in parts:
        width = least + length / total * room
        bars.append(Bar(x, width, kind, title))
        x += width
    return bars


def columns(counts: Sequence[int], *, height: float = SPARK_HEIGHT, least: float = 2.0) -> str:
    """Return the path of a column for each number, one unit wide, all to one scale. One above 0 is `least` high."""
    top = max(counts, default=0) or 1
    heights = [max(least, count / top * height) if count else 0.0 for count in counts]
    return "".join(f"M{place} {height:g}v-{high:.1f}h.8V{height:g}z" for place, high in enumerate(heights) if high)


def grid(rows: int, columns: int = 1) -> str:
    """Return the lines between equal rows and columns."""
    across = (f"M0 {HEIGHT * row / rows:.1f}h{WIDTH:g}" for row in range(1, rows))
    down = (f"M{WIDTH * column / columns:.1f} 0v{HEIGHT:g}" for column in range(1, columns))
    return "".join([*across, *down])
