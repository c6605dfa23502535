"""Jobs that end early, shard by shard in this process: how many tasks that takes, and what the record says."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import OptionError
from mopsjobs.events.format import RUNNER, parse_chunk
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.runner import fail_early
from mopsjobs.runner import reporter as module
from mopsjobs.runner.fail_early import FailEarly
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import Shard, ShardResult
from support.cli import LineStore
from support.runs import PATIENCE, Given, calls, code, counts, pool_of, record, results, sets_of, study, until, work

pytestmark = pytest.mark.usefixtures("quick_runner")


def _pods(line: LineStore, registry: JobRegistry, directory: Path, shards: int, **options: Any) -> list[ShardResult]:
    """Run all shards of the job at once, each with one worker, as pods do."""

    def run(number: int) -> ShardResult:
        options.setdefault("workers", 1)
        return work(line, registry, directory / f"pod-{number}", number=number, shards=shards, **options)[0]

    with ThreadPoolExecutor(shards) as threads:
        return list(threads.map(run, range(shards)))


# --- the limit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_limit_ends_the_job_within_its_workers(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, workers: int
) -> None:
    """The model is called for no more failures than the limit and one per worker. What has succeeded stays."""
    noted = tmp_path / "calls"
    given([*sets_of(4), *({"x": number, "calls": str(noted), "fail": True} for number in range(4, 60))])
    ran, said = work(line, registry, tmp_path / "job", workers=workers, max_failures="5", first=4)
    assert (ran.status, ran.completed, ran.failed, ran.is_done) == ("partial", 4, 6, False)
    assert 6 <= sum(calls(noted).values()) <= 5 + workers
    state = record(registry)
    assert state.error_code == "FAILURES"
    reason = said[-1].rstrip(".")
    assert reason.startswith("Ended by --max-failures 5: 6 failed, ")
    assert str(state.error_message).startswith(f"{reason}; 56 of 60 tasks left no complete outputs; the first error: ")
    events = [event for entry in line.scan("events/") for event in parse_chunk(entry.value or b"")]
    assert [event["text"] for event in events if event["kind"] == RUNNER] == [reason]


def test_a_limit_counts_the_failures_of_all_shards(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(80, calls=str(noted), fail=True))
    ended = _pods(line, registry, tmp_path, 4, max_failures="10")
    assert not any(ran.is_done for ran in ended)
    assert counts(registry)[:2] == ("failed", 0)
    assert 11 <= record(registry).tasks_failed <= 10 + 4
    assert sum(calls(noted).values()) <= 10 + 4


def test_a_job_below_its_limit_runs_to_its_end(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    sets = sets_of(20)
    for number in (3, 7, 11):
        sets[number]["fail"] = True
    given(sets)
    ran, _ = work(line, registry, tmp_path / "job", max_failures="3", first=1)
    assert ran[:4] == ("partial", 17, 3, True)
    assert record(registry).error_code == "INCOMPLETE"


@pytest.mark.parametrize("seed", range(2))
def test_random_failures_do_not_end_a_job_below_its_limit(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path, seed: int
) -> None:
    """Of 300 tasks, 3 % fail at random, and the limit is 10 %. Each task is run."""
    source = (
        "import random\ndef simulate(params, seed):\n    return 1 // (random.Random(params['x']).random() >= 0.03)\n"
    )
    code(model, source)
    given([{"x": 1000 * seed + number} for number in range(300)])
    ran, _ = work(line, registry, tmp_path / "job", max_failures="10%", first=1)
    assert ran.is_done
    assert ran.completed + ran.failed == 300


def test_a_restart_counts_its_own_failures_only(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """A failed task of an earlier run is tried again, and may succeed."""
    given(sets_of(6, needs=str(tmp_path / "mended")))
    registry.report_shard("job", 0, 1, ShardReport(0, 4))
    (tmp_path / "mended").touch()
    ran, _ = work(line, registry, tmp_path / "job", max_failures="3")
    assert ran[:4] == ("succeeded", 6, 0, True)


@pytest.mark.usefixtures("quick_end")
def test_a_limit_holds_while_the_registry_is_away(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """The shard then knows its own failures."""
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    given(sets_of(40, calls=str(noted), gate=str(gate), fail=True))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "job", max_failures="5", outage_seconds=0.0)
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        line.down = True
        gate.touch()
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.failed) == (None, 6)
    assert sum(calls(noted).values()) <= 5 + 2


def test_a_failure_is_in_the_record_before_the_next_task(
    line: LineStore, registry: JobRegistry, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit. Each worker then has one task at most."""
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 3600.0)  # no report of the thread
    registry.register_job("job", tasks_total=9)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(pool_of(model, 3)))
        reporter = Reporter(registry, "job", 0, 1, counted := Counts(), register=lambda: None)
        stack.callback(reporter.stop)
        early = FailEarly(Shard("job", max_failures="5"), 9, counted, reporter, OutageRetry(0.0, time.sleep))
        admitted = early.admit(enumerate(study(sets_of(9)).tasks()), 9, pool)
        first, *_ = handed_out = [next(admitted) for _ in range(4)]
        assert first is not None
        assert [one is None for one in handed_out] == [False, False, False, True]
        counted.add(failed=1)
        early.note(TaskResult(*first, None, {"type": "E", "message": ""}), has_failed=True)
        assert record(registry).tasks_failed == 1
        assert [next(admitted) is None for _ in range(2)] == [False, True]


