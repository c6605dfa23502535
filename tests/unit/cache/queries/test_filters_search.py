"""Searches for words, and groups by label, against plain Python over the same jobs."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.cache import rows
from mopsjobs.cache.queries import filters, overview, statistics
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync_state import transaction
from mopsjobs.registry.status import BEFORE_RUNNING, TERMINAL, JobStatus
from mopsjobs.store.base import VersionToken
from support.cli import key

NOW = 1000.0

WORDS = st.text("aB%_\\", max_size=3)

JOBS = st.dictionaries(
    st.text("aBx-", min_size=1, max_size=4),
    st.fixed_dictionaries(
        {
            "status": st.sampled_from([*JobStatus, "hibernating"]),
            "created": st.integers(0, 100),
            "changed": st.integers(0, 100),
            "owner": st.sampled_from(["Abba", "bob", None]),
            "k8s_name": st.one_of(st.none(), WORDS),
            "labels": st.dictionaries(st.sampled_from("kl"), WORDS),
            "model": WORDS,
            "error_code": st.one_of(st.none(), WORDS),
            "note": st.one_of(st.none(), WORDS),
        }
    ),
    max_size=12,
)


def lower(text: str | None) -> str:
    """Return the text without its ASCII case: all letters here are ASCII."""
    return (text or "").lower()


def has_text(job_id: str, job: dict[str, Any], text: str) -> bool:
    texts = (
        job_id,
        job["k8s_name"],
        job["owner"],
        job["model"],
        job["error_code"],
        job["note"],
        *job["labels"].values(),
    )
    return any(lower(text) in lower(one) for one in texts if one is not None)


def fill(cache: sqlite3.Connection, jobs: dict[str, Any]) -> None:
    cache.rollback()
    with transaction(cache):
        for table in ("job", "job_label", "tally"):
            cache.execute(f"DELETE FROM {table}")
        rows.write_rows(cache, [to_row(job_id, job) for job_id, job in jobs.items()])


def to_row(job_id: str, job: dict[str, Any]) -> rows.MirroredJob:
    record = {
        "job_id": job_id,
        "created_at": datetime.fromtimestamp(job["created"], UTC).isoformat(),
        "updated_at": datetime.fromtimestamp(job["changed"], UTC).isoformat(),
        "metadata": {"model": job["model"], "note": job["note"]},
        **{name: job[name] for name in ("status", "owner", "k8s_name", "labels", "error_code")},
    }
    made = rows.to_row(key(job_id), job_id, json.dumps(record).encode(), VersionToken("1"), 1)
    assert isinstance(made, rows.MirroredJob)
    return made


@settings(max_examples=200, deadline=None)
@given(
    jobs=JOBS,
    text=st.one_of(st.none(), WORDS),
    error=st.one_of(st.none(), WORDS),
    since=st.one_of(st.none(), st.floats(0, 100)),
    sort=st.sampled_from(["name", "-updated", "status"]),
)
def test_a_search_finds_what_plain_python_finds(
    cache: sqlite3.Connection, jobs: dict[str, Any], text: str | None, error: str | None, since: float | None, sort: str
) -> None:
    """The rows and their order, also as a plain condition of each query, and the counts per status."""
    fill(cache, jobs)
    chosen = filters.Filter(since=since, text=text)
    chosen.error = error
    passing = {
        job_id
        for job_id, job in jobs.items()
        if (text is None or has_text(job_id, job, text))
        and (error is None or (bool(job["error_code"]) and lower(error) in lower(job["error_code"])))
        and (since is None or max(job["created"], job["changed"]) >= since or job["status"] not in TERMINAL)
    }
    order = filters.parse_sort(sort)
    all_in_order = [job_id for (job_id,) in cache.execute(f"SELECT job_id FROM job ORDER BY {order}")]

    def found() -> list[object]:
        page = job_queries.page_of_jobs(cache, chosen, order=order, limit=20, offset=0, now=NOW)
        return [job["job_id"] for job in page]

    plainly = found()
    with filters.searching(cache, chosen):
        assert found() == plainly == [job_id for job_id in all_in_order if job_id in passing]
        counts = statistics.by_status(cache, chosen)
    statuses = [jobs[job_id]["status"] for job_id in passing]
    assert counts == {status: statuses.count(status) for status in statuses}


def test_a_search_that_has_found_all_jobs_ends(cache: sqlite3.Connection) -> None:
    """A word in all ids is searched in ids alone, and no query after that has a condition for it."""
    job = {"status": "failed", "created": 1, "changed": 1, "owner": None, "k8s_name": None, "labels": {"k": "job"}}
    fill(cache, {f"job-{number}": {**job, "model": "", "error_code": "E", "note": "n"} for number in range(3)})
    searches: list[str] = []
    cache.set_trace_callback(lambda sql: searches.append(sql) if "LIKE" in sql else None)
    chosen = filters.Filter(text="job-")
    with filters.searching(cache, chosen):
        assert chosen.is_everything
    cache.set_trace_callback(None)
    assert len(searches) == 1
    assert "job_id LIKE" in searches[0]


@settings(max_examples=100, deadline=None)
@given(jobs=JOBS, since=st.one_of(st.none(), st.floats(0, 100)), owner=st.sampled_from([None, "bob"]))
def test_groups_by_label_have_each_job_that_passes_once(
    cache: sqlite3.Connection, jobs: dict[str, Any], since: float | None, owner: str | None
) -> None:
    """Jobs without the label are in no group; a window keeps active jobs."""
    fill(cache, jobs)
    passing = [
        {**job, "changed": max(job["created"], job["changed"])}
        for job in jobs.values()
        if (owner is None or job["owner"] == owner)
        and (since is None or max(job["created"], job["changed"]) >= since or job["status"] not in TERMINAL)
    ]
    conditions = () if owner is None else (filters.is_one_of("owner", owner),)
    groups = overview.groups(cache, filters.Filter(since=since, conditions=conditions), "label:k", 20)
    assert [group.changed for group in groups] == sorted((group.changed for group in groups), reverse=True)
    found = {group.name: group for group in groups}
    assert len(found) == len(groups)
    assert set(found) == {job["labels"]["k"] for job in passing if "k" in job["labels"]}
    for value, group in found.items():
        mine = [job for job in passing if job["labels"].get("k") == value]
        statuses = [job["status"] for job in mine]
        waiting = sum(status in BEFORE_RUNNING for status in statuses)
        active = sum(status not in TERMINAL for status in statuses)
        failed = sum(status in ("failed", "partial") for status in statuses)
        changed = max(job["changed"] for job in mine)
        expected = (len(mine), active - waiting, waiting, statuses.count("succeeded"), failed, changed)
        assert group == overview.JobGroup(value, *expected)
