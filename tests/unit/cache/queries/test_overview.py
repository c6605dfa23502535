"""What the page of jobs counts and in which order it shows jobs, against plain Python over the same jobs."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache.job_json import SILENT_SECONDS
from mopsjobs.cache.queries import filters, overview
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.registry.status import BEFORE_RUNNING, TERMINAL, JobStatus
from mopsjobs.web.queries.query_params import JobsPageQuery

NOW = 1000.0

JOBS = st.lists(
    st.fixed_dictionaries(
        {
            "status": st.sampled_from([*JobStatus, "hibernating"]),
            "created_ts": st.integers(0, 900),
            "changed_ts": st.integers(0, 1000),
            "heartbeat_ts": st.sampled_from([None, NOW - SILENT_SECONDS - 1, NOW - 1]),
            "suspect": st.sampled_from([None, None, "pod is gone"]),
            "latest": st.sampled_from([None, 500, 1500, 2000]),
            "owner": st.sampled_from(["ada", "bob", None]),
            "error": st.sampled_from([None, "OOM", "OOM: 137", "LOST: gone"]),
            "parent": st.sampled_from([None, 0, 1]),
        }
    ),
    max_size=12,
)


def fill(cache: sqlite3.Connection, jobs: list[dict[str, Any]]) -> None:
    """Write the jobs, whose ids are their numbers."""
    cache.execute("DELETE FROM job")
    for number, job in enumerate(jobs):
        forecast = None if job["latest"] is None else json.dumps({"latest": job["latest"]})
        parent = job["parent"] if job["parent"] is not None and job["parent"] < number else None
        cache.execute(
            "INSERT INTO job (key, job_id, version, generation, status, is_active, created_ts, changed_ts,"
            " heartbeat_ts, suspect, forecast, owner, error, parent_job_id, record)"
            " VALUES (?1, ?1, '', 0, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, '{}')",
            (
                f"{number:02}", job["status"], job["status"] not in TERMINAL, job["created_ts"], job["changed_ts"],
                job["heartbeat_ts"], job["suspect"], forecast, job["owner"], job["error"],
                None if parent is None else f"{parent:02}",
            ),
        )  # fmt: skip


def is_silent(job: dict[str, Any]) -> bool:
    return job["heartbeat_ts"] is not None and job["heartbeat_ts"] < NOW - SILENT_SECONDS


def is_suspect(job: dict[str, Any]) -> bool:
    return job["suspect"] is not None or is_silent(job)


def latest(job: dict[str, Any]) -> float | None:
    return job["latest"] if job["latest"] is not None and job["latest"] > NOW and not is_suspect(job) else None


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_active_jobs_are_counted_with_their_ends(cache: sqlite3.Connection, jobs: list[dict[str, Any]]) -> None:
    """An end that has passed, or of a suspect, counts as unknown."""
    fill(cache, jobs)
    for found, is_waiting in zip(overview.active_jobs(cache, filters.Filter(), NOW), (False, True), strict=True):
        expected = [
            job for job in jobs if job["status"] not in TERMINAL and (job["status"] in BEFORE_RUNNING) == is_waiting
        ]
        ends = [end for job in expected if (end := latest(job)) is not None]
        assert found == overview.ActiveJobs(
            len(expected),
            sum(map(is_suspect, expected)),
            min((job["created_ts"] for job in expected), default=None),
            min(ends, default=None),
            max(ends, default=None),
            len(ends),
        )


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_open_failures_are_those_that_nothing_continues(cache: sqlite3.Connection, jobs: list[dict[str, Any]]) -> None:
    """A cancelled child does not count."""
    fill(cache, jobs)
    continued = {
        job["parent"]
        for number, job in enumerate(jobs)
        if job["parent"] is not None and job["parent"] < number and job["status"] != "cancelled"
    }
    expected = [
        job
        for number, job in enumerate(jobs)
        if job["status"] in ("failed", "partial") and number not in continued and job["changed_ts"] >= 400
    ]
    found = overview.open_failures(cache, filters.Filter(since=400.0))
    assert found.jobs == len(expected)
    codes = [job["error"].partition(":")[0] for job in expected if job["error"]]
    assert dict(found.errors) == {code: codes.count(code) for code in codes}
    assert sum(dict(found.errors).values()) + found.others == found.jobs


@settings(max_examples=60, deadline=None)
@given(jobs=JOBS)
def test_each_phase_has_its_own_order(cache: sqlite3.Connection, jobs: list[dict[str, Any]]) -> None:
    """Together the phases have each job once."""
    fill(cache, jobs)
    ids: dict[str, list[int]] = {}
    for phase in filters.PHASES:
        chosen = overview.in_phase(filters.Filter(), phase)
        [(condition, values)] = chosen.clauses()
        order = overview.order_of_phase(cache, phase, NOW)
        rows = cache.execute(f"SELECT job_id FROM job WHERE {condition} ORDER BY {order}", values)
        ids[phase] = [int(job_id) for (job_id,) in rows]
    assert sorted(number for numbers in ids.values() for number in numbers) == list(range(len(jobs)))
    running = [jobs[number] for number in ids["running"]]
    keys = [(not is_suspect(job), latest(job) or float("inf")) for job in running]
    assert keys == sorted(keys)
    assert all(job["status"] not in TERMINAL | BEFORE_RUNNING for job in running)
    waiting = [jobs[number]["created_ts"] for number in ids["waiting"]]
    assert waiting == sorted(waiting)
    ended = [jobs[number]["changed_ts"] for number in ids["ended"]]
    assert ended == sorted(ended, reverse=True)


@settings(max_examples=40, deadline=None)
@given(jobs=JOBS)
def test_groups_have_each_job_once(cache: sqlite3.Connection, jobs: list[dict[str, Any]]) -> None:
    fill(cache, jobs)
    groups = overview.groups(cache, filters.Filter(), "owner", 10)
    assert {group.name for group in groups} == {job["owner"] for job in jobs}
    for group in groups:
        mine = [job for job in jobs if job["owner"] == group.name]
        assert group.jobs == len(mine)
        assert group.failed == sum(job["status"] in ("failed", "partial") for job in mine)
        assert group.waiting == sum(job["status"] in BEFORE_RUNNING for job in mine)
        assert group.running + group.waiting == sum(job["status"] not in TERMINAL for job in mine)
        assert group.changed == max(job["changed_ts"] for job in mine)


def test_a_search_is_made_once_for_all_queries(cache: sqlite3.Connection) -> None:
    """Text and error are both found, and the statements after that search nothing."""
    job = {"status": "failed", "created_ts": 1, "changed_ts": 1, "heartbeat_ts": None, "suspect": None, "latest": None}
    fill(cache, [{**job, "owner": owner, "error": "OOM: 137", "parent": None} for owner in ("ada", "bob")])
    chosen = filters.Filter(text="00")
    chosen.error = "oom"
    with filters.searching(cache, chosen):
        statements: list[str] = []
        cache.set_trace_callback(statements.append)
        order = overview.order_of_phase(cache, "ended", NOW)
        condition, values = overview.in_phase(chosen, "ended").clauses()[0]
        found = cache.execute(f"SELECT owner FROM job WHERE {condition} ORDER BY {order}", values).fetchall()
        cache.set_trace_callback(None)
    assert found == [("ada",)]
    assert not [one for one in statements if "LIKE" in one]


@pytest.mark.parametrize(
    ("parameter", "found"),
    [
        ("beta", ["sampled"]),
        ("gamma", []),
        ("beta>0.9", ["sampled"]),
        ("beta>1.5", []),
        ("beta>abc", []),
        ("mode=fast", ["sampled"]),
        ("mode!=fast", []),
        ("mode>3", ["sampled"]),
        ("flag=True", ["sampled"]),
        ("flag=false", []),
        ("flag=1", []),
    ],
)
def test_jobs_are_found_by_their_parameters(cache: sqlite3.Connection, parameter: str, found: list[str]) -> None:
    """By those whose study the cache has, with the conditions of `tasks --param`."""
    cache.execute("DELETE FROM job")
    for job_id in ("sampled", "other"):
        cache.execute(
            "INSERT INTO job (key, job_id, version, generation, status, is_active, created_ts, changed_ts, record)"
            " VALUES (?1, ?1, '', 0, 'succeeded', 0, 1, 1, '{}')",
            (job_id,),
        )
    cache.execute("DELETE FROM ledger")
    cache.execute("DELETE FROM parameter_set")
    cache.execute(
        "INSERT INTO ledger (job_id, looked_at, tasks_total, parameters, varying)"
        " VALUES ('sampled', 0, 2, '[\"beta\", \"mode\", \"flag\"]', '[]')"
    )
    for number, params in enumerate(({"beta": 0.5, "mode": "fast", "flag": True}, {"beta": 1.1, "mode": "fast"})):
        cache.execute(
            "INSERT INTO parameter_set (job_id, first_task, tasks, param_id, params) VALUES ('sampled', ?, 1, ?, ?)",
            (number, f"p{number}", json.dumps(params)),
        )
    chosen = filters.Filter()
    chosen.params = JobsPageQuery([("param", parameter)], datetime.now(UTC)).filter.params
    [(condition, values)] = filters.where_clauses(cache, chosen)
    assert [job_id for (job_id,) in cache.execute(f"SELECT job_id FROM job WHERE {condition}", values)] == found
    assert job_queries.count_jobs(cache) == 2
