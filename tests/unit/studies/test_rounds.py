"""Rounds of a growing job: their form, what readers make of them, and the numbers of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.journal import Told, ToldRound, read_journal, told_key
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.rounds import (
    END,
    GrowingTasks,
    as_sets,
    encode_round,
    grown,
    read_round,
    round_key,
    with_replicates,
)
from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import StudyError, parse_study
from support.calibrations import spec


def study(**fields: object) -> Study:
    return parse_study({"model": "m:f", "parameter_sets": [], **fields}, may_grow=True)


def stored(*rounds: bytes, **fields: object) -> InMemoryVersionedStore:
    """Return a store with a growing job and some rounds."""
    store = InMemoryVersionedStore()
    manifest = Manifest(job_id="job", study=study(**fields), bundle="sha256:0", grows=60.0)
    store.create_if_absent(manifest_key("job"), manifest.to_json())
    for number, value in enumerate(rounds, 1):
        store.create_if_absent(round_key("job", number), value)
    return store


def test_a_manifest_has_the_sets_of_all_rounds_so_far() -> None:
    """In their order. The end mark says that none follows. What a sampler was told is left out."""
    first, second = (encode_round(as_sets(sets)) for sets in ([{"x": 1}], [{"x": 2}, {"x": 1}]))
    store = stored(first, second)
    store.create_if_absent("rounds/job/000001.told.json", b"{}")
    manifest = load_manifest(store, "job")
    assert [one.params["x"] for one in manifest.study.parameter_sets] == [1, 2, 1]
    assert (manifest.rounds, manifest.may_grow, manifest.tasks_total) == (2, True, 3)
    assert manifest.duplicate_tasks() == {2: 0}
    store.create_if_absent(round_key("job", 3), END)
    assert not load_manifest(store, "job").may_grow
    assert load_manifest(stored(), "job").tasks_total == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"[]", "not a round"),
        (b"{", "not JSON"),
        (b'{"version": 2, "sets": []}', "unknown version"),
        (b'{"version": 1, "sets": [7]}', "expected an object of parameters"),
    ],
)
def test_an_invalid_round_is_named_by_its_key(value: bytes, said: str) -> None:
    """Other programs may have written it."""
    with pytest.raises(RecordError, match=said) as raised:
        load_manifest(stored(value), "job")
    assert raised.value.key == "rounds/job/000001.json"


def test_a_missing_round_is_an_error() -> None:
    """Without it, later tasks would get its numbers."""
    store = stored()
    store.create_if_absent(round_key("job", 2), encode_round(as_sets([{"x": 1}])))
    with pytest.raises(RecordError, match="round 1 is missing"):
        load_manifest(store, "job")
    assert read_round(store, "job", 1) is None


@pytest.mark.parametrize("rule", ["mops-jobs", "modelops", "common", [5, 6, 7], {"base": 9}])
def test_replicates_have_the_seeds_of_a_study_with_as_many(rule: object) -> None:
    """Whatever the rule of the seeds, and also read back from a round."""
    usual = parse_study({"model": "m:f", "parameter_sets": [{"x": 1}, {"x": 2}], "n_replicates": 3, "seeds": rule})
    growing = study(seeds=rule)
    sets = with_replicates(growing, as_sets([{"x": 1}, {"x": 2}]), 3)
    assert [task.seed for task in grown(growing, sets).tasks()] == [task.seed for task in usual.tasks()]
    read = read_round(stored(encode_round(sets)), "job", 1)
    assert read is not None
    assert [one.seed for one in read.sets[0]] == [one.seed for one in sets]


def test_more_replicates_than_listed_seeds_are_refused() -> None:
    """A set that names its seed has one task."""
    growing = study(seeds=[5, 6])
    with pytest.raises(UsageError, match="at most 2"):
        with_replicates(growing, as_sets([{"x": 1}]), 3)
    assert len(with_replicates(growing, as_sets([{"params": {"x": 1}, "seed": 7}]), 2)) == 1
    with pytest.raises(StudyError, match="expected an object of parameters"):
        as_sets([7])  # type: ignore[list-item]


def test_numbers_of_tasks_only_grow() -> None:
    """A task that repeats an earlier one is mapped to it."""
    tasks = GrowingTasks(study(n_replicates=2))
    assert tasks.grow(as_sets([{"x": 1}])) == range(2)
    assert tasks.grow(as_sets([{"x": 2}, {"x": 1}])) == range(2, 6)
    assert tasks.first_of == [0, 1, 2, 3, 0, 1]
    assert tasks.duplicates == 2
    assert tasks.tasks == [*tasks.study.tasks()]


def test_rounds_have_no_more_tasks_than_a_job_may_have() -> None:
    """Neither readers nor the runner begin to count them one by one."""
    many, several = encode_round(as_sets([{"x": x} for x in range(20)])), 10**6
    with pytest.raises(RecordError, match="20,000,000 tasks: expected at most 10,000,000 in one job"):
        load_manifest(stored(many, n_replicates=several), "job")
    with pytest.raises(RecordError, match="expected at most 10,000,000"):
        GrowingTasks(study(n_replicates=several)).grow(as_sets([{"x": x} for x in range(20)]))


@pytest.mark.parametrize(
    ("params", "results", "key"),
    [
        ({"z": 1}, [], "rounds/job/000001.json"),
        ({"a": 1, "b": 1, "c": 1, "d": "good"}, [], "rounds/job/000001.told.json"),
        ({"a": 1, "b": 1, "c": 1, "d": "good"}, [Told((1.0, 2.0), 1)], "rounds/job/000001.told.json"),
    ],
)
def test_a_journal_of_another_program_is_named_by_its_key(params: Mapping[str, object], results: Any, key: str) -> None:
    """Its sets have the parameters of the calibration, and each round one result for each set."""
    store = stored(encode_round(as_sets([params])))
    store.create_if_absent(told_key("job", 1), ToldRound(tuple(results)).to_json())
    manifest = dataclasses.replace(load_manifest(store, "job"), calibration={"spec": spec().to_dict()})
    with pytest.raises(RecordError) as raised:
        read_journal(store, manifest)
    assert raised.value.key == key
