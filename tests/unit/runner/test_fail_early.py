"""Jobs that end early, shard by shard in this process: how many tasks that takes, and what the record says."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mopsjobs.engines.model_errors import ModelError
from mopsjobs.events.format import RUNNER, parse_chunk
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage, total_usage
from mopsjobs.runner import fail_early
from mopsjobs.runner import reporter as module
from mopsjobs.runner.fail_early import WAIT_SECONDS, FailEarly, TaskGate, canary_size
from mopsjobs.runner.pools.base import TaskResult
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import Shard, ShardResult
from mopsjobs.store.base import VersionedStore, VersionToken
from support.cli import Clock, LineStore
from support.runs import PATIENCE, Bench, at_once, calls, code, pool_of, results, sets_of, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


def _pods(bench: Bench, shards: int, **options: Any) -> list[ShardResult]:
    """Run all shards of the job at once, each with one worker, as pods do."""

    def run(number: int) -> ShardResult:
        options.setdefault("workers", 1)
        return bench.work(f"pod-{number}", number=number, shards=shards, **options)[0]

    return at_once(run, range(shards))


# --- the limit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_limit_ends_the_job_within_its_workers(bench: Bench, workers: int) -> None:
    """The model is called for no more failures than the limit and one per worker. What has succeeded stays."""
    noted = bench.path / "calls"
    bench.given([*sets_of(4), *({"x": number, "calls": str(noted), "fail": True} for number in range(4, 60))])
    ran, said = bench.work(workers=workers, max_failures="5", first=4)
    assert (ran.status, ran.completed, ran.failed, ran.is_done) == ("partial", 4, 6, False)
    assert 6 <= sum(calls(noted).values()) <= 5 + workers
    state = bench.record()
    assert state.error_code == "FAILURES"
    reason = said[-1].rstrip(".")
    assert reason.startswith("Ended by --max-failures 5: 6 failed, ")
    assert str(state.error_message).startswith(f"{reason}; 56 of 60 tasks left no complete outputs; the first error: ")
    events = [event for entry in bench.line.scan("events/") for event in parse_chunk(entry.value or b"")]
    assert [event["text"] for event in events if event["kind"] == RUNNER] == [reason]


def test_a_job_below_its_limit_runs_to_its_end(bench: Bench) -> None:
    sets = sets_of(20)
    for number in (3, 7, 11):
        sets[number]["fail"] = True
    bench.given(sets)
    ran, _ = bench.work(max_failures="3", first=1)
    assert ran[:4] == ("partial", 17, 3, True)
    assert bench.record().error_code == "INCOMPLETE"


class _HeldStore(LineStore):
    """A store in which no new key appears until it may."""

    def __init__(self, inner: VersionedStore) -> None:
        super().__init__(inner)
        self.may_write = threading.Event()

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        assert self.may_write.wait(PATIENCE)
        return super().create_if_absent(key, value)


def test_a_limit_is_judged_when_all_shards_have_delivered(bench: Bench) -> None:
    """A shard that begins late learns of the limit at once, while the outputs of others are on their way."""
    bench.given([*sets_of(4), *sets_of(40, fail=True)[4:]])
    held = _HeldStore(bench.line.inner)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(bench.work, "pod-0", store=held, number=0, shards=3, workers=1, max_failures="5")
        until(lambda: bench.record().tasks_failed > 5, "the limit to be exceeded")
        late, _ = bench.work("pod-1", number=1, shards=3, workers=1, max_failures="5")
        held.may_write.set()
        ended, _ = first.result(PATIENCE)
    assert (late.status, late.completed, late.is_cut) == ("running", 0, True)
    assert (ended.status, ended.completed, ended.is_cut) == ("partial", 2, True)
    assert bench.counts() == ("partial", 2, 6, 2)
    state = bench.record()
    assert (state.error_code, len(results(bench.line))) == ("FAILURES", 2)
    assert str(state.error_message).startswith("Ended by --max-failures 5: 6 failed, ")


def test_a_restart_counts_its_own_failures_only(bench: Bench) -> None:
    """A failed task of an earlier run is tried again, and may succeed."""
    bench.given(sets_of(6, needs=str(bench.path / "mended")))
    bench.registry.report_shard("job", 0, 1, ShardReport(0, 4))
    (bench.path / "mended").touch()
    ran, _ = bench.work(max_failures="3")
    assert ran[:4] == ("succeeded", 6, 0, True)


@pytest.mark.usefixtures("quick_end")
def test_a_limit_holds_while_the_registry_is_away(bench: Bench) -> None:
    """The shard then knows its own failures."""
    noted, gate = bench.path / "calls", bench.path / "gate"
    bench.given(sets_of(40, calls=str(noted), gate=str(gate), fail=True))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, max_failures="5", outage_seconds=0.0)
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        bench.line.down = True
        gate.touch()
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.failed) == (None, 6)
    assert sum(calls(noted).values()) <= 5 + 2


def test_a_failure_is_in_the_record_before_the_next_task(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit. Each worker then has one task at most."""
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 3600.0)  # no report of the thread
    bench.registry.register_job("job", tasks_total=9)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(pool_of(bench.model, 3)))
        shard, counted = Shard(job_id="job", max_failures="5"), Counts()
        reporter = Reporter(bench.registry, shard, counted, lambda: None)
        stack.callback(reporter.stop)
        early = FailEarly(shard, 9, counted, reporter, OutageRetry(0.0, time.sleep))
        admitted = early.admit(enumerate(study(sets_of(9)).tasks()), 9, pool)
        first, *_ = handed_out = [next(admitted) for _ in range(4)]
        assert first is not None
        assert [one is None for one in handed_out] == [False, False, False, True]
        counted.add(failed=1)
        early.note(TaskResult(*first, None, {"type": "E", "message": ""}), has_failed=True)
        assert bench.record().tasks_failed == 1
        assert [next(admitted) is None for _ in range(2)] == [False, True]


