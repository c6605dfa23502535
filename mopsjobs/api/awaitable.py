"""A registry and its jobs, awaitable: what waits for network or disk runs in threads."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import MethodType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from mopsjobs.api.arguments import Choices, Duration, RunnerOptions
from mopsjobs.api.as_completed import ended_job_batches, ended_task_batches, noting_what_goes_on
from mopsjobs.api.calls_in_threads import CallsInThreads
from mopsjobs.api.job import Job
from mopsjobs.api.job_info import JobInfo
from mopsjobs.api.registry import Registry, connect
from mopsjobs.api.table import Table
from mopsjobs.api.task_info import TaskInfo

if TYPE_CHECKING:
    from mopsjobs.app.notify.watched import OnEvent

P = ParamSpec("P")
T = TypeVar("T")


def aconnect(
    registry: str | None = None,
    *,
    cache: str | os.PathLike[str] | None = None,
    environment: str | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncRegistry:
    """Open a registry whose methods are awaited, for `async with`. For arguments and errors, see `connect`."""
    return AsyncRegistry(connect(registry, cache=cache, environment=environment, env=env))


class _InThread(Generic[P, T]):
    """A method of `Registry` or `Job` as one that is awaited, with the same arguments and the same result."""

    def __init__(self, method: Callable[Concatenate[Any, P], T]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: AsyncRegistry | AsyncJob, kind: object = None) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(MethodType(self._method, owner.blocking))
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return await owner.calls.call(self._method, owner.blocking, *args, **kwargs)

        return call


class _JobInThread(Generic[P]):
    """A method of `Registry` that returns a job, as one that is awaited."""

    def __init__(self, method: Callable[Concatenate[Any, P], Job]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, owner: AsyncRegistry, kind: object = None) -> Callable[P, Coroutine[Any, Any, AsyncJob]]:
        @functools.wraps(MethodType(self._method, owner.blocking))
        async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncJob:
            return AsyncJob(owner, await owner.calls.call(self._method, owner.blocking, *args, **kwargs))

        return call


class AsyncRegistry:
    """An open registry whose methods are awaited. For one event loop."""

    def __init__(self, registry: Registry) -> None:
        """Use an open registry; see `aconnect`."""
        self.blocking = registry
        """The registry with methods that block."""
        self.calls = CallsInThreads()
        self.url = registry.url
        """The URL of the registry. It holds no secret."""

    job = _JobInThread(Registry.job)
    submit = _JobInThread(Registry.submit)
    jobs = _InThread(Registry.jobs)
    query = _InThread(Registry.query)
    sync = _InThread(Registry.sync)

    def as_completed(
        self, jobs: Iterable[AsyncJob], timeout: Duration | None = None, *, interval: Duration | None = None
    ) -> AsyncIterator[AsyncJob]:
        """Yield each job once, as it ends. See `Registry.as_completed`."""
        handles = [job.blocking for job in jobs]
        batches = ended_job_batches(handles, self.blocking, timeout, interval)
        found = ([AsyncJob(self, job) for job in batch] for batch in batches)
        return _items(found, [job.id for job in handles], self.calls)

    async def close(self) -> None:
        """End the waits, wait for other calls under way, and close the connections. Jobs go on."""
        try:
            await self.calls.end()
        finally:
            self.blocking.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Async{repr(self.blocking)[1:]}"


class AsyncJob:
    """A handle on a job whose methods are awaited."""

    __slots__ = ("blocking", "calls", "id", "registry")

    def __init__(self, registry: AsyncRegistry, job: Job) -> None:
        """Make a handle of one with methods that block."""
        self.registry = registry
        self.calls = registry.calls
        self.blocking = job
        """The handle with methods that block."""
        self.id = job.id
        """The full id of the job."""

    status = _InThread(Job.status)
    raise_for_status = _InThread(Job.raise_for_status)
    tasks = _InThread(Job.tasks)
    failures = _InThread(Job.failures)
    logs = _InThread(Job.logs)
    events = _InThread(Job.events)
    provenance = _InThread(Job.provenance)
    reduced = _InThread(Job.reduced)
    reduced_table = _InThread(Job.reduced_table)
    replay = _InThread(Job.replay)
    cancel = _InThread(Job.cancel)
    note = _InThread(Job.note)
    label = _InThread(Job.label)

    async def wait(
        self,
        timeout: Duration | None = None,  # noqa: ASYNC109 - it raises no error, and it may be a text
        *,
        interval: Duration | None = None,
        on_event: OnEvent | None = None,
    ) -> JobInfo:
        """Wait until the job ends, or until the time is up. A cancellation ends only the wait. See `Job.wait`.

        `on_event` is called in another thread than the loop.
        """
        with noting_what_goes_on([self.id], asyncio.CancelledError, "cancelled"):
            return await self.calls.wait(lambda: self.blocking.wait(timeout, interval=interval, on_event=on_event))

    async def watch(
        self,
        timeout: Duration | None = None,  # noqa: ASYNC109 - as for `wait`
        *,
        interval: Duration | None = None,
    ) -> JobInfo:
        """Show the job until it ends, or until the time is up. See `Job.watch`."""
        with noting_what_goes_on([self.id], asyncio.CancelledError, "cancelled"):
            return await self.calls.wait(lambda: self.blocking.watch(timeout, interval=interval))

    def as_completed(
        self, timeout: Duration | None = None, *, interval: Duration | None = None
    ) -> AsyncIterator[TaskInfo]:
        """Yield each task of the job once, as it ends. See `Job.as_completed`."""
        batches = ended_task_batches(self.id, self.registry.blocking.app, timeout, interval)
        return _items(batches, [self.id], self.calls)

    async def results(self, *, mean: bool = False, quantiles: Sequence[float] = (), offline: bool = False) -> Table:
        """Return the table of results, with its rows. See `Job.results`."""

        def read() -> Table:
            table = self.blocking.results(mean=mean, quantiles=quantiles, offline=offline)
            len(table)  # else the loop would wait for the rows
            return table

        return await self.calls.call(read)

    async def resume(
        self,
        *,
        only: Choices | None = None,
        code: str | os.PathLike[str] | None = None,
        trust: Sequence[str] = (),
        yes: bool = False,
        **options: Unpack[RunnerOptions],
    ) -> AsyncJob | None:
        """Run the missing tasks of the job. See `Job.resume`."""
        job = await self.calls.call(self.blocking.resume, only=only, code=code, trust=trust, yes=yes, **options)
        return None if job is None else AsyncJob(self.registry, job)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncJob) and self.blocking == other.blocking

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Async{repr(self.blocking)[1:]}"

    def _repr_html_(self) -> str | None:
        return self.blocking._repr_html_()


async def _items(batches: Iterator[list[T]], job_ids: Sequence[str], calls: CallsInThreads) -> AsyncIterator[T]:
    """Yield the items of batches, each of which a thread awaits."""
    with noting_what_goes_on(job_ids, asyncio.CancelledError, "cancelled"):
        while (batch := await calls.wait(lambda: next(batches, None))) is not None:
            for item in batch:
                yield item
