"""Notifications by many processes at once, and by processes that are killed between the message and its mark."""

from __future__ import annotations

import os
import signal

from mopsjobs.app.following.notify import claims
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.utils.times import utc_now
from support.cli import Cli, Spawn, add
from support.notify import Hook
from support.runs import PATIENCE, until

WATCHERS = 16


def test_sixteen_watchers_of_one_end_send_one_message(cli: Cli, jobs: JobRegistry, hook: Hook, spawn: Spawn) -> None:
    """Each is a process with a cache of its own, as on sixteen machines; all wait, and see the end at once."""
    cli.clock.moment = utc_now()  # as in the other processes
    add(jobs, "job", "running")
    caches = [str(cli.cache.with_name(f"cache-{number}.db")) for number in range(WATCHERS)]
    watchers = [spawn("wait", "job", "--interval", "1s", MOPS_JOBS_CACHE=cache) for cache in caches]
    for watcher in watchers:
        assert watcher.stderr is not None
        until(
            lambda stream=watcher.stderr: "job: running" in stream.readline(),
            "the watcher to have read the job",
            watcher,
        )
    jobs.update_status("job", "succeeded")
    assert [watcher.wait(PATIENCE) for watcher in watchers] == [0] * WATCHERS
    assert hook.titles == ["job is succeeded"]
    [key] = jobs.store.list_keys(claims.PREFIX)
    assert b'"sent"' in jobs.store.get(key).value  # type: ignore[union-attr]


def test_a_sender_killed_before_its_mark_is_followed_by_one(
    cli: Cli, jobs: JobRegistry, hook: Hook, spawn: Spawn
) -> None:
    """The message had arrived, which nothing knows: so it comes again, after the lease and at most once."""
    cli.clock.moment = utc_now()
    add(jobs, "job", "running")
    cli.ok("sync")
    hook.hangs = True
    sender = spawn("wait", "job", "--interval", "1s", MOPS_JOBS_CACHE=str(cli.cache.with_name("other.db")))
    jobs.update_status("job", "succeeded")
    assert hook.holds.wait(PATIENCE)
    os.kill(sender.pid, signal.SIGKILL)
    sender.wait(PATIENCE)
    hook.hangs = False
    cli.clock.moment = utc_now()
    cli.ok("sync")
    assert len(hook.received) == 1, "the sender may be at it"
    cli.clock.moment += claims.LEASE
    for _ in range(3):
        cli.ok("sync")
        cli.clock.moment += claims.LEASE
    assert hook.titles == ["job is succeeded"] * 2
