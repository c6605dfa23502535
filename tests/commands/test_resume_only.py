"""`resume --only`: some of the missing tasks, with more memory or time, and the others later."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

import mopsjobs as mj
from support.cli import Cli, Remote, sentences
from support.desk import Desk
from support.ledgers import Ledger, add_job, attempt, leave_outputs
from support.runs import HOG, MIB, calls, code, is_alive, kill, record, sets_of, until

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
    desk.submit(sets, "--retries", "0")
    assert desk.ended() == "partial"
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
    desk.submit(sets)
    assert desk.ended() == "partial"
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
        child = registry.job("job").resume(only=key, retries=0, task_timeout=60)
        assert child is not None
        assert desk.ended(child.id) == "partial"
        assert [json.loads(value)["x"] for value in desk.results(child.id).values()] == [1]
        following = child.resume(only=["died", "failed"], task_timeout="x2")
        assert following is not None
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


def test_tasks_of_a_job_that_never_ran_have_no_outcome(cli: Cli, remote: Remote) -> None:
    add_job(remote.jobs, "job", sets_of(2), status="pending")
    remote.jobs.cancel_job("job")
    assert cli.ok("resume", "job", "--only", "failed").err == "job: no missing task has the outcome failed\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--retries", "two"], "invalid --retries 'two': expected a whole number from 0 to 100."),
        (["--retry-on", "oom,dead"], "invalid --retry-on 'dead': expected some of oom, timeout, died and error:TYPE,"),
        (["--task-memory", "2"], "invalid --task-memory '2': expected a size like 512MiB or 2GiB."),
    ],
)
def test_an_invalid_limit_is_one_sentence(cli: Cli, words: list[str], told: str) -> None:
    code(Path.cwd())
    Path("study.json").write_text(json.dumps({"model": "model:simulate", "parameter_sets": [{"x": 1}]}))
    ran = cli("submit", "study.json", "--auto", *words)
    (sentence,) = sentences(ran.err)
    assert (ran.code, ran.out) == (2, "")
    assert told in sentence


REFUSED = (
    ("--only fail", "error: invalid --only 'fail': expected one of failed, timeout, oom, died, lost, or the key"),
    ("--memory x2", "error: invalid --memory 'x2': expected a limit like 2GiB, since the job had none that"),
    ("--memory much", "error: invalid --memory 'much': expected a size like 2GiB, or a factor like x2."),
    ("--task-memory x1", "error: invalid --task-memory 'x1': expected a size like 2GiB, or a factor like x2."),
    ("--timeout x2", "error: invalid --timeout 'x2': expected a limit like 1h, since the job had none"),
    ("--timeout x0", "error: invalid duration 'x0': expected a number with s, m, h, d or w"),
)


def test_what_a_resume_cannot_grow_or_choose_is_one_sentence(desk: Desk) -> None:
    desk.submit([{"x": 0, "fail": True}])
    assert desk.ended() == "failed"
    ran = {words: desk("resume", "job", *words.split()) for words, _ in REFUSED}
    assert {words: one for words, one in ran.items() if (one.code, one.out) != (2, "")} == {}
    assert [ran[words].err for words, told in REFUSED if not ran[words].err.startswith(told)] == []
    assert [state.job_id for state in desk.jobs.list_jobs()] == ["job"]


def test_a_job_that_has_not_ended_keeps_its_tasks(desk: Desk) -> None:
    """Its manifest is written, so that a choice would have no effect."""
    gate = desk.home.with_name("gate")
    desk.submit([{"x": 0, "gate": str(gate)}])
    ran = desk("resume", "job", "--only", "oom")
    assert ran.code == 2
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
    desk.submit(sets, "--retries", "0")
    assert desk.ended() == "failed"
    gate.unlink()
    child = desk.ok("resume", "job", "--only", "died", "--json").json["job_id"]
    until(lambda: calls(noted) == {1: 2}, "the chosen task to run")
    kill(desk.runner(child))
    until(lambda: not is_alive(desk.runner(child)), "the runner to be gone")
    gate.touch()
    assert f"{child}: 1 task to do" in desk.ok("resume", child).err
    assert desk.ended(child) == "partial"
