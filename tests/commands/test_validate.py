"""`validate`: a job whose runner is at work is compared, and not ended."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from mopsjobs.engines.base import EngineTimes
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.studies.manifest import Manifest
from mopsjobs.submission.shard_drop import ShardDrop
from support.cli import Cli, Remote, add
from support.engines import COMPLETE, RUNNING, Cluster, answer_for_all
from support.ledgers import add_job, leave_output, leave_outputs
from support.runs import sets_of


@pytest.fixture
def reported(remote: Remote) -> Manifest:
    """Leave a running job with one output of three, whose runner has just reported."""
    manifest = add_job(remote.jobs, "job", sets_of(3))
    leave_outputs(remote.store.inner, manifest, 0)
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 0))
    return manifest


def test_a_job_with_a_runner_at_work_is_only_compared(cli: Cli, remote: Remote, reported: Manifest) -> None:
    """To end it would stop its tasks, and lose the work of its runner."""
    before = remote.jobs.get_job("job")
    ran = cli.ok("validate", "job")
    assert ran.out == "job: 1 of 3 tasks verified; running\n"
    assert ran.err == "The runner of job is at work, and will end the job.\n"
    assert json.loads(cli.ok("validate", "job", "--json").out)["status"] == "running"
    assert remote.jobs.get_job("job") == before


def test_tasks_behind_the_last_report_of_a_cancelled_job_are_counted(cli: Cli, remote: Remote) -> None:
    """By decisions that its record does not know, an adaptive job may need them: it never has more than it needs."""
    replicates = {"min": 4, "max": 40, "until": {"x": {"absolute": 0.1}}}
    manifest = add_job(remote.jobs, "job", sets_of(1), n_replicates=replicates)
    for number in range(8):
        leave_output(remote.jobs, manifest, number, x=number)
    remote.jobs.update_status("job", "cancelled")
    ran = cli.ok("validate", "job", "--json")
    assert (ran.json["tasks_verified"], ran.json["tasks_total"]) == (8, 15)
    assert cli.ok("validate", "job").out == "job: 8 of 15 tasks verified; cancelled\n"
    state = remote.jobs.require_job("job")
    assert (state.tasks_completed, state.tasks_total, state.metadata["precision"]["needed"]) == (8, 15, 15)


def test_a_job_with_a_silent_runner_ends_as_its_outputs_decide(cli: Cli, remote: Remote, reported: Manifest) -> None:
    """A minute without a report is the limit after which a job is a suspect too."""
    cli.clock.advance(seconds=61)
    ran = cli.ok("validate", "job")
    assert (ran.out, ran.err) == ("job: 1 of 3 tasks verified; partial\n", "")


def test_a_job_without_heartbeats_is_at_work_while_slurm_says_so(
    cli: Cli, remote: Remote, reported: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards report by files, so silence tells nothing of them. Files may be seen late on a network file system."""
    _drop(remote)
    JobDir.for_job("job", cli.env).drop.mkdir(parents=True)
    monkeypatch.setattr("mopsjobs.submission.shard_drop.network_file_system", lambda path: "nfs4")
    cluster = Cluster(RUNNING)
    for module in ("app.tasks.validate_job", "submission.offline"):
        monkeypatch.setattr(f"mopsjobs.{module}.open_engine", lambda name, env: cluster)
    cli.clock.advance(seconds=61)
    for says, ago, expected in ((RUNNING, None, "running"), (COMPLETE, 10, "running"), (COMPLETE, 100, "partial")):
        cluster.says = says
        cluster.ran = EngineTimes(None, None if ago is None else cli.clock.now() - timedelta(seconds=ago))
        assert cli.ok("validate", "job").out == f"job: 1 of 3 tasks verified; {expected}\n"


def test_a_job_whose_files_are_elsewhere_is_only_compared(cli: Cli, remote: Remote, reported: Manifest) -> None:
    """Another machine, user or state directory does not see the outputs, and must not end the job without them."""
    _drop(remote)
    cli.clock.advance(seconds=61)
    ran = cli.ok("validate", "job")
    assert ran.out == "job: 1 of 3 tasks verified; running\n"
    assert "its files are in another state directory (XDG_STATE_HOME) or of another user." in ran.err
    assert "The outputs were only compared." in ran.err


