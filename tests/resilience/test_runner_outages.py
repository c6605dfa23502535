"""One shard of a job whose store is gone before, while or after it works: nothing is lost, nothing done twice."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import (
    InvalidKeyError,
    InvalidTransitionError,
    StoreAccessError,
    StoreUnavailableError,
    ValueTooLargeError,
)
from mopsjobs.ledger.attempt import NO_USAGE, Attempt, Outcome
from mopsjobs.ledger.format import chunk_key, parse_attempts, parse_chunk_key
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.ledger.writer import Entry, JournalFile, journal_path
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.notes import GROWS
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import ShardResult
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.rounds import END, EndedTask, round_key
from mopsjobs.submission.growing import GrowingJob
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import utc_now
from support.cli import LineStore
from support.runs import PATIENCE, Bench, calls, place, record, results, sets_of, study, until, work

pytestmark = pytest.mark.usefixtures("quick_runner")


# --- a store that is gone -------------------------------------------------------------------------------------------


def test_an_outage_while_it_works_costs_nothing(bench: Bench) -> None:
    """The work goes on, what it gives is kept on this disk, and is delivered when the store answers again."""
    noted, gate = bench.path / "calls", bench.path / "gate"
    sets = sets_of(12, calls=str(noted))
    sets[11]["gate"] = str(gate)
    bench.given(sets)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work)
        until(lambda: sum(calls(noted).values()) >= 2, "the work to begin")
        bench.line.down = True
        until(lambda: sum(calls(noted).values()) == 12, "the work to go on")
        gate.touch()
        kept = SQLiteVersionedStore(bench.path / "job" / "outbox.db")
        waiting = until(lambda: list(kept.list_keys("results/")), "outputs in the outbox")
        kept.close()
        bench.line.down = False
        ran, _ = running.result(PATIENCE)
    assert waiting
    assert ran[:4] == ("succeeded", 12, 0, True)
    assert calls(noted) == dict.fromkeys(range(12), 1)
    assert len(results(bench.line)) == 12
    assert bench.counts() == ("succeeded", 12, 0, 12)


@pytest.mark.usefixtures("quick_end")
def test_an_outage_beyond_the_patience_leaves_the_rest_to_a_rerun(bench: Bench) -> None:
    """The next run does what is left."""
    noted, gate = bench.path / "calls", bench.path / "gate"
    bench.given(sets_of(4, calls=str(noted), gate=str(gate)))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, outage_seconds=0.0)
        until(lambda: len(calls(noted)) == 2, "both workers at work")
        bench.line.down = True
        gate.touch()
        ran, said = running.result(PATIENCE)
    assert ran[:4] == (None, 4, 0, False)
    assert said == [
        "The registry does not answer. Outputs are kept in the directory of the job. To deliver them, run it again."
    ]
    bench.line.down = False
    assert results(bench.line) == {}
    ran, _ = bench.work()
    assert ran[:4] == ("succeeded", 4, 0, True)
    assert calls(noted) == dict.fromkeys(range(4), 1)
    assert bench.counts() == ("succeeded", 4, 0, 4)


def test_a_ledger_that_was_left_is_sent_after_an_outage_at_the_start(bench: Bench) -> None:
    """Its own attempts would otherwise wait for a next run, which may never come."""
    bench.given(sets_of(3))
    directory = JobDir(bench.path / "job").ledger(0)
    left = [Attempt(task, 1, Outcome.SUCCEEDED, 1000.0, *NO_USAGE, None, 1) for task in range(2)]
    file = JournalFile(journal_path(directory, "ab", 0))
    file.append([Entry(one) for one in (*left, left[0]._replace(task=2, outcome=Outcome.LOST, output_bytes=None))])
    file.close()
    bench.line.fail_next(1, "scan")
    ran, _ = bench.work()
    assert ran[:4] == ("succeeded", 3, 0, True)
    key = chunk_key("job", 0, "ab", 0)
    found, parts = bench.line.get(key), parse_chunk_key(key)
    assert found is not None
    assert parts is not None
    attempts = parse_attempts(found.value, parts)
    assert [str(one.outcome) for one in attempts] == ["succeeded", "succeeded", "lost"]
    assert len([key for key in bench.line.list_keys("ledger/") if key.endswith(".attempts.gz")]) == 2
    assert list(directory.iterdir()) == []


def test_a_store_that_comes_only_after_the_start_is_waited_for(bench: Bench) -> None:
    bench.given(sets_of(3))
    bench.line.down = True
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work)
        before = bench.line.calls["get"]
        until(lambda: bench.line.calls["get"] > before + 2, "it to ask for the manifest")
        bench.line.down = False
        assert running.result(PATIENCE)[0][:4] == ("succeeded", 3, 0, True)


@pytest.mark.parametrize("method", ["scan", "put", "get"])
def test_a_store_that_fails_at_the_very_end_is_asked_again(bench: Bench, method: str) -> None:
    """All shards are done: the last one must see to the end."""
    bench.given(sets_of(4))
    failed = threading.Event()

    def fails_once(key: str) -> None:
        if key.endswith("state.json") and record(JobRegistry(bench.line.inner)).status == "running":
            state = record(JobRegistry(bench.line.inner))
            if state.shards.get("0", [0, 0, 0])[2] and not failed.is_set():
                failed.set()
                bench.line.fail_next(2, method)

    bench.line.before_put = fails_once
    ran, _ = bench.work()
    assert failed.is_set()
    assert ran.status == "succeeded"
    assert bench.counts() == ("succeeded", 4, 0, 4)


def test_a_registry_that_never_heard_of_the_job_is_told(bench: Bench) -> None:
    """It was gone when the job was submitted: manifest and bundle wait in the job's directory."""
    directory = bench.path / "job"
    directory.mkdir()
    kept = SQLiteVersionedStore(directory / "outbox.db")
    place(kept, "job", study(sets_of(5)), bench.model)
    kept.close()
    ran, _ = bench.work()
    assert ran[:4] == ("succeeded", 5, 0, True)
    assert bench.counts() == ("succeeded", 5, 0, 5)
    assert (bench.record().tasks_total, bench.record().metadata["model"]) == (5, "model:simulate")
    assert len(list(bench.line.list_keys("bundles/"))) == 1
    assert bench.line.get("jobs/job/manifest.json") is not None


