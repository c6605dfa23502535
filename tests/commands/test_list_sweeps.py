"""Sweeps: jobs with one value of the label `sweep` are one row of a list, and stay single jobs for programs."""

from __future__ import annotations

import json

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, command, environment, foreign, key
from support.terminal import terminal

NIGHT = {"sweep": "night"}


@pytest.fixture
def night(cli: Cli, jobs: JobRegistry) -> None:
    """Register a sweep of four jobs in several states, changed at different times, and two jobs besides."""
    add(jobs, "n-1", "succeeded", owner="ada", labels=NIGHT, tasks_total=10, tasks_completed=10)
    cli.clock.advance(hours=2)
    add(jobs, "alone", "failed", owner="bob")
    add(jobs, "n-2", "failed", owner="ada", labels=NIGHT, tasks_total=10)
    cli.clock.advance(hours=2)
    add(jobs, "n-3", "running", owner="ada", labels=NIGHT, tasks_total=10)
    jobs.update_progress("n-3", tasks_completed=4)
    add(jobs, "n-4", owner="ada", labels=NIGHT)
    cli.clock.advance(hours=1)
    add(jobs, "last", "succeeded", owner="bob")


def rows(cli: Cli, *flags: str) -> list[list[str]]:
    """Return the cells of the table, those of each row in a list."""
    lines = cli.ok("list", *flags).lines
    starts = [lines[0].index(word) for word in lines[0].split()]
    return [
        [line[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)] for line in lines[1:]
    ]


@pytest.mark.usefixtures("night")
def test_a_sweep_is_one_row_with_the_counts_of_its_jobs(cli: Cli) -> None:
    """It stands where the first of its jobs does, has their tasks, and the time from the first to now."""
    found = rows(cli)
    assert [row[0] for row in found] == ["last", "sweep=night", "alone"]
    assert found[1][1:4] == ["1 failed, 1 running, 1 pending, 1 succeeded", "14/30", "ada"]
    assert found[1][4:] == ["2026-03-01T12:00:00Z", "2026-03-01T16:00:00Z", "5h"]
    said = cli.ok("list").err
    assert "6 jobs, " in said
    assert "To see the jobs of a sweep: mops-jobs list --label sweep=night" in said
    assert [row[0] for row in rows(cli, "--sort", "created")] == ["sweep=night", "alone", "last"]


@pytest.mark.usefixtures("night")
def test_programs_and_the_filter_for_a_sweep_see_single_jobs(cli: Cli) -> None:
    """Every form but the table has each job, as if there were no sweeps; so has the table of a sweep itself."""
    every = ["last", "n-3", "n-4", "alone", "n-2", "n-1"]
    assert cli.ids() == every
    document = cli.ok("list", "--json").json
    assert ([job["job_id"] for job in document["jobs"]], document["total"]) == (every, 6)
    for flags in (("--jsonl",), ("--tsv",), ("--csv",), ("--fields", "job_id,labels")):
        assert "n-2" in cli.ok("list", *flags).out
        assert "sweep=night" not in cli.ok("list", *flags).out
    for label in ("sweep=night", "sweep"):
        assert [row[0] for row in rows(cli, "--label", label)] == ["n-3", "n-4", "n-2", "n-1"]


@pytest.mark.usefixtures("night")
def test_filters_choose_jobs_of_a_sweep_and_the_row_says_of_how_many(cli: Cli) -> None:
    """A window or a status that cuts a sweep shows the part that passes. Active jobs pass a window, as anywhere."""
    assert rows(cli, "--status", "failed")[-1][:2] == ["sweep=night", "1 failed of 4 jobs"]
    assert [row[:2] for row in rows(cli, "--hours", "2", "--sort", "name")] == [
        ["last", "succeeded"], ["sweep=night", "1 running, 1 pending of 4 jobs"],
    ]  # fmt: skip
    cli.ok("label", "n-1", "archived=true")
    assert rows(cli)[1][1] == "1 failed, 1 running, 1 pending of 4 jobs"


@pytest.mark.usefixtures("night")
def test_a_limit_counts_rows_and_never_cuts_an_active_sweep(cli: Cli) -> None:
    """A sweep is one of the first rows. The footer counts jobs."""
    assert [row[0] for row in rows(cli, "--limit", "2")] == ["last", "sweep=night"]
    assert "5 of 6 jobs" in cli.ok("list", "--limit", "2").err
    assert [row[0] for row in rows(cli, "--limit", "1")] == ["last", "sweep=night"]
    assert [row[0] for row in rows(cli, "--limit", "1", "--sort", "name")] == ["alone", "sweep=night"]


def test_a_sweep_has_ended_when_its_jobs_have(cli: Cli, jobs: JobRegistry) -> None:
    """Its duration is then fixed. With several owners, it names none."""
    add(jobs, "a", "succeeded", owner="ada", labels=NIGHT)
    cli.clock.advance(minutes=5)
    add(jobs, "b", "partial", owner="bob", labels=NIGHT)
    cli.clock.advance(hours=5)
    (row,) = rows(cli)
    assert (row[1], row[3], row[6]) == ("1 partial, 1 succeeded", "several", "5m")


