"""`status` of a job that was resumed, or continues another one: the family, its sum, and advice on the newest of it."""

from __future__ import annotations

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add


def _add_family(cli: Cli, jobs: JobRegistry, newest: str = "failed") -> None:
    """Add `nightly-1` with 14 tasks, of which 9 were done, and the two jobs that it was resumed as."""
    bundle = {"bundle": "sha256:0"}
    add(jobs, "nightly-1", "running", tasks_total=14, metadata=bundle)
    jobs.update_progress("nightly-1", 9, tasks_failed=5)
    jobs.update_status("nightly-1", "partial")
    for number, parent, status in ((2, "nightly-1", "failed"), (3, "nightly-1.2", newest)):
        cli.clock.advance(minutes=1)
        add(jobs, f"nightly-1.{number}", status, tasks_total=5, metadata=bundle, parent_job_id=parent)


def test_each_job_shows_its_family_and_the_sum_of_it(cli: Cli, jobs: JobRegistry) -> None:
    """The third job did none of its five tasks; the family has 9 of 14."""
    _add_family(cli, jobs)
    members = [
        "  nightly-1  partial, 9/14 tasks",
        "  nightly-1.2  failed, 0/5 tasks",
        "  nightly-1.3  failed, 0/5 tasks",
    ]
    family = "Family     [###############---------] 9/14 tasks, 64 %, in 3 jobs"
    for name, relatives in (
        ("nightly-1", ["Children   nightly-1.2"]),
        ("nightly-1.2", ["Parent     nightly-1", "Children   nightly-1.3"]),
        ("nightly-1.3", ["Parent     nightly-1.2"]),
    ):
        lines = cli.ok("status", name).lines
        begin = lines.index(relatives[0])
        assert lines[begin : begin + len(relatives) + 4] == [*relatives, family, *members]


def test_the_json_of_a_member_has_its_family(cli: Cli, jobs: JobRegistry) -> None:
    """The cache and the registry give the same; a job alone has no such field."""
    _add_family(cli, jobs)
    add(jobs, "alone", "failed")
    family = cli.ok("status", "nightly-1.2", "--json").json["family"]
    assert {name: family[name] for name in ("tasks_total", "tasks_completed", "newest", "children")} == {
        "tasks_total": 14,
        "tasks_completed": 9,
        "newest": "nightly-1.3",
        "children": ["nightly-1.3"],
    }
    assert family["jobs"][1] == {
        "job_id": "nightly-1.2",
        "parent_job_id": "nightly-1",
        "status": "failed",
        "tasks_total": 5,
        "tasks_completed": 0,
    }
    assert "family" not in cli.ok("status", "alone", "--json").json


@pytest.mark.parametrize(
    ("newest", "command"),
    [("failed", "resume nightly-1.3"), ("running", "wait nightly-1.3")],
    ids=["failed", "running"],
)
def test_a_resumed_job_advises_what_its_newest_child_needs(
    cli: Cli, jobs: JobRegistry, newest: str, command: str
) -> None:
    """`resume` of a job that was resumed before is refused, so it is never advised."""
    _add_family(cli, jobs, newest)
    for name in ("nightly-1", "nightly-1.2", "nightly-1.3"):
        assert f"Next: mops-jobs {command}\n" in cli.ok("status", name).err


def test_a_refresh_finds_children_that_the_cache_lacks(cli: Cli, remote: Remote) -> None:
    """Another machine has resumed the job since the last sync: the registry knows its children, by their ids."""
    _add_family(cli, remote.jobs)
    cli.ok("sync")
    remote.jobs.register_job("nightly-1.4", parent_job_id="nightly-1.3", tasks_total=5, metadata={"bundle": "sha256:0"})
    ran = cli.ok("status", "nightly-1", "--refresh")
    assert "Next: mops-jobs wait nightly-1.4\n" in ran.err
    assert "  nightly-1.4  pending, 0/5 tasks" in ran.lines


@pytest.mark.parametrize("name", ["night", "nightly-1."])
def test_a_prefix_of_one_family_means_its_newest_job(cli: Cli, jobs: JobRegistry, name: str) -> None:
    """It stays usable after a resume, and a note names the job; the full id of the first job still means that."""
    _add_family(cli, jobs)
    ran = cli.ok("status", name)
    assert ran.lines[0].split() == ["Job", "nightly-1.3"]
    assert f"{name} is short for nightly-1.3, the newest of its family\n" in ran.err
    assert cli.ok("status", "nightly-1", "--json").json["job_id"] == "nightly-1"
    ran = cli("wait", name)
    assert (ran.code, ran.err.splitlines()[0]) == (100, f"{name} is short for nightly-1.3, the newest of its family")
    for argv in (("events", name), ("logs", name)):
        assert f"{name} is short for nightly-1.3, the newest of its family\n" in cli.ok(*argv).err
    assert f"{name} is short for nightly-1.3, the newest of its family\n" in cli("results", name).err
    ran = cli("validate", name)
    assert (ran.code, ran.err.splitlines()[0]) == (3, f"error: Job {name} not found.")


def test_a_prefix_of_a_family_and_a_stranger_is_refused(cli: Cli, jobs: JobRegistry) -> None:
    _add_family(cli, jobs)
    add(jobs, "nightly-2")
    ran = cli("status", "nightly")
    assert (ran.code, ran.out) == (3, "")
    assert "nightly-1, nightly-1.2, nightly-1.3, nightly-2" in ran.err
