"""One shard of one job, from its manifest to its end, in this process: what is stored and what the record says."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.bundles.bundle import BundleError
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import NoManifestError
from mopsjobs.events.format import parse_chunk
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.shard import TaskProgress
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import NAMES_NAME
from mopsjobs.studies.outputs import output_key
from support.cli import LineStore
from support.doubles import FaultyStore
from support.runs import PATIENCE, Given, calls, code, counts, place, record, results, sets_of, study, until, work

pytestmark = pytest.mark.usefixtures("quick_runner")


def _events(store: VersionedStore) -> list[Any]:
    return [event for entry in store.scan("events/") for event in parse_chunk(entry.value or b"")]


# --- the plain way --------------------------------------------------------------------------------------------------


def test_every_output_is_stored_under_its_key_and_the_job_succeeds(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(5), n_replicates=2)
    ran, said = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 10, 0, True)
    assert said == []
    tasks = list(study(sets_of(5), n_replicates=2).tasks())
    expected = {
        output_key("job", task, "result.json")[len("results/job/") :]: json.dumps(
            {"seed": task.seed, "x": task.params["x"]}
        ).encode()
        for task in tasks
    }
    assert results(line) == expected
    assert counts(registry) == ("succeeded", 10, 0, 10)
    assert [step["status"] for step in record(registry).transitions][-3:] == ["running", "validating", "succeeded"]


def test_progress_begins_when_the_workers_are_ready(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """Before, they start and load the model. The total is the shard's; what another run did is done already."""
    code(model, "def simulate(params, seed):\n    return {'result.json': 1}\n")
    given(sets_of(9))
    line.create_if_absent(output_key("job", next(iter(study(sets_of(9)).tasks())), "result.json"), b"theirs")
    seen: list[TaskProgress] = []
    work(line, registry, tmp_path / "job", shards=2, on_progress=seen.append)
    assert seen[0] == (1, 5, False, False, None)
    assert seen[-1].total == 5
    assert seen[-1].has_begun
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert all(progress.done == 1 for progress in seen if not progress.has_begun)


