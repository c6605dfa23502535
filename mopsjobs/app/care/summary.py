"""Add up jobs: by status, owner and day, with failure rate, waiting and running times, and the oldest active job."""

from __future__ import annotations

import copy
import sqlite3
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import filters, statistics
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.registry.status import ACTIVE, JobStatus

SCHEMA_VERSION = 1


def summary_document(
    cache: sqlite3.Connection, job_filter: filters.Filter, app: App, freshness: Freshness, *, by: str | None = None
) -> dict[str, Any]:
    """Return the document of `summary --json`.

    Args:
        cache: the cache.
        job_filter: which jobs count.
        app: the run.
        freshness: the age of the cache.
        by: by what usage is summed, too: `owner`, `day` or `label:KEY`.
    """
    now = app.now()
    counts = statistics.by_status(cache, job_filter)
    ended = sum(counts.get(status, 0) for status in ("succeeded", "partial", "failed"))
    oldest = job_queries.page_of_jobs(
        cache, _active_filter(job_filter), order=filters.parse_sort("created"), limit=1, offset=0, now=now.timestamp()
    )
    return {
        **app.document_head(SCHEMA_VERSION, freshness),
        "total": sum(counts.values()),
        "by_status": {**{str(status): 0 for status in JobStatus}, **counts},
        "by_owner": [one._asdict() for one in statistics.by_owner(cache, job_filter)],
        "by_day": [one._asdict() for one in statistics.by_day(cache, job_filter, now)],
        "failure_rate": round(counts.get("failed", 0) / ended, 6) if ended else None,
        "queue_seconds": statistics.spread(cache, job_filter, statistics.QUEUE)._asdict(),
        "run_seconds": statistics.spread(cache, job_filter, statistics.RUN)._asdict(),
        "oldest_active": next(oldest, None),
        "usage": next((_usage_json(one) for one in statistics.usage(cache, job_filter)), None),
        "usage_by": None if by is None else _usage_by(cache, job_filter, by),
    }


def _usage_by(cache: sqlite3.Connection, job_filter: filters.Filter, by: str) -> dict[str, Any]:
    groups = statistics.usage(cache, job_filter, by)
    return {"by": by, "groups": [{"group": one.group, **_usage_json(one)} for one in groups]}


def _usage_json(one: statistics.UsageSum) -> dict[str, Any]:
    fields = one._asdict()
    del fields["group"]
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in fields.items()}


def _active_filter(job_filter: filters.Filter) -> filters.Filter:
    """Return the filter for the active ones of the selected jobs."""
    active = copy.copy(job_filter)
    active.statuses = ACTIVE if job_filter.statuses is None else job_filter.statuses & ACTIVE
    return active
