"""`resume` of a job that ran on this machine, with real runners; `--only` chooses among the missing tasks."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import mopsjobs as mj
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.utils.measurement import read_parents
from mopsjobs.utils.times import parse_time, utc_now
from support.checkpoints import STEPS, steps_of, undisturbed
from support.cli import Cli, Remote, add, command, sentences
from support.desk import Desk
from support.docs import ROOT
from support.existing import existing
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import (
    HOG,
    MIB,
    PATIENCE,
    callers,
    calls,
    code,
    is_alive,
    kill,
    kill_between_reports,
    place,
    record,
    sets_of,
    study,
    until,
)


def test_resuming_a_partial_job_submits_only_what_is_missing_as_its_child(desk: Desk) -> None:
    noted, mended = desk.home.with_name("calls"), desk.home.with_name("mended")
    sets = sets_of(6, calls=str(noted))
    for number in (1, 4):
        sets[number]["needs"] = str(mended)
    desk.run("partial", sets, "--owner", "me", "--label", "exp=7")
    mended.touch()
    desk.ok("label", "job", "archived=true")  # the child is not archived
    ran = desk.ok("resume", "job", "--json")
    child = ran.json["job_id"]
    assert ran.json == {"job_id": child, "parent_job_id": "job"}
    assert child != "job"
    assert desk.ended(child) == "succeeded"
    state = record(desk.jobs, child)
    assert (state.parent_job_id, state.owner, state.labels) == ("job", "me", {"exp": "7"})
    assert (state.tasks_total, state.tasks_completed, state.tasks_verified) == (2, 2, 2)
    assert calls(noted) == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1}
    assert record(desk.jobs).status == "partial"
    assert sorted(json.loads(value)["x"] for value in desk.results(child).values()) == [1, 4]


def test_a_resume_that_waits_ends_as_wait_does(desk: Desk) -> None:
    """Its exit code and its last line are those of `wait`; the id is printed, as without `--wait`."""
    mended = desk.home.with_name("mended")
    sets = sets_of(2)
    sets[1]["needs"] = str(mended)
    desk.run("partial", sets)
    failed = desk("resume", "job", "--wait")
    assert (failed.code, failed.out) == (100, "job.2\n")
    assert "job.2: 1 task to do; a child of job, which has ended\n" in failed.err
    assert failed.err.endswith("\nNext: mops-jobs failures job.2\n")
    mended.touch()
    ran = desk.ok("resume", "job.2", "--wait", "--json")
    assert ran.json == {"job_id": "job.3", "parent_job_id": "job.2"}
    assert "job.3: succeeded, 1/1 tasks\n" in ran.err
    assert ran.err.endswith("\nNext: mops-jobs results job.3 --download DIR\n")


def test_resuming_a_job_that_lacks_nothing_starts_nothing(desk: Desk) -> None:
    desk.run("succeeded", sets_of(1))
    for argv in ([], ["--wait"]):
        ran = desk.ok("resume", "job", *argv)
        assert (ran.out, ran.err) == ("", "job: nothing is missing\n")
    assert desk.ok("resume", "job", "--json").json == {"job_id": None, "parent_job_id": None}
    assert [state.job_id for state in desk.jobs.list_jobs()] == ["job"]


def test_a_job_whose_runner_was_killed_goes_on_itself(desk: Desk) -> None:
    """No output that was stored is computed again, nothing is lost, and the launch makes the job suspect no longer."""
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    sets = sets_of(12, calls=str(noted))
    for one in sets[6:]:
        one["gate"] = str(gate)
    desk.submit(sets)
    desk.until(lambda: len(desk.results()) == 6, "half of the outputs")
    desk.until(lambda: sum(calls(noted).values()) == 8, "two tasks that wait")
    refused = desk("resume", "job")
    assert (refused.code, sentences(refused.err)) == (6, ["error: Job job is still running: nothing to resume."])
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    desk.jobs.update_fields("job", metadata={"suspect": {"reason": "no_update"}})
    before = {entry.key: entry.version for entry in desk.store.scan(results_prefix("job"))}
    until(lambda: not [pid for pid in callers(noted) if is_alive(pid)], "its workers to end by themselves")
    gate.touch()
    assert desk.ok("resume", "job", "--json").json == {"job_id": "job", "parent_job_id": None}
    assert desk.ended() == "succeeded"
    assert record(desk.jobs).metadata["suspect"] is None
    made = calls(noted)
    assert made.keys() == set(range(12))
    assert {number: made[number] for number in range(6)} == dict.fromkeys(range(6), 1)
    assert record(desk.jobs).tasks_verified == 12
    after = {entry.key: entry.version for entry in desk.store.scan(results_prefix("job"))}
    assert {key: after[key] for key in before} == before


def test_a_runner_that_was_started_elsewhere_is_asked_about(desk: Desk) -> None:
    """Nothing here tells whether it is at work. Without a terminal, only `--yes` starts a second one."""
    gate, noted, elsewhere = desk.home.with_name("gate"), desk.home.with_name("calls"), str(desk.home / "elsewhere")
    desk.submit(sets_of(2, gate=str(gate), calls=str(noted)))
    desk.until(lambda: sum(calls(noted).values()) == 2, "both tasks to begin")
    ran = desk("resume", "job", XDG_STATE_HOME=elsewhere)
    assert (ran.code, ran.out) == (6, "")
    assert sentences(ran.err) == [
        "error: The runner of job job was not launched here. If it is at work, its tasks would run twice."
    ]
    assert "If it has died, add --yes" in ran.err
    assert sum(calls(noted).values()) == 2
    kill(desk.runner())
    gate.touch()
    desk.ok("resume", "job", "--yes", XDG_STATE_HOME=elsewhere)
    until(lambda: record(desk.jobs).status == "succeeded", "the end of the job")
    assert sum(calls(noted).values()) == 4


def test_a_job_that_has_not_ended_keeps_its_tasks_and_its_id(desk: Desk) -> None:
    """Its manifest is written, so that a choice would have no effect."""
    gate = desk.home.with_name("gate")
    desk.submit([{"x": 0, "gate": str(gate)}])
    ran = desk("resume", "job", "--only", "oom")
    assert (ran.code, [state.job_id for state in desk.jobs.list_jobs()]) == (2, ["job"])
    assert sentences(ran.err)[0] == "error: Job job has not ended: it continues with all its tasks."
    gate.touch()
    assert desk.ended() == "succeeded"


def test_a_child_whose_runner_was_killed_still_leaves_what_was_not_chosen(desk: Desk) -> None:
    """And `resume` counts only what it runs."""
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    gate.touch()
    sets = sets_of(2)
    sets[0]["fail"] = True
    sets[1] |= {"calls": str(noted), "gate": str(gate), "die": str(desk.home.with_name("died"))}
    desk.run("failed", sets, "--retries", "0")
    gate.unlink()
    child = desk.ok("resume", "job", "--only", "died", "--json").json["job_id"]
    desk.until(lambda: calls(noted) == {1: 2}, "the chosen task to run", child)
    kill(desk.runner(child))
    until(lambda: not is_alive(desk.runner(child)), "the runner to be gone")
    gate.touch()
    assert f"{child}: 1 task to do" in desk.ok("resume", child).err
    assert desk.ended(child) == "partial"


def test_resuming_what_is_no_job_or_was_never_submitted_says_so(cli: Cli, jobs: JobRegistry) -> None:
    assert cli("resume", "nothing").code == 3
    assert not JobDir.for_job("nothing", cli.env).path.exists()
    add(jobs, "job", "failed")
    ran = cli("resume", "job")
    assert (ran.code, sentences(ran.err)) == (6, ["error: Job job has no manifest: mops-jobs did not submit it."])


def _interpreter(desk: Desk) -> Path:
    """Return a Python of its own, told by its path."""
    link = desk.home.with_name("env") / "python"
    link.parent.mkdir()
    link.symlink_to(sys.executable)
    return link


def test_a_job_goes_on_as_it_was_submitted(desk: Desk) -> None:
    """The record tells the interpreter, the workers and the time limit; flags go before them."""
    link, mended = _interpreter(desk), desk.home.with_name("mended")
    desk.run("failed", sets_of(2, needs=str(mended)), "--python", str(link), "--task-timeout", "90s")
    told = {"local_python": str(link), "local_workers": "2", "local_task_timeout": "90"}
    assert record(desk.jobs).metadata.items() >= told.items()
    mended.touch()
    ran = desk.ok("resume", "job", "--workers", "1")
    assert (ran.out, ran.err) == (
        "job.2\n",
        "job.2: 2 tasks to do; a child of job, which has ended\nNext: mops-jobs wait job.2\n",
    )
    assert desk.ended("job.2") == "succeeded"
    assert record(desk.jobs, "job.2").metadata.items() >= {**told, "local_workers": "1"}.items()


def test_an_interpreter_that_is_gone_is_told_and_nothing_is_changed(desk: Desk) -> None:
    link = _interpreter(desk)
    desk.run("failed", sets_of(1, needs="/nowhere"), "--python", str(link))
    link.unlink()
    before = list(desk.store.list_keys("jobs/"))
    ran = desk("resume", "job")
    told = f"error: The interpreter of an earlier launch, {link}, does not exist."
    assert (ran.code, sentences(ran.err)) == (2, [told])
    assert "--python PATH" in ran.err
    assert list(desk.store.list_keys("jobs/")) == before


def test_a_parent_is_resumed_once_and_names_its_child(desk: Desk) -> None:
    """While the child is at work, when it has ended well, and when it has not; the child's child is numbered on."""
    mended = desk.home.with_name("mended")
    desk.run("failed", sets_of(2, needs=str(mended)))
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "failed"
    ran = desk("resume", "job")
    assert (ran.code, ran.err) == (
        6, "error: Job job was resumed as job.2, which is failed.\nhint: Run: mops-jobs resume job.2\n",
    )  # fmt: skip
    mended.touch()
    assert desk.ok("resume", "job.2").out == "job.3\n"
    assert desk.ended("job.3") == "succeeded"
    ran = desk("resume", "job.2")
    assert (ran.code, ran.err.splitlines()[-1]) == (6, "hint: Run: mops-jobs results job.3")
    ran = desk("resume", "job")  # its child was resumed too, so to resume that would be refused
    assert (ran.code, ran.err) == (
        6,
        "error: Job job was resumed as job.2 and job.3, which is succeeded.\nhint: Run: mops-jobs results job.3\n",
    )


