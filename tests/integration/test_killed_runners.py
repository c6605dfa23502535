"""Jobs whose runner on this machine was killed, and jobs that several processes resume at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.store import open_store
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import output_key
from support.cli import Cli, Ran, command, sentences
from support.runs import PATIENCE, calls, code, is_alive, kill, kill_between_reports, record, sets_of, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


TASKS = 6


class Lab:
    """A job whose tasks note their calls, and the command as processes."""

    def __init__(
        self, env: dict[str, str], home: Path, sets: list[dict[str, Any]] | None = None, **params: Any
    ) -> None:
        """Write the study: of these parameter sets, and of `params` in each."""
        self.env = env
        self.home = code(home)
        self.calls = home.with_name("calls")
        path = home.with_name("study.json")
        common = sets_of(TASKS, calls=str(self.calls), **params)
        found = [{**own, **more} for own, more in zip(common, sets or [{}] * TASKS, strict=True)]
        path.write_text(json.dumps({"model": "model:simulate", "parameter_sets": found, "outputs": ["result.json"]}))
        self.submit = ("submit", str(path), "--auto", "--job-id", "job", "--workers", "1")

    def start(self, *argv: str, **how: Any) -> subprocess.Popen[str]:
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command(*argv), env=self.env, cwd=self.home, text=True, **out, **how)

    def run(self, *argv: str) -> tuple[int, str, str]:
        """Return exit code, output and messages of a command."""
        return end(self.start(*argv))

    def job(self, job_id: str = "job") -> JobState:
        """Return the record as the registry has it."""
        with contextlib.closing(open_store(self.env["MOPS_JOBS_REGISTRY"], self.env)) as store:
            return record(JobRegistry(store), job_id)

    def journals(self) -> Iterable[Path]:
        """Return the files in which the runner has noted attempts."""
        return JobDir.for_job("job", self.env).ledger(0).glob("*.jsonl")

    def runner(self, job_id: str = "job") -> int:
        return int(json.loads(JobDir.for_job(job_id, self.env).runner.read_text())["pid"])


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def test_of_three_resumes_at_once_one_makes_a_child(env: dict[str, str], tmp_path: Path) -> None:
    """The others name it in a sentence. Each missing task runs once more, and the job has one child."""
    needed = tmp_path / "needed"
    lab = Lab(env, tmp_path / "desk", needs=str(needed))
    lab.run(*lab.submit, "--wait")
    needed.touch()
    ends = [end(process) for process in [lab.start("resume", "job", "--wait") for _ in range(3)]]
    assert sorted(code for code, _, _ in ends) == [0, 6, 6]
    for code_, _, err in ends:
        assert code_ == 0 or sentences(err)[0].startswith("error: Job job was resumed as job.2, which is "), err
    assert lab.run("list", "-q")[1].split() == ["job.2", "job"]
    assert calls(lab.calls) == dict.fromkeys(range(TASKS), 2)


def test_of_three_resumes_at_once_one_launches_a_job(env: dict[str, str], tmp_path: Path) -> None:
    """The runner of the job was killed. It gets one other runner, and each task without outputs runs once more."""
    gate = tmp_path / "gate"
    lab = Lab(env, tmp_path / "desk", gate=str(gate))
    lab.run(*lab.submit)
    until(lambda: calls(lab.calls), "a task to begin")
    kill(killed := lab.runner())
    until(lambda: not is_alive(killed), "the runner to be gone")
    began = calls(lab.calls)
    ends = [end(process) for process in [lab.start("resume", "job") for _ in range(3)]]
    gate.touch()
    assert sorted(code for code, _, _ in ends) == [0, 6, 6], ends
    assert lab.run("wait", "job")[0] == 0
    again = calls(lab.calls) - began
    assert again == dict.fromkeys(range(TASKS), 1)


def test_a_child_made_between_read_and_write_refuses_another(
    cli: Cli, jobs: JobRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of the child follows from the one read that finds no child, so the second child cannot be registered."""
    lab = Lab(cli.env, tmp_path / "desk", fail=True)
    monkeypatch.chdir(lab.home)
    cli("submit", *lab.submit[1:], "--wait")
    read, inner = JobRegistry.get_job, []

    def resumed_meanwhile(registry: JobRegistry, job_id: str) -> JobState | None:
        state = read(registry, job_id)
        if job_id == "job.2" and not inner:
            inner.append(Ran(-1, "", ""))  # its own read is not the one
            inner[0] = cli("resume", "job")
        return state

    monkeypatch.setattr(JobRegistry, "get_job", resumed_meanwhile)
    ran = cli("resume", "job")
    assert (inner[0].code, inner[0].out) == (0, "job.2\n")
    assert ran.code == 6
    assert sentences(ran.err)[0].startswith("error: Job job was resumed as job.2, which is ")
    assert jobs.get_job("job.3") is None
    assert cli("wait", "job.2").code == 100


