"""What a command has read or written is in each later view of this machine, without a sync in between."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from mopsjobs.cache.sync import mirror
from support.cli import Cli, Remote, add, command, environment, foreign, key, put
from support.runs import PATIENCE, code
from support.servers import Azurite


def _statuses(cli: Cli) -> dict[str, str]:
    """Return statuses as a listing without requests shows them."""
    return {job["job_id"]: job["status"] for job in cli.ok("list", "--json", "--offline").json["jobs"]}


def test_the_end_of_a_job_that_ran_here_is_shown(cli: Cli, azurite: Azurite, tmp_path: Path) -> None:
    """After `submit --wait`, `status` and `list` show its end, its outputs and its failures, without a sync."""
    cli.env["MOPS_JOBS_REGISTRY"] = azurite.url(azurite.new_container())
    cli.ok("sync")
    home = tmp_path / "model"
    home.mkdir()
    code(home)
    sets = [{"x": 1}, {"x": 2, "needs": "/nowhere"}]
    study = tmp_path / "study.json"
    study.write_text(json.dumps({"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}))
    words = command("submit", str(study), "--auto", "--job-id", "job", "--workers", "1", "--wait")
    ran = subprocess.run(words, env=environment(cli), cwd=home, capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 104, ran
    job = cli.ok("status", "job", "--offline", "--json").json
    assert (job["status"], job["tasks_completed"], job["tasks_failed"]) == ("partial", 1, 1)
    assert "1 verified, 1 task missing" in cli.ok("status", "job").out
    assert "Failed     1 ValueError in model.py:" in cli.ok("status", "job", "--offline").out
    assert _statuses(cli) == {"job": "partial"}


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        (("wait", "job"), 100),
        (("status", "job", "--refresh"), 0),
        (("update", "job", "running"), 6),
        (("cancel", "job"), 6),
        (("events", "job"), 0),
        (("logs", "job"), 0),
    ],
)
def test_an_end_that_a_command_has_read_is_shown(
    cli: Cli, remote: Remote, argv: tuple[str, ...], exit_code: int
) -> None:
    """Also if the command changed nothing, or was refused."""
    add(remote.jobs, "job", "running")
    cli.ok("sync")
    cli.ok("update", "job", "failed", MOPS_JOBS_CACHE=f"{cli.cache}.other")
    assert _statuses(cli) == {"job": "running"}
    assert cli(*argv).code == exit_code
    assert _statuses(cli) == {"job": "failed"}


def test_a_row_never_goes_back_for_a_reader_that_was_slow(cli: Cli, remote: Remote) -> None:
    """A record that was read before a sync, and reaches the cache after it, does not replace a newer row."""
    add(remote.jobs, "job", "running")
    cli.ok("sync")
    remote.jobs.update_progress("job", 1)
    earlier = remote.store.get

    def slow_get(name: str) -> object:
        found = earlier(name)
        if name == key("job"):
            remote.store.get = earlier  # type: ignore[method-assign]
            remote.jobs.update_status("job", "failed")
            cli.ok("sync", "-q")
        return found

    remote.store.get = slow_get  # type: ignore[method-assign, assignment]
    assert cli("wait", "job", "--timeout", "0s").code == 8
    assert _statuses(cli) == {"job": "failed"}


def test_a_record_of_a_late_clock_is_shown(cli: Cli, remote: Remote) -> None:
    """Another program whose clock is late, and which drops the revision, hides nothing that a command has read."""
    cli.ok("sync")
    cli.ok("register", "job")
    remote.put(
        key("job"), foreign("job", "running", created_at="2026-03-01T12:00:00", updated_at="2026-03-01T11:00:00")
    )
    assert cli("wait", "job", "--timeout", "0s").code == 8
    assert _statuses(cli) == {"job": "running"}


@pytest.mark.parametrize("harm", ["damaged", "locked", "directory"])
def test_a_cache_that_takes_nothing_fails_no_command(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """The command does what it does without a cache."""
    monkeypatch.setattr("mopsjobs.cache.write_through.PATIENCE_SECONDS", 0.1)
    add(remote.jobs, "job", "running")
    cli.ok("sync")
    with contextlib.ExitStack() as stack:
        if harm == "locked":
            holder = stack.enter_context(contextlib.closing(sqlite3.connect(cli.cache, isolation_level=None)))
            holder.execute("BEGIN EXCLUSIVE")
        elif harm == "damaged":
            cli.cache.write_bytes(b"x" * 5000)
        else:
            cli.cache.unlink()
            cli.cache.mkdir()
        ran = cli("update", "job", "failed")
        assert (ran.code, ran.err) == (0, "job: failed\n")
        assert cli("wait", "job").code == 100


def test_a_refresh_shows_what_another_program_wrote(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """A delta does not see it: then the ages of scan and data say so, and `--refresh` and `--max-age` scan."""
    monkeypatch.setattr(mirror, "SMALL_REGISTRY", 0)
    for name in ("a", "b", "c"):
        put(remote.store.inner, key(name), foreign(name))
    for _ in range(3):
        cli.ok("sync")
    for name, flags in (("a", ("--refresh",)), ("b", ("--max-age", "1m"))):
        remote.put(key(name), foreign(name, "failed"))
        cli.clock.advance(minutes=2)
        cli.ok("sync")
        document = cli.ok("list", "--json").json
        assert (document["age_seconds"], document["synced_at"]) == (120, document["generated_at"])
        assert cli.ok("list").err == "3 jobs, synced just now, writes by other programs known up to 2m ago\n"
        assert _statuses(cli)[name] == "running"
        document = cli.ok("list", "--json", *flags).json
        assert {job["job_id"]: job["status"] for job in document["jobs"]}[name] == "failed"
        assert (document["age_seconds"], document["foreign_writes_known_to"]) == (0, document["generated_at"])
        for _ in range(2):
            cli.ok("sync")
