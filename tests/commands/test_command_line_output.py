"""What the command prints: nothing that a record smuggles in, colour where it is wanted, data alone on stdout."""

from __future__ import annotations

import io
import json
import sys

import pytest

import mops_jobs
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, foreign, key
from support.terminal import TerminalStream

# --- what comes from records -----------------------------------------------------------------------------------------

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202etxt\u2066\u200f\x00\x7f"


@pytest.fixture
def evil(cli: Cli, remote: Remote) -> None:
    """Fill a registry with records that are full of escape sequences and marks that turn the writing direction."""
    names = ("k8s_name", "k8s_namespace", "k8s_uid", "owner", "engine", "error_code", "error_message", "results_path")
    texts = {name: f"{name}{EVIL}" for name in (*names, "parent_job_id")}
    more = {"labels": {f"k{EVIL}": f"v{EVIL}"}, "metadata": {EVIL: EVIL}, "last_validation_error": EVIL}
    steps = [{"status": f"odd{EVIL}", "at": "2026-03-01T10:00:00Z", "id": EVIL}]
    more |= {"missing_outputs": [EVIL], "transitions": steps, "tasks_total": 3}
    for name, status in (("failed", "failed"), ("running", "running"), ("odd", f"odd{EVIL}"[:60])):
        remote.put(key(name), foreign(name, status, **texts, **more))
    remote.put(key("bad-time"), foreign("bad-time", created_at=EVIL))
    remote.put(key("bad-id"), foreign(EVIL))
    remote.put(key("bad-json"), f"{{{EVIL}")
    assert cli("sync", "-q").code == 7


LINES = [
    "sync", "sync --json", "list", "list --json", "list --jsonl", "list --tsv", "list --offline -q",
    "list --fields job_id,owner,labels,metadata,error_message,transitions",
    "list --tsv --fields job_id,owner,labels,metadata,error_message,transitions", "status failed", "status running",
    "status odd", "status odd --json", "status bad-id --refresh", "wait failed odd --any",
    "wait odd --timeout 1s --json", "doctor", "doctor --json", "cancel odd", "update odd failed", "cancel running",
    "progress running 2", "update running failed --error x",
]  # fmt: skip


@pytest.mark.usefixtures("evil")
@pytest.mark.parametrize("color", ["never", "always"])
def test_no_escape_sequence_of_a_record_reaches_the_terminal(cli: Cli, color: str) -> None:
    """Whatever the records hold, neither stdout nor stderr has a control character that mops-jobs did not write."""
    for line in LINES:
        ran = cli(*line.split(), "--color", color)
        text = ran.out + ran.err
        assert text
        for code in ("0", "1", "2", *range(31, 37)):
            text = text.replace(f"\x1b[{code}m", "")
        assert not [char for char in text if not char.isprintable() and char not in "\n\t"], text


# --- colour ----------------------------------------------------------------------------------------------------------


COLOURS = [
    ("a pipe", False, "auto", {}, False),
    ("a pipe, always", False, "always", {}, True),
    ("a pipe, forced", False, "auto", {"CLICOLOR_FORCE": "1"}, True),
    ("a pipe, forced but NO_COLOR", False, "auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ("a terminal", True, "auto", {}, True),
    ("a terminal, never", True, "never", {}, False),
    ("a terminal, NO_COLOR", True, "auto", {"NO_COLOR": "1"}, False),
    ("a terminal, NO_COLOR empty", True, "auto", {"NO_COLOR": ""}, True),
    ("a terminal, NO_COLOR but always", True, "always", {"NO_COLOR": "1"}, True),
    ("a dumb terminal", True, "auto", {"TERM": "dumb"}, False),
]


@pytest.mark.parametrize(("case", "terminal", "flag", "env", "colored"), COLOURS, ids=[case[0] for case in COLOURS])
def test_colour_goes_where_it_is_wanted(
    cli: Cli,
    jobs: JobRegistry,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
    terminal: bool,
    flag: str,
    env: dict[str, str],
    colored: bool,
) -> None:
    """Colour only to a terminal, unless it is forced. `NO_COLOR` and `--color` are obeyed; the words say it all."""
    add(jobs, "a", "failed")
    stream = TerminalStream() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    assert mops_jobs.main(["list", "--color", flag], env={**cli.env, **env}, now=cli.clock.now) == 0
    assert ("\x1b[31mfailed\x1b[0m" in stream.getvalue()) is colored
    assert "failed" in stream.getvalue()


def test_a_terminal_gets_relative_times_and_indented_json(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person reads how long ago something was, and JSON in lines; a pipe gets neither."""
    add(jobs, "a", "running")
    cli.clock.advance(minutes=3)
    stream = TerminalStream()
    monkeypatch.setattr(sys, "stdout", stream)
    for argv in (["list", "--color", "never"], ["status", "a", "--color", "never"], ["list", "--json"]):
        mops_jobs.main(argv, env=cli.env, now=cli.clock.now)
    text = stream.getvalue()
    assert "3m ago" in text
    assert "running, since 3m ago (2026-03-01 12:00:00Z)" in text
    assert '\n  "schema_version": 1,\n' in text


QUIET = ["status a", "wait ended", "sync", "doctor", "config show", "schema", "completion bash", "update a running"]


@pytest.mark.parametrize("line", QUIET)
def test_quiet_is_known_to_every_command(cli: Cli, jobs: JobRegistry, line: str) -> None:
    """`-q` silences what was not asked for, and changes nothing of what was; in `list` it means ids."""
    add(jobs, "a", "running")
    add(jobs, "ended", "succeeded")
    asked = cli.ok(*line.split()).out
    for flag in ("-q", "--quiet"):
        ran = cli.ok(*line.split(), flag)
        assert ran.err == ""
        assert ran.out == ("" if line == "sync" else asked)
    assert sorted(cli.ok("list", "-q").lines) == ["a", "ended"]


@pytest.mark.parametrize("line", ["list --json", "status a --json", "sync --json", "doctor --json", "cancel a --json"])
def test_stdout_is_nothing_but_data(cli: Cli, remote: Remote, line: str) -> None:
    """With `--json`, all of stdout is one JSON document, also after an outage; only sync may have none to print."""
    remote.put(key("a"), foreign("a"))
    remote.put(key("bad"), "{")
    cli("sync", "-q")
    assert cli.ok("list", "--json").json["total"] == 1
    remote.store.fail_next(1, "scan")
    ran = cli(*line.split(), *(["--refresh"] if line.startswith(("list", "status")) else []))
    if ran.out or not line.startswith("sync"):
        json.loads(ran.out)
