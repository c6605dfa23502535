"""The jobs with failed tasks that pass a filter, against plain Python over the same jobs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.cache.queries import failures
from mopsjobs.cache.queries.filters import Filter, is_one_of
from mopsjobs.registry.status import TERMINAL, JobStatus


class Job(NamedTuple):
    """A job: how many of its tasks failed, and when it changed."""

    status: str
    tasks_failed: int
    changed: int
    owner: str | None


JOBS = st.lists(
    st.builds(
        Job,
        status=st.sampled_from([*JobStatus, "hibernating"]),
        tasks_failed=st.integers(0, 2),
        changed=st.integers(0, 9),
        owner=st.sampled_from([None, "ada"]),
    ),
    max_size=20,
)


def fill(cache: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Put the jobs into the cache, in place of those that it had."""
    cache.execute("DELETE FROM job")
    cache.executemany(
        "INSERT INTO job (key, job_id, version, generation, status, is_active, owner, created_ts, changed_ts, record)"
        " VALUES (?1, ?1, '', 0, ?2, ?3, ?4, ?5, ?5, ?6)",
        [
            (
                f"{number:02}", job.status, job.status not in TERMINAL, job.owner, job.changed,
                json.dumps({"tasks_failed": job.tasks_failed}),
            )
            for number, job in enumerate(jobs)
        ],
    )  # fmt: skip


@given(jobs=JOBS, since=st.none() | st.integers(0, 9), owner=st.none() | st.just("ada"), limit=st.integers(0, 6))
@settings(max_examples=150)
def test_the_last_changed_jobs_with_failures_are_found(
    cache: sqlite3.Connection, jobs: list[Job], since: int | None, owner: str | None, limit: int
) -> None:
    """Failed and partial ones, and those with failed tasks that were cancelled or go on. All of them are counted."""
    fill(cache, jobs)
    expected = [
        (-job.changed, f"{number:02}")
        for number, job in enumerate(jobs)
        if (job.status in ("failed", "partial") or (job.status != "succeeded" and job.tasks_failed))
        and (since is None or job.changed >= since or job.status not in TERMINAL)
        and (owner is None or job.owner == owner)
    ]
    conditions = () if owner is None else (is_one_of("owner", owner),)
    found = failures.jobs_with_failures(cache, Filter(since=since, conditions=conditions), limit, resumed=True)
    assert found == ([job_id for _, job_id in sorted(expected)][: limit or None], len(expected))


def test_the_first_jobs_with_failures_are_found_in_order(cache: sqlite3.Connection) -> None:
    """Their number comes from indexes alone, and only the first of the jobs are read: an index has the order."""
    statements: list[str] = []
    cache.set_trace_callback(statements.append)
    failures.jobs_with_failures(cache, Filter(), 5, resumed=True)
    cache.set_trace_callback(None)
    plans = {sql: [row[3] for row in cache.execute(f"EXPLAIN QUERY PLAN {sql}")] for sql in statements}
    assert len(plans) == 8
    for sql, plan in plans.items():
        assert plan[1:] in ([], ["USE TEMP B-TREE FOR LAST TERM OF ORDER BY"]), plan
        is_record_read = "COVERING" not in plan[0] and "idx_job_cancelled_failures" not in plan[0]
        assert not is_record_read or "LIMIT" in sql or "is_active" in sql, plan


MEMBERS = st.lists(
    st.tuples(st.integers(0, 7), st.sampled_from(["failed", "succeeded", "cancelled", "running"]), st.booleans()),
    min_size=1,
    max_size=8,
)
"""Jobs that each continue one of the others, or nothing: its place, the status, and whether it leaves tasks."""


@given(members=MEMBERS)
@settings(max_examples=150)
def test_a_failure_is_open_until_a_resume_takes_all_its_tasks(
    cache: sqlite3.Connection, members: list[tuple[int, str, bool]]
) -> None:
    """A resume that leaves some is followed to those that continue it; a cancelled one takes nothing up.

    Records may name each other in a circle.
    """
    fill(cache, [Job(status, "ada", 1, 1) for _, status, _ in members])
    parents = [f"{parent:02}" for parent, *_ in members]
    for number, (parent, (_, _, defers)) in enumerate(zip(parents, members, strict=True)):
        metadata = json.dumps({"tasks_failed": 1, "metadata": {"n_deferred_tasks": 1} if defers else 7})
        cache.execute(
            "UPDATE job SET parent_job_id = ?, record = ? WHERE job_id = ?", (parent, metadata, f"{number:02}")
        )

    def is_taken_up(job: str, seen: frozenset[str] = frozenset()) -> bool:
        children = [
            number
            for number, (parent, (_, status, _)) in enumerate(zip(parents, members, strict=True))
            if parent == job and status != "cancelled" and f"{number:02}" not in seen
        ]
        return any(
            not members[number][2] or is_taken_up(f"{number:02}", seen | {f"{number:02}"}) for number in children
        )

    expected = {
        f"{number:02}"
        for number, (_, status, _) in enumerate(members)
        if status != "succeeded" and not is_taken_up(f"{number:02}")
    }
    found, total = failures.jobs_with_failures(cache, Filter(), 0, resumed=False)
    assert (set(found), total) == (expected, len(expected))