def test_resume_auto_runs_the_code_of_the_current_directory(desk: Desk) -> None:
    """Without it, the code is the one that was submitted."""
    good = (desk.home / "model.py").read_text()
    code(desk.home, "def simulate(params, seed):\n    raise ValueError('broken')\n")
    desk.run("failed", sets_of(2))
    code(desk.home, good)
    desk.ok("resume", "job")
    assert desk.ended("job.2") == "failed"
    desk.ok("resume", "job.2", "--auto")
    assert desk.ended("job.3") == "succeeded"
    assert record(desk.jobs, "job.3").metadata["bundle"] != record(desk.jobs).metadata["bundle"]


def test_a_second_runner_is_refused_and_the_first_goes_on(desk: Desk) -> None:
    """Two starters count as one; the lock is gone with the process that has it, even if that is killed."""
    gate, noted = desk.home.with_name("gate"), desk.home.with_name("calls")
    desk.submit(sets_of(2, gate=str(gate), calls=str(noted)))
    desk.until(lambda: sum(calls(noted).values()) == 2, "both tasks to begin")
    ran = desk("run", "job", "--workers", "1")
    assert (ran.code, ran.err) == (6, "error: Another runner of job job is at work on this machine.\n")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    by_hand = subprocess.Popen(command("run", "job", "--workers", "1"), env=desk.env, stderr=subprocess.DEVNULL)
    with by_hand:
        until(lambda: sum(calls(noted).values()) > 2, "the one started by hand to begin")
        again = desk("resume", "job")
        assert (again.code, sentences(again.err)) == (6, ["error: Job job is still running: nothing to resume."])
        gate.touch()
    assert by_hand.returncode == 0
    assert record(desk.jobs).status == "succeeded"


