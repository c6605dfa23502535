"""The rules of seeds: those of mops-jobs, those that ModelOps runs, and common random numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.study import Study, param_id
from mopsjobs.studies.study_parser import load_study, parse_study

GOOD: dict[str, Any] = {"model": "m:f", "parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": 3}

X1 = [3407198642, 3088536263, 1235208134]
"""The drawn seeds of `{"x": 1}`; see test_study.py."""


def seeds_of(study: Study) -> list[list[int]]:
    """Return the seeds of the tasks of each parameter set."""
    return [list(study.seeds_of(one)) for one in study.parameter_sets]


# --- as ModelOps runs them -----------------------------------------------------------------------------------------

SETS: list[dict[str, Any]] = [
    {"beta": n / 7, "days": n % 365, "mode": ("slow", "rapide \u00e9")[n % 2], "school": n % 3 == 0}
    for n in range(1000)
]

EXECUTED = {
    0: [618830751, 618830752, 618830753, 618830754, 618830755, 618830756],
    1: [3296609241, 3296609242, 3296609243],
    500: [2852899685, 2852899686, 2852899687, 2852899688, 2852899689, 2852899690],
    999: [3028424306, 3028424307, 3028424308],
}

EXECUTED_SHA256 = "6c4afd6257ed2251a7f8060d681a2e1cb10bfb43f723c2cd37ec06215fa5c001"
"""Of all 1,000 pairs of id and seeds as JSON, of these sets with every hundredth repeated and three replicates.