@pytest.mark.parametrize(("failed", "ends"), [(40, False), (46, True)])
def test_a_share_counts_the_workers_of_silent_shards(bench: Bench, failed: int, ends: bool) -> None:
    """Of 100 shards with 4 workers each, those have reported that had a failure, and no task has succeeded yet."""
    bench.registry.register_job("job", tasks_total=5000)
    for number in range(failed):
        bench.registry.report_shard("job", number, 100, ShardReport(0, 1))
    shard = Shard(job_id="job", number=0, shards=100, workers=4, max_failures="10%")
    reporter = Reporter(bench.registry, shard, counted := Counts(), lambda: None)
    counted.add(failed=1)
    reporter.finish(is_done=False)
    early = FailEarly(shard, 5000, counted, reporter, OutageRetry(0.0, lambda _seconds: None))
    assert (early.end is not None) == ends


# --- the budget -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hour_each")
@pytest.mark.parametrize(("shards", "workers"), [(1, 1), (1, 3), (4, 1), (4, 2)])
def test_a_budget_ends_the_job_within_its_workers(bench: Bench, shards: int, workers: int) -> None:
    """The attempts that end after the budget is reached are those at work then. They count, failures too."""
    noted, budget = bench.path / "calls", 20
    bench.given([{"x": number, "calls": str(noted), "fail": number % 5 == 0} for number in range(100)])
    ended = _pods(bench, shards, workers=workers, max_cpu_hours=float(budget), first=0)
    assert all(ran.is_done for ran in ended), "nothing is left to a restart"
    state, ran = bench.record(), sum(calls(noted).values())
    assert (state.status, state.error_code) == ("partial", "BUDGET")
    assert budget <= ran <= budget + shards * workers - 1
    assert (state.tasks_completed + state.tasks_failed, state.tasks_verified) == (ran, state.tasks_completed)
    assert total_usage(state).cpu_seconds == ran * 3600
    reason = (
        f"Ended by --max-cpu-hours 20: {ran}.0 of 20 CPU-hours used; {100 - state.tasks_completed} of 100 tasks left"
    )
    assert str(state.error_message).startswith(reason)