# --- a store that refuses -------------------------------------------------------------------------------------------


class Refusing(LineStore):
    """A store that answers some writes by an error of the test's choice."""

    def __init__(self, inner: VersionedStore, refuse: Callable[[str], Exception | None]) -> None:
        super().__init__(inner)
        self.refuse = refuse

    def create_if_absent(self, key: str, value: bytes) -> VersionToken | None:
        self._check(key)
        return super().create_if_absent(key, value)

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        self._check(key)
        return super().put(key, value, version)

    def _check(self, key: str) -> None:
        if (error := self.refuse(key)) is not None:
            raise error


def _working(store: LineStore, directory: Path, **shard: Any) -> Any:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(work, store, JobRegistry(store), directory, **shard).result(PATIENCE)


def _kept(directory: Path) -> list[str]:
    with closing(SQLiteVersionedStore(directory / "outbox.db")) as kept:
        return list(kept.list_keys("results/"))


@pytest.mark.parametrize("error", [ValueTooLargeError("it has 9 TB."), InvalidKeyError("it is no key.")])
def test_an_output_refused_for_what_it_is_fails_its_task_and_no_other(bench: Bench, error: Exception) -> None:
    bench.given(sets_of(6))
    bad = output_key("job", list(study(sets_of(6)).tasks())[2], "result.json")
    store = Refusing(bench.line, lambda key: error if key == bad else None)
    ran, said = _working(store, bench.path / "job")
    assert ran[:4] == ("partial", 5, 1, True)
    assert said == [f"task 2 (x=2): {type(error).__name__}: {error}"]
    assert bench.counts() == ("partial", 5, 1, 5)
    assert bench.record().missing_outputs == (bad,)


def test_an_output_refused_only_after_an_outage_fails_its_task_then(bench: Bench) -> None:
    bench.given(sets_of(3))
    bad = output_key("job", next(iter(study(sets_of(3)).tasks())), "result.json")
    with closing(SQLiteVersionedStore(bench.path / "job" / "outbox.db")) as kept:
        kept.create_if_absent(bad, b"large")
    store = Refusing(bench.line, lambda key: ValueTooLargeError("it is too large.") if key == bad else None)
    ran, said = _working(store, bench.path / "job")
    assert ran[:4] == ("partial", 2, 1, True)
    assert said == [f"{bad.rpartition('/')[0]}: ValueTooLargeError: it is too large."]
    assert bench.counts() == ("partial", 2, 1, 2)
    assert _kept(bench.path / "job") == []