def test_a_model_that_is_broken_later_does_not_take_away_what_is_complete(desk: Desk) -> None:
    """The job then ends by its outputs: partial. The interpreter is one that has ended to work."""
    noted, gate = desk.home.with_name("calls"), desk.home.with_name("gate")
    sets = sets_of(2, calls=str(noted))
    sets[1]["gate"] = str(gate)
    desk.submit(sets)
    desk.until(lambda: len(desk.results()) == 1 and sum(calls(noted).values()) == 2, "one output")
    kill(desk.runner())
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    broken = desk.home.with_name("broken")
    broken.write_text(f'#!/bin/sh\n[ "${{2##*/}}" = script.py ] && exec {sys.executable} "$@"\nexit 1\n')
    broken.chmod(0o755)
    desk("run", "job", "--python", str(broken))
    state = record(desk.jobs)
    assert (state.status, state.error_code, state.tasks_verified) == ("partial", "INCOMPLETE", 1)
    assert "the first error: The model's interpreter ends before it is ready" in str(state.error_message)
    gate.touch()


def test_a_job_in_an_outage_says_that_it_waits_and_goes_on_by_resume(desk: Desk) -> None:
    """Nothing of the job is anywhere but on this machine. When the registry answers, `resume` delivers it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}/account"
        secret = f"AccountName=account;AccountKey=a2V5;BlobEndpoint={endpoint};"
        env = {**desk.env, "MOPS_JOBS_REGISTRY": f"{endpoint}/jobs", "AZURE_STORAGE_CONNECTION_STRING": secret}
        path, noted = desk.write(sets_of(1, calls=str(desk.home.with_name("calls")))), desk.home.with_name("calls")
        words = command("submit", path, "--auto", "--job-id", "job", "--workers", "1", "--wait")
        with subprocess.Popen(words, env=env, cwd=desk.home, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            told = "The registry does not answer; waiting up to 1h. Ctrl-C keeps what is done here.\n"
            assert told in iter(running.stderr.readline, "")
            until(lambda: calls(noted), "the task to be worked on")
            running.send_signal(signal.SIGINT)
            err = running.communicate(timeout=PATIENCE)[1]
        assert running.returncode == 130, err
        assert err.endswith("To continue: mops-jobs resume job\n")
        assert desk("resume", "job", **env).code == 5
    assert calls(noted) == {0: 1}
    kept = JobDir.for_job("job", desk.env).path
    begun = parse_time((kept / "shard-0.began").read_text())
    assert parse_time((kept / "submitted_at").read_text()) < begun < utc_now()
    long_ago = begun - timedelta(hours=1)
    (kept / "shard-0.began").write_text(long_ago.isoformat())
    (kept / "submitted_at").write_text((long_ago - timedelta(minutes=1)).isoformat())
    desk.ok("resume", "job")
    assert desk.ended() == "succeeded"
    at = {step["status"]: parse_time(step["at"]) for step in record(desk.jobs).transitions}
    assert parse_time(record(desk.jobs).created_at) == at["pending"] == long_ago - timedelta(minutes=1)
    assert (at["running"], at["succeeded"] > begun) == (long_ago, True)
    assert calls(noted) == {0: 1}


def test_a_job_whose_record_was_never_written_is_found_by_its_manifest(desk: Desk) -> None:
    """Its runner had brought the manifest to the registry, and was ended before it could register."""
    place(desk.store, "job", study(sets_of(2)), desk.home)
    assert desk.ok("resume", "job", "--workers", "1").out == "job\n"
    assert desk.ended() == "succeeded"


FAILING_HOG = HOG.replace(
    "    block = ",
    '    if not os.path.exists(params.get("needs", "/")):\n        raise ValueError("as asked")\n    block = ',
)


def _attempts(desk: Desk) -> list[tuple[str, int, int, str]]:
    rows = desk.ok("query", "--json", "SELECT job_id, task, attempt, outcome FROM attempts ORDER BY 1, 2, 3").json
    return [tuple(row) if isinstance(row, list) else tuple(row.values()) for row in rows["rows"]]


def test_tasks_without_enough_memory_are_run_again_with_more(desk: Desk) -> None:
    """The neighbours run once. What is not chosen is left to a later resume, and nothing of the study is lost.

    The child's launch is recorded, so its own resume has the grown limit.
    """
    noted, mended = desk.home.with_name("calls"), desk.home.with_name("mended")
    code(desk.home, FAILING_HOG)
    sets = sets_of(5, calls=str(noted))
    sets[0]["bytes"] = 300 * MIB
    sets[1]["bytes"] = 700 * MIB
    sets[3]["needs"] = str(mended)
    desk.submit(sets, "--task-memory", "200MiB", "--retries", "1", "--retry-on", "oom", "--python", sys.executable)
    assert desk.ended() == "partial"
    desk.ok("list")
    following = "Next: mops-jobs resume job --only oom --memory x"
    assert following in desk("wait", "job").err
    assert following in desk.ok("status", "job").err
    assert "resume job --only oom --memory x" in desk.ok("failures", "job").out
    child = desk.ok("resume", "job", "--only", "oom", "--memory", "x5", "--json").json["job_id"]
    assert desk.ended(child) == "partial"
    state = record(desk.jobs, child)
    assert (state.tasks_total, state.tasks_completed, state.tasks_failed) == (1, 1, 0)
    assert state.metadata["local_task_memory"] == "1000MiB"
    assert (state.metadata["local_retries"], state.metadata["local_retry_on"]) == ("1", "oom")
    assert state.error_message == "left to a later resume: 1 task"
    mended.touch()
    last = desk.ok("resume", child, "--only", "failed", "--json").json["job_id"]
    assert desk.ended(last) == "succeeded"
    assert record(desk.jobs, last).metadata["local_task_memory"] == "1000MiB"
    assert calls(noted) == {0: 2, 1: 3, 2: 1, 3: 2, 4: 1}
    for job in ("job", child, last):
        desk.ok("tasks", job)
    assert [row[1:] for row in _attempts(desk) if row[0] == "job"] == [
        (0, 1, "oom"),
        (0, 2, "succeeded"),
        (1, 1, "oom"),
        (1, 2, "oom"),
        (2, 1, "succeeded"),
        (3, 1, "failed"),
        (4, 1, "succeeded"),
    ]
    assert [row for row in _attempts(desk) if row[0] != "job"] == [
        (child, 1, 1, "succeeded"),
        (last, 3, 1, "succeeded"),
    ]


def test_every_view_counts_the_tasks_that_a_child_runs(desk: Desk) -> None:
    """Those that it leaves to a later resume are named apart, and count in the sum of the family."""
    mended = desk.home.with_name("mended")
    sets = sets_of(6)
    sets[1]["needs"] = sets[2]["needs"] = str(mended)
    sets[3]["always_die"] = True
    desk.run("partial", sets, "--retries", "0")
    mended.touch()
    child = desk.ok("resume", "job", "--only", "failed", "--json").json["job_id"]
    assert desk.ended(child) == "partial"
    row = next(one for one in desk.ok("list", "--json").json["jobs"] if one["job_id"] == child)
    shown = {name: row[name] for name in ("tasks_total", "tasks_completed", "tasks_failed", "progress")}
    assert shown == {"tasks_total": 2, "tasks_completed": 2, "tasks_failed": 0, "progress": 1.0}
    assert desk("wait", child, "--json").json["tasks_total"] == 2
    told = desk.ok("status", child).out
    assert "2/2 tasks, 100 %" in told
    assert "Deferred   1 task, left to a later resume\n" in told
    assert "5/6 tasks, 83 %, in 2 jobs" in told
    assert "2 verified, 0 missing" in told
    tasks = desk.ok("tasks", child, "--json").json
    assert (tasks["tasks_total"], [task["task"] for task in tasks["tasks"]]) == (2, [1, 2])
    assert "2 of 2 tasks" in desk.ok("validate", child).out
    assert desk.ok("failures", child, "--json").json["groups"] == []
    rows = csv.DictReader(desk.ok("results", child, "--table", "-").lines)
    assert [row["job_id"] for row in rows] == ["job", child, child, "job", "job", "job"]
    assert "job.3: 1 task to do" in desk.ok("resume", child).err


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tasks_are_chosen_by_the_key_of_their_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the Python API as by the command."""
    mended = desk.home.with_name("mended")
    sets = sets_of(4)
    sets[1]["needs"] = str(mended)
    sets[2]["always_die"] = True
    desk.run("partial", sets)
    ran = desk.ok("resume", "job", "--only", "timeout")
    assert (ran.out, ran.err) == ("", "job: no missing task has the outcome timeout\n")
    groups = desk.ok("failures", "job", "--json").json["groups"]
    (key,) = (group["key"] for group in groups if group["type"] == "ValueError")
    mended.touch()
    for name in os.environ.keys() - desk.env.keys():
        monkeypatch.delenv(name)
    for name, value in desk.env.items():
        monkeypatch.setenv(name, value)
    with mj.connect() as registry:
        child = existing(registry.job("job").resume(only=key, retries=0, task_timeout=60))
        assert desk.ended(child.id) == "partial"
        assert [json.loads(value)["x"] for value in desk.results(child.id).values()] == [1]
        following = existing(child.resume(only=["died", "failed"], task_timeout="x2"))
        assert desk.ended(following.id) == "failed"
    state = record(desk.jobs, following.id)
    assert (state.tasks_total, state.metadata["local_task_timeout"], state.metadata["local_retries"]) == (1, "120", "0")