@pytest.mark.parametrize(("more", "number"), [(("--wait",), signal.SIGINT), ((), signal.SIGTERM)])
def test_a_runner_that_a_signal_stopped_has_left_word(
    env: dict[str, str], tmp_path: Path, more: tuple[str, ...], number: signal.Signals
) -> None:
    """In the foreground or not, the record says what its terminal has said, also for readers elsewhere."""
    lab = Lab(env, tmp_path / "desk", gate=str(tmp_path / "gate"))
    with lab.start(*lab.submit, *more) as submitting:
        until(lambda: calls(lab.calls), "a task to begin")
        os.kill(runner := lab.runner(), number)
        submitting.communicate(timeout=PATIENCE)
    until(lambda: not is_alive(runner), "the runner to end")
    shown = lab.run("status", "job")[1]
    assert f"INTERRUPTED: The runner was interrupted ({number.name}), and finished tasks are kept; 6 of 6 " in shown
    (tmp_path / "gate").touch()
    assert lab.run("resume", "job", "--wait")[:2] == (0, "job.2\n")


DONE = 4


def _killed(env: dict[str, str], tmp_path: Path) -> Lab:
    """Return a lab whose runner was killed when it had reported some tasks, while the others were at work."""
    sets = [{"gate": str(tmp_path / "gate")} if x >= DONE else {} for x in range(TASKS)]
    lab = Lab(env, tmp_path / "desk", sets)
    lab.run(*lab.submit)
    until(lambda: lab.job().tasks_completed == DONE, "the report of the tasks that are done")
    begun = f'[{DONE},1,"lost",'
    until(lambda: any(begun in path.read_text() for path in lab.journals()), "a task to begin")
    kill_between_reports(lab.runner(), JobDir.for_job("job", env), lambda: lab.job().heartbeat_at)
    return lab


def test_a_killed_runner_ends_its_job_as_partial(env: dict[str, str], tmp_path: Path) -> None:
    """The next look ends it, by its last report, and without a minute of silence. A child runs what is missing."""
    lab = _killed(env, tmp_path)
    assert lab.run("list")[0] == 0
    job = lab.job()
    assert (job.status, job.error_code, job.tasks_completed, job.tasks_verified) == (
        "partial", "LOST", DONE, DONE,
    )  # fmt: skip
    assert str(job.error_message).startswith("The runner ended before its job did: it left no message. ")
    assert job.tasks_failed == json.loads(lab.run("failures", "job", "--json")[1])["failed"] == 1
    tasks = json.loads(lab.run("tasks", "job", "--json")[1])["tasks"]
    assert [task["outcome"] for task in tasks] == [*["succeeded"] * DONE, "lost", "missing"]
    assert lab.run("wait", "job")[0] == 104
    Path(tmp_path / "gate").touch()
    assert lab.run("resume", "job", "--wait")[:2] == (0, "job.2\n")
    assert calls(lab.calls) == {**dict.fromkeys(range(DONE), 1), DONE: 2, DONE + 1: 1}


@pytest.mark.parametrize("argv", [("cancel", "job", "--yes"), ("validate", "job"), ("resume", "job", "--wait")])
def test_what_a_killed_runner_of_a_cancelled_job_kept_is_delivered(
    env: dict[str, str], tmp_path: Path, argv: tuple[str, ...]
) -> None:
    """Its registry was away when it was killed, and the job was cancelled on another machine."""
    lab = _killed(env, tmp_path)
    (tmp_path / "gate").touch()
    with contextlib.closing(open_store(env["MOPS_JOBS_REGISTRY"], env)) as store:
        JobRegistry(store).cancel_job("job")
        task = next(one for one in load_manifest(store, "job").study.tasks() if one.number == DONE)
    with contextlib.closing(SQLiteVersionedStore(JobDir.for_job("job", env).outbox)) as outbox:
        outbox.create_if_absent(output_key("job", task, "result.json"), b'{"value": 1}')
    code_, _, said = lab.run(*argv)
    assert (code_, "job: delivered what its runner kept on this machine" in said) == (0, True)
    job = lab.job()
    assert (job.status, job.tasks_completed, job.tasks_failed) == ("cancelled", DONE + 1, 0)
    tasks = json.loads(lab.run("tasks", "job", "--json")[1])["tasks"]
    assert len([task for task in tasks if task["outcome"] == "succeeded"]) == DONE + 1
    assert not list(lab.journals())
    assert "delivered" not in lab.run(*argv)[2]
