"""A runner that ends without a word: its outputs decide how its job ended, whichever command looks at it first."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest

from mopsjobs.engines import local, runner_process
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreAccessError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.utils.times import parse_time, utc_now
from mopsjobs.web.site.background import Syncer
from support.cli import Cli, Remote, command, environment, foreign, key, sentences
from support.runs import is_alive, record, sets_of, study, until
from support.web import Web

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a runner outlives the process that launched it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
"""As the system does when memory is short."""

BROKEN = "print('fatal: the interpreter has no encodings', flush=True); os._exit(1)"
"""As an interpreter whose installation was removed in part."""

NO_MESSAGE = (
    "The runner ended before its first report: it left no message."
    " It was stopped or killed, or this machine was restarted"
)
LAST_LINE = "The runner ended before its first report: fatal: the interpreter has no encodings"
MISSING = "; 2 of 2 tasks left no complete outputs"

Launch = Callable[..., None]


def store_outputs(store: VersionedStore, manifest: Manifest, count: int) -> None:
    """Store the outputs of the first tasks of a job."""
    for _, task in list(manifest.tasks())[:count]:
        store.create_if_absent(output_key(manifest.job_id, task, "result.json"), b"{}")


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
    assert f"LAUNCH: {message}{MISSING}\n" in ran.out
    assert ran.err.splitlines()[-1] == "Next: mops-jobs resume job"
    state = record(jobs)
    assert (state.status, state.error_code, state.error_message) == ("failed", "LAUNCH", message + MISSING)
    assert state.transitions[-1]["at"] < "2100"
    assert [step["status"] for step in state.transitions] == ["pending", "submitting", "scheduled", "failed"]


def test_wait_ends_with_the_code_of_a_failed_job(cli: Cli, launch: Launch, tmp_path: Path) -> None:
    """So does `logs -f`, which shows the last lines: an event, which each machine reads."""
    launch(BROKEN)
    ran = cli("wait", "job", "--json")
    assert (ran.code, ran.json["status"], ran.json["error_message"]) == (100, "failed", LAST_LINE + MISSING)
    launch(BROKEN, "other")
    followed = cli("logs", "other", "-f")
    assert (followed.code, followed.out) == (100, f"LAUNCH: {LAST_LINE}\n")
    assert cli.ok("logs", "job", HOME=str(tmp_path / "elsewhere")).out == f"LAUNCH: {LAST_LINE}\n"


def test_reconcile_ends_the_job(cli: Cli, launch: Launch) -> None:
    """No cluster has to be configured."""
    launch(BROKEN)
    ran = cli.ok("reconcile", "--json")
    assert (ran.json["checked"], ran.json["changed"]) == (1, 1)
    assert ran.json["jobs"][0] == {
        "job_id": "job", "action": "validate", "reason": "LAUNCH", "detail": LAST_LINE + MISSING,
        "status_before": "scheduled", "status": "failed", "changed": True, "problem": None,
    }  # fmt: skip


def test_a_sync_of_the_page_ends_the_job(
    cli: Cli, jobs: JobRegistry, launch: Launch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` needs no command beside it: its pages show the end by the outputs."""
    launch(KILLED)
    store_outputs(jobs.store, load_manifest(jobs.store, "job"), 1)
    web = Web(cli, capsys)
    assert Syncer(web.app, web.changes, 60.0, lambda _seconds: None, lambda: None)._sync() is None
    shown = web.get("/api/v1/jobs/job").get_json()
    assert (shown["status"], shown["tasks_completed"], shown["suspect"]) == ("partial", 1, None)
    assert record(jobs).error_code == "LAUNCH"


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
    assert str(record(jobs).error_message).endswith(LAST_LINE + MISSING)


