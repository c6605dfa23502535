"""The manifest of a job, what its record gets of the study, and its reused tasks."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mopsjobs.bundles.git_state import GitState
from mopsjobs.engines.base import recorded_launch
from mopsjobs.errors import RecordError
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import MAX_REUSED, Manifest, Origin, Reuse
from mopsjobs.studies.outputs import find_complete_tasks, missing_tasks, output_key
from mopsjobs.studies.results import outputs_of, sorted_outputs_of
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.utils.ranges import is_in_ranges, number_ranges
from support.runs import sets_of, study

BUNDLE = f"sha256:{'0' * 64}"

OWN = {
    "model": "model:run", "scenario": "base", "bundle": "sha256:00", "sampling_method": "manual",
    "n_parameter_sets": 1, "n_replicates": 1,
}  # fmt: skip


def record_metadata(**metadata: object) -> dict[str, object]:
    """Return the metadata of the record of a job whose study has these."""
    study = {"model": "model:run", "scenario": "base", "parameter_sets": [{"x": 1}], "metadata": metadata}
    found = Manifest(job_id="a", study=parse_study(study, "here"), bundle="sha256:00").record_fields()["metadata"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [*OWN, "suspect", "local_python", "k8s_context", "k8s_image", "dask_scheduler"])
def test_metadata_of_a_study_replace_none_of_ours(name: str) -> None:
    """mops-jobs acts on these: a study would choose an interpreter, or mark its job as suspect."""
    found = record_metadata(**{name: {"reason": "mine"}}, author="ada")
    assert found == {**OWN, "author": "ada", "study_metadata": {name: {"reason": "mine"}}}


def test_no_metadata_of_a_study_are_options_of_a_launch() -> None:
    """A later launch repeats the options that the record has."""
    for engine in ("local", "kubernetes", "dask"):
        names = [f"{prefix}{name}" for prefix in ("local_", "k8s_", "dask_") for name in ("python", "image", "workers")]
        assert recorded_launch(record_metadata(**dict.fromkeys(names, "x")), engine) == {}


ORIGIN = Origin("0.2.0", GitState("ab" * 20, is_dirty=True))


@pytest.mark.parametrize("origin", [None, ORIGIN, Origin("0.2.0", None), Origin(None, GitState("c" * 64, None))])
def test_the_origin_of_a_job_is_in_its_manifest(origin: Origin | None) -> None:
    """An earlier version reads such a manifest too, since it ignores the field."""
    study = parse_study({"model": "model:run", "scenario": "base", "parameter_sets": [{"x": 1}]}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00", origin=origin)
    assert Manifest.from_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("text", None),
        ([], None),
        ({}, Origin(None, None)),
        ({"mops_jobs": 1, "git_commit": "; rm", "git_dirty": "no"}, Origin(None, None)),
        ({"git_commit": "ab" * 20, "git_dirty": 1}, Origin(None, GitState("ab" * 20, None))),
        ({"mops_jobs": "9" * 1000, "later": {}}, Origin("9" * 100, None)),
    ],
)
def test_an_invalid_origin_makes_no_manifest_unreadable(value: object, read: Origin | None) -> None:
    assert Origin.from_json(value) == read


def test_tasks_that_are_left_to_a_later_resume_are_in_the_manifest() -> None:
    """Only if there are any: an earlier version ignores the field."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": x} for x in range(9)]}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00", only=(3, 5), deferred=(2, 7))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert b"deferred" not in dataclasses.replace(manifest, deferred=()).to_json()
    with pytest.raises(RecordError, match="not a manifest of a job"):
        Manifest.from_json(manifest.to_json().replace(b'"deferred":[2,7]', b'"deferred":[7,2]'))