@pytest.mark.usefixtures("hour_each")
def test_no_other_attempt_begins_when_a_budget_is_used(bench: Bench) -> None:
    """Each task would have 50. It has neither completed nor failed, so a resumed job runs it."""
    noted = bench.path / "calls"
    bench.given(sets_of(3, calls=str(noted), always_die=True))
    ran, _ = bench.work(workers=3, max_cpu_hours=5.0, retries=50, retry_on="died")
    assert 5 <= sum(calls(noted).values()) <= 7
    state = bench.record()
    assert (ran.is_done, state.status, state.error_code, state.tasks_failed) == (True, "failed", "BUDGET", 0)


@pytest.mark.usefixtures("hour_each")
def test_a_budget_holds_without_a_report_of_the_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard reports before a worker begins the next task, however rarely its thread does."""
    monkeypatch.setattr(module, "PROGRESS_SECONDS", 3600.0)
    noted = bench.path / "calls"
    bench.given(sets_of(100, calls=str(noted)))
    _pods(bench, 4, max_cpu_hours=10.0, first=0)
    assert 10 <= sum(calls(noted).values()) <= 13


@pytest.mark.parametrize(("shards", "tasks"), [(1, 10), (2, 7)])
def test_a_forecast_has_the_tasks_that_a_budget_allows(bench: Bench, shards: int, tasks: int) -> None:
    """Four tasks took four hours of ten. Shards that have work left share the rest."""
    bench.registry.register_job("job", tasks_total=100)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(contextlib.closing(pool_of(bench.model, 1)))
        shard = Shard(job_id="job", shards=shards, max_cpu_hours=10.0)
        reporter = Reporter(bench.registry, shard, counted := Counts(), lambda: None)
        stack.callback(reporter.stop)
        reporter.measured = lambda: (ShardUsage(4 * 3600.0, None, None, None), None)
        early = FailEarly(shard, 100, counted, reporter, OutageRetry(0.0, time.sleep))
        admitted = early.admit(enumerate(study(sets_of(100)).tasks()), 100, pool)
        assert early.affordable(100) == 100, "no task has ended"
        for _ in range(4):
            task = next(admitted)
            assert task is not None
            early.note(TaskResult(*task, {}, None), has_failed=False)
        assert [early.affordable(todo) for todo in (100, 5)] == [tasks, 5]


@pytest.mark.usefixtures("hour_each")
def test_a_budget_ends_an_adaptive_study(bench: Bench) -> None:
    """Its sets ask for more replicates, and get none. A resumed job goes on with a budget of its own."""
    noted = bench.path / "calls"
    wish = {"min": 2, "max": 50, "until": {"seed": {"absolute": 1.0}}}
    bench.given(sets_of(4, calls=str(noted)), n_replicates=wish)
    _pods(bench, 2, max_cpu_hours=20.0, first=0)
    state = bench.record()
    assert (state.status, state.error_code) == ("partial", "BUDGET")
    assert 20 <= sum(calls(noted).values()) == state.tasks_completed <= 21


@pytest.mark.usefixtures("hour_each")
def test_a_job_within_its_budget_succeeds(bench: Bench) -> None:
    """Also if its last task uses the rest."""
    bench.given(sets_of(8))
    _pods(bench, 4, max_cpu_hours=8.0, first=0)
    assert (bench.counts(), bench.record().error_code) == (("succeeded", 8, 0, 8), None)


@pytest.mark.usefixtures("hour_each")
def test_a_shard_that_never_begins_does_not_hold_up_the_end(bench: Bench) -> None:
    """One that was at work does: it ends when its restart has seen the budget. That runs no task."""
    noted = bench.path / "calls"
    bench.given(sets_of(40, calls=str(noted)))
    bench.registry.report_shard("job", 1, 4, ShardReport(0, 0, usage=ShardUsage(3600.0, None, None, None)))
    ran, _ = bench.work("pod-0", number=0, shards=4, workers=1, max_cpu_hours=5.0, first=0)
    assert (ran.status, ran.is_done, sum(calls(noted).values())) == ("running", True, 4)
    ran, said = bench.work("pod-1", number=1, shards=4, workers=1, max_cpu_hours=5.0, first=0)
    assert (ran.status, ran.is_done, sum(calls(noted).values())) == ("partial", True, 4)
    assert said[-1] == "Ended by --max-cpu-hours 5: 5.00 of 5 CPU-hours used."
    assert bench.record().error_code == "BUDGET"


@pytest.mark.usefixtures("hour_each")
def test_a_restart_counts_what_earlier_runs_of_its_shard_used(bench: Bench) -> None:
    noted = bench.path / "calls"
    bench.given(sets_of(40, calls=str(noted)))
    bench.registry.report_shard("job", 0, 1, ShardReport(0, 0, usage=ShardUsage(7 * 3600.0, None, None, None)))
    ran, _ = bench.work(workers=1, max_cpu_hours=10.0)
    assert (ran.status, sum(calls(noted).values())) == ("partial", 3)
    assert total_usage(bench.record()).cpu_seconds == 10 * 3600


# --- the first tasks ------------------------------------------------------------------------------------------------


def test_a_broken_import_is_tried_by_one_shard(bench: Bench) -> None:
    """The model is loaded once, whatever the shards and their workers. All of them end."""
    noted = bench.path / "calls"
    code(bench.model, f"open({str(noted)!r}, 'a').write('0 0\\n')\nimport nothing_of_that_name\n")
    bench.given(sets_of(120))

    def run(number: int) -> None:
        with contextlib.suppress(ModelError):
            pod = {"number": number, "shards": 4, "workers": 2, "wait_for_manifest": True}
            assert not bench.work(f"pod-{number}", **pod)[0].is_done

    at_once(run, range(4))
    assert calls(noted) == {0: 1}
    assert (bench.record().status, bench.record().error_code) == ("failed", "MODEL")


@pytest.mark.parametrize(("shards", "more"), [(1, {"outputs": ["table.csv"]}), (4, {})])
def test_a_model_that_always_fails_runs_five_tasks(bench: Bench, shards: int, more: dict[str, Any]) -> None:
    """By an error, or by the names of its outputs."""
    noted = bench.path / "calls"
    bench.given(sets_of(60, calls=str(noted), fail=not more), **more)
    ended = _pods(bench, shards, workers=2, first=1)
    assert not any(ran.is_done for ran in ended)
    assert sum(calls(noted).values()) == 5
    state = bench.record()
    assert (state.status, state.error_code, state.tasks_failed) == ("failed", "FIRST", 5)
    assert str(state.error_message).startswith("Ended by --first 1: the first 5 tasks failed; 60 of 60 tasks left no")


@pytest.mark.parametrize("shards", [1, 3])
def test_a_first_task_that_fails_alone_does_not_end_the_job(bench: Bench, shards: int) -> None:
    sets = sets_of(30)
    sets[0]["fail"] = True
    bench.given(sets)
    assert all(ran.is_done for ran in _pods(bench, shards, first=1))
    assert bench.counts() == ("partial", 29, 1, 29)


def test_no_other_task_begins_before_the_first_has_ended(bench: Bench) -> None:
    """Of its own shard and of the others, which read the record meanwhile. A task that began too early would fail."""
    noted, gate = bench.path / "calls", bench.path / "gate"
    first = {"x": 0, "calls": str(noted), "gate": str(gate)}
    bench.given([first, *sets_of(30, calls=str(noted), needs=str(gate))[1:]])
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(_pods, bench, 3, workers=2, first=1)
        until(lambda: len(bench.record().shards) == 3 and calls(noted), "the first task, and a report of each shard")
        before = bench.line.calls["get"]
        until(lambda: bench.line.calls["get"] > before + 20, "reads of the record by each shard")
        assert calls(noted) == {0: 1}
        gate.touch()
        running.result(PATIENCE)
    assert calls(noted) == dict.fromkeys(range(30), 1)
    assert bench.record().status == "succeeded"


def test_shards_of_one_task_each_are_tried_in_turn(bench: Bench) -> None:
    """The first shard has nothing left for a second try, so the next one has it."""
    noted = bench.path / "calls"
    bench.given(sets_of(8, calls=str(noted), fail=True))
    _pods(bench, 8, first=1)
    assert calls(noted) == dict.fromkeys(range(5), 1)
    assert bench.record().error_code == "FIRST"


def test_a_lost_first_shard_delays_the_others_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pod never comes."""
    monkeypatch.setattr(fail_early, "WAIT_SECONDS", 1.0)
    bench.given(sets_of(9))
    ran, said = bench.work("pod-1", number=1, shards=3, first=1)
    assert (ran.completed, ran.is_done) == (3, True)
    assert said == ["Waiting for the first tasks of the job, which another shard runs, up to 1s."]


