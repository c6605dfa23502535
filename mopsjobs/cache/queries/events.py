"""Read events from the cache, in an order that never changes, and make cursors to continue from."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from mopsjobs.errors import UsageError
from mopsjobs.events.format import STATE, TASK_FAILED, Event
from mopsjobs.utils.text import error_line

PAGE = 1000

LATEST_STATES = 1000
"""State events that are compared with the rows of their jobs."""

_CURSOR = re.compile(r"([0-9a-f]{12})-(\d{1,18})", re.ASCII)


class StoredEvent(NamedTuple):
    """An event of the cache, and its number there."""

    seq: int
    event: Event


def read_events(
    connection: sqlite3.Connection,
    after: int,
    *,
    job_id: str | None = None,
    kinds: Collection[str] | None = None,
    limit: int = PAGE,
) -> list[StoredEvent]:
    """Return the next events after the number `after`, at most `limit`.

    Args:
        connection: a connection to the cache.
        after: the number of the last event that is known.
        job_id: the job of the events; None for all jobs.
        kinds: their kinds; None for all.
        limit: how many events.
    """
    # Each condition that is not asked for is left out, so that an index of the others is used.
    clauses: list[tuple[str, object]] = [("seq > ?", after)]
    if job_id is not None:
        clauses.append(("job_id = ?", job_id))
    if kinds is not None:
        clauses.append(("kind IN (SELECT value FROM json_each(?))", json.dumps(sorted(kinds))))
    where = " AND ".join(clause for clause, _ in clauses)
    values = (*(value for _, value in clauses), limit)
    rows = connection.execute(f"SELECT seq, body FROM event WHERE {where} ORDER BY seq LIMIT ?", values)  # noqa: S608
    return [StoredEvent(seq, json.loads(body)) for seq, body in rows]


def last_events(connection: sqlite3.Connection, job_id: str, *, limit: int) -> list[StoredEvent]:
    """Return the last events of a job, in their order."""
    return events_before(connection, 2**63 - 1, job_id=job_id, kinds=None, limit=limit)[::-1]


def events_before(
    connection: sqlite3.Connection,
    before: int,
    *,
    job_id: str,
    kinds: Collection[str] | None,
    limit: int = PAGE,
    task: int | None = None,
) -> list[StoredEvent]:
    """Return the last events of a job before the number `before`, the newest first.

    Args:
        connection: the cache.
        before: the number of an event.
        job_id: the job.
        kinds: their kinds; None for all.
        limit: how many events.
        task: the task that they are of; None for all.
    """
    rows = connection.execute(
        "SELECT seq, body FROM event WHERE job_id = ?1 AND seq < ?2"
        " AND (?3 IS NULL OR kind IN (SELECT value FROM json_each(?3)))"
        " AND (?5 IS NULL OR json_extract(body, '$.task') = ?5) ORDER BY seq DESC LIMIT ?4",
        (job_id, before, None if kinds is None else json.dumps(sorted(kinds)), limit, task),
    )
    return [StoredEvent(seq, json.loads(body)) for seq, body in rows]


def task_errors(connection: sqlite3.Connection, job_id: str) -> dict[int, str]:
    """Return the last error of each task of a job, by the number of the task."""
    sql = (
        "SELECT json_extract(body, '$.task') AS task, json_extract(body, '$.error.type'),"
        " json_extract(body, '$.error.message') FROM event WHERE job_id = ? AND kind = ?"
        " AND typeof(task) = 'integer' ORDER BY at_ts, seq"
    )
    rows = connection.execute(sql, (job_id, TASK_FAILED))
    return {task: str(error_line(kind, message)) for task, kind, message in rows}


def has_events(connection: sqlite3.Connection, job_id: str) -> bool:
    """Return True if the cache has an event of a job."""
    return connection.execute("SELECT 1 FROM event WHERE job_id = ? LIMIT 1", (job_id,)).fetchone() is not None


def cache_id(connection: sqlite3.Connection) -> str:
    """Return the id of this cache. A cache that was rebuilt in its place has another one."""
    return str(connection.execute("SELECT value FROM meta WHERE name = 'cache_id'").fetchone()[0])


def make_cursor(cache: str, seq: int) -> str:
    """Return the cursor for a reader that has seen the event with this number."""
    return f"{cache}-{seq}"


def public_event(cache: str, stored: StoredEvent) -> Event:
    """Return an event as scripts get it. The cursor comes first, and replaces a field of that name."""
    cursor = {"cursor": make_cursor(cache, stored.seq)}
    return {**cursor, **stored.event, **cursor}


def parse_cursor(connection: sqlite3.Connection, text: str) -> int:
    """Return the number of the last event that the reader with this cursor has seen.

    Raises:
        UsageError: if it is not a cursor, or that of another cache.
    """
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise UsageError(f"invalid cursor '{text}': expected the `cursor` of a line that events --json printed.")
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    if match[1] != cache_id(connection) or int(match[2]) > (row[0] if row else 0):
        raise foreign_cursor_error(text)
    return int(match[2])


def foreign_cursor_error(text: str) -> UsageError:
    """Return the error for a cursor of another cache."""
    return UsageError(
        f"The cursor {text} belongs to another cache, which numbers events in its own order.",
        hint="Use the cache that it came from (--cache PATH), or start again without --since.",
    )


def has_later_states(connection: sqlite3.Connection) -> bool:
    """Return True if one of the last events shows a later state of a job than its row, or a job without one."""
    row = connection.execute(
        "SELECT 1 FROM (SELECT job_id, body FROM event WHERE kind = ? ORDER BY seq DESC LIMIT ?) AS last"
        " LEFT JOIN job USING (job_id)"
        " WHERE json_extract(body, '$.revision') > coalesce(json_extract(record, '$.revision'), -1) LIMIT 1",
        (STATE, LATEST_STATES),
    ).fetchone()
    return row is not None