ModelOps' functions made them, transcribed from its public sources and run apart from this tree: of modelops-contracts
`make_param_id`, `SimulationStudy.to_simjob`, `SimJob.get_task_groups` and `ReplicateSet.tasks`. They were called as by
`run_simulation_job` of modelops."""


def test_a_thousand_sets_have_the_seeds_that_modelops_runs() -> None:
    """Sets with the same parameters are one group, which counts on from the first seed of the first one."""
    study = parse_study(GOOD | {"parameter_sets": [*SETS, *SETS[::100]], "seeds": "modelops"})
    groups: dict[str, list[int]] = {}
    for task in study.tasks():
        groups.setdefault(task.param_id, []).append(task.seed)
    pairs = list(groups.items())
    assert {number: pairs[number][1] for number in EXECUTED} == EXECUTED
    assert hashlib.sha256(json.dumps(pairs).encode()).hexdigest() == EXECUTED_SHA256
    assert not study.duplicate_tasks()


def test_modelops_keeps_the_first_of_the_seeds_that_a_study_names() -> None:
    """Explicit seeds 10 and 52 run as 10 and 11; a set without a seed counts on."""
    sets = [{"params": {"x": 1}, "seed": 10}, {"x": 2}, {"params": {"x": 1}, "seed": 52}, {"x": 1}]
    study = parse_study(GOOD | {"parameter_sets": sets, "seeds": "modelops"})
    (first,), second, (third,), fourth = seeds_of(study)
    assert (first, third, fourth) == (10, 11, [12, 13, 14])
    assert second == [second[0], second[0] + 1, second[0] + 2]
    written = study.to_dict()
    assert [one.get("seed") for one in written["parameter_sets"]] == [10, None, 52, None]
    assert parse_study(written) == study


def test_seeds_of_modelops_count_up_while_a_precision_decides() -> None:
    """A set that comes again has the same tasks, since it is decided once. Named seeds are apart from them."""
    sets = [{"x": 1}, {"params": {"x": 1}, "seed": 52}, {"x": 1}]
    until = {"min": 2, "max": 4, "until": {"y": {"relative": 0.1}}}
    study = parse_study(GOOD | {"parameter_sets": sets, "n_replicates": until, "seeds": "modelops"})
    first, named, again = seeds_of(study)
    assert first == again == [X1[0] + replicate for replicate in range(4)]
    assert named == [X1[0] + 4]
    assert study.duplicate_tasks() == {5: 0, 6: 1, 7: 2, 8: 3}


MARKS: dict[str, dict[str, Any]] = {
    "kind": {"kind": "SimulationStudy"},
    "param_id": {"parameter_sets": [{"x": 2}, {"params": {"x": 1}, "param_id": param_id({"x": 1})}]},
    "model_class": {"metadata": {"model_class": "models.sir:SIR", "n_samples": 2}},
}


@pytest.mark.parametrize("mark", MARKS)
def test_a_study_of_modelops_has_the_seeds_that_modelops_runs(mark: str) -> None:
    """Unless it says otherwise, which its own file then says too."""
    document = GOOD | MARKS[mark]

    def load(document: object) -> Study:
        return load_study(json.dumps(document).encode(), "study.json")

    assert load(document).seeds == "modelops"
    assert load(load(document).to_dict()) == load(document)
    chosen = load(document | {"seeds": "mops-jobs"})
    assert chosen.seeds == "mops-jobs"
    assert load(chosen.to_dict()) == chosen


def test_an_existing_job_keeps_its_seeds() -> None:
    """Its manifest names no rule, whatever metadata its study has, and a file made of it says so."""
    document = GOOD | MARKS["model_class"]
    stored = {
        "version": 1, "job_id": "a", "bundle": "sha256:00", "study": document, "only": None, "parent_job_id": None,
    }  # fmt: skip
    study = Manifest.from_json(json.dumps(stored).encode()).study
    assert seeds_of(study)[0] == X1
    assert study.to_dict()["seeds"] == "mops-jobs"


# --- common random numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("common", None), ([5, 2**64 - 1, 0, 9], [5, 2**64 - 1, 0]), ({"base": 2**32 - 2}, [2**32 - 2, 2**32 - 1, 2**32])],
)
def test_replicates_of_all_sets_have_common_seeds(rule: object, expected: list[int] | None) -> None:
    """A set's own seed wins. More replicates keep the seeds of the first ones."""
    sets = [{"x": 1}, {"x": 2}, {"params": {"x": 2}, "seed": 77}]
    study = parse_study(GOOD | {"parameter_sets": sets, "seeds": rule})
    first, second, own = seeds_of(study)
    assert first == second == (expected or first)
    assert own == [77]
    assert len(set(first)) == 3
    more = parse_study(GOOD | {"seeds": rule, "n_replicates": 4})
    assert seeds_of(more)[0][:3] == first


def test_common_seeds_are_drawn_from_their_number() -> None:
    """By coreutils: the last 8 digits of `printf %s common:0 | b2sum -l 64`, and so on."""
    assert seeds_of(parse_study(GOOD | {"seeds": "common"}))[0] == [0x4379150B, 0xDFB2EE16, 0x53164A04]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"seeds": [1, 2]}, "seeds: expected one for each of 3 replicates, not 2"),
        ({"seeds": {"base": 2**64 - 2}}, "seeds: expected all below 2^64"),
        ({"seeds": "modelops", "parameter_sets": [{"params": {"x": 1}, "seed": 2**64 - 1}, {"x": 1}]}, "2^64"),
    ],
)
def test_seeds_that_a_study_cannot_have_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_study(GOOD | fields)
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("mops-jobs", None),
        ("modelops", "modelops"),
        ([1, 2, 3], "common, 3 seeds listed"),
        ({"base": 7}, "common, from 7"),
    ],
)
def test_the_record_names_the_rule_unless_it_is_that_of_all_earlier_jobs(rule: object, text: str | None) -> None:
    """An entry of the study's metadata with this name is kept apart."""
    study = parse_study(GOOD | {"seeds": rule, "metadata": {"seeds": "mine"}})
    metadata = Manifest(job_id="a", study=study, bundle="sha256:00").record_fields()["metadata"]
    assert metadata.get("seeds") == text
    assert metadata["study_metadata"] == {"seeds": "mine"}
