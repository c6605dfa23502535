"""Tables of results of some jobs: a row per task.

Jobs of one family are one table: each task has the row of the last of them that did it. A row has the parameters of
its task, how that ended, and the scalars of its outputs. Two passes keep memory small. The first learns the columns
and collects the scalars, the second yields the rows.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import json
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

from mopsjobs.app.jobs.find_job import FoundJob, Job, find_state
from mopsjobs.app.jobs.job_tasks import JobTasks, ancestors_of, find_lineage, mirror_ledger, never_mirrored_error
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.app.run.job_arguments import job_filter
from mopsjobs.cache.job_json import reused_tasks
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.families import MAX_MEMBERS
from mopsjobs.cache.queries.ledgers import count_chunks, count_lost, count_succeeded, read_ledger
from mopsjobs.cache.queries.task_filters import MISSING
from mopsjobs.cache.queries.tasks import ListedTask, Simulations, TaskList, TaskQuery, temporary_database
from mopsjobs.cache.sync.scalars import (
    LEFT_OUT_NUMBER,
    MAX_KEYS,
    SCHEMA,
    CollectedScalars,
    ScalarReader,
    mirror_scalars,
    missing_chunks,
)
from mopsjobs.errors import (
    CacheError,
    JobNotFoundError,
    MopsJobsError,
    StoreUnavailableError,
    UsageError,
)
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.scalars import output_order
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.results import parameter_columns
from mopsjobs.utils.scalar_keys import path_of
from mopsjobs.utils.table_files import Column, free_name, kind_of
from mopsjobs.utils.text import describe_duplicates, error_line, pluralize

T = TypeVar("T")
OnProgress = Callable[[int], None] | None

FIRST_COLUMNS = (("job_id", "text"), ("task", "integer"), ("param_id", "text"))
"""Columns before the parameters, with their kinds."""

LAST_COLUMNS = (("seed", "unsigned"), ("status", "text"), ("seconds", "number"), ("error", "text"))
"""Columns between parameters and scalars."""

BEFORE = (("job_id", "text"), ("param_id", "text"))
"""Columns before the parameters of a row that is not of one task."""


REPEATS = "repeats"
"""The column of the task that counts in the place of another, which repeats it. It is there if some task does."""

SUCCEEDED = str(Outcome.SUCCEEDED)


class Member(NamedTuple):
    """A job of a family, and the number by which its scalars are found."""

    number: int
    job: JobTasks
    tasks: TaskList


class TableRow(NamedTuple):
    """A task in the table."""

    member: Member
    task: ListedTask
    family: int
    """The number of its family."""


class ScalarColumn(NamedTuple):
    """A scalar as a column."""

    key: int
    """The number of its key in `CollectedScalars`."""
    column: Column
    name: str
    """Its key."""
    is_finite: bool
    """Whether no task has NaN or an infinity."""


class ResultsTable:
    """Tasks of some jobs, and the scalars of their outputs. It is read within `read_results_table`."""

    def __init__(
        self,
        families: Sequence[Sequence[Member]],
        reader: ScalarReader,
        collected: CollectedScalars,
        simulations: Simulations | None,
        connection: sqlite3.Connection,
    ) -> None:
        """Learn the columns, and collect the scalars. The connection is that of the cache."""
        self._families = families
        self._collected = collected
        self._reader = reader
        self._parameter_kinds: dict[str, set[str]] = {}
        self._tasks_lost = self._outputs_lost = 0
        self.simulations = simulations
        """None if no task of the jobs repeats another one."""
        self._owners = {one.job.job_id: family[0].job.job_id for family in families for one in family}
        ages = [(str(family[0].job.job["created_at"]), family[0].job.job_id) for family in families]
        self._ranks = [sorted(ages, reverse=True).index(age) for age in ages]
        self.left_out = 0
        """Scalars that the rows lack, since they are too large; counted while the rows are read."""
        self._learn_tasks(connection)
        for member in itertools.chain.from_iterable(families):
            self._reader.read(member.number, member.job.job_id, reused_tasks(member.job.job)[1])
        if self._reader.tasks_lacking and not collected.has_any():
            raise StoreUnavailableError(
                f"The results of {families[0][0].job.job_id} have never been read to this machine.",
                hint="Read them once with the registry. Only those that its runner summed up are kept.",
            )
        reserved = [] if simulations is None else [REPEATS]
        others = [*(name for name, _ in FIRST_COLUMNS + LAST_COLUMNS), *reserved]
        self._parameters = parameter_columns(list(self._parameter_kinds), others)
        self.parameters = [
            (name, Column(column, frozenset(self._parameter_kinds[name]))) for name, column in self._parameters.items()
        ]
        """The parameters of all tasks, and their columns."""
        self.scalar_columns = [
            ScalarColumn(found.number, Column(name, frozenset(found.kinds)), key, found.is_finite)
            for key, name in scalar_names(collected.keys, [*self._parameters.values(), *reserved]).items()
            for found in [collected.keys[key]]
        ]

    @property
    def columns(self) -> list[Column]:
        """Return the columns of `rows`."""
        return [
            *plain_columns(FIRST_COLUMNS),
            *(column for _, column in self.parameters),
            *plain_columns(LAST_COLUMNS),
            *plain_columns([] if self.simulations is None else [(REPEATS, "integer")]),
            *(one.column for one in self.scalar_columns),
        ]

    @property
    def is_of_chunks(self) -> bool:
        """Return whether all values come from chunks, which never change."""
        return not (self._reader.outputs.tasks_read or self._reader.chunk_problems or self.is_partial)

    @property
    def is_partial(self) -> bool:
        """Return whether it lacks values of tasks that succeeded."""
        return bool(self._reader.outputs.problems or self._reader.tasks_lacking or self.tasks_lost)

    @property
    def members(self) -> Iterator[Member]:
        """Return the jobs, by family."""
        return itertools.chain.from_iterable(self._families)

    @property
    def open_store(self) -> Callable[[], VersionedStore] | None:
        """Return what opens the store of the outputs; None if they are not read."""
        return self._reader.open_store

    @property
    def bytes_read(self) -> int:
        """Count the bytes of scalars that were read: chunks, and outputs whose tasks no chunk has."""
        return self._reader.bytes_read + self._reader.outputs.bytes_read

    def describe_age(self) -> str:
        """Return the age of the tasks of the newest job in words."""
        newest = self._families[0][0]
        return newest.job.describe_age(newest.tasks.ledger)

    @property
    def is_stale(self) -> bool:
        """Return whether the tasks of the newest job are older than they should be."""
        newest = self._families[0][0]
        return newest.job.is_stale(newest.tasks.ledger)

    def notes(self) -> list[str]:
        """Return which rows repeat others, as a sentence."""
        some = self.simulations
        if some is None or not some.repeated:
            return []
        repeats = describe_duplicates(some.repeated, len(self._families))
        return [f"{pluralize(some.tasks, 'task')}{repeats}; see column repeats"]

    @property
    def tasks_lost(self) -> int:
        """Count the tasks that were complete when their job ended, and of which no values are left."""
        return self._tasks_lost + self._reader.tasks_lost

    def problems(self) -> list[str]:
        """Return what the table lacks, as sentences. Complete after the rows were read."""
        sentences = [
            f"{key} cannot be read ({reason}). The outputs of its tasks were read instead."
            for key, reason in self._reader.chunk_problems
        ]
        if lacking := self._reader.tasks_lacking:
            sentences.append(f"The cache lacks the results of {pluralize(lacking, 'task')}.")
        if self.tasks_lost:
            sentences.append(f"The outputs of {pluralize(self.tasks_lost, 'task')} are gone, with their values.")
        if self._outputs_lost:
            lost = f"The outputs of {pluralize(self._outputs_lost, 'task')} were lost when last validated"
            sentences.append(f"{lost}: the ledger has their values.")
        sentences += [f"{key} cannot be read: {reason}." for key, reason in self._reader.outputs.problems]
        if self.left_out:
            why = "too long, or in files that are not valid or larger than 1 MiB"
            sentences.append(f"{pluralize(self.left_out, 'value')} of outputs left out: {why}.")
        if self._collected.is_full:
            sentences.append(f"The outputs have more than {MAX_KEYS:,} different values: others are left out.")
        return sentences

    def rows(self) -> Iterator[list[object]]:
        """Yield the tasks, by family and number, as rows of `columns`."""
        return (values for _, values in self.rows_of_tasks())

    def rows_of_tasks(self) -> Iterator[tuple[TableRow, list[object]]]:
        """Yield each task with its row."""
        for row in self.tasks():
            task = row.task.row
            yield (
                row,
                [
                    row.member.job.job_id,
                    task.task,
                    row.task.param_id,
                    *self.parameters_of(row),
                    int(task.seed),
                    self.outcome_of(row),
                    task.seconds,
                    error_line(task.error_type, task.error_message),
                    *([] if self.simulations is None else [self.repeated_by(row)]),
                    *self.scalars_of(row),
                ],
            )

    def tasks(self) -> Iterator[TableRow]:
        """Yield the tasks, by family and number."""
        for number, family in enumerate(self._families):
            for member, task in _merge(family):
                yield TableRow(member, task, number)

    @functools.cached_property
    def precisions(self) -> list[Precision | None]:
        """Return the precision that the newest study of each family asks for; None if it has a number of replicates."""
        found = (family[0].tasks.ledger.precision for family in self._families)
        return [None if text is None else Precision.from_json(json.loads(text)) for text in found]

    @property
    def family_ids(self) -> list[str]:
        """Return the ids of the newest jobs of the families."""
        return [family[0].job.job_id for family in self._families]

    def parameters_of(self, row: TableRow) -> list[object]:
        """Return the parameters of a task, in the order of their columns; None for one that its set lacks."""
        return [row.task.params.get(name) for name in self._parameters]

    def scalars_of(self, row: TableRow) -> list[object]:
        """Return the scalars of a task, in the order of their columns; None for one that it lacks."""
        if row.task.row.outcome != SUCCEEDED:
            return [None] * len(self.scalar_columns)
        scalars = self._collected.get(row.member.number, row.task.row.task) or {}
        left_out = scalars.get(LEFT_OUT_NUMBER, 0)
        self.left_out += left_out if isinstance(left_out, int) else 0
        return [scalars.get(one.key) for one in self.scalar_columns]

    def is_read(self, row: TableRow) -> bool:
        """Return whether a task succeeded, and its scalars were read, of which there may be none."""
        task = row.task.row
        return task.outcome == SUCCEEDED and self._collected.get(row.member.number, task.task) is not None

    def outcome_of(self, row: TableRow) -> str:
        """Return how a task ended. One that only its outputs called succeeded is missing without them."""
        task = row.task.row
        is_lost = self._reader.tasks_lost and not task.attempts and task.outcome == SUCCEEDED and not self.is_read(row)
        return MISSING if is_lost else task.outcome

    def repeated_by(self, row: TableRow) -> int | None:
        """Return the task that counts in the place of another: an earlier one, or that of a job which reuses it."""
        return None if self.simulations is None else self.simulations.repeated_by(*self._simulation_of(row))

    def _simulation_of(self, row: TableRow) -> tuple[str, int, ListedTask]:
        """Return what `Simulations` takes: of simulations that families share, that of the newest one counts."""
        owner = row.task.row.reused_from or row.member.job.job_id
        return self._owners.get(owner, owner), self._ranks[row.family], row.task

    def _learn_tasks(self, connection: sqlite3.Connection) -> None:
        """Learn the kinds of parameters, which tasks succeeded, and how many have lost their outputs."""
        params: object = None
        missing: Counter[int] = Counter()
        for row in self.tasks():
            task = row.task
            if self.simulations is not None:
                self.simulations.add(*self._simulation_of(row))
            missing[row.member.number] += task.row.outcome == MISSING
            if task.params is not params:
                params = task.params
                for name, value in task.params.items():
                    of_name = self._parameter_kinds.setdefault(name, set())
                    if value is not None:  # a null has no kind
                        of_name.add(kind_of(value))
            if task.row.outcome == SUCCEEDED:
                self._collected.want(row.member.number, task.row.task, task.param_id, task.row.seed)
        for member in itertools.chain.from_iterable(self._families):
            if count := missing[member.number]:  # later jobs may have done again what this one has lost
                self._tasks_lost += min(count + _unneeded(member), count_lost(connection, member.job.job))
        for newest, *_ in self._families:
            # Tasks that only outputs called succeeded, as reused ones, are missing by now.
            lost = newest.tasks.ledger.outputs_lost - missing[newest.number] - _unneeded(newest)
            self._outputs_lost += max(0, lost)


def _unneeded(member: Member) -> int:
    """Count the complete tasks that an adaptive study needs no longer without lost values. The table lacks them."""
    return max(0, int(str(member.job.job["tasks_completed"])) - member.tasks.ledger.tasks_total)


def plain_columns(kinds: Iterable[tuple[str, str]]) -> list[Column]:
    """Return columns by their names and kinds."""
    return [Column(name, frozenset({kind})) for name, kind in kinds]


def scalar_names(keys: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Map keys of scalars to names of columns, in their order: see `ResultsTable`.

    Args:
        keys: the keys of the scalars.
        others: the columns of parameters.
    """
    taken = {name for name, _ in FIRST_COLUMNS + LAST_COLUMNS}.union(others)
    paths = {key: path_of(key) for key in keys}
    names = {}
    for key in sorted(paths, key=lambda key: (output_order(paths[key][0]), key)):
        output, path = paths[key]
        stem = output.rpartition(".")[0]
        names[key] = free_name(".".join(path) or stem, stem, taken)
    return names


