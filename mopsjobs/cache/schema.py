"""Tables, indexes and views of the cache. The views are the contract with other programs; the tables are not.

Only this module imports sqlite-utils, whose import takes longer than a listing. So a new cache is created by
schema.sql, which has what `build` makes. After a change, raise `SCHEMA_VERSION` of database.py, and write it again:

    python -c "from mopsjobs.cache.schema import script; print(script(), end='')" >mopsjobs/cache/schema.sql

There are no migrations. `rebuild` makes a cache of another version anew, and copies each column that has its name in
both. So a column that changes its meaning gets another name, and one that may not be NULL gets a default.

For the same reason rows.py writes with plain `executemany`: on 10,000 records, an upsert by sqlite-utils takes twice as
long.
"""

from __future__ import annotations

import sqlite3

from sqlite_utils import Database

from mopsjobs.cache import sync_state, totals
from mopsjobs.cache.ledger_rows import ATTEMPT_COLUMNS

NEW_ID = "INSERT OR IGNORE INTO meta (name, value) VALUES ('cache_id', lower(hex(randomblob(6))))"
"""Gives a cache an id of its own, by which a cursor of events is matched to it."""

_WITHOUT_ROWID = {
    "job_label": "label TEXT NOT NULL, value TEXT NOT NULL, job_id TEXT NOT NULL, PRIMARY KEY (label, value, job_id)",
    "event_chunk": "name TEXT PRIMARY KEY, key TEXT NOT NULL, problem TEXT",
    "counter": "name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (name, labels)",
    "pruned": "key TEXT PRIMARY KEY, version TEXT NOT NULL",
    "notified": "name TEXT PRIMARY KEY, at_ts REAL NOT NULL",
    "ledger": (
        "job_id TEXT PRIMARY KEY, looked_at REAL NOT NULL, synced_ts REAL, is_complete INTEGER NOT NULL DEFAULT 0,"
        " basis TEXT, problem TEXT, tasks_total INTEGER NOT NULL, parameters TEXT NOT NULL, varying TEXT NOT NULL,"
        " task_ranges TEXT"
    ),
    "ledger_chunk": "name TEXT PRIMARY KEY, job_id TEXT NOT NULL, key TEXT NOT NULL, problem TEXT, scalars BLOB",
    # A seed has no type, so that one above 2^63 stays a text of digits; as an INTEGER it would be rounded.
    "parameter_set": (
        "job_id TEXT NOT NULL, first_task INTEGER NOT NULL, tasks INTEGER NOT NULL, param_id TEXT NOT NULL, seed,"
        " params TEXT NOT NULL, PRIMARY KEY (job_id, first_task)"
    ),
    "attempt": (
        "job_id TEXT NOT NULL, task INTEGER NOT NULL, run TEXT NOT NULL, seq INTEGER NOT NULL,"
        f" attempt INTEGER NOT NULL, {ATTEMPT_COLUMNS}, PRIMARY KEY (job_id, task, run, seq, shard)"
    ),
    "task": (
        "job_id TEXT NOT NULL, task INTEGER NOT NULL, first_task INTEGER NOT NULL, seed, attempts INTEGER NOT NULL,"
        f" {ATTEMPT_COLUMNS}, PRIMARY KEY (job_id, task)"
    ),
    "failure_summary": "job_id TEXT PRIMARY KEY, state TEXT NOT NULL, document TEXT NOT NULL",
    "tally": totals.TABLE,
}
"""Tables whose rows are found by their primary keys alone, with their columns."""