def test_a_waiting_shard_ends_with_its_job(bench: Bench) -> None:
    bench.given(sets_of(9))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, "pod-1", number=1, shards=3, first=1)
        until(lambda: "1" in bench.record().shards, "its first report")
        bench.registry.cancel_job("job")
        ran, _ = running.result(PATIENCE)
    assert (ran.status, ran.completed, ran.is_done) == ("cancelled", 0, False)
    assert results(bench.line) == {}


# --- the gate alone --------------------------------------------------------------------------------------------------


def _gate(size: int, count: int, *ended: int, **more: Any) -> TaskGate:
    return TaskGate(enumerate(study(sets_of(count)).tasks()), count, size, *ended, **more)


def _now(gate: TaskGate) -> list[int]:
    """Return the positions of the tasks that may begin now."""
    return [task[0] for task in itertools.takewhile(lambda task: task is not None, gate) if task is not None]


def _end(gate: TaskGate, *failures: bool) -> None:
    for has_failed in failures:
        gate.note(1, is_final=True, has_failed=has_failed)


@pytest.mark.parametrize(
    ("shard", "total", "size"),
    [
        (Shard(job_id="job", first=3), 2, 3),
        (Shard(job_id="job", scheduler="tcp://here:1"), 101, 1),
        (Shard(job_id="job", scheduler="tcp://here:1"), 100, 0),
        (Shard(job_id="job", shards=4, wait_for_manifest=True, first=0), 101, 0),
    ],
)
def test_a_cluster_runs_one_task_first_by_default(shard: Shard, total: int, size: int) -> None:
    assert canary_size(shard, total) == size


