"""The reading path: list, filter, count and find jobs in the cache, in SQL, with the standard library alone.

One `Filter` makes one WHERE clause, and rows, totals and counts all come from it, so that a table, its JSON and its
footer never tell different stories.
"""

from __future__ import annotations

import json
import re
import sqlite3

from mopsjobs.errors import AmbiguousJobError, JobNotFoundError, RecordError, UsageError
from mopsjobs.status import ACTIVE
from mopsjobs.times import from_timestamp, json_time

SILENT_SECONDS = 60.0
"""Two heartbeats. A runner that is silent for longer makes its job suspect, not failed: silence proves nothing."""

COMPUTED = (
    "progress", "is_active", "status_since", "started_at", "ended_at", "duration_seconds", "queued_seconds",
    "run_seconds", "suspect",
)  # fmt: skip
"""What `job_view` adds to the fields of the record."""

MAX_CANDIDATES = 5
"""Ids named when a prefix is ambiguous: enough to see the pattern, few enough for a line."""

SORTS = {
    "updated": "changed_ts",
    "created": "created_ts",
    "name": "job_id",
    "status": "status",
    "owner": "owner",
    "progress": "progress",
    "duration": "coalesce(ended_ts, 1e12) - created_ts",
}
"""What `--sort` may name, and the column behind it."""

DEFAULT_SORT = "-updated"

COLUMNS = (
    "record, is_active, created_ts, started_ts, ended_ts, progress, status_since, has_history, heartbeat_ts, suspect"
)
"""Of a row: what `job_view` makes a job of."""

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant
if TYPE_CHECKING:
    from collections.abc import Iterator

_Where = tuple[str, list[object]]

# Each from an index that has it, instead of OR over the rows, which would read every record. Owners from the sums.
_TEXTS = (
    r"SELECT rowid FROM job WHERE job_id LIKE ? ESCAPE '\' UNION SELECT rowid FROM job WHERE name LIKE ? ESCAPE '\'"
    r" UNION SELECT rowid FROM job WHERE owner IN (SELECT owner FROM tally WHERE owner LIKE ? ESCAPE '\')"
    r" UNION SELECT job.rowid FROM job_label CROSS JOIN job USING (job_id) WHERE job_label.value LIKE ? ESCAPE '\'"
)

