"""Filter and order jobs: one WHERE clause for rows, totals and counts alike."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator

from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.sync_state import known_to
from mopsjobs.errors import UsageError
from mopsjobs.registry.status import ACTIVE, ARCHIVED, BEFORE_RUNNING, SWEEP
from mopsjobs.utils.text import error_line, invalid_choice

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

URGENCY = ("failed", "partial", "running", "validating", "scheduled", "submitting", "pending", "cancelled", "succeeded")
"""The statuses in the order in which they need attention. One that this version does not know comes before all."""

SORTS = {
    "updated": "changed_ts",
    "created": "created_ts",
    "name": "job_id",
    "status": f"instr('{' '.join(URGENCY)}', status)",
    "owner": "owner",
    "progress": "progress",
    "duration": "coalesce(ended_ts, 1e12) - created_ts",
}

DEFAULT_SORT = "-updated"

MANY = 1000
"""Rows that match a search, from which on they are looked up instead of read one by one."""

Condition = tuple[str, list[object]]

IS_WAITING = "status IN (" + ", ".join(f"'{status}'" for status in sorted(BEFORE_RUNNING)) + ")"

PHASES = {
    "running": f"is_active = 1 AND NOT {IS_WAITING}",
    "waiting": f"is_active = 1 AND {IS_WAITING}",
    "ended": "NOT is_active",
}
"""What a job is doing, as conditions. A status that this version does not know counts as running.

The last one is written so that no partial index fits it: the index of another condition is better.
"""

DEFERS = (
    # A text is more than any number in SQL, and the metadata of a record may be anything.
    "json_type({job}.record, '$.metadata.n_deferred_tasks') IS 'integer'"
    " AND json_extract({job}.record, '$.metadata.n_deferred_tasks') > 0"
)
"""The condition for a job that leaves tasks to a later resume."""

_CHILDREN = (
    f"SELECT child.job_id, {DEFERS.format(job='child')} FROM {{before}} job AS child"  # noqa: S608 - constant texts
    " WHERE child.status != 'cancelled' AND child.parent_job_id = {parent}"
)

_LATER = (
    f"WITH RECURSIVE later(job_id, defers) AS ({_CHILDREN.format(before='', parent='{job}')} UNION"
    f" {_CHILDREN.format(before='later CROSS JOIN', parent='later.job_id AND later.defers')})"
)

LATER_JOBS = f"{_LATER.format(job='?')} SELECT job_id FROM later"  # noqa: S608 - constant texts
"""The jobs that take up tasks of a job, up to one that leaves none to a later resume."""

IS_NOT_RESUMED = f"NOT EXISTS ({_LATER.format(job='job.job_id')} SELECT 1 FROM later WHERE defers IS NOT 1)"  # noqa: S608 - constant texts
"""The condition for a job of which no resume has taken up all tasks: `resume --only` leaves some to a later one."""

IS_OPEN = f"status IN ('failed', 'partial') AND {IS_NOT_RESUMED}"
"""The condition for a failure that no resume has taken up. Of a family, its newest job alone may be one, with those
whose tasks that one leaves to a later resume."""

# Each SELECT reads an index; an OR over the rows would read every record. Owners come from the sums.
_ERROR_MATCHES = r"SELECT rowid FROM job INDEXED BY idx_job_error WHERE error IS NOT NULL AND error LIKE ? ESCAPE '\'"

# The errors of failed tasks, as the rows of the page of failures have them.
_TASK_ERROR_MATCHES = r"""
    SELECT job.rowid FROM failure_summary CROSS JOIN job USING (job_id) WHERE EXISTS (
        SELECT error_line(
            json_extract(value, '$[2]'), json_extract(value, '$[4]'), json_extract(value, '$[3]')
        ) AS words
        FROM json_each(document, '$[0]') WHERE words LIKE ? ESCAPE '\'
    )