def test_a_manifest_of_a_few_bytes_reuses_no_millions_of_tasks() -> None:
    """Each reused task is a row in the caches of readers of the job, so their number is limited."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": 1}], "n_replicates": 2 * MAX_REUSED}, "here")
    most = Manifest(job_id="a", study=study, bundle="b", reused=(Reuse("c", "b", ((0, MAX_REUSED),)),))
    assert Manifest.from_json(most.to_json()).reused == most.reused
    more = dataclasses.replace(most, reused=(*most.reused, Reuse("d", "b", ((MAX_REUSED, MAX_REUSED + 1),))))
    with pytest.raises(RecordError, match="expected at most 1,000,000 reused tasks"):
        Manifest.from_json(more.to_json())


def test_a_reduce_function_is_beside_the_study() -> None:
    """Version 0.1.0 refuses a study with a field that it does not know, and ignores one of the manifest."""
    study = parse_study({"model": "model:run", "parameter_sets": [{"x": 1}], "reduce": "model:summarise"}, "here")
    manifest = Manifest(job_id="a", study=study, bundle="sha256:00")
    stored = json.loads(manifest.to_json())
    assert stored["reduce"] == "model:summarise"
    assert "reduce" not in stored["study"]
    assert Manifest.from_json(manifest.to_json()) == manifest
    with pytest.raises(RecordError, match=r"reduce: expected package\.module:function, not 3"):
        Manifest.from_json(json.dumps(stored | {"reduce": 3}).encode())


def manifest(*reused: Reuse) -> Manifest:
    """Return the manifest of a job of ten tasks."""
    return Manifest(job_id="more", study=study(sets_of(10)), bundle=BUNDLE, reused=reused)


def decoded(**reused: Any) -> Manifest:
    """Decode a manifest with one source of reused tasks."""
    document = json.loads(manifest().to_json())
    return Manifest.from_json(json.dumps({**document, "reused": [reused]}).encode())


def test_numbers_become_ranges_that_have_these_numbers_alone() -> None:
    numbers = [0, 1, 2, 5, 8, 9]
    ranges = list(number_ranges(numbers))
    assert ranges == [(0, 3), (5, 6), (8, 10)]
    assert [number for number in range(-1, 12) if is_in_ranges(number, ranges)] == numbers
    assert list(number_ranges([])) == []
    assert not is_in_ranges(0, [])


def test_reused_tasks_survive_their_manifest() -> None:
    one, other = Reuse.of("job", BUNDLE, [0, 1, 7]), Reuse.of("old", BUNDLE, [9])
    found = Manifest.from_json(manifest(one, other).to_json())
    assert found.reused == (one, other)
    assert [found.source_of(number) for number in (1, 2, 9)] == [one, None, other]
    assert (one.task_count, list(one.numbers())) == (3, [0, 1, 7])


def test_the_record_counts_reused_tasks_whatever_the_study_says() -> None:
    """An entry of the study's own metadata with such a name goes apart."""
    own = study(sets_of(3), metadata={"n_reused_tasks": 99, "reused_from": ["me"]})
    reused = (Reuse.of("job", BUNDLE, [0, 2]),)
    job = Manifest(job_id="more", study=own, bundle=BUNDLE, reused=reused)
    metadata = job.record_fields()["metadata"]
    assert (metadata["n_reused_tasks"], metadata["reused_from"]) == (2, ["job"])
    assert metadata["study_metadata"] == {"n_reused_tasks": 99, "reused_from": ["me"]}
    others = Manifest(job_id="more", study=own, bundle=BUNDLE).record_fields()["metadata"]
    assert "n_reused_tasks" not in others


@pytest.mark.parametrize(
    "ranges",
    [[[0, 11]], [[-1, 2]], [[3, 3]], [[0, 5], [3, 7]], [[0, 1.5]], [[0]], [7], "x"],
    ids=str,
)
def test_ranges_that_are_not_of_the_study_are_refused(ranges: object) -> None:
    with pytest.raises(RecordError, match="not a manifest"):
        decoded(job_id="job", bundle=BUNDLE, tasks=ranges)


@pytest.mark.parametrize(
    "reused",
    [
        "job",
        [[]],
        [{"job_id": "../x", "bundle": BUNDLE, "tasks": [[0, 1]]}],
        [{"job_id": "job", "bundle": None, "tasks": [[0, 1]]}],
        [{"job_id": "job", "bundle": BUNDLE, "tasks": []}] * 101,
    ],
    ids=len,
)
def test_sources_that_are_not_a_list_of_up_to_100_are_refused(reused: object) -> None:
    """Each source costs a listing wherever outputs are looked at."""
    document = {**json.loads(manifest().to_json()), "reused": reused}
    with pytest.raises(RecordError):
        Manifest.from_json(json.dumps(document).encode())


# --- their outputs --------------------------------------------------------------------------------------------------


@pytest.fixture
def store() -> InMemoryVersionedStore:
    """Return a store in which `job` has the outputs of tasks 0 to 3, and `more` those of tasks 3 and 4."""
    made = InMemoryVersionedStore()
    for job_id, numbers in (("job", range(4)), ("more", (3, 4))):
        for task in manifest().study.tasks():
            if task.number in numbers:
                made.create_if_absent(output_key(job_id, task, "result.json"), job_id.encode())
    return made


def test_a_reused_task_is_complete_while_its_source_is(store: InMemoryVersionedStore) -> None:
    """Task 2 has outputs that are not named as reused; task 5 is, and its source has none."""
    job = manifest(Reuse.of("job", BUNDLE, [0, 1, 3, 5]))
    found = find_complete_tasks(store, job)
    assert [number for number, flag in enumerate(found.complete) if flag] == [0, 1, 3, 4]
    assert [number for number, flag in enumerate(found.reused) if flag] == [0, 1]
    assert missing_tasks(job, found) == (2, 5, 6, 7, 8, 9)
    assert found.unexpected == 0


@pytest.mark.parametrize("listing", [outputs_of, sorted_outputs_of])
def test_own_outputs_come_before_those_of_a_source(store: InMemoryVersionedStore, listing: Any) -> None:
    """The job did task 3 itself. Its source has the outputs all the same."""
    job = manifest(Reuse.of("job", BUNDLE, [0, 1, 3]))
    found = {output.task.number: output.entry.value for output in listing(store, "more", [job])}
    assert found == {0: b"job", 1: b"job", 3: b"more", 4: b"more"}
    assert len(list(listing(store, "more", [job]))) == 4


def test_a_task_of_another_size_than_the_ledger_says_is_missing(store: InMemoryVersionedStore) -> None:
    task = next(iter(manifest().study.tasks()))
    key = (task.param_id, str(task.seed))
    job = Manifest(job_id="job", study=manifest().study, bundle=BUNDLE)
    assert find_complete_tasks(store, job, {job.job_id: {key: 3}}).count == 4
    assert find_complete_tasks(store, job, {job.job_id: {key: 4}}).count == 3
