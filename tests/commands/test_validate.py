"""`validate`: a job whose runner is at work is compared, and not ended."""

from __future__ import annotations

import json

import pytest

from mopsjobs.registry.transitions import ShardReport
from support.cli import Cli, Remote
from support.ledgers import add_job, leave_outputs
from support.runs import sets_of


@pytest.fixture
def reported(remote: Remote) -> None:
    """Leave a running job with one output of three, whose runner has just reported."""
    manifest = add_job(remote.jobs, "job", sets_of(3))
    leave_outputs(remote.store.inner, manifest, 0)
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 0))


def test_a_job_with_a_runner_at_work_is_only_compared(cli: Cli, remote: Remote, reported: None) -> None:
    """To end it would stop its tasks, and lose the work of its runner."""
    before = remote.jobs.get_job("job")
    ran = cli.ok("validate", "job")
    assert ran.out == "job: 1 of 3 tasks verified; running\n"
    assert ran.err == "The runner of job is at work, and will end the job.\n"
    assert json.loads(cli.ok("validate", "job", "--json").out)["status"] == "running"
    assert remote.jobs.get_job("job") == before


def test_a_job_with_a_silent_runner_ends_as_its_outputs_decide(cli: Cli, remote: Remote, reported: None) -> None:
    """A minute without a report is the limit after which a job is a suspect too."""
    cli.clock.advance(seconds=61)
    ran = cli.ok("validate", "job")
    assert (ran.out, ran.err) == ("job: 1 of 3 tasks verified; partial\n", "")
