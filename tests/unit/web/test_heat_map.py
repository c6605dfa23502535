"""Where the tasks of a job are on its map, and how much that takes."""

from __future__ import annotations

import gzip
import random
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.web.heat_map import Axes, HeatMap, choose_axes, lay_out, sets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _tasks(
    side: int, replicates: int, outcome: Callable[[int, int, random.Random], str]
) -> Iterator[tuple[dict[str, float], str]]:
    chance = random.Random(side)
    for across in range(side):
        for up in range(side):
            params = {"beta": across / side, "gamma": up / side}
            for _ in range(replicates):
                yield params, outcome(across, up, chance)


def _map(side: int, replicates: int, outcome: Callable[[int, int, random.Random], str]) -> HeatMap:
    return lay_out(sets_of(_tasks(side, replicates, outcome)), Axes("beta", "gamma"))


def _area(data: str) -> int:
    """Return how many units a path covers."""
    return sum(int(length) for length in re.findall(r"h(\d+)", data))


@pytest.mark.parametrize("replicates", [1, 4, 100])
@pytest.mark.parametrize(
    "outcome",
    [
        lambda across, up, chance: "failed" if across > up else "succeeded",
        lambda across, up, chance: "oom" if chance.random() < 0.1 else "succeeded",
        lambda across, up, chance: chance.choice(["failed", "succeeded"]),
        lambda across, up, chance: chance.choice(["failed", "succeeded", "cancelled", "missing", "waiting"]),
    ],
    ids=["edge", "some", "noise", "all"],
)
def test_ten_thousand_tasks_take_at_most_10_kb(
    replicates: int, outcome: Callable[[int, int, random.Random], str]
) -> None:
    """Compressed, even if they end at random: as many tasks in paths as there are."""
    side = round((10_000 / replicates) ** 0.5)
    found = _map(side, replicates, outcome)
    paths = [data for _, data in found.paths] + [region.path for region in found.regions]
    assert len(gzip.compress("".join(paths).encode())) < 10_000
    assert sum(found.counts.values()) == side * side * replicates
    assert sum(map(_area, paths)) == found.width * found.height


def test_runs_are_one_path_per_status() -> None:
    """Cells next to each other are one run, and a path continues from its last run."""
    found = _map(4, 1, lambda across, up, _chance: "failed" if across == 1 else "succeeded")
    assert dict(found.paths) == {"succeeded": "M0 0h1m1 0h2M0 1h1m1 0h2M0 2h1m1 0h2M0 3h1m1 0h2"}
    [region] = found.regions
    assert region.path == "M1 0h1M1 1h1M1 2h1M1 3h1"
    assert region.ranges == [("beta", "0.25"), ("gamma", "0 to 0.75")]
    assert (region.failed, region.tasks, region.first, region.size) == (4, 4, (1, 0), (1, 4))


def test_a_failed_replicate_is_seen() -> None:
    """One of a hundred tasks has a part of the cell, on its left."""
    found = lay_out(
        sets_of(({"a": 1, "b": 2}, "died" if one == 7 else "succeeded") for one in range(100)), Axes("a", "b")
    )
    assert found.counts == {"failed": 1, "succeeded": 99}
    assert [region.path for region in found.regions] == ["M0 0h1"]
    assert dict(found.paths) == {"succeeded": "M1 0h23"}


def test_numbers_grow_upwards_and_categories_downwards() -> None:
    """The highest number is in the first row; the first category is."""
    up = lay_out(sets_of([({"a": 1, "b": 1}, "failed"), ({"a": 1, "b": 2}, "succeeded")]), Axes("a", "b"))
    assert up.cells[0, 1][0] == 1
    down = lay_out(sets_of([({"a": 1, "b": "x"}, "failed"), ({"a": 1, "b": "y"}, "succeeded")]), Axes("a", "b"))
    assert down.cells[0, 0][0] == 1


def test_one_parameter_has_replicates_as_rows() -> None:
    """A few; many are shares of one row."""
    params = [{"a": number} for number in range(5)]
    few = lay_out(sets_of((one, "succeeded") for one in params for _ in range(10)), Axes("a", None))
    assert (few.width, few.height) == (5, 10)
    many = lay_out(sets_of((one, "succeeded") for one in params for _ in range(100)), Axes("a", None))
    assert (many.columns, many.height) == (5, 1)


def test_without_parameters_tasks_follow_each_other() -> None:
    """In rows, by their numbers, and nothing of it is a region."""
    params: dict[str, object] = {}
    found = lay_out(sets_of((params, "failed" if one == 3 else "succeeded") for one in range(100)), Axes())
    assert (found.width, found.height, found.regions) == (20, 5, [])
    assert found.cells[3, 0][0] == 1


def test_categories_have_no_neighbours() -> None:
    """A region does not go on from one category to the next, since nothing lies between them."""
    tasks = (({"a": number, "mode": mode}, "failed") for mode in "xy" for number in range(3))
    found = lay_out(sets_of(tasks), Axes("a", "mode"))
    assert [(region.failed, region.ranges) for region in found.regions] == [
        (3, [("a", "0 to 2"), ("mode", "x")]),
        (3, [("a", "0 to 2"), ("mode", "y")]),
    ]


def test_failures_choose_the_axes_and_then_the_number_of_values() -> None:
    """A parameter that separates failures is always shown; a user's choice comes before all."""
    sets = sets_of(({"a": one % 2, "b": one, "c": one % 5, "d": one % 3}, "succeeded") for one in range(30))
    varying = ["a", "b", "c", "d"]
    assert choose_axes(varying, sets, []) == Axes("b", "c")
    assert choose_axes(varying, sets, ["d"]) == Axes("b", "d")
    assert choose_axes(varying, sets, ["a", "d"]) == Axes("d", "a")
    assert choose_axes(varying, sets, ["a"], Axes("c", None)) == Axes("c", "a")
    assert choose_axes(varying, sets, [], Axes("c", "c")) == Axes("c", None)
    assert choose_axes(varying[:1], sets, []) == Axes("a", None)
    assert choose_axes([], sets, []) == Axes(None, None)
    with pytest.raises(UsageError, match="invalid parameter 'z'"):
        choose_axes(varying, sets, [], Axes("z", None))


def test_each_task_is_in_one_cell() -> None:
    """Numbers of the cells and of the outcomes are those of the tasks."""
    chance = random.Random(5)
    outcomes = ["failed", "timeout", "oom", "died", "lost", "succeeded", "cancelled", "missing", "waiting"]
    tasks = [({"x": chance.random(), "y": chance.random()}, chance.choice(outcomes)) for _ in range(3000)]
    found = lay_out(sets_of(tasks), Axes("x", "y"))
    assert sum(sum(counts) for counts in found.cells.values()) == 3000
    expected = Counter("failed" if one in outcomes[:5] else one for _, one in tasks)
    assert found.counts == expected
