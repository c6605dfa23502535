"""Where the tasks of a job are on its map, and how much that takes."""

from __future__ import annotations

import gzip
import json
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache.queries.task_filters import parse_condition
from mopsjobs.errors import UsageError
from mopsjobs.studies.conditions import split_condition
from mopsjobs.web.drawings.heat_map import Axes, HeatMap, choose_axes, lay_out, sets_of


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
    """Cells next to each other are one run, and a path continues from its last run. A region has a path of its own."""
    known = [split_condition("beta == 0.25") or []]
    tasks = _tasks(4, 1, lambda across, up, _chance: "failed" if across == 1 else "succeeded")
    found = lay_out(sets_of(tasks), Axes("beta", "gamma"), known)
    assert dict(found.paths) == {"succeeded": "M0 0h1m1 0h2M0 1h1m1 0h2M0 2h1m1 0h2M0 3h1m1 0h2"}
    [region] = found.regions
    assert region.path == "M1 0h1M1 1h1M1 2h1M1 3h1"
    assert (region.failed, region.tasks, region.first, region.size) == (4, 4, (1, 0), (1, 4))


def test_a_failed_replicate_is_seen() -> None:
    """One of a hundred tasks has a part of the cell, on its left."""
    ends = ("died" if one == 7 else "succeeded" for one in range(100))
    found = lay_out(sets_of(({"a": 1, "b": 2}, end) for end in ends), Axes("a", "b"))
    assert found.counts == {"failed": 1, "succeeded": 99}
    assert dict(found.paths) == {"failed": "M0 0h1", "succeeded": "M1 0h23"}


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


AXES = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["a", "b", "mode", None])).filter(
    lambda one: one[0] != one[1]
)

VALUES = {
    "a": st.integers(-3, 3) | st.sampled_from([0.1, 0.30000000000000004, 1e-7, 1234567.5]),
    "b": st.integers(0, 200),
    "mode": st.sampled_from(["exit", "walk", "x"]),
}


@given(
    sets=st.lists(st.tuples(st.fixed_dictionaries(VALUES), st.integers(0, 2)), min_size=1, max_size=150),
    axes=AXES,
    known=st.lists(st.sampled_from(["a > 0.25", "b <= 20 and a > 0", 'mode == "exit"', 'b > 3 and mode != "x"'])),
)
@settings(max_examples=150, deadline=None)
def test_the_counts_of_a_region_are_those_of_its_sentence(
    sets: list[tuple[dict[str, Any], int]], axes: tuple[str, str | None], known: list[str]
) -> None:
    """The sentence is read, and the tasks that it is about are counted. Its link selects the same ones."""
    tasks = [(params, "failed" if one < failed else "succeeded") for params, failed in sets for one in range(2)]
    found = lay_out(sets_of(tasks), Axes(*axes), [split_condition(text) or [] for text in known])
    covered = set()
    for region in found.regions:
        for holds in (_sentence(region.ranges), lambda params, region=region: _meets(params, region.conditions)):
            inside = [number for number, (params, _) in enumerate(tasks) if holds(params)]
            assert len(inside) == region.tasks
            assert sum(tasks[number][1] == "failed" for number in inside) == region.failed
            covered.update(inside)
    failed = {number for number, (_, outcome) in enumerate(tasks) if outcome == "failed"}
    assert found.elsewhere == len(failed - covered)


def _meets(params: dict[str, Any], conditions: list[str]) -> bool:
    return all(parse_condition(one).holds(params) for one in conditions)


def _sentence(ranges: list[tuple[str, str]]) -> Callable[[dict[str, Any]], bool]:
    """Read the words of a region, such as `a > 0.25`."""
    signs = {">": operator.gt, "<=": operator.le, "==": operator.eq, "!=": operator.ne}
    read = [(name, *text.split(" ", 1)) for name, text in ranges]
    return lambda params: all(signs[sign](params[name], json.loads(value)) for name, sign, value in read)


def test_what_separates_failures_is_their_region() -> None:
    """The map and the list of failures say the same of one cluster; without that parameter, the cells tell."""
    tasks = list(_tasks(20, 1, lambda across, up, _: "failed" if up <= 1 or (across, up) == (9, 2) else "succeeded"))
    known = [split_condition("gamma <= 0.095") or []]
    found = lay_out(sets_of(tasks), Axes("beta", "gamma"), known)
    [region] = found.regions
    assert (region.failed, region.tasks, region.ranges) == (40, 40, [("gamma", "<= 0.095")])
    assert found.elsewhere == 1
    assert lay_out(sets_of(tasks), Axes("beta", None), known).regions == []


def test_failures_choose_the_axes_and_then_the_number_of_values() -> None:
    """A parameter that separates failures is always shown; a user's choice comes before all."""
    sets = sets_of(({"a": one % 2, "b": one, "c": one % 5, "d": one % 3}, "succeeded") for one in range(30))
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
    found = lay_out(sets_of(tasks), Axes("x", "y"))
    assert sum(sum(counts) for counts in found.cells.values()) == 3000
    expected = Counter("failed" if one in outcomes[:5] else one for _, one in tasks)
    assert found.counts == expected
