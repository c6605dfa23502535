"""One shard of one job, from its manifest to its end, in this process: what is stored and what the record says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.bundles.bundle import BundleError
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import StoreAccessError, StoreUnavailableError
from mopsjobs.events.format import parse_chunk
from mopsjobs.ledger.environment import Environment, EnvironmentNotes, environment_keys, parse_environment
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.registry.notes import OWN_WRITE, own_write_text
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.runner.reducer import ReduceEnd, Reducer
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.shard import Shard, TaskProgress
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import load_manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.submission.relay import deliver
from support.cli import LineStore
from support.doubles import FaultyStore
from support.ledgers import attempts_in
from support.runs import MODEL, PATIENCE, Bench, at_once, calls, code, place, results, sets_of, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


def _events(store: VersionedStore) -> list[Any]:
    return [event for entry in store.scan("events/") for event in parse_chunk(entry.value or b"")]


# --- the plain way --------------------------------------------------------------------------------------------------


def test_every_output_is_stored_under_its_key_and_the_job_succeeds(bench: Bench) -> None:
    bench.given(sets_of(5), n_replicates=2)
    ran, said = bench.work()
    assert ran[:4] == ("succeeded", 10, 0, True)
    assert said == []
    tasks = list(study(sets_of(5), n_replicates=2).tasks())
    expected = {
        output_key("job", task, "result.json")[len("results/job/") :]: json.dumps(
            {"seed": task.seed, "x": task.params["x"]}
        ).encode()
        for task in tasks
    }
    assert results(bench.line) == expected
    assert bench.counts() == ("succeeded", 10, 0, 10)
    assert [step["status"] for step in bench.record().transitions][-3:] == ["running", "validating", "succeeded"]


def test_progress_begins_when_the_workers_are_ready(bench: Bench) -> None:
    """Before, they start and load the model. The total is the shard's; what another run did is done already."""
    code(bench.model, "def simulate(params, seed):\n    return {'result.json': 1}\n")
    bench.given(sets_of(9))
    bench.line.create_if_absent(output_key("job", next(iter(study(sets_of(9)).tasks())), "result.json"), b"theirs")
    seen: list[TaskProgress] = []
    bench.work(shards=2, on_progress=seen.append)
    assert seen[0] == (1, 5, False, False, None)
    assert seen[-1].total == 5
    assert seen[-1].has_begun
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert all(progress.done == 1 for progress in seen if not progress.has_begun)


def test_where_the_study_names_none_the_names_are_stored_with_them(bench: Bench) -> None:
    code(bench.model, "def simulate(params, seed):\n    return {'b': b'2', 'a': b'1'}\n")
    bench.given(sets_of(1), outputs=None)
    assert bench.work()[0].status == "succeeded"
    found = {name.rpartition("/")[2]: value for name, value in results(bench.line).items()}
    assert found == {"a": b"1", "b": b"2", NAMES_NAME: b'["a", "b"]'}


@pytest.mark.parametrize("scratch", [False, True])
def test_a_study_says_where_its_tasks_work(bench: Bench, *, scratch: bool) -> None:
    source = "import os\ndef simulate(params, seed): return os.getcwd() == os.environ['MOPS_JOBS_TASK_DIR']\n"
    code(bench.model, source)
    bench.given(sets_of(1), scratch=scratch)
    assert bench.work()[0].status == "succeeded"
    assert [*results(bench.line).values()] == [json.dumps(scratch).encode()]


