"""Where the tasks of a job are on its map, and how much that takes."""

from __future__ import annotations

import gzip
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.web.drawings.heat_map import KIND_OF, Axes, SetTasks, choose_axes, lay_out


def _sets(tasks: Iterable[tuple[dict[str, Any], str]]) -> list[SetTasks]:
    """Gather tasks by parameters, which are next to each other."""
    grouped = groupby(tasks, key=lambda one: one[0])
    return [SetTasks(params, [KIND_OF[end] for _, end in members]) for params, members in grouped]


@pytest.mark.parametrize("replicates", [1, 100])
@pytest.mark.parametrize(
    "outcome",
    [
        lambda _across, chance: chance.choice(["failed", "succeeded"]),
        lambda _across, chance: chance.choice(["failed", "succeeded", "cancelled", "missing", "waiting"]),
    ],
    ids=["noise", "all"],
)
def test_ten_thousand_tasks_take_at_most_10_kb(replicates: int, outcome: Callable[[int, random.Random], str]) -> None:
    """Compressed, even if they end at random: as many tasks in paths as there are."""
    side, chance = round((10_000 / replicates) ** 0.5), random.Random(1)
    tasks = (
        ({"beta": across / side, "gamma": up / side}, outcome(across, chance))
        for across in range(side)
        for up in range(side)
        for _ in range(replicates)
    )
    found = lay_out(_sets(tasks), Axes("beta", "gamma"))
    paths = [data for _, data in found.paths]
    assert len(gzip.compress("".join(paths).encode())) < 10_000
    assert sum(found.counts.values()) == side * side * replicates
    assert sum(int(length) for data in paths for length in re.findall(r"h(\d+)", data)) == found.width * found.height


def test_runs_are_one_path_per_status() -> None:
    """Cells next to each other are one run. A failed task of a hundred has a part of its cell, on the left."""
    tasks = [({"x": x, "y": y}, "failed" if x == 1 else "succeeded") for x in range(4) for y in range(2)]
    found = lay_out(_sets(tasks), Axes("x", "y"))
    assert dict(found.paths) == {"succeeded": "M0 0h1m1 0h2M0 1h1m1 0h2", "failed": "M1 0h1M1 1h1"}
    found = lay_out(
        _sets(({"a": 1, "b": 2}, "died" if one == 7 else "succeeded") for one in range(100)), Axes("a", "b")
    )
    assert found.counts == {"failed": 1, "succeeded": 99}
    assert dict(found.paths) == {"failed": "M0 0h1", "succeeded": "M1 0h23"}


def test_numbers_grow_upwards_and_categories_downwards() -> None:
    """The highest number is in the first row; the first category is. With one parameter, there is one row."""
    up = lay_out(_sets([({"a": 1, "b": 1}, "failed"), ({"a": 1, "b": 2}, "succeeded")]), Axes("a", "b"))
    assert up.cells[0, 1][0] == 1
    down = lay_out(_sets([({"a": 1, "b": "x"}, "failed"), ({"a": 1, "b": "y"}, "succeeded")]), Axes("a", "b"))
    assert down.cells[0, 0][0] == 1
    one = lay_out(_sets(({"a": number}, "succeeded") for number in range(5) for _ in range(10)), Axes("a", None))
    assert (one.width, one.columns, one.height) == (50, 5, 1)


def test_failures_choose_the_axes_and_then_the_number_of_values() -> None:
    """A parameter that separates failures is always shown; a user's choice comes before all."""
    sets = _sets(({"a": one % 2, "b": one, "c": one % 5, "d": one % 3}, "succeeded") for one in range(30))
    varying = ["a", "b", "c", "d"]
    assert choose_axes(varying, sets, []) == Axes("b", "c")
    assert choose_axes(varying, sets, ["d"]) == Axes("b", "d")
    assert choose_axes(varying, sets, ["a", "d"]) == Axes("d", "a")
    assert choose_axes(varying, sets, ["a"], Axes("c", None)) == Axes("c", "a")
    assert choose_axes(varying, sets, [], Axes("c", "c")) == Axes("c", None)
    assert choose_axes(varying[:1], sets, []) == choose_axes(varying[:1], sets, [], Axes(None, "a")) == Axes("a", None)
    assert choose_axes([], sets, []) == Axes(None, None)
    with pytest.raises(UsageError, match="invalid parameter 'z'"):
        choose_axes(varying, sets, [], Axes("z", None))


def test_each_task_is_in_one_cell() -> None:
    """Numbers of the cells and of the outcomes are those of the tasks."""
    chance = random.Random(5)
    outcomes = ["failed", "timeout", "oom", "died", "lost", "succeeded", "cancelled", "missing", "waiting"]
    tasks = [({"x": chance.random(), "y": chance.random()}, chance.choice(outcomes)) for _ in range(3000)]
    found = lay_out(_sets(tasks), Axes("x", "y"))
    assert sum(sum(counts) for counts in found.cells.values()) == 3000
    assert found.counts == Counter("failed" if one in outcomes[:5] else one for _, one in tasks)
