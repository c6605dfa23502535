"""Tasks and jobs as they end, as a Python program iterates over them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

import mopsjobs as mj
from mopsjobs.ledger.attempt import AttemptError
from mopsjobs.ledger.format import chunk_key
from mopsjobs.ledger.scalars import encode_scalars
from mopsjobs.studies.outputs import output_key
from support.cli import add, during_sleeps, put
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import sets_of

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from support.cli import Cli, Remote

DIED = AttemptError("1a2b3c4d5e6f", "WorkerDied", None, "its worker died (killed by SIGKILL)")


def _put_scalars(store: VersionedStore, chunk: int, *tasks: tuple[int, dict[str, object]]) -> None:
    """Write the chunk of scalars beside a chunk of attempts of `Ledger`."""
    value = encode_scalars("job", 0, tasks)
    assert value is not None
    put(store, chunk_key("job", 0, "ab", chunk, "scalars"), value)


def _followed(cli: Cli, job: mj.Job) -> list[tuple[int, str, int]]:
    """Return number and status of each task, and after how many sleeps it came."""
    return [(task.number, task.status, len(cli.clock.slept)) for task in job.as_completed()]


def test_each_task_comes_as_it_ends(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """Once, with the row that `tasks` shows at the end. A failed task raises nothing."""
    add_job(remote.jobs, "job", sets_of(4))
    write = Ledger(remote.store.inner)
    write(attempt(2))
    during_sleeps(
        cli,
        _2=functools.partial(write, attempt(0, "failed"), attempt(1)),
        _3=lambda: (write(attempt(3)), remote.jobs.finalize_job("job", "partial")),
    )
    job = reg.job("job")
    assert _followed(cli, job) == [(2, "succeeded", 0), (0, "failed", 2), (1, "succeeded", 2), (3, "succeeded", 3)]
    assert cli.clock.slept == [5.0] * 3, "the interval of `wait`"
    found = {task.number: task for task in job.as_completed()}
    assert [found[number] for number in range(4)] == job.tasks().rows
    failed = found[0]
    assert (failed.error, failed.params, failed.seconds) == ("ValueError: beta is 0.93", {"x": 0}, 2.5)
    assert (failed.seed, failed.param_id) == (failed["seed"], failed["param_id"])
    assert repr(failed) == "<Task 0: failed, ValueError: beta is 0.93>"


@pytest.mark.parametrize("first", ["died", "cancelled"])
def test_a_task_that_is_tried_again_comes_at_its_end(cli: Cli, remote: Remote, reg: mj.Registry, first: str) -> None:
    """The first death of a worker, a stop of the runner and its loss leave the task to another attempt."""
    add_job(remote.jobs, "job", sets_of(1))
    write = Ledger(remote.store.inner)
    error = {"died": DIED, "oom": DIED._replace(type="OutOfMemory")}.get(first)
    write(attempt(0, first, error=error))
    during_sleeps(
        cli,
        _1=functools.partial(write, attempt(0, attempt=2, started_at=attempt(9).started_at)),
        _3=lambda: remote.jobs.finalize_job("job", "succeeded"),
    )
    assert _followed(cli, reg.job("job")) == [(0, "succeeded", 1)]


@pytest.mark.parametrize(
    ("outcome", "number", "error"),
    [("failed", 1, None), ("timeout", 1, None), ("died", 2, DIED), ("oom", 1, DIED._replace(type="MemoryError"))],
)
def test_a_last_attempt_is_not_waited_for(
    cli: Cli, remote: Remote, reg: mj.Registry, outcome: str, number: int, error: AttemptError | None
) -> None:
    """An error of the model ends its task, and so does the second death of a worker."""
    add_job(remote.jobs, "job", sets_of(1))
    Ledger(remote.store.inner)(attempt(0, outcome, attempt=number, error=error))
    during_sleeps(cli, _1=lambda: remote.jobs.finalize_job("job", "failed"))
    assert _followed(cli, reg.job("job")) == [(0, outcome, 0)]


def test_a_task_is_tried_again_as_its_launch_says(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """By the causes and the number of retries in the record."""
    add_job(remote.jobs, "job", sets_of(2))
    remote.jobs.update_fields(
        "job", engine="local", metadata={"local_retries": "2", "local_retry_on": "error:ValueError"}
    )
    write = Ledger(remote.store.inner)
    write(attempt(0, "failed"), attempt(1, "died", error=DIED))
    during_sleeps(
        cli,
        _1=functools.partial(write, attempt(0, "failed", attempt=2)),
        _2=functools.partial(write, attempt(0, "failed", attempt=3, started_at=attempt(9).started_at)),
        _3=lambda: remote.jobs.finalize_job("job", "failed"),
    )
    assert _followed(cli, reg.job("job")) == [(1, "died", 0), (0, "failed", 2)]


def test_after_the_end_every_task_comes_once(
    cli: Cli, remote: Remote, reg: mj.Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also lost and stopped ones, those without an attempt, a repeated one, and one that only its outputs tell."""
    monkeypatch.setattr("mopsjobs.app.following.ended_tasks.PAGE", 2)
    manifest = add_job(remote.jobs, "job", [*sets_of(6), {"x": 0}])
    write = Ledger(remote.store.inner)
    write(attempt(3, "lost"), attempt(0), attempt(4, "cancelled"))
    write(attempt(1, "failed"))
    leave_outputs(remote.store.inner, manifest, 0, 5)
    remote.jobs.finalize_job("job", "partial")
    job = reg.job("job")
    found = list(job.as_completed())
    assert [(task.number, task.status) for task in found] == [
        (0, "succeeded"), (1, "failed"),
        (2, "missing"), (3, "lost"), (4, "cancelled"), (5, "succeeded"), (6, "succeeded"),
    ]  # fmt: skip
    assert sorted(found, key=lambda task: task.number) == job.tasks().rows
    assert not cli.clock.slept


