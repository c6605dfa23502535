"""A job as scripts get it: the fields of its record, and the computed ones. Made from a row of the cache.

A listing imports this module, so it imports little: see docs/decisions/0016-start-up-time.md.
"""

from __future__ import annotations

import json
import math

from mopsjobs.utils.times import json_timestamp

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mopsjobs.registry.job_columns import JobColumns

SILENT_SECONDS = 60.0
"""Two heartbeats. A longer silence of its runner makes a job suspect, never failed: the network may be the cause."""

NO_UPDATE = "no_update"

RUNNER_ENDED = "runner_ended"
"""Why an active job is suspect whose runner has ended on this machine, if the registry did not take its end."""

NAMED_MISSING = 5
"""Missing outputs that a record of mops-jobs names; see `studies.validation`."""

REDUCED = "/reduced-"
"""In the name of an output of a reduction; see `studies.outputs`."""

COLUMNS = (
    "record, is_active, created_ts, started_ts, ended_ts, progress, status_since, has_history, heartbeat_ts, suspect,"
    " usage, forecast"
)
"""The columns of a row from which `job_json` makes a job."""

NO_USAGE = (
    '{"cpu_seconds":null,"task_seconds":null,"held_core_seconds":null,"saved_seconds":null,"cpu_efficiency":null,'
    '"max_rss_bytes":null}'
)
"""In place of the column `usage`, which is JSON as it is shown. Like the record, a listing copies it."""

NO_FORECAST = '{"eta_earliest":null,"eta_latest":null,"eta_basis":null,"stragglers":null,"time_limit_at":null}'

_NOTHING_MEASURED: dict[str, None] = json.loads(NO_USAGE) | json.loads(NO_FORECAST)

JSON_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def job_fields() -> tuple[str, ...]:
    """Return the names of the fields of a job as scripts get it, in their order. The schema describes each."""
    from mopsjobs.utils.schemas import load_schema  # here: few listings name fields

    return tuple(load_schema("job")["required"])


def job_json(columns: JobColumns, *, now: float, known_to: float = math.inf) -> dict[str, object]:
    """Return a job as scripts get it: the fields of its record, and the computed ones.

    Its silence is measured up to `known_to`, see `sync_state.known_to`, and at most up to now.

    The schema of a job describes them. They are null where the record does not have what they need.
    """
    job: dict[str, object] = json.loads(columns[0])
    known_to = min(known_to, now)
    fields = _computed_fields(columns, now, known_to)
    job |= fields
    job |= _NOTHING_MEASURED
    *_, usage, forecast = columns
    if usage is not None:
        job |= json.loads(usage)
    if forecast is not None:
        job |= json.loads(forecast_text(forecast, fields["suspect"], now, known_to))
    return job


def job_text(columns: JobColumns, *, now: float, known_to: float = math.inf) -> str:
    """Return `job_json` as JSON text. The record is copied as it is stored, since parsing costs more than a query."""
    known_to = min(known_to, now)
    fields = _computed_fields(columns, now, known_to)
    *_, usage, forecast = columns
    usage = usage or NO_USAGE
    forecast = NO_FORECAST if forecast is None else forecast_text(forecast, fields["suspect"], now, known_to)
    return f"{columns[0][:-1]},{JSON_ENCODER.encode(fields)[1:-1]},{usage[1:-1]},{forecast[1:]}"


