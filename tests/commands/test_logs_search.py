"""`logs` over several jobs: by their ids, or by the filters of `list`, with the job in front of each line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.cache.queries import matching
from support.cli import Cli, Remote, add, sentences
from support.events import Writer

if TYPE_CHECKING:
    from pathlib import Path

HARD = "(a+)+b$"
"""An expression for which `re` takes longer than a lifetime, on sixty times `a`."""


@pytest.fixture
def jobs(cli: Cli, remote: Remote) -> None:
    """Leave three jobs with lines, the last an hour older than the others."""
    for name, owner in (("old", "ann"), ("night-1", "ann"), ("night-2", "bob")):
        add(remote.jobs, name, "running", owner=owner)
        write = Writer(remote.store.inner, cli.clock, name, name)
        write(f"start of {name}")
        write("singular matrix", task=4)
        write("", kind="task_failed", task=4, error={"type": "E", "message": "singular"})
        remote.jobs.update_status(name, "partial")
        cli.clock.advance(minutes=60 if name == "old" else 1)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (("--grep", "singular matrix"), ["night-2", "night-1", "old"]),
        (("--grep", "singular matrix", "--hours", "1"), ["night-2", "night-1"]),
        (("--grep", "singular matrix", "--since", "1h"), ["night-2", "night-1"]),
        (("--grep", "singular matrix", "--owner", "ann"), ["night-1", "old"]),
        (("--grep", "singular matrix", "--name", "*2", "-s", "partial"), ["night-2"]),
        (("--grep", "singular matrix", "--limit", "1"), ["night-2"]),
        (("old", "night-2", "--grep", "singular matrix"), ["old", "night-2"]),
        (("old", "old", "night-1", "--grep", "singular matrix"), ["old", "night-1"]),
    ],
)
def test_each_line_begins_with_its_job(cli: Cli, jobs: None, argv: tuple[str, ...], names: list[str]) -> None:
    """In the order of `list`, or as the ids are given."""
    assert cli.ok("logs", *argv).lines == [f"{name}  [4] singular matrix" for name in names]


def test_failed_tasks_of_several_jobs(cli: Cli, jobs: None) -> None:
    """Their lines and errors; `--tail` counts for each job."""
    assert cli.ok("logs", "--failed", "--owner", "bob").lines == [
        "night-2  [4] singular matrix",
        "night-2  [4] E: singular",
    ]
    assert cli.ok("logs", "--failed", "--tail", "1", "--owner", "ann").lines == [
        "night-1  [4] E: singular",
        "old  [4] E: singular",
    ]


def test_jobs_that_are_left_out_are_counted(cli: Cli, jobs: None) -> None:
    """On stderr, with the flag that reads them."""
    ran = cli.ok("logs", "--grep", "start", "--limit", "1")
    assert "2 older jobs left out (--limit 0 reads all)." in ran.err


def test_no_line_that_matches_is_noted(cli: Cli, jobs: None) -> None:
    """With the number of jobs, and exit code 0."""
    ran = cli.ok("logs", "--grep", "nowhere")
    assert (ran.out, ran.err.strip()) == ("", "No log line of 3 jobs matches.")


def test_missing_lines_name_their_job(cli: Cli, remote: Remote, write: Writer) -> None:
    """Where a writer had to drop lines."""
    add(remote.jobs, "job", "running")
    write("", kind="dropped", count=12)
    assert "12 events of job job are missing" in cli.ok("logs", "--grep", "x").err


def test_an_outage_leaves_the_cache(cli: Cli, remote: Remote, jobs: None) -> None:
    """With a warning; a cache that was never filled is an error (5)."""
    remote.store.down = True
    assert cli("logs", "--grep", "start").code == 5
    remote.store.down = False
    cli.ok("sync")
    remote.store.down = True
    for flags in ((), ("--offline",)):
        ran = cli.ok("logs", "--grep", "start of n", *flags)
        assert ran.lines == ["night-2  start of night-2", "night-1  start of night-1"]
        assert ran.err.startswith("warning: ") is not bool(flags)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "logs needs a JOB; without one, --grep or --failed."),
        (("old", "--hours", "4"), "A JOB contradicts filters and --limit, which select jobs."),
        (("old", "--limit", "4"), "A JOB contradicts filters and --limit, which select jobs."),
        (("old", "night-1", "-f"), "--follow needs one JOB."),
        (("--grep", "("), "invalid regular expression '('"),
    ],
)
def test_requests_that_contradict_are_refused(cli: Cli, jobs: None, argv: tuple[str, ...], words: str) -> None:
    """Exit code 2, one sentence."""
    ran = cli("logs", *argv)
    assert (ran.code, ran.out, len(sentences(ran.err.partition("hint:")[0]))) == (2, "", 1)
    assert words in ran.err


def test_an_unknown_job_prints_nothing_of_others(cli: Cli, jobs: None) -> None:
    """All jobs are found before the first line is printed."""
    ran = cli("logs", "old", "none")
    assert (ran.code, ran.out) == (3, "")


@pytest.mark.parametrize("argv", [("job",), (), ("job", "--tail", "1"), ("job", "-f")])
def test_an_expression_without_end_is_refused(
    cli: Cli, remote: Remote, write: Writer, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    """After a bound, with one sentence that names the expression, a hint, and exit code 2."""
    monkeypatch.setattr(matching, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(matching, "TICK_SECONDS", 0.05)
    add(remote.jobs, "job", "succeeded")
    write("a" * 60)
    ran = cli("logs", *argv, "--grep", HARD)
    assert (ran.code, ran.out) == (2, "")
    assert f"The expression '{HARD}' takes longer than" in ran.err
    assert "hint: Use an expression without a repetition inside another one." in ran.err
    assert cli.ok("logs", "job", "--grep", "^a+$").lines == ["a" * 60]


def test_the_suggested_command_asks_the_same_registry(cli: Cli, tmp_path: Path) -> None:
    """Without --registry, it would ask the default one."""
    url = f"sqlite://{tmp_path / 'other.db'}"
    assert f"logs --registry {url} @latest" in cli("logs", "--registry", url).err
