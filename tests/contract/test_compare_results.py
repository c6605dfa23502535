"""Outputs of two jobs are compared by parameter set and seed, over every backend."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.origins.compare_jobs import MAX_NAMED, ComparedResults, JobOutputs, compare_results
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import output_key
from support.cli import LineStore
from support.runs import sets_of, study

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mopsjobs.store.base import VersionedStore

BUNDLE = "sha256:" + "0" * 64
MANY = study(sets_of(4), outputs=None)
FIRST, SECOND = (Manifest(job_id=job_id, study=MANY, bundle=BUNDLE) for job_id in ("one", "two"))


def fill(store: VersionedStore, manifest: Manifest, outputs: Mapping[int, Mapping[str, bytes]]) -> JobOutputs:
    """Write outputs by the numbers of their tasks, and return the job."""
    for _, task in manifest.tasks():
        for name, value in outputs.get(task.number, {}).items():
            store.create_if_absent(output_key(manifest.job_id, task, name), value)
    return JobOutputs(manifest.job_id, [manifest])


def counts(found: ComparedResults) -> tuple[int, int, int, int]:
    equal, different, _, only_first, only_second = found.counts.values()
    return equal, different, only_first, only_second


def numbers(found: ComparedResults, kind: str) -> list[int]:
    names = {f"{task.param_id}/{task.seed}": task.number for task in MANY.tasks()}
    return sorted(names[one.name] for one in found.named[kind])


def test_each_task_is_equal_different_or_in_one_job_only(store: VersionedStore) -> None:
    """The list of a task's outputs is none of its outputs."""
    first = fill(store, FIRST, {0: {"a": b"1", NAMES_NAME: b"[]"}, 1: {"a": b"1"}, 2: {"a": b"1"}})
    second = fill(store, SECOND, {0: {"a": b"1"}, 1: {"a": b"2"}, 3: {"a": b"1"}})
    found = compare_results(store, first, second)
    assert counts(found) == (1, 1, 1, 1)
    assert [numbers(found, kind) for kind in ("different", "only_first", "only_second")] == [[1], [2], [3]]


def test_outputs_differ_by_name_size_and_content(store: VersionedStore) -> None:
    large = bytes(70_000)
    first = fill(store, FIRST, {0: {"a": b"1", "b": b""}, 1: {"a": large, "b": b"x", "c": b"yy"}, 2: {"a": b""}})
    second = fill(store, SECOND, {0: {"a": b"1", "c": b""}, 1: {"a": large, "b": b"y", "c": b"y"}, 2: {"a": b""}})
    found = compare_results(store, first, second)
    assert counts(found) == (1, 2, 0, 0)
    assert {one.outputs for one in found.named["different"]} == {("b", "c")}


def test_studies_of_other_order_are_compared_by_their_parameters(store: VersionedStore) -> None:
    turned = Manifest(job_id="two", study=study(sets_of(6)[::-1], outputs=None), bundle=BUNDLE)
    first = fill(store, FIRST, {number: {"a": b"%d" % number} for number in range(4)})
    second = fill(store, turned, {number: {"a": b"%d" % (5 - number)} for number in range(6)})
    assert counts(compare_results(store, first, second)) == (4, 0, 0, 2)


def test_a_child_job_has_the_outputs_of_its_parent_too() -> None:
    """But for the tasks that it did again."""
    store = InMemoryVersionedStore()
    child = Manifest(job_id="two.2", study=MANY, bundle=BUNDLE, only=(1, 2), parent_job_id="two")
    first = fill(store, FIRST, {number: {"a": b"1"} for number in range(4)})
    fill(store, SECOND, {0: {"a": b"1"}, 1: {"b": b"half"}, 3: {"a": b"1"}})
    fill(store, child, {1: {"a": b"1"}, 2: {"a": b"1"}})
    found = compare_results(store, first, JobOutputs("two.2", [child, SECOND]))
    assert counts(found) == (4, 0, 0, 0)


def test_the_stream_agrees_with_a_comparison_in_memory() -> None:
    """Over drawn outputs of tasks whose ids are prefixes of each other: no manifest says what the ids are."""
    drawn = random.Random(7)
    for _ in range(50):
        store = InMemoryVersionedStore()
        jobs: list[dict[str, dict[str, bytes]]] = [{}, {}]
        for job_id, tasks in zip(("one", "two"), jobs, strict=True):
            for _ in range(drawn.randrange(12)):
                task = f"{drawn.choice(['p', 'p-1', 'p1', 'p10', 'p.1', 'q'])}/{drawn.choice(['1', '10', '2'])}"
                name, value = drawn.choice(["a", "b"]), drawn.choice([b"x", b"y", b"xx"])
                if store.create_if_absent(f"results/{job_id}/{task}/{name}", value):
                    tasks.setdefault(task, {})[name] = value
        first, second = jobs
        common = first.keys() & second.keys()
        equal = sum(first[task] == second[task] for task in common)
        expected = (equal, len(common) - equal, len(first.keys() - common), len(second.keys() - common))
        assert counts(compare_results(store, JobOutputs("one", []), JobOutputs("two", []))) == expected


def test_only_outputs_of_equal_size_are_read() -> None:
    store = LineStore(InMemoryVersionedStore())
    store.hides_values = True
    read: list[str] = []
    get = store.get

    def note(key: str) -> object:
        read.append(key)
        return get(key)

    first = fill(store, FIRST, {0: {"a": b"1"}, 1: {"a": b"1"}, 2: {"a": b"1"}})
    second = fill(store, SECOND, {0: {"a": b"1"}, 1: {"a": b"22"}})
    store.get = note  # type: ignore[method-assign, assignment]
    assert counts(compare_results(store, first, second)) == (1, 1, 1, 0)
    assert len(read) == 2


def test_the_first_tasks_are_named_and_all_are_counted() -> None:
    store, study_of_many = InMemoryVersionedStore(), study(sets_of(MAX_NAMED + 5), outputs=None)
    jobs = [
        fill(
            store,
            Manifest(job_id=job_id, study=study_of_many, bundle=BUNDLE),
            {number: {"a": value} for number in range(MAX_NAMED + 5)},
        )
        for job_id, value in (("one", b"1"), ("two", b"2"))
    ]
    progress: list[int] = []
    found = compare_results(store, *jobs, progress.append)
    assert (found.counts["different"], len(found.named["different"])) == (MAX_NAMED + 5, MAX_NAMED)
    assert progress == list(range(1, MAX_NAMED + 6))


def test_an_outage_ends_the_comparison() -> None:
    """Instead of calling outputs missing."""
    store = LineStore(InMemoryVersionedStore())
    first = fill(store, FIRST, {0: {"a": b"1"}})
    store.down = True
    with pytest.raises(StoreUnavailableError):
        compare_results(store, first, first)
