"""Read events back from the cache, in one order that never changes, and make cursors to go on from."""

from __future__ import annotations

import json
import re
import sqlite3
from typing import NamedTuple

from mopsjobs.errors import UsageError
from mopsjobs.events.format import Event
from mopsjobs.utils.times import parse_time

PAGE = 1000
"""Events read at once."""


_CURSOR = re.compile(r"([0-9a-f]{12})-(\d{1,18})", re.ASCII)


class StoredEvent(NamedTuple):
    """An event of the cache and its number there."""

    seq: int
    event: Event


def event_row(chunk: str, event: Event) -> tuple[str, object, float, object, str]:
    """Return the row of an event that came in a chunk: chunk, job id, time, kind and body."""
    at = parse_time(str(event["at"])).timestamp()
    return (chunk, event["job_id"], at, event["kind"], json.dumps(event, allow_nan=False, separators=(",", ":")))


def read_events(
    connection: sqlite3.Connection, after: int, *, job_id: str | None = None, limit: int = PAGE
) -> list[StoredEvent]:
    """The next events after the number `after`, at most `limit`; of all jobs or of one."""
    if job_id is None:
        rows = connection.execute("SELECT seq, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
    else:
        rows = connection.execute(
            "SELECT seq, body FROM event WHERE seq > ? AND job_id = ? ORDER BY seq LIMIT ?", (after, job_id, limit)
        )
    return [StoredEvent(seq, json.loads(body)) for seq, body in rows]


def has_events(connection: sqlite3.Connection, job_id: str) -> bool:
    """Whether the cache has an event of that job."""
    return connection.execute("SELECT 1 FROM event WHERE job_id = ? LIMIT 1", (job_id,)).fetchone() is not None


def cache_id(connection: sqlite3.Connection) -> str:
    """What tells this cache from every other, one rebuilt in its place included."""
    return str(connection.execute("SELECT value FROM meta WHERE name = 'cache_id'").fetchone()[0])


def make_cursor(cache: str, seq: int) -> str:
    """What a reader who has seen the event of that number comes back with."""
    return f"{cache}-{seq}"


def public_event(cache: str, one: StoredEvent) -> Event:
    """An event as scripts get it: with the cursor of a reader who has seen it, in front of what a writer has put in."""
    mark = {"cursor": make_cursor(cache, one.seq)}
    return {**mark, **one.event, **mark}


def parse_cursor(connection: sqlite3.Connection, text: str) -> int:
    """The number of the last event that the reader who comes with this cursor has seen.

    Raises:
        UsageError: it is no cursor, or that of another cache.
    """
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is no cursor: use the `cursor` of a line that events --json has printed.")
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    if match[1] != cache_id(connection) or int(match[2]) > (row[0] if row else 0):
        raise foreign_cursor(text)
    return int(match[2])


def foreign_cursor(text: str) -> UsageError:
    """What to say of a cursor that another cache has given."""
    return UsageError(
        f"The cursor {text} is that of another cache, which numbers events in its own order.",
        hint="Use the cache it came from (--cache PATH), or start over without --since.",
    )


def last_events(
    connection: sqlite3.Connection, job_id: str, *, limit: int, kind: str | None = None
) -> list[StoredEvent]:
    """The last events of a job, in their order; only those of one kind, if it is named."""
    rows = connection.execute(
        "SELECT seq, body FROM event WHERE job_id = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY seq DESC LIMIT ?3",
        (job_id, kind, limit),
    ).fetchall()
    return [StoredEvent(seq, json.loads(body)) for seq, body in reversed(rows)]