@pytest.mark.parametrize("command", ["validate", "reconcile"])
def test_a_record_that_does_not_tell_of_its_files_ends_no_job(
    cli: Cli, remote: Remote, reported: Manifest, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """An option that is neither yes nor no may be that of a newer version. Its outputs may lie in files."""
    remote.jobs.update_fields("job", engine="slurm", metadata={"slurm_file_drop": "maybe"})
    answer_for_all(monkeypatch, Cluster(COMPLETE))
    cli.clock.advance(seconds=61)
    assert "invalid slurm_file_drop in the record of job: expected yes or no." in cli(command, "job").err
    assert remote.jobs.require_job("job").status == "running"


def test_nothing_stays_in_the_files_of_a_job_that_validate_ends(
    cli: Cli, remote: Remote, reported: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of one that had ended before: `reconcile` delivers by its name. Without files, no engine is asked."""
    _drop(remote)
    cluster = answer_for_all(monkeypatch, Cluster(COMPLETE))
    for module in ("app.tasks.validate_job", "submission.offline"):
        monkeypatch.setattr(f"mopsjobs.{module}.open_engine", lambda name, env: cluster)
    drop = JobDir.for_job("job", cli.env).drop
    for command in ("validate", "reconcile"):
        shard = JobRegistry(ShardDrop(drop, 0))
        add(shard, "job", "running", tasks_total=3, error_message="ValueError: as asked")
        shard.report_shard("job", 0, 1, ShardReport(1, 1))
        cli.ok(command, "job")
        state = remote.jobs.require_job("job")
        assert (state.status, state.tasks_failed) == ("partial", 1)
        assert "ValueError: as asked" in str(state.error_message)
        assert not drop.exists()
    cluster.asked.clear()
    cli.ok("reconcile", "job")
    assert cluster.asked == []


def _drop(remote: Remote) -> None:
    """Make the job one of Slurm whose shards report by files."""
    remote.jobs.update_fields("job", engine="slurm", metadata={"slurm_file_drop": "yes"})


def test_tasks_that_a_lost_runner_did_not_report_are_counted(cli: Cli, remote: Remote, reported: Manifest) -> None:
    """The progress of an ended job contradicts neither its outputs nor the tasks that failed."""
    remote.jobs.report_shard("job", 0, 1, ShardReport(1, 2))
    leave_outputs(remote.store.inner, reported, 1)
    cli.clock.advance(seconds=61)
    assert cli.ok("validate", "job").out == "job: 2 of 3 tasks verified; partial\n"
    state = remote.jobs.require_job("job")
    assert (state.tasks_completed, state.tasks_failed, state.tasks_verified) == (2, 1, 2)
    status = cli.ok("status", "job").out
    assert "2/3 tasks, 66 %, 1 failed" in status
    assert "2 verified, 1 task missing" in status


def test_the_counts_of_a_cancelled_job_become_those_of_its_outputs(
    cli: Cli, remote: Remote, reported: Manifest
) -> None:
    """Its runner may be killed before it reports what it has stored. Outputs that are lost later lower no count."""
    leave_outputs(remote.store.inner, reported, 1)
    remote.jobs.cancel_job("job", "it is wrong")
    cli.clock.advance(seconds=61)
    assert cli.ok("validate", "job").out == "job: 2 of 3 tasks verified; cancelled\n"
    job = cli.ok("status", "job", "--json").json
    assert (job["status"], job["tasks_completed"], job["error_message"]) == ("cancelled", 2, "Cancelled: it is wrong")
    revision = remote.jobs.require_job("job").revision
    for key in list(remote.store.inner.list_keys("results/"))[:1]:
        remote.store.inner.delete(key)
    cli.ok("validate", "job")
    assert remote.jobs.require_job("job").revision == revision
