"""Find the tasks of a job: mirror its ledger if that is due, and read it from the cache."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from mopsjobs.app.jobs.current_jobs import find_current_job
from mopsjobs.app.jobs.find_job import FoundJob, Job, read_family_of
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.job_json import reused_text
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.families import MAX_MEMBERS
from mopsjobs.cache.queries.ledgers import ALL_PROBLEMS, BY_LEDGER, Ledger, output_sizes, read_ledger
from mopsjobs.cache.queries.tasks import TaskList, TaskQuery
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.errors import (
    CacheError,
    JobNotFoundError,
    MopsJobsError,
    NoManifestError,
    StoreAccessError,
    StoreError,
    StoreUnavailableError,
    UsageError,
    command_line,
)
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.notes import GROWS, is_submitted, metadata_of
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import Sizes
from mopsjobs.utils.text import join_first, pluralize
from mopsjobs.utils.times import human_age, json_timestamp, parse_time

T = TypeVar("T")

TASKS_VERSION = 1
"""The `schema_version` of `tasks --json`."""


class JobTasks:
    """A job whose ledger is in the cache."""

    def __init__(self, app: App, found: FoundJob, failure: StoreError | CacheError | None = None) -> None:
        self._app = app
        self._found = found
        self.failure = failure
        """Why the ledger could not be brought up to date; None if it was, or was not asked for."""

    @property
    def job(self) -> Mapping[str, object]:
        """Return the job in its JSON form."""
        return self._found.job

    @property
    def job_id(self) -> str:
        """Return the job's full id."""
        return str(self._found.job["job_id"])

    @property
    def warnings(self) -> list[str]:
        """Return why the data may be old."""
        why = [] if self.failure is None else [f"{self.failure} Showing what the cache has."]
        return [*self._found.warnings, *why]

    def warnings_with(self, tasks: TaskList) -> list[str]:
        """Return why the data may be old, that chunks of the ledger could not be read, and what conditions miss."""
        count = tasks.ledger.problems
        chunks = f"{pluralize(count, 'chunk')} of the ledger {'has' if count == 1 else 'have'} a problem"
        return [
            *self.warnings,
            *tasks.near_misses(),
            *([f"{chunks}. See: {command_line(ALL_PROBLEMS)}"] if count else []),
        ]

    @property
    def exit_code(self) -> int:
        """Return the exit code of a view of this data."""
        return 0 if self._found.freshness is None else self._found.freshness.exit_code

    def family_note(self) -> list[str]:
        """Return the note for a job with a family, whose other members have other tasks; else nothing."""
        family = self._found.family
        if family is None:
            return []
        others = [member.job_id for member in family.members if member.job_id != self.job_id]
        return [f"These are the tasks of {self.job_id} alone. Its family: {join_first(others)}"]

    def reuse_note(self) -> list[str]:
        """Return the note for a job that reuses tasks, which it did not run; else nothing."""
        text = reused_text(self.job)
        return [] if text is None else [f"Reused, so not attempted here: {text}."]

    def read(self, query: TaskQuery, view: Callable[[TaskList], T]) -> T:
        """Call `view` with the tasks that pass a filter. It may be called twice: see `CacheAccess`.

        Raises:
            UsageError: if a condition names a parameter that no task has.
            StoreUnavailableError: if the ledger was removed from the cache meanwhile.
        """
        result = self._app.cache.read_cached(lambda connection: [view(self.list_tasks(connection, query))])
        if result is None:
            raise never_mirrored_error(self.job_id)
        return result[0]

    def list_tasks(self, connection: sqlite3.Connection, query: TaskQuery) -> TaskList:
        """Return the tasks that pass a filter, to be read while the connection is open.

        Raises:
            UsageError, StoreUnavailableError: see `read`.
        """
        ledger = read_ledger(connection, self.job_id)
        if ledger is None:
            raise never_mirrored_error(self.job_id)
        return TaskList(
            connection, self.job_id, ledger, query,
            is_active=self.may_lack_ends(ledger), has_duplicates=bool(metadata_of(self.job).get("n_duplicate_tasks")),
        )  # fmt: skip

    def may_lack_ends(self, ledger: Ledger) -> bool:
        """Return whether the ledger was listed before the job ended, so that its other tasks may be done by now."""
        if ledger.is_complete:
            return False
        return bool(self.job["is_active"]) or parse_time(str(self.job["ended_at"])).timestamp() > ledger.synced_ts

    def document_head(self, tasks: TaskList, returned: int, total: int | None) -> dict[str, object]:
        """Return the document of `tasks --json` without its tasks, which come last in it."""
        ledger = tasks.ledger
        age = {
            "synced_at": json_timestamp(ledger.synced_ts),
            "age_seconds": self.age_seconds(ledger),
            "stale": self.is_stale(ledger),
        }
        return {
            **self._app.document_head(TASKS_VERSION, age),
            "job_id": self.job_id,
            "status": self.job["status"],
            "basis": ledger.basis,
            "complete": ledger.is_complete,
            "problems": ledger.problems,
            "varying": ledger.varying,
            "tasks_total": max(ledger.tasks_total, self._known_to_runners(ledger)),
            "total": total,
            "returned": returned,
        }

    def record_note(self, ledger: Ledger) -> list[str]:
        """Return why the record of an adaptive study counts other tasks than are listed, if it does."""
        told, validate = self.job["tasks_total"], command_line("validate", self.job_id)
        if self._known_to_runners(ledger) > ledger.tasks_total:
            return [f"The record counts {told:,} tasks. The others are listed as their sets go on."]
        if ledger.precision is None or self.may_lack_ends(ledger) or not isinstance(told, int):
            return []
        # Outputs that are lost ask for fewer tasks than at the end. A cancelled record counts those of the last report.
        if told > ledger.tasks_total or (self.job["status"] == "cancelled" and told != ledger.tasks_total):
            lost = ledger.outputs_lost
            why = f"those of {pluralize(lost, 'task')} were lost" if lost else f"run {validate}"
            return [f"The record counts {told:,} tasks, the outputs ask for {ledger.tasks_total:,}: {why}"]
        return []

    def _known_to_runners(self, ledger: Ledger) -> int:
        """Count the tasks of an active adaptive study that its runners need: each tells no numbers, only how many."""
        told = self.job["tasks_total"]
        return told if isinstance(told, int) and ledger.precision is not None and self.job["is_active"] else 0

    def describe_age(self, ledger: Ledger) -> str:
        """Return the age of the data in words."""
        if self._app.settings.is_local and self.failure is None:
            return "live"
        failed = "" if self.failure is None else ", the last sync failed"
        return f"synced {human_age(self.age_seconds(ledger))}{failed}"

    def age_seconds(self, ledger: Ledger) -> float:
        """Return how old the data is, in seconds; that of a complete ledger no longer changes."""
        return max(0.0, round(self._app.now().timestamp() - ledger.synced_ts, 3))

    def is_stale(self, ledger: Ledger) -> bool:
        """Return whether the data is older than it should be."""
        freshness = self._found.freshness
        if self.failure is not None or (self.may_lack_ends(ledger) and not self.job["is_active"]):
            return True
        if freshness is None or not freshness.stale:
            return False
        # The record of a job that has ended stays as it is, and its ledger may have been read later than the others.
        is_newer = ledger.is_complete or self.age_seconds(ledger) < freshness.age_seconds
        return bool(self.job["is_active"]) or not is_newer


