"""Find the job that a command reads: by its id, by a prefix that only its id has, or by `@latest`."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.app.app import App
from mopsjobs.app.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import families
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.engines import LOCAL_ENGINES, has_drop
from mopsjobs.errors import CacheError, JobNotFoundError, StoreError, StoreUnavailableError, UsageError, command_line
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.status import BEFORE_RUNNING

if TYPE_CHECKING:
    from mopsjobs.engines.lookup import EngineAnswer
    from mopsjobs.registry.job_state import JobState

BUDGET_SECONDS = 5.0
"""Time for registry and engine together, if neither answers."""

MIN_SECONDS = 1.0
"""Time for the engine, at least."""

STATUS_OF_PHASE = {"pending": "scheduled", "running": "running", "succeeded": "validating", "failed": "failed"}
"""The status for a phase of an engine. As in reconcile, only the outputs decide how a finished job ended."""

Job = dict[str, object]


class FoundJob(NamedTuple):
    """A job in its JSON form, with its `family` if it has one, and where it was found."""

    job: Job
    freshness: Freshness | None = None
    """The age of the cache; None if the job is not from the cache."""
    warnings: tuple[str, ...] = ()
    """Why the data may be old or incomplete."""
    engine: EngineAnswer | None = None
    """The answer of an engine; None if the record was read."""
    outage: StoreUnavailableError | None = None
    """Why an engine was asked; None if the record was read."""
    family: families.Family | None = None
    """Its parents and children; None if it has none."""
    newest: Job | None = None
    """The newest job of its family; None if it has no family."""
    remarks: tuple[str, ...] = ()
    """How the record is shown where it has values that this version reads as something near to them."""


def find_job(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Find a job in the cache, else in the registry; if the registry does not answer, in the engines.

    A job whose runner ended on this machine before its first report is ended first.

    Args:
        name: the id, a prefix that only this id or its family has, or `@latest`. Registry and engines find only the
            id.
        app: the run.
        policy: how fresh the job has to be. With `refresh`, the registry is read first.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with the name, and are not all of one family.
        StoreError: if the registry cannot be read, and neither the cache nor an engine knows the job.
    """
    if name.startswith("@"):
        return _find_launched(name, app, policy)
    check_job_id(name)
    start = app.monotonic()
    try:
        return _find_launched(name, app, policy)
    except StoreUnavailableError as outage:
        if policy.offline:
            raise
        return _find_in_engines(name, app, outage, max(MIN_SECONDS, BUDGET_SECONDS - (app.monotonic() - start)))


def find_state(name: str, app: App) -> JobState:
    """Return the state of a job: by its full id from the registry, else by a prefix or `@latest` from the cache.

    If several jobs of one family begin with the prefix, a note names the newest, which is found.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with the name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """
    if not name.startswith("@"):
        state = app.registry.get_job(check_job_id(name))
        if state is not None:
            return state
    try:
        job = find_cached(name, app, FreshnessPolicy(sync=True))
    except JobNotFoundError as error:
        _add_offline_hint(error, name, app)
        raise
    return app.registry.require_job(str(job["job_id"]))  # the cache may know a job whose record was deleted


