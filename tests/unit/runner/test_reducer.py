"""A study with a reduce function, worked through in this process: what is stored, called, and said."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.events.format import parse_chunk
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.runner import reducer
from mopsjobs.runner.reducer import BATCH_TASKS, OutputFeed
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies import packed_store
from mopsjobs.studies.manifest import Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import WHOLE_JOB, output_key, reduction_key
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.packs import encode_pack
from mopsjobs.studies.reductions import find_reductions
from mopsjobs.studies.study import Task
from support.cli import LineStore, put
from support.runs import MODEL, Bench, calls, code, results, sets_of, study

pytestmark = pytest.mark.usefixtures("quick_runner")

REDUCING = (
    MODEL
    + """
plain = simulate

def simulate(params, seed):
    if seed in params.get("lose", []):
        raise ValueError("lost")
    return plain(params, seed)

def summarise(params, tasks):
    first = next(iter(tasks)).params
    note(first["calls"] + "-reduced", str(-1 if params is None else params["x"]))
    if "refuse" in first and not os.path.exists(first["refuse"]) and params and params["x"] == 1:
        raise ValueError("one is refused")
    if "end" in first and not os.path.exists(first["end"]):
        open(first["end"], "x").close()
        os.kill(os.getpid(), 9)
    seeds = sorted(task.json()["seed"] for task in tasks)
    return {"params": params, "tasks": len(tasks), "missing": tasks.missing, "seeds": seeds}

def all_files(params, tasks):
    import weakref
    alive, most = weakref.WeakSet(), 0
    for task in tasks:
        alive.add(task)
        most = max(most, len(alive))
    return None if params is None else {"b.csv": "x,y\\n", "a.bin": bytes([most]), "n.json": 1}
"""
)


@pytest.fixture
def noted(model: Path, tmp_path: Path) -> Path:
    """Return the file in which the model notes its calls; those of the reduce function are in one beside it."""
    code(model, REDUCING)
    return tmp_path / "calls"


def reduced_calls(noted: Path) -> Counter[int]:
    return calls(Path(f"{noted}-reduced"))


def reduced(store: LineStore, job_id: str = "job") -> dict[str, Any]:
    """Return the outputs of reductions that are JSON, by parameter set and number of tasks."""
    found = results(store, job_id).items()
    return {
        name.removesuffix("/result.json"): json.loads(value)
        for name, value in found
        if "/reduced-" in name and name.endswith("result.json")
    }


def test_each_set_and_the_job_are_reduced_over_their_tasks(bench: Bench, noted: Path) -> None:
    """The counts of tasks are those of the tasks."""
    bench.given(sets_of(3, calls=str(noted)), n_replicates=4, reduce="model:summarise")
    ran, said = bench.work()
    assert ran[:4] == ("succeeded", 12, 0, True)
    assert said == ["Reducing by model:summarise: 4 reductions."]
    assert bench.counts() == ("succeeded", 12, 0, 12)
    assert reduced_calls(noted) == {0: 1, 1: 1, 2: 1, -1: 1}
    studied = load_manifest(bench.line, "job").study
    seeds = [task.seed for task in studied.tasks()]
    expected = {
        f"{one.param_id}/reduced-4": {
            "params": one.params,
            "tasks": 4,
            "missing": 0,
            "seeds": sorted(seeds[4 * number :][:4]),
        }
        for number, one in enumerate(studied.parameter_sets)
    }
    expected["all/reduced-12"] = {"params": None, "tasks": 12, "missing": 0, "seeds": sorted(seeds)}
    assert reduced(bench.line) == expected


@pytest.mark.usefixtures("noted")
def test_outputs_are_those_of_a_model_and_memory_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dict has several. The function holds 40 tasks one at a time, two at the moment of the next one.

    The names of the outputs are written last: without them, what a crash has left is not taken for all.
    """
    bench.given([{"x": 1}], n_replicates=40, reduce="model:all_files")
    written: list[str] = []
    create = bench.line.create_if_absent
    monkeypatch.setattr(bench.line, "create_if_absent", lambda key, value: written.append(key) or create(key, value))
    assert bench.work()[0].status == "succeeded"
    names = [key.rpartition("/")[2] for key in written if "/reduced-40/" in key and "/all/" not in key]
    assert names == ["a.bin", "b.csv", "n.json", NAMES_NAME]
    stored = results(bench.line)
    found = {name.rpartition("/")[2]: value for name, value in stored.items() if "/reduced-40/" in name}
    assert found.pop("a.bin") in (b"\1", b"\2")
    del found[NAMES_NAME]
    assert found == {"b.csv": b"x,y\n", "n.json": b"1"}
    lists = {name.partition("/")[0] == "all": value for name, value in stored.items() if name.endswith(NAMES_NAME)}
    assert lists == {True: b"[]", False: b'["a.bin", "b.csv", "n.json"]'}


