"""What the jobs of an owner used, and which jobs are counted, against plain Python over the same jobs."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.cache.queries import charts
from mopsjobs.cache.queries.filters import Filter, is_one_of

FIELDS = ("cpu_seconds", "task_seconds", "held_core_seconds", "max_rss_bytes")

NUMBERS = st.none() | st.integers(1, 100)


class Used(NamedTuple):
    """A job with an owner, the value of a label, its times, and what it used."""

    owner: str | None
    label: str | None
    created: int
    started: int | None
    ended: int | None
    usage: tuple[int | None, ...] | None


JOBS = st.lists(
    st.builds(
        Used,
        owner=st.sampled_from([None, "ada", "grace"]),
        label=st.sampled_from([None, "a", "b"]),
        created=st.integers(0, 60),
        started=st.none() | st.integers(0, 60),
        ended=st.none() | st.integers(0, 60),
        usage=st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS),
    ),
    max_size=20,
)


def fill(cache: sqlite3.Connection, jobs: Sequence[Used]) -> None:
    """Put the jobs into the cache, in place of those that it had."""
    cache.execute("DELETE FROM job")
    cache.execute("DELETE FROM job_label")
    for number, job in enumerate(jobs):
        usage = None if job.usage is None else json.dumps(dict(zip(FIELDS, job.usage, strict=True)))
        cache.execute(
            "INSERT INTO job (key, job_id, version, generation, status, is_active, owner, created_ts, changed_ts,"
            " started_ts, ended_ts, has_history, usage, record) VALUES (?1, ?1, '', 0, ?2, ?3, ?4, ?5, ?5, ?6, ?7, 1,"
            " ?8, '{}')",
            (
                str(number), "running" if job.ended is None else "failed", job.ended is None, job.owner, job.created,
                job.started, job.ended, usage,
            ),
        )  # fmt: skip
        if job.label is not None:
            cache.execute("INSERT INTO job_label VALUES ('exp', ?, ?)", (job.label, str(number)))


def expected_owners(jobs: Sequence[Used]) -> set[tuple[object, ...]]:
    """Return name, jobs, active and failed ones, measured ones, and sums, by counting the jobs one by one."""
    members: dict[str, list[Used]] = defaultdict(list)
    for job in jobs:
        members[job.owner or ""].append(job)
    owners = set()
    for name, some in members.items():
        known = [job.usage for job in some if job.usage is not None]
        columns = [[one for one in column if one is not None] for column in zip(*known, strict=True)] or [[]] * 4
        cpu, task, held = (sum(column) if column else None for column in columns[:3])
        both = sum(one[2] for one in known if one[0] is not None and one[2] is not None)
        share = min(1.0, cpu / both) if cpu is not None and both else None
        active = sum(job.ended is None for job in some)
        peak = max(columns[3], default=None)
        owners.add((name, len(some), active, len(some) - active, 0, len(known), cpu, task, held, share, peak))
    return owners


@given(jobs=JOBS)
@settings(max_examples=150)
def test_sums_by_owner_are_exact(cache: sqlite3.Connection, jobs: list[Used]) -> None:
    """Jobs without usage count as such, and a number that no job has is not 0."""
    fill(cache, jobs)
    with charts.charted_jobs(cache, Filter()):
        owners = set(charts.by_owner(cache, limit=9))
        total = charts.total_usage(cache)
    assert owners == expected_owners(jobs)
    assert total.jobs == sum(job.usage is not None for job in jobs)


def test_the_owner_who_used_the_most_is_found_among_many(cache: sqlite3.Connection) -> None:
    """Also if others have more jobs: a list of costs is not cut to the busiest owners."""
    few = [Used("one", None, 1, 2, 3, (900, 1000, 1000, 1))]
    fill(cache, [*few, *(Used(f"many-{number}", None, 1, 2, 3, None) for number in range(5) for _ in range(2))])
    with charts.charted_jobs(cache, Filter()):
        assert "one" in {owner.name for owner in charts.by_owner(cache, limit=2)}


@given(jobs=JOBS, since=st.none() | st.integers(0, 60), owner=st.none() | st.just("ada"), has_label=st.booleans())
@settings(max_examples=150)
def test_charts_are_of_the_jobs_of_their_window(
    cache: sqlite3.Connection, jobs: list[Used], since: int | None, owner: str | None, has_label: bool
) -> None:
    """Active ones, and those that ended since its begin, of the owner and with the label that were asked for."""
    fill(cache, jobs)
    conditions = () if owner is None else (is_one_of("owner", owner),)
    chosen = Filter(ended_since=since, conditions=conditions, labels=(("exp", "a"),) if has_label else ())
    with charts.charted_jobs(cache, chosen):
        found = cache.execute("SELECT owner, created_ts, started_ts, ended_ts FROM charted").fetchall()
    assert Counter(found) == Counter(
        (job.owner, job.created, job.started, job.ended)
        for job in jobs
        if (since is None or job.ended is None or job.ended >= since)
        and (owner is None or job.owner == owner)
        and (not has_label or job.label == "a")
    )


def test_charts_of_a_window_read_its_part_of_an_index(cache: sqlite3.Connection) -> None:
    """A part for active jobs, and one for ended ones. Jobs that ended before are not read."""
    statements: list[str] = []
    cache.set_trace_callback(statements.append)
    with charts.charted_jobs(cache, Filter(ended_since=5.0)):
        charts.by_owner(cache, limit=9)
        cache.set_trace_callback(None)
        plans = {
            row[3]
            for sql in statements
            if not sql.startswith(("CREATE", "PRAGMA", "DROP"))
            for row in cache.execute(f"EXPLAIN QUERY PLAN {sql}")
        }
    index = "SEARCH main.job USING COVERING INDEX idx_job_times"
    assert {plan for plan in plans if "job" in plan} == {
        f"{index} (ended_ts=?)",
        f"{index} (ended_ts>?)",
    }
