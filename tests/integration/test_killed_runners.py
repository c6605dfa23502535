"""kill -9 of the runner of this machine: each command ends its job by its outputs, and all views agree."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mopsjobs.engines.job_dir import JobDir
from support.lab import TASKS, Lab
from support.runs import calls, kill_between_reports, until

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

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
