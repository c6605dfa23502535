"""A study with a reduce function, worked through in this process: what is stored, called, and said."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.events.format import parse_chunk
from mopsjobs.ledger.environment import environment_keys
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.notes import WAITS_FOR
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.reporter import CORES_TEXT
from mopsjobs.studies.manifest import NAMES_NAME, Manifest, load_manifest, manifest_key
from mopsjobs.studies.outputs import output_key, reduction_key
from mopsjobs.studies.study import Study
from support.cli import LineStore, put
from support.runs import MODEL, Given, calls, code, counts, record, results, sets_of, study, until, work

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


def test_each_set_and_the_job_are_reduced_over_their_tasks(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """The counts of tasks are those of the tasks."""
    given(sets_of(3, calls=str(noted)), n_replicates=4, reduce="model:summarise")
    ran, said = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 12, 0, True)
    assert said == ["Reducing by model:summarise: 4 reductions."]
    assert counts(registry) == ("succeeded", 12, 0, 12)
    assert reduced_calls(noted) == {0: 1, 1: 1, 2: 1, -1: 1}
    studied = load_manifest(line, "job").study
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
    assert reduced(line) == expected


@pytest.mark.usefixtures("noted")
def test_outputs_are_those_of_a_model_and_memory_is_bounded(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dict has several. The function holds 40 tasks one at a time, two at the moment of the next one.

    The names of the outputs are written last: without them, what a crash has left is not taken for all.
    """
    given([{"x": 1}], n_replicates=40, reduce="model:all_files")
    written: list[str] = []
    create = line.create_if_absent
    monkeypatch.setattr(line, "create_if_absent", lambda key, value: written.append(key) or create(key, value))
    assert work(line, registry, tmp_path / "job")[0].status == "succeeded"
    names = [key.rpartition("/")[2] for key in written if "/reduced-40/" in key and "/all/" not in key]
    assert names == ["a.bin", "b.csv", "n.json", NAMES_NAME]
    stored = results(line)
    found = {name.rpartition("/")[2]: value for name, value in stored.items() if "/reduced-40/" in name}
    assert found.pop("a.bin") in (b"\1", b"\2")
    del found[NAMES_NAME]
    assert found == {"b.csv": b"x,y\n", "n.json": b"1"}
    lists = {name.partition("/")[0] == "all": value for name, value in stored.items() if name.endswith(NAMES_NAME)}
    assert lists == {True: b"[]", False: b'["a.bin", "b.csv", "n.json"]'}


