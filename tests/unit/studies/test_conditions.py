"""Conditions on parameters: when they hold, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.studies.conditions import Comparison, Condition, cut_between


@pytest.mark.parametrize(
    ("low", "high", "cut"),
    [
        (0.8999, 0.9003, 0.9),
        (0.9, 1.0, 0.9),
        (3, 4, 3),
        (3, 7, 5),
        (-0.25, 0.75, 0.2),
        (2**70, 2**70 + 1, 2**70),
        (0.1, 0.1 + 1e-16, 0.1),
    ],
)
def test_a_cut_has_the_fewest_digits_that_separate(low: float, high: float, cut: float) -> None:
    """The cut is near the middle, and `x > cut` tells both apart."""
    found = cut_between(low, high)
    assert low <= found < high
    assert found == cut


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (Comparison("beta", ">", 0.9), "beta > 0.9"),
        (Comparison("n", "<=", 4.0), "n <= 4"),
        (Comparison("mode", "==", "x"), 'mode == "x"'),
        (Comparison("fast", "!=", True), "fast != true"),
        (Comparison("two words", "==", None), '"two words" == null'),
        (Comparison("and", "==", [1, "é"]), '"and" == [1, "é"]'),
        (Comparison("text", "==", "y" * 1000), f'text == "{"y" * 58}…'),
    ],
)
def test_a_comparison_is_written_as_in_python_with_values_of_json(part: Comparison, text: str) -> None:
    """Long values are cut, and other names than plain words are quoted."""
    assert str(part) == text


@pytest.mark.parametrize(
    ("part", "holds"),
    [
        (Comparison("n", ">", 1), [True, False, False, False, False]),
        (Comparison("n", "<=", 1), [False, True, False, False, False]),
        (Comparison("n", "==", 1.0), [False, True, False, False, False]),
        (Comparison("n", "==", True), [False, False, True, False, False]),
        (Comparison("n", "!=", "x"), [True, True, True, False, False]),
        (Comparison("n", "is not set"), [False, False, False, False, True]),
    ],
)
def test_a_comparison_holds_by_type_and_value(part: Comparison, holds: list[bool]) -> None:
    """`true` is not 1, a text is never above a number, and a missing parameter has no value."""
    sets: list[dict[str, Any]] = [{"n": 2}, {"n": 1}, {"n": True}, {"n": "x"}, {}]
    assert [part.holds(params) for params in sets] == holds


def test_all_parts_of_a_condition_have_to_hold() -> None:
    """Parts are joined by `and`."""
    both = Condition((Comparison("n", ">", 3), Comparison("n", "<=", 7)))
    assert str(both) == "n > 3 and n <= 7"
    assert [both.holds({"n": number}) for number in (3, 4, 7, 8)] == [False, True, True, False]