def test_failures_alone_lead_to_tries_further_on() -> None:
    """The tasks between them are not lost: they come after a success."""
    gate = _gate(1, 20)
    assert _now(gate) == [0]
    _end(gate, True)
    assert _now(gate) == [5, 10, 15, 1]
    _end(gate, True, True)
    assert _now(gate) == []
    _end(gate, False)
    assert _now(gate) == [2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 16, 17, 18, 19]
    assert not gate.has_failed


@pytest.mark.parametrize(("size", "tries"), [(1, 5), (4, 5), (8, 8)])
def test_a_job_ends_after_failures_alone(size: int, tries: int) -> None:
    gate = _gate(size, 30)
    while _now(gate):
        assert not gate.has_failed
        _end(gate, *[True] * gate.in_hand)
    assert gate.has_failed
    assert gate.tries == tries


def test_what_ended_before_counts() -> None:
    """Of another shard, or of an earlier run. Old failures alone never end a job: one has to be new."""
    assert _gate(3, 9, 1, 2).has_passed
    assert not _gate(3, 9, 1, 1).has_passed
    gate = _gate(1, 30, 0, 9)
    assert len(_now(gate)) == 1
    assert not gate.has_failed
    _end(gate, True)
    assert gate.has_failed


def test_the_others_wait_for_a_limited_time(clock: Clock) -> None:
    gate = _gate(1, 3, clock=clock.monotonic)
    assert _now(gate) == [0]
    clock.advance(seconds=WAIT_SECONDS - 1)
    assert _now(gate) == []
    clock.advance(seconds=1)
    assert _now(gate) == [1, 2]


def test_tasks_that_wait_for_another_attempt_leave_no_worker_idle() -> None:
    """What runs again is in hand like others, and ends once."""
    gate = _gate(0, 9, 0, 0, 2)
    assert _now(gate) == [0, 1]
    gate.note(1, is_final=False, has_failed=True)
    assert _now(gate) == [2]
    gate.note(2, is_final=False, has_failed=True)
    assert _now(gate) == []
    gate.note(3, is_final=True, has_failed=True)
    assert _now(gate) == []
    _end(gate, False)
    assert _now(gate) == [3]