def test_a_set_gets_what_is_there_and_none_without_results(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """One set has lost a task, another one all. The error of the record is that of the tasks."""
    some = {"x": 0, "calls": str(noted), "lose": [7]}
    sets = [{"params": some, "seed": seed} for seed in (7, 8, 9)]
    given([*sets, {"x": 1, "fail": True, "calls": str(noted)}], n_replicates=2, reduce="model:summarise")
    work(line, registry, tmp_path / "job")
    assert counts(registry) == ("partial", 2, 3, 2)
    assert sorted((one["tasks"], one["missing"]) for one in reduced(line).values()) == [(2, 1), (2, 3)]
    assert record(registry).error_code == "INCOMPLETE"
    assert "reduce" not in str(record(registry).error_message)


def test_an_error_ends_the_job_partial_and_a_child_reduces_the_rest(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """The other reductions stay. The child has no tasks, and calls neither the model nor what is done."""
    given(sets_of(3, calls=str(noted), refuse=str(tmp_path / "allowed")), n_replicates=2, reduce="model:summarise")
    ran, said = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("partial", 6, 0, True)
    state = record(registry)
    assert (state.error_code, state.error_message) == (
        "REDUCE",
        "the reduce function model:summarise failed (1 reduction): x=1: ValueError: one is refused",
    )
    assert said[1:] == ["x=1: ValueError: one is refused"]
    events = [event for entry in line.scan("events/") for event in parse_chunk(entry.value or b"")]
    (failed,) = [event for event in events if event.get("error")]
    assert failed["kind"] == "runner"
    assert "in summarise" in failed["error"]["traceback"]
    assert len(reduced(line)) == 3
    parent = load_manifest(line, "job")
    one = parent.study.parameter_sets[1]
    assert state.missing_outputs == (reduction_key("job", one.param_id, 2, ""),)

    (tmp_path / "allowed").touch()
    child = Manifest(job_id="job.2", study=parent.study, bundle=parent.bundle, only=(), parent_job_id="job")
    line.create_if_absent(manifest_key("job.2"), child.to_json())
    registry.register_job("job.2", tasks_total=0, parent_job_id="job")
    assert work(line, registry, tmp_path / "child", "job.2")[0][:4] == ("succeeded", 0, 0, True)
    assert reduced_calls(noted) == {0: 1, 1: 2, 2: 1, -1: 1}
    assert calls(noted) == {0: 2, 1: 2, 2: 2}
    assert list(reduced(line, "job.2")) == [f"{one.param_id}/reduced-2"]


def test_a_runner_after_a_crash_reduces_only_the_rest(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """The tasks and a reduction are there; of another one only a part is. A worker that dies costs one try."""
    sets = sets_of(3, calls=str(noted), end=str(tmp_path / "died"))
    given(sets, reduce="model:summarise")
    studied: Study = study(sets, reduce="model:summarise")
    tasks = list(studied.tasks())
    for task in tasks:
        line.create_if_absent(output_key("job", task, "result.json"), b'{"seed": %d}' % task.seed)
    for param_id, names in ((tasks[0].param_id, ("result.json", NAMES_NAME)), (tasks[1].param_id, ("result.json",))):
        for name in names:
            line.create_if_absent(reduction_key("job", param_id, 1, name), b'"theirs"')
    assert work(line, registry, tmp_path / "job", workers=1)[0][:4] == ("succeeded", 3, 0, True)
    assert calls(noted) == {}
    assert reduced_calls(noted) == {1: 2, 2: 1, -1: 1}
    assert list(reduced(line).values()).count("theirs") == 2


def test_a_function_that_cannot_be_loaded_is_named(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """The outputs of tasks stay. Where the runner is not the machine of the submission, nothing was checked."""
    given(sets_of(1, calls=str(noted)), reduce="model:summarize")
    assert work(line, registry, tmp_path / "job")[0][:3] == ("partial", 1, 0)
    message = str(record(registry).error_message)
    assert message.startswith("the reduce function model:summarize failed (2 reductions): The reduce function cannot")
    assert "there is no 'summarize' in " in message
    assert "did you mean 'summarise'?" in message


@pytest.mark.parametrize("engine", ["kubernetes", "slurm"])
def test_the_first_shard_on_a_cluster_loads_the_function_before_tasks(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path, engine: str
) -> None:
    """Nothing has checked it before. So the job fails in seconds, and not after all its tasks."""
    given(sets_of(2, calls=str(noted)), reduce="model:summarize")
    put(line, manifest_key("job"), dataclasses.replace(load_manifest(line, "job"), engine=engine).to_json())
    with pytest.raises(ModelError, match=r"^The reduce function cannot be loaded: AttributeError: there is no 'summar"):
        work(line, registry, tmp_path / "0", number=0, shards=2)
    state = record(registry)
    assert (state.status, state.error_code, calls(noted)) == ("failed", "MODEL", {})
    assert "did you mean 'summarise'?" in str(state.error_message)
    assert len(list(environment_keys(line, "job"))) == 1


def test_a_check_of_the_function_that_dies_is_left_to_the_end(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """Its process ends when it is loaded first. Only an error of the function ends the job before its tasks."""
    died = tmp_path / "died"
    code(model)
    dying = f"import os\nif not os.path.exists({str(died)!r}):\n    open({str(died)!r}, 'x')\n    os._exit(3)\n"
    (model / "means.py").write_text(dying + "def count(params, tasks):\n    return len(tasks)\n")
    given(sets_of(1), reduce="means:count")
    put(line, manifest_key("job"), dataclasses.replace(load_manifest(line, "job"), engine="slurm").to_json())
    assert work(line, registry, tmp_path / "job")[0][:3] == ("succeeded", 1, 0)
    assert died.exists()


def test_the_last_of_two_shards_reduces_over_both(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    given(sets_of(2, calls=str(noted)), n_replicates=2, reduce="model:summarise")
    first, said = work(line, registry, tmp_path / "0", number=0, shards=2)
    assert (first.is_done, said, reduced_calls(noted)) == (True, [], {})
    assert work(line, registry, tmp_path / "1", number=1, shards=2)[0].status == "succeeded"
    assert reduced_calls(noted) == {0: 1, 1: 1, -1: 1}
    assert work(line, registry, tmp_path / "2", number=0, shards=2)[0].status == "succeeded"
    assert reduced_calls(noted) == {0: 1, 1: 1, -1: 1}


def test_the_damaged_manifest_of_a_parent_ends_the_job_partial(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """Its tasks are unknown, so nothing is reduced: the outputs would be those of fewer tasks."""
    given(sets_of(2, calls=str(noted)), reduce="model:summarise")
    parent = load_manifest(line, "job")
    child = Manifest(job_id="job.2", study=parent.study, bundle=parent.bundle, only=(1,), parent_job_id="job")
    line.create_if_absent(manifest_key("job.2"), child.to_json())
    registry.register_job("job.2", tasks_total=1, parent_job_id="job")
    put(line, manifest_key("job"), b"{")
    assert work(line, registry, tmp_path / "child", "job.2")[0][:4] == ("partial", 1, 0, True)
    state = registry.require_job("job.2")
    assert state.error_code == "REDUCE"
    assert manifest_key("job") in str(state.error_message)
    assert (calls(noted), reduced_calls(noted)) == ({1: 1}, {})


def test_a_reduction_whose_outputs_are_refused_leaves_the_job_partial(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path
) -> None:
    """Other reductions have their outputs: one key does not end the job as failed."""
    given([*sets_of(1, calls=str(noted)), {"x": 1, "calls": str(noted)}], reduce="model:summarise")
    line.refused_key = output_key("job", next(load_manifest(line, "job").study.tasks()), "result.json")
    line.hides_values = True
    assert work(line, registry, tmp_path / "job")[0][:3] == ("partial", 2, 0)
    line.hides_values = False
    assert "The store refused the credentials" in str(record(registry).error_message)
    assert [one["params"] for one in reduced(line).values()] == [{"x": 1, "calls": str(noted)}]


def test_a_loop_over_the_tasks_of_an_earlier_call_is_refused(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """Else it would read those of the call at work."""
    code(
        model,
        MODEL
        + """
kept = []

def summarise(params, tasks):
    kept.append(tasks)
    return {"tasks": [task.seed for task in kept[0]]}
""",
    )
    given(sets_of(2), reduce="model:summarise")
    work(line, registry, tmp_path / "job", workers=1)
    message = "RuntimeError: the function to which the tasks were given has returned"
    assert message in str(record(registry).error_message)
    assert len(reduced(line)) == 1


def test_a_wait_for_cores_is_in_the_record_while_the_job_is_reduced(
    given: Given, line: LineStore, registry: JobRegistry, noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the wait of tasks is. It ends with the reductions."""
    given(sets_of(1, calls=str(noted)), reduce="model:summarise")
    waits: list[Any] = []
    run = WorkerPool.run

    def waiting(self: WorkerPool, *args: Any, **named: Any) -> Any:
        if self._feed is not None:
            for is_waiting in (True, True, False):
                self.is_waiting = is_waiting
                yield None
                until(lambda: bool(record(registry).metadata.get(WAITS_FOR)) is is_waiting, "the record")  # noqa: B023
                waits.append(record(registry).metadata.get(WAITS_FOR))
        yield from run(self, *args, **named)

    monkeypatch.setattr(WorkerPool, "run", waiting)
    assert work(line, registry, tmp_path / "job")[0].status == "succeeded"
    assert waits == [CORES_TEXT, CORES_TEXT, None]
