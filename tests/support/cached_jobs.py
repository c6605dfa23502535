"""Jobs as queries of the cache see them, drawn at random and written as rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

import hypothesis.strategies as st

from mopsjobs.cache import totals
from mopsjobs.registry.status import TERMINAL, JobStatus

STATUSES = st.sampled_from([*JobStatus, "hibernating"])


class Job(NamedTuple):
    """A row of the table `job`. Times are seconds since 1970."""

    status: str = "succeeded"
    created: float = 1
    changed: float = 1
    started: float | None = None
    ended: float | None = None
    has_history: bool = True
    owner: str | None = None
    name: str | None = None
    namespace: str | None = None
    study: str | None = None
    error: str | None = None
    note: str | None = None
    labels: Mapping[str, str] = {}
    heartbeat: float | None = None
    suspect: str | None = None
    latest: float | None = None
    """When it should have ended, by its forecast."""
    usage: Mapping[str, float | None] | None = None
    parent: str | None = None
    tasks_failed: int = 0
    deferred: Any = 0
    """Tasks that it leaves to a later resume."""

    @property
    def is_active(self) -> bool:
        return self.status not in TERMINAL


def made_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Job]:
    """Draw jobs with these fields; the others have their defaults."""
    return st.fixed_dictionaries(fields).map(lambda drawn: Job(**drawn))


def fill(cache: sqlite3.Connection, jobs: Mapping[str, Job]) -> None:
    """Put these jobs into the cache, in place of those that it had."""
    cache.rollback()  # a listing reads in one transaction
    for table in ("job", "job_label", "tally"):
        cache.execute(f"DELETE FROM {table}")
    for job_id, job in jobs.items():
        metadata = {"n_deferred_tasks": job.deferred}
        columns = {
            "key": job_id, "job_id": job_id, "version": "", "generation": 0, "status": job.status,
            "is_active": job.is_active, "created_ts": job.created, "changed_ts": job.changed, "started_ts": job.started,
            "ended_ts": job.ended, "has_history": job.has_history, "owner": job.owner, "name": job.name,
            "namespace": job.namespace, "study": job.study, "error": job.error, "note": job.note,
            "heartbeat_ts": job.heartbeat, "suspect": job.suspect, "parent_job_id": job.parent,
            "forecast": None if job.latest is None else json.dumps({"latest": job.latest}),
            "usage": None if job.usage is None else json.dumps(job.usage),
            "record": json.dumps({"job_id": job_id, "tasks_failed": job.tasks_failed, "metadata": metadata}),
        }  # fmt: skip
        marks = ", ".join("?" * len(columns))
        cache.execute(f"INSERT INTO job ({', '.join(columns)}) VALUES ({marks})", [*columns.values()])
        labels = [(label, value, job_id) for label, value in job.labels.items()]
        cache.executemany("INSERT INTO job_label (label, value, job_id) VALUES (?, ?, ?)", labels)
    cache.execute(totals.FILL)
