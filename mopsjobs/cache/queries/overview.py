"""What a person asks first of many jobs: what failed, what runs and until when, what waits and for how long.

The counts come from indexes with the columns that they need, so that no record is read.
"""

from __future__ import annotations

import copy
import itertools
import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from mopsjobs.cache.job_json import COLUMNS, job_json
from mopsjobs.cache.queries.filters import IS_WAITING, PHASES, Filter, count_by, is_suspect, where_clauses
from mopsjobs.cache.queries.sweeps import Sweep, page_of_rows, read_sweeps
from mopsjobs.cache.sync_state import known_to

SHOWN_ERRORS = 4


class ActiveJobs(NamedTuple):
    """The jobs that run, or those that wait."""

    jobs: int = 0
    suspect: int = 0
    """Those that may be stuck; see `job_json`."""
    oldest: float | None = None
    """When the first of them was created, in seconds since 1970; None if there is none."""
    next_end: float | None = None
    """When the first of them should have ended at the latest; None if none tells."""
    last_end: float | None = None
    dated: int = 0
    """Those that tell when they should end."""


class OpenFailures(NamedTuple):
    """The failures that no resume has taken up."""

    jobs: int
    errors: list[tuple[str, int]]
    """The most frequent codes of errors, with the number of jobs."""
    others: int


def active_jobs(connection: sqlite3.Connection, job_filter: Filter, now: float) -> tuple[ActiveJobs, ActiveJobs]:
    """Return what runs and what waits, of the jobs that pass a filter whatever their phase."""
    chosen = copy.copy(job_filter)
    chosen.since = None  # a window keeps all active jobs
    [(condition, values)] = where_clauses(connection, chosen)
    found = {}
    suspect = is_suspect(connection, now)
    sql = (
        "SELECT is_waiting, count(*), sum(is_suspect), min(created_ts), min(latest), max(latest), count(latest) FROM ("  # noqa: S608 - constant names
        f"SELECT {IS_WAITING} AS is_waiting, created_ts, {suspect} AS is_suspect,"
        f" {_latest(suspect, now)} AS latest FROM job INDEXED BY idx_job_active_tallies"
        f" WHERE is_active = 1 AND {condition}) GROUP BY is_waiting"
    )
    for is_waiting, *counts in connection.execute(sql, values):
        found[bool(is_waiting)] = ActiveJobs(*counts)
    return found.get(False, ActiveJobs()), found.get(True, ActiveJobs())


def open_failures(connection: sqlite3.Connection, job_filter: Filter) -> OpenFailures:
    """Count the open failures that pass a filter, by the code of their error: what stands before the colon."""
    chosen = in_phase(job_filter, "ended")
    chosen.is_open = True
    counts = count_by(connection, chosen, "coalesce(substr(error, 1, instr(error || ':', ':') - 1), '')")
    jobs = counts.total()
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    errors = [one for one in ordered if one[0]][:SHOWN_ERRORS]
    return OpenFailures(jobs, errors, jobs - sum(count for _, count in errors))


def order_of_phase(connection: sqlite3.Connection, phase: str, now: float) -> str:
    """Return the ORDER BY clause in which jobs of a phase are most useful.

    Running: suspect ones first, then by when they should end. Waiting: the longest first. Ended: the last change first.
    """
    if phase == "waiting":
        return "created_ts ASC, job_id ASC"
    if phase == "ended":
        return "changed_ts DESC, job_id ASC"
    suspect = is_suspect(connection, now)
    return f"{suspect} DESC, {_latest(suspect, now)} ASC NULLS LAST, job_id ASC"


def resumed_as(connection: sqlite3.Connection, job_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return id and status of the newest job that continues each of these jobs, if there is one."""
    rows = connection.execute(
        "SELECT parent_job_id, job_id, status FROM job WHERE parent_job_id IN (SELECT value FROM json_each(?))"
        " ORDER BY created_ts",
        (json.dumps(job_ids),),
    )
    return {parent: (job_id, status) for parent, job_id, status in rows}


def in_phase(job_filter: Filter, phase: str) -> Filter:
    """Return a filter for those of the jobs that are in a phase."""
    chosen = copy.copy(job_filter)
    chosen.phase = phase
    if phase != "ended":
        chosen.since = None  # a window keeps all active jobs
    chosen.keeps_active = phase != "ended"
    return chosen


def rows_in_phase(connection: sqlite3.Connection, job_filter: Filter, phase: str) -> Filter:
    """Return a filter for the rows of a phase: jobs that are in it, and sweeps that have jobs in no earlier phase."""
    chosen = in_phase(job_filter, phase)
    for earlier in itertools.takewhile(lambda name: name != phase, PHASES):
        for condition, values in where_clauses(connection, in_phase(job_filter, earlier)):
            busy = f"SELECT sweep FROM job WHERE sweep IS NOT NULL AND {condition}"  # noqa: S608 - constant names
            chosen.require(f"(sweep IS NULL OR sweep NOT IN ({busy}))", *values)
    return chosen


def _latest(suspect: str, now: float) -> str:
    """Return an expression for when a job should have ended; NULL for a suspect, and if that time has passed."""
    latest = "json_extract(forecast, '$.latest')"
    return f"iif(forecast IS NOT NULL AND NOT {suspect} AND {latest} > {now!r}, {latest}, NULL)"


def jobs_of_study(connection: sqlite3.Connection, study: str, limit: int) -> list[str]:
    """Return the ids of the jobs of a study, the last changed first."""
    rows = connection.execute(
        "SELECT job_id FROM job WHERE study = ? ORDER BY changed_ts DESC, job_id LIMIT ?", (study, limit)
    )
    return [str(job_id) for (job_id,) in rows]


def listed_rows(
    connection: sqlite3.Connection,
    job_filter: Filter,
    whole: Filter,
    *,
    order: str,
    limit: int,
    offset: int,
    now: float,
) -> list[dict[str, object] | Sweep]:
    """Return a page of the jobs that pass a filter, as `job_json` has them, and of the sweeps.

    Each sweep is as the jobs that pass `whole` make it.
    """
    rows = page_of_rows(connection, job_filter, order=order, limit=limit, offset=offset)
    found_sweeps = read_sweeps(connection, whole, [name for _, name in rows if name is not None], now)
    sweeps = {name: sweep for name, sweep in found_sweeps.items() if sweep.is_group}
    sql = f"SELECT rowid, {COLUMNS} FROM job WHERE rowid IN (SELECT value FROM json_each(?))"  # noqa: S608 - constant names
    found = connection.execute(sql, (json.dumps([rowid for rowid, name in rows if name not in sweeps]),))
    known = known_to(connection, now)
    jobs = {row[0]: job_json(row[1:], now=now, known_to=known) for row in found}
    return [sweeps[name] if name in sweeps else jobs[rowid] for rowid, name in rows]
