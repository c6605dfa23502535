"""A registry and jobs whose methods are awaited."""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
import threading
import traceback
from typing import TYPE_CHECKING

import pytest

import mopsjobs as mj
from support.cli import add
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import sets_of

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from support.cli import Cli

FOREVER = 600.0
"""Seconds between two reads of a wait that only a stop can end in time."""


def test_two_jobs_are_awaited_in_one_loop(cli: Cli, jobs: JobRegistry) -> None:
    """Other coroutines go on meanwhile: one of them ends both jobs."""
    for job_id in ("a", "b"):
        add(jobs, job_id, "running")

    async def end() -> None:
        jobs.finalize_job("b", "failed")
        jobs.finalize_job("a", "succeeded")

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            a, b = await asyncio.gather(reg.job("a"), reg.job("b"))
            ended = await asyncio.gather(a.wait(interval=0.01), b.wait("1m", interval=0.01), end())
            assert [info.status for info in ended[:2]] == ["succeeded", "failed"]
            assert [job async for job in reg.as_completed([b, a])] == [b, a]
            with pytest.raises(mj.JobFailedError):
                await b.raise_for_status()

    asyncio.run(main())


def test_tasks_come_as_they_end(cli: Cli, jobs: JobRegistry) -> None:
    """An `async for` yields what `Job.as_completed` yields."""
    add_job(jobs, "job", sets_of(2))
    write = Ledger(jobs.store)
    write(attempt(1, "failed"))

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            job, found = await reg.job("job"), []
            async for task in job.as_completed(interval=0.01):
                found.append((task.number, task.status))
                if len(found) == 1:
                    write(attempt(0))
                    jobs.finalize_job("job", "partial")
            assert found == [(1, "failed"), (0, "succeeded")]

    asyncio.run(main())


@pytest.mark.parametrize("method", ["wait", "as_completed"])
def test_a_cancellation_ends_only_the_wait(cli: Cli, jobs: JobRegistry, method: str) -> None:
    """Its thread ends at its next sleep, or in the middle of it. The job goes on, and the error says so."""
    add_job(jobs, "job", sets_of(1))

    async def wait(job: mj.AsyncJob) -> None:
        if method == "wait":
            await job.wait(interval=FOREVER)
        else:
            [task async for task in job.as_completed(interval=FOREVER)]

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            job = await reg.job("job")
            waiting = asyncio.create_task(wait(job))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await waiting
            assert cancelled.value.__notes__ == ["Job job goes on; only the wait was cancelled."]
            assert (await job.status()).status == "running"

    before = {*threading.enumerate()}
    asyncio.run(main())
    assert {*threading.enumerate()} <= before


def test_another_call_goes_on_if_it_is_cancelled(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if that comes before its thread has begun: what changes a registry is done, and not left out."""
    add(jobs, "a", "running")
    begin, run = threading.Event(), threading.Thread.run

    def run_later(thread: threading.Thread) -> None:
        begin.wait()
        run(thread)

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            job = await reg.job("a")
            monkeypatch.setattr(threading.Thread, "run", run_later)
            cancelling = asyncio.create_task(job.cancel("enough"))
            await asyncio.sleep(0)
            cancelling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelling
            begin.set()

    asyncio.run(main())
    assert jobs.require_job("a").status == "cancelled"


def test_an_interrupt_leaves_the_job(cli: Cli, jobs: JobRegistry) -> None:
    """The traceback of Ctrl-C in a loop says that the job goes on."""
    add(jobs, "a", "running")

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            job = await reg.job("a")
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
            await job.wait(interval=FOREVER)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process may ignore it
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            asyncio.run(main())
    finally:
        signal.signal(signal.SIGINT, before)
    assert "Job a goes on; only the wait was cancelled." in "".join(traceback.format_exception(stopped.value))
    assert jobs.require_job("a").status == "running"


def test_a_wait_ends_when_the_registry_is_closed(cli: Cli, jobs: JobRegistry) -> None:
    """Its task gets an error, and does not wait for ever."""
    add(jobs, "a", "running")

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            waiting = asyncio.create_task((await reg.job("a")).wait(interval=FOREVER))
            await asyncio.sleep(0)
        with pytest.raises(mj.UsageError, match="closed during the call"):
            await waiting
        with pytest.raises(mj.UsageError, match="The registry is closed"):
            await reg.jobs()

    asyncio.run(main())


def test_rows_are_read_before_a_call_returns(cli: Cli, jobs: JobRegistry) -> None:
    """So the loop never waits for a table; it can be used after the registry is closed."""
    manifest = add_job(jobs, "job", sets_of(2))
    Ledger(jobs.store)(attempt(0), attempt(1))
    leave_outputs(jobs.store, manifest, 0, 1)
    jobs.finalize_job("job", "succeeded")

    async def main() -> None:
        async with mj.aconnect(env=cli.env) as reg:
            job = await reg.job("job")
            tables = await asyncio.gather(job.results(), job.tasks(), reg.jobs(), reg.query("SELECT 1 AS one"))
            assert (await reg.sync() or {})["seen"] == 1
        assert [len(table) for table in tables] == [2, 2, 1, 1]
        assert tables[0].rows[0]["x"] == 0

    asyncio.run(main())


def test_methods_have_the_arguments_of_those_that_block(cli: Cli) -> None:
    """And their documentation."""
    reg = mj.aconnect(env=cli.env)
    job = mj.AsyncJob(reg, mj.Job(reg.blocking, "a"))
    assert repr(reg) == f"<AsyncRegistry {reg.url}>"
    assert repr(job) == f"<AsyncJob a in {reg.url}>"
    assert job == mj.AsyncJob(reg, mj.Job(reg.blocking, "a"))
    public = {name for name in vars(mj.Job) if not name.startswith("_")}
    assert public <= set(dir(mj.AsyncJob)), "no method is forgotten"
    public = {name for name in vars(mj.Registry) if not name.startswith("_")} - {"app", "code_in", "is_closed"}
    assert public <= set(dir(mj.AsyncRegistry))
    for blocking, awaited in ((mj.Job.logs, job.logs), (mj.Registry.submit, reg.submit)):
        assert inspect.getdoc(awaited) == inspect.getdoc(blocking)
        assert inspect.iscoroutinefunction(awaited)
        assert inspect.signature(awaited) == inspect.signature(functools.partial(blocking, None))