def reused_tasks(job: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how many tasks of a job are reused, and the jobs that did them. Its record may hold anything."""
    metadata = job["metadata"] if hasattr(job["metadata"], "get") else {}
    count, sources = metadata.get("n_reused_tasks"), metadata.get("reused_from")
    names = [name for name in sources if isinstance(name, str)] if isinstance(sources, list) else []
    return (count, names) if type(count) is int and count > 0 and names else (0, [])


def deferred_tasks(metadata: object) -> int:
    """Return how many tasks a job leaves to a later resume. The metadata of its record may be anything."""
    count = metadata.get("n_deferred_tasks") if hasattr(metadata, "get") else None
    return count if type(count) is int and count > 0 else 0


def count_run(job: Mapping[str, Any]) -> int:
    """Return how many tasks a job has run to their end: without the reused ones, which cost it nothing."""
    return max(0, int(job["tasks_completed"] + (job["tasks_failed"] or 0)) - reused_tasks(job)[0])


def reused_text(job: Mapping[str, Any]) -> str | None:
    """Return how many tasks of a job are reused, and from which jobs; None if none is."""
    count, sources = reused_tasks(job)
    if not count:
        return None
    from mopsjobs.utils.text import join_first  # here: few jobs reuse tasks

    return f"{count:,} of {job['tasks_total']:,} tasks, from {join_first(sources)}"


def count_outputs(job: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many outputs of a job were verified and how many are missing; None if they were not validated.

    A record of mops-jobs counts complete tasks, and names only a few of the missing outputs. If no task is missing,
    these are of reductions. Other programs list all.
    """
    expected, verified, named = job["expected_outputs"], job["verified_outputs"], job["missing_outputs"]
    if not (verified or named or job["tasks_verified"]):
        return None
    done = len(verified) or job["tasks_verified"]
    if expected:
        return done, max(len(expected) - done, len(named))
    missing_tasks = 0 if verified else job["tasks_total"] - done
    return done, missing_tasks if missing_tasks > 0 else len(named)


def missing_text(job: Mapping[str, Any], missing: int) -> str:
    """Return what is missing: tasks and reductions, or outputs of another program.

    Of reductions, a record has only the first names, so there may be more.
    """
    from mopsjobs.utils.text import pluralize  # here: no listing shows it

    named, parts = job["missing_outputs"], []
    if not (job["expected_outputs"] or job["verified_outputs"]):
        if (tasks := job["tasks_total"] - job["tasks_verified"]) > 0:
            parts.append(pluralize(tasks, "task"))
        if reductions := sum(REDUCED in str(name) for name in named):
            has_more = len(named) == NAMED_MISSING
            parts.append(f"{reductions} or more reductions" if has_more else pluralize(reductions, "reduction"))
    return f"{' and '.join(parts) or f'{missing:,}'} missing"


def _computed_fields(columns: JobColumns, now: float, known_to: float) -> dict[str, object]:
    _, is_active, created, started, ended, progress, since, has_history, heartbeat, suspect, *_ = columns
    # A clock behind that of the writer must not give a negative duration.
    until = max(now if ended is None else ended, created)
    queued = (until if started is None else started) - created
    return {
        "progress": progress,
        "is_active": bool(is_active),
        "status_since": json_timestamp(ended) if since is None else since,
        "started_at": json_timestamp(started),
        "ended_at": json_timestamp(ended),
        "duration_seconds": round(until - created, 3),
        "queued_seconds": round(max(queued, 0.0), 3) if has_history else None,
        "run_seconds": None if started is None else round(max(until - started, 0.0), 3),
        "max_cpu_hours": _budget(columns[0]),
        "precision": _precision(columns[0]),
        "calibration": _calibration(columns[0]),
        "suspect": why_suspect(suspect, heartbeat, known_to) if is_active else None,
    }


def _budget(record: str) -> float | None:
    """Return the budget of a job. Most records have none, and are not parsed for it."""
    if "_max_cpu_hours" not in record:
        return None
    from mopsjobs.registry.cpu_budget import budget_of

    return budget_of(json.loads(record))


def _precision(record: str) -> dict[str, Any] | None:
    """Return how precise the parameter sets of an adaptive study are. Few studies are adaptive."""
    if '"precision"' not in record:
        return None
    from mopsjobs.registry.precision_counts import precision_counts

    return precision_counts(json.loads(record)["metadata"])


def _calibration(record: str) -> dict[str, Any] | None:
    """Return how far a calibration is. Few jobs are one."""
    if '"calibration"' not in record:
        return None
    from mopsjobs.registry.calibration_counts import calibration_counts

    return calibration_counts(json.loads(record)["metadata"])


def why_suspect(marked: str | None, heartbeat: float | None, known_to: float) -> str | None:
    """Return why an active job may be stuck: as its row is marked, or since its runner is silent; None if neither.

    `filters.is_suspect` is the same rule as a condition.

    Args:
        marked: the mark of the row.
        heartbeat: the last sign of life of its runner, in seconds since 1970; None if it need not give any.
        known_to: up to when the registry was read.
    """
    return NO_UPDATE if marked is None and heartbeat is not None and known_to - heartbeat > SILENT_SECONDS else marked


def forecast_text(column: str, suspect: object, now: float, known_to: float) -> str:
    """Return the fields about the end of a job that runs, as JSON. A suspect has no range, and a silent one nothing.

    A range or a time limit that has passed says nothing: the runner has not written a new one yet.
    """
    if suspect == NO_UPDATE:
        return NO_FORECAST
    forecast = json.loads(column)
    earliest, latest, stragglers = forecast["earliest"], forecast["latest"], forecast["stragglers"]
    is_known = suspect is None and latest is not None and latest > now
    time_limit = forecast.get("time_limit")  # a row of an earlier version has none
    is_late = suspect is None and time_limit is not None and time_limit > now
    if stragglers is not None:
        since = stragglers["since"]
        # Not up to now, if the registry was not read up to now.
        stragglers |= {"since": json_timestamp(since), "seconds": round(max(known_to - since, 0.0), 3)}
    return JSON_ENCODER.encode(
        {
            "eta_earliest": json_timestamp(max(earliest, now)) if is_known else None,
            "eta_latest": json_timestamp(latest) if is_known else None,
            "eta_basis": forecast["basis"] if is_known else None,
            "stragglers": stragglers,
            "time_limit_at": json_timestamp(time_limit) if is_late else None,
        }
    )
