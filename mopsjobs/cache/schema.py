"""Tables and views of the cache, as migrations. The views are the contract with other programs; the tables are not.

Only this module imports sqlite-utils, and only a cache of an older version needs it: its import takes longer than a
listing. A new cache is created by schema.sql, which is what the migrations make of an empty file. After adding a
migration, write it again:

    python -c "from mopsjobs.cache.schema import script; print(script(), end='')" >mopsjobs/cache/schema.sql

For the same reason rows.py writes with plain `executemany`: on 10,000 records, an upsert by sqlite-utils takes twice as
long.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3

from sqlite_utils import Database, Migrations

from mopsjobs.cache import totals
from mopsjobs.cache.rows import error_of, refilled_columns, study_of
from mopsjobs.errors import RecordError
from mopsjobs.registry.notes import all_notes
from mopsjobs.registry.transitions import reported_steps

migrations = Migrations("mops-jobs")

NEW_ID = "INSERT INTO meta (name, value) VALUES ('cache_id', lower(hex(randomblob(6))))"
"""Gives a cache an id of its own."""


@migrations()
def m001_mirror(db: Database) -> None:
    """Create the first schema."""
    db.table("job").create(
        {
            "key": str,
            "job_id": str,
            "version": str,
            "generation": int,
            "status": str,
            "is_active": int,
            "created_ts": float,
            "changed_ts": float,
            "started_ts": float,
            "ended_ts": float,
            "progress": float,
            "name": str,
            "namespace": str,
            "owner": str,
            "record": str,
        },
        pk="job_id",
        not_null={"key", "version", "generation", "status", "is_active", "created_ts", "changed_ts", "record"},
    )
    db.table("job").create_index(["key"], unique=True)
    db.table("job").create_index(["changed_ts"])
    db.table("job").create_index(["created_ts"])
    db.table("job").create_index(["status", "changed_ts"])
    db.table("job").create_index(["owner", "changed_ts"])
    # Partial: the few jobs that every listing shows, however old they are.
    db.execute("CREATE INDEX idx_job_active ON job (changed_ts) WHERE is_active = 1")
    db.execute(
        "CREATE TABLE job_label (label TEXT NOT NULL, value TEXT NOT NULL, job_id TEXT NOT NULL,"
        " PRIMARY KEY (label, value, job_id)) WITHOUT ROWID"
    )
    db.table("job_label").create_index(["job_id"])
    db.table("problem").create({"key": str, "kind": str, "reason": str, "version": str}, pk="key")
    db.table("meta").create({"name": str, "value": str}, pk="name")

    _create_jobs_view(db)
    db.create_view("job_labels", "SELECT job_id, label, value FROM job_label")
    db.create_view("sync_problems", "SELECT key, kind, reason FROM problem")
    db.create_view("sync_state", "SELECT name, value FROM meta")


@migrations()
def m002_events(db: Database) -> None:
    """Add events, and an id of this cache, by which a cursor is matched to it."""
    # AUTOINCREMENT: a number is never reused, so a reader that has seen it never misses a later event.
    db.execute(
        "CREATE TABLE event (seq INTEGER PRIMARY KEY AUTOINCREMENT, chunk TEXT NOT NULL, job_id TEXT NOT NULL,"
        " at_ts REAL NOT NULL, kind TEXT NOT NULL, body TEXT NOT NULL)"
    )
    db.table("event").create_index(["job_id", "seq"])
    db.execute("CREATE TABLE event_chunk (name TEXT PRIMARY KEY, key TEXT NOT NULL, problem TEXT) WITHOUT ROWID")
    db.create_view("events", "SELECT seq, job_id, json_extract(body, '$.at') AS at, at_ts, kind, body FROM event")
    db.create_view("event_problems", "SELECT key, problem AS reason FROM event_chunk WHERE problem IS NOT NULL")
    db.execute(NEW_ID)


@migrations()
def m003_view_columns(db: Database) -> None:
    """Add what a listing shows besides the record, so that it need not parse that; and an index of names."""
    db.execute("ALTER TABLE job ADD COLUMN status_since TEXT")
    db.execute("ALTER TABLE job ADD COLUMN has_history INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE job ADD COLUMN heartbeat_ts REAL")
    db.execute("ALTER TABLE job ADD COLUMN suspect TEXT")
    # m004 fills these columns together with its own: so all rows are rewritten once.
    db.table("job").create_index(["name"])


@migrations()
def m004_counters(db: Database) -> None:
    """Add counters, pruned jobs, and the columns that metrics and summaries sum up, so that they read little else."""
    for name in ("tasks_total", "tasks_completed", "outputs_expected", "outputs_verified", "is_validated"):
        db.execute(f"ALTER TABLE job ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0")
    # The same values as rows.py computes for new rows.
    db.execute("""
        UPDATE job SET
            status_since = (
                SELECT json_extract(step.value, '$.at') FROM json_each(record, '$.transitions') AS step
                WHERE json_extract(step.value, '$.status') = job.status ORDER BY step.key DESC LIMIT 1
            ),
            has_history = json_array_length(record, '$.transitions') > 0,
            heartbeat_ts = (julianday(json_extract(record, '$.heartbeat_at')) - 2440587.5) * 86400.0,
            suspect = CASE json_type(record, '$.metadata.suspect.reason')
                WHEN 'text' THEN json_extract(record, '$.metadata.suspect.reason') END,
            tasks_total = coalesce(json_extract(record, '$.tasks_total'), 0),
            tasks_completed = coalesce(json_extract(record, '$.tasks_completed'), 0),
            outputs_expected = coalesce(
                nullif(json_array_length(record, '$.expected_outputs'), 0), json_extract(record, '$.tasks_total'), 0
            ),
            outputs_verified = coalesce(
                nullif(json_array_length(record, '$.verified_outputs'), 0), json_extract(record, '$.tasks_verified'), 0
            ),
            is_validated = json_extract(record, '$.validation_completed_at') IS NOT NULL
    """)
    # m016 creates the sums.
    # For summaries: without it they would read the records too, a thousand times as much.
    db.execute("DROP INDEX idx_job_created_ts")
    db.execute(
        "CREATE INDEX idx_job_created_ts ON job"
        " (created_ts, started_ts, ended_ts, has_history, status, owner, is_active)"
    )
    db.execute(
        "CREATE INDEX idx_job_active_tallies ON job"
        " (status, changed_ts, suspect, heartbeat_ts, tasks_total, tasks_completed) WHERE is_active = 1"
    )
    db.table("job").create_index(["generation"])
    db.execute("CREATE INDEX idx_job_ended ON job (ended_ts) WHERE is_active = 0")
    db.execute(
        "CREATE TABLE counter (name TEXT NOT NULL, labels TEXT NOT NULL, value REAL NOT NULL,"
        " PRIMARY KEY (name, labels)) WITHOUT ROWID"
    )
    db.execute("CREATE TABLE pruned (key TEXT PRIMARY KEY, version TEXT NOT NULL) WITHOUT ROWID")
    db.create_view("counters", "SELECT name, labels, value FROM counter")
    db.create_view("pruned_jobs", "SELECT key, version FROM pruned")


@migrations()
def m005_forgotten_chunks(db: Database) -> None:
    """Let names of chunks be missing (sync/events.py). An older version would fetch them again.

    Unreadable records are read again by the next full sync: this version can read more of them.
    """
    db.execute("UPDATE problem SET version = '' WHERE kind = 'unreadable'")


@migrations()
def m006_unreported_steps(db: Database) -> None:
    """Remove the times of steps that no program reported, and add the launch as a sign of life, as rows.py does."""
    changes = []
    rows = db.execute("SELECT job_id, status, record FROM job WHERE json_array_length(record, '$.transitions') > 0")
    for job_id, status, record in rows:
        steps = json.loads(record)["transitions"]
        is_complete = all(is_reported for _, is_reported in reported_steps(steps)) and steps[-1]["status"] == status
        if not is_complete or status == "scheduled":
            with contextlib.suppress(RecordError):  # such a row stays as it is
                changes.append((*refilled_columns(record), job_id))
    db.conn.executemany(
        "UPDATE job SET record = ?, started_ts = ?, has_history = ?, heartbeat_ts = ? WHERE job_id = ?", changes
    )


@migrations()
def m007_families(db: Database) -> None:
    """Add the parent of each job, and an index by which a job finds its children."""
    db.execute("ALTER TABLE job ADD COLUMN parent_job_id TEXT")
    db.execute("UPDATE job SET parent_job_id = json_extract(record, '$.parent_job_id')")
    db.execute("CREATE INDEX idx_job_parent ON job (parent_job_id) WHERE parent_job_id IS NOT NULL")


@migrations()
def m008_ledgers(db: Database) -> None:
    """Add the mirror of ledgers: what is known of each, its chunks, attempts, tasks and parameter sets."""
    db.execute(
        "CREATE TABLE ledger (job_id TEXT PRIMARY KEY, looked_at REAL NOT NULL, synced_ts REAL, is_complete INTEGER"
        " NOT NULL DEFAULT 0, basis TEXT, problem TEXT, tasks_total INTEGER NOT NULL, parameters TEXT NOT NULL,"
        " varying TEXT NOT NULL, task_ranges TEXT) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE ledger_chunk (name TEXT PRIMARY KEY, job_id TEXT NOT NULL, key TEXT NOT NULL, problem TEXT)"
        " WITHOUT ROWID"
    )
    db.table("ledger_chunk").create_index(["job_id"])
    # A seed has no type, so that one above 2^63 stays a text of digits; as an INTEGER it would be rounded.
    db.execute(
        "CREATE TABLE parameter_set (job_id TEXT NOT NULL, first_task INTEGER NOT NULL, tasks INTEGER NOT NULL,"
        " param_id TEXT NOT NULL, seed, params TEXT NOT NULL, PRIMARY KEY (job_id, first_task)) WITHOUT ROWID"
    )
    values = ", ".join(f"{name} {kind}" for name, kind in _ATTEMPT_COLUMNS.items())
    db.execute(
        "CREATE TABLE attempt (job_id TEXT NOT NULL, task INTEGER NOT NULL, run TEXT NOT NULL, seq INTEGER NOT NULL,"
        f" attempt INTEGER NOT NULL, {values}, PRIMARY KEY (job_id, task, run, seq, shard)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE task (job_id TEXT NOT NULL, task INTEGER NOT NULL, first_task INTEGER NOT NULL, seed,"
        f" attempts INTEGER NOT NULL, {values}, PRIMARY KEY (job_id, task)) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX idx_task_outcome ON task (job_id, outcome)")
    db.execute("CREATE INDEX idx_task_seed ON task (job_id, seed)")
    db.create_view(
        "tasks",
        "SELECT task.job_id, task.task, param_id, task.seed, params, shard, outcome, attempts AS attempt,"  # noqa: S608 - constant names
        f" {_MEASURED}, iif(attempts, 'ledger', 'outputs') AS basis"
        " FROM task JOIN parameter_set USING (job_id, first_task)",
    )
    db.create_view(
        "attempts",
        "SELECT job_id, task, attempt, run, seq, shard, outcome,"  # noqa: S608 - constant names
        f" {_MEASURED}, user_seconds, system_seconds, python FROM attempt",
    )
    db.create_view(
        "ledgers",
        f"SELECT job_id, {_time_text('synced_ts')} AS synced_at,"  # noqa: S608 - constant names
        " is_complete, basis, tasks_total, problem FROM ledger",
    )
    db.create_view(
        "ledger_problems",
        "SELECT job_id, key, problem AS reason FROM ledger_chunk WHERE problem IS NOT NULL",
    )


@migrations()
def m009_failures(db: Database) -> None:
    """Add what `failures` found in the ledger of a job, with the state of the ledger that it was found in."""
    db.execute(
        "CREATE TABLE failure_summary (job_id TEXT PRIMARY KEY, state TEXT NOT NULL, document TEXT NOT NULL)"
        " WITHOUT ROWID"
    )


def _time_text(column: str) -> str:
    """Return an expression for a time as JSON has it."""
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', {column}, 'unixepoch')"


_ATTEMPT_COLUMNS = {
    "shard": "INTEGER", "outcome": "TEXT NOT NULL", "started_ts": "REAL", "seconds": "REAL", "user_seconds": "REAL",
    "system_seconds": "REAL", "max_rss_bytes": "INTEGER", "host": "TEXT", "python": "TEXT", "error_key": "TEXT",
    "error_type": "TEXT", "error_where": "TEXT", "error_message": "TEXT", "output_bytes": "INTEGER",
}  # fmt: skip
"""What is known of an attempt, and of the last one of a task."""

_MEASURED = (
    f"{_time_text('started_ts')} AS started_at, seconds, user_seconds + system_seconds AS cpu_seconds, max_rss_bytes,"
    " host, output_bytes, error_key, error_type, error_where, error_message"
)
"""The columns that both views of the ledger have."""


@migrations()
def m010_usage(db: Database) -> None:
    """Add what the tasks of each job used, when active jobs expect to end, and an index for sums of it."""
    for name, kind in (("usage", "TEXT"), ("forecast", "TEXT")):
        db.execute(f"ALTER TABLE job ADD COLUMN {name} {kind}")
    # Records have two more fields now, which are empty in those that an older version has mirrored.
    db.execute("UPDATE job SET record = json_insert(record, '$.usage', json('{}'), '$.forecast', json('{}'))")
    # For summaries, as idx_job_created_ts: without it they would read the records too.
    db.execute("CREATE INDEX idx_job_usage ON job (created_ts, status, owner, usage) WHERE usage IS NOT NULL")
    db.execute("DROP VIEW IF EXISTS jobs")
    names = ("cpu_seconds", "task_seconds", "held_core_seconds", "max_rss_bytes")
    _create_jobs_view(db, "".join(f", json_extract(usage, '$.{name}') AS {name}" for name in names))


@migrations()
def m011_scalars(db: Database) -> None:
    """Add the chunk of scalars beside each chunk of attempts, as the store has it, once a table has read it."""
    db.execute("ALTER TABLE ledger_chunk ADD COLUMN scalars BLOB")


@migrations()
def m012_pages(db: Database) -> None:
    """Add the study and the error of each job, and indexes with all that panels, groups and counts of a page read."""
    for name in ("study", "error"):
        db.execute(f"ALTER TABLE job ADD COLUMN {name} TEXT")
    changes = []
    for job_id, text in db.execute("SELECT job_id, record FROM job"):
        record = json.loads(text)
        changes.append((study_of(record["metadata"]), error_of(record["error_code"], record["error_message"]), job_id))
    db.conn.executemany("UPDATE job SET study = ?, error = ? WHERE job_id = ?", changes)
    db.execute("CREATE INDEX idx_job_study ON job (study, changed_ts, status, is_active)")
    db.execute("CREATE INDEX idx_job_error ON job (error) WHERE error IS NOT NULL")
    db.execute("DROP INDEX idx_job_owner_changed_ts")
    db.execute("CREATE INDEX idx_job_owner_changed_ts ON job (owner, changed_ts, status, is_active)")
    db.execute("DROP INDEX idx_job_active_tallies")
    db.execute(
        "CREATE INDEX idx_job_active_tallies ON job (status, changed_ts, suspect, heartbeat_ts, tasks_total,"
        " tasks_completed, created_ts, owner, study, forecast) WHERE is_active = 1"
    )


@migrations()
def m013_durations(db: Database) -> None:
    """Add indexes for figures of all jobs: of durations, of the ends by status, and of times with what jobs used."""
    db.execute(
        "CREATE INDEX idx_job_queue_seconds ON job (max(started_ts - created_ts, 0.0))"
        " WHERE started_ts IS NOT NULL AND has_history = 1"
    )
    db.execute(
        "CREATE INDEX idx_job_run_seconds ON job (max(ended_ts - started_ts, 0.0))"
        " WHERE started_ts IS NOT NULL AND ended_ts IS NOT NULL"
    )
    db.execute("DROP INDEX idx_job_ended")
    db.execute("CREATE INDEX idx_job_ended ON job (status, ended_ts) WHERE is_active = 0")
    # One index for sums of usage and for the charts, which need the times beside.
    for name in ("idx_job_usage", "idx_job_created_ts"):
        db.execute(f"DROP INDEX {name}")
    db.execute(
        "CREATE INDEX idx_job_created_ts ON job"
        " (created_ts, started_ts, ended_ts, has_history, status, owner, is_active, usage)"
    )


@migrations()
def m014_notified(db: Database) -> None:
    """Add the notifications that need nothing more, and since when a rule tells some."""
    db.execute("CREATE TABLE notified (name TEXT PRIMARY KEY, at_ts REAL NOT NULL) WITHOUT ROWID")


@migrations()
def m015_notes(db: Database) -> None:
    """Add the notes of each job, and an index by which a search finds them."""
    db.execute("ALTER TABLE job ADD COLUMN note TEXT")
    rows = db.execute("SELECT job_id, record FROM job WHERE instr(record, '\"note')").fetchall()
    changes = [(all_notes(json.loads(record)["metadata"]), job_id) for job_id, record in rows]
    db.conn.executemany("UPDATE job SET note = ? WHERE job_id = ?", changes)
    db.execute("CREATE INDEX idx_job_note ON job (note) WHERE note IS NOT NULL")


@migrations()
def m016_windows(db: Database) -> None:
    """Order the index with all that charts read by ends, add smaller ones, and sums of what jobs used."""
    for name in ("idx_job_created_ts", "idx_task_outcome"):
        db.execute(f"DROP INDEX {name}")
    times = "ended_ts, created_ts, started_ts, has_history, status, owner, is_active, usage, job_id"
    have_failures = "status = 'cancelled' AND json_extract(record, '$.tasks_failed') > 0"
    for name, index in (
        ("job_created_ts", "job (created_ts)"),
        ("job_times", f"job ({times})"),
        ("job_max_rss", "job (coalesce(owner, ''), json_extract(usage, '$.max_rss_bytes')) WHERE usage IS NOT NULL"),
        ("job_cancelled_failures", f"job (changed_ts) WHERE {have_failures}"),
        ("task_outcome", "task (job_id, outcome, seconds)"),  # with the time, so that measured tasks are counted
    ):
        db.execute(f"CREATE INDEX idx_{name} ON {index}")
    for statement in totals.CREATE:
        db.execute(statement)


def _create_jobs_view(db: Database, more: str = "") -> None:
    """Create the view of jobs, with more columns at its end."""
    fields = (
        "k8s_uid", "updated_at", "created_at", "tasks_total", "tasks_completed", "tasks_failed", "error_message",
        "error_code", "results_path", "engine", "parent_job_id", "heartbeat_at", "metadata", "labels", "transitions",
    )  # fmt: skip
    extracted = ", ".join(f"json_extract(record, '$.{field}') AS {field}" for field in fields)
    db.create_view(
        "jobs",
        f"SELECT job_id, status, is_active, progress, owner, name AS k8s_name, namespace AS k8s_namespace, {extracted},"  # noqa: S608 - names from above
        f" created_ts, started_ts, ended_ts, changed_ts{more} FROM job",
    )


def script() -> str:
    """Return the newest schema as SQL for an empty file, with the rows that mark the migrations as applied."""
    db = Database(memory=True)
    migrations.apply(db)
    created = db.query(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid"
    )
    applied = (
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"  # noqa: S608 - constant names
        f" VALUES ('{migrations.name}', '{migration.name}', strftime('%Y-%m-%d %H:%M:%f+00:00', 'now'))"
        for migration in migrations.applied(db)
    )
    statements = [*(row["sql"] for row in created), *applied, NEW_ID]
    return "-- What the migrations of schema.py make of an empty file, written by its `script`.\n" + "".join(
        f"{statement};\n" for statement in statements
    )


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the cache of a connection to the newest schema. Its data stays."""
    migrations.apply(Database(connection))
