"""Sweeps as rows: the jobs with one value of the label `sweep` are one row of a list.

A row stands where the first of its jobs stands in the order. Rows are read in that order until there are enough, so a
listing reads jobs of the sweeps that it shows, and no others. Only caches with sweeps import this module. See
docs/decisions/0127-sweeps.md.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mopsjobs.cache.queries.filters import URGENCY, Condition, Filter, count_by, is_suspect, where_clauses
from mopsjobs.cache.totals import MAX_SUMMED
from mopsjobs.registry.status import TERMINAL

SEVERAL = "several"


class Sweep(NamedTuple):
    """The jobs of a sweep that pass a filter. Times are seconds since 1970."""

    name: str
    jobs: int
    """A job that was resumed counts as the one that took up its tasks."""
    resumed: int
    """How many do so."""
    all_jobs: int
    """Those that do not pass included."""
    is_group: bool
    """Whether several jobs have the label: the row of a single one says more."""
    statuses: Mapping[str, int]
    """The number of jobs with each status, the most urgent first."""
    active: int
    suspect: int
    tasks_total: int
    tasks_completed: int
    owner: str | None
    """`SEVERAL`, if they have not one. So is `study`."""
    study: str | None
    created: float
    """When the first one was registered."""
    changed: float
    """When one of them changed last."""
    best: tuple[float, str] | None
    """The smallest value that its calibrations have found, and the job that has it; None without calibrations."""
    ended: float | None
    """When the last one ended; None while one is active."""

    @property
    def status(self) -> str:
        """Return the status of the row: of jobs that have not ended if there are any, else the most urgent one."""
        return next(status for status in self.statuses if not self.active or status not in TERMINAL)

    @property
    def best_text(self) -> str:
        """Return the best value of its calibrations and the job that has it; empty without one."""
        return "" if self.best is None else f"{self.best[0]:.4g} of {self.best[1]}"

    def counts_text(self, *, with_best: bool = True) -> str:
        """Return how many jobs have which status, and the best value: `1 failed, 2 running of 20 jobs`."""
        counts = ", ".join(f"{count:,} {status}" for status, count in self.statuses.items())
        stuck = f" ({self.suspect:,} suspect)" if self.suspect else ""
        cut = f" of {self.all_jobs:,} jobs" if self.jobs < self.all_jobs else ""
        best = f"; best {self.best_text}" if with_best and self.best else ""
        return f"{counts}{stuck}{cut}{best}"


def first_rows(
    connection: sqlite3.Connection, job_filter: Filter, clauses: list[Condition], *, order: str, limit: int, now: float
) -> tuple[list[int], list[Sweep | None]]:
    """Return the rows of a list of jobs: a job of each, as its rowid, and its sweep; see `jobs.list_rows`."""
    active = [(f"is_active = 1 AND {condition}", values) for condition, values in clauses] if limit else []
    never_cut = _first_jobs(connection, active, order, 0)
    kept = {name for _, name in _in_order(connection, never_cut, order)}
    rows = _in_order(connection, [*_first_jobs(connection, clauses, order, limit), *never_cut], order)
    shown = [row for place, row in enumerate(rows) if limit == 0 or place < limit or row[1] in kept]
    sweeps = read_sweeps(connection, job_filter, [name for _, name in shown if isinstance(name, str)], now)
    groups = {name: sweep for name, sweep in sweeps.items() if sweep.is_group}
    return [rowid for rowid, _ in shown], [groups.get(name) if isinstance(name, str) else None for _, name in shown]


def page_of_rows(
    connection: sqlite3.Connection, job_filter: Filter, *, order: str, limit: int, offset: int
) -> list[tuple[int, str | None]]:
    """Return a page of the rows: the first job of each, as its rowid, and the name of its sweep, if it has one."""
    first = _first_jobs(connection, where_clauses(connection, job_filter), order, limit + offset)
    rows = _in_order(connection, first, order)[offset : offset + limit]
    return [(rowid, name if isinstance(name, str) else None) for rowid, name in rows]


def sweeps_and_jobs(connection: sqlite3.Connection, job_filter: Filter) -> tuple[int, int]:
    """Return how many sweeps have jobs that pass a filter, and how many such jobs they have."""
    jobs = count_by(connection, job_filter, "sweep", "sweep IS NOT NULL")
    return len(jobs), jobs.total()


def ended_sweeps(connection: sqlite3.Connection, names: Iterable[str], now: float) -> list[tuple[Sweep, str]]:
    """Return those of these sweeps whose jobs have all ended, each with the job that ended last."""
    sql = "SELECT job_id FROM job WHERE sweep = ? ORDER BY ended_ts DESC, job_id LIMIT 1"
    sweeps = read_sweeps(connection, Filter(), names, now).values()
    return [
        (sweep, connection.execute(sql, (sweep.name,)).fetchone()[0]) for sweep in sweeps if sweep.ended is not None
    ]


def read_sweeps(
    connection: sqlite3.Connection, job_filter: Filter, names: Iterable[str], now: float
) -> dict[str, Sweep]:
    """Return these sweeps, by their names: each as the jobs that pass a filter make it."""
    wanted = json.dumps([*names])
    if wanted == "[]":
        return {}
    counts = connection.execute(
        "SELECT sweep, count(*) FROM job WHERE sweep IN (SELECT value FROM json_each(?)) GROUP BY sweep", (wanted,)
    )
    rows_of: dict[str, int] = dict(counts.fetchall())
    resumed = [_Resumed(*row) for row in connection.execute(_RESUMED, (wanted,))]
    replaced = Counter(one.sweep for one in resumed if one.is_replaced)
    parts: dict[str, list[tuple[object, ...]]] = {}
    for condition, values in where_clauses(connection, job_filter):
        rows = connection.execute(
            "SELECT sweep, status, count(*), sum(is_active),"  # noqa: S608 - constant names
            f" sum(CASE WHEN is_active THEN {is_suspect(connection, now)} ELSE 0 END),"
            f" sum(min(tasks_total, {MAX_SUMMED})), sum(min(tasks_completed, {MAX_SUMMED})), min(owner), max(owner),"
            " min(study), max(study), min(created_ts), max(changed_ts), max(ended_ts), min(best) FROM job"
            f" WHERE sweep IN (SELECT value FROM json_each(?)) AND {condition} GROUP BY sweep, status",
            (wanted, *values),
        )
        for name, *part in rows:
            parts.setdefault(name, []).append(tuple(part))
        if resumed:
            rowids = json.dumps([rowid for one in resumed for rowid in (one.parent, one.child)])
            sql = f"SELECT rowid FROM job WHERE rowid IN (SELECT value FROM json_each(?)) AND {condition}"  # noqa: S608
            passing = {rowid for (rowid,) in connection.execute(sql, (rowids, *values))}
            for one in resumed:
                if {one.parent, one.child} <= passing:
                    parts[one.sweep].append(one.correction())
    return {
        name: _sum_up(connection, name, found, rows_of[name] - replaced[name], is_group=rows_of[name] > 1)
        for name, found in parts.items()
    }


_RESUMED = f"""
    SELECT child.sweep, parent.rowid, child.rowid, parent.status,
        min(parent.tasks_total, {MAX_SUMMED}), min(parent.tasks_completed, {MAX_SUMMED}),
        min(child.tasks_total, {MAX_SUMMED}), json_type(child.record, '$.metadata.precision') IS NOT NULL,
        ifnull(json_extract(child.record, '$.metadata.n_deferred_tasks'), 0) = 0
    FROM job AS child INDEXED BY idx_job_parent JOIN job AS parent ON parent.job_id = child.parent_job_id
    WHERE child.parent_job_id IS NOT NULL AND child.sweep IN (SELECT value FROM json_each(?))
        AND parent.sweep = child.sweep AND child.status != 'cancelled'
