"""`status`, `list`, `wait`, `summary` and `metrics` tell when a job should end, and what its tasks used."""

from __future__ import annotations

import json

import pytest

from mopsjobs.api.live_view import html_of
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardForecast, ShardUsage, Stragglers
from support.cli import Cli, Remote, add
from support.web import Web

USED = ShardUsage(5400.0, 6000.0, 7200.0, 300 * 2**20)


def _report(
    cli: Cli, remote: Remote, job_id: str, *, late: bool = False, usage: ShardUsage = USED, **more: bool
) -> None:
    """Report one shard, which should end in 20 to 50 minutes."""
    now = cli.clock.now().timestamp()
    stragglers = Stragglers(2, 17, now - 900, 110.0) if late else None
    forecast = ShardForecast(now + 1200, now + 3000, 8, stragglers)
    remote.jobs.report_shard(job_id, 0, 1, ShardReport(318, 2, usage=usage, forecast=forecast, **more))


@pytest.fixture
def job(cli: Cli, remote: Remote) -> Remote:
    """Report a job that runs."""
    add(remote.jobs, "a", "running", owner="ada", labels={"team": "red"}, tasks_total=1000)
    _report(cli, remote, "a", late=True)
    cli.ok("sync", "-q")
    return remote


@pytest.mark.usefixtures("job")
def test_status_tells_when_a_job_should_end(cli: Cli) -> None:
    """As a range, with the tasks that it follows from; then stragglers, and what the tasks used."""
    lines = cli.ok("status", "a").out.splitlines()
    assert [line for line in lines if line.startswith(("Done", "Stragglers", "Used"))] == [
        "Done       in 20m to 50m, 12:20 to 12:50 UTC (320 of 1,000 tasks ended, 8 at work)",
        "Stragglers task 17, of 2 such tasks: at work for 15m; 95 % of the finished tasks took at most 1m 50s",
        "Used       CPU 1h 30m of 2h held (75 %), tasks 1h 40m, peak memory 300 MiB",
    ]
    cli.clock.advance(hours=0, seconds=30)
    later = cli.ok("status", "a", "--json").json
    assert (later["eta_earliest"], later["eta_latest"]) == ("2026-03-01T12:20:00Z", "2026-03-01T12:50:00Z")
    assert later["eta_basis"] == {"tasks_done": 320, "at_work": 8}
    assert later["stragglers"] == {
        "tasks": 2, "oldest": 17, "since": "2026-03-01T11:45:00Z", "usual_seconds": 110.0, "seconds": 900.0,
    }  # fmt: skip
    used = ("cpu_seconds", "task_seconds", "held_core_seconds", "cpu_efficiency", "max_rss_bytes")
    assert [later[name] for name in used] == [5400.0, 6000.0, 7200.0, 0.75, 300 * 2**20]


def test_a_silent_runner_has_no_end(cli: Cli, job: Remote) -> None:
    """Nor has a job that has ended, or one whose range has passed. What it used stays."""
    silent = ("eta_earliest", "eta_latest", "eta_basis", "stragglers", "time_limit_at")
    cli.clock.advance(seconds=61)
    cli.ok("sync", "-q")
    found = cli.ok("status", "a", "--json").json
    assert found["suspect"] == "no_update"
    assert [found[name] for name in silent] == [None] * 5
    assert "Done" not in cli.ok("status", "a").out
    _report(cli, job, "a")
    cli.ok("sync", "-q")
    assert cli.ok("status", "a", "--json").json["eta_latest"] is not None
    job.jobs.update_status("a", "cancelled")
    cli.ok("sync", "-q")
    ended = cli.ok("status", "a", "--json").json
    assert [ended[name] for name in silent] == [None] * 5
    assert ended["cpu_seconds"] == 5400.0


