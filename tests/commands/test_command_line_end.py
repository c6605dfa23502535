"""How the command ends: on a closed pipe, an interrupt, a missing library, an unexpected error."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import mops_jobs
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add, command, environment, sentences
from support.runs import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        *("list --json --limit 0", "list --tsv --limit 0", "list --limit 0", "completion bash"),
        *("list --jsonl --limit 0", "list --csv --limit 0", "--version", "--help", "list --help"),
    ],
)
def test_a_closed_pipe_ends_quietly(cli: Cli, jobs: JobRegistry, line: str) -> None:
    """When the reader has had enough, as `head` does, the command ends with 0 and without a word."""
    for number in range(300):
        add(jobs, f"job-{number:03}", metadata={"filler": "x" * 900})
    reader, writer = os.pipe()
    os.close(reader)  # the reader is gone before the first byte
    ran = subprocess.run(
        command(*line.split()), stdout=writer, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    said = [line for line in ran.stderr.splitlines() if "jobs, live" not in line]
    assert (ran.returncode, said) == (0, [])


@pytest.mark.parametrize(
    ("line", "code"),
    [("status job --exit-status", 100), ("status job --exit-status --json", 100), ("wait job --json", 100)],
)
def test_a_closed_pipe_takes_no_exit_code_away(cli: Cli, jobs: JobRegistry, line: str, code: int) -> None:
    """`status JOB --exit-status | head -1` under `pipefail`: a job that failed has not succeeded."""
    add(jobs, "job", "failed")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command(*line.split()), stdout=writer, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    assert (ran.returncode, "Broken" in ran.stderr) == (code, False)


@pytest.mark.parametrize(("line", "code"), [("status job --exit-status", 100), ("wait job", 100), ("wait nothing", 3)])
def test_nobody_who_hears_is_no_reason_to_end_otherwise(cli: Cli, jobs: JobRegistry, line: str, code: int) -> None:
    """Ctrl-C into `2>&1 | tee log` ends `tee` first."""
    add(jobs, "job", "failed")
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run(
        command(*line.split()), stdout=subprocess.PIPE, stderr=writer, env=environment(cli), text=True, check=False
    )
    os.close(writer)
    assert ran.returncode == code


def test_a_directory_that_is_gone_stops_nobody(cli: Cli, jobs: JobRegistry, tmp_path: Path) -> None:
    """A job's script has removed its scratch directory, and reports the end."""
    add(jobs, "job", "running")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(scratch), *command("update", "job", "succeeded")]
    ran = subprocess.run(words, env=environment(cli), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "job: succeeded\n")


@pytest.mark.parametrize("line", ["--version", "list --help"])
def test_help_that_cannot_be_written_is_told(cli: Cli, line: str) -> None:
    """As for any other output: one sentence and 1, where Python's own end would be a complaint and 120."""
    with open("/dev/full", "wb") as full:
        ran = subprocess.run(
            command(*line.split()), stdout=full, stderr=subprocess.PIPE, env=environment(cli), text=True, check=False
        )
    assert (ran.returncode, ran.stderr) == (1, "error: Cannot write: No space left on device.\n")


def test_an_interrupt_ends_with_130(cli: Cli, jobs: JobRegistry) -> None:
    """Ctrl-C while waiting ends at once with 130, without a traceback."""
    add(jobs, "a", "running")
    with subprocess.Popen(
        command("wait", "a"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(cli),
        text=True,
        # A shell that runs the tests in the background has its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no thread holds a lock of the signal module
    ) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "a: running\n"
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out, err) == (130, "", "")


def test_the_unexpected_is_one_sentence_and_a_traceback_only_when_asked(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of mops-jobs ends with 1 and one sentence with a hint; with `-v` it shows where it is."""

    def broken(*args: object, **more: object) -> None:
        raise ZeroDivisionError("by\nzero")

    add(jobs, "a")
    monkeypatch.setattr("mopsjobs.cache.queries.jobs.list_jobs", broken)
    ran = cli("list")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: Unexpected error: ZeroDivisionError: by zero\nhint: Add -v to see where.\n"
    with pytest.raises(ZeroDivisionError):
        cli("list", "-v")


@pytest.mark.slow
@pytest.mark.parametrize("line", ["list --json", "sync"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_closed_before_the_start_is_no_surprise(cli: Cli, jobs: JobRegistry, line: str, closed: str) -> None:
    """With stdout or stderr closed, what would go there goes nowhere, and the command does its work."""
    add(jobs, "a")
    words = shlex.join(command(*line.split()))
    ran = subprocess.run(
        ["sh", "-c", f"{words} {closed}"], capture_output=True, env=environment(cli), text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Unexpected" not in ran.stderr


def test_a_missing_library_is_told_with_how_to_install_it(cli: Cli) -> None:
    """Run from the sources without its libraries, the command says which one is missing and what to type."""
    python = [sys.executable, "-S", *command("sync", "--registry", "https://acct.blob.core.windows.net/c-1")[1:]]
    ran = subprocess.run(python, capture_output=True, env=environment(cli), text=True, check=False)
    assert (ran.returncode, ran.stdout, len(sentences(ran.stderr))) == (1, "", 1)
    assert " is not installed." in ran.stderr
    assert "python -m pip install" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stream_that_cannot_show_a_character_is_no_surprise(cli: Cli, jobs: JobRegistry, encoding: str) -> None:
    """Text beyond what the terminal's encoding knows is shown by an escape, and the rest as it is."""
    add(jobs, "a", "failed", owner="Zoë 你好")
    for argv in (("list",), ("status", "a"), ("list", "--json"), ("list", "--tsv")):
        ran = subprocess.run(
            command(*argv), capture_output=True, env=environment(cli, PYTHONIOENCODING=encoding), check=False
        )
        assert ran.returncode == 0, ran.stderr
        assert b"failed" in ran.stdout


ENDS = """
import atexit, sys, threading, time
import mops_jobs
atexit.register(print, "asked for at the end")
stop = threading.Event()
def late():
    stop.wait()
    print("a thread's last words")
threading.Thread(target=late, daemon=sys.argv[1] == "daemon").start()
threading.Timer(0, stop.set).start() if sys.argv[1] != "daemon" else None
mops_jobs._exit_fast(3)
"""


@pytest.mark.parametrize(("kind", "words"), [("daemon", ""), ("waited-for", "a thread's last words\n")])
def test_an_end_at_once_leaves_nothing_out(kind: str, words: str) -> None:
    """Threads that are to be waited for are, and what libraries want done at the end is done; output is all there."""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(mops_jobs.__file__)}
    ran = subprocess.run([sys.executable, "-c", ENDS, kind], capture_output=True, text=True, env=env)
    assert (ran.returncode, ran.stdout) == (3, words + "asked for at the end\n")
