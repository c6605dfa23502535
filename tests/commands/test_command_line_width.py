"""What commands print for people fits a terminal of 60, 80 and 120 columns; a pipe gets everything."""

from __future__ import annotations

import shlex
import sys

import pytest

from mopsjobs.console.terminal import display_width
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardForecast
from support.cli import Cli, Remote, add, command, environment
from support.docs import ROOT
from support.terminal import TerminalStream, terminal

LONG = "i" * 63
IDS = ("seir-20260301-120000-1a2b", LONG, "nightly.1", "a-" + "b" * 40)
OWNERS = ("ada", "田中太郎" * 5, "müller 🚀🚀 e\u0301quipe", "o" * 60)
MESSAGE = "ValueError: the rate of 感染 must be below one, and the matrix of contacts must be square; see the manual"

COMMANDS = (
    ("events", "--offline"), ("summary",), ("status", LONG), ("status", "nightly.1"), ("doctor",), ("--help",),
    ("cancel", *IDS, "--dry-run"), ("sync",), ("wait", LONG), ("status", "none"), ("list", "--status", "odd"),
    ("list", "--bogus"),
)  # fmt: skip
BETWEEN = "== next =="
ONE_AFTER_ANOTHER = f"""
import shlex, sys
import mops_jobs
for words in sys.argv[1:]:
    print({BETWEEN!r}, flush=True)
    mops_jobs.main(shlex.split(words))
"""
"""A program that runs commands in turn. An interpreter for each would take longer than all of them."""

WIDTHS = pytest.mark.parametrize("columns", [60, 80, 120])


@pytest.fixture
def jobs(jobs: JobRegistry) -> JobRegistry:
    """Register jobs with long ids, wide owners and many labels."""
    for job_id, owner in zip(IDS, OWNERS, strict=True):
        add(jobs, job_id, owner=owner, labels={f"label{i}": f"値{i}" for i in range(12)}, tasks_total=1200)
    jobs.update_status(LONG, "failed", error_code="MODEL", error_message=MESSAGE)
    jobs.update_status("nightly.1", "running")
    return jobs


def _at_terminal(cli: Cli, columns: int, *words: str, program: str = "") -> list[str]:
    """Run a command, or a program in Python with these arguments, at a terminal. Returns what it shows."""
    env = environment(cli, TERM="xterm", NO_COLOR="1", PYTHONPATH=str(ROOT))
    argv = [sys.executable, "-c", program, *words] if program else command(*words)
    with terminal(argv, env, columns=columns) as screen:
        return [line.rpartition("\r")[2] for line in screen.rest().replace("\r\n", "\n").split("\n")]


def _too_long(lines: list[str], columns: int) -> list[str]:
    """Return the lines that are longer than the terminal, but for those with a command or a long word, as a path is."""
    found = [line for line in lines if display_width(line) > columns]
    return [line for line in found if "mops-jobs " not in line and max(map(len, line.split())) < columns - 20]


@WIDTHS
@pytest.mark.usefixtures("jobs")
def test_a_listing_fits_and_ids_are_whole(cli: Cli, columns: int) -> None:
    """Columns are dropped before an id is cut. The status is always there."""
    lines = _at_terminal(cli, columns, "list")
    assert not _too_long(lines, columns)
    text = "\n".join(lines)
    assert all(job_id in text for job_id in IDS)
    assert all(word in text for word in ("STATUS", "running", "failed", "pending"))
    assert ("OWNER" in text, "CREATED" in text) == {60: (True, False), 80: (False, False), 120: (True, False)}[columns]


@WIDTHS
@pytest.mark.usefixtures("jobs")
def test_chosen_columns_that_find_no_room_are_named(cli: Cli, columns: int) -> None:
    """`list --fields` and `query` show what fits, from the left, and say what they leave out."""
    for words in (
        ("list", "--fields", "job_id,owner,labels,metadata,created_at,results_path,error_message"),
        ("query", "SELECT job_id, owner, labels, metadata, created_at, results_path, error_message FROM jobs"),
    ):
        lines = _at_terminal(cli, columns, *words)
        assert not _too_long(lines, columns)
        assert any(line.startswith(LONG) for line in lines)
        assert any(line.startswith("Too narrow for ") for line in lines)


@WIDTHS
@pytest.mark.usefixtures("jobs")
def test_what_commands_print_fits(cli: Cli, columns: int) -> None:
    """Lines and messages are broken at blanks."""
    shown = "\n".join(_at_terminal(cli, columns, *map(shlex.join, COMMANDS), program=ONE_AFTER_ANOTHER))
    by_command = [part.split("\n") for part in shown.split(BETWEEN)[1:]]
    assert len(by_command) == len(COMMANDS)
    for words, lines in zip(COMMANDS, by_command, strict=True):
        assert not _too_long(lines, columns), words


@pytest.mark.usefixtures("jobs")
def test_a_pipe_gets_everything_whole(cli: Cli) -> None:
    """Nothing is cut, dropped or wrapped where no terminal is."""
    table = cli.ok("list").out
    assert all(text in table for text in (*IDS, *OWNERS))
    assert "CREATED" in table.splitlines()[0]
    assert MESSAGE in cli.ok("status", LONG).out


@WIDTHS
def test_watch_fills_the_terminal_and_no_more(cli: Cli, jobs: JobRegistry, columns: int) -> None:
    """Were there more lines than the terminal has, the head would scroll away."""
    for number in range(30):
        add(jobs, f"{number:02}-{LONG[:50]}")
    env = environment(cli, TERM="xterm", NO_COLOR="1")
    clear = "\x1b[H\x1b[2J"
    with terminal(command("watch", "--interval", "0.1s"), env, columns=columns, lines=20) as screen:
        lines = screen.until(clear, 2).split(clear)[1].split("\r\n")[:-1]
    height = sum(max(1, -(-display_width(line) // columns)) for line in lines)
    assert 17 <= height <= 19
    assert lines[0].startswith("34 jobs")


def test_wait_shows_progress_and_the_time_left(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and the range of the runner are in one line. A message tells of a change of status."""
    add(remote.jobs, "a", "scheduled", tasks_total=100)
    stream = TerminalStream()
    monkeypatch.setattr(sys, "stderr", stream)

    def world(count: int) -> None:
        if count == 2:
            remote.jobs.update_status("a", "running")
        elif 2 < count < 12:
            now = cli.clock.now().timestamp()
            forecast = ShardForecast(now + 65, now + 118, 8)
            remote.jobs.report_shard("a", 0, 1, ShardReport(count - 2, 0, forecast=forecast))
        elif count == 12:
            remote.jobs.update_status("a", "succeeded")

    cli.clock.on_sleep = world
    assert cli("wait", "a", "--interval", "10s").code == 0
    drawn = [text.rstrip() for text in stream.getvalue().replace("\n", "\r").split("\r") if text.strip()]
    assert [text for text in drawn if text.startswith("a: ")] == [
        "a: scheduled, 0/100 tasks", "a: running, 0/100 tasks", "a: succeeded, 9/100 tasks",
    ]  # fmt: skip
    assert "[------------------------] 0/100 tasks, 0 %, 0:10, scheduled" in drawn
    assert "[#-----------------------] 5/100 tasks, 5 %, 1:10, 1m to 2m left" in drawn
