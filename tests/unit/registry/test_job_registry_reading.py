"""Reading jobs straight from the store: in order, filtered, counted, and past records that are unreadable."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import JobStatus
from support.bench import NOW, Bench


def test_no_limit_hides_active_jobs(bench: Bench) -> None:
    """All 150 are there, in each of the three views."""
    for number in range(150):
        bench.place(f"job-{number}")
    assert len(bench.registry.get_active_jobs()) == 150
    assert len(bench.registry.list_jobs()) == 150
    assert bench.registry.count_jobs_by_status()["running"] == 150


def test_jobs_are_listed_newest_first_by_time_not_by_text(bench: Bench) -> None:
    """Offsets and missing fractions do not confuse the order."""
    for job_id, created in [
        ("a", "2026-11-24T08:00:00+00:00"),
        ("b", "2026-11-24T09:30:00+02:00"),
        ("c", "2026-11-24T08:00:00.5Z"),
    ]:
        bench.place(job_id, created_at=created)
    assert [job.job_id for job in bench.registry.list_jobs()] == ["c", "a", "b"]
    assert [job.job_id for job in bench.registry.list_jobs(2)] == ["c", "a"]


def test_jobs_are_filtered_by_status_and_times(bench: Bench) -> None:
    """By when they were created, or changed. A job that has been running for days and changed just now is recent."""
    old, new = (NOW - timedelta(days=3)).isoformat(), NOW.isoformat()
    bench.place("old", created_at=old, updated_at=old, status="failed")
    bench.place("alive", created_at=old, updated_at=new)
    bench.place("new", status="succeeded")
    bench.place("odd", status="archived", created_at=old, updated_at=old)

    def ids(jobs: list[JobState]) -> set[str]:
        return {job.job_id for job in jobs}

    assert ids(bench.registry.list_jobs(status_filter=[JobStatus.FAILED, JobStatus.RUNNING])) == {"old", "alive"}
    assert ids(bench.registry.list_jobs(since=NOW)) == {"alive", "new"}
    assert ids(bench.registry.get_recent_jobs(72)) == {"old", "alive", "new", "odd"}
    assert ids(bench.registry.get_recent_jobs()) == {"alive", "new"}
    assert ids(bench.registry.get_active_jobs()) == {"alive", "odd"}


def test_every_status_is_counted_the_empty_ones_and_the_unknown_ones_too(bench: Bench) -> None:
    """The counts add up to the number of jobs that are listed."""
    for job_id, status in [("a", "failed"), ("b", "failed"), ("c", "archived")]:
        bench.place(job_id, status=status)
    counts = bench.registry.count_jobs_by_status()
    assert counts == {**dict.fromkeys(JobStatus, 0), "failed": 2, "archived": 1}
    assert sum(counts.values()) == len(bench.registry.list_jobs())


def test_what_is_no_record_is_logged_and_does_not_stop_a_listing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken record is named with its reason; keys that are not records are ignored."""
    bench.place("good")
    bench.place("bad", tasks_total="many")
    for key in ("jobs/good/log.txt", "jobs/state.json", "jobs2/a/state.json"):
        bench.store.create_if_absent(key, b"{")
    assert [job.job_id for job in bench.registry.list_jobs()] == ["good"]
    assert caplog.messages == ["jobs/bad/state.json: invalid field tasks_total: expected a whole number, not text"]


@pytest.mark.parametrize(
    ("key", "job_id"),
    [
        ("jobs/a/state.json", "a"),
        ("jobs/a b/state.json", "a b"),
        ("jobs/team/run 1/state.json", "team/run 1"),
        ("jobs/a", None),
        ("jobs//state.json", None),
        ("a/state.json", None),
        ("jobs2/a/state.json", None),
    ],
)
def test_the_key_of_a_record_names_its_job(registry: JobRegistry, key: str, job_id: str | None) -> None:
    """And any other key names none."""
    assert registry.job_id_of(key) == job_id
    assert job_id is None or registry.key_of(job_id) == key
