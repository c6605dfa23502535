"""`query` answers SQL over the views, within limits, and can change nothing."""

from __future__ import annotations

import signal
import subprocess

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment, sentences
from support.runs import PATIENCE, until

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Remote:
    """Return a cache of three jobs."""
    for name, status in (("a", "failed"), ("b", "running"), ("c", "running")):
        add(remote.jobs, name, status, owner="ada", metadata={"k": 1})
    cli.ok("sync", "-q")
    return remote


@pytest.mark.usefixtures("filled")
def test_an_answer_in_each_form(cli: Cli) -> None:
    """The same rows as a table, JSON, CSV and TSV."""
    sql = "SELECT status, count(*) AS jobs FROM jobs GROUP BY status ORDER BY status"
    assert cli.ok("query", sql).out == "status   jobs\nfailed   1\nrunning  2\n"
    document = cli.ok("query", "--json", sql).json
    assert document["rows"] == [{"status": "failed", "jobs": 1}, {"status": "running", "jobs": 2}]
    assert (document["columns"], document["returned"], document["truncated"]) == (["status", "jobs"], 2, False)
    assert cli.ok("query", "--csv", sql).out == '"status","jobs"\n"failed",1\n"running",2\n'
    assert cli.ok("query", "--tsv", sql).out == "failed\t1\nrunning\t2\n"


@pytest.mark.usefixtures("filled")
def test_every_view_can_be_asked(cli: Cli) -> None:
    """Without a question, the views and their columns are shown; each can be read, and joined with json_each."""
    named = {tuple(line.split()) for line in cli.ok("query").lines[1:]}
    views = {view for view, _ in named}
    assert views >= {"jobs", "job_labels", "events", "sync_state", "sync_problems", "event_problems", "counters"}
    for view in views:
        assert set(cli.ok("query", "--json", f"SELECT * FROM {view}").json["columns"]) == {
            column for other, column in named if other == view
        }
    joined = (
        "SELECT job_id, step.value ->> 'status' AS s FROM jobs, json_each(jobs.transitions) AS step WHERE job_id = 'a'"
    )
    assert cli.ok("query", "--json", joined).json["rows"][-1] == {"job_id": "a", "s": "failed"}
    assert cli.ok("query", "--json", "EXPLAIN QUERY PLAN SELECT * FROM jobs").json["returned"] > 0


FORBIDDEN = [
    "DELETE FROM job", "UPDATE jobs SET status = 'x'", "INSERT INTO meta VALUES ('a', 'b')", "DROP TABLE job",
    "CREATE TABLE t (x)", "CREATE TEMP TABLE t (x)", "PRAGMA user_version = 7", "PRAGMA query_only = OFF",
    "PRAGMA database_list",
    "ATTACH 'other.db' AS other", "VACUUM", "VACUUM INTO 'copy.db'", "BEGIN IMMEDIATE", "REINDEX", "ANALYZE",
    "SELECT load_extension('x')", "SELECT * FROM job", "SELECT name FROM sqlite_master",
    "SELECT * FROM pragma_table_info('job')", "WITH x AS (SELECT record FROM job) SELECT * FROM x",
    "SELECT 1; DELETE FROM job", "", "-- nothing", "SELEC 1", "SELECT nothing FROM jobs", "SELECT \0",
    "SELECT '" + "x" * 100,
]  # fmt: skip


def _files(cli: Cli) -> dict[str, bytes]:
    """Return the files beside the cache and their content, without an empty log and the shared memory of SQLite."""
    found = {path.name: path.read_bytes() for path in cli.cache.parent.iterdir() if not path.name.endswith("-shm")}
    return {name: data for name, data in found.items() if data or not name.endswith("-wal")}


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("sql", FORBIDDEN)
def test_nothing_but_reading_views_is_answered(cli: Cli, sql: str) -> None:
    """Anything else ends in one sentence with exit code 2, changes no byte of the cache, and makes no file."""
    before = _files(cli)
    cli.fails(2, "query", sql)
    after = _files(cli)
    assert after == before


@pytest.mark.usefixtures("filled")
def test_a_query_that_takes_too_long_is_ended(cli: Cli) -> None:
    """`--timeout` ends what would never end, with a sentence that says so."""
    with subprocess.Popen(
        command("query", "--timeout", "0.2s", ENDLESS), env=environment(cli), stdout=-1, stderr=-1, text=True
    ) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, len(sentences(err))) == (2, "", 1)
    assert "takes longer than 0.2 s" in err


def test_ctrl_c_ends_a_query(cli: Cli, jobs: JobRegistry) -> None:
    """An interrupt in the middle of SQLite's work is an interrupt, not an error of the query."""
    add(jobs, "a")
    cli.ok("list")
    with subprocess.Popen(
        command("query", "--timeout", "60s", "--csv", f"SELECT 1 UNION ALL SELECT ({ENDLESS})"),
        env=environment(cli), stdout=-1, stderr=-1, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        until(lambda: process.stdout is not None and process.stdout.readline(), "the header", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")


@pytest.mark.usefixtures("filled")
def test_rows_are_limited_and_that_is_said(cli: Cli) -> None:
    """`--limit` cuts, and says so in every form; 0 gives all."""
    sql = "SELECT job_id FROM jobs ORDER BY job_id"
    cut = cli.ok("query", "--limit", "2", "--json", sql)
    assert (cut.json["returned"], cut.json["truncated"]) == (2, True)
    assert "first 2 rows" in cut.err
    assert "first 2 rows" in cli.ok("query", "--limit", "2", "--csv", sql).err
    assert len(cli.ok("query", "--limit", "0", "--tsv", sql).lines) == 3
    many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 1500) SELECT x FROM n"
    assert [len(cli.ok("query", form, many).lines) for form in ("--csv", "--tsv")] == [1501, 1500]
    assert cli.ok("query", "--json", many).json["truncated"] is True
    assert cli.ok("query", "--limit", "3", "--json", sql).json["truncated"] is False


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        ("SELECT j.onwer FROM jobs j", "no such column: j.onwer. Did you mean 'owner'?"),
        ("SELECT owner FROM jbos", "no such table: jbos. Did you mean 'jobs'?"),
        ("SELECT owner", "no such column: owner.\n"),
        ("SELECT onwer(1)", "no such function: onwer.\n"),
    ],
)
def test_a_mistyped_column_or_view_gets_the_nearest_one(cli: Cli, sql: str, problem: str) -> None:
    """SQLite's message stays, followed by the nearest name of a column or of a view."""
    assert f"The query failed: {problem}" in cli.fails(2, "query", sql)


@pytest.mark.usefixtures("filled")
def test_odd_values_leave_as_json(cli: Cli) -> None:
    """Bytes are hexadecimal, infinities named, broken text has replacement characters; a huge value is refused."""
    sql = "SELECT x'00ff' AS a, 9e999 AS b, CAST(x'ff41' AS TEXT) AS c, NULL AS d"
    row = {"a": "00ff", "b": None, "c": "\ufffdA", "d": None, "$not_finite": {"/b": "inf"}}
    assert cli.ok("query", "--json", sql).json["rows"] == [row]
    ran = cli("query", "SELECT length(zeroblob(100000000))")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)
    cli.fails(2, "query", "--json", "SELECT 1 AS x, 2 AS x")