def test_a_set_gets_what_is_there_and_none_without_results(bench: Bench, noted: Path) -> None:
    """One set has lost a task, another one all. The error of the record is that of the tasks."""
    some = {"x": 0, "calls": str(noted), "lose": [7]}
    sets = [{"params": some, "seed": seed} for seed in (7, 8, 9)]
    bench.given([*sets, {"x": 1, "fail": True, "calls": str(noted)}], n_replicates=2, reduce="model:summarise")
    bench.work()
    assert bench.counts() == ("partial", 2, 3, 2)
    assert sorted((one["tasks"], one["missing"]) for one in reduced(bench.line).values()) == [(2, 1), (2, 3)]
    assert bench.record().error_code == "INCOMPLETE"
    assert "reduce" not in str(bench.record().error_message)


def test_an_error_ends_the_job_partial_and_a_child_reduces_the_rest(bench: Bench, noted: Path) -> None:
    """The other reductions stay. The child has no tasks, and calls neither the model nor what is done."""
    bench.given(
        sets_of(3, calls=str(noted), refuse=str(bench.path / "allowed")), n_replicates=2, reduce="model:summarise"
    )
    ran, said = bench.work()
    assert ran[:4] == ("partial", 6, 0, True)
    state = bench.record()
    assert (state.error_code, state.error_message) == (
        "REDUCE",
        "the reduce function model:summarise failed (1 reduction): x=1: ValueError: one is refused",
    )
    assert said[1:] == ["x=1: ValueError: one is refused"]
    events = [event for entry in bench.line.scan("events/") for event in parse_chunk(entry.value or b"")]
    (failed,) = [event for event in events if event.get("error")]
    assert failed["kind"] == "runner"
    assert "in summarise" in failed["error"]["traceback"]
    assert len(reduced(bench.line)) == 3
    parent = load_manifest(bench.line, "job")
    one = parent.study.parameter_sets[1]
    assert state.missing_outputs == (reduction_key("job", one.param_id, 2, ""),)

    (bench.path / "allowed").touch()
    child = Manifest(job_id="job.2", study=parent.study, bundle=parent.bundle, only=(), parent_job_id="job")
    bench.line.create_if_absent(manifest_key("job.2"), child.to_json())
    bench.registry.register_job("job.2", tasks_total=0, parent_job_id="job")
    assert bench.work("child", job_id="job.2")[0][:4] == ("succeeded", 0, 0, True)
    assert reduced_calls(noted) == {0: 1, 1: 2, 2: 1, -1: 1}
    assert calls(noted) == {0: 2, 1: 2, 2: 2}
    assert list(reduced(bench.line, "job.2")) == [f"{one.param_id}/reduced-2"]


def test_a_function_that_cannot_be_loaded_is_named(bench: Bench, noted: Path) -> None:
    """The outputs of tasks stay. Where the runner is not the machine of the submission, nothing was checked."""
    bench.given(sets_of(1, calls=str(noted)), reduce="model:summarize")
    assert bench.work()[0][:3] == ("partial", 1, 0)
    message = str(bench.record().error_message)
    assert message.startswith("the reduce function model:summarize failed (2 reductions): The reduce function cannot")
    assert "there is no 'summarize' in " in message
    assert "did you mean 'summarise'?" in message


