"""Read the results of a job that the cache has, without a change of the registry."""

from __future__ import annotations

import sqlite3

from mopsjobs.app.jobs.find_job import FoundJob, Job
from mopsjobs.app.jobs.job_tasks import JobTasks, ancestors_of, mirror_ledger
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.job_json import reused_tasks
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.families import MAX_MEMBERS
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_ends import count_lost
from mopsjobs.errors import JobNotFoundError

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
    state = []
    for job in cached_lineage(connection, job_id, now=now):
        ledger = read_ledger(connection, str(job["job_id"]))
        known = () if ledger is None else (ledger.chunks, ledger.problems, ledger.basis, ledger.is_complete)
        lost = count_lost(connection, str(job["job_id"])) if reused_tasks(job)[0] else 0
        state.append((job["job_id"], job["tasks_completed"], job["is_active"], lost, *known))
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
    jobs = [JobTasks(app, FoundJob(job), failure), *ancestors_of(job, app, policy)]
    return sorted(jobs, key=lambda one: (str(one.job["created_at"]), one.job_id), reverse=True)
