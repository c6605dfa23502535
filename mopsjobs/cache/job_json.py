"""A job as scripts get it: the fields of its record, and what follows from them. Made from a row of the cache."""

from __future__ import annotations

import json

from mopsjobs.utils.times import from_timestamp, json_time

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    pass


SILENT_SECONDS = 60.0
"""Two heartbeats. A runner that is silent for longer makes its job suspect, not failed: silence proves nothing."""


COMPUTED = (
    "progress", "is_active", "status_since", "started_at", "ended_at", "duration_seconds", "queued_seconds",
    "run_seconds", "suspect",
)  # fmt: skip
"""What `job_view` adds to the fields of the record."""


COLUMNS = (
    "record, is_active, created_ts, started_ts, ended_ts, progress, status_since, has_history, heartbeat_ts, suspect"
)
"""Of a row: what `job_view` makes a job of."""


JobColumns = tuple[str, int, float, float | None, float | None, float | None, str | None, int, float | None, str | None]
"""What a job is shown from: the columns in `COLUMNS`, in their order."""


JSON_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def job_fields() -> tuple[str, ...]:
    """The fields of a job as scripts get it, in their order."""
    from mopsjobs.registry.job_state import FIELDS

    return (*FIELDS, *COMPUTED)


def job_json(facts: JobColumns, *, now: float) -> dict[str, object]:
    """A job as scripts get it: the record's fields, and what follows from them.

    Besides the fields: `progress` (0 to 1, or null), `is_active`, `status_since`, `started_at` and `ended_at` (RFC
    3339 or null), `suspect` (why an active job may be stuck, or null); and in seconds `duration_seconds` since it was
    created, `queued_seconds` before its first task ran, and `run_seconds` since. The latter two are null where the
    record does not tell.
    """
    job: dict[str, object] = json.loads(facts[0])
    return job | _computed(facts, now)


def job_text(facts: JobColumns, *, now: float) -> str:
    """What `job_view` gives, as JSON. The record is taken over as it is stored: reading it costs more than a query."""
    return f"{facts[0][:-1]},{JSON_ENCODER.encode(_computed(facts, now))[1:]}"


def _computed(facts: JobColumns, now: float) -> dict[str, object]:
    _, is_active, created, started, ended, progress, since, has_history, heartbeat, suspect = facts
    # A clock behind the writer's must not give a negative duration.
    until = max(now if ended is None else ended, created)
    queued = (until if started is None else started) - created
    if suspect is None and heartbeat is not None and now - heartbeat > SILENT_SECONDS:
        suspect = "no_update"
    return {
        "progress": progress,
        "is_active": bool(is_active),
        "status_since": _time(ended) if since is None else since,
        "started_at": _time(started),
        "ended_at": _time(ended),
        "duration_seconds": round(until - created, 3),
        "queued_seconds": round(max(queued, 0.0), 3) if has_history else None,
        "run_seconds": None if started is None else round(max(until - started, 0.0), 3),
        "suspect": suspect if is_active else None,
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else json_time(from_timestamp(seconds))
