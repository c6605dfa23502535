"""The failed tasks of jobs, grouped by their errors: mirror what is due, read it from the cache, and merge it."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failures import (
    MAX_NOTES,
    MAX_SAMPLES,
    NO_FAILURES,
    FailedJob,
    FailureGroup,
    JobFailures,
    failures_without_reason,
    jobs_that_take_up,
    jobs_with_failures,
    keep_failures,
    open_failures,
    read_failed_jobs,
    read_failures,
    reduce_notes,
)
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cache.queries.ledgers import complete_ledgers
from mopsjobs.errors import (
    CacheError,
    JobNotFoundError,
    NoManifestError,
    RecordError,
    StoreAccessError,
    StoreUnavailableError,
    command_line,
)
from mopsjobs.ledger.attempt import error_signature
from mopsjobs.studies.separating import Finding, Separation, SetOutcomes
from mopsjobs.studies.study import param_id
from mopsjobs.utils.text import join_first, pluralize
from mopsjobs.utils.times import json_timestamp

SCHEMA_VERSION = 1

MAX_CONDITIONS = 10
"""Conditions of a group over several jobs."""


MAX_FAMILY_NOTES = 3

NewFailures = dict[str, tuple[JobFailures, str]]
"""The failed tasks of jobs that were compared just now, with the state to keep them with."""

MAX_LEDGER_AGE = 60.0
"""Seconds up to which a page takes the ledger of a running job from the cache. Each sync brings what is new."""


class MergedGroup(NamedTuple):
    """The tasks that failed with one error, in one job or in several; without tasks, the jobs whose records have it."""

    first: FailureGroup
    """The group of the job with the most of them."""
    jobs: list[str]
    """The job with the most of them first."""
    sizes: list[int]
    """How many of them each job has."""
    size: int
    message: str
    example: str | None
    """The message of one task if not all have the same."""
    first_ts: float | None
    last_ts: float | None
    separates: list[dict[str, Any]]
    """Each with the job in which it was found."""
    suspected: list[dict[str, Any]]
    """Without such conditions, those that further parameter sets would decide, each with its job."""

    def to_json(self) -> dict[str, Any]:
        """Return the group as scripts get it."""
        return {
            "key": self.first.key,
            "count": self.size,
            "type": self.first.type,
            "where": self.first.where,
            "message": self.message,
            "jobs": self.jobs,
            "tasks": self.first.tasks[:MAX_SAMPLES],
            "first_at": json_timestamp(self.first_ts),
            "last_at": json_timestamp(self.last_ts),
            "separates": self.separates,
            "suspected": self.suspected,
        }


class Failures(NamedTuple):
    """The failed tasks of some jobs."""

    by_job: dict[str, JobFailures]
    """All jobs that were looked at. One whose tasks are not known has none."""
    groups: list[MergedGroup]
    """The largest first."""
    unexplained: list[str]
    """Ended jobs without a known failed task and without an error."""
    freshness: Freshness
    warnings: list[str]
    notes: list[str]
    """Whose reduce function failed, whose reasons are not known, which other jobs ran tasks of the same studies, and
    which tasks count twice."""
    without_reason: int
    """Failed tasks beyond these, whose reasons are not known: only the records count them."""

    @property
    def by_record(self) -> int:
        """Return the number of jobs that count with the error of their records."""
        return sum(len(group.jobs) for group in self.groups if not group.first.tasks)

    def to_json(self, app: App) -> dict[str, Any]:
        """Return the document of `failures --json`."""
        return {**self.document_head(app), "groups": [group.to_json() for group in self.groups]}

    def document_head(self, app: App) -> dict[str, Any]:
        """Return the document of `failures --json` without its groups, which come last in it."""
        return {
            **app.document_head(SCHEMA_VERSION, self.freshness.to_json()),
            "jobs": list(self.by_job),
            "jobs_without_error": self.unexplained,
            "failed": sum(one.failed for one in self.by_job.values()),
            "failed_without_reason": self.without_reason,
            "more_groups": sum(one.more_groups for one in self.by_job.values()),
        }


def failures_of_jobs(names: Sequence[str], app: App, policy: FreshnessPolicy) -> Failures:
    """Return the failed tasks of these jobs. A job that was only reported counts with the error of its record.

    Args:
        names: the jobs, as `find_job` takes them.
        app: the run.
        policy: how fresh they have to be.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if mops-jobs did not submit a job, and its record has no error.
        StoreError: if the registry cannot be read, and the cache has nothing of a ledger.
    """
    settled = _settled(names, app, policy)
    looks = []
    for name in names:
        try:
            looks.append(_Look(name, [], None) if name in settled else _look(name, app, policy))
        except NoManifestError as error:
            if not app.cache.read_cached(functools.partial(counts_by_record, job_id=error.job_id)):
                raise
            looks.append(_Look(error.job_id, [], None))
    warnings = [warning for look in looks for warning in look.warnings]
    return _read({look.job_id: look.failed for look in looks}, app, policy, warnings)


def failures_of_filter(job_filter: Filter, limit: int, app: App, policy: FreshnessPolicy, *, resumed: bool) -> Failures:
    """Return the failed tasks of the jobs that pass a filter.

    A job without known failed tasks counts with the error of its record, and a warning counts the jobs whose ledgers
    cannot be read. Tasks that a resume has taken up are left out without a word.

    Args:
        job_filter: which jobs.
        limit: how many jobs with failed tasks are looked at, 0 for all. The newest changes are first.
        app: the run.
        policy: how fresh they have to be.
        resumed: also jobs and tasks that a resume has taken up.

    Raises:
        StoreError: if the registry cannot be read, and the cache was never filled.
    """

    def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[list[str], int, list[str], Freshness]:
        job_ids, total = jobs_with_failures(connection, job_filter, limit, resumed=resumed)
        return job_ids, total, [] if resumed else jobs_that_take_up(connection, job_ids), freshness

    job_ids, total, later, freshness = app.cache.read(view, policy)
    # The cache is up to date by now, and only ledgers are left to be read.
    known = FreshnessPolicy(offline=policy.offline)
    warnings = freshness.warnings()
    if freshness.problem is not None:
        known = FreshnessPolicy(offline=True)
    unread = 0
    settled = _settled([*job_ids, *later], app, known)
    for job in app.cache.read_cached(lambda cache: read_failed_jobs(cache, [*job_ids, *later])) or ():
        if job.job_id in settled or not job.is_submitted:
            continue
        try:
            look = _look(job.job_id, app, known)
        except (NoManifestError, RecordError):
            continue
        except (StoreUnavailableError, StoreAccessError, CacheError):
            unread += job.job_id in job_ids
            known = FreshnessPolicy(offline=True)  # one attempt is enough
            continue
        warnings += [warning for warning in look.warnings if warning not in warnings]
    if unread:
        warnings.append(f"The tasks of {pluralize(unread, 'job')} were never synced to this machine.")
    if len(job_ids) < total:
        older = pluralize(total - len(job_ids), "older job")
        warnings.append(f"{older} with failed tasks left out (--limit 0 reads all).")
    failures = _read(dict.fromkeys(job_ids), app, known, warnings, resumed=resumed)
    failures.freshness.exit_code = freshness.exit_code
    if not failures.groups:
        failures.notes.extend(app.cache.read_cached(lambda cache: _left_out(cache, job_filter, total)) or ())
    return failures


def _left_out(connection: sqlite3.Connection, job_filter: Filter, count: int) -> list[str]:
    """Return notes on what an answer without failed tasks leaves out. `count` of its jobs may have some."""
    taken_up = jobs_with_failures(connection, job_filter, 1, resumed=True)[1] - count
    note = f"The failures of {pluralize(taken_up, 'job')} are left out: a resume has taken them up (--resumed)."
    return [*([note] if taken_up else []), *job_queries.pruned_note(connection, job_filter)]


def counts_by_record(connection: sqlite3.Connection, job_id: str) -> bool:
    """Return whether a job was only reported, and counts with the error of its record."""
    return any(not job.is_submitted and job.error for job in read_failed_jobs(connection, [job_id]))


def keep_job_failures(job_id: str, app: App) -> None:
    """Mirror the ledger of a job, and keep its failed tasks compared, so that a reader of the cache finds both.

    Nothing is written but the cache.

    Args:
        job_id: the full id of a job that the cache has.
        app: the run.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that its tasks are not known.
        StoreError: if the registry cannot be read, and the cache has nothing of the ledger.
        CacheError: if the cache cannot be used.
    """
    from mopsjobs.app.jobs.job_tasks import mirror_ledger  # here: a view of settled jobs answers as fast as a listing

    mirror_ledger(job_id, app, FreshnessPolicy(max_age=MAX_LEDGER_AGE))
    _read({job_id: None}, app, FreshnessPolicy(offline=True), [])


class _Look(NamedTuple):
    job_id: str
    warnings: list[str]
    failed: int | None
    """Failed tasks by its record; None if the cache has that."""


def describe_condition(one: Mapping[str, Any]) -> str:
    """Return a condition of a group as a sentence: `all 40 have beta > 0.9; no other has`."""
    of_group = round(one["failed"] / one["support"])
    held = f"all {of_group:,}" if one["failed"] == of_group else f"{one['failed']:,} of {of_group:,}"
    if one["passed"]:
        rest = f"{one['passed']:,} that succeeded have it too"
    else:
        rest = "no other has" if not one["others"] else "none that succeeded has"
    return f"{held} have {one['condition']}; {rest}"


def describe_suspicion(one: Mapping[str, Any]) -> str:
    """Return a suspected condition of a group as a sentence: how many further sets would decide it."""
    failed, more = pluralize(one["failed_sets"], "failed set"), len(one["further_sets"])
    return f"{failed} are too few to name a region: about {more} more near {one['condition']} would tell"


def separate_failed(
    sets: Sequence[Mapping[str, Any]], set_of: Iterable[int], has_failed: Iterable[bool | None]
) -> list[Finding]:
    """Return what separates failed tasks from others, whatever their errors: the conditions of `failures`.

    Args:
        sets: the different parameter sets.
        set_of: for each task, the place of its set.
        has_failed: whether each task failed; None if it neither failed nor succeeded.
    """
    outcomes: list[list[str | None]] = [[] for _ in sets]
    for place, failed in zip(set_of, has_failed, strict=True):
        if failed is not None:
            outcomes[place].append(UNNAMED if failed else None)
    ended = [SetOutcomes(*one) for one in zip(sets, outcomes, strict=True) if one[1]]
    return Separation(ended, [UNNAMED]).findings(UNNAMED)


def describe_left_out(failed: int, total: int, separates: Sequence[Finding]) -> str:
    """Return which tasks a mean leaves out: `35 of 144 tasks failed, all with r0 > 1.9: this mean …`."""
    parts = []
    for one in separates:
        which = "all" if one.failed == failed else f"{one.failed:,}"
        passed = f" ({one.passed:,} succeeded there)" if one.passed else ""
        parts.append(f"{which} with {one.condition}{passed}")
    where = f", {' and '.join(parts)}" if parts else ""
    return f"{failed:,} of {pluralize(total, 'task')} failed{where}: this mean leaves them out"


def _settled(names: Sequence[str], app: App, policy: FreshnessPolicy) -> set[str]:
    """Return those of the names that are full ids of jobs whose ledgers are complete in the cache."""
    if policy.needs_scan:
        return set()
    return (app.cache.read_cached(complete_ledgers, offline=policy.offline) or set()).intersection(names)


def _look(name: str, app: App, policy: FreshnessPolicy) -> _Look:
    """Bring the ledger of a job up to date."""
    from mopsjobs.app.jobs.job_tasks import find_tasks  # here: a view of settled jobs answers as fast as a listing

    tasks = find_tasks(name, app, policy)
    return _Look(tasks.job_id, tasks.warnings, cast("int | None", tasks.job["tasks_failed"]))


def _read(
    job_ids: Mapping[str, int | None], app: App, policy: FreshnessPolicy, warnings: list[str], *, resumed: bool = True
) -> Failures:
    """Read the failed tasks of jobs from the cache, and keep what was found."""
    new: NewFailures = {}

    def view(connection: sqlite3.Connection, freshness: Freshness) -> Failures:
        return failures_of_cache(connection, job_ids, freshness, new, resumed=resumed)

    failures = app.cache.read(view, FreshnessPolicy(offline=policy.offline))
    keep_new_failures(new, app)
    return failures._replace(warnings=warnings)


def failures_of_cache(
    connection: sqlite3.Connection,
    job_ids: Mapping[str, int | None],
    freshness: Freshness,
    new: NewFailures,
    *,
    resumed: bool = True,
) -> Failures:
    """Return the failed tasks of jobs by the cache. A job without known ones counts with the error of its record.

    Args:
        connection: the cache.
        job_ids: the full ids of the jobs. Of one that may be pruned, with the failed tasks that its record counts.
        freshness: the age of the cache.
        new: takes what was compared now, for `keep_new_failures`.
        resumed: also the tasks that a resume has taken up.
    """
    by_job = {}
    for job_id in job_ids:
        by_job[job_id], state = read_failures(connection, job_id) or (NO_FAILURES, None)
        if state is not None:
            new[job_id] = by_job[job_id], state
    without_reason = failures_without_reason(connection, by_job, job_ids)
    by_record, unexplained = _count_by_record(read_failed_jobs(connection, list(job_ids)), by_job)
    if not resumed:
        by_job = {job_id: open_failures(connection, job_id, found) for job_id, found in by_job.items()}
    notes = [
        *_first_notes(reduce_notes(connection, list(by_job))),
        *_first_notes(
            f"{job_id}: {pluralize(-count, 'task')} {why}."
            if count < 0
            else f"{job_id}: the reasons of {pluralize(count, 'failed task')} are not known: {why}."
            for job_id, count, why in without_reason
        ),
        *(_family_notes(connection, list(by_job)) if resumed else []),
    ]
    count = _count_without_reason(without_reason)
    groups = merge_groups([*by_job.items(), *by_record.items()])
    return Failures(by_job, groups, unexplained, freshness, [], notes, count)


def _count_without_reason(without_reason: Iterable[tuple[str, int, str]]) -> int:
    return sum(max(0, count) for _, count, _ in without_reason)


def _first_notes(notes: Iterable[str]) -> list[str]:
    """Return the notes on the first few jobs, and on how many more jobs there are."""
    first = [*notes]
    more = len(first) - MAX_NOTES
    return [*first[:MAX_NOTES], *([f"and {pluralize(more, 'more job')}"] if more > 0 else [])]


def keep_new_failures(new: NewFailures, app: App) -> None:
    """Keep what was compared in the cache, so that the next view need not compare it again."""
    if not new:
        return
    from mopsjobs.cache.sync_state import transaction

    def keep(connection: sqlite3.Connection) -> None:
        with transaction(connection):
            for job_id, (failures, state) in new.items():
                keep_failures(connection, job_id, failures, state)

    try:
        app.cache.write(keep)
    except CacheError as error:  # a cache that cannot be written can be read
        app.out.debug(f"The cache did not take the failures: {error}")


def commands_after(failures: Failures, app: App) -> list[tuple[str, str]]:
    """Return what to type next, for the job with the most tasks of the largest group: purposes and commands."""
    if not failures.groups:
        return []
    from mopsjobs.app.jobs.next_steps import failure_commands  # here: JSON has none
    from mopsjobs.cache.queries.ledgers import memory_ends

    largest = next((group for group in failures.groups if group.first.tasks), None)
    if largest is None:
        return [("See what is known of a job", command_line("status", failures.groups[0].jobs[0]))]
    job_id, now = largest.jobs[0], app.now().timestamp()
    more = []
    if further := further_sets(failures, job_id):
        count = pluralize(len(further), "further parameter set")
        more = [(f"Print a study with {count}", command_line("failures", job_id, "--design"))]

    def view(connection: sqlite3.Connection) -> list[tuple[str, str]]:
        job = newest = job_queries.find_job(connection, job_id, now=now)
        if job_queries.have_relatives(connection, [job_id]):
            from mopsjobs.app.jobs.find_job import with_family  # here: few jobs have a family

            _, _, found = with_family(connection, job, now=now)
            newest = found or job
        ends = memory_ends(connection, str(newest["job_id"]))
        return failure_commands(job, newest, largest.first.tasks[0], ends)

    with contextlib.suppress(JobNotFoundError):  # a pruned job: the cache has its tasks alone
        return [*(app.cache.read_cached(view) or []), *more]
    return []


def further_sets(failures: Failures, job_id: str) -> list[dict[str, Any]]:
    """Return the parameter sets that would settle what is suspected of a job, each once."""
    sets = (
        params
        for group in failures.groups
        for one in group.suspected
        if one["job_id"] == job_id
        for params in one["further_sets"]
    )
    return list({param_id(params): params for params in sets}.values())


def _family_notes(connection: sqlite3.Connection, job_ids: Sequence[str]) -> list[str]:
    """Return notes on jobs with a family: a job that was resumed has tasks that another job ran again."""
    if not job_queries.have_relatives(connection, job_ids):
        return []
    from mopsjobs.cache.queries.families import read_members  # here: few jobs have a family

    shown: dict[str, list[str]] = {}
    for job_id in job_ids:
        members = read_members(connection, job_id)
        shown.setdefault(members[0].job_id, []).append(job_id)
        if len(job_ids) == 1 and len(members) > 1:
            others = [member.job_id for member in members if member.job_id != job_id]
            return [f"These are the failures of {job_id} alone. Its family: {join_first(others)}"]
    families = [family for family in shown.values() if len(family) > 1]
    return [
        f"{join_first(family)} are one family: a task that failed in several of them counts in each."
        for family in families[:MAX_FAMILY_NOTES]
    ]


def merge_groups(by_job: Iterable[tuple[str, JobFailures]]) -> list[MergedGroup]:
    """Return the groups of several jobs, those of one error as one; the largest first."""
    by_key: dict[str, list[tuple[str, FailureGroup]]] = {}
    for job_id, failures in by_job:
        for group in failures.groups:
            by_key.setdefault(group.key, []).append((job_id, group))
    merged = [_merge(sorted(groups, key=lambda one: -one[1].size)) for groups in by_key.values()]
    return sorted(merged, key=lambda group: -group.size)


def _merge(groups: Sequence[tuple[str, FailureGroup]]) -> MergedGroup:
    first = groups[0][1]
    message, example = first.message, first.example
    if any(group.message != message for _, group in groups):
        from mopsjobs.ledger.attempt import normalise

        message, example = normalise(message), example or message
    separates = [{**one, "job_id": job_id} for job_id, group in groups for one in group.separates]
    suspected = [{**one, "job_id": job_id} for job_id, group in groups for one in group.suspected if not separates]
    return MergedGroup(
        first,
        [job_id for job_id, _ in groups],
        [group.size for _, group in groups],
        sum(group.size for _, group in groups),
        message,
        example,
        min((group.first_ts for _, group in groups if group.first_ts is not None), default=None),
        max((group.last_ts for _, group in groups if group.last_ts is not None), default=None),
        separates[:MAX_CONDITIONS],
        suspected[:MAX_CONDITIONS],
    )


UNNAMED = "failed"
"""The type of an error without a code."""


class FailureOverview(NamedTuple):
    """The failures of many jobs."""

    groups: list[MergedGroup]
    """The largest first. Those of records have no tasks; each of their jobs counts as one."""
    failed_tasks: int
    jobs: int
    """Jobs with failed tasks."""
    more_groups: int
    """Groups that the cache does not keep, since their jobs have too many."""
    owners: dict[str, str | None]
    """The owner of each job."""
    unread: list[FailedJob]
    """Jobs whose failed tasks were never read, or of which more is known by now."""
    unexplained: list[str]
    """Ended jobs without a known failed task and without an error."""
    without_reason: int
    """Failed tasks for reasons that are not known, in the other jobs."""
    left_out: int
    """Jobs that changed before those that were looked at."""


def overview_of_filter(
    connection: sqlite3.Connection, job_filter: Filter, limit: int, *, resumed: bool
) -> FailureOverview:
    """Return the failures of the jobs that pass a filter.

    A job without known failed tasks counts with the error of its record.

    Args:
        connection: the cache.
        job_filter: which jobs.
        limit: how many jobs with failures are looked at. The newest changes are first.
        resumed: also jobs and tasks that a resume has taken up.
    """
    job_ids, total = jobs_with_failures(connection, job_filter, limit, resumed=resumed)
    jobs = read_failed_jobs(connection, job_ids)
    known = {job.job_id: job.failures for job in jobs if job.failures is not None and job.failures.failed}
    by_record, unexplained = _count_by_record(jobs, known)
    by_tasks, later = known, []
    if not resumed:
        is_open = {job_id: open_failures(connection, job_id, failures) for job_id, failures in known.items()}
        by_tasks = {job_id: failures for job_id, failures in is_open.items() if failures.failed}
        later = [
            job for job in read_failed_jobs(connection, jobs_that_take_up(connection, job_ids)) if not job.failures
        ]
    unread = [job for job in (*jobs, *later) if job.is_submitted and not job.is_current]
    lacking = {job.job_id for job in unread}
    read = {job.job_id: job.failures or NO_FAILURES for job in jobs if job.job_id not in lacking}
    return FailureOverview(
        merge_groups([*by_tasks.items(), *by_record.items()]),
        sum(one.failed for one in by_tasks.values()),
        len(by_tasks),
        sum(one.more_groups for one in by_tasks.values()),
        {job.job_id: job.owner for job in jobs},
        unread,
        unexplained,
        _count_without_reason(failures_without_reason(connection, read, {})),
        total - len(jobs),
    )


def _count_by_record(
    jobs: Sequence[FailedJob], known: Mapping[str, JobFailures]
) -> tuple[dict[str, JobFailures], list[str]]:
    """Return ended jobs without known failed tasks with the errors of their records, and those without an error."""
    failed = {job_id for job_id, failures in known.items() if failures.failed}
    others = [job for job in jobs if job.has_ended and job.has_failed and job.job_id not in failed]
    by_record = {job.job_id: _from_record(job, job.error) for job in others if job.error is not None}
    return by_record, [job.job_id for job in others if job.error is None]


def _from_record(job: FailedJob, error: str) -> JobFailures:
    """Return the error of a record in the form of failed tasks: a group of its own kind, which names none."""
    key, code, message = _read_error(error)
    group = FailureGroup(key, 1, code, None, message, None, [], job.ended_ts, job.ended_ts, [], [])
    return JobFailures([group], 0, 0, job.tasks_total, 0)


@functools.lru_cache(maxsize=4096)
def _read_error(error: str) -> tuple[str, str, str]:
    """Return the key of an error in a record, its code, and its message. Most errors are those of many jobs."""
    code, colon, message = error.partition(": ")
    if not colon or " " in code:
        code, message = ("", error) if " " in error else (error, "")
    return f"record.{error_signature(code, None, message)}", code or UNNAMED, message
