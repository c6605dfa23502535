"""The batch script of a shard, run by a real bash with programs in place of the runner and of scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import Launch
from mopsjobs.engines.slurm.script import EXIT_NOT_FOUND, EXIT_SETUP, EXIT_TIME_LIMIT, write_script
from support.runs import PATIENCE
from support.slurm_commands import FakeSlurm

RUNNER = """\
import os, signal, sys
env = os.environ
print(sys.argv[1:], env["JOB_COMPLETION_INDEX"], env["XDG_STATE_HOME"], env.get("MODEL"), flush=True)
if "waits" in sys.argv[2]:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    sys.exit(143)
sys.exit(7)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin")


def _start(tmp_path: Path, slurm: FakeSlurm, job_id: str = "job", **launch: Any) -> subprocess.Popen[str]:
    """Start the script of a job as slurmd does, in a directory whose name the shell would read as more."""
    directory = tmp_path / "a $HOME 'b'"
    (directory / "shards/3").mkdir(parents=True, exist_ok=True)
    runner = directory / "runner.py"
    runner.write_text(RUNNER)
    shown = Launch(job_id=job_id, registry_url="sqlite:///a $(id).db", shards=8, **launch)
    script = tmp_path / "slurm.sh"
    script.write_text(write_script(shown, directory, [sys.executable, str(runner)]))
    env = {**slurm.env, "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "15"}
    return subprocess.Popen(
        ["bash", str(script)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def _ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            return


def test_a_shard_runs_in_its_own_place_and_passes_its_exit_code_on(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Each word reaches the runner as it is. The setup comes first, and may set variables."""
    options = {"setup": "export MODEL='x y'"}
    code, out, _ = _end(_start(tmp_path, slurm, workers=2, python="/p y", env={"A": "1"}, options=options))
    words = ["run", "job", "--registry", "sqlite:///a $(id).db", "--shards", "8", "--echo", "--workers", "2"]
    assert (code, out) == (
        7,
        f"{[*words, '--python', '/p y']} 3 {tmp_path}/a $HOME 'b'/shards/3 x y\n",
    )


def test_a_shard_with_a_drop_is_told_no_registry(tmp_path: Path, slurm: FakeSlurm) -> None:
    """It gets the drop of the job, which is not in its own state directory."""
    _, out, _ = _end(_start(tmp_path, slurm, options={"file_drop": "yes"}))
    words = ["run", "job", "--file-drop", f"{tmp_path}/a $HOME 'b'/drop", "--shards", "8", "--echo", "--workers", "1"]
    assert out == f"{words} 3 {tmp_path}/a $HOME 'b'/shards/3 None\n"


def test_a_setup_that_fails_starts_no_runner(tmp_path: Path, slurm: FakeSlurm) -> None:
    code, out, err = _end(_start(tmp_path, slurm, options={"setup": "true && (exit 3)"}))
    assert (code, out, err) == (EXIT_SETUP, "", "mops-jobs: the setup failed (exit code 3).\n")


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("kill -USR1 $$", EXIT_TIME_LIMIT, "mops-jobs: stopped ahead of the time limit; finished tasks are kept.\n"),
        ("kill -TERM $$ && (exit 143)", 128 + signal.SIGTERM, ""),
    ],
)
def test_a_signal_during_the_setup_starts_no_runner(
    tmp_path: Path, slurm: FakeSlurm, line: str, code: int, said: str
) -> None:
    """A setup may be slow, and a cancellation ends its commands too."""
    assert _end(_start(tmp_path, slurm, options={"setup": line})) == (code, "", said)


def test_a_node_without_mops_jobs_says_so(tmp_path: Path, slurm: FakeSlurm) -> None:
    launch = Launch(job_id="job", registry_url="sqlite:///r.db")
    script = write_script(launch, tmp_path, [sys.executable, "/none/mops_jobs.py"])
    ran = subprocess.run(["bash", "-c", script], env=slurm.env, capture_output=True, text=True, check=False)
    assert ran.returncode == EXIT_NOT_FOUND
    assert "has no /none/mops_jobs.py: MOPS_JOBS_UNPACK and XDG_STATE_HOME name paths" in ran.stderr


@pytest.mark.parametrize(("requeue", "told"), [("no", "1795723140"), ("yes", "None")])
def test_a_runner_knows_when_it_is_stopped(tmp_path: Path, slurm: FakeSlurm, requeue: str, told: str) -> None:
    """That is its signal, ahead of the time limit. A shard that is requeued goes on after it."""
    program = tmp_path / "runner.py"
    program.write_text("import os\nprint(os.environ.get('MOPS_JOBS_STOPS_AT'))\n")
    options = {"time": "5", "signal": "60", "requeue": requeue}
    launch = Launch(job_id="job", registry_url="sqlite:///r.db", options=options)
    script = write_script(launch, tmp_path, [sys.executable, str(program)])
    env = {**slurm.env, "SLURM_JOB_END_TIME": "1795723200"}
    ran = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert ran.stdout == f"{told}\n"


def test_the_warning_of_a_time_limit_ends_the_runner(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Slurm sends SIGUSR1 to the shell alone, and the runner gets SIGTERM. The exit code tells a limit."""
    process = _start(tmp_path, slurm, "waits")
    _ready(process)
    os.kill(process.pid, signal.SIGUSR1)
    code, _, err = _end(process)
    assert (code, err) == (EXIT_TIME_LIMIT, "mops-jobs: stopped ahead of the time limit; finished tasks are kept.\n")
    assert slurm.asked == []


@pytest.mark.parametrize(
    "runs",
    [
        ("1 task done, 0 failed", "2 tasks done, 1 failed", "2 tasks done, 1 failed"),
        ("1 task done, 0 failed", None),
        ("0 tasks done, 0 failed, 1 saved", "0 tasks done, 0 failed, 1 saved", "0 tasks done, 0 failed"),
        ("0 tasks done, 0 failed",),
        (None,),
    ],
)
def test_a_shard_requeues_itself_as_long_as_tasks_end(
    tmp_path: Path, slurm: FakeSlurm, runs: tuple[str | None, ...]
) -> None:
    """Or save. A task that is longer than the time limit would begin again without end, also in the first run.

    Slurm ends the script of a requeued shard, as the program in place of scontrol does here. A runner that was killed
    says nothing at its end.
    """
    slurm.says("scontrol", requeue="kill -KILL $PPID")
    log, codes = tmp_path / "a $HOME 'b'/slurm-12_3.log", []
    for counts in runs:
        process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
        said = "" if counts is None else f"waits: stopped, {counts}; running\n"
        log.write_text(f"Stopping (SIGTERM).\n{said}mops-jobs: x\n")
        _ready(process)
        os.kill(process.pid, signal.SIGUSR1)
        code, _, err = _end(process)
        codes.append(code)
    assert codes == [-signal.SIGKILL] * (len(runs) - 1) + [EXIT_TIME_LIMIT]
    assert slurm.asked == ["scontrol requeue 15"] * (len(runs) - 1)
    assert err.endswith(
        "mops-jobs: not requeued, since no task has ended or saved in this run: the time limit is too short.\n"
    )


def test_a_requeued_shard_does_not_say_that_it_was_not(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Slurm asks all processes of a requeued shard to end, before it kills them: so the script goes on for a moment."""
    slurm.says("scontrol", requeue="kill -TERM $PPID")
    slurm.says("sleep", code=128 + signal.SIGTERM)
    process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
    log = tmp_path / "a $HOME 'b'/slurm-12_3.log"
    log.write_text("waits: stopped, 1 task done, 0 failed; running\n")
    _ready(process)
    os.kill(process.pid, signal.SIGUSR1)
    code, _, err = _end(process)
    assert (code, slurm.asked) == (EXIT_TIME_LIMIT, ["scontrol requeue 15", "sleep 60"])
    assert "not requeued" not in err


def test_a_cancelled_shard_is_not_requeued(tmp_path: Path, slurm: FakeSlurm) -> None:
    """A cancellation and a preemption send SIGTERM to all processes; Slurm itself requeues after the latter."""
    process = _start(tmp_path, slurm, "waits", options={"requeue": "yes"})
    _ready(process)
    os.killpg(process.pid, signal.SIGTERM)
    assert _end(process)[0] == 128 + signal.SIGTERM
    assert slurm.asked == []
