"""The sums that the cache keeps are those of its rows, whatever was written, removed and pruned."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache import pruning, rows, totals
from mopsjobs.cache.queries import statistics
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cache.queries.sweeps import read_sweeps
from mopsjobs.cache.sync.records import delete_rows
from mopsjobs.cache.sync_state import transaction
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.status import SWEEP, JobStatus
from mopsjobs.store.base import VersionToken
from mopsjobs.utils.times import record_time
from support.cli import START, key

IDS = st.sampled_from("abcdef")

SECONDS = st.none() | st.floats(0, 10**6) | st.sampled_from([0, 0.005, 2**53 - 1])


class Job(NamedTuple):
    """A record: its status, the hours after which it began to run and changed, and what its shards used."""

    status: str
    started: int | None
    changed: int
    owner: str | None
    usage: Mapping[str, Sequence[float | None]]
    verified: int | None = None
    """Tasks whose outputs a validation found; None without one."""


JOBS = st.builds(
    Job,
    status=st.sampled_from([*JobStatus, "hibernating"]),
    started=st.none() | st.integers(0, 20),
    changed=st.integers(0, 40),
    owner=st.sampled_from([None, "ada", "grace"]),
    usage=st.dictionaries(st.sampled_from("012"), st.lists(SECONDS, min_size=4, max_size=4), max_size=2),
    verified=st.none() | st.integers(0, 4),
)

STEPS = st.lists(
    st.dictionaries(IDS, JOBS, min_size=1) | st.frozensets(IDS, min_size=1) | st.integers(0, 40), min_size=1, max_size=8
)
"""Jobs to write, ids of jobs to remove, or the hour before which jobs are pruned."""


def to_row(job_id: str, job: Job) -> rows.MirroredJob:
    def at(hours: int) -> str:
        return record_time(START + timedelta(hours=hours))

    steps = [{"status": "pending", "at": at(0), "id": "1"}]
    if job.started is not None:
        steps.append({"status": "running", "at": at(job.started), "id": "2"})
    steps.append({"status": job.status, "at": at(job.changed), "id": "3"})
    state = JobState(
        job_id=job_id, status=job.status, created_at=at(0), updated_at=at(job.changed), owner=job.owner,
        usage=job.usage, transitions=tuple(steps), tasks_total=3, k8s_namespace=job.owner,
        tasks_verified=job.verified or 0, validation_completed_at=None if job.verified is None else at(job.changed),
    )  # fmt: skip
    made = rows.to_row(key(job_id), job_id, state.to_json(), VersionToken("1"), 1)
    assert isinstance(made, rows.MirroredJob)
    return made


def apply(cache: sqlite3.Connection, step: Mapping[str, Job] | frozenset[str] | int) -> None:
    if isinstance(step, int):
        pruning.prune(cache, (START + timedelta(hours=step)).timestamp())
        return
    with transaction(cache):
        if isinstance(step, frozenset):
            delete_rows(cache, [key(job_id) for job_id in step], 1)
            return
        rows.write_rows(cache, [to_row(job_id, job) for job_id, job in sorted(step.items())])


@given(steps=STEPS)
@settings(max_examples=100, deadline=None)
def test_kept_sums_are_those_of_the_rows(
    cache: sqlite3.Connection, steps: list[Mapping[str, Job] | frozenset[str] | int]
) -> None:
    """After each write, removal and prune, in any order."""
    for table in ("job", "job_label", "tally", "problem", "pruned"):
        cache.execute(f"DELETE FROM {table}")
    for step in steps:
        apply(cache, step)
        kept = cache.execute("SELECT * FROM tally WHERE jobs != 0 ORDER BY 1, 2, 3").fetchall()
        assert kept == cache.execute(f"{totals.SUMS} {totals.GROUPED} ORDER BY 1, 2, 3").fetchall()
        assert not cache.execute(f"SELECT * FROM tally WHERE jobs = 0 AND ({' OR '.join(totals.COLUMNS)})").fetchall()


def test_counts_that_no_job_has_do_not_spoil_the_sums(cache: sqlite3.Connection) -> None:
    """Counts of 1,100 jobs that are together beyond 64 bits."""
    for table in ("job", "tally"):
        cache.execute(f"DELETE FROM {table}")
    state = JobState(
        job_id="0", status="running", created_at=record_time(START), updated_at=record_time(START), labels={SWEEP: "s"},
        tasks_total=2**53 - 1, tasks_completed=2**53 - 1, tasks_verified=2**53 - 1,
        usage={"0": [2**53 - 1] * 4},
    )  # fmt: skip
    ids = [str(number) for number in range(1100)]
    made = [rows.to_row(key(one), one, state.evolve(job_id=one).to_json(), VersionToken("1"), 1) for one in ids]
    with transaction(cache):
        rows.write_rows(cache, [row for row in made if isinstance(row, rows.MirroredJob)])
    assert statistics.active_tallies(cache)[0].tasks_completed == 1100 * totals.MAX_SUMMED
    assert statistics.tallies(cache)[0].verified == 1100 * totals.MAX_SUMMED
    assert statistics.usage(cache, Filter()).cpu_seconds == pytest.approx(1100 * (2**53 - 1))
    assert read_sweeps(cache, Filter(), ["s"], 0)["s"].tasks_total == 1100 * totals.MAX_SUMMED