def test_outputs_that_a_store_refuses_are_kept_and_fail_the_job(bench: Bench) -> None:
    """They are kept until the store accepts them."""
    bench.given(sets_of(4))
    denied = StoreAccessError("Not allowed to write results.")
    store = Refusing(bench.line, lambda key: denied if key.startswith("results/") else None)
    with pytest.raises(StoreAccessError, match="Not allowed to write results"):
        _working(store, bench.path / "job")
    state = bench.record()
    assert (state.status, state.error_code, state.error_message) == ("failed", "STORE", str(denied))
    assert results(bench.line) == {}
    done = _kept(bench.path / "job")
    assert done
    bench.work()
    assert {f"results/job/{name}" for name in results(bench.line)} >= set(done)
    assert _kept(bench.path / "job") == []


@pytest.mark.usefixtures("quick_end")
def test_a_runner_that_may_not_write_the_record_ends_at_once(bench: Bench) -> None:
    """It tells the reason. However long its patience: waiting does not bring permission."""
    bench.given(sets_of(4))
    store = Refusing(bench.line, lambda _key: StoreAccessError("The signature has expired."))
    with pytest.raises(StoreAccessError, match="The signature has expired"):
        _working(store, bench.path / "job", outage_seconds=1e9)
    assert bench.record().status == "pending"
    assert _kept(bench.path / "job")


def test_an_internal_error_while_sending_surfaces_and_blocks_nothing(bench: Bench) -> None:
    """More tasks than the queue holds, and each sender meets it."""
    bench.given(sets_of(200))
    store = Refusing(bench.line, lambda key: RuntimeError("a bug") if key.startswith("results/") else None)
    with pytest.raises(RuntimeError, match="a bug"):
        _working(store, bench.path / "job")


# --- progress after a restart ---------------------------------------------------------------------------------------


def test_progress_never_goes_back_while_a_restart_finds_out_what_is_done(bench: Bench) -> None:
    bench.given(sets_of(6))
    for task in list(study(sets_of(6)).tasks())[:4]:
        bench.line.create_if_absent(output_key("job", task, "result.json"), b"theirs")
    bench.registry.report_shard("job", 0, 1, ShardReport(4, 0))
    before = bench.record().revision
    seen: list[int] = []

    def look() -> None:
        if not seen:
            seen.append(-1)
            until(lambda: bench.record().revision > before, "a sign of life during the listing")
            seen[0] = bench.record().tasks_completed

    bench.line.after_listing = look
    assert bench.work()[0][:4] == ("succeeded", 6, 0, True)
    assert seen == [4]


def test_progress_never_goes_back_where_what_is_done_cannot_be_found_out(bench: Bench) -> None:
    bench.given(sets_of(30))
    for task in list(study(sets_of(30)).tasks())[:20]:
        bench.line.create_if_absent(output_key("job", task, "result.json"), b"theirs")
    bench.registry.report_shard("job", 0, 1, ShardReport(20, 0))
    bench.line.fail_next(1, "scan")
    seen: list[int] = []
    bench.line.before_put = lambda _key: seen.append(record(JobRegistry(bench.line.inner)).tasks_completed)
    assert bench.work()[0][:4] == ("succeeded", 30, 0, True)
    assert seen == sorted(seen)
    assert seen[0] == 20


def test_a_request_to_stop_ends_a_wait_at_once() -> None:
    calls: list[str] = []

    def out_of_reach() -> None:
        calls.append("called")
        raise StoreUnavailableError("Nobody answers.")

    retry = OutageRetry(1e9, lambda _seconds: retry.stop())
    with pytest.raises(StoreUnavailableError):
        retry.call(out_of_reach)
    assert len(calls) == 2


# --- asked to stop --------------------------------------------------------------------------------------------------


# --- A growing job whose store is away: its client and its runner wait for it, and each task is told once ------------


def client(bench: Bench, env: dict[str, str] | None = None) -> GrowingJob:
    """Return a client of job `job` that looks often whether the store is back."""
    session = Session(
        registry_url="",
        open_registry=lambda: bench.registry,
        env=env or {"XDG_STATE_HOME": str(bench.path / "elsewhere")},
        sleep=lambda _seconds: time.sleep(0.01),
    )
    return GrowingJob(session, load_manifest(bench.line, "job"), RetryPolicy())


def given(bench: Bench, idle: float = 600.0) -> None:
    """Submit job `job` as a growing one, without launching it."""
    manifest = place(bench.line, "job", study([], may_grow=True), bench.model, grows=idle)
    bench.registry.register_job("job", **manifest.record_fields())