"""

# By job: that is near to the order of the rows, in which they are found and written faster.
_LABEL_MATCHES = (
    "SELECT job.rowid FROM job_label INDEXED BY idx_job_label_job_id CROSS JOIN job USING (job_id)"
    r" WHERE job_label.value LIKE ? ESCAPE '\'"
)

_NOTE_MATCHES = r"SELECT rowid FROM job INDEXED BY idx_job_note WHERE note IS NOT NULL AND note LIKE ? ESCAPE '\'"

_TEXT_MATCHES = (
    r"SELECT rowid FROM job WHERE job_id LIKE ? ESCAPE '\'",
    r"SELECT rowid FROM job WHERE name LIKE ? ESCAPE '\'",
    r"SELECT rowid FROM job WHERE owner IN (SELECT owner FROM tally WHERE owner LIKE ? ESCAPE '\')",
    _LABEL_MATCHES,
    r"SELECT rowid FROM job WHERE study LIKE ? ESCAPE '\'",
    _ERROR_MATCHES,
    _NOTE_MATCHES,
)

_IS_ARCHIVED = f"job_id IN (SELECT job_id FROM job_label WHERE label = '{ARCHIVED}' AND value = 'true')"  # noqa: S608


class Filter:
    """Conditions on jobs. Every condition that is set must hold; within a condition, any of its values will do.

    `app.run.job_arguments.FILTERS` has the arguments from which they follow.
    """

    statuses: frozenset[str] | None = None
    since: float | None = None
    """Created or changed at or after this time (seconds since 1970), or still active."""
    until: float | None = None
    """Created at or before this time."""
    match: str | None = None
    """The id or the Kubernetes name contains a match of this regular expression."""
    labels: tuple[tuple[str, str | None], ...] = ()
    """Each of these labels is set to this value, or to any if it is None."""
    conditions: tuple[Condition, ...] = ()
    """Further conditions, which `require` adds."""
    stuck_at: float | None = None
    """Active and suspect at this time, as `is_suspect` has it."""
    stuck = ""
    ended_since: float | None = None
    """Ended at or after this time, or still active, as in the charts."""
    text: str | None = None
    """The id, the Kubernetes name, the owner, the study, the error, a note or a label's value contains it, in any ASCII
    case."""
    error: str | None = None
    """The error of the record, or of failed tasks as they were kept, contains this text, in any ASCII case."""
    is_open = False
    """Failed or partial, and not resumed; see `IS_OPEN`."""
    phase: str | None = None
    found: int | None = None
    """The number of rows that `text` and `error` match, within `searching`."""
    finds_all = False
    """Whether these are all rows, so that a query needs no condition for them."""
    hides_archived = False
    """Whether ended jobs with the label `archived=true` do not pass; see `hide_archived`."""
    keeps_active = True
    """Whether active jobs pass a window whenever they changed, as in a listing."""

    def __init__(self, **conditions: Any) -> None:
        """Set conditions, by their names."""
        for name, value in conditions.items():
            setattr(self, name, value)

    def require(self, condition: str, *values: object) -> None:
        """Add a condition: SQL over a row of `job`, and the values of its parameters."""
        self.conditions = (*self.conditions, (condition, [*values]))

    def end_after(self, time: float) -> None:
        """Require that jobs ended at or after this time too, or are active."""
        self.ended_since = time if self.ended_since is None else max(time, self.ended_since)

    def clauses(self) -> list[Condition]:
        """Return WHERE clauses with their parameters. Each job that passes meets exactly one of them.

        A window has two clauses: jobs that changed in it, and older ones that are still active. As one condition with
        OR, SQLite would read the whole table; apart, each clause reads as much of an index as it needs.
        """
        conditions = list(self._conditions())
        condition = " AND ".join(text for text, _ in conditions) or "true"
        values = [value for _, parameters in conditions for value in parameters]
        if self.since is None:
            return [(condition, values)]
        inside = (f"changed_ts >= ? AND {condition}", [self.since, *values])
        if not self.keeps_active:
            return [inside]
        return [
            inside,
            (f"changed_ts < ? AND is_active = 1 AND {condition}", [self.since, *values]),
        ]

    def searches(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return patterns, and queries for the rows that contain each: one of its queries must find a row."""
        searched = ((self.text, _TEXT_MATCHES), (self.error, (_ERROR_MATCHES, _TASK_ERROR_MATCHES)))
        return [(_containing(text), queries) for text, queries in searched if text is not None]

    def _conditions(self) -> Iterator[Condition]:
        if self.statuses is not None:
            # The group of active statuses includes those that this version does not know.
            has_active = self.statuses >= ACTIVE
            names: list[object] = [*sorted(self.statuses - ACTIVE if has_active else self.statuses)]
            named = f"status IN ({', '.join('?' * len(names))})"
            # Alone if possible: an OR hides the index of active jobs.
            yield "is_active = 1" if has_active and not names else f"({'is_active = 1 OR ' * has_active}{named})", names
        if self.until is not None:
            yield "+created_ts <= ?", [self.until]  # `+`: most jobs pass, and an index with more columns is better
        if self.match is not None:
            yield "(job_id REGEXP ? OR name REGEXP ?)", [self.match, self.match]
        for label, value in self.labels:
            has_value = "" if value is None else " AND value = ?"
            words = [label] if value is None else [label, value]
            yield f"job_id IN (SELECT job_id FROM job_label WHERE label = ?{has_value})", [*words]  # noqa: S608 - constant names
        yield from self.conditions
        if self.hides_archived:
            yield f"(is_active = 1 OR NOT {_IS_ARCHIVED})", []
        if self.stuck_at is not None:
            yield f"is_active = 1 AND {self.stuck}", []
        yield from self._page_conditions()

    def _page_conditions(self) -> Iterator[Condition]:
        """Yield the conditions that only pages have."""
        if self.ended_since is not None:
            # `+`: most jobs may pass, and then the index of another condition, or of the order, is better.
            yield "(is_active = 1 OR +ended_ts >= ?)", [self.ended_since]
        if self.is_open:
            yield IS_OPEN, []
        if self.phase is not None:
            yield PHASES[self.phase], []
        if self.found is not None:
            # `+`: if many rows match, the index of another condition, or of the order, is better.
            if not self.finds_all:
                yield "+" * (self.found > MANY) + "rowid IN (SELECT id FROM temp.found)", []
        else:
            for pattern, queries in self.searches():
                yield f"rowid IN ({' UNION '.join(queries)})", [pattern] * len(queries)