Facts = tuple[str, int, float, float | None, float | None, float | None, str | None, int, float | None, str | None]
"""What a job is shown from: the columns in `COLUMNS`, in their order."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


class Filter:
    """Which jobs to show. Every condition that is set must hold; within one, any of its values will do."""

    __slots__ = (
        "keeps_active", "labels", "match", "name", "namespace", "owner", "silent_since", "since", "statuses", "text",
        "until",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - one argument a condition, all by name
        self,
        *,
        statuses: frozenset[str] | None = None,
        since: float | None = None,
        until: float | None = None,
        name: str | None = None,
        match: str | None = None,
        labels: tuple[tuple[str, str | None], ...] = (),
        namespace: str | None = None,
        owner: str | None = None,
        silent_since: float | None = None,
        text: str | None = None,
    ) -> None:
        """Set the conditions.

        Args:
            statuses: one of these statuses.
            since: created or changed at or after this time (seconds since 1970), or still active.
            until: created at or before this time.
            name: id or Kubernetes name fits this glob.
            match: this regular expression is found in the id or the Kubernetes name.
            labels: has each of these labels, with this value, or with any where it is None.
            namespace: runs in this namespace.
            owner: belongs to this owner.
            silent_since: active and suspect: marked so, or its runner has given no sign of life since this time.
            text: is found, in any ASCII case, in its id, Kubernetes name, owner, or the value of a label.

        Raises:
            UsageError: `match` is no regular expression.
        """
        self.statuses = statuses
        self.since = since
        self.until = until
        self.name = name
        self.match = match
        self.labels = labels
        self.namespace = namespace
        self.owner = owner
        self.silent_since = silent_since
        self.text = text
        self.keeps_active = True
        """Whether active jobs pass a window whenever they changed, as a listing wants it."""
        if match is not None:
            try:
                re.compile(match)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(f"'{match}' is no regular expression: {error}.") from None

    @property
    def is_everything(self) -> bool:
        """Whether all jobs pass: then the sums that the cache keeps have the counts."""
        return self.parts() == [("true", [])]

    def parts(self) -> list[_Where]:
        """WHERE clauses with their parameters; the jobs that pass are those of all parts, which have none in common.

        A window has two parts: what changed in it, and what did not and is still active. As one condition with OR,
        SQLite would read the whole table; apart, each reads an index as far as it must.
        """
        condition, values = self._where()
        if self.since is None:
            return [(condition, values)]
        inside = (f"changed_ts >= ? AND {condition}", [self.since, *values])
        if not self.keeps_active:
            return [inside]
        return [
            inside,
            (f"changed_ts < ? AND is_active = 1 AND {condition}", [self.since, *values]),
        ]

    def _where(self) -> _Where:
        conditions: list[str] = []
        values: list[object] = []

        def add(condition: str, *parameters: object) -> None:
            conditions.append(condition)
            values.extend(parameters)

        if self.statuses is not None:
            # The group of the active ones also takes statuses that this version does not know.
            group = self.statuses >= ACTIVE
            named = sorted(self.statuses - ACTIVE if group else self.statuses)
            named_ones = f"status IN ({', '.join('?' * len(named))})"
            # Alone where it can be: an OR hides the index of the active ones.
            add("is_active = 1" if group and not named else f"({'is_active = 1 OR ' * group}{named_ones})", *named)
        if self.until is not None:
            add("created_ts <= ?", self.until)
        if self.name is not None:
            add("(job_id GLOB ? OR name GLOB ?)", self.name, self.name)
        if self.match is not None:
            add("(job_id REGEXP ? OR name REGEXP ?)", self.match, self.match)
        for label, value in self.labels:
            if value is None:
                add("job_id IN (SELECT job_id FROM job_label WHERE label = ?)", label)
            else:
                add("job_id IN (SELECT job_id FROM job_label WHERE label = ? AND value = ?)", label, value)
        if self.namespace is not None:
            add("namespace = ?", self.namespace)
        if self.owner is not None:
            add("owner = ?", self.owner)
        if self.silent_since is not None:
            add("is_active = 1 AND (suspect IS NOT NULL OR heartbeat_ts < ?)", self.silent_since)
        if self.text is not None:
            pattern = "%" + re.sub(r"([\\%_])", r"\\\1", self.text) + "%"
            add(f"rowid IN ({_TEXTS})", *[pattern] * _TEXTS.count("?"))
        return " AND ".join(conditions) or "true", values


def parse_sort(text: str) -> str:
    """The ORDER BY clause for something like `-updated,name`; a leading `-` means descending.

    Raises:
        UsageError: a name is none that can be sorted by. Lists those that can.
    """
    terms: dict[str, str] = {}
    for word in text.split(","):
        name = word.strip().removeprefix("-").removeprefix("+")
        if name not in SORTS:
            raise UsageError(f"Cannot sort by '{name}': use {', '.join(SORTS)}, with - in front for descending.")
        # A name that comes again decides nothing; SQLite takes 2,000 terms.
        terms.setdefault(name, f"{SORTS[name]} {'DESC' if word.strip().startswith('-') else 'ASC'}")
    return ", ".join([*terms.values(), "job_id ASC"])


class Page:
    """The jobs found, and how many there are in all. Each record is read when its turn comes, from the connection."""

    __slots__ = ("_connection", "_now", "_rowids", "total")

    def __init__(self, connection: sqlite3.Connection, rowids: list[int], total: int, now: float) -> None:
        self._connection = connection
        self._rowids = rowids
        self._now = now
        self.total = total

    def __len__(self) -> int:
        return len(self._rowids)

    def jobs(self, fields: tuple[str, ...] | None = None) -> Iterator[dict[str, object]]:
        """Each as `job_view` gives it; of its fields only these, if some are named."""
        views = (job_view(facts, now=self._now) for facts in self._facts(0))
        return views if fields is None else ({name: view[name] for name in fields} for view in views)

    def texts(self, fields: tuple[str, ...] | None = None, *, skip: int = 0) -> Iterator[str]:
        """The same as JSON, without the first ones."""
        every = (job_text(facts, now=self._now) for facts in self._facts(skip))
        return every if fields is None else (_ENCODER.encode(view) for view in self.jobs(fields))

    def _facts(self, skip: int) -> Iterator[Facts]:
        sql = f"SELECT {COLUMNS} FROM json_each(?) AS wanted CROSS JOIN job ON job.rowid = wanted.value"  # noqa: S608
        return self._connection.execute(sql, (json.dumps(self._rowids[skip:]),))


def parts_of(connection: sqlite3.Connection, chosen: Filter) -> list[_Where]:
    """`chosen.parts()`, ready to be run on this connection."""
    if chosen.match is not None:
        from mopsjobs.cache.matching import add_regexp  # few listings match

        add_regexp(connection, chosen.match)
    return chosen.parts()


def list_jobs(connection: sqlite3.Connection, chosen: Filter, *, order: str, limit: int, now: float) -> Page:
    """The jobs that pass the filter.

    Args:
        connection: the cache.
        chosen: which jobs.
        order: what `parse_sort` gave.
        limit: the first so many in that order, 0 for all. Active jobs come in any case, wherever they stand in it.
        now: seconds since 1970, for the duration of what still runs.

    The connection is left in a transaction, for the records that are read later.
    """
    parts = parts_of(connection, chosen)
    if not connection.in_transaction:
        connection.execute("BEGIN")  # total, order and records of one moment
    total = sum(
        connection.execute(f"SELECT count(*) FROM job WHERE {condition}", values).fetchone()[0]  # noqa: S608 - names of ours; values bound
        for condition, values in parts
    )
    wanted, bound = _wanted(parts, order, limit)
    rows = connection.execute(f"SELECT rowid, is_active FROM job WHERE rowid IN ({wanted}) ORDER BY {order}", bound)  # noqa: S608
    rowids = [row[0] for place, row in enumerate(rows) if limit == 0 or place < limit or row[1]]
    return Page(connection, rowids, total, now)


def _wanted(parts: list[_Where], order: str, limit: int) -> _Where:
    """The rows of which those to show are: each part's first ones, and its active ones wherever they stand."""
    selects: list[str] = []
    bound: list[object] = []
    for condition, values in parts:
        if limit == 0:
            selects.append(f"SELECT rowid FROM job WHERE {condition}")  # noqa: S608
            bound += values
            continue
        first = f"SELECT rowid FROM job WHERE {condition} ORDER BY {order} LIMIT {limit:d}"  # noqa: S608
        selects.append(f"SELECT * FROM ({first}) UNION SELECT rowid FROM job WHERE is_active = 1 AND {condition}")  # noqa: S608
        bound += values * 2
    return " UNION ".join(selects), bound


