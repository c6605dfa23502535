"""`logs --task` and `logs --failed`: the lines of some tasks of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.cli import Cli, Remote, add, during_sleeps, sentences
from support.events import Writer
from support.kubernetes import Api, kubeconfig, lines, log_path
from support.ledgers import Ledger, add_job, attempt

if TYPE_CHECKING:
    from pathlib import Path

ERROR = {"type": "ValueError", "message": "no", "traceback": "Traceback\nValueError: no"}


@pytest.fixture
def job(remote: Remote, write: Writer) -> None:
    """Leave the lines of a job of four tasks, of which task 2 failed."""
    add(remote.jobs, "job", "running")
    write("loading")
    write("a", task=0)
    write("b", "c", task=2)
    write("d", task=12)
    write("", kind="task_failed", task=2, error=ERROR)
    write("", kind="runner", error={"type": "E", "message": "of no task"})


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (("--task", "0"), ["[0] a"]),
        (("--task", "2"), ["[2] b", "[2] c", "[2] Traceback", "[2] ValueError: no"]),
        (("--task", "0, 12"), ["[0] a", "[12] d"]),
        (("--task", "0", "--task", "12"), ["[0] a", "[12] d"]),
        (("--task", "2", "--grep", "^b"), ["[2] b"]),
        (("--task", "0,2", "--tail", "2"), ["[2] c", "[2] Traceback", "[2] ValueError: no"]),
        (("--failed",), ["[2] b", "[2] c", "[2] Traceback", "[2] ValueError: no"]),
        (("--failed", "--grep", "^Val"), ["[2] Traceback", "[2] ValueError: no"]),
        (("--failed", "--task", "2,12", "--tail", "1"), ["[2] Traceback", "[2] ValueError: no"]),
    ],
)
def test_lines_are_chosen_by_their_task(cli: Cli, job: None, flags: tuple[str, ...], shown: list[str]) -> None:
    """By number, or since it failed; lines of no task are not among them."""
    assert cli.ok("logs", "job", *flags).lines == shown


def test_the_ledger_tells_of_tasks_without_an_event(cli: Cli, remote: Remote) -> None:
    """As a worker that was lost: its attempt is known, once the ledger was read."""
    add_job(remote.jobs, "job", [{"params": {"x": number}} for number in range(3)], status="running")
    Writer(remote.store.inner, cli.clock)("a", task=1)
    Ledger(remote.store.inner, "job")(attempt(0), attempt(1, "oom"))
    assert cli.ok("logs", "job", "--failed").out == ""
    cli.ok("tasks", "job")
    assert cli.ok("logs", "job", "--failed").lines == ["[1] a"]


def test_a_follower_of_a_task_shows_its_lines(cli: Cli, remote: Remote, write: Writer) -> None:
    """Those that are there, and those that come; the exit code is that of the job."""
    add(remote.jobs, "job", "running")
    write("a", task=1)
    during_sleeps(
        cli,
        _1=lambda: (write("b", task=2), write("c", task=1)),
        _2=lambda: (remote.jobs.update_status("job", "failed"), write("", kind="state", status="failed")),
    )
    ran = cli("logs", "job", "-f", "--task", "1")
    assert (ran.code, ran.lines) == (100, ["[1] a", "[1] c"])


def test_a_task_that_the_job_cannot_have_is_refused(cli: Cli, remote: Remote) -> None:
    """A follower would wait for its lines until the end. A child has some tasks of its study, by the same numbers."""
    manifest = add_job(remote.jobs, "job", [{"x": number} for number in range(3)], status="running")
    fields = {**manifest.record_fields(), "parent_job_id": "job", "tasks_total": 1}
    remote.jobs.register_job("child", **fields)
    for name in ("job", "child"):
        ran = cli("logs", name, "--task", "1,9999")
        assert (ran.code, ran.out, ran.err) == (2, "", f"error: invalid task '9999': job {name} has no such task.\n")
        assert cli.ok("logs", name, "--task", "2").out == ""


@pytest.mark.parametrize("flags", [("--task", "1"), ("--failed",)])
def test_a_cluster_is_not_asked_for_a_task(
    cli: Cli, remote: Remote, api: Api, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The lines of a pod name their task in their text only. The events have them too; a note says so."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    add(remote.jobs, "seir-1", "running", engine="kubernetes", k8s_name="seir-1", namespace="models")
    api.put_job(status={"active": 1, "ready": 1})
    api.answer(log_path(api.put_pod(0, "Running")), lines("[1] of the pod"))
    write = Writer(remote.store.inner, cli.clock, "seir-1")
    write("of the event", task=1)
    write("", kind="task_failed", task=1, error={"type": "E", "message": "m"})
    ran = cli.ok("logs", "seir-1", *flags)
    assert ran.lines == ["[1] of the event", "[1] E: m"]
    assert ran.err.strip() == "The cluster cannot select lines by task. Showing the events instead."
    assert api.requests("get", log_path("seir-1-0-0")) == []


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (("--task", "7"), "Job job has no log lines that match."),
        (("--failed",), "No task of job job is known to have failed yet."),
    ],
)
def test_tasks_without_lines_are_noted(
    cli: Cli, remote: Remote, write: Writer, flags: tuple[str, ...], note: str
) -> None:
    """On stderr, with exit code 0."""
    add(remote.jobs, "job", "running")
    write("a", task=1)
    ran = cli.ok("logs", "job", *flags)
    assert (ran.out, ran.err.strip()) == ("", note)


def test_an_outage_shows_no_other_lines_instead(cli: Cli, remote: Remote) -> None:
    """The log of the runner on this machine has no lines of a task."""
    add(remote.jobs, "job", "running", engine="local")
    from mopsjobs.engines.job_dir import JobDir

    directory = JobDir.for_job("job", cli.env)
    directory.path.mkdir(parents=True)
    directory.log.write_text("first\n")
    remote.store.down = True
    ran = cli("logs", "job", "--task", "1")
    assert (ran.code, ran.out) == (5, "")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--task", "x"), "invalid task 'x': expected the number of a task"),
        (("--task=-1",), "invalid task '-1'"),
        (("--task", "1,"), "invalid task '1,'"),
        (("--failed", "-f"), "--failed and --follow contradict each other"),
    ],
)
def test_wrong_tasks_are_refused(cli: Cli, job: None, flags: tuple[str, ...], words: str) -> None:
    """Exit code 2, one sentence."""
    ran = cli("logs", "job", *flags)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert words in ran.err


def test_odd_tasks_of_an_event_are_no_numbers(cli: Cli, remote: Remote, write: Writer) -> None:
    """Another writer may have put anything there."""
    add(remote.jobs, "job", "running")
    for task in (True, "2", 2.0, [2], None, {"a": 2}):
        write("a", task=task)
        write("", kind="task_failed", task=task, error=ERROR)
    for flags in (("--task", "1,2"), ("--failed",)):
        assert cli.ok("logs", "job", *flags).out == ""