@pytest.mark.parametrize("is_removed", [True, False], ids=["removed", "damaged"])
def test_ends_that_no_ledger_tells_are_told_as_unknown(cli: Cli, remote: Remote, *, is_removed: bool) -> None:
    """`prune --store` has removed the ledger, and this cache is new. Nothing says that no task has failed."""
    manifest = add_job(remote.jobs, "job", sets_of(5))
    ledger = Ledger(remote.store.inner)
    chunks = [ledger(attempt(0), attempt(1, "failed")), ledger(attempt(2, "oom"), attempt(3, "failed"))]
    leave_outputs(remote.store, manifest, 0)
    remote.jobs.update_status("job", "partial", tasks_completed=1, tasks_failed=3)
    for chunk in chunks:
        remote.store.delete(chunk)
    if not is_removed:
        remote.put(chunks[0], b"damaged")
    ran = cli("resume", "job", "--only", "failed")
    assert (ran.code, ran.out) == (7, "")
    assert sentences(ran.err) == [
        "warning: How 4 missing tasks ended is not known: no ledger tells it.",
        "job: no missing task is known to have the outcome failed",
    ]


def test_a_runner_that_died_with_all_tasks_done_only_ends_its_job(desk: Desk) -> None:
    """The record does not tell of the end. So the job goes on, and no task is left for it."""
    desk.run("succeeded", sets_of(2))
    until(lambda: not is_alive(desk.runner()), "the runner to be gone")
    key = desk.jobs.key_of("job")
    stored = existing(desk.store.get(key))
    document = json.loads(stored.value)
    document |= {"status": "running", "transitions": document["transitions"][:4]}
    assert desk.store.put(key, json.dumps(document).encode(), stored.version)
    ran = desk.ok("resume", "job")
    assert "job: no task is left to run; restarted under its own id, since it had not ended\n" in ran.err
    assert desk.ended() == "succeeded"