def test_outputs_that_nobody_asked_for_are_left_out(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    code(model, "def simulate(params, seed):\n    return {'a': b'1', 'b': b'2'}\n")
    given(sets_of(2), outputs=["b"])
    assert work(line, registry, tmp_path / "job")[0].status == "succeeded"
    assert sorted(name.rpartition("/")[2] for name in results(line)) == ["b", "b"]


def test_where_the_study_names_none_the_names_are_stored_with_them(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    code(model, "def simulate(params, seed):\n    return {'b': b'2', 'a': b'1'}\n")
    given(sets_of(1), outputs=None)
    assert work(line, registry, tmp_path / "job")[0].status == "succeeded"
    found = {name.rpartition("/")[2]: value for name, value in results(line).items()}
    assert found == {"a": b"1", "b": b"2", NAMES_NAME: b'["a", "b"]'}


def test_what_is_done_is_not_done_again(given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path) -> None:
    """A job that has been cut short: some outputs are there, from another runner."""
    noted = tmp_path / "calls"
    sets = sets_of(6, calls=str(noted))
    given(sets)
    for task in list(study(sets).tasks())[:4]:
        line.create_if_absent(output_key("job", task, "result.json"), b"theirs")
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 6, 0, True)
    assert calls(noted) == {4: 1, 5: 1}
    assert list(results(line).values()).count(b"theirs") == 4


def test_running_an_ended_job_again_calls_nothing_and_changes_nothing(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(3, calls=str(noted)))
    work(line, registry, tmp_path / "job")
    before = record(registry)
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert record(registry) == before
    assert calls(noted) == dict.fromkeys(range(3), 1)


def test_a_job_that_has_ended_loads_no_model(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """A pod that is tried again reads the record first. Its tasks are left, and its counts too."""
    (model / "model.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'x')\n")
    given(sets_of(3))
    registry.update_status("job", "scheduled")
    before = registry.finalize_job("job", "failed")
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("failed", 0, 0, False)
    assert record(registry) == before
    assert not (tmp_path / "loaded").exists()


def test_a_job_that_was_never_submitted_is_not_run(line: LineStore, registry: JobRegistry, tmp_path: Path) -> None:
    with pytest.raises(NoManifestError, match="has no manifest"):
        work(line, registry, tmp_path / "job")


@pytest.mark.parametrize("of", [1, 2, 3])
def test_the_same_simulation_is_run_once_for_all_of_its_tasks(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, of: int
) -> None:
    """It counts for each of them.

    A seed that is named may be one that is drawn, and two that are drawn may be alike.
    """
    noted = tmp_path / "calls"
    one = {"x": 1, "calls": str(noted)}
    drawn = list(study([one], n_replicates=3).tasks())
    sets = [one, {"params": one, "seed": drawn[1].seed}, {"x": 2, "calls": str(noted)}]
    given(sets, n_replicates=3)
    done = [work(line, registry, tmp_path / str(n), number=n, shards=of, workers=1)[0] for n in range(of)]
    assert sum(ran.completed for ran in done) == 7
    assert calls(noted) == {1: 3, 2: 3}
    assert counts(registry) == ("succeeded", 7, 0, 7)
    again = [work(line, registry, tmp_path / f"again-{n}", number=n, shards=of, workers=1)[0] for n in range(of)]
    assert [ran.completed for ran in again] == [ran.completed for ran in done]


# --- several shards -------------------------------------------------------------------------------------------------


def test_shards_share_the_tasks_and_add_up_in_one_record_that_ends_once(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(40, calls=str(noted)))
    ends: list[str] = []

    def run(number: int) -> str | None:
        ran, _ = work(line, registry, tmp_path / f"shard-{number}", number=number, shards=4, workers=1)
        assert (ran.completed, ran.failed, ran.is_done) == (10, 0, True)
        return ran.status

    with ThreadPoolExecutor(4) as threads:
        ends = [status or "" for status in threads.map(run, range(4))]
    assert set(ends) <= {"running", "validating", "succeeded"}
    assert "succeeded" in ends
    assert calls(noted) == dict.fromkeys(range(40), 1)
    assert counts(registry) == ("succeeded", 40, 0, 40)
    assert [step["status"] for step in record(registry).transitions].count("succeeded") == 1


def test_the_job_does_not_end_before_its_last_shard(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(7))
    for number, (status, count) in enumerate([("running", 3), ("running", 5), ("succeeded", 7)]):
        ran, _ = work(line, registry, tmp_path / str(number), number=number, shards=3, workers=1)
        assert ran.status == status
        assert record(registry).tasks_completed == count


def test_more_shards_than_tasks_end_as_well(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(2))
    for number in range(4):
        work(line, registry, tmp_path / str(number), number=number, shards=4, workers=1)
    assert counts(registry) == ("succeeded", 2, 0, 2)


def test_a_job_begun_in_shards_can_be_ended_by_one_runner_alone(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """What the shards had counted is not counted twice."""
    given(sets_of(6))
    work(line, registry, tmp_path / "1", number=1, shards=3, workers=1)
    ran, _ = work(line, registry, tmp_path / "all", outage_seconds=2.0)
    assert ran[:4] == ("succeeded", 6, 0, True)
    assert counts(registry) == ("succeeded", 6, 0, 6)


def test_the_record_stays_small_whatever_the_job(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """400 tasks, of which some fail, in 20 shards."""
    code(model, "def simulate(params, seed):\n    return params['x'] if params['x'] % 20 else 1 / 0\n")
    given(sets_of(400))
    for number in range(20):
        work(line, registry, tmp_path / "job", number=number, shards=20, workers=1)
    assert counts(registry) == ("partial", 380, 20, 380)
    found = line.get("jobs/job/state.json")
    assert found is not None
    assert len(found.value) < 4096


# --- what fails -----------------------------------------------------------------------------------------------------


def test_tasks_that_fail_make_the_job_partial_and_are_told(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    sets = sets_of(6)
    sets[2]["fail"] = sets[4]["fail"] = True
    given(sets)
    ran, said = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("partial", 4, 2, True)
    assert len(said) == 1
    assert said[0] in {f"task {number} (x={number}, fail=True): ValueError: as asked" for number in (2, 4)}
    state = record(registry)
    assert (state.error_code, state.tasks_failed, state.tasks_verified) == ("INCOMPLETE", 2, 4)
    assert state.error_message == f"2 of 6 tasks left no complete outputs; the first error: {said[0]}"
    tasks = list(study(sets).tasks())
    assert sorted(state.missing_outputs) == sorted(output_key("job", tasks[n], "result.json") for n in (2, 4))
    failures = [event for event in _events(line) if event["kind"] == "task_failed"]
    assert sorted(event["task"] for event in failures) == [2, 4]
    assert {event["error"]["message"] for event in failures} == {"as asked"}


def test_a_job_of_which_nothing_is_left_has_failed(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(3, fail=True))
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("failed", 0, 3, True)
    assert counts(registry) == ("failed", 0, 3, 0)


@pytest.mark.parametrize(
    ("returned", "outputs", "told"),
    [
        ("{'../out': b''}", None, "BadOutput: '../out' cannot be the name of an output"),
        ("{'_outputs.json': b'[]'}", None, "BadOutput: '_outputs.json' cannot be the name of an output"),
        ("{'a': b''}", ["a", "b"], "MissingOutput: it left no output b"),
        ("float('nan')", None, "ValueError: "),
        ("{1, 2}", None, "TypeError: "),
    ],
)
def test_outputs_that_cannot_be_taken_are_errors_of_their_task(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path, returned: str, outputs: Any,
    told: str,
) -> None:  # fmt: skip
    code(model, f"def simulate(params, seed):\n    return {returned}\n")
    given(sets_of(1), outputs=outputs)
    _, said = work(line, registry, tmp_path / "job")
    assert said[0].startswith(f"task 0: {told}")
    assert counts(registry) == ("failed", 0, 1, 0)
    assert results(line) == {}


def test_a_model_that_cannot_be_loaded_fails_the_job_and_says_why(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    code(model, "import nothing_of_that_name")
    given(sets_of(3))
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        work(line, registry, tmp_path / "job")
    state = record(registry)
    assert (state.status, state.error_code) == ("failed", "MODEL")
    assert state.error_message is not None
    assert "nothing_of_that_name" in state.error_message


def test_a_model_that_cannot_be_loaded_is_told_of_once_by_all_its_shards(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """A shard that finds the job ended by another stops, before or after it has tried the model itself."""
    code(model, "import nothing_of_that_name")
    given(sets_of(4))
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        work(line, registry, tmp_path / "job", number=0, shards=2)
    before = record(registry)
    with contextlib.suppress(ModelError):
        assert not work(line, registry, tmp_path / "job", number=1, shards=2)[0].is_done
    assert record(registry) == before
    assert before.error_code == "MODEL"


def test_an_unloadable_model_of_an_unregistered_job_is_reported(
    line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    place(line, "job", study(sets_of(2)), code(model, "import nothing_of_that_name"))
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        work(line, registry, tmp_path / "job")
    assert (record(registry).status, record(registry).error_code) == ("failed", "MODEL")


def test_an_interpreter_that_is_not_there_fails_the_job(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(2))
    with pytest.raises(ModelError, match="cannot be started"):
        work(line, registry, tmp_path / "job", python=str(tmp_path / "python"))
    assert record(registry).error_code == "MODEL"


def test_a_bundle_that_is_gone_fails_the_job(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(2))
    for key in list(line.list_keys("bundles/")):
        line.delete(key)
    with pytest.raises(BundleError, match="is not in the store"):
        work(line, registry, tmp_path / "job")
    assert (record(registry).status, record(registry).error_code) == ("failed", "MODEL")


# --- stopped by another process -------------------------------------------------------------------------------------


def test_a_cancelled_record_stops_the_work(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(8, calls=str(noted), gate=str(tmp_path / "never")))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job")
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        registry.cancel_job("job")
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.is_done) == ("cancelled", False)
    assert record(registry).status == "cancelled"
    assert len(calls(noted)) == 2


def test_a_lost_race_and_a_lost_reply_change_no_count(
    given: Given, registry: JobRegistry, line: LineStore, tmp_path: Path
) -> None:
    given(sets_of(10))
    faulty = FaultyStore(line)
    faulty.conflict_next(3)
    faulty.lose_reply_next(3)
    ran, _ = work(faulty, JobRegistry(faulty, sleep=lambda _seconds: None), tmp_path / "job")
    assert ran[:4] == ("succeeded", 10, 0, True)
    assert counts(registry) == ("succeeded", 10, 0, 10)


def test_a_worker_that_died_is_told_as_an_event(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(1, die=str(tmp_path / "died")))
    ran, _ = work(line, registry, tmp_path / "job")
    assert ran[:4] == ("succeeded", 1, 0, True)
    told = [event["text"] for event in _events(line) if event["kind"] == "runner"]
    assert told == ["task 0: its worker died (SIGKILL); it is tried again"]
