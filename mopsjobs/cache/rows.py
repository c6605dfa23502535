"""Between a record and a row of the cache: what is computed once, at mirroring, so that looking is cheap."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from mopsjobs.cache import counters, pruning, totals
from mopsjobs.cache.job_json import JobColumns, job_json
from mopsjobs.errors import RecordError
from mopsjobs.registry.job_state import FIELDS, JobState
from mopsjobs.registry.status import TRANSITIONS
from mopsjobs.store.base import VersionToken
from mopsjobs.utils.times import parse_time, rfc3339

UNREADABLE = "unreadable"
"""Problem: the bytes are no record. The last good row, if there is one, stays."""
UNKNOWN_STATUS = "unknown_status"
"""Problem: mirrored as it is, but this version does not know what the status means."""
NOT_A_RECORD = "not_a_record"
"""Problem: something else beside the records. It is left alone."""

_COLUMNS = (
    "key", "job_id", "version", "generation", "status", "is_active", "created_ts", "changed_ts", "started_ts",
    "ended_ts", "progress", "status_since", "has_history", "heartbeat_ts", "suspect", "name", "namespace", "owner",
    "record", "tasks_total", "tasks_completed", "outputs_expected", "outputs_verified", "is_validated",
)  # fmt: skip

Row = tuple[object, ...]

# Made once: json.dumps makes one for each call that is not a plain one, and a sync calls for each record.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)

_UPSERT = (
    f"INSERT INTO job ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608 - our own columns
    f" ON CONFLICT (job_id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS)}"
)


class Problem:
    """Something under the registry's prefix that is no sound record: where, of which kind, and why."""

    __slots__ = ("key", "kind", "reason", "version")

    def __init__(self, key: str, kind: str, reason: str, version: str) -> None:
        self.key = key
        self.kind = kind
        self.reason = reason
        self.version = version


class JobRow:
    """A record ready to be written to the cache: its row, its labels, and the problem it has, if any."""

    __slots__ = ("labels", "problem", "row")

    def __init__(self, row: Row, labels: tuple[tuple[str, str, str], ...], problem: Problem | None) -> None:
        self.row = row
        self.labels = labels
        self.problem = problem

    @property
    def key(self) -> str:
        """Where the record lies."""
        return str(self.row[0])

    @property
    def changed(self) -> object:
        """When it was last written, in seconds since 1970."""
        return self.row[7]

    @property
    def seen(self) -> counters.Seen:
        """What is counted of it."""
        row: dict[str, Any] = dict(zip(_COLUMNS, self.row, strict=True))
        return counters.Seen(
            key=row["key"],
            status=row["status"],
            is_active=bool(row["is_active"]),
            namespace=row["namespace"],
            created=row["created_ts"],
            started=row["started_ts"],
            ended=row["ended_ts"],
            has_history=bool(row["has_history"]),
        )

    @property
    def job_id(self) -> str:
        """The job's id."""
        return str(self.row[1])


def to_row(key: str, job_id: str, value: bytes, version: VersionToken, generation: int) -> JobRow | Problem:
    """What the cache holds of a record; or the problem, when the bytes are none.

    Args:
        key: where the record lies.
        job_id: the id that the key tells; the record must tell the same.
        value: the record.
        version: its version.
        generation: which sync, or which write in between, this comes from.
    """
    try:
        state = JobState.from_json(value)
        if state.job_id != job_id:
            raise RecordError(f"the record is that of job {state.job_id[:80]!r}")
    except RecordError as error:
        return Problem(key, UNREADABLE, error.reason, version.value)
    record, is_active, created, *facts = _facts(state)
    changed = max(created, parse_time(state.updated_at).timestamp())
    row = (
        key, job_id, version.value, generation, str(state.status), is_active, created, changed, *facts,
        state.k8s_name, state.k8s_namespace, state.owner, record, *_tallies(state),
    )  # fmt: skip
    labels = tuple((label, text, job_id) for label, text in state.labels.items())
    problem = None
    if state.status not in TRANSITIONS:
        problem = Problem(key, UNKNOWN_STATUS, f"unknown status {state.status!r}; shown as it is", version.value)
    return JobRow(row, labels, problem)


def job_json_from_state(state: JobState, *, now: float) -> dict[str, object]:
    """A record as scripts get it, the same as if it had gone through the cache; see `queries.job_view`."""
    return job_json(_facts(state), now=now)


def public_record(state: JobState) -> dict[str, Any]:
    """The record as scripts see it: every field, null rather than missing, times in RFC 3339 with `Z`."""
    public = state.fields()
    for name in _TIMES:
        if public[name] is not None:
            public[name] = rfc3339(public[name])
    for step in public["transitions"]:
        step["at"] = rfc3339(step["at"])
    return public


def write_rows(connection: sqlite3.Connection, records: Iterable[JobRow]) -> None:
    """Insert or replace rows and their labels, and count what has happened. The caller holds the transaction."""
    records = list(records)
    keys = [record.key for record in records]
    counters.count(connection, (record.seen for record in records))
    pruning.back(connection, keys)
    with totals.kept(connection, keys):
        connection.executemany(_UPSERT, [record.row for record in records])
    connection.executemany("DELETE FROM job_label WHERE job_id = ?", [(record.job_id,) for record in records])
    connection.executemany(
        "INSERT INTO job_label (label, value, job_id) VALUES (?, ?, ?)",
        [label for record in records for label in record.labels],
    )


def _facts(state: JobState) -> JobColumns:
    """What `queries.job_view` makes a job of."""
    ended = None
    since = next((step["at"] for step in reversed(state.transitions) if step["status"] == state.status), None)
    noted = state.metadata.get("suspect")
    reason = noted.get("reason") if isinstance(noted, Mapping) else None
    if state.is_terminal:
        # ModelOps' programs keep no history; their last write to a record that has ended is the one that ended it.
        ended = _first(reversed(state.transitions), state.status) or parse_time(state.updated_at).timestamp()
    return (
        _ENCODER.encode(public_record(state)),
        int(not state.is_terminal),
        parse_time(state.created_at).timestamp(),
        _first(state.transitions, "running"),
        ended,
        min(1.0, state.tasks_completed / state.tasks_total) if state.tasks_total else None,
        None if since is None else rfc3339(str(since)),
        int(bool(state.transitions)),
        None if state.heartbeat_at is None else parse_time(state.heartbeat_at).timestamp(),
        reason if isinstance(reason, str) else None,
    )


def _tallies(state: JobState) -> tuple[int, int, int, int, int]:
    """What is summed over jobs: tasks in all and done, outputs expected and verified, and whether they were looked for.

    Where a record does not list the outputs, each task counts as one: it is complete, or it is not.
    """
    return (
        state.tasks_total,
        state.tasks_completed,
        len(state.expected_outputs) or state.tasks_total,
        len(state.verified_outputs) or state.tasks_verified,
        int(state.validation_completed_at is not None),
    )


def _first(steps: Iterable[Mapping[str, object]], status: str) -> float | None:
    """When the first of these steps to that status was made."""
    return next((parse_time(str(step["at"])).timestamp() for step in steps if step["status"] == status), None)


_TIMES = tuple(name for name in FIELDS if name.endswith("_at"))
