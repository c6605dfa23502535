"""Find the job that a command reads: by its id or `@latest`; by a prefix only if no job has that id."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.cache import job_json
from mopsjobs.cache.queries import families
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.errors import (
    LATEST,
    CacheError,
    JobNotFoundError,
    ShortName,
    StoreError,
    StoreUnavailableError,
    command_line,
)
from mopsjobs.registry.job_id import check_job_id

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

T = TypeVar("T")


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

    Args:
        name: the full id, `LATEST`, or a `ShortName`.
        app: the run.
        policy: how fresh the job has to be. With `refresh`, the registry is read first.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read, and neither the cache nor an engine knows the job.
    """
    # A prefix is looked up in what the policy has brought.
    return find_by_name(
        name, lambda job_id: _find_job(job_id, app, policy), app, offline=policy.offline, sync=policy.refresh
    )


def find_by_name(name: str, find: Callable[[str], T], app: App, *, offline: bool = False, sync: bool = True) -> T:
    """Return `find(name)`; if there is no such job, and the name is short, `find` of the id that begins with it.

    So an exact id wins, wherever it is known. A prefix needs the word of the registry that it has no such job. So it
    stands for no id offline and in an outage. See docs/decisions/0089-a-prefix-is-not-an-id.md.

    Args:
        name: see `find_job`.
        find: finds a job by its full id or `LATEST`. Unless `offline`, it asks the registry before it says that there
            is none.
        app: the run.
        offline: whether `find` uses no network.
        sync: whether to sync before the prefix is looked up in the cache.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
    """
    full_id = name if name is LATEST else check_job_id(str(name))
    try:
        return find(full_id)
    except JobNotFoundError:
        if not isinstance(name, ShortName) or (offline and not app.settings.is_local):
            raise
        from mopsjobs.cache.pruning import is_pruned  # here: few names are short

        def find_id(cache: sqlite3.Connection, _age: Freshness) -> tuple[str, str] | None:
            return None if is_pruned(cache, name) else families.find_by_prefix(cache, name)

        found = app.cache.read(find_id, FreshnessPolicy(sync=sync))
        if found is None or found[0] == name:  # the cache may have a row of a record that is gone
            raise
    job_id, note = found
    app.out.note(note)
    return find(job_id)