KILLED, STOPPED = signal.SIGKILL, signal.SIGTERM


@pytest.fixture
def steps(desk: Desk, tmp_path: Path) -> Path:
    """Return the file with the steps of the model of the desk."""
    desk.env["PYTHONPATH"] = str(ROOT)
    code(desk.home, STEPS)
    return tmp_path / "steps"


@pytest.mark.parametrize("number", [KILLED, STOPPED])
def test_a_child_goes_on_where_a_runner_was_ended(desk: Desk, steps: Path, number: int) -> None:
    """A killed one loses the steps since the last checkpoint, and one that is told to stop none."""
    gate = steps.with_name("gate")
    sets = sets_of(1, steps=str(steps), steps_total=40, every=10, gates={"25": str(gate)})
    desk.submit(sets, "--grace", "5m")
    desk.until(gate.with_name("gate-reached").exists, "the task to be in the middle")
    journal = JobDir.for_job("job", desk.env).ledger(0)  # the attempt is noted a moment after its first step
    desk.until(lambda: any(path.stat().st_size for path in journal.glob("*")), "the runner to note the attempt")
    pid = desk.runner()
    ended = [pid, *(child for child, (parent, _) in read_parents().items() if parent == pid)]
    if number == KILLED:
        kill_between_reports(pid, JobDir.for_job("job", desk.env), lambda: record(desk.jobs).heartbeat_at)
    else:
        os.kill(pid, number)
    until(lambda: not any(map(is_alive, ended)), "the runner and its worker to end")
    gate.touch()
    assert desk.ok("status", "job", "--json").json["status"] == "failed"
    assert [task["outcome"] for task in desk.ok("tasks", "job", "--json").json["tasks"]] == [
        "lost" if number == KILLED else "preempted"
    ]
    child = desk.ok("resume", "job", *(["--only", "preempted"] if number == STOPPED else [])).out.strip()
    assert desk.ended(child) == "succeeded"
    again = range(20 if number == KILLED else 26, 40)
    assert steps_of(steps) == {0: [*range(26), *again]}
    assert desk.results(child) == undisturbed(sets)
    (task,) = desk.ok("tasks", child, "--json").json["tasks"]
    assert (task["outcome"], task["resumed_at"], task["resumes"]) == ("succeeded", str(again[0]), 1)
    assert not list(Path(desk.env["HOME"]).rglob("checkpoints/*"))


