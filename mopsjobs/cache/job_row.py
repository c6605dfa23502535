"""The columns of the table of jobs."""

from __future__ import annotations

from typing import NamedTuple


class JobRow(NamedTuple):
    """A row of the table `job`. Times are seconds since 1970."""

    key: str
    job_id: str
    version: str
    generation: int
    status: str
    is_active: int
    created_ts: float
    changed_ts: float
    started_ts: float | None
    ended_ts: float | None
    progress: float | None
    status_since: str | None
    has_history: int
    heartbeat_ts: float | None
    suspect: str | None
    usage: str | None
    forecast: str | None
    name: str | None
    namespace: str | None
    owner: str | None
    record: str
    tasks_total: int
    tasks_completed: int
    outputs_expected: int
    outputs_verified: int
    is_validated: int
    parent_job_id: str | None
    study: str | None
    sweep: str | None
    """The value of its label `sweep`."""
    best: float | None
    """The smallest value that a calibration has found."""
    error: str | None
    note: str | None