def test_a_runner_that_another_machine_launched_is_not_judged(
    cli: Cli, jobs: JobRegistry, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines may share a home directory, and no machine sees the processes of another one."""
    launch(KILLED)
    monkeypatch.setattr(runner_process, "machine", lambda: "other")
    cli.ok("status", "job")
    ran = cli("wait", "job", "--timeout", "5s")
    assert (ran.code, "its runner on this machine has ended" in ran.err) == (8, False)
    cli.clock.moment = cli.clock.moment.replace(year=2100)
    (listed,) = cli.ok("list", "--stuck", "--json").json["jobs"]
    assert (listed["status"], listed["suspect"], record(jobs).status) == ("scheduled", "no_update", "scheduled")


def test_only_the_lines_of_the_last_launch_are_quoted(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """The log of a job keeps those of earlier launches."""
    launch(BROKEN)
    site = Path("site/sitecustomize.py")
    site.write_text(site.read_text().replace("fatal: the interpreter has no encodings", "second"))
    env = {**environment(cli), "PYTHONPATH": str(site.parent)}
    subprocess.run(command("resume", "job"), env=env, check=True, capture_output=True)
    runner = json.loads(JobDir.for_job("job", cli.env).runner.read_text())
    until(lambda: not is_alive(runner["pid"]), "the runner to end")
    cli.ok("status", "job")
    assert record(jobs).error_message == "The runner ended before its first report: second" + MISSING


@pytest.mark.parametrize(
    "words", [("cancel", "job"), ("cancel", "--name", "job", "--yes"), ("status", "job"), ("list",), ("resume", "job")]
)
def test_a_job_whose_runner_is_lost_is_cancelled_with_what_it_kept(
    cli: Cli, jobs: JobRegistry, launch: Launch, words: tuple[str, ...]
) -> None:
    """On this machine or, before another command looks, on another one. Its end is that of its user in each view."""
    launch(KILLED)
    with contextlib.closing(SQLiteVersionedStore(JobDir.for_job("job", cli.env).outbox)) as outbox:
        store_outputs(outbox, load_manifest(jobs.store, "job"), 1)
    assert "1 job; nothing was done." in cli.ok("cancel", "--name", "job", "--dry-run").err
    if words[0] != "cancel":
        jobs.cancel_job("job")
    ran = cli.ok(*words)
    assert (record(jobs).status, record(jobs).tasks_completed) == ("cancelled", 1)
    assert ("job: its runner has ended\n" in ran.err) == (words[0] == "cancel")
    assert cli("wait", "job").code == 103


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("wait", "job"),
    ],
)
def test_a_job_with_all_outputs_succeeds_though_none_reported(
    cli: Cli, jobs: JobRegistry, launch: Launch, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runner was killed when all was stored. The end is one write, with each step to it. None looks twice."""
    launch(KILLED)
    monkeypatch.setattr(cli.clock, "sleep", Mock(side_effect=KeyboardInterrupt))
    store_outputs(jobs.store, load_manifest(jobs.store, "job"), 2)
    before = record(jobs).revision
    assert cli(*words).code in (0, 130)
    state = record(jobs)
    assert (state.status, state.tasks_completed, state.tasks_verified, state.error_code) == ("succeeded", 2, 2, None)
    assert [step["status"] for step in state.transitions[2:]] == ["scheduled", "running", "validating", "succeeded"]
    assert state.revision == before + 1
    assert cli("wait", "job").code == 0


@pytest.mark.parametrize("words", [("validate", "job"), ("resume", "job")])
def test_outputs_correct_an_end_that_was_inferred(
    cli: Cli, jobs: JobRegistry, launch: Launch, words: tuple[str, ...]
) -> None:
    """They came after it, from another machine for example. Record and events keep both ends, at the time of the first.

    Without new outputs, nothing is written.
    """
    launch(KILLED)
    cli.ok("status", "job")
    failed = record(jobs)
    cli("validate", "job")
    assert (failed.status, record(jobs)) == ("failed", failed)
    store_outputs(jobs.store, load_manifest(jobs.store, "job"), 2)
    ran = cli.ok(*words)
    text = "corrected from failed (LAUNCH) to succeeded: 2 of 2 tasks have left complete outputs"
    assert f"job: {text}\n" in ran.err
    state = record(jobs)
    assert (state.status, state.tasks_completed, state.error_code, state.error_message) == ("succeeded", 2, None, None)
    assert [step["status"] for step in state.transitions[-2:]] == ["failed", "succeeded"]
    assert state.transitions[-1]["at"] == failed.transitions[-1]["at"]
    assert text in cli.ok("events", "job").out
    assert [job["status"] for job in cli.ok("list", "--json").json["jobs"]] == ["succeeded"]
    assert cli("wait", "job").code == 0


def test_resume_counts_the_kept_outputs_that_it_delivers(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """The end of the job was inferred before. A child runs the other task alone."""
    launch(KILLED)
    cli.ok("status", "job")
    with contextlib.closing(SQLiteVersionedStore(JobDir.for_job("job", cli.env).outbox)) as outbox:
        store_outputs(outbox, load_manifest(jobs.store, "job"), 1)
    assert cli.ok("resume", "job").out == "job.2\n"
    assert (record(jobs).status, record(jobs).tasks_completed) == ("partial", 1)
    assert cli("wait", "job.2").code in (0, 100)


def test_all_views_count_the_outputs_of_a_job_that_none_reported(cli: Cli, jobs: JobRegistry, launch: Launch) -> None:
    """Its runner was killed when 32 of 40 outputs were stored. A child runs the other tasks."""
    Path("study.json").write_text(json.dumps(study(sets_of(40)).to_dict()))
    launch(KILLED)
    cli.clock.moment = utc_now()  # that of the runner: else the job would end after each look at its tasks
    store_outputs(jobs.store, load_manifest(jobs.store, "job"), 32)
    shown = cli.ok("status", "job").out
    assert "] 32/40 tasks, 80 %\n" in shown
    assert "when it ended, 32 verified, 8 tasks missing" in shown
    [listed] = cli.ok("list", "--json").json["jobs"]
    assert [listed[name] for name in ("status", "tasks_completed", "tasks_failed")] == ["partial", 32, 0]
    tasks = [json.loads(line)["outcome"] for line in cli.ok("tasks", "job", "--jsonl").lines]
    assert tasks == ["succeeded"] * 32 + ["missing"] * 8
    assert cli.ok("failures", "job", "--json").json["failed"] == 0
    assert cli.ok("validate", "job").out == "job: 32 of 40 tasks verified; partial\n"
    assert cli("wait", "job").code == 104
    assert cli.ok("resume", "job").out == "job.2\n"
    assert cli("wait", "job.2").code == 0
    assert "] 40/40 tasks, 100 %, in 2 jobs" in cli.ok("status", "job.2").out
    assert record(jobs, "job.2").tasks_total == 8


@pytest.mark.parametrize(
    ("status", "fields"),
    [("failed", {"error_code": "MODEL"}), ("failed", {}), ("cancelled", {}), ("partial", {"error_code": "INCOMPLETE"})],
)
def test_an_end_that_was_stated_is_never_corrected(
    cli: Cli, jobs: JobRegistry, launch: Launch, status: str, fields: dict[str, str]
) -> None:
    """A runner, a user or a program of ModelOps stated it. The counts of a cancelled job follow its outputs."""
    launch(KILLED)
    jobs.update_status("job", status, **fields)
    ended = record(jobs)
    store_outputs(jobs.store, load_manifest(jobs.store, "job"), 2)
    cli("validate", "job")
    cli("resume", "job")
    found = record(jobs)
    if status == "cancelled":
        ended = dataclasses.replace(ended, tasks_completed=2, write_id=found.write_id, revision=found.revision)
    assert found == ended


def test_a_reader_who_may_not_write_still_sees_the_job(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` warns; `wait` ends, since nothing it could wait for will happen."""
    directory = JobDir.for_job("job", cli.env)
    directory.path.mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    directory.runner.write_text(json.dumps({**runner_process.note_of(ended.pid), "log_begin": 0}))
    remote.put(key("job"), foreign("job", "scheduled", engine="local"))
    monkeypatch.setattr(remote.store, "put", Mock(side_effect=StoreAccessError("The registry does not permit this.")))
    ran = cli.ok("status", "job", "--refresh")
    assert "scheduled" in ran.out
    assert "The runner of job job has ended, and its record stays: " in ran.err
    (listed,) = cli.ok("list", "--stuck", "--json").json["jobs"]
    assert (listed["status"], listed["suspect"]) == ("scheduled", "runner_ended")
    assert cli("wait", "job").code == 4


@pytest.mark.usefixtures("launch")
def test_a_runner_that_cannot_be_started_fails_the_submission(
    cli: Cli, jobs: JobRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the program, not the disk."""
    monkeypatch.setattr(local, "command", lambda: ["/no/such/program"])
    ran = cli("submit", "study.json", "--auto", "--job-id", "job")
    message = "The runner cannot be started with /no/such/program: No such file or directory."
    assert (ran.code, sentences(ran.err)) == (1, [f"error: {message}"])
    assert (record(jobs).status, record(jobs).error_message) == ("failed", message)