@pytest.mark.parametrize("name", ["SLURM_TMPDIR", "TMPDIR", None])
def test_on_slurm_tasks_work_on_the_disk_of_the_node(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str | None
) -> None:
    """If the site names one: what the runner keeps lies in a file system that all nodes share."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    node = tmp_path / "node"
    node.mkdir()
    if name is not None:
        monkeypatch.setenv(name, str(node))
    code(bench.model, "import os\ndef simulate(params, seed): return os.environ['MOPS_JOBS_TASK_DIR']\n")
    bench.given(sets_of(1), scratch=True)
    assert bench.work()[0].status == "succeeded"
    [where] = results(bench.line).values()
    assert (str(node) in where.decode()) is (name is not None)
    assert not any(node.glob("*/*")), "nothing is left of the task"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which files are written")
def test_a_job_warns_once_of_writes_into_the_own_directory(bench: Bench) -> None:
    """The second shard reads in the record that the first one has said so."""
    code(
        bench.model, "def simulate(params, seed):\n    open('trace.csv', 'a').close()\n    return {'result.json': 1}\n"
    )
    bench.given(sets_of(8))
    said = [line for number in (0, 1) for line in bench.work(f"shard-{number}", number=number, shards=2)[1]]
    text = own_write_text("trace.csv")
    assert said == [f"T{text[1:]}."]
    assert [event["text"] for event in _events(bench.line) if event["kind"] == "runner"] == [text]
    assert bench.record().metadata[OWN_WRITE] == "trace.csv"


def test_what_is_done_is_not_done_again(bench: Bench) -> None:
    """A job that has been cut short: some outputs are there, from another runner."""
    noted = bench.path / "calls"
    sets = bench.given(sets_of(6, calls=str(noted)))
    for task in list(study(sets).tasks())[:4]:
        bench.line.create_if_absent(output_key("job", task, "result.json"), b"theirs")
    ran, _ = bench.work()
    assert ran[:4] == ("succeeded", 6, 0, True)
    assert calls(noted) == {4: 1, 5: 1}
    assert list(results(bench.line).values()).count(b"theirs") == 4


def test_running_an_ended_job_again_calls_nothing_and_changes_nothing(bench: Bench) -> None:
    noted = bench.path / "calls"
    bench.given(sets_of(3, calls=str(noted)))
    bench.work()
    before = bench.record()
    ran, _ = bench.work()
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert bench.record() == before
    assert calls(noted) == dict.fromkeys(range(3), 1)


def test_a_job_that_has_ended_loads_no_model(bench: Bench) -> None:
    """A pod that is tried again reads the record first. Its tasks are left, and its counts too."""
    (bench.model / "model.py").write_text(f"open({str(bench.path / 'loaded')!r}, 'x')\n")
    bench.given(sets_of(3))
    bench.registry.update_status("job", "scheduled")
    before = bench.registry.finalize_job("job", "failed")
    ran, _ = bench.work()
    assert ran[:4] == ("failed", 0, 0, False)
    assert bench.record() == before
    assert not (bench.path / "loaded").exists()


@pytest.mark.parametrize("of", [1, 3])
def test_the_same_simulation_is_run_once_for_all_of_its_tasks(bench: Bench, of: int) -> None:
    """It counts for each of them.

    A seed that is named may be one that is drawn, and two that are drawn may be alike.
    """
    noted = bench.path / "calls"
    one = {"x": 1, "calls": str(noted)}
    drawn = list(study([one], n_replicates=3).tasks())
    bench.given([one, {"params": one, "seed": drawn[1].seed}, {"x": 2, "calls": str(noted)}], n_replicates=3)
    done = [bench.work(str(n), number=n, shards=of, workers=1)[0] for n in range(of)]
    assert sum(ran.completed for ran in done) == 7
    assert calls(noted) == {1: 3, 2: 3}
    assert bench.counts() == ("succeeded", 7, 0, 7)
    again = [bench.work(f"again-{n}", number=n, shards=of, workers=1)[0] for n in range(of)]
    assert [ran.completed for ran in again] == [ran.completed for ran in done]


# --- several shards -------------------------------------------------------------------------------------------------


def test_shards_share_the_tasks_and_add_up_in_one_record_that_ends_once(bench: Bench) -> None:
    noted = bench.path / "calls"
    bench.given(sets_of(40, calls=str(noted)))

    def run(number: int) -> str | None:
        ran, _ = bench.work(f"shard-{number}", number=number, shards=4, workers=1)
        assert (ran.completed, ran.failed, ran.is_done) == (10, 0, True)
        return ran.status

    ends = [status or "" for status in at_once(run, range(4))]
    assert set(ends) <= {"running", "validating", "succeeded"}
    assert "succeeded" in ends
    assert calls(noted) == dict.fromkeys(range(40), 1)
    assert bench.counts() == ("succeeded", 40, 0, 40)
    assert [step["status"] for step in bench.record().transitions].count("succeeded") == 1


def test_the_job_does_not_end_before_its_last_shard(bench: Bench) -> None:
    """Nor later, if that shard has no task."""
    bench.given(sets_of(2))
    for number, (status, count) in enumerate([("running", 1), ("running", 2), ("succeeded", 2)]):
        ran, _ = bench.work(str(number), number=number, shards=3, workers=1)
        assert (ran.status, bench.record().tasks_completed) == (status, count)


@pytest.mark.parametrize(
    ("failing", "late"),
    [(0, ShardReport(3, 0)), (0, ShardReport(3, 1, is_done=True)), (1, ShardReport(2, 0)), (1, ShardReport(3, 0))],
)
def test_the_counts_of_an_end_are_not_those_of_a_slower_runner(bench: Bench, failing: int, late: ShardReport) -> None:
    """Two pods run a shard after a node was lost. The slower one reports when the outputs have been listed."""
    sets = sets_of(4)
    sets[0]["fail"] = bool(failing)
    bench.given(sets)
    reported = list[str]()

    def report() -> None:
        if bench.record().shards.get("0") == [4 - failing, failing, 1]:
            reported.append(bench.registry.report_shard("job", 0, 1, late).status)

    bench.line.after_listing = report
    bench.work()
    assert reported == ["validating"]
    assert bench.counts() == ("partial" if failing else "succeeded", 4 - failing, failing, 4 - failing)


def test_a_job_begun_in_shards_can_be_ended_by_one_runner_alone(bench: Bench) -> None:
    """What the shards had counted is not counted twice."""
    bench.given(sets_of(6))
    bench.work("1", number=1, shards=3, workers=1)
    ran, _ = bench.work("all", outage_seconds=2.0)
    assert ran[:4] == ("succeeded", 6, 0, True)
    assert bench.counts() == ("succeeded", 6, 0, 6)


def test_the_record_stays_small_whatever_the_job(bench: Bench) -> None:
    """400 tasks, of which some fail, in 20 shards."""
    code(bench.model, "def simulate(params, seed):\n    return params['x'] if params['x'] % 20 else 1 / 0\n")
    bench.given(sets_of(400))
    for number in range(20):
        bench.work(number=number, shards=20, workers=1)
    assert bench.counts() == ("partial", 380, 20, 380)
    found = bench.line.get("jobs/job/state.json")
    assert found is not None
    assert len(found.value) < 4096


# --- what fails -----------------------------------------------------------------------------------------------------


def test_tasks_that_fail_make_the_job_partial_and_are_told(bench: Bench) -> None:
    """A task that repeats one of them counts as failed, and its missing output is named once."""
    sets = sets_of(6)
    sets[2]["fail"] = sets[4]["fail"] = True
    bench.given([*sets, sets[2]])
    ran, said = bench.work()
    assert ran[:4] == ("partial", 4, 3, True)
    assert len(said) == 1
    tasks = list(study(sets).tasks())
    assert said[0] in {
        f"task {number} (x={number}, fail=True, seed {tasks[number].seed}): ValueError: as asked" for number in (2, 4)
    }
    state = bench.record()
    assert (state.error_code, state.tasks_failed, state.tasks_verified) == ("INCOMPLETE", 3, 4)
    assert state.error_message == f"3 of 7 tasks left no complete outputs; the first error: {said[0]}"
    assert sorted(state.missing_outputs) == sorted(output_key("job", tasks[n], "result.json") for n in (2, 4))
    failures = [event for event in _events(bench.line) if event["kind"] == "task_failed"]
    assert sorted(event["task"] for event in failures) == [2, 4]
    assert {event["error"]["message"] for event in failures} == {"as asked"}


@pytest.mark.parametrize(
    ("returned", "outputs", "told"),
    [
        ("{'../out': b''}", None, "BadOutput: '../out' cannot be the name of an output"),
        ("{'_outputs.json': b'[]'}", None, "BadOutput: '_outputs.json' cannot be the name of an output"),
        ("{'a': b''}", ["a", "b"], "MissingOutput: it left no output b"),
        ("{1, 2}", None, "ResultError: the returned value: set"),
    ],
)
def test_outputs_that_cannot_be_taken_are_errors_of_their_task(
    bench: Bench, returned: str, outputs: Any, told: str
) -> None:
    code(bench.model, f"def simulate(params, seed):\n    return {returned}\n")
    bench.given(sets_of(1), outputs=outputs)
    _, said = bench.work()
    assert [str(one.outcome) for one in attempts_in(bench.line)] == ["failed"]
    assert said[0].startswith(f"task 0: {told}")
    assert bench.counts() == ("failed", 0, 1, 0)
    assert results(bench.line) == {}


def test_a_model_that_cannot_be_loaded_is_told_of_once_by_all_its_shards(bench: Bench) -> None:
    """A shard that finds the job ended by another stops, before or after it has tried the model itself."""
    code(bench.model, "import nothing_of_that_name")
    bench.given(sets_of(4))
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        bench.work(number=0, shards=2)
    before = bench.record()
    with contextlib.suppress(ModelError):
        assert not bench.work(number=1, shards=2)[0].is_done
    assert bench.record() == before
    assert (before.status, before.error_code) == ("failed", "MODEL")
    assert "nothing_of_that_name" in str(before.error_message)
    assert len(notes_of(bench.line)) == 1  # the packages are the likely reason


def test_an_unloadable_model_of_an_unregistered_job_is_reported(bench: Bench) -> None:
    place(bench.line, "job", study(sets_of(2)), code(bench.model, "import nothing_of_that_name"))
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        bench.work()
    assert (bench.record().status, bench.record().error_code) == ("failed", "MODEL")


def test_a_bundle_that_is_gone_fails_the_job(bench: Bench) -> None:
    bench.given(sets_of(2))
    for key in list(bench.line.list_keys("bundles/")):
        bench.line.delete(key)
    with pytest.raises(BundleError, match="is not in the store"):
        bench.work()
    assert (bench.record().status, bench.record().error_code) == ("failed", "MODEL")


# --- stopped by another process -------------------------------------------------------------------------------------


def test_a_cancelled_record_stops_the_work(bench: Bench) -> None:
    noted = bench.path / "calls"
    bench.given(sets_of(8, calls=str(noted), gate=str(bench.path / "never")))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work)
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        bench.registry.cancel_job("job")
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.is_done, bench.record().status) == ("cancelled", False, "cancelled")
    assert len(calls(noted)) == 2
    assert sorted((one.task, str(one.outcome)) for one in attempts_in(bench.line)) == [
        (0, "cancelled"),
        (1, "cancelled"),
    ]


def test_a_cancelled_record_counts_what_its_tasks_left_after_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last report came before the cancellation, and before the ends of these tasks."""
    monkeypatch.setattr("mopsjobs.runner.reporter.PROGRESS_SECONDS", 3600.0)
    noted, gate = bench.path / "calls", bench.path / "gate"
    sets = sets_of(3, calls=str(noted))
    sets[1]["fail"], sets[2]["gate"] = True, str(gate)
    bench.given(sets)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, workers=1)
        until(lambda: len(calls(noted)) == 3, "the last task")
        bench.registry.cancel_job("job")
        assert bench.counts() == ("cancelled", 0, 0, 0)
        gate.touch()
        running.result(PATIENCE)
    assert bench.counts() == ("cancelled", 2, 1, 0)
    assert bench.record().transitions[-1]["status"] == "cancelled"