def test_tasks_that_wait_for_another_attempt_leave_no_worker_idle(registry: JobRegistry, model: Path) -> None:
    """With a limit. What runs again is in hand like others, and ends once."""
    registry.register_job("job", tasks_total=9)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(pool_of(model, 2)))
        reporter = Reporter(registry, "job", 0, 1, Counts(), register=lambda: None)
        stack.callback(reporter.stop)
        early = FailEarly(Shard("job", max_failures="5"), 9, Counts(), reporter, OutageRetry(0.0, time.sleep))
        admitted = early.admit(enumerate(study(sets_of(9)).tasks()), 9, pool)
        first, second, full = (next(admitted) for _ in range(3))
        assert first is not None
        assert second is not None
        assert full is None
        ended = TaskResult(*first, None, {"type": "E", "message": ""}, Outcome.FAILED, 1, is_final=False)
        early.note(ended, has_failed=True)
        assert [next(admitted) is None for _ in range(2)] == [False, True]
        early.note(ended._replace(attempt=2), has_failed=True)
        assert next(admitted) is None
        early.note(ended._replace(attempt=3, is_final=True), has_failed=True)
        assert next(admitted) is None
        early.note(TaskResult(*second, {}, None), has_failed=False)
        assert [next(admitted) is None for _ in range(2)] == [False, True]


@pytest.mark.parametrize(("failed", "ends"), [(12, False), (40, False), (46, True)])
def test_a_share_counts_the_workers_of_silent_shards(
    line: LineStore, registry: JobRegistry, failed: int, ends: bool
) -> None:
    """Of 100 shards with 4 workers each, those have reported that had a failure, and no task has succeeded yet."""
    registry.register_job("job", tasks_total=5000)
    for number in range(failed):
        registry.report_shard("job", number, 100, ShardReport(0, 1))
    shard = Shard("job", 0, 100, workers=4, max_failures="10%")
    reporter = Reporter(registry, "job", 0, 100, counted := Counts(), register=lambda: None)
    counted.add(failed=1)
    reporter.finish(is_done=False)
    early = FailEarly(shard, 5000, counted, reporter, OutageRetry(0.0, lambda _seconds: None))
    assert (early.end is not None) == ends


def test_an_invalid_limit_of_a_shard_is_refused(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(1))
    with pytest.raises(OptionError, match="invalid max_failures 'many'"):
        work(line, registry, tmp_path / "job", max_failures="many")


# --- the first tasks ------------------------------------------------------------------------------------------------