def _containing(text: str) -> str:
    """Return the pattern of LIKE for texts that contain a text."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"


def is_one_of(column: str, text: str) -> Condition:
    """Return the condition that a column has a value, or one of a list. The value itself may have a comma."""
    names = list(dict.fromkeys([text, *filter(None, (name.strip() for name in text.split(",")))]))
    return f"{column} = ?" if len(names) == 1 else f"{column} IN ({', '.join('?' * len(names))})", [*names]


def parse_sort(text: str) -> str:
    """Convert a list like `-updated,name` to an ORDER BY clause; a leading `-` means descending.

    Raises:
        UsageError: if jobs cannot be sorted by a name. The message lists the valid names.
    """
    terms: dict[str, str] = {}
    for word in text.split(","):
        name = word.strip().removeprefix("-").removeprefix("+")
        if name not in SORTS:
            hint = "For descending order, put a - in front, as in -updated."
            raise UsageError(invalid_choice("sort column", name, SORTS), hint=hint)
        # A repeated name has no effect, and SQLite has a limit of 2,000 terms.
        terms.setdefault(name, f"{SORTS[name]} {'DESC' if word.strip().startswith('-') else 'ASC'}")
    return ", ".join([*terms.values(), "job_id ASC"])


def hide_archived(connection: sqlite3.Connection, *job_filters: Filter) -> None:
    """Let filters of lists hide archived jobs, if the cache has any and the filter does not name that label.

    Without archived jobs, a filter for all jobs stays one: the sums of the cache have its counts.
    """
    sql = "SELECT EXISTS (SELECT 1 FROM job_label WHERE label = ? AND value = 'true')"
    has_archived = bool(connection.execute(sql, (ARCHIVED,)).fetchone()[0])
    for job_filter in job_filters:
        job_filter.hides_archived = has_archived and all(label != ARCHIVED for label, _ in job_filter.labels)


def shows_sweeps(connection: sqlite3.Connection, job_filter: Filter) -> bool:
    """Return whether a list for people has rows of sweeps: the cache has some, and the filter does not name the label.

    With the label in the filter, the list has the jobs of the sweep.
    """
    if any(label == SWEEP for label, _ in job_filter.labels):
        return False
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM job WHERE sweep IS NOT NULL)").fetchone()[0])


def count_archived(connection: sqlite3.Connection, job_filter: Filter) -> int:
    """Return how many jobs a filter hides because they are archived."""
    if not job_filter.hides_archived:
        return 0
    job_filter.hides_archived = False
    clauses = where_clauses(connection, job_filter)
    job_filter.hides_archived = True
    sql = f"SELECT count(*) FROM job WHERE is_active = 0 AND {_IS_ARCHIVED} AND "  # noqa: S608 - constant names
    return sum(connection.execute(sql + condition, values).fetchone()[0] for condition, values in clauses)


@contextlib.contextmanager
def searching(connection: sqlite3.Connection, *job_filters: Filter) -> Iterator[None]:
    """Search once for all queries of the block: a search reads whole indexes.

    The rows go into a temporary table of this connection. The filters must search for the same.
    """
    searches = job_filters[0].searches()
    if not searches:
        yield
        return
    _add_error_line(connection, job_filters[0])
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("CREATE TEMP TABLE found (id INTEGER PRIMARY KEY)")
    try:
        (total,) = connection.execute("SELECT sum(jobs) FROM tally").fetchone()
        (pattern, queries), *others = searches
        count = _find(connection, pattern, queries, total)
        for pattern, queries in others:
            lacking = f"id NOT IN ({' UNION '.join(queries)})"
            values = [pattern] * len(queries)
            count -= connection.execute(f"DELETE FROM found WHERE {lacking}", values).rowcount  # noqa: S608 - constants
        for job_filter in job_filters:
            job_filter.found, job_filter.finds_all = count, count == total
        yield
    finally:
        connection.execute("DROP TABLE temp.found")


def _find(connection: sqlite3.Connection, pattern: str, queries: tuple[str, ...], total: int) -> int:
    """Put the rows that queries find into the table `found`, until these are all jobs. Return their number."""
    count = 0
    for query in queries:
        count += connection.execute(f"INSERT OR IGNORE INTO found {query}", (pattern,)).rowcount
        if count == total:
            break
    return count


def _add_error_line(connection: sqlite3.Connection, job_filter: Filter) -> None:
    """Add the function that the query for errors of tasks calls, if a filter has that query."""
    if job_filter.error is not None:
        connection.create_function("error_line", 3, error_line, deterministic=True)


def is_suspect(connection: sqlite3.Connection, now: float) -> str:
    """Return the condition of active jobs that may be stuck, as `job_json.why_suspect` has it."""
    return f"(suspect IS NOT NULL OR coalesce(heartbeat_ts < {known_to(connection, now) - SILENT_SECONDS!r}, 0))"


def count_by(
    connection: sqlite3.Connection, job_filter: Filter, expression: str, condition: str = "true"
) -> Counter[str]:
    """Count the jobs that pass a filter and meet a condition, by the value of an expression."""
    counts: Counter[str] = Counter()
    for clause, values in where_clauses(connection, job_filter):
        sql = f"SELECT {expression}, count(*) FROM job WHERE {condition} AND {clause} GROUP BY 1"  # noqa: S608 - constant names
        counts.update(dict(connection.execute(sql, values).fetchall()))
    return counts


def where_clauses(connection: sqlite3.Connection, job_filter: Filter) -> list[Condition]:
    """Return the WHERE clauses of a filter, after preparing this connection for them."""
    if job_filter.match is not None:
        from mopsjobs.cache.queries.matching import add_regexp  # few listings need it

        add_regexp(connection, job_filter.match)
    if job_filter.stuck_at is not None:
        job_filter.stuck = is_suspect(connection, job_filter.stuck_at)
    _add_error_line(connection, job_filter)
    return job_filter.clauses()