"""  # noqa: S608 - a number


class _Resumed(NamedTuple):
    """A job of a sweep, and the one in the same sweep that was made to continue it; see `families`."""

    sweep: str
    parent: int
    child: int
    status: str
    tasks_total: int
    tasks_completed: int
    child_tasks: int
    is_adaptive: int
    """Whether the child has the tasks of its parent, too."""
    is_replaced: int
    """Whether the child has taken up all that was left."""

    def correction(self) -> tuple[object, ...]:
        """Return what the sums have too much, as a row of them: one job of two, and the tasks that both have."""
        jobs = -1 if self.is_replaced else 0
        both = (self.tasks_total, self.tasks_completed) if self.is_adaptive else (self.child_tasks, 0)
        return (self.status, jobs, 0, 0, -both[0], -both[1], *[None] * 8)


def _sum_up(
    connection: sqlite3.Connection, name: str, parts: Sequence[tuple[object, ...]], all_jobs: int, *, is_group: bool
) -> Sweep:
    statuses: dict[str, int] = {}
    for status, count, *_ in sorted(parts, key=lambda part: part[0] in URGENCY and URGENCY.index(str(part[0])) + 1):
        statuses[str(status)] = statuses.get(str(status), 0) + int(count)  # type: ignore[call-overload]
    statuses = {status: count for status, count in statuses.items() if count}
    columns = [[value for value in column if value is not None] for column in zip(*parts, strict=True)]
    (
        _,
        jobs,
        active,
        suspect,
        total,
        completed,
        owner,
        last_owner,
        study,
        last_study,
        created,
        changed,
        ended,
        values,
    ) = columns
    best = None
    if values:
        sql = "SELECT best, job_id FROM job WHERE sweep = ? AND best = ? ORDER BY created_ts, job_id LIMIT 1"
        best = connection.execute(sql, (name, min(values))).fetchone()
    return Sweep(
        name, sum(jobs), jobs.count(-1), all_jobs, is_group, statuses, sum(active), sum(suspect), sum(total),
        sum(completed),
        _common(owner, last_owner), _common(study, last_study), min(created), max(changed), best,
        max(ended) if ended and not sum(active) else None,
    )  # fmt: skip


def _common(least: Sequence[str], greatest: Sequence[str]) -> str | None:
    if not least:
        return None
    return min(least) if min(least) == max(greatest) else SEVERAL


SKIPPED = 1000
"""Jobs of sweeps that have a row, one after the other, after which a listing leaves these sweeps out and begins again.
Each time it is ten times as many."""


def _first_jobs(connection: sqlite3.Connection, clauses: Iterable[Condition], order: str, rows: int) -> list[int]:
    """Return the first job of each row of each clause, up to a number of rows; 0 for all."""
    first: list[int] = []
    for condition, values in clauses:
        names: set[str] = set()
        found: dict[int, None] = {}
        patience, is_cut = SKIPPED, True
        while is_cut:
            is_cut, skipped = False, 0
            left_out = "(sweep IS NULL OR sweep NOT IN (SELECT value FROM json_each(?)))"
            sql = f"SELECT rowid, sweep FROM job WHERE {condition} AND {left_out} ORDER BY {order}"  # noqa: S608 - constant names, bound values
            with contextlib.closing(connection.execute(sql, (*values, json.dumps([*names])))) as jobs:
                for rowid, name in jobs:
                    if name in names:
                        skipped += 1
                        is_cut = skipped > patience
                        if is_cut:
                            break
                        continue
                    skipped = 0
                    found[rowid] = None
                    if name is not None:
                        names.add(name)
                    if len(found) == rows:
                        break
            patience *= 10
        first += found
    return first


def _in_order(connection: sqlite3.Connection, rowids: Sequence[int], order: str) -> list[tuple[int, str | int]]:
    """Return the rows of these jobs in their order: the first job of each, and the sweep, or again the job."""
    sql = f"SELECT rowid, sweep FROM job WHERE rowid IN (SELECT value FROM json_each(?)) ORDER BY {order}"  # noqa: S608
    rows: dict[str | int, int] = {}
    for rowid, name in connection.execute(sql, (json.dumps(rowids),)):
        rows.setdefault(rowid if name is None else name, rowid)
    return [(rowid, name) for name, rowid in rows.items()]