def find_results(names: Iterable[str], app: App, policy: FreshnessPolicy) -> list[list[JobTasks]]:
    """Find jobs and their ancestors, and mirror their ledgers. Return them by family, the newest job of each first.

    Args:
        names: the jobs, as `find_job` takes them.
        app: the run.
        policy: whether the network may be used. Else the cache tells all.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        NoManifestError: if mops-jobs did not submit a job.
        StoreError: if the registry cannot be read; offline, if the cache lacks the tasks of a job.
    """
    families: dict[str, dict[str, JobTasks]] = {}
    for name in names:
        lineage = find_lineage(name if policy.offline else find_state(name, app).job_id, app, policy)
        families.setdefault(lineage[-1].job_id, {}).update({one.job_id: one for one in lineage})
    return [_newest_first(family.values()) for family in families.values()]


def jobs_with_labels(labels: Sequence[str], app: App, policy: FreshnessPolicy) -> list[str]:
    """Return the ids of the jobs with these labels that have tasks, the newest first.

    Raises:
        UsageError: if a label is malformed, or no job has them.
        StoreError: if the cache was never filled, and the registry cannot be reached.
    """
    chosen = job_filter(app.now(), label=labels)
    now = app.now().timestamp()

    def view(connection: sqlite3.Connection, _: Freshness) -> list[str]:
        jobs = job_queries.list_jobs(connection, chosen, order="created_ts DESC", limit=0, now=now)
        return [str(job["job_id"]) for job in jobs.jobs(("job_id", "tasks_total")) if job["tasks_total"]]

    found = app.cache.read(view, policy)
    if not found:
        raise UsageError(f"No job with tasks has the label {' and '.join(labels)}.")
    return found