# --- tasks that are left to a later resume ---------------------------------------------------------------------------


def test_no_shard_runs_a_task_that_is_left_to_a_later_resume(bench: Bench) -> None:
    """A task that repeats one that runs is complete with it."""
    noted = bench.path / "calls"
    sets = [*sets_of(6, calls=str(noted)), {"x": 1, "calls": str(noted)}]
    manifest = place(bench.line, "job", study(sets), bench.model)
    assert manifest.duplicate_tasks() == {6: 1}
    bench.line.delete(manifest_key("job"))
    chosen = dataclasses.replace(manifest, only=(1, 2, 6), deferred=(0, 3))
    bench.line.create_if_absent(manifest_key("job"), chosen.to_json())
    bench.registry.register_job("job", tasks_total=3)
    shown: list[TaskProgress] = []
    for number in (0, 1):
        bench.work(number=number, shards=2, on_progress=shown.append)
    assert calls(noted) == {1: 1, 2: 1}
    assert bench.counts() == ("partial", 3, 0, 3)
    assert bench.record().error_message == "left to a later resume: 2 tasks"


# --- the environment of the model ------------------------------------------------------------------------------------


def notes_of(store: VersionedStore) -> list[Environment]:
    found = [store.get(key) for key in environment_keys(store, "job")]
    return [parse_environment(one.value) for one in found if one is not None]


