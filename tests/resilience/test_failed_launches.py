"""A runner that ends before its first report: its job fails, and says why, whichever command looks at it first."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mopsjobs.engines import local
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreAccessError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.utils.times import parse_time
from support.cli import Cli, Remote, command, environment, foreign, key, sentences
from support.runs import is_alive, record, sets_of, study, until

if TYPE_CHECKING:
    pass

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
"""As the system does when memory is short."""

BROKEN = "print('fatal: the interpreter has no encodings', flush=True); os._exit(1)"
"""As an interpreter whose installation was removed in part."""

NO_MESSAGE = (
    "The runner ended before its first report: it left no message. It was killed, or this machine was restarted."
)
LAST_LINE = "The runner ended before its first report: fatal: the interpreter has no encodings"

Launch = Callable[..., None]


@pytest.fixture
def launch(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Submit a job in a process of its own. Its runner executes a statement before anything else, and has ended."""
    monkeypatch.chdir(tmp_path)
    Path("study.json").write_text(json.dumps(study(sets_of(2)).to_dict()))
    Path("model.py").write_text("def simulate(params, seed):\n    return {}\n")

    def launched(statement: str, job_id: str = "job", **env: str) -> None:
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(
            f"import os, signal, sys\nif sys.argv[1:2] == ['run']:\n    {statement}\n"
        )
        env = {**environment(cli), "PYTHONPATH": str(site), **env}
        words = command("submit", "study.json", "--auto", "--job-id", job_id)
        subprocess.run(words, env=env, check=True, capture_output=True)
        runner = json.loads(JobDir.for_job(job_id, cli.env).runner.read_text())
        until(lambda: not is_alive(runner["pid"]), "the runner to end")

    return launched


@pytest.mark.parametrize(("statement", "message"), [(KILLED, NO_MESSAGE), (BROKEN, LAST_LINE)])
def test_status_ends_the_job_with_the_last_lines(
    cli: Cli, jobs: JobRegistry, launch: Launch, statement: str, message: str
) -> None:
    """The end has the time of the runner's last trace, so a late look does not make a long queue."""
    launch(statement)
    cli.clock.moment = cli.clock.moment.replace(year=2100)
    ran = cli.ok("status", "job")
    assert f"LAUNCH: {message}\n" in ran.out
    assert ran.err.splitlines()[-1] == "Next: mops-jobs resume job"
    state = record(jobs)
    assert (state.status, state.error_code, state.error_message) == ("failed", "LAUNCH", message)
    assert state.transitions[-1]["at"] < "2100"
    assert [step["status"] for step in state.transitions] == ["pending", "submitting", "scheduled", "failed"]


def test_wait_ends_with_the_code_of_a_failed_job(cli: Cli, launch: Launch) -> None:
    """So does `logs -f`, which shows the last lines."""
    launch(BROKEN)
    ran = cli("wait", "job", "--json")
    assert (ran.code, ran.json["status"], ran.json["error_message"]) == (100, "failed", LAST_LINE)
    launch(BROKEN, "other")
    followed = cli("logs", "other", "-f")
    assert (followed.code, followed.out) == (100, f"LAUNCH: {LAST_LINE}\n")


def test_logs_show_the_last_lines_on_every_machine(cli: Cli, launch: Launch, tmp_path: Path) -> None:
    """They are an event: a machine that has not launched the job reads them, too."""
    launch(BROKEN)
    assert cli.ok("logs", "job").out == f"LAUNCH: {LAST_LINE}\n"
    assert cli.ok("logs", "job", HOME=str(tmp_path / "elsewhere")).out == f"LAUNCH: {LAST_LINE}\n"


def test_reconcile_ends_the_job(cli: Cli, launch: Launch) -> None:
    """No cluster has to be configured."""
    launch(BROKEN)
    ran = cli.ok("reconcile", "--json")
    assert (ran.json["checked"], ran.json["changed"]) == (1, 1)
    assert ran.json["jobs"][0] == {
        "job_id": "job", "action": "fail", "reason": "LAUNCH", "detail": LAST_LINE, "status_before": "scheduled",
        "status": "failed", "changed": True, "problem": None,
    }  # fmt: skip


