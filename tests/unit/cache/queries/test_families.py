"""Families of jobs in the cache: members, the newest of them, and the sum of their tasks."""

from __future__ import annotations

import pytest

from mopsjobs.cache.queries import families
from mopsjobs.cache.queries.families import Member
from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, add
from support.existing import existing

NIGHTLY = (
    Member("nightly", None, "partial", 14, 9, 0, 1.0),
    Member("nightly.2", "nightly", "failed", 5, 0, 0, 2.0),
    Member("nightly.3", "nightly.2", "failed", 5, 2, 0, 3.0),
)


def test_the_sum_is_what_the_newest_job_leaves_undone() -> None:
    """A child has the tasks that its parent lacked: of 14 tasks, the third job still lacks 3."""
    family = existing(families.make_family("nightly.2", NIGHTLY))
    assert (family.tasks_completed, family.tasks_total) == (11, 14)
    assert (family.newest, family.children) == ("nightly.3", ("nightly.3",))


def test_a_job_alone_has_no_family() -> None:
    assert families.make_family("nightly", NIGHTLY[:1]) is None


@pytest.mark.parametrize("status", ["running", "partial", "succeeded"])
def test_all_tasks_are_done_if_a_child_only_reduces(status: str) -> None:
    """Such a child has no tasks, and neither has a child of it."""
    done = NIGHTLY[1]._replace(status="partial", tasks_completed=5)
    reducing = (
        Member("nightly.3", "nightly.2", "partial", 0, 0, 0, 3.0),
        Member("nightly.4", "nightly.3", status, 0, 0, 0, 4.0),
    )
    for members in ((NIGHTLY[0], done, reducing[0]), (NIGHTLY[0], done, *reducing)):
        family = existing(families.make_family("nightly.3", members))
        assert (family.tasks_completed, family.tasks_total) == (14, 14)


def test_tasks_that_a_child_leaves_to_a_later_resume_are_undone() -> None:
    """Of the five tasks that its parent lacked, the child has run two, and leaves three."""
    child = Member("nightly.2", "nightly", "partial", 2, 2, 3, 2.0)
    family = existing(families.make_family("nightly.2", (NIGHTLY[0], child)))
    assert (family.tasks_completed, family.tasks_total) == (11, 14)


def test_the_newest_has_no_child_whatever_the_clocks_say() -> None:
    """A child whose machine's clock was behind its parent's still continues the parent."""
    early = NIGHTLY[2]._replace(created=0.5)
    assert existing(families.make_family("nightly", (*NIGHTLY[:2], early))).newest == "nightly.3"


@pytest.mark.parametrize(
    "members",
    [
        NIGHTLY[1:],
        (NIGHTLY[0]._replace(tasks_total=0), *NIGHTLY[1:]),
        (*NIGHTLY[:2], NIGHTLY[2]._replace(tasks_total=0)),
        (NIGHTLY[0]._replace(parent_job_id="nightly.3"), *NIGHTLY[1:]),
    ],
    ids=["first job missing", "total unknown", "total of the newest unknown", "descends from itself"],
)
def test_a_sum_that_is_unknown_is_none(members: tuple[Member, ...]) -> None:
    assert existing(families.make_family("nightly.2", members)).tasks_completed is None


def test_a_family_is_found_from_each_of_its_members(cli: Cli, jobs: JobRegistry) -> None:
    """Parents stand before their children, also if another program gave a child its id; strangers stay out."""
    for job_id, parent in (("b", None), ("a", "b"), ("c", "b"), ("d", "a"), ("b.2", None)):
        add(jobs, job_id, parent_job_id=parent)
        cli.clock.advance(seconds=1)
    cli.ok("list")
    for job_id in ("b", "a", "c", "d"):
        members = cli.app().cache.read_cached(lambda cache, job_id=job_id: families.read_members(cache, job_id))
        assert members is not None
        assert [member.job_id for member in members] == ["b", "a", "c", "d"]


def test_a_family_that_descends_from_itself_ends(cli: Cli, jobs: JobRegistry) -> None:
    for job_id, parent in (("a", "c"), ("b", "a"), ("c", "b")):
        add(jobs, job_id, parent_job_id=parent)
    cli.ok("list")
    members = existing(cli.app().cache.read_cached(lambda cache: families.read_members(cache, "a")))
    assert {member.job_id for member in members} == {"a", "b", "c"}


def test_no_search_reads_the_whole_table(cli: Cli) -> None:
    """Children are found by an index."""
    cli.ok("list")
    plan = existing(
        cli.app().cache.read_cached(
            lambda cache: cache.execute(f"EXPLAIN QUERY PLAN {families._MEMBERS}", ("a", 9)).fetchall()
        )
    )
    steps = [row[-1] for row in plan]
    assert any("idx_job_parent" in step for step in steps)
    assert not any(step.startswith("SCAN job") for step in steps)
