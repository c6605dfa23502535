"""Yield the tasks of a job as they end.

A runner writes a chunk of the ledger every few seconds. So each read costs the record, a listing of the chunks, and
the new chunks. At the end of the job come the tasks that no chunk explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from mopsjobs.app.following.wait import Pauses, WatchedJobs
from mopsjobs.app.jobs.job_tasks import JobTasks, find_tasks
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.results_table import SUCCEEDED, name_parameters, scalar_names
from mopsjobs.cache.queries.ledgers import readable_chunks
from mopsjobs.cache.queries.tasks import ListedTask, TaskList, TaskQuery
from mopsjobs.engines.base import last_launch
from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.ledger.attempt import Attempt
from mopsjobs.ledger.format import parse_attempts, parse_chunk_key
from mopsjobs.ledger.retry_policy import recorded_policy
from mopsjobs.ledger.scalars import LEFT_OUT, Scalars, may_have_scalars, parse_scalars
from mopsjobs.store.base import Entry, VersionedStore, VersionToken
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.manifest import Reuse, load_manifest
from mopsjobs.studies.output_scalars import OutputReader, TaskOutputs
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study import Task

CHUNKS = 4
"""Chunks read together. Each may have 5,000 attempts with some megabytes of scalars."""

PAGE = 1_000
"""Tasks that are yielded together."""

MAX_SHAPES = 1_000
"""Different sets of scalars whose names are remembered."""


class EndedTask(NamedTuple):
    """A task that has ended, with the scalars of its outputs, by the names of the columns of a table of results."""

    task: ListedTask
    scalars: Scalars


def ended_tasks(
    job_id: str, app: App, *, timeout: float | None = None, interval: float | None = None
) -> Iterator[list[EndedTask]]:
    """Yield tasks as they end, in batches, each task once, until the job has ended or the time is up.

    While the registry does not answer, it goes on until the time is up. At the end of the job, also tasks are yielded
    that have no outcome.

    Args:
        job_id: the full id.
        app: the run, whose registry has the job.
        timeout: stop after this many seconds; None for no limit.
        interval: seconds between two reads; None for the default of the registry.

    Raises:
        OptionError: if the interval is not above zero.
        JobNotFoundError: if the job does not exist.
        NoManifestError: if mops-jobs did not submit the job, so that its tasks are not known.
        StoreAccessError: if the registry refuses the credentials.
        StoreUnavailableError: if the time was up while the registry did not answer.
    """
    jobs, pauses = WatchedJobs([job_id], app, app.out), Pauses(app, timeout, interval, app.out)
    reader = _TaskReader(job_id, app)
    while True:
        outage = jobs.read()
        (state,) = jobs.states
        if outage is None:
            try:
                yield from reader.read(has_ended=state is not None and state.is_terminal)
            except StoreUnavailableError as error:
                outage = error
        if reader.is_done or not pauses.sleep(outage):
            return


class _TaskReader:
    """Reads the tasks that have ended since it read last."""

    def __init__(self, job_id: str, app: App) -> None:
        self._job_id = job_id
        self._app = app
        self._job: JobTasks | None = None
        self._chunks: set[str] = set()
        """The keys of the chunks that were read."""
        self._yielded = bytearray()
        """A byte per task, by its number in the study, as far as tasks were yielded."""
        self._count = 0
        self._outputs: tuple[Sequence[str] | None, tuple[Reuse, ...]] | None = None
        """The outputs that the study names, and the reused tasks, once they were looked up."""
        self._names: dict[tuple[str, ...], dict[str, str]] = {}
        """Names of columns by the keys of the scalars of a task. Most tasks have the same."""
        self.is_done = False
        """Whether the job has ended, and each task was yielded."""

    def read(self, *, has_ended: bool) -> Iterator[list[EndedTask]]:
        """Yield what is new, in batches.

        Args:
            has_ended: whether the job has ended.

        Raises:
            NoManifestError: if mops-jobs did not submit the job.
            StoreError: if the registry cannot be read. The next call goes on.
        """
        if self._job is None or has_ended:
            job = find_tasks(self._job_id, self._app, FreshnessPolicy())
            if job.failure is not None:
                raise job.failure
            self._job, has_ended = job, not job.job["is_active"]
        else:
            self._app.cache.sync_ledger(self._job_id)
        found = self._app.cache.read_cached(lambda cache: readable_chunks(cache, self._job_id)) or []
        keys = (key for key in found if key not in self._chunks)
        while batch := list(islice(keys, CHUNKS)):
            yield from self._read_chunks(self._job, batch)
        if has_ended:
            yield from self._read_others(self._job)
            self.is_done = True

    def _read_chunks(self, job: JobTasks, keys: Sequence[str]) -> Iterator[list[EndedTask]]:
        """Yield the tasks that ended for good with an attempt in these chunks."""
        attempts, scalars = _read_chunks(self._app.store, keys)
        policy = recorded_policy(last_launch(job.job))
        final = {(one.task, str(one.outcome), one.started_at) for one in attempts if policy.is_final(one)}
        numbers = {number for number, _, _ in final if not self._is_yielded(number)}
        tasks: list[ListedTask] = job.read(TaskQuery(), lambda tasks: tasks.ended(numbers))
        # An attempt in another chunk may count, which then brings the task.
        new = [task for task in tasks if (task.row.task, task.row.outcome, task.row.started_ts) in final]
        yield from self._batches(job, new, scalars)
        self._chunks.update(keys)

    def _read_others(self, job: JobTasks) -> Iterator[list[EndedTask]]:
        """Yield the tasks that were not yielded, by their numbers: without an attempt, stopped, or lost."""
        first, total = 0, job.read(TaskQuery(), lambda tasks: tasks.ledger.tasks_total)
        while self._count < total:
            page = job.read(TaskQuery(), partial(TaskList.page, first=first, limit=PAGE))
            if not page:  # never: the study has that many
                return
            yield from self._batches(job, [task for task in page if not self._is_yielded(task.row.task)], {})
            first = page[-1].row.task + 1

    def _batches(
        self, job: JobTasks, tasks: list[ListedTask], scalars: Mapping[int, Scalars]
    ) -> Iterator[list[EndedTask]]:
        """Yield these tasks with their scalars. Outputs are read whose scalars are not given."""
        for start in range(0, len(tasks), PAGE):
            page = tasks[start : start + PAGE]
            succeeded = [task for task in page if task.row.outcome == SUCCEEDED]
            read = self._read_outputs([task for task in succeeded if task.row.task not in scalars])
            known = {task.row.task: read.get(task.row.task) or scalars.get(task.row.task, {}) for task in succeeded}
            batch = [EndedTask(task, self._named(job, known.get(task.row.task, {}))) for task in page]
            for task in page:
                self._note(task.row.task)
            yield batch

    def _read_outputs(self, tasks: Sequence[ListedTask]) -> dict[int, Scalars]:
        """Read the scalars of tasks from their outputs. Those that cannot be read are named by a warning."""
        scalars: dict[int, Scalars] = {}
        reader = OutputReader(lambda _member, numbers, found: scalars.update(dict.fromkeys(numbers, found)))
        reader.read(self._app.store, 0, (TaskOutputs([task.row.task], self._outputs_of(task)) for task in tasks))
        for key, reason in reader.problems:
            self._app.out.warn(f"{key} cannot be read: {reason}.")
        return scalars

    def _outputs_of(self, task: ListedTask) -> dict[str, Entry]:
        """Return the outputs of a task that may have scalars. If its study names none, it costs a listing."""
        store, number = self._app.store, task.row.task
        if self._outputs is None:
            manifest = load_manifest(store, self._job_id)
            self._outputs = (manifest.study.outputs, manifest.reused)
        outputs, reused = self._outputs
        sources = (one.job_id for one in reused if not task.row.attempts and one.has(number))
        numbered = Task(number, task.param_id, int(task.row.seed), task.params)
        prefix = output_key(next(sources, self._job_id), numbered, "")
        if outputs is None:
            entries = {entry.key.removeprefix(prefix): entry for entry in store.scan(prefix)}
            return {name: entry for name, entry in entries.items() if is_output_name(name) and may_have_scalars(name)}
        unread = VersionToken("")
        return {name: Entry(prefix + name, unread, None) for name in outputs if may_have_scalars(name)}

    def _named(self, job: JobTasks, scalars: Scalars) -> Scalars:
        """Return scalars by the names of their columns."""
        shape = tuple(key for key in scalars if key != LEFT_OUT)
        if shape not in self._names:
            if len(self._names) == MAX_SHAPES:
                self._names.clear()
            parameters = job.read(TaskQuery(), lambda tasks: tasks.ledger.parameters)
            self._names[shape] = scalar_names(shape, name_parameters(parameters).values())
        return {name: scalars[key] for key, name in self._names[shape].items()}

    def _is_yielded(self, number: int) -> bool:
        return number < len(self._yielded) and bool(self._yielded[number])

    def _note(self, number: int) -> None:
        self._yielded.extend(bytes(max(0, number + 1 - len(self._yielded))))
        self._yielded[number] = 1
        self._count += 1


def _read_chunks(store: VersionedStore, keys: Sequence[str]) -> tuple[list[Attempt], dict[int, Scalars]]:
    """Read some chunks of attempts, and the scalars beside them. One that cannot be read is left out.

    Raises:
        StoreError: if the store cannot be read.
    """
    attempts: list[Attempt] = []
    scalars: dict[int, Scalars] = {}
    parts = [one for key in keys if (one := parse_chunk_key(key)) is not None]
    both = [one._replace(kind=kind) for one in parts for kind in ("attempts", "scalars")]
    with ParallelFetcher.for_store(store) as fetcher:
        for one, found in zip(both, fetcher.fetch([one.key for one in both]), strict=True):
            if found is None or isinstance(found, FailedRead):
                continue
            try:
                if one.kind == "attempts":
                    attempts.extend(parse_attempts(found.value, one))
                else:
                    scalars.update(parse_scalars(found.value, one))
            except RecordError:
                continue  # the sync of the ledger names the chunk
    return attempts, scalars
