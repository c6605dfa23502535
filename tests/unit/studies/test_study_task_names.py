"""Names of tasks in messages: what tells a task apart from the others, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.studies.study import find_varying, task_name
from mopsjobs.studies.study_parser import parse_study

CASES: list[tuple[list[dict[str, Any]], dict[str, Any], int, str]] = [
    ([{"mode": "exit", "n": 1}, {"mode": "stay", "n": 1}], {}, 0, "task 0 (mode=exit)"),
    ([{"mode": "exit"}, {"mode": "stay"}], {"n_replicates": 2}, 1, "task 1 (mode=exit, seed "),
    ([{"n": 1}], {"n_replicates": 2}, 0, "task 0 (seed "),
    ([{"n": 1}], {}, 0, "task 0"),
    ([{"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 2, "b": 2, "c": 2, "d": 2}], {}, 1, "task 1 (a=2, b=2, c=2)"),
    ([{"n": 1}, {"n": 1, "m": 2}], {}, 1, "task 1 (m=2)"),
    ([{"n": 1}, {"n": 1, "m": 2}], {}, 0, "task 0"),
    ([{"t": "x" * 50}, {"t": "y"}], {}, 0, "task 0 (t=xxxxxxxxxxxxxxxxxxx…)"),
    ([{"t": "a\x1b[31m\nb"}, {"t": "y"}], {}, 0, "task 0 (t=a[31m b)"),
    ([{"t": [1, 2]}, {"t": {"a": None}}], {}, 1, "task 1 (t={'a': None})"),
]


@pytest.mark.parametrize(("sets", "fields", "number", "expected"), CASES)
def test_a_task_is_named_by_what_varies(
    sets: list[dict[str, Any]], fields: dict[str, Any], number: int, expected: str
) -> None:
    """The seed is named only if tasks share their parameters."""
    study = parse_study({"model": "m:f", "parameter_sets": sets, **fields})
    task = list(study.tasks())[number]
    name = task_name(task, find_varying(study))
    assert name == (f"{expected}{task.seed})" if expected.endswith("seed ") else expected)


def test_equal_numbers_of_two_types_do_not_vary() -> None:
    study = parse_study({"model": "m:f", "parameter_sets": [{"n": 1, "m": 1}, {"n": 1.0, "m": 2}]})
    assert find_varying(study).parameters == ("m",)
