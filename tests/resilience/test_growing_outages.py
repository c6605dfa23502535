"""A growing job whose store is away: its client and its runner wait for it, and each task is told once."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from mopsjobs.errors import InvalidTransitionError, StoreUnavailableError
from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.registry.notes import GROWS
from mopsjobs.runner.shard import ShardResult
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.rounds import END, round_key
from mopsjobs.submission.growing import EndedTask, GrowingJob
from mopsjobs.submission.infer_end import RunnerEnd, infer_end
from mopsjobs.submission.session import Session
from mopsjobs.utils.times import utc_now
from support.runs import PATIENCE, Bench, calls, place, results, study, until

pytestmark = pytest.mark.usefixtures("quick_runner")


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