def test_a_broken_import_is_tried_by_one_shard(
    given: Given, line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """The model is loaded once, whatever the shards and their workers. All of them end."""
    noted = tmp_path / "calls"
    code(model, f"open({str(noted)!r}, 'a').write('0 0\\n')\nimport nothing_of_that_name\n")
    given(sets_of(120))

    def run(number: int) -> None:
        with contextlib.suppress(ModelError):
            pod = {"number": number, "shards": 4, "workers": 2, "wait_for_manifest": True}
            assert not work(line, registry, tmp_path / f"pod-{number}", **pod)[0].is_done

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    assert calls(noted) == {0: 1}
    assert (record(registry).status, record(registry).error_code) == ("failed", "MODEL")


@pytest.mark.parametrize("shards", [1, 4])
def test_a_model_that_always_fails_runs_five_tasks(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, shards: int
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(60, calls=str(noted), fail=True))
    ended = _pods(line, registry, tmp_path, shards, workers=2, first=1)
    assert not any(ran.is_done for ran in ended)
    assert sum(calls(noted).values()) == 5
    state = record(registry)
    assert (state.status, state.error_code, state.tasks_failed) == ("failed", "FIRST", 5)
    assert str(state.error_message).startswith("Ended by --first 1: the first 5 tasks failed; 60 of 60 tasks left no")


def test_names_of_outputs_are_checked_by_the_first_tasks(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    noted = tmp_path / "calls"
    given(sets_of(60, calls=str(noted)), outputs=["table.csv"])
    _pods(line, registry, tmp_path, 1, first=1)
    assert sum(calls(noted).values()) == 5
    assert "MissingOutput: it left no output table.csv" in str(record(registry).error_message)


@pytest.mark.parametrize("shards", [1, 3])
def test_a_first_task_that_fails_alone_does_not_end_the_job(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, shards: int
) -> None:
    sets = sets_of(30)
    sets[0]["fail"] = True
    given(sets)
    assert all(ran.is_done for ran in _pods(line, registry, tmp_path, shards, first=1))
    assert counts(registry) == ("partial", 29, 1, 29)


def test_no_other_task_begins_before_the_first_has_ended(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """Of its own shard and of the others, which read the record meanwhile. A task that began too early would fail."""
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    first = {"x": 0, "calls": str(noted), "gate": str(gate)}
    given([first, *sets_of(30, calls=str(noted), needs=str(gate))[1:]])
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(_pods, line, registry, tmp_path, 3, workers=2, first=1)
        until(lambda: len(record(registry).shards) == 3 and calls(noted), "the first task, and a report of each shard")
        before = line.calls["get"]
        until(lambda: line.calls["get"] > before + 20, "reads of the record by each shard")
        assert calls(noted) == {0: 1}
        gate.touch()
        running.result(PATIENCE)
    assert calls(noted) == dict.fromkeys(range(30), 1)
    assert record(registry).status == "succeeded"


def test_shards_of_one_task_each_are_tried_in_turn(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """The first shard has nothing left for a second try, so the next one has it."""
    noted = tmp_path / "calls"
    given(sets_of(8, calls=str(noted), fail=True))
    _pods(line, registry, tmp_path, 8, first=1)
    assert calls(noted) == dict.fromkeys(range(5), 1)
    assert record(registry).error_code == "FIRST"


def test_a_lost_first_shard_delays_the_others_only(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod never comes."""
    monkeypatch.setattr(fail_early, "WAIT_SECONDS", 1.0)
    given(sets_of(9))
    ran, said = work(line, registry, tmp_path / "pod-1", number=1, shards=3, first=1)
    assert (ran.completed, ran.is_done) == (3, True)
    assert said == ["Waiting for the first tasks of the job, which another shard runs, up to 1s."]


def test_a_waiting_shard_ends_with_its_job(
    given: Given, line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    given(sets_of(9))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(work, line, registry, tmp_path / "pod-1", number=1, shards=3, first=1)
        until(lambda: "1" in record(registry).shards, "its first report")
        registry.cancel_job("job")
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.completed, ran.is_done) == ("cancelled", 0, False)
    assert results(line) == {}
