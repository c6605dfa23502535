"""A study: ids of parameter sets, seeds and tasks are the documented ones; names of tasks in messages."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.studies import seeds
from mopsjobs.studies.field_values import MAX_TASKS
from mopsjobs.studies.seeds import SeedIndex, drawn_seed
from mopsjobs.studies.study import find_varying, param_id, task_name
from mopsjobs.studies.study_parser import parse_study

GOOD = {"model": "m:f", "scenario": "s", "parameter_sets": [{"params": {"x": 1}}]}
IDS = [
    ({}, "02a98351d516148f91f93bb0ce4b4cb6468cb40e04263fb6f257e9ba37365b44"),
    ({"x": 1}, "4560ff738e380536d589079a5e24b30713f9257440dfb2f0134f7350c0985942"),
    ({"x": 1.0}, "3f1b615cf1dab4bfd2505c195f18fe8d70035f80beb5b0056c93844204158684"),
    (
        {"z": [1, True, None], "name": "\u00e9", "beta": 0.3},
        "05249ca5649402772aa1515be8e4eeda11ca898e9013ead4237d76edff058e5f",
    ),
]
"""By coreutils: `printf %s 'contracts:param:v1|{"x":1}' | b2sum -l 256`, names sorted, no spaces, UTF-8."""


X1 = IDS[1][1]


@pytest.mark.parametrize(("params", "expected"), IDS)
def test_a_parameter_id_is_blake2b_of_the_canonical_json(params: dict[str, object], expected: str) -> None:
    assert param_id(params) == expected


@pytest.mark.parametrize(
    ("outputs", "kept"), [(None, ["a.json", "b", "logged.json"]), (["a.json"], ["a.json", "logged.json"])]
)
def test_a_study_keeps_the_outputs_that_it_names_and_what_is_logged(outputs: list[str] | None, kept: list[str]) -> None:
    """If it names none, every valid name is kept."""
    study = parse_study(GOOD | {"outputs": outputs})
    assert [name for name in ("_a", "a.json", "b", "logged.json", "") if study.keeps_output(name)] == kept


def test_the_seeds_of_replicates_are_the_documented_ones() -> None:
    """By coreutils: the last 8 digits of `printf %s "$id:$replicate" | b2sum -l 64`."""
    tasks = list(parse_study(GOOD | {"n_replicates": 3}).tasks())
    assert [task.seed for task in tasks] == [0xCB15B9B2, 0xB81752C7, 0x499FC7C6]
    assert [(task.number, task.param_id, task.params) for task in tasks] == [(n, X1, {"x": 1}) for n in range(3)]


def test_a_set_with_a_seed_gives_one_task_and_others_one_a_replicate() -> None:
    sets = [{"x": 1}, {"params": {"x": 1}, "seed": 0}, {"params": {"x": 2}, "seed": 2**64 - 1}, {"x": 3}]
    study = parse_study(GOOD | {"parameter_sets": sets, "n_replicates": 2})
    tasks = list(study.tasks())
    assert study.tasks_total == len(tasks) == 6
    assert [task.number for task in tasks] == list(range(6))
    assert [*study.some_tasks([1, 2, 5])] == [tasks[1], tasks[2], tasks[5]]
    assert [task.params["x"] for task in tasks] == [1, 1, 1, 2, 3, 3]
    assert [task.seed for task in tasks[2:4]] == [0, 2**64 - 1]


def test_sets_that_repeat_are_tasks_which_share_an_earlier_ones_outputs() -> None:
    """Drawn seeds repeat with their set, named ones with their number; a drawn seed may be one that is named."""
    drawn = 0xCB15B9B2
    sets = [{"x": 1}, {"x": 2}, {"x": 1}, *[{"params": {"x": 1}, "seed": seed} for seed in (4, 5, 4, 4, drawn)]]
    study = parse_study(GOOD | {"parameter_sets": sets, "n_replicates": 2})
    assert study.tasks_total == 11
    assert study.duplicate_tasks() == {4: 0, 5: 1, 8: 6, 9: 6, 10: 0}
    seeds_of_tasks = {task.number: (task.param_id, task.seed) for task in study.tasks()}
    assert all(seeds_of_tasks[again] == seeds_of_tasks[first] for again, first in study.duplicate_tasks().items())
    assert len(set(seeds_of_tasks.values())) == 6


def test_tasks_are_made_one_by_one() -> None:
    study = parse_study(GOOD | {"n_replicates": MAX_TASKS})
    assert next(study.tasks()).seed == drawn_seed("mops-jobs", X1, 0)


@pytest.mark.parametrize("chunk", [1, 3, 500_000])
@given(
    drawn=st.lists(st.integers(0, 5) | st.just(2**32 - 1), max_size=12),
    named=st.lists(st.sampled_from([0, 3, 2**32 - 1, 2**32, 2**64 - 1]), max_size=6),
)
def test_the_index_of_seeds_tells_what_a_dict_would(chunk: int, drawn: list[int], named: list[int]) -> None:
    """Whatever is sorted at once; a seed that was named may be one that was drawn."""
    tasks = [(seed, number) for number, seed in enumerate([*drawn, *named])]
    expected: dict[int, list[int]] = {}
    for seed, number in tasks:
        expected.setdefault(seed, []).append(number)
    with mock.patch.object(seeds, "_CHUNK", chunk):
        index = SeedIndex(tasks)
    for seed in (*range(7), 2**32 - 1, 2**32, 2**64 - 1, 2**70):
        assert index.numbers(seed) == index.numbers_of_text(str(seed)) == expected.get(seed, [])
    assert sorted(index.duplicate_groups()) == sorted(numbers for numbers in expected.values() if len(numbers) > 1)


@pytest.mark.parametrize("text", ["", "00", "01", "+1", "1_0", "-0", " 1", "\u0661", "1" * 21])
def test_what_is_no_seed_in_its_one_form_is_that_of_no_task(text: str) -> None:
    """Else two keys would be outputs of one task."""
    assert SeedIndex((seed, seed) for seed in range(20)).numbers_of_text(text) == []


CASES: list[tuple[list[dict[str, Any]], dict[str, Any], int, str]] = [
    ([{"mode": "exit", "n": 1}, {"mode": "stay", "n": 1}], {}, 0, "task 0 (mode=exit)"),
    ([{"mode": "exit"}, {"mode": "stay"}], {"n_replicates": 2}, 1, "task 1 (mode=exit, seed "),
    ([{"n": 1}], {"n_replicates": 2}, 0, "task 0 (seed "),
    ([{"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 2, "b": 2, "c": 2, "d": 2}], {}, 1, "task 1 (a=2, b=2, c=2)"),
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