def _newest_first(jobs: Iterable[JobTasks]) -> list[JobTasks]:
    return sorted(jobs, key=lambda one: (str(one.job["created_at"]), one.job_id), reverse=True)


def read_results_table(
    families: Sequence[Sequence[JobTasks]],
    app: App,
    view: Callable[[ResultsTable], T],
    policy: FreshnessPolicy,
    on_progress: OnProgress = None,
) -> T:
    """Call `view` with the table of some jobs. It may be called twice: see `CacheAccess`.

    All rows are of one moment: the cache is read in one transaction.

    Args:
        families: the result of `find_results`.
        app: the run.
        view: reads the table.
        policy: that of `find_results`.
        on_progress: called with the number of tasks whose outputs were read one by one.

    Raises:
        StoreError: if the store cannot be read; offline, if no results of the jobs are in the cache.
    """
    # An embedded registry needs no network, but may be gone.
    is_readable = not policy.offline or (app.settings.is_local and app.embedded.missing_path() is None)
    problems: list[tuple[str, str]] = []
    if is_readable:
        for job in itertools.chain.from_iterable(families):
            problems += _mirror_scalars(job.job_id, app)
            for source in reused_tasks(job.job)[1]:
                with contextlib.suppress(MopsJobsError):  # the outputs of its tasks are read one by one
                    mirror_ledger(source, app, FreshnessPolicy())
                    problems += _mirror_scalars(source, app)

    def view_cache(connection: sqlite3.Connection) -> T:
        numbers = itertools.count()
        members = [
            [Member(next(numbers), job, job.list_tasks(connection, TaskQuery())) for job in family]
            for family in families
        ]
        with temporary_database(SCHEMA) as database:
            collected = CollectedScalars(database)
            reader = ScalarReader(connection, (lambda: app.store) if is_readable else None, collected, on_progress)
            reader.chunk_problems += problems
            every = list(itertools.chain.from_iterable(members))
            may_share = len(members) > 1 and any(reused_tasks(member.job.job)[0] for member in every)
            may_repeat = may_share or any(member.tasks.has_duplicates for member in every)
            simulations = Simulations(database) if may_repeat else None
            table = ResultsTable(members, reader, collected, simulations, connection)
            return view(table)

    if (result := app.cache.read_cached(lambda connection: [view_cache(connection)])) is None:
        raise never_mirrored_error(families[0][0].job_id)
    return result[0]


