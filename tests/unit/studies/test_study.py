"""A study: the ids of its parameter sets, its seeds and its tasks are the documented ones."""

from __future__ import annotations

import pytest

from mopsjobs.studies.study import param_id, seed_of
from mopsjobs.studies.study_parser import MAX_TASKS, parse_study

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
    assert next(study.tasks()).seed == seed_of(study.parameter_sets[0], 0)