def test_a_sweep_of_one_job_is_that_job(cli: Cli, jobs: JobRegistry) -> None:
    """Its own row says more. With a second job, it is a sweep; a filter that passes one of them keeps the counts."""
    add(jobs, "a", "succeeded", owner="ada", labels=NIGHT)
    assert rows(cli)[0][:2] == ["a", "succeeded"]
    assert "To see the jobs of a sweep" not in cli.ok("list").err
    add(jobs, "b", "failed", owner="bob", labels=NIGHT)
    assert rows(cli, "--status", "failed")[0][:2] == ["sweep=night", "1 failed of 2 jobs"]


def test_a_resumed_job_counts_once(cli: Cli, jobs: JobRegistry) -> None:
    """As the job that took up its tasks, with those of both. A filter that passes one of them counts that."""
    add(jobs, "a", "partial", labels=NIGHT, tasks_total=10, tasks_completed=6)
    add(jobs, "b", "succeeded", labels=NIGHT, tasks_total=10, tasks_completed=10)
    add(jobs, "a.2", "running", labels=NIGHT, tasks_total=4, tasks_completed=1, parent_job_id="a")
    assert rows(cli)[0][:3] == ["sweep=night", "1 running, 1 succeeded", "17/20"]
    assert rows(cli, "--status", "partial")[0][:3] == ["sweep=night", "1 partial of 2 jobs", "6/10"]
    jobs.update_status("a.2", "cancelled")
    assert rows(cli)[0][:2] == ["sweep=night", "1 partial, 1 cancelled, 1 succeeded"]
    add(jobs, "c", "failed", labels={"sweep": "one"}, tasks_total=5)
    add(jobs, "c.2", "succeeded", labels={"sweep": "one"}, tasks_total=5, tasks_completed=5, parent_job_id="c")
    assert rows(cli, "--sort", "created")[1][:3] == ["sweep=one", "1 succeeded", "5/5"]
    assert "5 jobs, " in cli.ok("list").err


def test_rows_below_a_long_sweep_are_found(cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing does not read all jobs of a sweep to come to the next row, and keeps the order."""
    monkeypatch.setattr("mopsjobs.cache.queries.sweeps.SKIPPED", 1)
    for number, name in enumerate("x-xxx-yy-zzz"):
        add(jobs, f"j-{number:02}", "succeeded", labels={} if name == "-" else {"sweep": name})
        cli.clock.advance(seconds=1)
    expected = ["sweep=z", "j-08", "sweep=y", "j-05", "sweep=x", "j-01"]
    assert [row[0] for row in rows(cli)] == expected
    assert [row[0] for row in rows(cli, "--limit", "5")] == expected[:5]


def test_a_thousand_jobs_are_one_row(cli: Cli, remote: Remote) -> None:
    """A second cache says the same, also offline, and so does the first one after a job has left the sweep."""
    for number in range(1000):
        remote.put(key(f"n-{number:04}"), foreign(f"n-{number:04}", "succeeded", labels=NIGHT, tasks_total=3))
    remote.put(key("other"), foreign("other", "running"))
    cli.ok("sync", "-q")
    other = cli.cache.with_name("second.db")
    cli.ok("sync", "-q", MOPS_JOBS_CACHE=str(other))
    remote.store.down = True
    for cache in (cli.cache, other):
        ran = cli.ok("list", "--offline", MOPS_JOBS_CACHE=str(cache))
        assert sorted(line.split("  ")[0] for line in ran.lines[1:]) == ["other", "sweep=night"]
        assert "1,000 succeeded" in ran.out
        assert "1,001 jobs" in ran.err
    remote.store.down = False
    cli.ok("label", "n-0000", "sweep-")
    assert "999 succeeded" in cli.ok("list").out
    assert "1,000 succeeded" in cli.ok("list", "--offline", MOPS_JOBS_CACHE=str(other)).out


def test_a_foreign_status_and_an_odd_name_are_shown_safely(cli: Cli, remote: Remote) -> None:
    """Another program may write any status, and any label."""
    name = "a b\x1b[31m'"
    remote.put(key("odd"), foreign("odd", "par\x1b[2Jked", labels={"sweep": name}))
    remote.put(key("even"), foreign("even", "succeeded", labels={"sweep": name, "x": "1"}))
    remote.put(key("none"), foreign("none", "succeeded", labels={"sweep": ""}))
    ran = cli.ok("list", "--refresh")
    assert "\x1b" not in ran.out + ran.err
    assert "ked, 1 succeeded" in ran.out
    assert "none" in ran.out


def test_watch_shows_the_same_rows(cli: Cli, jobs: JobRegistry, night: None) -> None:
    """On a terminal, and as the sweep changes. In a pipe, it has each job that changes, as before."""
    with terminal(command("watch", "--interval", "0.1s"), environment(cli, TERM="xterm"), columns=160) as screen:
        screen.until("sweep=night")
        screen.until("1 failed, 1 running, 1 pending, 1 succeeded")
        jobs.update_status("n-3", "succeeded")
        screen.until("1 failed, 1 pending, 2 succeeded")
        assert "n-1" not in screen.told
    cli.clock.on_sleep = lambda _count: (_ for _ in ()).throw(KeyboardInterrupt)
    assert {json.loads(line)["job_id"] for line in cli("watch", "--json").lines} == {"n-4"}
