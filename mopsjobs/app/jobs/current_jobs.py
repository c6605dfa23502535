"""End jobs whose runners are known to have ended on this machine, before a listing shows them.

Only those cost a request. Each other active job that was launched here costs a look at its process.
"""

from __future__ import annotations

import os

from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.queries import jobs as job_queries

TYPE_CHECKING = False

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from typing import TypeVar

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


def _lost_runners(cache: sqlite3.Connection, app: App) -> list[str]:
    """Return the active jobs whose runners have ended here, without those that were tried a minute ago."""
    from mopsjobs.utils.user_dirs import state_directory

    directory = os.path.join(state_directory(app.env), "jobs")
    launched = os.listdir(directory) if os.path.isdir(directory) else []
    active = job_queries.active_ids(cache, launched) if launched else []
    if not active:
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

    return [job_id for job_id in active if is_lost(job_id)]
