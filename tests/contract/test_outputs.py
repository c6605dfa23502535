"""What a job has left, compared with what it should leave: by one listing, on every backend."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.origins.compare_jobs import MAX_NAMED, ComparedResults, JobOutputs, compare_results
from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks, output_key, results_prefix
from mopsjobs.studies.study import Task
from mopsjobs.studies.study_parser import parse_study
from support.cli import LineStore
from support.doubles import FaultyStore
from support.runs import sets_of, study

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mopsjobs.store.base import VersionedStore


SETS = [{"x": 1}, {"x": 2}, {"params": {"x": 1}, "seed": 7}]
BUNDLE = "sha256:" + "0" * 64

in_memory = pytest.mark.parametrize("backend", ["memory"], indirect=True)
"""For claims about keys alone, which each backend lists alike."""


def _manifest(
    *, named: list[str] | None = None, sets: list[object] = SETS, replicates: int = 2, only: Iterable[int] | None = None
) -> Manifest:
    document = {"model": "m:f", "parameter_sets": sets, "n_replicates": replicates, "outputs": named}
    return Manifest(
        job_id="job", study=parse_study(document), bundle=BUNDLE, only=None if only is None else tuple(only)
    )


def _tasks(manifest: Manifest) -> list[Task]:
    return [task for _, task in manifest.tasks()]


def _leave(store: VersionedStore, task: Task, **contents: bytes) -> None:
    for name, content in contents.items():
        store.create_if_absent(output_key("job", task, name.replace("__", ".")), content)


def _names(store: VersionedStore, task: Task, value: bytes) -> None:
    store.create_if_absent(output_key("job", task, NAMES_NAME), value)


def _complete(store: VersionedStore, manifest: Manifest) -> list[int]:
    return list(find_complete_tasks(store, manifest).complete)


# --- complete, and not ----------------------------------------------------------------------------------------------


def test_a_task_of_another_size_than_expected_is_damaged(store: VersionedStore) -> None:
    """Each store tells sizes in the listing that is made anyway. What is not expected may have any size."""
    manifest = _manifest(named=["result.json"])
    tasks = _tasks(manifest)
    for task in tasks:
        _leave(store, task, result__json=b"{}", unnamed__csv=b"a,b")
    sizes = {(task.param_id, str(task.seed)): size for task, size in zip(tasks, (2, 4, 3), strict=False)}
    found = find_complete_tasks(store, manifest, {"job": sizes})
    assert list(found.complete) == [1, 0, 0, 1, 1]
    places = [output_key("job", task, "") for task in tasks[1:3]]
    assert set(found.damaged.values()) == {
        f"{place} has 2 bytes, and its ledger says {size}." for place, size in zip(places, (4, 3), strict=True)
    }


def test_each_task_is_told_complete_by_its_own_outputs(store: VersionedStore) -> None:
    """Also where the same parameters stand in several sets, with and without a seed."""
    manifest = _manifest()
    for count, task in enumerate(_tasks(manifest), 1):
        _leave(store, task, result__json=b"{}")
        found = find_complete_tasks(store, manifest)
        assert list(found.complete) == [1] * count + [0] * (5 - count)
        assert (found.count, found.unexpected) == (count, 0)


def test_a_task_is_complete_by_its_names(store: VersionedStore) -> None:
    """Named outputs must all be there, and others may be. If none is named, several need the list of their names.

    The list of a task that leaves nothing is empty. Outputs of other jobs do not count.
    """
    manifest = _manifest(named=["a", "b.csv"])
    first, second, third, *_ = _tasks(manifest)
    for job in ("job2", "jo", "job-", "job."):
        store.create_if_absent(output_key(job, first, "a"), b"x")
    assert _complete(store, manifest) == [0] * 5
    _leave(store, first, a=b"", b__csv=b"x")
    _leave(store, second, a=b"x")
    _leave(store, third, a=b"x", b__csv=b"", c=b"x")
    assert _complete(store, manifest) == [1, 0, 1, 0, 0]
    unnamed = _manifest()
    assert _complete(store, unnamed) == [0, 1, 0, 0, 0]
    _names(store, first, b'["a", "b.csv"]')
    _names(store, second, b'["a", "b"]')
    _names(store, _tasks(unnamed)[3], b"[]")
    assert _complete(store, unnamed) == [1, 0, 0, 1, 0]


def test_a_list_too_large_to_come_with_the_listing_is_fetched(store: VersionedStore) -> None:
    manifest = _manifest()
    names = [f"output-number-{number}.bin" for number in range(20)]
    (first, *_) = _tasks(manifest)
    _names(store, first, json.dumps(names + [f"{number:0>120}" for number in range(3000)]).encode())
    for name in names:
        store.create_if_absent(output_key("job", first, name), b"")
    assert _complete(store, manifest) == [0] * 5
    (second, third) = _tasks(manifest)[1:3]
    for task in (second, third):
        _names(store, task, json.dumps(names).encode())
    for name in names:
        store.create_if_absent(output_key("job", second, name), b"")
    assert _complete(store, manifest) == [0, 1, 0, 0, 0]


def test_a_task_cut_short_after_any_write_never_looks_complete() -> None:
    manifest = _manifest(replicates=1, sets=[{"x": 1}])
    (task,) = _tasks(manifest)
    writes = [(NAMES_NAME, b'["a", "b", "c"]'), ("a", b"1"), ("b", b"2"), ("c", b"3")]
    for count in range(len(writes) + 1):
        store = InMemoryVersionedStore()
        for name, value in writes[:count]:
            store.create_if_absent(output_key("job", task, name), value)
        assert _complete(store, manifest) == [count == len(writes)]


def test_a_list_of_names_that_is_none_is_no_completion() -> None:
    for value in (b"", b"null", b'"a"', b"[1]", b"[{}]", b'["a", null]', b"\xff", b"[" * 100_000):
        store, manifest = InMemoryVersionedStore(), _manifest()
        (task, *_) = _tasks(manifest)
        _names(store, task, value)
        _leave(store, task, a=b"x")
        assert _complete(store, manifest) == [0] * 5, value


def test_replicates_that_draw_the_same_seed_share_their_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 32 bits, two of 100,000 replicates do so more often than not; their job must have an end nevertheless."""
    monkeypatch.setattr("mopsjobs.studies.study.drawn_seed", lambda rule, param_id, replicate: replicate // 2)
    drawn = "mopsjobs.studies.study.drawn_seeds"
    monkeypatch.setattr(drawn, lambda rule, param_id, replicates: (replicate // 2 for replicate in replicates))
    store, manifest = InMemoryVersionedStore(), _manifest(sets=[{"x": 1}], replicates=5)
    for task in _tasks(manifest)[1:3]:
        _leave(store, task, a=b"x")
    assert _complete(store, manifest) == [1, 1, 1, 1, 0]


def test_tasks_that_are_the_same_simulation_are_known_by_their_positions() -> None:
    drawn = [task.seed for task in _tasks(_manifest(sets=[{"x": 1}]))]
    sets: list[object] = [{"x": 1}, {"params": {"x": 1}, "seed": drawn[1]}, {"x": 2}]
    assert _manifest(sets=sets).duplicate_tasks() == {2: 1}
    assert _manifest(sets=sets, only=[0, 2, 3]).duplicate_tasks() == {}
    assert _manifest(sets=sets, only=[1, 2, 4]).duplicate_tasks() == {1: 0}


def test_a_seed_that_was_asked_for_may_be_one_that_is_drawn() -> None:
    """Both are one simulation, which runs once. No other task of a study has the key of another."""
    drawn = _tasks(_manifest(sets=[{"x": 1}]))[0].seed
    store, manifest = InMemoryVersionedStore(), _manifest(sets=[{"x": 1}, {"params": {"x": 1}, "seed": drawn}])
    _leave(store, _tasks(manifest)[0], a=b"x")
    assert _complete(store, manifest) == [1, 0, 1]
    keys = [output_key("job", task, "a") for task in _tasks(_manifest(replicates=50))]
    assert len(set(keys)) == len(keys) == 101


# --- a resumed job, other jobs ---------------------------------------------------------------------------------------


@in_memory
def test_a_resumed_job_looks_at_its_own_tasks_by_their_position(store: VersionedStore) -> None:
    every, manifest = _tasks(_manifest()), _manifest(only=[1, 4])
    assert [(position, task.number) for position, task in manifest.tasks()] == [(0, 1), (1, 4)]
    assert manifest.tasks_total == 2
    _leave(store, every[4], a=b"x")
    _leave(store, every[0], a=b"x")
    found = find_complete_tasks(store, manifest)
    assert (list(found.complete), found.unexpected) == ([0, 1], 1)


# --- keys that are unexpected ----------------------------------------------------------------------------------------


def test_keys_that_are_no_outputs_complete_nothing_and_are_counted(store: VersionedStore) -> None:
    manifest = _manifest()
    task = _tasks(manifest)[4]
    assert task.seed == 7
    inside = [
        f"{task.param_id}/{seed}/a" for seed in ("x", "07", "+7", " 7", "-7", "7.0", "\u0667", "\u00b2", "9" * 99)
    ]
    inside += [f"{task.param_id}/7", f"{task.param_id}/8/a", f"{task.param_id}/7/sub/a", f"{task.param_id}/7/_other"]
    inside += [task.param_id, "a", "0" * 64 + "/7/a", task.param_id.upper() + "/7/a", f"{task.param_id}/7-/a"]
    # SeaweedFS takes a key for an existing one if another goes on behind it with a slash.
    stored = [key for key in inside if store.create_if_absent(results_prefix("job") + key, b"x")]
    found = find_complete_tasks(store, manifest)
    assert (found.count, found.unexpected) == (0, len(stored))
    assert set(inside) - set(stored) <= {task.param_id, f"{task.param_id}/7"}
    _leave(store, task, a=b"x")
    found = find_complete_tasks(store, manifest)
    assert (list(found.complete), found.unexpected) == ([0, 0, 0, 0, 1], len(stored))


@pytest.mark.parametrize("backend", ["memory", pytest.param("azure", marks=pytest.mark.azurite)], indirect=True)
def test_it_is_one_listing_and_no_read(store: VersionedStore) -> None:
    line, manifest = FaultyStore(store), _manifest()
    for task in _tasks(manifest):
        _leave(store, task, a=b"x")
    assert find_complete_tasks(line, manifest).count == 5
    assert dict(line.calls) == {"scan": 1}


def test_an_outage_is_never_an_empty_listing() -> None:
    line = FaultyStore(InMemoryVersionedStore())
    line.fail_next(1, "scan")
    with pytest.raises(StoreUnavailableError):
        find_complete_tasks(line, _manifest())


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_has_all_that_the_record_needs() -> None:
    """It survives its own JSON."""
    for only in (None, [], [0, 3]):
        assert Manifest.from_json(_manifest(only=only).to_json()) == _manifest(only=only)
    manifest = dataclasses.replace(_manifest(), engine="kubernetes", owner="me", labels={"exp": "7"})
    found = Manifest.from_json(manifest.to_json())
    assert found == manifest
    fields = found.record_fields()
    assert (fields["engine"], fields["owner"], fields["labels"]) == ("kubernetes", "me", {"exp": "7"})


@pytest.mark.parametrize(
    "value",
    [
        _manifest().to_json().replace(b'"owner":null', b'"owner":7'),
        _manifest().to_json().replace(b'"labels":{}', b'"labels":["a"]'),
        b"", b"\xff", b"[]", b"{}", b"null", b"[" * 100_000, b'{"version": 2}', b'{"version": 1}',
        _manifest().to_json().replace(b'"study":{', b'"study":{"zzz":1,'),
        *(
            _manifest().to_json().replace(b'"only":null', b'"only":' + only)
            for only in (b"3", b'["x"]', b"[1,0]", b"[0,0]", b"[9]")
        ),
    ],
)  # fmt: skip
def test_bytes_that_are_no_manifest_are_refused_with_their_key(value: bytes) -> None:
    with pytest.raises(RecordError) as caught:
        Manifest.from_json(value, key=manifest_key("job"))
    assert caught.value.message.startswith("jobs/job/manifest.json: ")


# --- Outputs of two jobs are compared by parameter set and seed, over every backend ----------------------------------

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
    assert counts(compare_results(store, first, JobOutputs("two.2", [child, SECOND]))) == (4, 0, 0, 0)


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


def test_the_first_tasks_are_named_and_all_are_counted() -> None:
    many = MAX_NAMED + 5
    store, study_of_many, progress = InMemoryVersionedStore(), study(sets_of(many), outputs=None), list[int]()
    made = [Manifest(job_id=job_id, study=study_of_many, bundle=BUNDLE) for job_id in ("one", "two")]
    jobs = [fill(store, one, {number: {"a": one.job_id.encode()} for number in range(many)}) for one in made]
    found = compare_results(store, *jobs, progress.append)
    assert (counts(found), len(found.named["different"])) == ((0, many, 0, 0), MAX_NAMED)
    assert progress == list(range(1, many + 1))


def test_an_outage_ends_the_comparison() -> None:
    """Instead of calling outputs missing."""
    store = LineStore(InMemoryVersionedStore())
    first = fill(store, FIRST, {0: {"a": b"1"}})
    store.down = True
    with pytest.raises(StoreUnavailableError):
        compare_results(store, first, first)