def _mirror_scalars(job_id: str, app: App) -> list[tuple[str, str]]:
    """Bring the chunks of scalars that the cache lacks into it. Return key and reason of those that cannot be read."""
    if not app.cache.read_cached(lambda cache: missing_chunks(cache, job_id)):
        return []
    try:
        return app.cache.mirror_more(lambda store, cache: mirror_scalars(store, cache, job_id))
    except CacheError as error:
        app.out.warn(f"{error} The outputs of {job_id} are read instead.")
        return []


def _merge(family: Sequence[Member]) -> Iterator[tuple[Member, ListedTask]]:
    """Yield each task of a family with the last job that did it; if none did, the last that has it.

    A child that ended before it tried a task does not hide why that failed in its parent.
    """
    if len(family) == 1:
        yield from ((family[0], task) for task in family[0].tasks.tasks(0))
        return
    streams = (_numbered(place, member) for place, member in enumerate(family))
    merged = heapq.merge(*streams, key=lambda one: one[:2])
    for _, candidates in groupby(merged, key=lambda one: one[0]):
        found = list(candidates)
        _, _, member, task = found[place_of_result([one[3].row.outcome for one in found])]
        yield member, task


def place_of_result(outcomes: Sequence[str]) -> int:
    """Return the place of the outcome that counts, among those of one task in a job, in its parent, and so on."""
    tried = [place for place, outcome in enumerate(outcomes) if outcome != MISSING]
    succeeded = (place for place in tried if outcomes[place] == SUCCEEDED)
    return next(succeeded, tried[0] if tried else 0)


