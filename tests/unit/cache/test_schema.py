"""Tables and views of the cache: the documented columns, and upgrades that keep every row."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database, Migrations

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import schema
from mopsjobs.cache.pruning import LEDGER_TABLES
from mopsjobs.registry.status import JobStatus
from mopsjobs.utils.times import rfc3339
from support.cli import Cli, Remote, add, foreign, key

VIEWS = {
    "jobs": [
        "job_id", "status", "is_active", "progress", "owner", "k8s_name", "k8s_namespace", "k8s_uid", "updated_at",
        "created_at", "tasks_total", "tasks_completed", "tasks_failed", "error_message", "error_code", "results_path",
        "engine", "parent_job_id", "heartbeat_at", "metadata", "labels", "transitions", "created_ts", "started_ts",
        "ended_ts", "changed_ts", "cpu_seconds", "task_seconds", "held_core_seconds", "max_rss_bytes",
    ],
    "job_labels": ["job_id", "label", "value"],
    "sync_problems": ["key", "kind", "reason"],
    "sync_state": ["name", "value"],
    "events": ["seq", "job_id", "at", "at_ts", "kind", "body"],
    "event_problems": ["key", "reason"],
    "counters": ["name", "labels", "value"],
    "pruned_jobs": ["key", "version"],
    "tasks": [
        "job_id", "task", "param_id", "seed", "params", "shard", "outcome", "attempt", "started_at", "seconds",
        "cpu_seconds", "max_rss_bytes", "host", "output_bytes", "error_key", "error_type", "error_where",
        "error_message", "basis",
    ],
    "attempts": [
        "job_id", "task", "attempt", "run", "seq", "shard", "outcome", "started_at", "seconds", "cpu_seconds",
        "max_rss_bytes", "host", "output_bytes", "error_key", "error_type", "error_where", "error_message",
        "user_seconds", "system_seconds", "python",
    ],
    "ledgers": ["job_id", "synced_at", "is_complete", "basis", "tasks_total", "problem"],
    "ledger_problems": ["job_id", "key", "reason"],
    "job_sums": ["status", "namespace", "owner", "jobs", "verified", "missing", "unchecked"],
}  # fmt: skip
"""The views and their columns: a contract with other programs. Columns are only ever added."""


def test_documented_views_have_the_documented_columns(filled: Path) -> None:
    """The views are the contract with other programs; each has exactly these columns, in this order."""
    database = Database(filled)
    found = {name: [column.name for column in database[name].columns] for name in database.view_names()}
    database.close()
    assert found == VIEWS


def test_the_cache_opens_with_sqlite_utils(filled: Path) -> None:
    """sqlite-utils reads jobs, labels and state from the views as it is."""
    database = Database(filled)
    rows = list(database.query("SELECT * FROM jobs JOIN job_labels USING (job_id) WHERE value = '1' ORDER BY job_id"))
    state = {row["name"]: row["value"] for row in database["sync_state"].rows}
    database.close()
    assert [row["job_id"] for row in rows][:2] == ["job-01", "job-04"]
    assert len(rows) == 20
    assert {row["status"] for row in rows} == {"running"}
    assert rows[0]["tasks_total"] == 4
    assert state["registry"] == "https://example.blob.core.windows.net/jobs"


def test_an_interrupted_build_is_finished(cli: Cli, filled: Path) -> None:
    """A file that has its tables, but not yet the mark that it is complete, is completed and keeps its rows."""
    with closing(sqlite3.connect(filled)) as connection:
        connection.execute("PRAGMA user_version = 0")
    cli.ok("sync")
    assert len(cli.ids("--offline", "--limit", "0")) == 60
    with closing(sqlite3.connect(filled)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (cache_database.SCHEMA_VERSION,)


SUMMED = (
    "SELECT job_id, tasks_total, tasks_completed, outputs_expected, outputs_verified, is_validated FROM job ORDER BY 1"
)


def _downgrade(connection: sqlite3.Connection) -> None:
    """Make the cache one of schema 2."""
    for kind, names in {
        "VIEW": ("counters", "pruned_jobs", "job_sums", "tasks", "attempts", "ledgers", "ledger_problems", "jobs"),
        "TABLE": ("tally", "counter", "pruned", "notified", *LEDGER_TABLES),
        "INDEX": (
            "idx_job_name",
            "idx_job_created_ts",
            "idx_job_active_tallies",
            "idx_job_ended",
            "idx_job_generation",
            "idx_job_parent",
            "idx_job_study",
            "idx_job_error",
            "idx_job_owner_changed_ts",
            "idx_job_queue_seconds",
            "idx_job_run_seconds",
            "idx_job_note",
            "idx_job_times",
            "idx_job_max_rss",
            "idx_job_cancelled_failures",
        ),
    }.items():
        for name in names:
            connection.execute(f"DROP {kind} {name}")
    columns = ("status_since", "has_history", "heartbeat_ts", "suspect", "tasks_total", "tasks_completed")
    for column in (
        *columns,
        "outputs_expected",
        "outputs_verified",
        "is_validated",
        "parent_job_id",
        "usage",
        "forecast",
        "study",
        "error",
        "note",
    ):
        connection.execute(f"ALTER TABLE job DROP COLUMN {column}")
    connection.execute("CREATE INDEX idx_job_created_ts ON job (created_ts)")
    connection.execute("CREATE INDEX idx_job_owner_changed_ts ON job (owner, changed_ts)")
    connection.execute("UPDATE job SET record = json_remove(record, '$.usage', '$.forecast')")
    connection.execute("DELETE FROM _sqlite_migrations WHERE name >= 'm003'")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()


@pytest.mark.parametrize("argv", [("list", "--json", "--offline", "--limit", "0"), ("status", "odd", "--json")])
def test_a_cache_of_schema_2_tells_the_same_after_its_upgrade(cli: Cli, remote: Remote, argv: tuple[str, ...]) -> None:
    """What later schemas keep in columns is taken from the records of an older cache, which needs no sync for it."""
    for status in JobStatus:
        add(remote.jobs, f"ours-{status}", status, metadata={"suspect": {"reason": "pod_gone"}})
        remote.put(key(f"theirs-{status}"), foreign(f"theirs-{status}", status))
    remote.put(key("odd"), foreign("odd", heartbeat_at="2026-03-01T11:00:00.250000Z", metadata={"suspect": {}}))
    outputs = {"expected_outputs": [1, 2, 3], "verified_outputs": [1], "validation_completed_at": "2026-03-01"}
    remote.put(key("checked"), foreign("checked", tasks_total=7, tasks_completed=4, tasks_verified=2, **outputs))
    cli.ok("sync")
    expected = cli.ok(*argv).out
    with closing(sqlite3.connect(cli.cache)) as connection:
        tallies = connection.execute("SELECT * FROM tally").fetchall(), connection.execute(SUMMED).fetchall()
        _downgrade(connection)
    assert cli.ok(*argv).out == expected
    with closing(sqlite3.connect(cli.cache)) as connection:
        assert (connection.execute("SELECT * FROM tally").fetchall(), connection.execute(SUMMED).fetchall()) == tallies
        assert connection.execute("PRAGMA user_version").fetchone() == (cache_database.SCHEMA_VERSION,)


def test_a_cache_of_schema_5_loses_the_times_that_nothing_reported(cli: Cli, remote: Remote) -> None:
    """Its rows have the record as it is stored. They are converted, since a sync does not read them again."""
    for status in JobStatus:
        add(remote.jobs, f"ours-{status}", status, engine="local", metadata={"bundle": "b"})
    remote.put(key("theirs"), foreign("theirs"))
    remote.jobs.update_status("theirs", "failed")
    cli.ok("sync")
    argv = ("list", "--json", "--offline", "--limit", "0")
    expected = cli.ok(*argv).out
    with closing(sqlite3.connect(cli.cache)) as connection, connection:
        for job_id, text in connection.execute("SELECT job_id, record FROM job").fetchall():
            stored = json.loads(remote.store.inner.get(key(job_id)).value)  # type: ignore[union-attr]
            steps = [{**step, "at": rfc3339(step["at"])} for step in stored.get("transitions", [])]
            record = {**json.loads(text), "transitions": steps}
            connection.execute("UPDATE job SET record = ? WHERE job_id = ?", (json.dumps(record), job_id))
        connection.execute(
            "UPDATE job SET started_ts = created_ts, has_history = 1 WHERE started_ts IS NULL"
            " AND status IN ('validating', 'succeeded', 'partial')"
        )
        connection.execute("UPDATE job SET heartbeat_ts = NULL")
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = 'm006_unreported_steps'")
        connection.execute("PRAGMA user_version = 5")
    assert json.loads(cli.ok(*argv).out)["jobs"] == json.loads(expected)["jobs"]


def test_a_new_cache_is_what_the_migrations_make_of_an_empty_file(tmp_path: Path) -> None:
    """schema.sql has to be written anew with each migration; cache/schema.py tells how."""
    made = cache_database.open_to_write(str(tmp_path / "cache.db"), "registry")
    migrated = Database(memory=True)
    schema.migrate(migrated.conn)
    same = ("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2", "SELECT * FROM tally")
    for question in (*same, "SELECT id, migration_set, name FROM _sqlite_migrations"):
        assert made.execute(question).fetchall() == migrated.execute(question).fetchall()
    assert Path(cache_database.NEW_SCHEMA).read_text(encoding="utf-8") == schema.script()
    made.close()


@pytest.mark.parametrize("argv", [("list", "-q", "--offline", "--limit", "0"), ("sync",)])
def test_an_older_schema_is_upgraded_and_keeps_its_rows(
    cli: Cli, filled: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    """The first command of a version with a newer schema, a listing included, upgrades the cache and its rows stay."""
    newer = Migrations("mops-jobs")
    newer(name="m001_mirror")(schema.m001_mirror)

    @newer()
    def m002_more(database: Database) -> None:
        database["job"].add_column("more", str)

    monkeypatch.setattr(schema, "migrations", newer)
    monkeypatch.setattr(cache_database, "SCHEMA_VERSION", cache_database.SCHEMA_VERSION + 1)
    cli.ok(*argv)
    database = Database(filled)
    assert "more" in database["job"].columns_dict
    assert database["job"].count == 60
    database.close()