def find_job(connection: sqlite3.Connection, name: str, *, now: float) -> dict[str, object]:
    """The job with this id, the only one whose id begins with it, or the one created last for `@latest`.

    Raises:
        JobNotFoundError: there is none.
        AmbiguousJobError: several ids begin so.
    """
    if name.startswith("@") and name != "@latest":
        raise UsageError(f"'{name}' names no job: the one such word is @latest.")
    is_latest = name == "@latest"
    facts = _first(connection, "ORDER BY created_ts DESC, job_id") if is_latest else _named(connection, name)
    if facts is None:
        for key, reason in unreadable(connection, name):
            raise RecordError(reason, key=key)
        raise JobNotFoundError(f"There is no job {name}.", job_id=name)
    return job_view(facts, now=now)


def ended_record(connection: sqlite3.Connection, job_id: str) -> str | None:
    """The record of the job with this whole id, if it has ended: then it says what the registry's says."""
    found = connection.execute("SELECT record FROM job WHERE job_id = ? AND is_active = 0", (job_id,)).fetchone()
    return None if found is None else str(found[0])


def _first(connection: sqlite3.Connection, which: str, *values: str) -> Facts | None:
    sql = f"SELECT {COLUMNS} FROM job {which} LIMIT 1"  # noqa: S608 - names of ours; values bound
    found: Facts | None = connection.execute(sql, values).fetchone()
    return found


