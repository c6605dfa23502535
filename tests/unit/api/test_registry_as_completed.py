"""Jobs as they end, as a Python program iterates over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mopsjobs as mj
from support.cli import add, during_sleeps

if TYPE_CHECKING:
    from support.cli import Cli, Remote


def test_jobs_come_as_they_end(cli: Cli, remote: Remote, reg: mj.Registry) -> None:
    """Each once, however it ends; the time ends the iteration."""
    for job_id in ("a", "b", "c", "d"):
        add(remote.jobs, job_id, "running")
    remote.jobs.finalize_job("c", "failed")
    during_sleeps(
        cli,
        _1=lambda: remote.jobs.finalize_job("b", "succeeded"),
        _3=lambda: remote.jobs.finalize_job("a", "partial"),
    )
    jobs = [mj.Job(reg, job_id) for job_id in ("a", "b", "c", "a")]
    found = [(job, len(cli.clock.slept)) for job in reg.as_completed(jobs)]
    assert found == [(jobs[2], 0), (jobs[1], 1), (jobs[0], 3)]
    assert list(reg.as_completed([mj.Job(reg, "d"), jobs[0]], "1m")) == [jobs[0]]
    assert list(reg.as_completed([])) == []