def test_the_damaged_manifest_of_a_parent_ends_the_job_partial(bench: Bench, noted: Path) -> None:
    """Its tasks are unknown, so nothing is reduced: the outputs would be those of fewer tasks."""
    bench.given(sets_of(2, calls=str(noted)), reduce="model:summarise")
    parent = load_manifest(bench.line, "job")
    child = Manifest(job_id="job.2", study=parent.study, bundle=parent.bundle, only=(1,), parent_job_id="job")
    bench.line.create_if_absent(manifest_key("job.2"), child.to_json())
    bench.registry.register_job("job.2", tasks_total=1, parent_job_id="job")
    put(bench.line, manifest_key("job"), b"{")
    assert bench.work("child", job_id="job.2")[0][:4] == ("partial", 1, 0, True)
    state = bench.registry.require_job("job.2")
    assert state.error_code == "REDUCE"
    assert manifest_key("job") in str(state.error_message)
    assert (calls(noted), reduced_calls(noted)) == ({1: 1}, {})


def test_a_reduction_whose_outputs_are_refused_leaves_the_job_partial(bench: Bench, noted: Path) -> None:
    """Other reductions have their outputs: one key does not end the job as failed."""
    bench.given([{"x": number, "calls": str(noted)} for number in range(2)], reduce="model:summarise")
    bench.line.refused_key = output_key("job", next(load_manifest(bench.line, "job").study.tasks()), "result.json")
    bench.line.hides_values = True
    assert bench.work()[0][:3] == ("partial", 2, 0)
    bench.line.hides_values = False
    assert "The store refused the credentials" in str(bench.record().error_message)
    assert [one["params"] for one in reduced(bench.line).values()] == [{"x": 1, "calls": str(noted)}]


def test_a_loop_over_the_tasks_of_an_earlier_call_is_refused(bench: Bench) -> None:
    """Else it would read those of the call at work."""
    code(
        bench.model,
        MODEL
        + """
kept = []

def summarise(params, tasks):
    kept.append(tasks)
    return {"tasks": [task.seed for task in kept[0]]}
""",
    )
    bench.given(sets_of(2), reduce="model:summarise")
    bench.work(workers=1)
    message = "RuntimeError: the function to which the tasks were given has returned"
    assert message in str(bench.record().error_message)
    assert len(reduced(bench.line)) == 1


# --- the outputs of tasks --------------------------------------------------------------------------------------------

STUDY = study(sets_of(10), n_replicates=10, reduce="model:summarise")
TASKS = list(STUDY.tasks())
JOB = Manifest(job_id="job", study=STUDY, bundle="sha256:" + "0" * 64)
WHOLE = Task(100, WHOLE_JOB, 0, {})


@pytest.fixture
def feed(line: LineStore) -> Iterator[OutputFeed]:
    """Yield a feed of 99 of 100 tasks, from a store whose listings have no values."""
    for task in TASKS[:99]:
        line.create_if_absent(output_key("job", task, "result.json"), b"%d" % task.number)
    line.hides_values = True
    complete = find_reductions(line, [JOB]).complete
    retry = OutageRetry(100.0, lambda _seconds: None)
    with closing(OutputFeed(line, [JOB], complete, retry)) as made:
        yield made


