"""The reading path: list, filter, count and find jobs in the cache, in SQL, with the standard library alone.

One `Filter` makes the WHERE clauses of rows, totals and counts, so that a table, its JSON and its footer agree. A
listing holds one record at a time: see docs/decisions/0019-bounded-readers.md.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from mopsjobs.cache.job_json import COLUMNS, JSON_ENCODER, job_json, job_text
from mopsjobs.cache.queries.filters import Condition, Filter, shows_sweeps, where_clauses
from mopsjobs.cache.sync_state import FULL_GENERATION, get_meta, known_to, read_one_state
from mopsjobs.errors import LATEST, JobNotFoundError, RecordError, command_line
from mopsjobs.registry.status import ACTIVE

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cache.queries.sweeps import Sweep
    from mopsjobs.registry.job_columns import JobColumns

ABOVE_IDS = "\U0010ffff"
"""No id has this character, since it does not print. Behind a prefix, it bounds the ids with the prefix from above."""

MAX_CANDIDATES = 5
"""Ids in the error for a name that is not an id: enough to see the pattern, few enough for one line."""

MAX_WORDS = 200
"""Words for a shell: more candidates are of no help."""

_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", re.ASCII)

ChangeMark = tuple[int, dict[str, str]]
"""The rows that a reader of changes has seen: all up to a generation, and these versions of younger rows."""


class JobList:
    """The listed jobs, and the total of the filter. Each record is read from the connection when it is needed."""

    __slots__ = ("_connection", "_known_to", "_now", "_rowids", "total")

    def __init__(self, connection: sqlite3.Connection, rowids: list[int], total: int, now: float) -> None:
        self._connection = connection
        self._rowids = rowids
        self._now = now
        self._known_to = known_to(connection, now)
        self.total = total

    def __len__(self) -> int:
        return len(self._rowids)

    def ids(self) -> list[tuple[str]]:
        """Return the id of each job."""
        sql = "SELECT job_id FROM json_each(?) AS listed CROSS JOIN job ON job.rowid = listed.value"
        return self._connection.execute(sql, (json.dumps(self._rowids),)).fetchall()

    def jobs(self, fields: tuple[str, ...] | None = None) -> Iterator[dict[str, object]]:
        """Yield each job as `job_json` returns it, or only these of its fields."""
        return self._jobs(fields, 0)

    def _jobs(self, fields: tuple[str, ...] | None, skip: int) -> Iterator[dict[str, object]]:
        jobs = (job_json(columns, now=self._now, known_to=self._known_to) for columns in self._columns(skip))
        return jobs if fields is None else ({name: job[name] for name in fields} for job in jobs)

    def texts(self, fields: tuple[str, ...] | None = None, *, skip: int = 0) -> Iterator[str]:
        """Yield the same as JSON text, without the first `skip` jobs."""
        texts = (job_text(columns, now=self._now, known_to=self._known_to) for columns in self._columns(skip))
        return texts if fields is None else (JSON_ENCODER.encode(job) for job in self._jobs(fields, skip))

    def _columns(self, skip: int) -> Iterator[JobColumns]:
        sql = f"SELECT {COLUMNS} FROM json_each(?) AS listed CROSS JOIN job ON job.rowid = listed.value"  # noqa: S608
        return self._connection.execute(sql, (json.dumps(self._rowids[skip:]),))


def list_jobs(connection: sqlite3.Connection, job_filter: Filter, *, order: str, limit: int, now: float) -> JobList:
    """List the jobs that pass a filter.

    Args:
        connection: the cache.
        job_filter: which jobs.
        order: the result of `parse_sort`.
        limit: how many of the first jobs in that order, 0 for all. Active jobs are always listed, wherever they stand.
        now: seconds since 1970, for the duration of active jobs.

    The connection is left in a transaction, for the records that are read later.
    """
    clauses = where_clauses(connection, job_filter)
    read_one_state(connection)  # of total, order and records
    total = count_matches(connection, clauses)
    listed, values = _listed_rows(clauses, order, limit)
    rows = connection.execute(f"SELECT rowid, is_active FROM job WHERE rowid IN ({listed}) ORDER BY {order}", values)  # noqa: S608
    rowids = [row[0] for position, row in enumerate(rows) if limit == 0 or position < limit or row[1]]
    return JobList(connection, rowids, total, now)


def list_rows(
    connection: sqlite3.Connection, job_filter: Filter, *, order: str, limit: int, now: float
) -> tuple[JobList, list[Sweep | None]]:
    """List jobs as `list_jobs` does, but those of a sweep as one row, unless the filter names the label.

    Returns:
        A job for each row, with the total of the jobs; and the sweep of each row, None for a job without one. The list
        of sweeps is empty if there are none.
    """
    if not shows_sweeps(connection, job_filter):
        return list_jobs(connection, job_filter, order=order, limit=limit, now=now), []
    from mopsjobs.cache.queries.sweeps import first_rows  # few caches have sweeps

    clauses = where_clauses(connection, job_filter)
    read_one_state(connection)
    rowids, sweeps = first_rows(connection, job_filter, clauses, order=order, limit=limit, now=now)
    return JobList(connection, rowids, count_matches(connection, clauses), now), sweeps


def count_matches(connection: sqlite3.Connection, clauses: list[Condition]) -> int:
    """Return how many jobs pass a filter, whose clauses these are."""
    return sum(
        connection.execute(f"SELECT count(*) FROM job WHERE {condition}", values).fetchone()[0]  # noqa: S608 - constant names, bound values
        for condition, values in clauses
    )


def _listed_rows(clauses: list[Condition], order: str, limit: int) -> Condition:
    """Return a query for the rows to list: the first ones of each clause, and its active ones wherever they stand."""
    selects: list[str] = []
    parameters: list[object] = []
    for condition, values in clauses:
        if limit == 0:
            selects.append(f"SELECT rowid FROM job WHERE {condition}")  # noqa: S608
            parameters += values
            continue
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit:d}"  # noqa: S608
        selects.append(f"SELECT * FROM ({first}) UNION SELECT rowid FROM job WHERE is_active = 1 AND {condition}")  # noqa: S608
        parameters += values * 2
    return " UNION ".join(selects), parameters


def page_of_jobs(
    connection: sqlite3.Connection, job_filter: Filter, *, order: str, limit: int, offset: int, now: float
) -> Iterator[dict[str, object]]:
    """Yield a page of the jobs that pass a filter, each as `job_json` returns it, read when it is needed.

    Unlike in a listing, active jobs stand where the order puts them.

    Args:
        connection: the cache.
        job_filter: which jobs.
        order: the result of `parse_sort`.
        limit: jobs per page.
        offset: jobs on the pages before.
        now: seconds since 1970, for the duration of active jobs.
    """
    selects: list[str] = []
    parameters: list[object] = []
    # Each part gives as many rows as the page may need, so that each stops early if an index has the order.
    for condition, values in where_clauses(connection, job_filter):
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit + offset:d}"  # noqa: S608 - constant names, bound values
        selects.append(f"SELECT * FROM ({first})")  # noqa: S608
        parameters += values
    inner = " UNION ALL ".join(selects)
    # Rows of earlier pages are skipped before their records are read.
    page = f"SELECT rowid FROM job WHERE rowid IN ({inner}) ORDER BY {order} LIMIT {limit:d} OFFSET {offset:d}"  # noqa: S608
    rows = connection.execute(f"SELECT {COLUMNS} FROM job WHERE rowid IN ({page}) ORDER BY {order}", parameters)  # noqa: S608
    known = known_to(connection, now)
    return (job_json(row, now=now, known_to=known) for row in rows)


def find_job(connection: sqlite3.Connection, name: str, *, now: float) -> dict[str, object]:
    """Find the job with an id, or the newest for `LATEST`.

    Raises:
        JobNotFoundError: if there is none.
        RecordError: if the record of that job is unreadable, and the cache has no good row of it.
    """
    if name is LATEST:
        job = _first_job(connection, "ORDER BY created_ts DESC, job_id", now=now)
    else:
        job = find_exact(connection, name, now=now)
    if job is not None:
        return job
    for key, reason in unreadable_records(connection, name):
        raise RecordError(reason, key=key)
    from mopsjobs.cache.pruning import is_pruned  # no listing needs it

    pruned = f"It was pruned from this cache. To read it from the registry, run: {command_line('status', name)}"
    hint = pruned if is_pruned(connection, name) else None
    raise JobNotFoundError(name, hint=hint, candidates=ids_with_prefix(connection, name))


def find_exact(connection: sqlite3.Connection, job_id: str, *, now: float) -> dict[str, object] | None:
    """Return the job with this full id; None if the cache has none."""
    return _first_job(connection, "WHERE job_id = ?", job_id, now=now)


def _first_job(connection: sqlite3.Connection, condition: str, *values: str, now: float) -> dict[str, object] | None:
    sql = f"SELECT {COLUMNS} FROM job {condition} LIMIT 1"  # noqa: S608 - constant names, bound values
    columns: JobColumns | None = connection.execute(sql, values).fetchone()
    return None if columns is None else job_json(columns, now=now, known_to=known_to(connection, now))


def active_ids(connection: sqlite3.Connection, ids: Iterable[str], also: Iterable[str] = ()) -> list[str]:
    """Return those of the ids that are of active jobs, and those of `also` that are of cancelled ones."""
    active = {job_id for (job_id,) in connection.execute("SELECT job_id FROM job WHERE is_active = 1")}
    sql = "SELECT job_id FROM json_each(?) CROSS JOIN job ON job_id = value WHERE status = 'cancelled'"
    cancelled = {job_id for (job_id,) in connection.execute(sql, (json.dumps([*also]),))}
    return sorted(active.intersection(ids) | cancelled)


def ids_with_prefix(connection: sqlite3.Connection, prefix: str) -> tuple[str, ...]:
    """Return the first ids that begin with a prefix, and `…` if there are more."""
    rows = connection.execute(
        "SELECT job_id FROM job WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?",
        (prefix, prefix + ABOVE_IDS, MAX_CANDIDATES + 1),
    ).fetchall()
    more = ("…",) if len(rows) > MAX_CANDIDATES else ()
    return tuple(row[0] for row in rows[:MAX_CANDIDATES]) + more


def count_jobs(connection: sqlite3.Connection) -> int:
    """Count the jobs of the cache."""
    return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


def have_relatives(connection: sqlite3.Connection, job_ids: Sequence[str]) -> bool:
    """Return whether one of these jobs has a parent or a child: few have. Then `families.py` tells which."""
    sql = (
        "WITH shown AS (SELECT value FROM json_each(?)) SELECT 1 FROM job WHERE parent_job_id IN shown"
        " UNION ALL SELECT 1 FROM job WHERE job_id IN shown AND parent_job_id IS NOT NULL LIMIT 1"
    )
    return connection.execute(sql, (json.dumps(job_ids),)).fetchone() is not None


def unreadable_records(connection: sqlite3.Connection, job_id: str) -> list[tuple[str, str]]:
    """Return key and reason of the unreadable record of a job, if it is so. Its row is the last good one."""
    return _problems(connection, "kind = 'unreadable'", job_id)


def describe_unreadable(connection: sqlite3.Connection) -> str:
    """Return how many records cannot be read, and of how many the last good state is shown; "" if all can be."""
    sql = "SELECT count(*), count(job_id) FROM problem LEFT JOIN job USING (key) WHERE kind = 'unreadable'"
    broken, kept = connection.execute(sql).fetchone()
    if not broken:
        return ""
    records = "1 record" if broken == 1 else f"{broken} records"
    of_some = "" if kept == broken else f" of {kept}"
    shown = f"the last good state{of_some} is shown" if kept else "no earlier state is known"
    return f"{records} cannot be read; {shown}"


def unreadable_warning(connection: sqlite3.Connection) -> list[str]:
    """Return the warning that some records cannot be read, if that is so."""
    said = describe_unreadable(connection)
    return [f"{said}. See: {command_line('doctor')}"] if said else []


def pruned_note(connection: sqlite3.Connection, job_filter: Filter) -> list[str]:
    """Return the note that a view lacks the pruned jobs, if this cache has pruned some and they might pass a filter."""
    if job_filter.statuses is not None and job_filter.statuses <= ACTIVE:
        return []
    some = connection.execute("SELECT 1 FROM pruned LIMIT 1").fetchone()
    return [] if some is None else ["Jobs that were pruned from this cache are left out."]


def remarks(connection: sqlite3.Connection, job_id: str) -> list[str]:
    """Return how the record of a job is shown where it has values that this version reads as something near to them."""
    return [
        reason
        for _key, reason in _problems(connection, "kind IN ('foreign_value', 'unknown_status', 'unlisted')", job_id)
    ]


def _problems(connection: sqlite3.Connection, kinds: str, job_id: str) -> list[tuple[str, str]]:
    ending = f"/{job_id}/state.json"  # not by LIKE: an id may contain its `_`
    return connection.execute(
        f"SELECT key, reason FROM problem WHERE {kinds} AND substr(key, -length(?1)) = ?1 ORDER BY key",  # noqa: S608 - constant texts
        (ending,),
    ).fetchall()


def all_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """Return what the cache notes about itself: `registry`, `synced_at`, `attempted_at`, `last_error`, generations."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