def test_all_shards_and_later_runs_share_one_note(bench: Bench) -> None:
    bench.given(sets_of(4))
    for number in (0, 1):
        bench.work(f"shard-{number}", number=number, shards=2)
    bench.work("again")
    (note,) = notes_of(bench.line)
    assert note.python == ".".join(map(str, sys.version_info[:3]))
    assert "pytest" in note.packages


def test_a_note_that_the_store_lacks_waits_in_the_outbox() -> None:
    store, outbox = LineStore(InMemoryVersionedStore()), InMemoryVersionedStore()
    store.down = True
    notes = EnvironmentNotes("job", store, outbox)
    for _ in range(3):
        notes.note({"python": "3.12"})
    notes.close()
    assert [note.python for note in notes_of(outbox)] == ["3.12"]
    store.down = False
    assert deliver(outbox, store, "job", lambda key, reason: None)
    assert [note.python for note in notes_of(store)] == ["3.12"]


def test_a_note_that_is_refused_stops_no_output(bench: Bench) -> None:
    """Credentials may be limited to some keys. Outputs and notes do not share them."""

    class WithoutNotes(LineStore):
        def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
            if key.startswith("environments/"):
                raise StoreAccessError("Not allowed to write environments.")
            return super().create_if_absent(key, value)

    bench.given(sets_of(4))
    bench.work(store=WithoutNotes(bench.line))
    assert bench.counts()[:2] == ("succeeded", 4)
    assert notes_of(bench.line) == []