def answer(feed: OutputFeed, reduction: Task, *, is_first: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(feed.next_line(reduction, is_first=is_first))["tasks"]
    return found


def loop(feed: OutputFeed, reduction: Task) -> Iterator[list[dict[str, Any]]]:
    """Yield the answers of one loop over the tasks."""
    found = answer(feed, reduction, is_first=True)
    while found:
        yield found
        found = answer(feed, reduction)


def test_no_more_outputs_are_read_than_one_answer_has(feed: OutputFeed, line: LineStore) -> None:
    """So memory does not grow with the tasks: here 99 outputs, of which at most 16 are open at once."""
    seen, before = [], line.calls["get"]
    for tasks in loop(feed, WHOLE):
        opened = line.calls["get"] - before - len(seen)
        assert opened == len(tasks) <= BATCH_TASKS
        seen += [task["task"] for task in tasks]
    assert sorted(seen) == list(range(99))


def test_a_large_output_is_alone(feed: OutputFeed, monkeypatch: pytest.MonkeyPatch, line: LineStore) -> None:
    """As far as the listing tells sizes."""
    monkeypatch.setattr(reducer, "BATCH_BYTES", 1)
    line.hides_values = False
    assert {len(tasks) for tasks in loop(feed, WHOLE)} == {1}


def test_a_second_loop_reads_the_same_in_the_same_order(feed: OutputFeed) -> None:
    """Also if the first one was left in the middle. Two reductions do not disturb each other."""
    first = answer(feed, WHOLE, is_first=True)
    one = Task(101, TASKS[20].param_id, 0, {})
    of_set = [task for tasks in loop(feed, one) for task in tasks]
    assert [task["params"] for task in of_set] == [{"x": 2}] * 10
    following = answer(feed, WHOLE)
    assert following != first
    assert list(loop(feed, WHOLE))[:2] == [first, following]


@pytest.mark.parametrize("method", ["get", "scan"])
def test_an_outage_repeats_no_task_and_leaves_none_out(feed: OutputFeed, line: LineStore, method: str) -> None:
    seen = []
    for tasks in loop(feed, WHOLE):
        seen += [task["task"] for task in tasks]
        line.fail_next(1, method)
    assert sorted(seen) == list(range(99))


class RangeStore(LineStore):
    """A store in a network, with ranges, whose listings have no values."""

    damaged = False

    def get_range(self, key: str, start: int, length: int) -> bytes | None:
        """Return a part of a value."""
        self.calls["get_range"] += 1
        found = self.inner.get(key)
        value = None if found is None else found.value[start : start + length]
        return b"?" * length if self.damaged else value


def test_the_whole_job_goes_through_large_packs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the listing, by ranges over what lies together. A damaged value is read alone, and told."""
    monkeypatch.setattr(packed_store, "WHOLE_BYTES", 0)
    store = RangeStore(InMemoryVersionedStore())
    store.hides_values = True
    outputs = {output_key("job", task, "result.json"): b"%d" % task.number * 5000 for task in TASKS}
    for number in range(4):
        part = list(outputs.items())[25 * number : 25 * (number + 1)]
        store.create_if_absent(f"results/job/.packs/0-{number:06d}", encode_pack("job", 0, part))
    packed = PackedStore(store)
    complete = find_reductions(packed, [JOB]).complete
    store.calls.clear()
    with closing(OutputFeed(packed, [JOB], complete, OutageRetry(100.0, lambda _seconds: None))) as made:
        found = [task for tasks in loop(made, WHOLE) for task in tasks]
        assert (store.calls["get_range"], store.calls["get"]) == (4, 0)
        keys = [output_key("job", TASKS[task["task"]], "result.json") for task in found]
        assert keys == sorted(outputs)
        values = [base64.b64decode(task["outputs"]["result.json"]) for task in found]
        assert values == [outputs[key] for key in keys]
        store.damaged = True
        assert "is damaged" in json.loads(made.next_line(WHOLE, is_first=True))["problem"]


def test_an_output_that_is_gone_is_named(feed: OutputFeed, line: LineStore) -> None:
    key = output_key("job", TASKS[0], "result.json")
    one = Task(101, TASKS[0].param_id, 0, {})
    line.after_listing = lambda: line.delete(key) and None
    assert json.loads(feed.next_line(one, is_first=True)) == {"problem": f"{key} was deleted"}


def test_a_task_with_a_result_of_no_outputs_comes_without_outputs(feed: OutputFeed, line: LineStore) -> None:
    """It is complete by its names, and is one of the number that the function gets. Such a study names no outputs."""
    last, job = TASKS[99], dataclasses.replace(JOB, study=dataclasses.replace(STUDY, outputs=None))
    line.create_if_absent(output_key("job", last, NAMES_NAME), b"[]")
    complete = find_reductions(line, [job]).complete
    with closing(OutputFeed(line, [job], complete, OutageRetry(1.0, lambda _seconds: None))) as made:
        for reduction, count in ((Task(101, last.param_id, 0, {}), 10), (WHOLE, 100)):
            tasks = [task for batch in loop(made, reduction) for task in batch]
            assert len({task["task"] for task in tasks}) == len(tasks) == count
            (empty,) = [task for task in tasks if not task["outputs"]]
            of_study = (last.number, dict(last.params), last.param_id, last.seed)
            assert tuple(empty[name] for name in ("task", "params", "param_id", "seed")) == of_study
