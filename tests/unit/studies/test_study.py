"""A study: ids of parameter sets, rules of seeds, tasks and their names; and each field on every surface of it."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.api.study import Study as ApiStudy
from mopsjobs.app.origins.compare_jobs import compare_studies
from mopsjobs.app.origins.provenance import study_json
from mopsjobs.errors import UsageError
from mopsjobs.studies import seeds
from mopsjobs.studies.field_values import MAX_TASKS
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.precision import Precision, Target
from mopsjobs.studies.seeds import SeedIndex, drawn_seed
from mopsjobs.studies.study import FIELDS, Study, find_varying, param_id, task_name
from mopsjobs.studies.study_parser import StudyError, load_study, parse_study
from mopsjobs.submission.reuse import study_difference

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


DOCS = Path(__file__).parents[3] / "docs"

LEAST: dict[str, Any] = {"model": "m:f", "parameter_sets": [{"x": 1}]}

VALUES: tuple[Any, ...] = (True, False, 2, 3, "m:f", "m:g", "modelops", "common", ["a"], ["b"], [1, 2], {"a": 1})
"""Some of these are valid values of any field."""

IN_PYTHON = {"n_replicates": "replicates"}
"""Arguments that have another name than their field."""

each_field = pytest.mark.parametrize("name", FIELDS)


def _studies(name: str) -> list[Study]:
    """Return studies that differ in one field, the first with its default if it has one."""
    made = [parse_study(LEAST)]
    for value in VALUES:
        try:
            made.append(parse_study(LEAST | {name: value}))
        except StudyError:
            continue
    different = [one for place, one in enumerate(made) if one not in made[:place]]
    assert len(different) > 1, f"add a valid value of {name} to VALUES"
    return different


@each_field
def test_a_field_is_read_and_written(name: str) -> None:
    """Also in a manifest. A field that only mops-jobs has is not written if it has its default."""
    for study in _studies(name):
        assert parse_study(study.to_dict()) == study
        manifest = Manifest(job_id="job", study=study, bundle="sha256:0")
        assert Manifest.from_json(manifest.to_json()) == manifest
    assert (name in parse_study(LEAST).to_dict()) is not FIELDS[name].is_own


@each_field
def test_a_field_is_compared(name: str) -> None:
    first, second, *_ = _studies(name)
    assert list(compare_studies(first, second).fields) == [name]


@each_field
def test_a_field_of_mops_jobs_is_in_the_provenance_and_its_reference(name: str) -> None:
    if FIELDS[name].is_own:
        first, second = (study_json(Manifest(job_id="job", study=one, bundle="")) for one in _studies(name)[:2])
        assert first[name] != second[name]
        [row] = [line for line in (DOCS / "reference/json.md").read_text().splitlines() if "its canonical JSON" in line]
        assert f"`{name}`" in row


@each_field
def test_a_worker_is_told_what_it_needs(name: str) -> None:
    """That is what each pool, and the process on a worker of Dask, passes on."""
    assert (name in parse_study(LEAST).setup) is FIELDS[name].is_told


@each_field
def test_a_field_that_bars_reuse_is_named(name: str) -> None:
    """Model and scenario are named together."""
    pairs = list(itertools.permutations(_studies(name), 2))
    reasons = {study_difference(*pair) for pair in pairs} - {None}
    if FIELDS[name].bars_reuse is not None:
        assert reasons == {f"`{name}` of its study differs"}
    elif name not in ("model", "scenario"):
        assert not reasons


@each_field
def test_a_field_is_an_argument_in_python_and_in_the_reference(name: str) -> None:
    """Its default there is that of the file."""
    argument = inspect.signature(ApiStudy).parameters[IN_PYTHON.get(name, name)]
    if argument.default is not inspect.Parameter.empty:
        assert (argument.default or None) == (FIELDS[name].default or None)
    assert f"\n    {argument.name}: " in str(inspect.getdoc(ApiStudy.__init__))
    assert f"\n| `{name}` |" in (DOCS / "reference/studies.md").read_text()


PRECISION = {"min": 3, "max": 9, "until": {"peak": {"relative": 0.05}}}


def test_a_precision_is_read_and_written() -> None:
    study = parse_study({"model": "m:f", "parameter_sets": [{"a": 1}], "n_replicates": PRECISION})
    assert study.precision == Precision(3, 9, (Target("peak", relative=0.05),))
    assert (study.tasks_total, study.max_replicates) == (9, 9)
    assert parse_study(study.to_dict()) == study
    until = {"peak": {"quantile": 0.9, "confidence": 0.9, "absolute": 2.0}}
    asked = {"min": 3, "max": 70, "until": until}
    study = parse_study({"model": "m:f", "parameter_sets": [{"a": 1}], "n_replicates": asked})
    assert study.precision.until == (Target("peak", 0.9, None, 2.0, 0.9),)
    assert study.to_dict()["n_replicates"]["until"] == until


THREE: dict[str, Any] = {"model": "m:f", "parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": 3}

X1_SEEDS = [3407198642, 3088536263, 1235208134]
"""The drawn seeds of `{"x": 1}`."""


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
    study = parse_study(THREE | {"parameter_sets": [*SETS, *SETS[::100]], "seeds": "modelops"})
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
    study = parse_study(THREE | {"parameter_sets": sets, "seeds": "modelops"})
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
    study = parse_study(THREE | {"parameter_sets": sets, "n_replicates": until, "seeds": "modelops"})
    first, named, again = seeds_of(study)
    assert first == again == [X1_SEEDS[0] + replicate for replicate in range(4)]
    assert named == [X1_SEEDS[0] + 4]
    assert study.duplicate_tasks() == {5: 0, 6: 1, 7: 2, 8: 3}


MARKS: dict[str, dict[str, Any]] = {
    "kind": {"kind": "SimulationStudy"},
    "param_id": {"parameter_sets": [{"x": 2}, {"params": {"x": 1}, "param_id": param_id({"x": 1})}]},
    "model_class": {"metadata": {"model_class": "models.sir:SIR", "n_samples": 2}},
}


@pytest.mark.parametrize("mark", MARKS)
def test_a_study_of_modelops_has_the_seeds_that_modelops_runs(mark: str) -> None:
    """Unless it says otherwise, which its own file then says too."""
    document = THREE | MARKS[mark]

    def load(document: object) -> Study:
        return load_study(json.dumps(document).encode(), "study.json")

    assert load(document).seeds == "modelops"
    assert load(load(document).to_dict()) == load(document)
    chosen = load(document | {"seeds": "mops-jobs"})
    assert chosen.seeds == "mops-jobs"
    assert load(chosen.to_dict()) == chosen


def test_an_existing_job_keeps_its_seeds() -> None:
    """Its manifest names no rule, whatever metadata its study has, and a file made of it says so."""
    document = THREE | MARKS["model_class"]
    stored = {
        "version": 1, "job_id": "a", "bundle": "sha256:00", "study": document, "only": None, "parent_job_id": None,
    }  # fmt: skip
    study = Manifest.from_json(json.dumps(stored).encode()).study
    assert seeds_of(study)[0] == X1_SEEDS
    assert study.to_dict()["seeds"] == "mops-jobs"


# --- common random numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("common", None), ([5, 2**64 - 1, 0, 9], [5, 2**64 - 1, 0]), ({"base": 2**32 - 2}, [2**32 - 2, 2**32 - 1, 2**32])],
)
def test_replicates_of_all_sets_have_common_seeds(rule: object, expected: list[int] | None) -> None:
    """A set's own seed wins. More replicates keep the seeds of the first ones."""
    sets = [{"x": 1}, {"x": 2}, {"params": {"x": 2}, "seed": 77}]
    study = parse_study(THREE | {"parameter_sets": sets, "seeds": rule})
    first, second, own = seeds_of(study)
    assert first == second == (expected or first)
    assert own == [77]
    assert len(set(first)) == 3
    more = parse_study(THREE | {"seeds": rule, "n_replicates": 4})
    assert seeds_of(more)[0][:3] == first


def test_common_seeds_are_drawn_from_their_number() -> None:
    """By coreutils: the last 8 digits of `printf %s common:0 | b2sum -l 64`, and so on."""
    assert seeds_of(parse_study(THREE | {"seeds": "common"}))[0] == [0x4379150B, 0xDFB2EE16, 0x53164A04]


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
        parse_study(THREE | fields)
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
    study = parse_study(THREE | {"seeds": rule, "metadata": {"seeds": "mine"}})
    metadata = Manifest(job_id="a", study=study, bundle="sha256:00").record_fields()["metadata"]
    assert metadata.get("seeds") == text
    assert metadata["study_metadata"] == {"seeds": "mine"}
