"""`--match` ends: with Ctrl-C, by itself after a bound, and never as an error of the cache."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from mopsjobs.cache.queries import matching
from support.cli import Cli, Remote, add, command, environment

HARD_ID = "a" * 60
HARD = "(a+)+b$"
"""An expression for which `re` takes longer than a lifetime, on that id."""


@pytest.fixture
def hard(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Cli:
    add(remote.jobs, HARD_ID)
    cli.ok("sync", "-q")
    monkeypatch.setattr(matching, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(matching, "TICK_SECONDS", 0.05)
    return cli


@pytest.mark.parametrize("argv", [("list",), ("summary",), ("cancel", "--dry-run"), ("list", "--hours", "9")])
def test_an_expression_without_end_is_refused(hard: Cli, argv: tuple[str, ...]) -> None:
    """After a bound, with one sentence that names the expression, a hint, and exit code 2."""
    ran = hard(*argv, "--match", HARD)
    assert (ran.code, ran.out) == (2, "")
    assert f"--match '{HARD}' takes longer than" in ran.err
    assert "hint: Use --name GLOB" in ran.err


def test_an_expression_may_be_used_after_one_that_was_refused(hard: Cli) -> None:
    """Nothing of the search that was ended is left behind, and no timer ends the next command."""
    assert hard("list", "--match", HARD).code == 2
    assert hard.ok("list", "-q", "--match", "^a+$").out.split() == [HARD_ID]


SEARCH = """
import os
import mops_jobs
from mopsjobs.cache.queries import matching
matching.MAX_SECONDS, tick = 1e9, matching.TimedSearch._tick
def tell(matcher, *arguments):
    if matcher._is_searching:
        os.write(1, b".")
    tick(matcher, *arguments)
matching.TimedSearch._tick = tell
mops_jobs.entry()
"""
"""The command, which searches without a bound and prints a dot now and then while it does."""


def test_ctrl_c_ends_a_search(hard: Cli) -> None:
    """In the middle of the expression: exit code 130, and no word about the cache."""
    python, script = command()
    argv = [python, "-c", SEARCH, "list", "--match", HARD]
    env = environment(hard, PYTHONPATH=os.path.dirname(script))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out.strip(b"."), err) == (130, b"", b"")


def test_filters_that_sqlite_would_refuse_are_told(hard: Cli) -> None:
    """Too many labels, and too long a glob: exit code 2, and not an error of the cache."""
    labels = [f"--label=k={number}" for number in range(2500)]
    for argv, words in ((labels, "too many labels (2,500)"), (["--name", "*a" * 30_000], "glob too long")):
        ran = hard("list", *argv)
        assert ran.code == 2
        assert words in ran.err
        assert "cache" not in ran.err
    assert hard("list", *labels[:100], "--hours", "3", "--sort", "name," * 2500 + "name").code == 0


def test_a_glob_of_many_stars_ends(hard: Cli) -> None:
    """SQLite gives a glob up where its last star has failed, and does not try the stars before it again."""
    assert hard.ok("list", "-q", "--name", "*a" * 499 + "*b").out == ""
