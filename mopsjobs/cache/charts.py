"""Figures over the whole cache for its charts: what was going on, what ended and how, how long it took, and whose.

Days are those of UTC. All of it comes from the columns of the rows, so that no record is parsed.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from mopsjobs.cache.queries import Filter
from mopsjobs.cache.statistics import Spread, spread_of

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
    ended: dict[str, int]
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


def gather(connection: sqlite3.Connection, chosen: Filter, since: float) -> None:
    """Put the times of the jobs that the filter chooses side by side, for this connection alone.

    All figures below are of them: jobs that are active, or were changed since then. Each is drawn from a table that
    is read in milliseconds; the rows themselves, with their records, are read once.
    """
    chosen.since = since
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("DROP TABLE IF EXISTS temp.charted")
    connection.execute(
        "CREATE TEMP TABLE charted (job_id TEXT PRIMARY KEY, status TEXT, is_active INTEGER, owner TEXT,"
        " created_ts REAL, started_ts REAL, ended_ts REAL) WITHOUT ROWID"
    )
    for condition, values in chosen.parts():
        sql = (
            "INSERT INTO charted SELECT job_id, status, is_active, owner, created_ts, started_ts, ended_ts"  # noqa: S608
            f" FROM main.job WHERE {condition}"
        )
        connection.execute(sql, values)


def levels(connection: sqlite3.Connection, *, since: float, until: float, step: float) -> list[Level]:
    """How many jobs were queued and running at moments `step` seconds apart, from `since` to `until`.

    A job is queued from its registration until its first task ran; one without a history counts as queued until it has
    ended, since nobody knows better.
    """
    count = max(1, round((until - since) / step))
    changes = {name: [0] * (count + 1) for name in ("queued", "running")}
    # Of each column, how many of its moments lie in each step; what came before the first is in the first.
    for column, effects in (
        ("created_ts", {"queued": 1}),
        ("started_ts", {"queued": -1, "running": 1}),
        ("CASE WHEN started_ts IS NOT NULL THEN ended_ts END", {"running": -1}),
        ("CASE WHEN started_ts IS NULL THEN ended_ts END", {"queued": -1}),
    ):
        sql = (
            f"SELECT CASE WHEN {column} <= ? THEN 0 ELSE CAST(({column} - ?) / ? AS INTEGER) + 1 END AS place,"  # noqa: S608
            f" count(*) FROM charted WHERE {column} <= ? GROUP BY place"
        )
        for place, number in connection.execute(sql, (since, since, step, until)):
            for name, effect in effects.items():
                changes[name][min(place, count)] += effect * number
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
    window = "ended_ts >= ? AND ended_ts < ?"
    bound = (first * DAY, (last + 1) * DAY)
    ended: dict[int, dict[str, int]] = {}
    sql = (
        f"SELECT CAST(ended_ts / {DAY} AS INTEGER) AS day, status, count(*) FROM charted"  # noqa: S608 - names of ours
        f" WHERE {window} GROUP BY day, status"
    )
    for day, status, count in connection.execute(sql, bound):
        ended.setdefault(day, {})[status] = count
    queued: dict[int, list[float]] = {}
    ran: dict[int, list[float]] = {}
    sql = f"SELECT started_ts - created_ts, ended_ts - started_ts, ended_ts FROM charted WHERE {window}"  # noqa: S608
    for waited, worked, end in connection.execute(f"{sql} AND started_ts IS NOT NULL", bound):
        queued.setdefault(int(end // DAY), []).append(max(waited, 0.0))
        ran.setdefault(int(end // DAY), []).append(max(worked, 0.0))
    return [
        Day(day * DAY, ended.get(day, {}), spread_of(queued.get(day, [])), spread_of(ran.get(day, [])))
        for day in range(first, last + 1)
    ]


_COUNTS = "count(*) AS jobs, sum(is_active), sum(status = 'failed'), sum(status = 'cancelled')"


def by_owner(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """The owners with the most jobs; the one without a name is nobody."""
    sql = f"SELECT coalesce(owner, '') AS who, {_COUNTS} FROM charted GROUP BY who ORDER BY jobs DESC, who LIMIT ?"  # noqa: S608
    return [Group(*row) for row in connection.execute(sql, (limit,))]


def by_label(connection: sqlite3.Connection, *, limit: int) -> list[Group]:
    """The labels, `key=value`, with the most jobs."""
    sql = (
        f"SELECT label || '=' || value, {_COUNTS} FROM job_label CROSS JOIN charted USING (job_id)"  # noqa: S608 - ours
        " GROUP BY label, value ORDER BY jobs DESC, label, value LIMIT ?"
    )
    return [Group(*row) for row in connection.execute(sql, (limit,))]