def find_tasks(name: str, app: App, policy: FreshnessPolicy) -> JobTasks:
    """Find a job, and mirror its ledger: at the first look, while it is not complete, and if the policy says so.

    Args:
        name: the job, as `find_job` takes it.
        app: the run.
        policy: how fresh the tasks have to be.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        NoManifestError: if mops-jobs did not submit the job, so that its tasks are not known.
        StoreError: if the registry cannot be read, and the cache has nothing of the ledger.
    """
    found = find_current_job(name, app, policy)
    if found.outage is not None:
        raise StoreUnavailableError(found.outage.message, hint="Try again when the registry answers.")
    found = _with_record(found, app, policy)
    job_id = str(found.job["job_id"])
    failure = mirror_ledger(job_id, app, policy)
    if failure is not None and policy.needs_scan and found.freshness is not None:
        found.freshness.note_failed_refresh(failure)
    return JobTasks(app, found, failure)


def find_lineage(name: str, app: App, policy: FreshnessPolicy) -> list[JobTasks]:
    """Find a job, its parent, and so on, as far as they have tasks, and mirror their ledgers.

    Takes arguments and raises errors as `find_tasks` and `ancestors_of` do.
    """
    found = find_tasks(name, app, policy)
    return [found, *ancestors_of(found.job, app, policy)]


def ancestors_of(job: Mapping[str, object], app: App, policy: FreshnessPolicy) -> Iterator[JobTasks]:
    """Yield the parent of a job, its parent, and so on, as far as mops-jobs submitted them. Mirror their ledgers.

    They are looked up by their full ids, also in the registry: the cache may have pruned them.

    Raises:
        JobNotFoundError: if the record of an ancestor is gone, so that its tasks would be lacking.
        StoreError: if the registry cannot be read; offline, if the cache lacks an ancestor.
    """
    seen = {job["job_id"]}
    while (parent := job["parent_job_id"]) is not None and parent not in seen and len(seen) < MAX_MEMBERS:
        seen.add(parent)
        try:
            parent_id = check_job_id(str(parent))  # a record may name anything
            failure = mirror_ledger(parent_id, app, policy)
        except (UsageError, NoManifestError):
            return
        found = _exact_job(parent_id, app, policy)
        if found is None:
            child = str(job["job_id"])
            hint = f"List the outputs of it and of {child}, which continues it: {command_line('results', child)}"
            raise JobNotFoundError(parent_id, hint=hint)
        yield JobTasks(app, FoundJob(found), failure)
        job = found


