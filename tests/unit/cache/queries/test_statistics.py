"""Figures of all jobs come from indexes and sums; those of some jobs are added up. Both are the same."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.cache import totals
from mopsjobs.cache.database import NEW_SCHEMA
from mopsjobs.cache.queries import statistics
from mopsjobs.cache.queries.filters import Filter

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
STATUSES = ("pending", "running", "succeeded", "partial", "failed", "cancelled", "of-the-future")
ENDED = STATUSES[2:6]

Row = tuple[str, float, float | None, float | None, int]
"""Status, times of creation, first task and end, and whether the history is known."""


@st.composite
def jobs(draw: st.DrawFn) -> Row:
    """Draw a row. Clocks of writers may be apart."""
    status = draw(st.sampled_from(STATUSES))
    days = st.integers(-40 * 4, 4).map(lambda quarters: NOW.timestamp() + quarters * 21_600)
    seconds = st.integers(-100, 90_000).map(float)
    created = draw(days)
    started = draw(st.none() | seconds.map(lambda after: created + after))
    ended = (started or created) + draw(seconds) if status in ENDED else None
    return status, created, started, ended, draw(st.integers(0, 1))


def cache_of(rows: list[Row]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(Path(NEW_SCHEMA).read_text(encoding="utf-8"))
    connection.executemany(
        "INSERT INTO job (key, job_id, version, generation, record, status, is_active, created_ts, changed_ts,"
        " started_ts, ended_ts, has_history)"
        " VALUES (?1, ?1, '', 1, '{}', ?2, ?2 NOT IN (?7, ?8, ?9, ?10), ?3, ?3, ?4, ?5, ?6)",
        [(f"job-{number}", *row, *ENDED) for number, row in enumerate(rows)],
    )
    connection.execute(f"INSERT INTO tally {totals.SUMS} {totals.GROUPED}")
    return connection


def some() -> Filter:
    """Return a filter that all of these jobs pass, and that is not known to be one for all jobs."""
    return Filter(until=NOW.timestamp() + 10**9)


@given(st.lists(jobs(), max_size=30))
def test_figures_of_all_jobs_are_those_of_a_filter(rows: list[Row]) -> None:
    """Days, and ranks of durations, do not depend on whether a filter is given."""
    with closing(cache_of(rows)) as cache:
        assert statistics.by_day(cache, Filter(), NOW) == statistics.by_day(cache, some(), NOW)
        for duration in (statistics.QUEUE, statistics.RUN):
            assert statistics.spread(cache, Filter(), duration) == statistics.spread(cache, some(), duration)


def test_figures_of_all_jobs_read_no_rows() -> None:
    """Each statement is answered from the sums, or from an index alone in its order: nothing is sorted."""
    statements: list[str] = []
    with closing(cache_of([("succeeded", 1.0, 2.0, 3.0, 1)])) as cache:
        cache.set_trace_callback(statements.append)
        statistics.by_day(cache, Filter(), NOW)
        statistics.spread(cache, Filter(), statistics.QUEUE)
        statistics.spread(cache, Filter(), statistics.RUN)
        cache.set_trace_callback(None)
        plans = {row[3] for sql in set(statements) for row in cache.execute(f"EXPLAIN QUERY PLAN {sql}")}
    assert len(plans) > 3
    assert all("INDEX idx_job_" in plan or plan == "SCAN tally" for plan in plans), plans