def test_the_interpreter_here_is_not_noted_as_that_of_tasks_on_dask(bench: Bench) -> None:
    """The reduce function runs beside the runner. So it may have other packages than the tasks."""
    code(bench.model, f"{MODEL}\ndef count(params, tasks):\n    return len(tasks)\n")
    bench.given(sets_of(1), reduce="model:count")
    (task,) = load_manifest(bench.line, "job").study.tasks()
    bench.line.create_if_absent(output_key("job", task, "result.json"), b"{}")
    bench.work(scheduler="tcp://127.0.0.1:9")
    assert "all/reduced-1/result.json" in results(bench.line, "job")
    assert (bench.record().status, notes_of(bench.line)) == ("succeeded", [])


def test_only_the_last_shard_reduces_and_ends_the_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one finds all shards done when it reports its end, while the other one still reduces."""
    bench.given(sets_of(2), reduce="model:summarise")
    calls: list[str] = []
    report_done = Reporter.report_done

    def reported(reporter: Reporter) -> Any:
        state = report_done(reporter)
        if reporter._shard.number == 0:
            other = Reporter(bench.registry, Shard(job_id="job", number=1, shards=2), Counts(), lambda: None)
            other.report_done()
            other.stop()
        return state

    def reduce(*_: object) -> ReduceEnd:
        calls.append(bench.record().status)
        return ReduceEnd(True)

    monkeypatch.setattr(Reporter, "report_done", reported)
    monkeypatch.setattr(Reducer, "run", reduce)
    bench.work("0", number=0, shards=2)
    assert (calls, bench.record().status) == ([], "running")
    bench.work("1", number=1, shards=2)
    assert (calls, bench.record().status) == (["running"], "partial")  # nothing was reduced


def test_outputs_that_a_drop_does_not_take_are_for_the_login_node(bench: Bench) -> None:
    """The node has no command that delivers them, and no user who runs the job again there."""
    bench.given(sets_of(1))
    create = bench.line.create_if_absent
    bench.line.create_if_absent = lambda key, value: create(key, value) if "results/" not in key else away()  # type: ignore[method-assign]

    def away() -> None:
        raise StoreUnavailableError("away")

    ran, said = bench.work(drop=bench.path, outage_seconds=0.0)
    assert (ran.completed, ran.is_done) == (1, False)
    assert said[-1].endswith("Commands on the login node deliver them.")


def test_a_lost_race_and_a_lost_reply_change_no_count(bench: Bench) -> None:
    bench.given(sets_of(10))
    faulty = FaultyStore(bench.line)
    faulty.conflict_next(3)
    faulty.lose_reply_next(3)
    ran, _ = bench.work(store=faulty, registry=JobRegistry(faulty, sleep=lambda _seconds: None))
    assert ran[:4] == ("succeeded", 10, 0, True)
    assert bench.counts() == ("succeeded", 10, 0, 10)
