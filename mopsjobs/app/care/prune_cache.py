"""Remove from the local cache the jobs that ended long ago, and the names of old event chunks."""

from __future__ import annotations

import sqlite3

from mopsjobs.app.run.app import App
from mopsjobs.cache import pruning
from mopsjobs.cache.sync.events import forget_chunks
from mopsjobs.utils.times import from_timestamp


def plan_cache_pruning(ended_before: float, app: App) -> pruning.PrunePlan | None:
    """Count the jobs that ended before a time (seconds since 1970), and their events; None if there is no cache."""
    return app.cache.read_cached(lambda cache: pruning.plan_prune(cache, ended_before))


def prune_cache(ended_before: float, plan: pruning.PrunePlan, app: App) -> pruning.PruneResult:
    """Remove what was planned, and the names of event chunks from before that time.

    A plan without jobs removes none, although jobs may have come into the cache since it was made.
    """

    def prune(cache: sqlite3.Connection) -> pruning.PruneResult:
        forget_chunks(cache, from_timestamp(ended_before))
        return pruning.prune(cache, ended_before) if plan.jobs else pruning.PruneResult(0, 0, None)

    return app.cache.write(prune)
