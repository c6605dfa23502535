"""Choose the jobs that `cancel` is about, by filters or by ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mopsjobs.app.run.app import App
from mopsjobs.app.run.cache_access import MAX_LOCK_WAIT
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.status import ACTIVE


def active_jobs_by_filter(job_filter: filters.Filter, app: App) -> list[dict[str, object]]:
    """Return the active jobs that a filter chooses, after a sync: an old cache must not decide which jobs to stop.

    Raises:
        StoreError: if the registry cannot be read.
    """
    now = app.now().timestamp()
    job_filter.keeps_active = False
    if job_filter.statuses is None:
        job_filter.statuses = ACTIVE
    if app.cache.sync(wait=None if app.settings.is_local else MAX_LOCK_WAIT, scan=True) is None:
        problem = app.cache.other_sync_error()
        raise StoreUnavailableError(f"{problem} Nothing was cancelled.", hint=problem.hint)

    def view(cache: sqlite3.Connection) -> list[dict[str, object]]:
        order = filters.parse_sort("name")
        found = job_queries.list_jobs(cache, job_filter, order=order, limit=0, now=now)
        return [job for job in found.jobs() if job["is_active"]]

    return app.cache.read_cached(view) or []


def active_jobs_by_id(job_ids: Iterable[str], app: App) -> list[dict[str, object]]:
    """Return those of these jobs that have not ended.

    Raises:
        JobNotFoundError: if a job does not exist.
        StoreError: if the registry cannot be read.
    """
    now = app.now().timestamp()
    states = [app.registry.require_job(job_id) for job_id in dict.fromkeys(job_ids)]
    return [job_json_from_state(state, now=now) for state in states if not state.is_terminal]