def changed_jobs(
    connection: sqlite3.Connection, job_filter: Filter, mark: ChangeMark | None
) -> tuple[list[JobColumns], ChangeMark]:
    """Return the jobs that pass a filter and changed since a mark, and the next mark; without one, the active jobs.

    A generation above that of the last full sync may still get rows, so these rows are compared by version. A
    generation up to it is complete: a sync that is older than a full one writes nothing any more.
    """
    complete = int(get_meta(connection, FULL_GENERATION) or 0)
    start, known = mark or (complete, {})
    # INDEXED BY: else SQLite reads all rows in the order of their change, to save sorting a few.
    source = (
        "job WHERE is_active = 1" if mark is None else f"job INDEXED BY idx_job_generation WHERE generation > {start}"
    )
    jobs: list[JobColumns] = []
    for condition, values in where_clauses(connection, job_filter):
        sql = f"SELECT job_id, version, {COLUMNS} FROM {source} AND {condition} ORDER BY changed_ts, job_id"  # noqa: S608 - constant names, bound values
        jobs += [row[2:] for row in connection.execute(sql, values) if known.get(row[0]) != row[1]]
    versions = connection.execute("SELECT job_id, version FROM job WHERE generation > ?", (complete,))
    return jobs, (complete, dict(versions.fetchall()))


def completion_words(connection: sqlite3.Connection, kind: str, prefix: str) -> list[str]:
    """Return words that a shell may complete: `jobs`, `names`, which may be @latest, `active` jobs, or `owners`.

    Only words that no shell expands are returned. A record may hold any text: an owner named `$(…)` must not run when a
    user presses Tab. Without a prefix, the jobs that changed last come first.
    """
    if kind == "owners":
        sql = "SELECT DISTINCT owner FROM tally WHERE jobs > 0 AND owner >= ? AND owner < ? ORDER BY owner"
    else:
        # `+`: without a prefix, the index of the order is better.
        condition = f"{'' if prefix else '+'}job_id >= ? AND job_id < ?{' AND is_active = 1' * (kind == 'active')}"
        order = "job_id" if prefix else "changed_ts DESC"
        sql = f"SELECT job_id FROM job WHERE {condition} ORDER BY {order} LIMIT {MAX_WORDS}"  # noqa: S608 - constant names
    rows = connection.execute(sql, (prefix, prefix + ABOVE_IDS))
    words = [word for (word,) in rows if _PLAIN_WORD.fullmatch(word)][:MAX_WORDS]
    return [LATEST, *words] if kind in ("names", "active") and LATEST.startswith(prefix) else words
