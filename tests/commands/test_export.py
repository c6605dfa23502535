"""`export` gives all jobs with all fields, in constant memory."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
from typing import TYPE_CHECKING

import pytest

from support.cli import Cli, Remote, add, command, environment, foreign, key
from support.runs import PATIENCE
from support.terminal import terminal

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry


@pytest.fixture
def filled(cli: Cli, remote: Remote) -> Remote:
    """Return jobs with text of every kind in their fields."""
    add(remote.jobs, "a", "running", owner="=cmd|' /C calc'!A0", labels={"x": "1,2"}, tasks_total=4)
    remote.put(key("b"), foreign("b", "failed", error_message='line one\nline "two", @three', error_code="-1"))
    remote.put(key("c"), foreign("c", "succeeded", owner="\x1b[31m", metadata={"n": [1, None]}))
    cli.ok("sync", "-q")
    return remote


@pytest.mark.usefixtures("filled")
def test_ndjson_is_what_list_has(cli: Cli) -> None:
    """Each line is the job as `list --jsonl` has it, in the order of the ids."""
    lines = cli.ok("export").lines
    assert lines == cli.ok("list", "--jsonl", "--limit", "0", "--sort", "name").lines
    assert [json.loads(line)["job_id"] for line in lines] == ["a", "b", "c"]


def test_csv_has_no_control_characters(cli: Cli, jobs: JobRegistry) -> None:
    """Neither a file, which a user will print, nor a terminal gets what a terminal would obey."""
    add(jobs, "a", "failed", owner="\x1b[31mred\x07")
    argv = ("export", "--format", "csv")
    assert '"[31mred"' in cli.ok(*argv).out
    for words in (argv, ("query", "--csv", "SELECT owner FROM jobs")):
        with terminal(command(*words), environment(cli)) as at:
            told = at.rest()
        assert '"[31mred"' in told
        assert not {"\x1b", "\x07"} & set(told)


@pytest.mark.usefixtures("filled")
def test_csv_has_every_field_and_no_formula(cli: Cli) -> None:
    """The fields of `list --fields`; nested ones as JSON. Texts that look like formulas with a quote in front."""
    found = {row["job_id"]: row for row in csv.DictReader(io.StringIO(cli.ok("export", "--format", "csv").out))}
    assert list(found["a"]) == cli.ok("list", "--fields").lines
    assert found["a"]["owner"] == "'=cmd|' /C calc'!A0"
    assert json.loads(found["a"]["labels"]) == {"x": "1,2"}
    assert (found["a"]["tasks_total"], found["a"]["is_active"], found["a"]["progress"]) == ("4", "true", "0.0")
    assert found["b"]["error_message"] == 'line one\nline "two", @three'
    assert found["b"]["error_code"] == "'-1"
    assert json.loads(found["c"]["metadata"]) == {"n": [1, None]}
    assert found["c"]["results_path"] == ""


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("flags", [("--status", "active"), ("--match", "[bc]"), ("--hours", "1"), ("--name", "none")])
def test_export_takes_the_filters_of_list(cli: Cli, flags: tuple[str, ...]) -> None:
    """The same filters choose the same jobs."""
    listed = cli.ok("list", "--jsonl", "--limit", "0", *flags).lines
    ran = cli.ok("export", *flags)
    assert sorted(ran.lines) == sorted(listed)
    assert ran.err.startswith(f"{len(listed)} job")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_memory_does_not_grow_with_the_jobs(cli: Cli, jobs: JobRegistry, form: str) -> None:
    """Five thousand large jobs, 100 MB, are exported by a process that may have 200 MB of memory in all."""
    add(jobs, "job", "failed", metadata={"text": "x" * 18000})
    cli.ok("list")
    with sqlite3.connect(cli.cache) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(job)")]
        chosen = ", ".join({"key": "key || n", "job_id": "job_id || n"}.get(name, name) for name in columns)
        connection.execute(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 5000)"
            f" INSERT INTO job ({', '.join(columns)}) SELECT {chosen} FROM job, c"
        )
        connection.execute(
            "UPDATE meta SET value = 'https://example.blob.core.windows.net/jobs' WHERE name = 'registry'"
        )
    connection.close()
    cli.env["MOPS_JOBS_REGISTRY"] = "https://example.blob.core.windows.net/jobs"
    limit = 200 * 2**20
    with subprocess.Popen(
        ["bash", "-c", f'ulimit -v {limit // 1024}; exec "$@"', "-", *command("export", "--format", form, "--offline")],
        env=environment(cli),
        stdout=-1,
    ) as process:
        assert process.stdout is not None
        size = sum(map(len, iter(lambda: process.stdout.read(2**20), b"")))  # type: ignore[union-attr]
        assert process.wait(PATIENCE) == 0
    assert size > 90_000_000


def test_a_reader_who_leaves_ends_it_quietly(cli: Cli, jobs: JobRegistry) -> None:
    """`export | head` says nothing and ends with 0."""
    for number in range(300):
        add(jobs, f"job-{number:03}", metadata={"text": "x" * 1000})
    with subprocess.Popen(command("export"), env=environment(cli), stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(PATIENCE)) == (b"", 0)
