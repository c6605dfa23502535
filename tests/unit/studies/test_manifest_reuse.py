"""Reused tasks in a manifest: what is written, what is read back, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopsjobs.errors import RecordError
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, Reuse
from mopsjobs.studies.outputs import find_complete_tasks, missing_tasks, output_key
from mopsjobs.studies.results import outputs_of, sorted_outputs_of
from mopsjobs.utils.ranges import is_in_ranges, number_ranges
from support.runs import sets_of, study

BUNDLE = f"sha256:{'0' * 64}"


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


def test_a_manifest_without_reused_tasks_is_as_before() -> None:
    """Earlier versions read it, and its record has no field more."""
    assert "reused" not in json.loads(manifest().to_json())
    assert not manifest().record_fields()["metadata"].keys() & {"n_reused_tasks", "reused_from"}


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
    [[[0, 11]], [[-1, 2]], [[3, 3]], [[4, 2]], [[0, 5], [3, 7]], [[5, 6], [0, 1]], [[0, 1.5]], [[0]], [7], "x", None],
    ids=str,
)
def test_ranges_that_are_not_of_the_study_are_refused(ranges: object) -> None:
    with pytest.raises(RecordError, match="not a manifest"):
        decoded(job_id="job", bundle=BUNDLE, tasks=ranges)


@pytest.mark.parametrize(
    "reused", [{}, "job", [[]], [{"job_id": "job", "bundle": BUNDLE, "tasks": []}] * 101], ids=type
)
def test_sources_that_are_not_a_list_of_up_to_100_are_refused(reused: object) -> None:
    """Each source costs a listing wherever outputs are looked at."""
    document = {**json.loads(manifest().to_json()), "reused": reused or 3}
    with pytest.raises(RecordError, match="not a manifest"):
        Manifest.from_json(json.dumps(document).encode())


@pytest.mark.parametrize("fields", [{"job_id": "../x"}, {"job_id": 3}, {"bundle": None}], ids=str)
def test_a_source_without_a_valid_id_or_bundle_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RecordError):
        decoded(**{"job_id": "job", "bundle": BUNDLE, "tasks": [[0, 1]], **fields})


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
    assert missing_tasks(job, found.complete) == (2, 5, 6, 7, 8, 9)
    assert found.unexpected == 0


@pytest.mark.parametrize("listing", [outputs_of, sorted_outputs_of])
def test_own_outputs_come_before_those_of_a_source(store: InMemoryVersionedStore, listing: Any) -> None:
    """The job did task 3 itself. Its source has the outputs all the same."""
    job = manifest(Reuse.of("job", BUNDLE, [0, 1, 3]))
    found = {output.task.number: output.entry.value for output in listing(store, "more", [job])}
    assert found == {0: b"job", 1: b"job", 3: b"more", 4: b"more"}
    assert len(list(listing(store, "more", [job]))) == 4


def test_tasks_of_several_sources_have_the_outputs_of_their_own(store: InMemoryVersionedStore) -> None:
    (first,) = (task for task in manifest().study.tasks() if task.number == 0)
    store.create_if_absent(output_key("old", first, "result.json"), b"old")
    job = manifest(Reuse.of("job", BUNDLE, [1]), Reuse.of("old", BUNDLE, [0]))
    found = {output.task.number: output.entry.value for output in outputs_of(store, "more", [job]) if output.task}
    assert found == {0: b"old", 1: b"job", 3: b"more", 4: b"more"}


def test_a_task_of_another_size_than_the_ledger_says_is_missing(store: InMemoryVersionedStore) -> None:
    task = next(iter(manifest().study.tasks()))
    key = (task.param_id, str(task.seed))
    job = Manifest(job_id="job", study=manifest().study, bundle=BUNDLE)
    assert find_complete_tasks(store, job, {job.job_id: {key: 3}}).count == 4
    assert find_complete_tasks(store, job, {job.job_id: {key: 4}}).count == 3
