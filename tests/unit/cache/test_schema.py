"""Tables and views of the cache: the documented columns, and what a cache of an older version keeps."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import schema
from mopsjobs.cache.sync import mirror
from mopsjobs.errors import CacheError
from support.cli import REMOTE_URL, Cli, Remote, add

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


def _make_older(path: Path) -> None:
    """Give a cache the form of another version: other columns, tables, indexes and views, and rows with less."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "DROP VIEW jobs",
            "DROP INDEX idx_job_note",
            "ALTER TABLE job DROP COLUMN note",
            "ALTER TABLE job ADD COLUMN older TEXT",
            "CREATE VIEW jobs AS SELECT job_id, older FROM job",
            "ALTER TABLE counter ADD COLUMN older TEXT",
            "DROP VIEW job_sums",
            "DROP TABLE tally",
            "CREATE TABLE gone (x)",
            "PRAGMA user_version = 1",
        ):
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def older(cli: Cli, remote: Remote) -> Path:
    """Return a cache of an older version: with jobs, one of them pruned, counters, events, and messages sent."""
    for job_id in ("ends", "stays"):
        add(remote.jobs, job_id, "running")
    cli.ok("sync")  # what ends later is counted
    remote.jobs.update_status("ends", "failed")
    cli.ok("sync")
    cli.clock.advance(days=100)
    cli.ok("prune", "--older-than", "90d", "--yes")
    add(remote.jobs, "new", "running", labels={"exp": "1"}, metadata={"note": "odd"})
    cli.ok("sync")
    with closing(sqlite3.connect(cli.cache)) as connection, connection:
        event = "INSERT INTO event (seq, chunk, job_id, at_ts, kind, body) VALUES (?, 'chunk', 'new', 5, 'log', '{}')"
        connection.executemany(event, [(7,), (9,)])
        connection.execute("DELETE FROM event WHERE seq = 9")
        connection.execute("INSERT INTO notified VALUES ('rule.new', 5)")
        connection.execute("INSERT INTO failure_summary VALUES ('new', 'state', '[]')")
    _make_older(cli.cache)
    return cli.cache


KEPT = (
    "SELECT name, labels, value FROM counter",
    "SELECT * FROM pruned",
    "SELECT * FROM notified",
    "SELECT * FROM failure_summary",
    "SELECT seq, job_id, body FROM event",
    "SELECT * FROM sqlite_sequence",
    "SELECT * FROM meta WHERE name IN ('cache_id', 'generation', 'registry', 'synced_at', 'witnesses')",
)
"""What the registry cannot tell again."""


def _ask(path: Path, questions: Iterable[str] = KEPT) -> list[list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(question).fetchall() for question in questions]


def test_a_cache_of_an_older_version_keeps_what_it_alone_knows(cli: Cli, older: Path) -> None:
    """A view without network rebuilds it. Counters, pruned jobs, messages, events and results kept stay."""
    before = _ask(older)
    assert all(before), before
    assert sorted(cli.ids("--offline")) == ["new", "stays"]
    assert _ask(older) == before
    database, new = Database(older), sqlite3.connect(":memory:")
    new.executescript(cache_database.new_schema())
    assert _ask(older, ["PRAGMA user_version"]) == [[(cache_database.SCHEMA_VERSION,)]]
    everything = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2"
    assert database.execute(everything).fetchall() == new.execute(everything).fetchall()
    database.close()


def test_a_rebuilt_cache_is_shown_while_the_registry_is_away(cli: Cli, remote: Remote, older: Path) -> None:
    """The rows from before are better than none; the warning says that they are old."""
    assert older.exists()
    remote.store.down = True
    ran = cli.ok("list", "-q")
    assert sorted(ran.lines) == ["new", "stays"]
    assert "warning: " in ran.err
    remote.store.down = False
    assert cli.ok("list", "-q").err == ""


def test_a_sync_reads_each_record_of_a_rebuilt_cache_again(
    cli: Cli, remote: Remote, older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New columns are filled. No end is counted again, no pruned job is back, and no change counts as foreign."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    cli.ok("list", "--offline")
    questions = ["SELECT name, labels, value FROM counter", "SELECT key FROM pruned", "SELECT * FROM sync_problems"]
    before = _ask(older, questions)
    assert _ask(older, ["SELECT note FROM job WHERE note IS NOT NULL"]) == [[]]
    cli.ok("list")  # a view of a cache that this version has not filled syncs
    assert _ask(older, ["SELECT note FROM job WHERE note IS NOT NULL"]) == [[("odd",)]]
    assert _ask(older, questions) == before
    assert _ask(older, ["SELECT value FROM meta WHERE name IN ('foreign_records', 'foreign_writes')"]) == [
        [("no",), ("no",)]
    ]
    reads = remote.store.calls["scan"] + remote.store.calls["get"]
    cli.ok("list")
    assert remote.store.calls["scan"] + remote.store.calls["get"] == reads


def test_a_rebuild_that_is_killed_leaves_the_older_cache(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one transaction."""
    before = _ask(older, ["SELECT * FROM sqlite_master", *KEPT])
    monkeypatch.setattr(schema.totals, "FILL", "SELECT killed")
    with pytest.raises(CacheError):
        cache_database.open_to_write(str(older), REMOTE_URL)
    assert _ask(older, ["SELECT * FROM sqlite_master", *KEPT]) == before
