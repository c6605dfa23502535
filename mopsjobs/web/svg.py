"""Compute the coordinates of the SVG drawings in the templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 720.0
HEIGHT = 160.0
"""The size of a drawing, in its own units."""

SPARK_HEIGHT = 20.0
"""The height of a drawing in a row of a table."""

POINT_HALF_WIDTH = 6.0
"""Half the width of the line for a single point."""


class Bar(NamedTuple):
    """A rectangle with its title."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


def line(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """Return the `points` of a polyline. A single point becomes a short line, to be visible.

    Args:
        points: pairs of x and y.
        x: the values at the left and at the right edge.
        y_max: the value at the top; 0 is at the bottom.
    """
    span = (x[1] - x[0]) or 1.0
    top = y_max or 1.0
    places = [((at - x[0]) / span * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in points]
    if len(places) == 1:
        [(across, down)] = places
        places = [(max(0.0, across - POINT_HALF_WIDTH), down), (min(WIDTH, across + POINT_HALF_WIDTH), down)]
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line that keeps each value until the next one."""
    corners: list[tuple[float, float]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def stacked(columns: Sequence[Sequence[tuple[str, float, str]]], *, y_max: float) -> list[Bar]:
    """Return bars beside each other, each a stack of `(kind, value, title)` from the bottom."""
    bars = []
    spacing = WIDTH / max(1, len(columns))
    for place, column in enumerate(columns):
        y = HEIGHT
        for kind, value, title in column:
            height = value / (y_max or 1.0) * HEIGHT
            y -= height
            if height:
                bars.append(Bar(place * spacing, y, spacing * 0.86, height, kind, title))
    return bars


def spans(parts: Sequence[tuple[str, float, str]], *, height: float, least: float = 2.0) -> list[Bar]:
    """Return bars one after the other, `(kind, length, title)`, to scale, but each at least `least` wide."""
    total = sum(length for _, length, _ in parts) or 1.0
    room = WIDTH - least * len(parts)
    bars = []
    x = 0.0
    for kind, length, title in parts:
        width = least + length / total * room
        bars.append(Bar(x, 0.0, width, height, kind, title))
        x += width
    return bars


def columns(counts: Sequence[int], *, height: float = SPARK_HEIGHT, least: float = 2.0) -> str:
    """Return the path of a column for each number, one unit wide, all to one scale. One above 0 is `least` high."""
    top = max(counts, default=0) or 1
    heights = [max(least, count / top * height) if count else 0.0 for count in counts]
    return "".join(f"M{place} {height:g}v-{high:.1f}h.8V{height:g}z" for place, high in enumerate(heights) if high)


def ceiling(value: float) -> float:
    """Return the next round number, for the top of an axis."""
    if value <= 1:
        return 1.0
    power = 10.0 ** (len(str(int(value))) - 1)
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value)
