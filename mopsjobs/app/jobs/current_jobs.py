"""Bring records up to date before a view shows them: end jobs whose runners have ended here, and ask engines.

For a listing, only those that have ended cost a request. Each other active job that was launched here costs a look at
its process.
"""

from __future__ import annotations

import os

from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.job_json import RUNNER_ENDED
from mopsjobs.cache.queries import jobs as job_queries

TYPE_CHECKING = False

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import TypeVar

    from mopsjobs.app.jobs.find_job import FoundJob, Job
    from mopsjobs.app.run.app import App
    from mopsjobs.app.run.freshness import Freshness

    T = TypeVar("T")

RETRY_SECONDS = 60.0
"""How long a listing does not try again to end a job whose end the registry did not take: it has to stay quick."""


def read_current(app: App, view: Callable[[sqlite3.Connection, Freshness], T], policy: FreshnessPolicy) -> T:
    """Do as `cache.read`, but first end active jobs whose runners are known to have ended on this machine."""
    lost: list[str] = []

    def look(cache: sqlite3.Connection, freshness: Freshness) -> T | None:
        lost[:] = [] if policy.offline or freshness.problem is not None else _lost_runners(cache, app)
        return None if lost else view(cache, freshness)

    shown = app.cache.read(look, policy)
    if not lost:
        return shown  # type: ignore[return-value]
    from mopsjobs.app.jobs.lost_runners import end_lost_runners  # here: few listings need it

    end_lost_runners(lost, app)
    return app.cache.read(view, FreshnessPolicy())


def find_current_job(name: str, app: App, policy: FreshnessPolicy) -> FoundJob:
    """Do as `find_job`, but first end the job if its runner has ended here, and ask its engine if the record is silent.

    Takes arguments and raises errors as `find_job` does.
    """
    from mopsjobs.app.jobs.find_job import find_job

    found = find_job(name, app, policy)
    if policy.offline or not _may_know_more(found.job):
        return found
    from mopsjobs.app.jobs.reconcile import ask_who_runs  # here: few jobs need it

    job_id = str(found.job["job_id"])
    if ask_who_runs(found.job, app, must_answer=policy.refresh):
        return find_job(job_id, app, policy)
    # That the runner of a growing job has ended is a mark in the cache alone: its record says what its client wants.
    cached = app.cache.read_cached(lambda cache: job_queries.find_exact(cache, job_id, now=app.now().timestamp()))
    if cached is None or cached["suspect"] != RUNNER_ENDED:
        return found
    return found._replace(job={**found.job, "suspect": RUNNER_ENDED})


def _may_know_more(job: Job) -> bool:
    """Return whether the engine of a job may know more than its record.

    A process of this machine may have ended. A cluster knows of a job that has not begun, waits or is suspect, and of
    one whose shards report by files.
    """
    from mopsjobs.engines import LOCAL_ENGINES, has_drop
    from mopsjobs.registry.notes import WAITS_FOR, metadata_of
    from mopsjobs.registry.status import BEFORE_RUNNING, JobStatus

    if not job["is_active"]:  # what a runner of a cancelled one kept here is not counted yet
        return job["status"] == JobStatus.CANCELLED and job["engine"] in LOCAL_ENGINES
    waits = metadata_of(job).get(WAITS_FOR) is not None
    is_silent = job["status"] in BEFORE_RUNNING or job["suspect"] is not None or waits
    return job["engine"] in LOCAL_ENGINES or is_silent or has_drop(job)


def _lost_runners(cache: sqlite3.Connection, app: App) -> list[str]:
    """Return the active jobs whose runners have ended here, without those that were tried a minute ago.

    A cancelled one may have left here what its runner kept. It is tried once.
    """
    from mopsjobs.utils.user_dirs import state_directory

    directory = os.path.join(state_directory(app.env), "jobs")
    launched = os.listdir(directory) if os.path.isdir(directory) else []
    untried = [job_id for job_id in launched if not os.path.exists(os.path.join(directory, job_id, "end_tried"))]
    jobs = job_queries.active_ids(cache, launched, untried) if launched else []
    if not jobs:
        return []
    from mopsjobs.engines import runner_process

    def is_lost(job_id: str) -> bool:
        path = os.path.join(directory, job_id)
        if runner_process.end_of(runner_process.read_note(os.path.join(path, "runner.json"))) is None:
            return False
        try:
            return app.now().timestamp() - os.path.getmtime(os.path.join(path, "end_tried")) >= RETRY_SECONDS
        except OSError:
            return True

    return [job_id for job_id in jobs if is_lost(job_id)]