def _named(connection: sqlite3.Connection, prefix: str) -> Facts | None:
    if exact := _first(connection, "WHERE job_id = ?", prefix):
        return exact
    # No id holds U+10FFFF, which does not print: it bounds the ids with this prefix from above.
    found = connection.execute(
        f"SELECT job_id, {COLUMNS} FROM job WHERE job_id >= ? AND job_id < ? ORDER BY job_id LIMIT ?",  # noqa: S608
        (prefix, prefix + "\U0010ffff", MAX_CANDIDATES + 1),
    ).fetchall()
    if len(found) > 1:
        more = ("…",) if len(found) > MAX_CANDIDATES else ()
        raise AmbiguousJobError(
            f"Several jobs begin with {prefix}.",
            job_id=prefix,
            candidates=tuple(row[0] for row in found[:MAX_CANDIDATES]) + more,
        )
    return found[0][1:] if found else None


def count_jobs(connection: sqlite3.Connection) -> int:
    """How many jobs the cache holds."""
    return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])


def unreadable(connection: sqlite3.Connection, job_id: str | None = None) -> list[tuple[str, str]]:
    """Key and reason of the records that could not be read, of one job or of all; their rows are the last good ones."""
    ending = "" if job_id is None else f"/{job_id}/state.json"  # compared as it is: an id may hold the `_` of LIKE
    return connection.execute(
        "SELECT key, reason FROM problem WHERE kind = 'unreadable' AND (?1 = '' OR substr(key, -length(?1)) = ?1)"
        " ORDER BY key",
        (ending,),
    ).fetchall()


def meta(connection: sqlite3.Connection) -> dict[str, str]:
    """What the cache knows of itself: `registry`, `synced_at`, `attempted_at`, `last_error`, generations of syncs."""
    return dict(connection.execute("SELECT name, value FROM meta").fetchall())


def job_fields() -> tuple[str, ...]:
    """The fields of a job as scripts get it, in their order."""
    from mopsjobs.job import FIELDS

    return (*FIELDS, *COMPUTED)


def job_view(facts: Facts, *, now: float) -> dict[str, object]:
    """A job as scripts get it: the record's fields, and what follows from them.

    Besides the fields: `progress` (0 to 1, or null), `is_active`, `status_since`, `started_at` and `ended_at` (RFC
    3339 or null), `suspect` (why an active job may be stuck, or null); and in seconds `duration_seconds` since it was
    created, `queued_seconds` before its first task ran, and `run_seconds` since. The latter two are null where the
    record does not tell.
    """
    job: dict[str, object] = json.loads(facts[0])
    return job | _computed(facts, now)


def job_text(facts: Facts, *, now: float) -> str:
    """What `job_view` gives, as JSON. The record is taken over as it is stored: reading it costs more than a query."""
    return f"{facts[0][:-1]},{_ENCODER.encode(_computed(facts, now))[1:]}"


def _computed(facts: Facts, now: float) -> dict[str, object]:
    _, is_active, created, started, ended, progress, since, has_history, heartbeat, suspect = facts
    # A clock behind the writer's must not give a negative duration.
    until = max(now if ended is None else ended, created)
    queued = (until if started is None else started) - created
    if suspect is None and heartbeat is not None and now - heartbeat > SILENT_SECONDS:
        suspect = "no_update"
    return {
        "progress": progress,
        "is_active": bool(is_active),
        "status_since": _time(ended) if since is None else since,
        "started_at": _time(started),
        "ended_at": _time(ended),
        "duration_seconds": round(until - created, 3),
        "queued_seconds": round(max(queued, 0.0), 3) if has_history else None,
        "run_seconds": None if started is None else round(max(until - started, 0.0), 3),
        "suspect": suspect if is_active else None,
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else json_time(from_timestamp(seconds))
