"""A long life leaves nothing behind that grows: 42 simulated hours of jobs, with a sync and a prune in each."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
from contextlib import closing

import pytest

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.web.site.site import MAX_IDLE
from support.cli import Cli, add
from support.web import Web

WARM, HOURS = range(27, 30), range(39, 42)
"""Announcements are kept for a day. The latter hours are compared with the former."""
PAGES = ("/jobs", "/charts", "/metrics", "/api/v1/jobs?limit=50", "/api/v1/events", "/jobs/job-30")
TABLES = ("job", "job_label", "event", "event_chunk", "problem", "meta")


@pytest.mark.skipif(sys.platform != "linux", reason="Open files are counted as Linux tells them.")
def test_hours_of_syncs_prunes_and_pages_leave_nothing_behind(
    cli: Cli, jobs: JobRegistry, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file and no thread, no row, no announcement and no event more than half a day before, and as many objects.

    All commands run in this process, so what one of them leaves open or keeps is there in the end. No job is lost.
    """
    for name, value in (("SMALL_REGISTRY", 0), ("MAX_SHARE_READ", 2)):  # deltas, though there are few jobs
        monkeypatch.setattr(f"mopsjobs.cache.sync.mirror.{name}", value)
    web = Web(cli, capsys)
    hours: dict[int, dict[str, int]] = {}
    modes = set()
    for hour in range(HOURS.stop):
        job_id = f"job-{hour}"
        add(jobs, job_id, "running", labels={"exp": "1"})
        for number in range(3):
            record_event(jobs.store, job_id, "log", now=cli.clock.now, text=f"line {number}")
        if hour:
            jobs.finalize_job(f"job-{hour - 1}", "succeeded")
        cli.clock.advance(minutes=55)
        modes.add(cli.ok("sync", "--json").json["mode"])
        cli.clock.advance(minutes=5)
        cli.ok("list", "--json")
        for path in PAGES if hour % 3 == 0 else ():
            web.get(path)
        cli.ok("prune", "--store", "--older-than", "2h", "--yes", "-q")
        cli.ok("prune", "--older-than", "2h", "--yes", "-q")
        if hour in (*WARM, *HOURS):  # each look collects the garbage of all tests before
            hours[hour] = _held(cli, jobs)
    assert modes == {"delta", "full"}
    assert len(list(jobs.list_jobs())) == HOURS.stop
    for name in hours[WARM.start]:
        before, after = (max(hours[hour][name] for hour in part) for part in (WARM, HOURS))
        assert before > 0
        # SQLite closes a file of a reader later, while another one reads. Each reader has two.
        more = {"files": 2 * MAX_IDLE, "objects": before // 100}.get(name, 0)
        assert after <= before + more, (name, [held[name] for held in hours.values()])


def _held(cli: Cli, jobs: JobRegistry) -> dict[str, int]:
    """Return what this process, the cache and the store hold."""
    gc.collect()
    with closing(sqlite3.connect(cli.cache)) as cache:
        rows = {name: cache.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES}
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": sys.getallocatedblocks(),
        "announcements": len(list(jobs.store.list_keys("changes/"))),
        "chunks": len(list(jobs.store.list_keys("events/"))),
        "rows": sum(rows.values()),
        "names of chunks": rows["event_chunk"],
    }
