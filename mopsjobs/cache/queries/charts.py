"""Figures over the whole cache for its charts: what was going on, what ended and how, how long it took, and whose.

Days are those of UTC. All of it comes from the columns of the rows, so that no record is parsed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cache.queries.statistics import Spread, spread_of

DAY = 86400


class Level(NamedTuple):
    """How many jobs were waiting and how many at work, at a moment."""

    at: float
    queued: int
    running: int


class Day(NamedTuple):
    """What ended on a day."""

    start: float
    """Its beginning, in seconds since 1970."""
    ended: Mapping[str, int]
    """Jobs by the status they ended with."""
    queued: Spread
    """Seconds from the registration to the first task, of the jobs that ended on that day."""
    ran: Spread
    """Seconds from there to the end."""

    @property
    def failure_rate(self) -> float | None:
        """The share of failed ones among those that ended by themselves; None when none did.

        Somebody's wish to cancel says nothing of how well jobs go.
        """
        counted = sum(self.ended.values()) - self.ended.get("cancelled", 0)
        return _failure_rate(self.ended.get("failed", 0), counted)


class Group(NamedTuple):
    """The jobs of an owner, or with a label."""

    name: str
    jobs: int
    active: int
    failed: int
    cancelled: int

    @property
    def failure_rate(self) -> float | None:
        """As that of a day."""
        return _failure_rate(self.failed, self.jobs - self.active - self.cancelled)


def _failure_rate(failed: int, counted: int) -> float | None:
    return failed / counted if counted else None


@contextlib.contextmanager
def gathered(connection: sqlite3.Connection, chosen: Filter, since: float) -> Iterator[None]:
    """Have the times of the jobs that the filter chooses side by side, for this connection alone, in the block.

    All figures below are of them: jobs that are active, or ended since then. They come from an index that has them
    all, so that no row with its record is read, except where labels choose.
    """
    index = "" if chosen.labels else "INDEXED BY idx_job_created_ts"
    [(condition, values)] = chosen.parts()
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(
        "CREATE TEMP TABLE charted (id INTEGER PRIMARY KEY, status TEXT, is_active INTEGER, owner TEXT,"
        " created_ts REAL, started_ts REAL, ended_ts REAL)"
    )
    try:
        sql = (
            "INSERT INTO charted SELECT rowid, status, is_active, owner, created_ts, started_ts, ended_ts"  # noqa: S608
            f" FROM main.job {index} WHERE (is_active = 1 OR ended_ts >= ?) AND {condition}"
        )
        connection.execute(sql, (since, *values))
        yield
    finally:
        connection.execute("DROP TABLE temp.charted")


def levels(connection: sqlite3.Connection, *, since: float, until: float, step: float) -> list[Level]:
    """How many jobs were queued and running at moments `step` seconds apart, from `since` to `until`.

    A job is queued from its registration until its first task ran; one without a history counts as queued until it has
    ended, since nobody knows better.
    """
    count = max(1, round((until - since) / step))
    changes = {name: [0] * (count + 1) for name in ("queued", "running")}
    more_queued, more_running = changes["queued"], changes["running"]

    def step_of(at: float) -> int:
        """The step in which a moment lies; what came before the first is in the first."""
        return min(int((at - since) / step) + 1, count) if at > since else 0

    # Not by GROUP BY, which sorts the rows once for each column.
    for created, started, ended in connection.execute("SELECT created_ts, started_ts, ended_ts FROM charted"):
        if created <= until:
            more_queued[step_of(created)] += 1
        if started is not None and started <= until:
            more_queued[step_of(started)] -= 1
            more_running[step_of(started)] += 1
        if ended is not None and ended <= until:
            (more_queued if started is None else more_running)[step_of(ended)] -= 1
    found = []
    queued = running = 0
    for place in range(count + 1):
        queued += changes["queued"][place]
        running += changes["running"][place]
        found.append(Level(since + place * step, max(queued, 0), max(running, 0)))
    return found


def days(connection: sqlite3.Connection, *, since: float, until: float) -> list[Day]:
    """What ended on each day from that of `since` to that of `until`, empty ones included."""
    first, last = int(since // DAY), int(until // DAY)
    ended: dict[int, Counter[str]] = defaultdict(Counter)
    queued: dict[int, list[float]] = defaultdict(list)
    ran: dict[int, list[float]] = defaultdict(list)
    rows = connection.execute(
        "SELECT status, created_ts, started_ts, ended_ts FROM charted WHERE ended_ts >= ? AND ended_ts < ?",
        (first * DAY, (last + 1) * DAY),
    )
    for status, created, started, end in rows:
        day = int(end // DAY)
        ended[day][status] += 1
        if started is not None:
            queued[day].append(max(started - created, 0.0))
            ran[day].append(max(end - started, 0.0))
    return [Day(day * DAY, ended[day], spread_of(queued[day]), spread_of(ran[day])) for day in range(first, last + 1)]


_COUNTS = "count(*) AS jobs, sum(is_active), sum(status = 'failed'), sum(status = 'cancelled')"


def by_owner(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """The owners with the most jobs; the one without a name is nobody."""
    sql = f"SELECT coalesce(owner, '') AS who, {_COUNTS} FROM charted GROUP BY who ORDER BY jobs DESC, who LIMIT ?"  # noqa: S608
    return [Group(*row) for row in connection.execute(sql, (limit,))]


def by_label(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """The labels, `key=value`, with the most jobs."""
    sql = (
        f"SELECT label || '=' || value, {_COUNTS} FROM job_label"  # noqa: S608 - names of ours
        " CROSS JOIN (SELECT rowid AS id, job_id FROM job) USING (job_id) CROSS JOIN charted USING (id)"
        " GROUP BY label, value ORDER BY jobs DESC, label, value LIMIT ?"
    )
    return [Group(*row) for row in connection.execute(sql, (limit,))]