_INDEXES = {
    "job_changed_ts": "job (changed_ts)",
    "job_status_changed_ts": "job (status, changed_ts)",
    # Partial: the few jobs that every listing shows, however old they are.
    "job_active": "job (changed_ts) WHERE is_active = 1",
    "job_name": "job (name)",
    "job_generation": "job (generation)",
    "job_parent": "job (parent_job_id) WHERE parent_job_id IS NOT NULL",
    "job_study": "job (study, changed_ts, status, is_active)",
    "job_error": "job (error) WHERE error IS NOT NULL",
    "job_owner_changed_ts": "job (owner, changed_ts, status, is_active)",
    # With all that panels, groups and sums of active jobs read. Without it they would read the records too.
    "job_active_tallies": (
        "job (status, changed_ts, suspect, heartbeat_ts, tasks_total, tasks_completed, created_ts, owner, study,"
        " forecast) WHERE is_active = 1"
    ),
    "job_queue_seconds": f"job (max(started_ts - created_ts, 0.0)) WHERE {totals.WAS_QUEUED}",
    "job_run_seconds": f"job (max(ended_ts - started_ts, 0.0)) WHERE {totals.HAS_RUN}",
    "job_ended": "job (status, ended_ts) WHERE is_active = 0",
    "job_note": "job (note) WHERE note IS NOT NULL",
    "job_created_ts": "job (created_ts)",
    # With all that charts read.
    "job_times": "job (ended_ts, created_ts, started_ts, has_history, status, owner, is_active, usage, job_id)",
    "job_max_rss": "job (coalesce(owner, ''), json_extract(usage, '$.max_rss_bytes')) WHERE usage IS NOT NULL",
    "job_cancelled_failures": (
        "job (changed_ts) WHERE status = 'cancelled' AND json_extract(record, '$.tasks_failed') > 0"
    ),
    "job_label_job_id": "job_label (job_id)",
    "event_job_id_seq": "event (job_id, seq)",
    "ledger_chunk_job_id": "ledger_chunk (job_id)",
    "task_seed": "task (job_id, seed)",
    "task_outcome": "task (job_id, outcome, seconds)",  # with the time, so that measured tasks are counted
}
"""Indexes. Their order matters: between two that are as good for a query, SQLite takes one by it."""


