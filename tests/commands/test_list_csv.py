"""`list --csv` gives jobs with all fields to spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from support.cli import Cli, Remote, add, command, environment, foreign, key
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


@pytest.mark.claim("No control character reaches a terminal")
def test_csv_has_no_control_characters(cli: Cli, jobs: JobRegistry) -> None:
    """Neither a file, which a user will print, nor a terminal gets what a terminal would obey."""
    add(jobs, "a", "failed", owner="\x1b[31mred\x07")
    argv = ("list", "--csv")
    assert '"[31mred"' in cli.ok(*argv).out
    for words in (argv, ("query", "--csv", "SELECT owner FROM jobs")):
        with terminal(command(*words), environment(cli)) as at:
            told = at.rest()
        assert '"[31mred"' in told
        assert not {"\x1b", "\x07"} & set(told)


@pytest.mark.claim("CSV has no formulas")
@pytest.mark.usefixtures("filled")
def test_csv_has_every_field_and_no_formula(cli: Cli) -> None:
    """The fields of `list --fields`; nested ones as JSON. Texts that look like formulas with a quote in front."""
    found = {row["job_id"]: row for row in csv.DictReader(io.StringIO(cli.ok("list", "--csv", "--limit", "0").out))}
    assert list(found["a"]) == cli.ok("list", "--fields").lines
    assert found["a"]["owner"] == "'=cmd|' /C calc'!A0"
    assert json.loads(found["a"]["labels"]) == {"x": "1,2"}
    assert (found["a"]["tasks_total"], found["a"]["is_active"], found["a"]["progress"]) == ("4", "true", "0.0")
    assert found["b"]["error_message"] == 'line one\nline "two", @three'
    assert found["b"]["error_code"] == "'-1"
    assert json.loads(found["c"]["metadata"]) == {"n": [1, None]}
    assert found["c"]["results_path"] == ""


@pytest.mark.usefixtures("filled")
def test_csv_takes_fields_filters_order_and_limit(cli: Cli) -> None:
    """The same jobs as in other forms. A note says what the limit has cut."""
    assert cli.ok("list", "--csv", "--fields", "job_id,status", "--match", "[bc]", "--sort", "-name").lines == [
        '"job_id","status"',
        '"c","succeeded"',
        '"b","failed"',
    ]
    assert cli.ok("list", "--csv", "--fields", "job_id", "--name", "none").lines == ['"job_id"']
    cut = cli.ok("list", "--csv", "--fields", "job_id", "--status", "done", "--limit", "1", "--sort", "name")
    assert cut.lines == ['"job_id"', '"b"']
    assert "1 of 2 jobs" in cut.err
