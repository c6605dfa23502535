"""The figures of the charts and of `summary`, against plain Python over the same jobs."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache.queries import statistics
from mopsjobs.cache.queries.filters import Filter, is_one_of
from mopsjobs.cache.queries.statistics import SECONDS_PER_DAY
from support.cached_jobs import Job, fill, made_of

DAY = SECONDS_PER_DAY


def numbered(jobs: Sequence[Job]) -> dict[str, Job]:
    return {str(number): job for number, job in enumerate(jobs)}


def at(
    created: float,
    started: float | None = None,
    ended: float | None = None,
    status: str = "succeeded",
    *,
    has_history: bool = True,
) -> Job:
    """Return a job with these times."""
    return Job(status, created, created, started, ended, has_history)


def levels(
    cache: sqlite3.Connection, jobs: Sequence[Job], *, since: float, until: float, count: int
) -> tuple[list[tuple[int, int]], int]:
    """Return queued and running jobs at most in each part, and the number of jobs that are left out."""
    fill(cache, numbered(jobs))
    with statistics.charted_jobs(cache, Filter(ended_since=since)):
        found = statistics.levels(cache, since=since, until=until, count=count)
        assert [level.start for level in found] == [since + (until - since) * part / count for part in range(count)]
        return [(level.queued, level.running) for level in found], statistics.count_undated(cache)


@pytest.mark.parametrize(
    ("job", "expected", "undated"),
    [
        (at(10, None, None, "scheduled"), (1, 0), 0),
        (at(10, None, 20, "failed", has_history=False), (0, 0), 1),
        (at(10, None, None, "running", has_history=False), (0, 0), 1),
        (at(20, 10, 30), (0, 1), 0),
    ],
    ids=["queued", "ended without a history", "runs without a history", "a start by a slow clock"],
)  # fmt: skip
def test_what_counts_as_queued_and_as_running(
    cache: sqlite3.Connection, job: Job, expected: tuple[int, int], undated: int
) -> None:
    """No start is invented for a job whose history does not have it."""
    assert levels(cache, [job], since=0, until=100, count=1) == ([expected], undated)


MOMENTS = st.integers(0, 60)
JOBS = st.lists(
    made_of(
        created=MOMENTS,
        started=st.none() | MOMENTS,
        ended=st.none() | MOMENTS,
        status=st.sampled_from(["failed", "cancelled"]),
    ).map(lambda job: job if job.ended is not None else job._replace(status="scheduled")),
    max_size=30,
)


@given(jobs=JOBS, since=st.integers(0, 40), length=st.integers(1, 20), count=st.integers(1, 8))
@settings(max_examples=200)
def test_levels_are_exact(cache: sqlite3.Connection, jobs: list[Job], since: int, length: int, count: int) -> None:
    """Each part shows what counting the jobs one by one shows at some moment of it."""
    until = since + length * count
    forever = float("inf")
    queued, running = [], []
    for job in jobs:
        if job.ended is not None and job.ended < since:
            continue
        start = forever if job.started is None else max(job.started, job.created)
        end = forever if job.ended is None else max(job.ended, job.created, job.started or 0)
        queued.append((job.created, min(start, end)))
        running.append((start, end))

    def most(spans: list[tuple[float, float]], part: int) -> int:
        moments = range(since + part * length, since + (part + 1) * length + 1)
        return max(sum(begin <= moment < end for begin, end in spans) for moment in moments)

    expected = [(most(queued, part), most(running, part)) for part in range(count)]
    assert levels(cache, jobs, since=since, until=until, count=count) == (expected, 0)


def test_a_window_of_days_begins_at_midnight() -> None:
    """Its last day is today."""
    assert statistics.window_start(7, 10 * DAY + 5.0) == 4 * DAY
    assert statistics.window_start(1, 10 * DAY) == 10 * DAY


FIELDS = ("cpu_seconds", "task_seconds", "held_core_seconds", "max_rss_bytes")
NUMBERS = st.none() | st.integers(1, 100)


USED = st.lists(
    made_of(
        owner=st.sampled_from([None, "ada", "grace"]),
        labels=st.dictionaries(st.just("exp"), st.sampled_from("ab")),
        created=MOMENTS,
        started=st.none() | MOMENTS,
        ended=st.none() | MOMENTS,
        usage=st.none() | st.fixed_dictionaries(dict.fromkeys(FIELDS, NUMBERS)),
    ).map(lambda job: job._replace(status="running" if job.ended is None else "failed")),
    max_size=20,
)


def expected_owners(jobs: Sequence[Job]) -> set[tuple[object, ...]]:
    """Return name, measured jobs, and sums, by counting the jobs one by one."""
    members: dict[str, list[dict[str, int | None]]] = defaultdict(list)
    for job in jobs:
        if job.usage is not None:
            members[job.owner or ""].append(job.usage)
    owners = set()
    for name, known in members.items():
        columns = [[used[name] for used in known if used[name] is not None] for name in FIELDS]
        cpu, task, held = (sum(column) if column else None for column in columns[:3])
        both = sum(used["held_core_seconds"] or 0 for used in known if used["cpu_seconds"] is not None)
        share = min(1.0, cpu / both) if cpu is not None and both else None
        owners.add((name, len(known), cpu, task, held, share, max(columns[3], default=None)))
    return owners


@given(jobs=USED)
@settings(max_examples=150)
def test_sums_by_owner_are_exact(cache: sqlite3.Connection, jobs: list[Job]) -> None:
    """A number that no job has is not 0."""
    fill(cache, numbered(jobs))
    with statistics.charted_jobs(cache, Filter()):
        owners = set(statistics.owners_usage(cache, limit=9))
        total = statistics.total_usage(cache)
    assert owners == expected_owners(jobs)
    assert total.jobs == sum(job.usage is not None for job in jobs)


@given(jobs=USED, since=st.none() | st.integers(0, 60), owner=st.none() | st.just("ada"), has_label=st.booleans())
@settings(max_examples=150)
def test_charts_are_of_the_jobs_of_their_window(
    cache: sqlite3.Connection, jobs: list[Job], since: int | None, owner: str | None, has_label: bool
) -> None:
    """Active ones, and those that ended since its begin, of the owner and with the label that were asked for."""
    fill(cache, numbered(jobs))
    conditions = () if owner is None else (is_one_of("owner", owner),)
    chosen = Filter(ended_since=since, conditions=conditions, labels=(("exp", "a"),) if has_label else ())
    with statistics.charted_jobs(cache, chosen):
        found = cache.execute("SELECT owner, created_ts, started_ts, ended_ts FROM charted").fetchall()
    assert Counter(found) == Counter(
        (job.owner, job.created, job.started, job.ended)
        for job in jobs
        if (since is None or job.ended is None or job.ended >= since)
        and (owner is None or job.owner == owner)
        and (not has_label or job.labels.get("exp") == "a")
    )