def test_a_range_that_has_passed_is_not_shown(cli: Cli, remote: Remote) -> None:
    """The runner reports at least every 30 s. In between, its range may pass."""
    add(remote.jobs, "a", "running", tasks_total=10)
    now = cli.clock.now().timestamp()
    remote.jobs.report_shard("a", 0, 1, ShardReport(9, 0, forecast=ShardForecast(now + 5, now + 20, 1)))
    cli.ok("sync", "-q")
    cli.clock.advance(seconds=10)
    found = cli.ok("status", "a", "--json").json
    assert (found["eta_earliest"], found["eta_latest"]) == ("2026-03-01T12:00:10Z", "2026-03-01T12:00:20Z")
    cli.clock.advance(seconds=11)
    assert cli.ok("status", "a", "--json").json["eta_latest"] is None


def test_each_view_tells_that_a_time_limit_comes_first(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to type, as long as the limit is ahead. `wait` warns once."""
    web = Web(cli, capsys)
    add(remote.jobs, "a", "running", tasks_total=1000)
    now = cli.clock.now().timestamp()
    forecast = ShardForecast(None, None, 8, time_limit=now + 20)
    remote.jobs.report_shard("a", 0, 1, ShardReport(318, 0, forecast=forecast))
    cli.ok("sync", "-q")
    text = "will not finish before its time limit in 20s. Then run what is missing: mops-jobs resume a --time MINUTES"
    assert f"Done       {text}" in cli.ok("status", "a").lines
    assert f"a: {text}" in cli.ok("list").err.splitlines()
    assert text in web.ok("/jobs")
    assert text in web.ok("/jobs/a")
    assert text in html_of(cli.ok("status", "a", "--json").json, cli.app(), "live")
    found = cli.ok("status", "a", "--json").json
    assert (found["time_limit_at"], found["eta_latest"]) == ("2026-03-01T12:00:20Z", None)
    assert cli.ok("list", "--json").json["jobs"] == [found]
    ran = cli("wait", "a", "--timeout", "20s")
    assert ran.err.count(f"a: {text}") == ran.err.count("time limit") == 1
    assert cli.ok("status", "a", "--json").json["time_limit_at"] is None
    assert "time limit" not in cli.ok("list").err + cli.ok("status", "a").out


@pytest.mark.usefixtures("job")
def test_list_has_these_fields_in_all_its_forms(cli: Cli) -> None:
    """On request in a table, and in JSON; the copied text of a row equals what `status` makes of it."""
    assert cli.ok("list", "--fields", "job_id,eta_latest,cpu_seconds,cpu_efficiency").out.split() == [
        "job_id", "eta_latest", "cpu_seconds", "cpu_efficiency", "a", "2026-03-01T12:50:00Z", "5400.0", "0.75",
    ]  # fmt: skip
    assert cli.ok("list", "--json").json["jobs"] == [cli.ok("status", "a", "--json").json]
    rows = cli.ok("query", "SELECT cpu_seconds, max_rss_bytes FROM jobs", "--json").json["rows"]
    assert rows == [{"cpu_seconds": 5400.0, "max_rss_bytes": 300 * 2**20}]


def test_wait_tells_the_range_with_each_change(cli: Cli, job: Remote) -> None:
    """In a pipe too, where there is no line about progress."""

    def world(count: int) -> None:
        if count == 1:
            _report(cli, job, "a", usage=USED._replace(cpu_seconds=6000.0))
            job.jobs.report_shard("a", 0, 1, ShardReport(400, 2))
        else:
            job.jobs.update_status("a", "cancelled")

    cli.clock.on_sleep = world
    ran = cli("wait", "a")
    assert ran.err.splitlines()[:2] == [
        "a: running, 318/1,000 tasks, 20m to 50m left",
        "a: running, 400/1,000 tasks",
    ]


def test_summary_sums_up_by_owner_day_and_label(cli: Cli, job: Remote) -> None:
    """Over the jobs that tell what they used; the peak is the largest one. Others are not counted."""
    add(job.jobs, "b", "running", owner="bob", labels={"team": "blue"}, tasks_total=1000)
    add(job.jobs, "c", "running", owner="bob", tasks_total=1000)
    add(job.jobs, "d", "running", owner="bob", labels={"team": "red"})
    _report(cli, job, "b", usage=ShardUsage(None, 60.0, 60.0, None))
    cli.clock.advance(hours=24)
    _report(cli, job, "c", usage=ShardUsage(600.0, 600.0, 600.0, 2**30))
    cli.ok("sync", "-q")
    both = {"cpu_seconds": 6000.0, "task_seconds": 6660.0, "held_core_seconds": 7860.0, "max_rss_bytes": 2**30}
    found = cli.ok("summary", "--json").json
    assert found["usage"] == {"jobs": 3, **both, "cpu_efficiency": 0.7692}
    assert found["usage_by"] is None
    by = {}
    for name in ("owner", "day", "label:team"):
        found = cli.ok("summary", "--json", "--by", name).json["usage_by"]
        assert found["by"] == name
        by[name] = {one["group"]: (one["jobs"], one["cpu_seconds"], one["cpu_efficiency"]) for one in found["groups"]}
    assert by["owner"] == {"ada": (1, 5400.0, 0.75), "bob": (2, 600.0, 1.0)}
    assert by["day"] == {"2026-03-01": (3, 6000.0, 0.7692)}
    assert by["label:team"] == {"red": (1, 5400.0, 0.75), None: (1, 600.0, 1.0), "blue": (1, None, None)}
    table = cli.ok("summary", "--by", "label:team", "--owner", "ada").out
    assert table.splitlines()[-2:] == [
        "TEAM  JOBS  CPU     TASKS   HELD  EFFICIENCY  PEAK MEMORY",
        "red   1     1h 30m  1h 40m  2h    75 %        300 MiB",
    ]
    assert "Used         CPU 1h 30m of 2h held (75 %)" in table


@pytest.mark.parametrize("by", ["", "label:", "labels:a", "status"])
def test_summary_by_something_else_is_refused(cli: Cli, by: str) -> None:
    """With the groups that there are."""
    ran = cli("summary", "--by", by)
    assert ran.code == 2
    assert f"invalid --by '{by}': expected one of owner, day, label:KEY." in ran.err


def test_metrics_count_what_ended_jobs_used(cli: Cli, job: Remote) -> None:
    """Once, when a job ends."""

    def counted() -> dict[str, float]:
        lines = cli.ok("metrics").out.splitlines()
        return {
            line.split("{")[0]: float(line.split()[-1]) for line in lines if '_seconds_total{status="failed"}' in line
        }

    assert set(counted().values()) == {0.0}
    for _ in range(2):
        job.jobs.update_status("a", "failed")
        cli.ok("sync", "-q")
        assert counted() == {
            "mops_job_cpu_seconds_total": 5400.0,
            "mops_job_task_seconds_total": 6000.0,
            "mops_job_held_core_seconds_total": 7200.0,
        }


def test_the_family_has_the_sum_of_its_jobs(cli: Cli, job: Remote) -> None:
    """In text and in JSON."""
    add(job.jobs, "b", "running", parent_job_id="a", tasks_total=680)
    _report(cli, job, "b")
    cli.ok("sync", "-q")
    found = cli.ok("status", "b", "--json").json["family"]
    assert found["usage"]["cpu_seconds"] == 10800.0
    assert found["usage"]["max_rss_bytes"] == 300 * 2**20
    family = next(line for line in cli.ok("status", "b").out.splitlines() if line.startswith("Family"))
    assert family.endswith("in 2 jobs, CPU 3h of 4h held (75 %), tasks 3h 20m, peak memory 300 MiB")


def test_a_record_with_odd_values_is_listed(cli: Cli, remote: Remote) -> None:
    """`doctor` names them, and the job has no forecast."""
    add(remote.jobs, "a", "running", tasks_total=10)
    key = "jobs/a/state.json"
    entry = remote.store.inner.get(key)  # type: ignore[union-attr]
    assert entry is not None
    record = {**json.loads(entry.value), "usage": {"0": "much"}, "forecast": {"0": [1, 2]}}
    remote.put(key, json.dumps(record))
    cli.ok("sync", "-q")
    found = cli.ok("status", "a", "--json").json
    assert (found["usage"], found["forecast"], found["cpu_seconds"], found["eta_latest"]) == ({}, {}, None, None)
