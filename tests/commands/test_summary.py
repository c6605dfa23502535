"""`summary` tells what the jobs come to, by the same filters as `list`."""

from __future__ import annotations

import re

import pytest

from mopsjobs.cache.queries import statistics
from support.cli import Cli, Remote, add, foreign, key


@pytest.fixture
def some(cli: Cli, remote: Remote) -> Remote:
    """Register ten jobs of ada's that waited 1 to 10 minutes and ran 10 to 100. Two failed; one of bob's is at work."""
    for number in range(1, 11):
        name = f"job-{number:02}"
        add(remote.jobs, name, owner="ada", labels={"n": str(number)})
        cli.clock.advance(minutes=number)
        remote.jobs.update_status(name, "running")
        cli.clock.advance(minutes=10 * number)
        remote.jobs.update_status(name, "failed" if number > 8 else "succeeded")
    add(remote.jobs, "cancelled", "cancelled", owner="ada")
    add(remote.jobs, "at-work", "running", owner="bob")
    remote.put(key("theirs"), foreign("theirs", "hibernating"))
    cli.clock.advance(hours=1)
    cli.ok("sync", "-q")
    return remote


def test_times_that_nothing_reported_are_not_counted(cli: Cli, some: Remote) -> None:
    """Neither in the percentiles of `summary`, nor in the histograms of `metrics`."""
    before = cli.ok("summary", "--json").json
    counted = [line for line in cli.ok("metrics").out.splitlines() if line.startswith("mops_job_")]
    some.put(key("foreign"), foreign("foreign", "running"))
    add(some.jobs, "skipped")
    cli.clock.advance(hours=10)
    some.jobs.update_status("foreign", "succeeded")
    some.jobs.update_status("skipped", "succeeded")
    cli.ok("sync", "-q")
    after = cli.ok("summary", "--json").json
    assert after["by_status"]["succeeded"] == before["by_status"]["succeeded"] + 2
    assert (after["queue_seconds"], after["run_seconds"]) == (before["queue_seconds"], before["run_seconds"])
    assert [line for line in cli.ok("metrics").out.splitlines() if line.startswith("mops_job_")] == counted


@pytest.mark.usefixtures("some")
def test_summary_counts(cli: Cli) -> None:
    """By status, owner and day. The failure rate leaves cancelled jobs aside; median and 90 % are of real jobs."""
    found = cli.ok("summary", "--json").json
    assert found["total"] == sum(found["by_status"].values()) == 13
    assert {name: count for name, count in found["by_status"].items() if count} == {
        "succeeded": 8, "failed": 2, "cancelled": 1, "running": 1, "hibernating": 1,
    }  # fmt: skip
    assert found["by_owner"] == [
        {"owner": "ada", "jobs": 11, "active": 0, "failed": 2},
        {"owner": None, "jobs": 1, "active": 1, "failed": 0},
        {"owner": "bob", "jobs": 1, "active": 1, "failed": 0},
    ]
    assert found["failure_rate"] == 0.2
    assert found["run_seconds"] == {"jobs": 10, "median": 3000.0, "p90": 5400.0}
    assert found["queue_seconds"] == {"jobs": 11, "median": 300.0, "p90": 540.0}
    assert found["oldest_active"]["job_id"] == "theirs"
    today = found["by_day"][-1]
    assert (len(found["by_day"]), today["day"]) == (30, "2026-03-01")
    assert {day["created"] for day in found["by_day"][:-1]} == {0}
    assert today == {
        "day": "2026-03-01", "created": 13, "succeeded": 8, "partial": 0, "failed": 2, "cancelled": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize(
    ("flags", "total"),
    [
        (("--owner", "bob"), 1), (("--status", "failed"), 2), (("--label", "n=3"), 1), (("--hours", "2"), 4),
        (("--match", "job-0[12]"), 2), (("--status", "active"), 2), (("--name", "nothing"), 0),
    ],
)  # fmt: skip
def test_summary_takes_the_filters_of_list(cli: Cli, flags: tuple[str, ...], total: int) -> None:
    """For the same filters, it is about the same jobs."""
    found = cli.ok("summary", "--json", *flags).json
    assert found["total"] == cli.ok("list", "--json", *flags).json["total"] == total
    assert sum(one["jobs"] for one in found["by_owner"]) == total


@pytest.mark.usefixtures("some")
def test_in_a_pipe_it_tells_days_as_a_table(cli: Cli) -> None:
    """Text for people without a terminal: numbers, owners, days."""
    ran = cli.ok("summary")
    assert "Failure rate 20.0 % of the jobs that ended" in ran.out
    assert "median 50m, 90 % within 1h 30m (10 jobs)" in ran.out
    assert re.search(r"^ada +11 +0 +2$", ran.out, re.MULTILINE)
    assert re.search(r"^2026-03-01 +13 +8 +0 +2 +1$", ran.out, re.MULTILINE)
    assert ran.err.startswith("Data: synced ")


def test_nothing_is_no_error(cli: Cli) -> None:
    """Without jobs, there is nothing to divide by, and exit code 0."""
    found = cli.ok("summary", "--json").json
    assert (found["total"], found["failure_rate"], found["oldest_active"]) == (0, None, None)
    assert found["run_seconds"] == {"jobs": 0, "median": None, "p90": None}
    assert cli.ok("summary").out.startswith("Jobs         0\nFailure rate n/a (no job has ended)\n")


def test_days_reach_back_thirty_days(cli: Cli, remote: Remote) -> None:
    """A job of 29 days ago is in the first day, one of 30 days ago in none."""
    for name in ("too-old", "oldest"):
        add(remote.jobs, name, "failed")
        cli.clock.advance(days=1)
    cli.clock.advance(days=28)
    cli.ok("sync", "-q")
    days = cli.ok("summary", "--json").json["by_day"]
    assert len(days) == statistics.DAYS
    assert [day["failed"] for day in days] == [1] + [0] * 29