def _exact_job(job_id: str, app: App, policy: FreshnessPolicy) -> Job | None:
    """Return an ancestor in its JSON form, from the cache or the registry; None without a record."""
    now = app.now().timestamp()
    found = app.cache.read_cached(lambda connection: job_queries.find_exact(connection, job_id, now=now))
    if found is not None:
        return found
    if policy.offline and not app.settings.is_local:
        raise never_mirrored_error(job_id)
    state = app.registry.get_job(job_id)
    return None if state is None else job_json_from_state(state, now=now)


def mirror_ledger(job_id: str, app: App, policy: FreshnessPolicy) -> StoreError | CacheError | None:
    """Mirror the ledger of a job: at the first look, while it is not complete, and if the policy says so.

    Args:
        job_id: the full id.
        app: the run.
        policy: how fresh it has to be.

    Returns:
        Why it could not be brought up to date, if the cache has an earlier state; else None.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that its tasks are not known.
        StoreError: if the registry cannot be read, and the cache has nothing of the ledger.
    """
    ledger = app.cache.read_cached(lambda connection: read_ledger(connection, job_id))
    if not _is_due(ledger, app, policy):
        if ledger is None:
            now = app.now().timestamp()
            job = app.cache.read_cached(lambda connection: job_queries.find_exact(connection, job_id, now=now))
            may_have_some = job is None or is_submitted(job)
            raise never_mirrored_error(job_id) if may_have_some else _no_ledger_error(job_id)
        return None
    try:
        app.cache.sync_ledger(job_id, full=policy.refresh)
    except NoManifestError:
        raise _no_ledger_error(job_id) from None
    except (StoreUnavailableError, StoreAccessError, CacheError) as error:
        if ledger is None:
            raise
        return error
    return None


def ledger_sizes(manifests: Sequence[Manifest], app: App) -> Sizes:
    """Return the sizes that outputs of jobs are to have, as far as their ledgers can be mirrored."""
    sizes: dict[str, Mapping[tuple[str, str], int]] = {}
    reused = {one.job_id for job in manifests for one in job.reused}
    for job_id in {one.job_id for one in manifests} | reused:
        with contextlib.suppress(MopsJobsError):
            mirror_ledger(job_id, app, FreshnessPolicy())
            sizes[job_id] = app.cache.read_cached(functools.partial(output_sizes, job_id=job_id)) or {}
    return sizes


def mirror_failures(job: Mapping[str, object], app: App) -> None:
    """Mirror the ledger of a job in which tasks failed, so that the views that follow can say why.

    Without a cache, nothing is done. A failure does not spoil the view that asks: the next look tries again.
    """
    if not job["tasks_failed"]:
        return
    with contextlib.suppress(MopsJobsError):
        if app.cache.read_cached(lambda _connection: True):
            mirror_ledger(str(job["job_id"]), app, FreshnessPolicy())


def absence_text(job: Mapping[str, object], ledger: Ledger) -> str | None:
    """Return what a job does not have, as a predicate: tasks, or a ledger of them; None if it has both."""
    if not ledger.tasks_total and metadata_of(job).get(GROWS) is not None:
        return "has no tasks: its client has asked for none so far."
    if not ledger.tasks_total:
        return "has no tasks: it only runs the reduce function."
    if ledger.basis == BY_LEDGER:
        return None
    if job["is_active"]:
        return "has no ledger so far: its outputs tell which tasks succeeded."
    return "has no ledger: its outputs tell which tasks succeeded. Nothing was measured."


def _no_ledger_error(job_id: str) -> NoManifestError:
    """Return the error for a job that was only reported."""
    why = "another program reported it, and mops-jobs did not submit it"
    hint = f"See what was reported of it: {command_line('status', job_id)}"
    return NoManifestError(f"Job {job_id} has no ledger of its tasks: {why}.", job_id=job_id, hint=hint)


def never_mirrored_error(job_id: str, hint: str = "Run the command without --offline.") -> StoreUnavailableError:
    """Return the error for a ledger that the cache lacks."""
    return StoreUnavailableError(f"The tasks of {job_id} have never been synced to this machine.", hint=hint)


def _with_record(found: FoundJob, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Return an active job of the cache as the registry has it: if it has ended, its other tasks no longer wait.

    The next view of the job then shows what its tasks showed. Without an answer, the job stays as the cache has it.
    """
    is_old = found.freshness is not None and bool(found.job["is_active"])
    if not is_old or policy.offline or policy.needs_scan or app.settings.is_local:
        return found
    with contextlib.suppress(MopsJobsError):  # the ledger is read next, which meets the same outage
        state = app.registry.get_job(str(found.job["job_id"]))
        if state is not None:
            return read_family_of(state, app)._replace(warnings=found.warnings)
    return found


def _is_due(ledger: Ledger | None, app: App, policy: FreshnessPolicy) -> bool:
    """Return whether the ledger has to be brought up to date."""
    if policy.offline and not app.settings.is_local:
        return False
    if ledger is None or policy.refresh:
        return True
    age = app.now().timestamp() - ledger.synced_ts
    return not ledger.is_complete and not (policy.max_age is not None and 0 <= age <= policy.max_age)
