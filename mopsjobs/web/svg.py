"""Numbers as coordinates of the drawings in the templates, which are drawn by the browser without a script. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

WIDTH = 720.0
HEIGHT = 160.0
"""Of a drawing, in its own units."""

POINT = 6.0
"""Half the width of a line that stands for a single point."""


class Bar(NamedTuple):
    """A rectangle, and the words for it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


def line(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """The `points` of a polyline.

    Args:
        points: what to draw.
        x: which values are at the left and at the right edge.
        y_max: the value at the top; 0 is at the bottom.

    A single point becomes a short line, since else nothing is seen.
    """
    span = (x[1] - x[0]) or 1.0
    top = y_max or 1.0
    places = [((at - x[0]) / span * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in points]
    if len(places) == 1:
        [(across, down)] = places
        places = [(max(0.0, across - POINT), down), (min(WIDTH, across + POINT), down)]
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in places)


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a line that keeps each value until the next one comes."""
    found: list[tuple[float, float]] = []
    for at, value in points:
        if found:
            found.append((at, found[-1][1]))
        found.append((at, value))
    return found


def stacked(columns: Sequence[Sequence[tuple[str, float, str]]], *, y_max: float) -> list[Bar]:
    """Bars beside each other, each a stack of `(kind, value, title)` from the bottom."""
    bars = []
    each = WIDTH / max(1, len(columns))
    for place, column in enumerate(columns):
        y = HEIGHT
        for kind, value, title in column:
            height = value / (y_max or 1.0) * HEIGHT
            y -= height
            if height:
                bars.append(Bar(place * each, y, each * 0.86, height, kind, title))
    return bars


def spans(parts: Sequence[tuple[str, float, str]], *, height: float, least: float = 2.0) -> list[Bar]:
    """Bars after each other on one line, `(kind, length, title)`, to scale, but none so short that it is not seen."""
    total = sum(length for _, length, _ in parts) or 1.0
    room = WIDTH - least * len(parts)
    bars = []
    x = 0.0
    for kind, length, title in parts:
        width = least + length / total * room
        bars.append(Bar(x, 0.0, width, height, kind, title))
        x += width
    return bars


def ceiling(value: float) -> float:
    """The next round number: what the top of an axis is."""
    if value <= 1:
        return 1.0
    power = 10.0 ** (len(str(int(value))) - 1)
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value)
