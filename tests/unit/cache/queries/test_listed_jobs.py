"""Rows of a table are what the records say, though these are not parsed for them."""

from __future__ import annotations

from typing import Any

from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.overview import ListedJob, listed_job, listed_jobs
from mopsjobs.cache.rows import error_of, study_of
from mopsjobs.utils.times import parse_time
from support.cli import Cli, Remote, foreign, key


def from_json(job: dict[str, Any], usage: str | None, forecast: str | None, known_to: float) -> ListedJob:
    """Return what a table shows of a job as scripts get it."""

    def seconds(name: str) -> float | None:
        return None if job[name] is None else parse_time(job[name]).timestamp()

    created, updated = seconds("created_at"), seconds("updated_at")
    assert created is not None
    assert updated is not None
    return ListedJob(
        job["job_id"], job["status"], int(job["is_active"]), created, max(created, updated), seconds("ended_at"),
        seconds("heartbeat_at"), job["suspect"], job["owner"],
        study_of(job["metadata"]), error_of(job["error_code"], job["error_message"]), job["tasks_total"],
        job["tasks_completed"], usage, forecast, job["tasks_failed"] or 0, job["engine"], job["labels"], known_to,
    )  # fmt: skip


def test_rows_of_a_table_agree_with_the_records(cli: Cli, remote: Remote) -> None:
    """In the order of the page, and why a job is suspect."""
    now = cli.clock.now().timestamp()
    records: dict[str, dict[str, Any]] = {
        "plain": {"status": "pending"},
        "silent": {"status": "running", "heartbeat_at": "2026-01-01T00:00:00Z", "tasks_total": 5, "tasks_failed": 2},
        "marked": {"status": "running", "metadata": {"suspect": {"reason": "pod is gone"}}},
        "failed": {
            "status": "failed", "owner": 'Ada "L"', "labels": {"ex p": "ü\u2028,="}, "engine": "local",
            "error_code": "OOM", "error_message": "137\nmore", "metadata": {"model": "m", "scenario": "s"},
        },
        "odd": {"status": "hibernating", "tasks_completed": 3},
    }  # fmt: skip
    for job_id, fields in records.items():
        remote.put(key(job_id), foreign(job_id, **fields))
    cli.ok("sync", "-q")

    def check(cache: Any) -> None:
        chosen, order = filters.Filter(), filters.parse_sort("-name")
        jobs = job_queries.page_of_jobs(cache, chosen, order=order, limit=4, offset=1, now=now)
        found = listed_jobs(cache, chosen, order=order, limit=4, offset=1, now=now)
        by_id = {str(job["job_id"]): job for job in jobs}
        assert [one.job_id for one in found] == list(by_id)
        for one in found:
            assert one == from_json(dict(by_id[one.job_id]), one.usage, one.forecast, now)
            assert listed_job(cache, one.job_id, now=now) == one

    cli.app().cache.read_cached(check)
