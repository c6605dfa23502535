"""Which jobs may be stuck, in every view: those that the registry shows as silent, and those with a hanging task."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mopsjobs.api.registry import Registry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardForecast, Stragglers
from support.cli import Cli, Remote, add
from support.notify import Hook
from support.web import Web, text_of


def report(cli: Cli, remote: Remote, *, end: float | None = None, late: Stragglers | None = None) -> None:
    """Report 4 of 5 tasks of the job `job`, which should end `end` seconds from now."""
    now = cli.clock.now().timestamp()
    ends = (None, None) if end is None else (now + end / 2, now + end)
    forecast = ShardForecast(*ends, 1, late)
    remote.jobs.report_shard("job", 0, 1, ShardReport(4, 0, forecast=forecast))


def suspects(cli: Cli, web: Web) -> dict[str, Any]:
    """Return what each view has of the job `job`: why it may be stuck, and whether it has an end."""
    [listed] = cli.ok("list", "--json").json["jobs"]
    [line] = [line for line in cli.ok("list", "--jsonl").lines if '"job_id":"job"' in line]
    page, samples = web.ok("/jobs"), cli.ok("metrics").lines
    status = cli.ok("status", "job", "--json").json
    assert status["suspect"] == listed["suspect"]
    assert (f'"suspect":"{status["suspect"]}"' in line) == (status["suspect"] is not None)
    python = [job["job_id"] for job in Registry(cli.app()).jobs(stuck=True)]
    return {
        "status": status["suspect"],
        "text": "suspect" in cli.ok("status", "job").out or "suspect" in cli.ok("list").out,
        "summary": cli.ok("summary", "--json").json["oldest_active"]["suspect"],
        "list --stuck": cli.ids("--stuck"),
        "python": python,
        "metrics": [line for line in samples if line.startswith("mops_jobs_suspect") and not line.endswith(" 0.0")],
        "api": [job["suspect"] for job in web.get("/api/v1/jobs?stuck=true").json["jobs"]],
        "panel": "may be stuck" in text_of(page),
        "row": bool(re.search(r'<tr data-key="job"[^>]*faulty', page)),
        "search": "job" in web.ids("/jobs?stuck=true"),
        "eta": status["eta_latest"] is not None,
        "next done": "Next done" in text_of(page),
    }


NOT_ACCUSED = {
    "status": None, "text": False, "summary": None, "list --stuck": [], "python": [], "metrics": [], "api": [],
    "panel": False, "row": False, "search": False,
}  # fmt: skip


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return the page over a job that runs."""
    cli.ok("sync", "-q")
    add(remote.jobs, "job", "running", tasks_total=5)
    return Web(cli, capsys)


def test_no_view_accuses_a_job_while_the_registry_is_away(cli: Cli, remote: Remote, web: Web, hook: Hook) -> None:
    """Its runner is as silent as it was when the registry was read last, and its end is still ahead."""
    report(cli, remote, end=36_000)
    cli.ok("sync", "-q")
    remote.store.down = True
    cli.clock.advance(hours=5)
    assert cli("sync", "-q").code == 5
    assert suspects(cli, web) == {**NOT_ACCUSED, "eta": True, "next done": True}
    assert hook.received == []
    assert "running (unknown since 5h)" in cli.ok("status", "job").out
    assert "1 running unknown since 5h" in text_of(web.ok("/jobs"))
    page = web.ok("/jobs/job")
    assert "unknown since 5h" in text_of(page)
    assert re.search(r"\)\s+<span class=\"stale\">unknown", page)
    assert "synced 5h ago, the last sync failed, stale" in cli.ok("list").err


def test_a_silence_that_the_registry_shows_is_told(cli: Cli, remote: Remote, web: Web, hook: Hook) -> None:
    """By the next sync that reads it. After that, the silence does not grow while the registry is away."""
    report(cli, remote, end=36_000)
    cli.clock.advance(seconds=90)
    cli.ok("sync", "-q")
    told = {
        "status": "no_update", "text": True, "summary": "no_update", "list --stuck": ["job"], "python": ["job"],
        "metrics": ['mops_jobs_suspect{reason="no_update"} 1.0'], "api": ["no_update"], "panel": True, "row": True,
        "search": True, "eta": False, "next done": False,
    }  # fmt: skip
    assert suspects(cli, web) == told
    assert hook.titles == ["job may be stuck: no_update"]
    remote.store.down = True
    cli.clock.advance(hours=5)
    assert suspects(cli, web) == told
    assert "no sign of life for 1m" in text_of(web.ok("/jobs"))
    remote.store.down = False
    report(cli, remote, end=36_000)
    cli.ok("sync", "-q")
    assert suspects(cli, web) == {**NOT_ACCUSED, "eta": True, "next done": True}


def test_a_task_that_hangs_is_told_by_every_view(cli: Cli, remote: Remote, web: Web, hook: Hook) -> None:
    """Its runner is at work and gives signs of life. No end is told, and nothing suggests a second runner."""
    late = Stragglers(1, 16, cli.clock.now().timestamp() - 900, 1.0)
    report(cli, remote, end=36_000, late=late)
    cli.ok("sync", "-q")
    assert suspects(cli, web) == {
        "status": "task_hangs", "text": True, "summary": "task_hangs", "list --stuck": ["job"], "python": ["job"],
        "metrics": ['mops_jobs_suspect{reason="task_hangs"} 1.0'], "api": ["task_hangs"], "panel": True, "row": True,
        "search": True, "eta": False, "next done": False,
    }  # fmt: skip
    said = "task 16: at work for 15m; 95 % of the finished tasks took at most 1s"
    assert hook.titles == [f"job may be stuck: {said}"]
    assert said in text_of(web.ok("/jobs"))
    assert said in text_of(web.ok("/jobs/job"))
    status = cli.ok("status", "job")
    assert said in status.out
    assert "Next: mops-jobs logs job --task 16" in status.err
    waited = cli("wait", "job", "--timeout", "1s")
    assert (waited.code, f"warning: job: {said}. To see its log: mops-jobs logs job --task 16" in waited.err) == (
        8,
        True,
    )
    report(cli, remote, end=60)
    cli.ok("sync", "-q")
    assert suspects(cli, web) == {**NOT_ACCUSED, "eta": True, "next done": True}


def test_a_marked_job_has_no_end(cli: Cli, remote: Remote, web: Web) -> None:
    """As one whose pod is gone: its forecast feeds neither its row nor what is done next."""
    report(cli, remote, end=600)
    remote.jobs.update_fields("job", metadata={"suspect": {"reason": "pod_gone"}})
    cli.ok("sync", "-q")
    found = suspects(cli, web)
    assert (found["status"], found["eta"], found["next done"]) == ("pod_gone", False, False)
    assert "Done" not in cli.ok("status", "job").out
