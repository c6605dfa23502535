"""Find the jobs that `cancel` is about, by filters or by ids.

Jobs whose runners were lost here end first, as their outputs decide. Cancelled, they would leave on this machine what
their runners kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from mopsjobs.app.jobs.lost_runners import end_lost_runners
from mopsjobs.app.run.app import App
from mopsjobs.app.run.cache_access import MAX_LOCK_WAIT
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.status import ACTIVE
from mopsjobs.submission.cancel import records_to_stop


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

    end_lost_runners((str(job["job_id"]) for job in app.cache.read_cached(view) or []), app)
    return app.cache.read_cached(view) or []


def active_jobs_by_id(job_ids: Sequence[str], app: App) -> list[dict[str, object]]:
    """Return those of these jobs that have not ended.

    Raises:
        JobNotFoundError: if a job does not exist.
        StoreError: if the registry cannot be read.
    """
    end_lost_runners(job_ids, app)
    now = app.now().timestamp()
    states = [app.registry.require_job(job_id) for job_id in dict.fromkeys(job_ids)]
    return [job_json_from_state(state, now=now) for state in states if not state.is_terminal]


def jobs_to_stop(job_ids: Sequence[str], app: App) -> list[dict[str, object]]:
    """Return the records of those of these jobs that `cancel` would stop, also once more. It refuses the others.

    Raises:
        StoreError: if the registry cannot be read.
    """
    end_lost_runners(job_ids, app)
    return records_to_stop(job_ids, app.session())