def test_client_and_runner_outlast_an_outage(bench: Bench, tmp_path: Path) -> None:
    """What runs goes on. A round that is asked for meanwhile is stored when the store answers again, and runs once."""
    given(bench)
    noted, gate = tmp_path / "calls", tmp_path / "gate"
    with ThreadPoolExecutor(4) as threads:
        running = threads.submit(bench.work)
        job = client(bench)
        job.add([{"x": number, "calls": str(noted), "gate": str(gate)} for number in range(2)])
        until(lambda: calls(noted), "a task at work")
        bench.line.down = True
        gate.touch()
        added = threads.submit(job.add, [{"x": 2, "calls": str(noted)}])
        asked = bench.line.calls["create_if_absent"]
        until(lambda: bench.line.calls["create_if_absent"] > asked + 3, "the client to try again")
        bench.line.down = False
        assert added.result(PATIENCE) == range(2, 3)
        ended: list[EndedTask] = list(job.ended(PATIENCE))
        job.end()
        ran: ShardResult = running.result(PATIENCE)[0]
    assert sorted(one.number for one in ended) == [0, 1, 2]
    assert all(one.error is None for one in ended)
    assert ran[:4] == ("succeeded", 3, 0, True)
    assert calls(noted) == {0: 1, 1: 1, 2: 1}
    assert len(results(bench.line)) == 3


@pytest.mark.usefixtures("quick_end")
def test_a_registry_that_stays_away_ends_the_run(bench: Bench) -> None:
    """A runner would else wait for ever for a client that it cannot hear. A restart goes on."""
    given(bench)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(bench.work, outage_seconds=0.0)
        job = client(bench)
        job.add([{"x": 1}])
        assert [one.number for one in job.ended(PATIENCE)] == [0]
        bench.line.down = True
        with pytest.raises(StoreUnavailableError):
            running.result(PATIENCE)
    bench.line.down = False
    job.end()
    assert bench.work()[0][:4] == ("succeeded", 1, 0, True)


def test_a_lost_reply_to_a_round_stores_it_once(bench: Bench) -> None:
    """A stored round with the same sets is the client's own."""
    given(bench)
    job = client(bench)
    bench.line.lose_reply_next()
    assert job.add([{"x": 1}]) == range(1)
    assert job.add([{"x": 2}]) == range(1, 2)
    assert load_manifest(bench.line, "job").rounds == 2


def test_a_client_is_told_of_tasks_that_it_knows(bench: Bench) -> None:
    """The ledger may have others: those of a round whose reply it waits for, and those of another client."""
    given(bench)
    first = client(bench)
    first.add([{"x": 1}])
    second = client(bench)
    second.add([{"x": 2}])
    second.end()
    bench.work()
    assert [{one.number for one in job.ended(PATIENCE)} for job in (first, second)] == [{0}, {0, 1}]


def test_a_growing_job_without_a_runner_ends_only_after_its_idle_time(bench: Bench) -> None:
    """Before, a client may go on with it. After, it gets the end mark, and the outputs decide."""
    given(bench, idle=3600.0)
    session = Session(registry_url="", open_registry=lambda: bench.registry, env={})
    assert bench.record().metadata[GROWS] == 3600.0
    with pytest.raises(InvalidTransitionError, match="its client may go on"):
        infer_end(bench.record(), RunnerEnd(), session)
    assert bench.line.get(round_key("job", 1)) is None
    later = dataclasses.replace(session, now=lambda: utc_now() + timedelta(hours=2))
    assert infer_end(bench.record(), RunnerEnd(), later).state.status == "succeeded"
    assert not load_manifest(bench.line, "job").may_grow


def test_a_round_just_before_the_end_mark_keeps_its_job_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client goes on, and has a runner started again."""
    given(bench, idle=60.0)
    job, store = client(bench), bench.line.create_if_absent

    def create(key: str, value: bytes) -> object:
        if key == round_key("job", 1) and value == END:
            job.add([{"x": 1}])
        return store(key, value)

    session = Session(
        registry_url="", open_registry=lambda: bench.registry, env={}, now=lambda: utc_now() + timedelta(hours=2)
    )
    with monkeypatch.context() as patched:
        patched.setattr(bench.line, "create_if_absent", create)
        with pytest.raises(InvalidTransitionError, match="its client may go on"):
            infer_end(bench.record(), RunnerEnd(), session)
    assert load_manifest(bench.line, "job").may_grow
    assert not bench.record().is_terminal
