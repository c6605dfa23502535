"""What the page of jobs counts and orders, against plain Python over the same jobs."""

from __future__ import annotations

import sqlite3

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.queries import filters, overview
from mopsjobs.registry.status import BEFORE_RUNNING
from support.cached_jobs import STATUSES, Job, fill, made_of

NOW = 1000.0

JOBS = st.lists(
    made_of(
        status=STATUSES,
        created=st.integers(0, 900),
        changed=st.integers(0, 1000),
        heartbeat=st.sampled_from([None, NOW - SILENT_SECONDS - 1, NOW - 1]),
        suspect=st.sampled_from([None, None, "pod is gone"]),
        latest=st.sampled_from([None, 500, 1500, 2000]),
        owner=st.sampled_from(["ada", "bob", None]),
        labels=st.dictionaries(st.just("k"), st.sampled_from(["1", "2"])),
        error=st.sampled_from([None, "OOM", "OOM: 137", "LOST: gone"]),
        parent=st.sampled_from([None, "00", "01"]),
    ),
    max_size=12,
).map(
    lambda jobs: {
        f"{n:02}": j._replace(parent=j.parent if (j.parent or "99") < f"{n:02}" else None) for n, j in enumerate(jobs)
    }
)
"""Each may continue an earlier one."""


def is_suspect(job: Job) -> bool:
    return job.suspect is not None or (job.heartbeat is not None and job.heartbeat < NOW - SILENT_SECONDS)


def latest(job: Job) -> float | None:
    return job.latest if job.latest is not None and job.latest > NOW and not is_suspect(job) else None


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_active_jobs_are_counted_with_their_ends(cache: sqlite3.Connection, jobs: dict[str, Job]) -> None:
    """An end that has passed, or of a suspect, counts as unknown."""
    fill(cache, jobs)
    for found, is_waiting in zip(overview.active_jobs(cache, filters.Filter(), NOW), (False, True), strict=True):
        expected = [job for job in jobs.values() if job.is_active and (job.status in BEFORE_RUNNING) == is_waiting]
        ends = [end for job in expected if (end := latest(job)) is not None]
        assert found == overview.ActiveJobs(
            len(expected),
            sum(map(is_suspect, expected)),
            min((job.created for job in expected), default=None),
            min(ends, default=None),
            max(ends, default=None),
            len(ends),
        )


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_open_failures_are_those_that_nothing_continues(cache: sqlite3.Connection, jobs: dict[str, Job]) -> None:
    """A cancelled child does not count."""
    fill(cache, jobs)
    continued = {job.parent for job in jobs.values() if job.status != "cancelled"}
    expected = [
        job
        for job_id, job in jobs.items()
        if job.status in ("failed", "partial") and job_id not in continued and job.changed >= 400
    ]
    found = overview.open_failures(cache, filters.Filter(since=400.0))
    assert found.jobs == len(expected)
    codes = [job.error.partition(":")[0] for job in expected if job.error]
    assert dict(found.errors) == {code: codes.count(code) for code in codes}
    assert sum(dict(found.errors).values()) + found.others == found.jobs


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_each_phase_has_its_own_order(cache: sqlite3.Connection, jobs: dict[str, Job]) -> None:
    """Together the phases have each job once."""
    fill(cache, jobs)
    found: dict[str, list[Job]] = {}
    seen: list[str] = []
    for phase in filters.PHASES:
        [(condition, values)] = overview.in_phase(filters.Filter(), phase).clauses()
        order = overview.order_of_phase(cache, phase, NOW)
        ids = [row[0] for row in cache.execute(f"SELECT job_id FROM job WHERE {condition} ORDER BY {order}", values)]
        seen += ids
        found[phase] = [jobs[job_id] for job_id in ids]
    assert sorted(seen) == list(jobs)
    keys = [(not is_suspect(job), latest(job) or float("inf")) for job in found["running"]]
    assert keys == sorted(keys)
    assert all(job.is_active and job.status not in BEFORE_RUNNING for job in found["running"])
    waiting = [job.created for job in found["waiting"]]
    assert waiting == sorted(waiting)
    ended = [job.changed for job in found["ended"]]
    assert ended == sorted(ended, reverse=True)
