"""`register`, `update` and `progress`: scripts and pods report their jobs, and the rules that hold for them."""

from __future__ import annotations

import json

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore
from support.cli import Cli, Remote, add, foreign, key, put, sentences
from support.web import Web


def test_the_examples_of_the_help(cli: Cli, jobs: JobRegistry) -> None:
    """A script registers a job, tells its progress and its failure, each in one line."""
    assert cli.ok("register", "nightly-1", "--owner", "me", "--label", "exp=7").err == "nightly-1: pending\n"
    assert cli.ok("progress", "nightly-1", "5/10").err == "nightly-1: running, 5/10 tasks\n"
    ran = cli.ok("update", "nightly-1", "failed", "--error-code", "OOM", "--error", "killed at 12 GiB")
    assert (ran.out, ran.err) == ("", "nightly-1: failed, 5/10 tasks\n")
    job = jobs.get_job("nightly-1")
    assert job is not None
    assert (job.status, job.owner, dict(job.labels)) == ("failed", "me", {"exp": "7"})
    assert (job.error_code, job.error_message) == ("OOM", "killed at 12 GiB")
    assert [step["status"] for step in job.transitions] == ["pending", "submitting", "scheduled", "running", "failed"]


def test_every_field_can_be_reported(cli: Cli) -> None:
    """Each flag sets the field of the record that it names."""
    made = cli.ok(
        "register", "a", "--owner", "o", "--k8s-name", "k", "--namespace", "n", "--k8s-uid", "u", "--engine", "e",
        "--parent", "p", "--results", "r", "--total", "9", "--label", "x=1=2", "--label", "y=",
        "--metadata", '{"seed": 7}', "--json",
    ).json  # fmt: skip
    expected = {
        "owner": "o", "k8s_name": "k", "k8s_namespace": "n", "k8s_uid": "u", "engine": "e", "parent_job_id": "p",
        "results_path": "r", "tasks_total": 9, "labels": {"x": "1=2", "y": ""}, "metadata": {"seed": 7},
    }  # fmt: skip
    assert {name: made[name] for name in expected} == expected
    changed = cli.ok("update", "a", "--owner", "o2", "--label", "z=3", "--metadata", '{"b": 1}', "--json").json
    assert (changed["owner"], changed["status"]) == ("o2", "pending")
    assert changed["labels"] == {"x": "1=2", "y": "", "z": "3"}
    [change] = changed["metadata"].pop("label_history")
    assert (change["labels"], changed["metadata"]) == ({"z": "3"}, {"seed": 7, "b": 1})


def test_a_job_is_registered_once(cli: Cli, jobs: JobRegistry) -> None:
    """A second registration is refused with exit code 6 and changes nothing."""
    cli.ok("register", "a", "--owner", "first")
    said = cli.fails(6, "register", "a", "--owner", "second")
    assert said.splitlines() == [
        "error: Job a is already registered.",
        "hint: Choose another id. To see that job, run: mops-jobs status a",
    ]
    assert cli.ok("status", "a", "--json").json["owner"] == "first"


@pytest.mark.parametrize(
    "flags", ["--metadata [1]", "--metadata {", '--metadata {"x":NaN}', "--total many", "--label x"]
)
def test_what_cannot_be_registered_is_refused(cli: Cli, jobs: JobRegistry, flags: str) -> None:
    """An invalid value: exit code 2, one sentence, and the job is not registered."""
    cli.fails(2, "register", "job", *flags.split())
    assert jobs.get_job("job") is None


def test_an_id_may_end_with_a_dot(cli: Cli, anywhere: VersionedStore) -> None:
    """Each store holds it, so ModelOps may have registered it: it is mirrored, shown, reported and cancelled."""
    ours, theirs = ["a.", "a.."], ["b.", "b.."]
    for job_id in ours:
        cli.ok("register", job_id, "--total", "3")
    for job_id in theirs:
        put(anywhere, key(job_id), foreign(job_id, tasks_total=3, k8s_name=None))
    assert cli.ok("sync", "--full", "--json").json["problems"] == []
    assert sorted(cli.ids("--limit", "0")) == ours + theirs
    for job_id in ours + theirs:
        assert cli.ok("progress", job_id, "1/3").err == f"{job_id}: running, 1/3 tasks\n"
        assert cli.ok("status", job_id, "--json", "--refresh").json["tasks_completed"] == 1
        assert len(cli.ok("events", job_id, "--json").lines) >= 1
        cli.ok("cancel", job_id)
    assert cli.ok("sync", "--json").json["problems"] == []
    for job_id in ours + theirs:
        assert cli.ok("status", job_id, "--json").json["status"] == "cancelled"


@pytest.mark.parametrize("line", ["update job running", "progress job 1", "update job --owner me", "cancel job"])
def test_an_ended_job_is_refused(cli: Cli, jobs: JobRegistry, line: str) -> None:
    """With exit code 6, and nothing is written."""
    add(jobs, "job", "succeeded")
    before = jobs.get_record("job")
    ran = cli(*line.split())
    assert (ran.code, ran.out, len(sentences(ran.err)), "has ended" in ran.err) == (6, "", 1, True)
    assert jobs.get_record("job") == before