def _find_launched(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Find a job by its record. First, a silent record gets what is known of the job's runner.

    A runner of this machine that never reported has ended. A cluster is asked about a job that has not begun, and
    about one whose shards report by files: what they left is delivered.
    """
    found, is_changed = _find_by_record(name, app, policy), False
    job = found.job
    if policy.offline or not job["is_active"]:
        return found
    if job["engine"] in LOCAL_ENGINES:
        from mopsjobs.app.failed_launches import end_failed_launch_if_possible  # here: few jobs need it

        is_changed = end_failed_launch_if_possible(job, app) is not None
    elif job["status"] in BEFORE_RUNNING or job["suspect"] is not None or has_drop(job):
        from mopsjobs.app.engine_watch import ask_if_silent  # here: few jobs need it

        is_changed = ask_if_silent(job, app, must_answer=policy.refresh)
    return _find_by_record(str(found.job["job_id"]), app, policy) if is_changed else found


def find_cached(name: str, app: App, policy: FreshnessPolicy) -> Job:
    """Return a job from the cache. If several jobs of one family begin with the name, a note names the newest.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with the name, and are not all of one family.
        StoreError: if the cache was never filled, and the registry cannot be read.
    """
    now = app.now().timestamp()

    def view(connection: sqlite3.Connection, _freshness: Freshness) -> tuple[Job, str | None]:
        job = job_queries.find_job(connection, name, now=now)
        family = families.read_family(connection, str(job["job_id"]))
        is_ambiguous = families.is_family_name(name, family)
        return job, families.describe_short_name(name, str(job["job_id"]), family) if is_ambiguous else None

    job, note = app.cache.read(view, policy)
    if note is not None:
        app.out.note(note)
    return job


def with_family(
    connection: sqlite3.Connection, job: Job, *, now: float
) -> tuple[Job, families.Family | None, Job | None]:
    """Return a job, its family, and the newest job of that. With a family, the job has the field `family`."""
    family = families.read_family(connection, str(job["job_id"]))
    if family is None:
        return job, None, None
    newest = job if family.newest == job["job_id"] else job_queries.find_job(connection, family.newest, now=now)
    return job | {"family": family.to_json()}, family, newest


def _find_by_record(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Find a job by its record, in the cache or in the registry."""
    outage: StoreError | None = None
    warnings: tuple[str, ...] = ()
    if policy.refresh and not app.settings.is_local and not name.startswith("@"):
        # One job needs one request, not a sync. After an outage, no second request follows.
        try:
            found = _read_registry(name, app)
        except StoreError as error:
            outage = error
            warnings = (f"{error} Showing the cache.",)
            policy = FreshnessPolicy(offline=True)
        else:
            if found is not None:
                return found
    try:
        found = _read_cache(name, app, policy)
    except (JobNotFoundError, StoreError) as error:
        if outage is not None:
            raise outage from None
        # A local registry is synced before each view, but the job may have been pruned from the cache.
        if isinstance(error, StoreError) or policy.offline or name.startswith("@"):
            raise
        found = _read_registry(name, app)
        if found is None:
            _add_offline_hint(error, name, app)
            raise
        return found
    if outage is not None and found.freshness is not None:
        found.freshness.note_failed_refresh(outage)
    return found._replace(warnings=warnings + found.warnings)


def _read_cache(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    def view(connection: sqlite3.Connection, freshness: Freshness) -> FoundJob:
        now = app.now().timestamp()
        job = job_queries.find_job(connection, name, now=now)
        job, family, newest = with_family(connection, job, now=now)
        warnings = [
            f"{key} cannot be read any more ({reason}); this is its last good state."
            for key, reason in job_queries.unreadable_records(connection, str(job["job_id"]))
        ]
        warnings += freshness.warnings()
        remarks = tuple(job_queries.remarks(connection, str(job["job_id"])))
        return FoundJob(job, freshness, tuple(warnings), family=family, newest=newest, remarks=remarks)

    return app.cache.read(view, policy)


def _read_registry(name: str, app: App) -> FoundJob | None:
    state = app.registry.get_job(name)
    return None if state is None else read_family_of(state, app)


def read_family_of(state: JobState, app: App) -> FoundJob:
    """Return a job of the registry with its family. Children whose ids `resume` did not make are only in the cache.

    Raises:
        StoreError: if the registry cannot be read.
        RecordError: if a record of the family is unreadable.
    """
    from mopsjobs.cache.rows import job_json_from_state, read_remarks  # here: a job of the cache needs no record
    from mopsjobs.studies.lineage import family_states

    name, now = state.job_id, app.now().timestamp()
    states = {member.job_id: member for member in (state, *family_states(app.registry, state))}
    try:
        cached = app.cache.read_cached(lambda cache: families.read_members(cache, name)) or []
    except CacheError:
        cached = []
    members = {member.job_id: member for member in cached}
    members |= {job_id: families.member_from_state(member) for job_id, member in states.items()}
    family = families.make_family(name, members.values())
    job = job_json_from_state(state, now=now)
    remarks = tuple(read_remarks(state))
    if family is None:
        return FoundJob(job, remarks=remarks)
    newest = states.get(family.newest) or app.registry.get_job(family.newest)
    return FoundJob(
        job | {"family": family.to_json()},
        family=family,
        newest=None if newest is None else job_json_from_state(newest, now=now),
        remarks=remarks,
    )


def _find_in_engines(job_id: str, app: App, outage: StoreUnavailableError, seconds: float) -> FoundJob:
    """Find a job whose record cannot be read in the engines.

    Raises:
        StoreUnavailableError: if no engine knows the job.
    """
    from mopsjobs.engines.lookup import find_in_engines

    answer, why_not = find_in_engines(job_id, app.env, seconds)
    if answer is None:
        raise StoreUnavailableError(outage.message, hint=why_not or outage.hint)
    phase, reason, detail, *_ = answer.state
    job: Job = {**dict.fromkeys(job_json.job_fields()), "job_id": job_id, "engine": answer.engine}
    job["status"] = STATUS_OF_PHASE.get(phase)
    job["engine_says"] = {"phase": phase, "reason": reason, "detail": detail, "look": answer.show_command}
    warning = f"{outage} Showing what the {answer.engine} engine says, not the job's record."
    return FoundJob(job, warnings=(warning,), engine=answer, outage=outage)


def _add_offline_hint(error: JobNotFoundError, name: str, app: App) -> None:
    """Add a hint to the error if the job was submitted on this machine while the registry did not answer."""
    from mopsjobs.engines.job_dir import JobDir

    with contextlib.suppress(UsageError, OSError):
        if JobDir.for_job(check_job_id(name), app.env).launch_fields.exists():
            error.hint = (
                f"It was submitted here while the registry did not answer. Deliver it: {command_line('resume', name)}"
            )