def _find_job(job_id: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Find a job by its full id or `LATEST`."""
    deadline = app.monotonic() + BUDGET_SECONDS
    try:
        return _find_by_record(job_id, app, policy)
    except StoreUnavailableError as outage:
        if policy.offline or job_id is LATEST:
            raise
        return _find_in_engines(job_id, app, outage, max(MIN_SECONDS, deadline - app.monotonic()))


def find_state(name: str, app: App) -> JobState:
    """Return the state of a job from the registry. The cache, synced, tells the ids of `@latest` and of prefixes.

    Args:
        name: see `find_job`.
        app: the run.

    Raises:
        UsageError: if the name cannot be one of a job.
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """

    def find(job_id: str) -> JobState:
        if job_id is LATEST:
            job_id = str(find_cached(job_id, app, FreshnessPolicy(sync=True))["job_id"])
        return _read_state(job_id, app)

    return find_by_name(name, find, app)


def find_cached(name: str, app: App, policy: FreshnessPolicy) -> Job:
    """Return a job from the cache, by its full id or `LATEST`.

    Raises:
        JobNotFoundError: if the job does not exist.
        StoreError: if the cache was never filled, and the registry cannot be read.
    """
    now = app.now().timestamp()
    return app.cache.read(lambda cache, _age: job_queries.find_job(cache, name, now=now), policy)


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
    """Find a job by its record: in the cache, else in the registry. With `refresh`, the registry is read first."""
    has_id, is_local = name is not LATEST, app.settings.is_local
    outage: StoreError | None = None
    if policy.refresh and has_id and not is_local:
        try:
            return read_family_of(_read_state(name, app), app)  # one job needs one request, not a sync
        except StoreError as error:
            outage, policy = error, FreshnessPolicy(offline=True)  # no second request follows
    try:
        found = _read_cache(name, app, policy)
    except StoreError as error:
        raise outage or error from None
    except JobNotFoundError:
        if outage is not None:
            raise outage from None
        # A local registry is synced before each view, but the job may have been pruned from the cache.
        if not has_id or (policy.offline and not is_local):
            raise
        return read_family_of(_read_state(name, app), app)
    if outage is None:
        return found
    if found.freshness is not None:
        found.freshness.note_failed_refresh(outage)
    return found._replace(warnings=(f"{outage} Showing the cache.", *found.warnings))


def _read_cache(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    def view(connection: sqlite3.Connection, freshness: Freshness) -> FoundJob:
        now = app.now().timestamp()
        job = job_queries.find_job(connection, name, now=now)
        job_id = str(job["job_id"])
        job, family, newest = with_family(connection, job, now=now)
        unreadable = job_queries.unreadable_records(connection, job_id)
        warnings = [f"{key} cannot be read any more ({why}); this is its last good state." for key, why in unreadable]
        remarks = tuple(job_queries.remarks(connection, job_id))
        return FoundJob(
            job, freshness, (*warnings, *freshness.warnings()), family=family, newest=newest, remarks=remarks
        )

    return app.cache.read(view, policy)


def _read_state(job_id: str, app: App) -> JobState:
    """Return the state of a job from the registry.

    Raises:
        JobNotFoundError: if the registry has none. It may be kept here since the registry did not answer.
    """
    state = app.registry.get_job(job_id)
    if state is not None:
        return state
    from mopsjobs.engines.job_dir import JobDir

    error = app.registry.not_found(job_id)
    with contextlib.suppress(OSError):
        if JobDir.for_job(job_id, app.env).launch_fields.exists():
            deliver = command_line("resume", job_id)
            error.hint = f"It was submitted here while the registry did not answer. Deliver it: {deliver}"
    raise error


def read_family_of(state: JobState, app: App) -> FoundJob:
    """Return a job of the registry with its family. Children whose ids `resume` did not make are only in the cache.

    Raises:
        StoreError: if the registry cannot be read.
        RecordError: if a record of the family is unreadable.
    """
    from mopsjobs.cache.rows import job_json_from_state  # here: a job of the cache needs no record
    from mopsjobs.registry.job_columns import read_remarks
    from mopsjobs.studies.lineage import family_states

    name, now = state.job_id, app.now().timestamp()
    states = {member.job_id: member for member in (state, *family_states(app.registry, state))}
    members: dict[str, families.Member] = {}
    with contextlib.suppress(CacheError):
        members |= {
            one.job_id: one for one in app.cache.read_cached(lambda cache: families.read_members(cache, name)) or ()
        }
    members |= {job_id: families.member_from_state(member) for job_id, member in states.items()}
    family = families.make_family(name, sorted(members.values(), key=lambda one: (one.created, one.job_id)))
    found = FoundJob(job_json_from_state(state, now=now), family=family, remarks=tuple(read_remarks(state)))
    if family is None:
        return found
    last = states.get(family.newest) or app.registry.get_job(family.newest)
    newest = None if last is None else job_json_from_state(last, now=now)
    return found._replace(job=found.job | {"family": family.to_json()}, newest=newest)


def _find_in_engines(job_id: str, app: App, outage: StoreUnavailableError, seconds: float) -> FoundJob:
    """Find a job whose record cannot be read in the engines.

    Raises:
        StoreUnavailableError: if no engine knows the job.
    """
    from mopsjobs.engines.lookup import find_in_engines

    settings = app.settings
    answer, why_not = find_in_engines(
        job_id, app.env, seconds, None if settings.is_local else "get", settings.registry_id
    )
    if answer is None:
        candidates = app.ids_with_prefix(job_id)
        full_id = JobNotFoundError(job_id, candidates=candidates).hint if candidates else None
        hints = [hint for hint in (full_id, why_not or outage.hint) if hint]
        raise StoreUnavailableError(outage.message, hint=" ".join(hints) or None)
    phase, reason, detail, *_ = answer.state
    job: Job = {**dict.fromkeys(job_json.job_fields()), "job_id": job_id, "engine": answer.engine}
    job["status"] = STATUS_OF_PHASE.get(phase)
    job["engine_says"] = {"phase": phase, "reason": reason, "detail": detail, "look": answer.show_command}
    warning = f"{outage} Showing what the {answer.engine} engine says, not the job's record."
    return FoundJob(job, warnings=(warning,), engine=answer, outage=outage)