def _numbered(place: int, member: Member) -> Iterator[tuple[int, int, Member, ListedTask]]:
    """Yield the tasks of a job with what they are sorted by: the number of the task, and the place of the job."""
    return ((task.row.task, place, member, task) for task in member.tasks.tasks(0))


ResultsState = tuple[tuple[object, ...], ...]
"""Changes with what is known of the results of a job and its ancestors."""


def cached_lineage(connection: sqlite3.Connection, job_id: str, *, now: float) -> list[Job]:
    """Return a job, its parent, and so on, as far as the cache has them.

    Args:
        connection: the cache.
        job_id: the full id of a job that the cache has.
        now: seconds since 1970.
    """
    lineage = [job_queries.find_job(connection, job_id, now=now)]
    seen = {job_id}
    while (parent := lineage[-1]["parent_job_id"]) is not None and parent not in seen and len(seen) < MAX_MEMBERS:
        seen.add(str(parent))
        ancestor = job_queries.find_exact(connection, str(parent), now=now)
        if ancestor is None:
            break
        lineage.append(ancestor)
    return lineage


def results_state(connection: sqlite3.Connection, job_id: str, *, now: float) -> ResultsState:
    """Return what changes with the results of a job and its ancestors, as far as the cache knows."""
    return state_of_jobs(connection, cached_lineage(connection, job_id, now=now))


def state_of_jobs(connection: sqlite3.Connection, jobs: Iterable[Mapping[str, object]]) -> ResultsState:
    """Return what changes with the results of jobs, as far as the cache knows."""
    state = []
    for job in jobs:
        ledger = read_ledger(connection, str(job["job_id"]))
        known: tuple[object, ...] = ()
        if ledger is not None:
            known = (ledger.chunks, ledger.problems, ledger.basis, ledger.is_complete, ledger.outputs_lost)
        reused, sources = reused_tasks(job)
        succeeded = count_succeeded(connection, str(job["job_id"])) if reused else 0  # less without outputs of a source
        known += tuple(count_chunks(connection, source) for source in sources)  # a prune may take these alone
        # A job may be removed by hand, and its id given to another one.
        facts = ("job_id", "created_at", "tasks_completed", "tasks_failed", "is_active")
        state.append((*(job[name] for name in facts), succeeded, *known))
    return tuple(state)


def find_cached_results(job_id: str, app: App) -> list[JobTasks]:
    """Mirror the ledgers of a job and its ancestors. Return them, the newest job first, for `read_results_table`.

    Ancestors that the cache lacks are read from the registry.

    Args:
        job_id: the full id of a job that the cache has.
        app: the run.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that its tasks are not known.
        JobNotFoundError: if the record of an ancestor is gone.
        StoreError: if the registry cannot be read, and the cache has nothing of the ledger.
        CacheError: if the cache cannot be used.
    """
    now = app.now().timestamp()
    job = app.cache.read_cached(lambda cache: job_queries.find_exact(cache, job_id, now=now))
    if job is None:
        raise JobNotFoundError(job_id)
    policy = FreshnessPolicy()
    failure = mirror_ledger(job_id, app, policy)
    return _newest_first([JobTasks(app, FoundJob(job), failure), *ancestors_of(job, app, policy)])


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending numbers, interpolated linearly between two of them, as numpy and pandas do."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    if low + 1 == len(ordered):
        return ordered[low]
    rest, step = place - low, ordered[low + 1] - ordered[low]
    if math.isinf(step):  # the difference is beyond every float
        return ordered[low] * (1 - rest) + ordered[low + 1] * rest
    return ordered[low] + step * rest