def test_views_say_where_a_task_went_on(desk: Desk, steps: Path) -> None:
    """Tasks say it of the last attempt, and the status how much was not repeated."""
    desk.submit(sets_of(1, steps=str(steps), steps_total=40, every=10, die=[15, 25], pause=0.002), "--retries", "2")
    assert desk.ended() == "succeeded"
    (task,) = desk.ok("tasks", "job", "--json").json["tasks"]
    assert (task["attempt"], task["resumed_at"], task["resumes"]) == (3, "20", 2)
    assert "RESUMED" in (table := desk.ok("tasks", "job").out)
    assert ", twice" in table
    saved = desk.ok("status", "job", "--json").json["saved_seconds"]
    assert saved >= task["resumed_seconds"] > 0
    assert "CPU saved by checkpoints: about" in desk.ok("status", "job").out


def test_an_attempt_that_takes_too_long_goes_on_from_its_checkpoint(desk: Desk, steps: Path) -> None:
    """The limit of an attempt is for each anew. On a busy machine, some may end before they reach the gate."""
    gate = steps.with_name("gate")
    desk.submit(
        sets_of(1, steps=str(steps), steps_total=40, every=10, gates={"25": str(gate)}),
        *("--attempt-timeout", "3s", "--retries", "99", "--retry-on", "timeout"),
    )
    desk.until(lambda: steps.exists() and steps_of(steps)[0].count(25) > 1, "the second attempt")
    gate.touch()
    assert desk.ended() == "succeeded"
    (task,) = desk.ok("tasks", "job", "--json").json["tasks"]
    assert (task["outcome"], task["resumed_at"] in ("20", "30")) == ("succeeded", True)
    made = steps_of(steps)[0]
    assert made[made.index(25) + 1] == 20
    assert all(step in (before + 1, before // 10 * 10) for before, step in pairwise(made))


def test_a_cancellation_with_a_grace_lets_tasks_save(desk: Desk, steps: Path) -> None:
    """Its runner reads that in the record, saves and stops, and only then the job is cancelled."""
    gate = steps.with_name("gate")
    sets = sets_of(1, steps=str(steps), steps_total=40, every=100, gates={"25": str(gate)})
    desk.submit(sets)
    desk.until(gate.with_name("gate-reached").exists, "the task to be in the middle")
    assert "Tasks with checkpoints may save, up to 5m." in desk.ok("cancel", "job", "--grace", "5m").err
    assert desk.ended() == "cancelled"
    gate.touch()
    child = desk.ok("resume", "job").out.strip()
    assert desk.ended(child) == "succeeded"
    assert steps_of(steps) == {0: [*range(40)]}


SUMMARISE = """
def summarise(params, tasks):
    return {"sum": sum(task.json()["total"] for task in tasks)}
"""


@pytest.mark.parametrize(
    ("count", "fields"),
    [
        (1, {"n_replicates": {"min": 4, "max": 8, "until": {"total": {"confidence": 0.95, "absolute": 1e-9}}}}),
        (2, {"n_replicates": 2, "reduce": "model:summarise"}),
    ],
    ids=["adaptive", "reduced"],
)
def test_tasks_that_died_leave_what_others_would(desk: Desk, steps: Path, count: int, fields: dict[str, Any]) -> None:
    """With adaptive replicates or a reduction. The second job finds the marks of the first, and is undisturbed."""
    code(desk.home, STEPS + SUMMARISE)
    sets = sets_of(count, steps=str(steps), steps_total=40, every=10, die=[15, 25])
    for job_id in ("job", "again"):
        desk.submit(sets, "--retries", "2", job_id=job_id, **fields)
        assert desk.ended(job_id) == "succeeded"
    tasks = desk.ok("tasks", "job", "--json", "--limit", "0").json["tasks"]
    assert sum(task["resumes"] for task in tasks) == 2 * count
    assert len(steps_of(steps)) == count
    assert desk.results() == desk.results("again")
    assert not list(Path(desk.env["HOME"]).rglob("checkpoints/*"))
