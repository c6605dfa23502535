"""The parts of a window in which failures are drawn, and the path of the drawing."""

from __future__ import annotations

from collections import Counter

import pytest

from mopsjobs.web.drawings import svg
from mopsjobs.web.pages.failures_page import MAX_PARTS, Window
from support.cli import START

NOW = START.timestamp()


@pytest.mark.parametrize(
    ("hours", "part", "parts"),
    [
        (0.5, "1 hour", 2),
        (24, "1 hour", 25),
        (48, "2 hours", 25),
        (168, "6 hours", 29),
        (720, "1 day", 31),
        (8760, "14 days", 27),
    ],
)
def test_a_window_has_parts_of_a_round_length(hours: float, part: str, parts: int) -> None:
    """Enough to see when failures began, and few enough for a row of a table."""
    window = Window(NOW - hours * 3600, NOW, None)
    spark = window.spark_line(Counter({int(NOW // 3600): 1}))
    assert spark is not None
    assert (window.part_text, window.parts) == (part, parts)


def test_a_century_is_drawn_too() -> None:
    """Its parts are years, more of them than others have."""
    window = Window(NOW - 876000 * 3600, NOW, None)
    spark = window.spark_line(Counter({0: 3}))
    assert spark is not None
    assert MAX_PARTS < window.parts < 110
    assert spark[1].startswith("3 failed, in parts of 365 days")


def test_hours_outside_a_window_are_not_drawn() -> None:
    """Neither earlier ones nor those of a clock that is ahead."""
    window = Window(NOW - 24 * 3600, NOW, None)
    hour = int(NOW // 3600)
    assert window.spark_line(Counter({hour - 25: 5, hour + 1: 5})) is None
    spark = window.spark_line(Counter({hour - 24: 1, hour: 2, hour + 1: 5}))
    assert spark is not None
    assert spark == (svg.columns([1, *[0] * 23, 2]), "3 failed, in parts of 1 hour; most, 2, from 2026-03-01 12:00 UTC")


def test_one_failure_among_thousands_is_seen() -> None:
    """Its column has a least height, a part without failures has none."""
    assert svg.columns([1, 0, 5000]) == "M0 20v-2.0h.8V20zM2 20v-20.0h.8V20z"
    assert svg.columns([0, 0]) == svg.columns([]) == ""
