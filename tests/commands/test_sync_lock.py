"""`sync` beside another sync: the second one says what the first does, and for how long."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import jsonschema
import pytest
from filelock import FileLock

from mopsjobs.cache.sync.lock import sync_lock
from support.cli import Cli, Remote, foreign, key


def test_a_second_sync_at_the_same_time_says_so(cli: Cli, remote: Remote) -> None:
    """While another sync has the cache, `sync` ends at once with 0, in words or in JSON."""
    unknown = {"running_since": None, "running_pid": None, "progress_at": None, "stalled": False}
    with FileLock(f"{cli.cache}.lock"):
        ran = cli.ok("sync")
        assert (ran.out, ran.err) == ("", "Another sync is running; nothing to do.\n")
        assert cli.ok("sync", "-q")[1:] == ("", "")
        assert cli.ok("sync", "--json").json == {"schema_version": 1, "already_running": True, **unknown}
    assert remote.store.calls["scan"] == 0


def test_a_sync_at_work_is_told_with_its_age(cli: Cli, remote: Remote) -> None:
    """Since when it runs, and its process; `-q` says nothing, `doctor` counts it as well."""
    cli.ok("sync")
    with sync_lock(str(cli.cache), 0, cli.clock.now):
        cli.clock.advance(seconds=125)
        told = f"is running for 2m 5s (process {os.getpid()})"
        assert cli.ok("sync").err == f"Another sync {told}; nothing to do.\n"
        assert cli.ok("sync", "-q")[1:] == ("", "")
        assert _sync_check(cli) == {"name": "sync", "state": "ok", "detail": f"a sync {told}", "fix": None}
    assert _sync_check(cli) is None
    assert cli.ok("sync").lines
    assert remote.store.calls["scan"] > 0


def test_a_sync_without_progress_is_warned_of(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes after its last progress each other sync warns, also with `-q`, and ends with 0 as ever."""
    monkeypatch.setattr("mopsjobs.app.run.cache_access.MAX_LOCK_WAIT", 0.0)
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    with sync_lock(str(cli.cache), 0, cli.clock.now) as progressed:
        assert progressed is not None
        cli.clock.advance(hours=1)
        progressed()
        cli.clock.advance(seconds=599)
        assert cli.ok("sync", "-q")[1:] == ("", "")
        cli.clock.advance(seconds=1)
        told = f"is running for 1h 10m (process {os.getpid()}), without progress for 10m"
        fix = f"continue it (kill -CONT {os.getpid()}), or end it (kill -KILL {os.getpid()})"
        warning = f"warning: Another sync {told}; the cache is not updated. To go on, {fix}.\n"
        assert cli.ok("sync", "-q")[1:] == ("", warning)
        document = cli.ok("sync", "--json", "-q").json
        assert document == {
            "schema_version": 1,
            "already_running": True,
            "running_since": "2026-03-01T12:00:00Z",
            "running_pid": os.getpid(),
            "progress_at": "2026-03-01T13:00:00Z",
            "stalled": True,
        }
        jsonschema.Draft202012Validator(cli.ok("schema", "sync").json).validate(document)
        detail = f"a sync {told}; no other sync can start"
        assert _sync_check(cli) == {"name": "sync", "state": "warn", "detail": detail, "fix": fix}
        ran = cli("list", "--refresh", "-q")
        assert f"Another sync {told}." in ran.err
    assert cli.ok("sync", "-q")[1:] == ("", "")


def test_what_a_killed_sync_left_is_told_of_no_other(cli: Cli, remote: Remote) -> None:
    """The note of a process that is gone says nothing of the one that holds the lock now, and has no note yet."""
    remote.put(key("a"), foreign("a"))
    cli.ok("sync")
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(f"{cli.cache}.lock").write_text(f'{{"pid": {gone.pid}, "since": "2026-02-01T00:00:00Z"}}')
    assert _sync_check(cli) is None
    with FileLock(f"{cli.cache}.lock"):
        assert cli.ok("sync").err == "Another sync is running; nothing to do.\n"
    assert cli.ok("sync", "-q")[1:] == ("", "")


def _sync_check(cli: Cli) -> dict[str, str | None] | None:
    return next((check for check in cli("doctor", "--json").json["checks"] if check["name"] == "sync"), None)