def test_scalars_have_the_names_of_the_results(remote: Remote, reg: mj.Registry) -> None:
    """They come from the chunks; of a task that no chunk has, from its outputs. A task that failed has none."""
    manifest = add_job(remote.jobs, "job", sets_of(3), outputs=["result.json", "more.csv"])
    store, tasks = remote.store.inner, list(manifest.study.tasks())
    _put_scalars(store, 0, (0, {"result.json/x": 7, "result.json/peak/day": 2.5, "left out": 1}))
    Ledger(store)(attempt(0), attempt(1), attempt(2, "failed"))
    leave_outputs(store, manifest, 0)
    put(store, output_key("job", tasks[1], "result.json"), b'{"x": 8}')
    put(store, output_key("job", tasks[1], "more.csv"), b"note\nwet\n")
    remote.jobs.finalize_job("job", "partial")
    found = {task.number: dict(task.scalars) for task in reg.job("job").as_completed()}
    assert found == {0: {"peak.day": 2.5, "result.x": 7}, 1: {"result.x": 8, "note": "wet"}, 2: {}}
    assert found[1].keys() <= set(reg.job("job").results().columns)


def test_outputs_without_names_are_searched_too(remote: Remote, reg: mj.Registry) -> None:
    """The study names no outputs, so they are listed."""
    manifest = add_job(remote.jobs, "job", sets_of(1), outputs=None)
    (task,) = manifest.study.tasks()
    put(remote.store.inner, output_key("job", task, "any.json"), b'{"peak": 3}')
    remote.jobs.finalize_job("job", "succeeded")
    assert [task.scalars for task in reg.job("job").as_completed()] == [{"peak": 3}]


def test_an_outage_does_not_end_the_iteration(
    cli: Cli, remote: Remote, reg: mj.Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on when the store answers: at the beginning, between two reads, and in the middle of one."""
    add_job(remote.jobs, "job", sets_of(3))
    write = Ledger(remote.store.inner)
    write(attempt(0))
    job = mj.Job(reg, "job")

    def set_down(*, down: bool) -> None:
        remote.store.down = down

    def end() -> None:
        write(attempt(2))
        remote.jobs.finalize_job("job", "succeeded")
        remote.store.fail_next(1, "list_keys")

    set_down(down=True)
    during_sleeps(
        cli,
        _1=lambda: set_down(down=False),
        _2=lambda: (write(attempt(1)), set_down(down=True)),
        _4=lambda: set_down(down=False),
        _5=end,
    )
    assert _followed(cli, job) == [(0, "succeeded", 1), (1, "succeeded", 4), (2, "succeeded", 6)]
    assert [record.getMessage() for record in caplog.records if "Trying again until" in record.getMessage()]


def test_the_time_ends_the_iteration(remote: Remote, reg: mj.Registry) -> None:
    """As it ends a wait: without an error, unless the registry does not answer."""
    add_job(remote.jobs, "job", sets_of(2))
    Ledger(remote.store.inner)(attempt(0))
    job = reg.job("job")
    assert [task.number for task in job.as_completed("1m")] == [0]
    remote.store.down = True
    with pytest.raises(mj.StoreUnavailableError):
        list(job.as_completed(60))
    with pytest.raises(mj.UsageError, match="invalid duration"):
        job.as_completed(-1)


def test_a_chunk_that_cannot_be_read_delays_its_tasks(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """They come at the end of the job, by their outputs. The other chunks are read."""
    manifest = add_job(remote.jobs, "job", sets_of(2))
    write = Ledger(remote.store.inner)
    put(remote.store.inner, write(attempt(0)), b"damaged")
    write(attempt(1))
    leave_outputs(remote.store.inner, manifest, 0, 1)
    put(remote.store.inner, chunk_key("job", 0, "ab", 1, "scalars"), b"damaged")
    during_sleeps(cli, _1=lambda: remote.jobs.finalize_job("job", "succeeded"))
    assert _followed(cli, reg.job("job")) == [(1, "succeeded", 0), (0, "succeeded", 1)]


def test_a_job_without_a_manifest_is_refused(remote: Remote, reg: mj.Registry) -> None:
    """Nothing says which tasks it has; and a job that does not exist is not waited for."""
    add(remote.jobs, "a", "running")
    with pytest.raises(mj.MopsJobsError, match="has no ledger of its tasks"):
        next(reg.job("a").as_completed())
    with pytest.raises(mj.JobNotFoundError):
        next(mj.Job(reg, "none").as_completed())


def test_jobs_come_as_they_end(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """Each once, however it ends; the time ends the iteration."""
    for job_id in ("a", "b", "c", "d"):
        add(remote.jobs, job_id, "running")
    remote.jobs.finalize_job("c", "failed")
    during_sleeps(
        cli,
        _1=lambda: remote.jobs.finalize_job("b", "succeeded"),
        _3=lambda: remote.jobs.finalize_job("a", "partial"),
    )
    jobs = [mj.Job(reg, job_id) for job_id in ("a", "b", "c", "a")]
    found = [(job, len(cli.clock.slept)) for job in reg.as_completed(jobs)]
    assert found == [(jobs[2], 0), (jobs[1], 1), (jobs[0], 3)]
    assert list(reg.as_completed([mj.Job(reg, "d"), jobs[0]], "1m")) == [jobs[0]]
    assert list(reg.as_completed([])) == []