def _time_text(column: str) -> str:
    """Return an expression for a time as JSON has it."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column}, 'unixepoch')"


_EXTRACTED = (
    "k8s_uid", "updated_at", "created_at", "tasks_total", "tasks_completed", "tasks_failed", "error_message",
    "error_code", "results_path", "engine", "parent_job_id", "heartbeat_at", "metadata", "labels", "transitions",
)  # fmt: skip
"""Fields of the record that the view of jobs has as columns."""

_USED = ("cpu_seconds", "task_seconds", "held_core_seconds", "max_rss_bytes")

_MEASURED = (
    f"{_time_text('started_ts')} AS started_at, seconds, user_seconds + system_seconds AS cpu_seconds, max_rss_bytes,"
    " host, output_bytes, error_key, error_type, error_where, error_message"
)
"""The columns that both views of the ledger have."""

_VIEWS = {
    "jobs": (
        "SELECT job_id, status, is_active, progress, owner, name AS k8s_name, namespace AS k8s_namespace, "  # noqa: S608 - constant names
        + "".join(f"json_extract(record, '$.{field}') AS {field}, " for field in _EXTRACTED)
        + "created_ts, started_ts, ended_ts, changed_ts"
        + "".join(f", json_extract(usage, '$.{name}') AS {name}" for name in _USED)
        + " FROM job"
    ),
    "job_labels": "SELECT job_id, label, value FROM job_label",
    "job_sums": "SELECT status, namespace, owner, jobs, verified, missing, unchecked FROM tally WHERE jobs > 0",
    "pruned_jobs": "SELECT key, version FROM pruned",
    "counters": "SELECT name, labels, value FROM counter",
    "sync_problems": "SELECT key, kind, reason FROM problem",
    "sync_state": "SELECT name, value FROM meta",
    "events": "SELECT seq, job_id, json_extract(body, '$.at') AS at, at_ts, kind, body FROM event",
    "event_problems": "SELECT key, problem AS reason FROM event_chunk WHERE problem IS NOT NULL",
    "tasks": (
        "SELECT task.job_id, task.task, param_id, task.seed, params, shard, outcome, attempts AS attempt,"  # noqa: S608 - constant names
        f" {_MEASURED}, iif(attempts, 'ledger', 'outputs') AS basis"
        " FROM task JOIN parameter_set USING (job_id, first_task)"
    ),
    "attempts": (
        f"SELECT job_id, task, attempt, run, seq, shard, outcome, {_MEASURED}, user_seconds, system_seconds, python"  # noqa: S608 - constant names
        " FROM attempt"
    ),
    "ledgers": (
        f"SELECT job_id, {_time_text('synced_ts')} AS synced_at, is_complete, basis, tasks_total, problem FROM ledger"  # noqa: S608 - constant names
    ),
    "ledger_problems": "SELECT job_id, key, problem AS reason FROM ledger_chunk WHERE problem IS NOT NULL",
}

_ASIDE = "former_"
"""Before the name of a table of another version, while its rows are copied."""

_NOT_COPIED = (sync_state.FULL_SYNCED_AT, sync_state.REGISTRY_FILE)
"""Notes by which the rows of the cache would count as complete."""


def build(db: Database) -> None:
    """Create everything in an empty file."""
    _create_tables(db)
    _create_indexes_and_views(db)


def rebuild(connection: sqlite3.Connection) -> None:
    """Give a cache of another version, or an empty file, the tables of this one. The caller holds the transaction.

    Rows are copied by the names of tables and columns, except those that cannot be in the new table. New columns are
    empty, so the next sync reads every record again: see docs/decisions/0021-the-cache-file.md.
    """
    db = Database(connection)
    for view in db.view_names():
        db.view(view).drop()
    for (index,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall():
        db.execute(f'DROP INDEX "{index}"')
    former = [name for name in db.table_names() if not name.startswith("sqlite_")]
    for name in former:
        db.rename_table(name, _ASIDE + name)
    _create_tables(db)
    for name in former:
        columns = db.table(_ASIDE + name).columns_dict.keys() & db.table(name).columns_dict.keys()
        if columns and name != "tally":
            names = ", ".join(f'"{column}"' for column in sorted(columns))
            db.execute(f'INSERT OR IGNORE INTO "{name}" ({names}) SELECT {names} FROM "{_ASIDE}{name}"')  # noqa: S608 - names of columns
    if "event" in former:  # a cursor may name an event that was pruned: no later one gets its number
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'event'")
        db.execute("UPDATE sqlite_sequence SET name = 'event' WHERE name = ?", (f"{_ASIDE}event",))
    for name in former:
        db.table(_ASIDE + name).drop()
    db.execute(totals.FILL)
    _create_indexes_and_views(db)
    db.conn.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in _NOT_COPIED])
    db.execute(NEW_ID)


def _create_tables(db: Database) -> None:
    times = ("created_ts", "changed_ts", "started_ts", "ended_ts", "progress", "heartbeat_ts")
    texts = (
        "name", "namespace", "owner", "status_since", "suspect", "parent_job_id", "usage", "forecast",
        "study", "error", "note",
    )  # fmt: skip
    sums = dict.fromkeys(("tasks_total", "tasks_completed", "outputs_expected", "outputs_verified", "is_validated"), 0)
    db.table("job").create(
        {
            **dict.fromkeys(("key", "job_id", "version"), str),
            "generation": int,
            "status": str,
            "is_active": int,
            **dict.fromkeys(times, float),
            "has_history": int,
            **dict.fromkeys(texts, str),
            **dict.fromkeys(sums, int),
            "record": str,  # last, since it is long: the other columns are read without it
        },
        pk="job_id",
        not_null={
            "key", "version", "generation", "status", "is_active", "created_ts", "changed_ts", "record", "has_history",
            *sums,
        },
        defaults={"has_history": 0, **sums},
    )  # fmt: skip
    db.table("problem").create({"key": str, "kind": str, "reason": str, "version": str}, pk="key")
    db.table("meta").create({"name": str, "value": str}, pk="name")
    # AUTOINCREMENT: a number is never reused, so a reader that has seen it never misses a later event.
    db.execute(
        "CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, chunk TEXT NOT NULL, job_id TEXT NOT NULL,"
        " at_ts REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL)"
    )
    for name, columns in _WITHOUT_ROWID.items():
        db.execute(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID")


def _create_indexes_and_views(db: Database) -> None:
    db.table("job").create_index(["key"], unique=True)
    for name, index in _INDEXES.items():
        db.execute(f"CREATE INDEX idx_{name} ON {index}")
    for name, select in _VIEWS.items():
        db.create_view(name, select)


def script() -> str:
    """Return the schema as SQL for an empty file."""
    db = Database(memory=True)
    build(db)
    created = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    statements = [*(sql for (sql,) in created), NEW_ID]
    return "-- What `build` of schema.py makes of an empty file, written by its `script`.\n" + "".join(
        f"{statement};\n" for statement in statements
    )