def test_an_impossible_transition_names_the_possible_ones(cli: Cli, jobs: JobRegistry) -> None:
    """A step back is refused with exit code 6, and the hint says where the job can go."""
    add(jobs, "job", "running")
    said = cli.fails(6, "update", "job", "scheduled")
    assert said.splitlines() == [
        "error: Job job is running; it cannot become scheduled.",
        "hint: Use a status that may follow running: validating, succeeded, partial, failed, cancelled.",
    ]


@pytest.mark.parametrize(
    "words",
    [
        *("update {} running", "progress {} 1/2", "cancel {}", "resume {}", "reconcile {}", "run {}", "validate {}"),
        *("register new --parent {}", "update job --parent {}"),
    ],
)
def test_latest_where_a_full_id_is_needed(cli: Cli, words: str) -> None:
    """What `@latest` means changes, so commands that change a job do not take it, and say so."""
    cli.ok("register", "job")
    command = words.partition(" ")[0]
    said = f"error: {command} needs the full id; @latest is not accepted.\nhint: See: mops-jobs {command} --help\n"
    assert cli(*words.format("@latest").split()) == (2, "", said)


@pytest.mark.parametrize("line", ["update no running", "progress no 1/2", "cancel no", "resume no", "reconcile no"])
def test_no_such_job(cli: Cli, line: str) -> None:
    """A job that is not there: exit code 3, one sentence that names it, and how to find the right name."""
    said = "error: Job no not found.\nhint: To see the ids, run: mops-jobs list\n"
    assert cli(*line.split()) == (3, "", said)


def test_text_that_is_not_utf_8_does_not_lose_the_report(cli: Cli) -> None:
    """The last words of a dying program may be any bytes: the failure is reported, with what can be read of them."""
    cli.ok("register", "a")
    cli.ok("update", "a", "failed", "--error", "caf\udce9 died")
    assert cli.ok("status", "a", "--json").json["status"] == "failed"


@pytest.mark.parametrize("done", ["5/4", "x", "-1", "99999999999999999999", "5/0"])
def test_impossible_progress_is_refused(cli: Cli, jobs: JobRegistry, done: str) -> None:
    """More done than there are, or no numbers at all: exit code 2, one sentence, nothing written."""
    add(jobs, "job")
    before = jobs.get_record("job")
    cli.fails(2, "progress", "job", done)
    assert jobs.get_record("job") == before


NAME = "team/run 1"


def test_a_job_with_a_slash_in_its_id_is_shown_and_ended(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was missing in each view, and `update` refused its id. So did a negative count."""
    remote.put(key(NAME), foreign(NAME, "running", tasks_total=4, tasks_completed=-1))
    assert cli.ids("--refresh") == [NAME]
    shown = cli.ok("status", NAME).out
    assert "Progress   [------------------------] 0/4 tasks, 0 %" in shown
    assert "Remark     invalid field tasks_completed: expected a count, from 0 to 2^53; shown as 0" in shown
    cli.ok("progress", NAME, "3")
    cli.ok("update", NAME, "failed")
    found = remote.store.inner.get(key(NAME))
    assert found is not None
    assert [json.loads(found.value)[name] for name in ("status", "tasks_completed")] == ["failed", 3]
    cli.ok("sync")
    assert "failed 3/4 tasks" in cli.ok("events", NAME).out
    web = Web(cli, capsys)
    assert "/jobs/team%2Frun%201" in web.ok("/jobs")
    for page in ("", "/results", "/logs"):
        assert "team/run 1" in web.ok(f"/jobs/team%2Frun%201{page}")
    assert json.loads(web.ok("/api/v1/jobs/team%2Frun%201"))["job_id"] == NAME


def test_a_pruned_job_with_a_slash_in_its_id_stays_pruned(cli: Cli, remote: Remote) -> None:
    """`team/run` is not a prefix of it, though the cache has another id that begins so."""
    for job_id, status in (("team/run", "failed"), ("team/run 1", "running")):
        remote.put(key(job_id), foreign(job_id, status))
    cli.clock.advance(days=1)
    cli.ok("sync")
    cli.ok("prune", "--older-than", "1h", "--yes")
    ran = cli("status", "team/run", "--offline")
    assert (ran.code, ran.err.splitlines()[1].partition(". ")[0]) == (3, "hint: It was pruned from this cache")
    assert cli.ok("status", "team/run", "--json").json["job_id"] == "team/run"


@pytest.mark.parametrize("below", ["tasks", "logs", "results", "events"])
def test_an_id_that_ends_as_a_path_has_its_own_page(
    cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    """The link to `x/tasks` in the list of jobs led to the tasks of `x`, and the API had no such job."""
    for job_id in ("x", f"x/{below}"):
        remote.put(key(job_id), foreign(job_id, "running"))
    cli.ok("sync")
    web = Web(cli, capsys)
    assert f"<h1>x/{below}</h1>" in web.ok(f"/jobs/x%2F{below}")
    assert json.loads(web.ok(f"/api/v1/jobs/x%2F{below}"))["job_id"] == f"x/{below}"
    if below == "tasks":
        assert web.get("/jobs/x/tasks").headers["Location"] == "/jobs/x/results?rows=tasks"
    elif below != "events":
        assert "<h1>x</h1>" in web.ok(f"/jobs/x/{below}")
