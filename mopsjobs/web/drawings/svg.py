"""Compute the coordinates of the SVG drawings in the templates, as data of paths."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 720.0
HEIGHT = 160.0
"""The size of a drawing, in its own units."""


def line(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """Return a line, as data of a path.

    Args:
        points: pairs of x and y.
        x: the values at the left and at the right edge.
        y_max: the value at the top; 0 is at the bottom.
    """
    span, top = (x[1] - x[0]) or 1.0, y_max or 1.0
    places = (((at - x[0]) / span * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in points)
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places) if points else ""


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line that keeps each value until the next one."""
    corners: list[tuple[float, float]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def grid(rows: int, columns: int = 1) -> str:
    """Return the lines between equal rows and columns."""
    across = (f"M0 {HEIGHT * row / rows:.1f}h{WIDTH:g}" for row in range(1, rows))
    down = (f"M{WIDTH * column / columns:.1f} 0v{HEIGHT:g}" for column in range(1, columns))
    return "".join([*across, *down])