def test_list_stuck_has_a_job_whose_runner_is_silent(cli: Cli, launch: Launch) -> None:
    """A runner of this machine reports within seconds. After a minute without a report, its job is suspect anywhere."""
    launch(KILLED)
    cli.clock.moment = cli.clock.moment.replace(year=2100)
    ran = cli.ok("list", "--stuck", "--json")
    assert [(job["job_id"], job["status"], job["suspect"]) for job in ran.json["jobs"]] == [
        ("job", "scheduled", "no_update")
    ]


def test_only_the_lines_of_the_last_launch_are_quoted(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """The log of a job keeps those of earlier launches."""
    launch(BROKEN)
    site = Path("site/sitecustomize.py")
    site.write_text(site.read_text().replace("fatal: the interpreter has no encodings", "second"))
    subprocess.run(
        command("resume", "job"),
        env={**environment(cli), "PYTHONPATH": str(site.parent)},
        check=True,
        capture_output=True,
    )
    runner = json.loads(JobDir.for_job("job", cli.env).runner.read_text())
    until(lambda: not is_alive(runner["pid"]), "the runner to end")
    cli.ok("status", "job")
    assert record(jobs).error_message == "The runner ended before its first report: second"


def test_a_runner_that_was_launched_again_is_judged(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """Its job was running before, so its outputs decide. It is left alone while another runner may be at work."""
    launch(BROKEN)
    runner = JobDir.for_job("job", cli.env).runner
    state = jobs.report_shard("job", 0, 1, ShardReport(completed=0, failed=0))
    cli.clock.moment = parse_time(str(state.heartbeat_at))
    reported = cli.clock.moment.timestamp()
    os.utime(runner, (reported - 60, reported - 60))
    cli.clock.advance(hours=1)
    assert "running" in cli.ok("status", "job").out, "it has reported since its launch"
    os.utime(runner, (reported + 60, reported + 60))
    cli.clock.moment -= timedelta(hours=1)
    assert "running" in cli.ok("status", "job").out, "it reported less than a minute ago"
    cli.clock.advance(hours=1)
    assert cli("wait", "job", "--timeout", "20s").code == 100
    assert record(jobs).status == "failed"
    assert str(record(jobs).error_message).endswith(f"the first error: {LAST_LINE}")


def test_a_runner_that_another_machine_launched_is_not_judged(
    cli: Cli, jobs: JobRegistry, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines may share a home directory, and no machine sees the processes of another one."""
    launch(KILLED)
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    cli.ok("status", "job")
    ran = cli("wait", "job", "--timeout", "5s")
    assert (ran.code, "its runner on this machine has ended" in ran.err) == (8, False)
    assert record(jobs).status == "scheduled"


def test_a_job_with_undelivered_outputs_is_left_to_resume(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """Its runner did not report since the registry did not answer, and its outputs are on this machine."""
    launch(KILLED)
    outbox = SQLiteVersionedStore(JobDir.for_job("job", cli.env).outbox)
    outbox.create_if_absent("results/job/output", b"x")
    outbox.close()
    cli.ok("status", "job")
    assert record(jobs).status == "scheduled"


def test_a_reader_who_may_not_write_still_sees_the_job(
    cli: Cli, remote: Remote, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` warns; `wait` ends, since nothing it could wait for will happen."""
    directory = JobDir.for_job("job", cli.env)
    directory.path.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    note = {"pid": ended.pid, "started": 1, "machine": local._machine(), "log_begin": 0}
    directory.runner.write_text(json.dumps(note))
    remote.put(key("job"), foreign("job", "scheduled", engine="local"))

    def refuse(*_: object) -> None:
        raise StoreAccessError("The registry does not permit this.")

    monkeypatch.setattr(remote.store, "put", refuse)
    ran = cli.ok("status", "job", "--refresh")
    assert "scheduled" in ran.out
    assert "The runner of job job ended before its first report, and its record stays: " in ran.err
    assert cli("wait", "job").code == 4


def test_a_runner_that_cannot_be_started_fails_the_submission(
    cli: Cli, jobs: JobRegistry, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the program, not the disk."""
    assert launch
    monkeypatch.setattr(local, "command", lambda: ["/no/such/program"])
    ran = cli("submit", "study.json", "--auto", "--job-id", "job")
    message = "The runner cannot be started with /no/such/program: No such file or directory."
    assert (ran.code, sentences(ran.err)) == (1, [f"error: {message}"])
    assert (record(jobs).status, record(jobs).error_message) == ("failed", message)
