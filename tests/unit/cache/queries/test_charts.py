"""The figures of the charts, against plain Python over the same jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache.queries import charts
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cache.queries.statistics import SECONDS_PER_DAY

DAY = SECONDS_PER_DAY
MINUTE = 60


class Times(NamedTuple):
    """A job as the charts of times see it."""

    created: float
    started: float | None = None
    ended: float | None = None
    status: str = "succeeded"
    has_history: bool = True


def levels(
    cache: sqlite3.Connection, jobs: Sequence[Times], *, since: float, until: float, count: int
) -> tuple[list[tuple[int, int]], int]:
    """Return queued and running jobs at most in each part, and the number of jobs that are left out."""
    cache.execute("DELETE FROM job")
    cache.executemany(
        "INSERT INTO job (key, job_id, version, generation, status, is_active, created_ts, changed_ts, started_ts,"
        " ended_ts, has_history, record) VALUES (?1, ?1, '', 0, ?2, ?3, ?4, ?4, ?5, ?6, ?7, '{}')",
        [
            (str(number), job.status, job.ended is None, job.created, job.started, job.ended, job.has_history)
            for number, job in enumerate(jobs)
        ],
    )
    with charts.charted_jobs(cache, Filter(ended_since=since)):
        found = charts.levels(cache, since=since, until=until, count=count)
        assert [level.start for level in found.parts] == [
            since + (until - since) * part / count for part in range(count)
        ]
        return [(level.queued, level.running) for level in found.parts], charts.count_undated(cache)


def test_a_short_job_between_two_points_is_a_peak(cache: sqlite3.Connection) -> None:
    """Ten jobs of 20 minutes in a part of three hours: the part shows ten, and its neighbours none."""
    begin = 4 * 3600.0
    jobs = [Times(begin, begin + MINUTE, begin + 21 * MINUTE) for _ in range(10)]
    found, _ = levels(cache, jobs, since=0.0, until=DAY, count=8)
    assert found == [(0, 0), (10, 10), *[(0, 0)] * 6]


@pytest.mark.parametrize("minutes", range(6))
def test_the_peak_does_not_depend_on_when_it_is_asked_for(cache: sqlite3.Connection, minutes: int) -> None:
    """The highest part shows the same jobs while the window moves on by minutes."""
    jobs = [Times(5 * DAY, 5 * DAY + start * MINUTE, 5 * DAY + (start + 20) * MINUTE) for start in range(9)]
    now = 30 * DAY + minutes * MINUTE
    found, _ = levels(cache, jobs, since=now - 30 * DAY, until=now, count=240)
    assert max(running for _, running in found) == 9


def test_a_job_that_follows_another_does_not_overlap_it(cache: sqlite3.Connection) -> None:
    """An end at the moment of a start comes first."""
    found, _ = levels(cache, [Times(0, 10, 20), Times(0, 20, 30), Times(20, 30, 40)], since=0, until=50, count=1)
    assert found == [(2, 1)]


@pytest.mark.parametrize(
    ("job", "expected", "undated"),
    [
        (Times(10, None, 20, "cancelled"), (1, 0), 0),
        (Times(10, None, 20, "failed"), (1, 0), 0),
        (Times(10, None, None, "scheduled"), (1, 0), 0),
        (Times(10, None, 20, "failed", has_history=False), (0, 0), 1),
        (Times(10, None, None, "running", has_history=False), (0, 0), 1),
        (Times(20, 10, 30), (0, 1), 0),
        (Times(200, 210, None, "running"), (0, 0), 0),
    ],
    ids=[
        "cancelled while queued", "failed while queued", "queued", "ended without a history", "runs without a history",
        "a start by a slow clock", "a registration by a fast clock",
    ],
)  # fmt: skip
def test_what_counts_as_queued_and_as_running(
    cache: sqlite3.Connection, job: Times, expected: tuple[int, int], undated: int
) -> None:
    """No start is invented for a job whose history does not have it."""
    assert levels(cache, [job], since=0, until=100, count=1) == ([expected], undated)


MOMENTS = st.integers(0, 60)
JOBS = st.lists(
    st.builds(
        Times,
        created=MOMENTS,
        started=st.none() | MOMENTS,
        ended=st.none() | MOMENTS,
        status=st.sampled_from(["scheduled", "failed", "cancelled"]),
        has_history=st.just(True),
    ),
    max_size=30,
)


@given(spans=st.lists(st.tuples(MOMENTS, MOMENTS).map(sorted), max_size=20), count=st.integers(1, 8))
@settings(max_examples=200)
def test_a_peak_tells_the_first_moment_of_the_most(spans: list[list[int]], count: int) -> None:
    """As many overlap then as the highest part says, and fewer before it in the window."""
    begins, ends = [float(begin) for begin, _ in spans], [float(end) for _, end in spans]
    parts, peak = charts.peaks(begins, ends, [10.0 + 5 * number for number in range(count + 1)])

    def overlapping(moment: float) -> int:
        return sum(begin <= moment < end for begin, end in spans)

    assert peak.jobs == max(parts) == overlapping(peak.at)
    assert all(overlapping(moment) < peak.jobs for moment in range(10, int(peak.at)))


@given(jobs=JOBS, since=st.integers(0, 40), length=st.integers(1, 20), count=st.integers(1, 8))
@settings(max_examples=200)
def test_levels_are_exact(cache: sqlite3.Connection, jobs: list[Times], since: int, length: int, count: int) -> None:
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
    assert charts.window_start(7, 10 * DAY + 5.0) == 4 * DAY
    assert charts.window_start(1, 10 * DAY) == 10 * DAY
