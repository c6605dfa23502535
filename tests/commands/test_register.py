"""`register`: a script or a pod makes the record of its job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, foreign, key, put, sentences

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore


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
    ran = cli("register", "a", "--owner", "second")
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.splitlines() == [
        "error: Job a is already registered.",
        "hint: Choose another id. To see that job, run: mops-jobs status a",
    ]
    assert cli.ok("status", "a", "--json").json["owner"] == "first"


@pytest.mark.parametrize(
    "flags",
    [
        ("--metadata", "[1]"),
        ("--metadata", "{"),
        ("--metadata", '{"x": NaN}'),
        ("--total", "many"),
        ("--label", "x"),
        ("extra",),
    ],
)
def test_what_cannot_be_registered_is_refused(cli: Cli, jobs: JobRegistry, flags: tuple[str, ...]) -> None:
    """An invalid value: exit code 2, one sentence, and the job is not registered."""
    ran = cli("register", "job", *flags)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert jobs.get_job("job") is None


@pytest.mark.parametrize("job_id", ["a/b", "a b", "\x1b[31m"])
def test_a_job_id_has_to_be_typable(cli: Cli, job_id: str) -> None:
    """An id with a slash, a blank or a control character is refused with exit code 2, and shown harmlessly."""
    ran = cli("register", "--owner", "me", "--", job_id)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert "\x1b" not in ran.err


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
