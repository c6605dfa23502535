"""`register`, `update`, `progress`, `cancel`: any shell script or pod reports a job of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, foreign, key, put, sentences

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


def test_progress_that_goes_back_is_written_and_told(cli: Cli, jobs: JobRegistry) -> None:
    """A pod that was begun anew counts from the beginning; a typing error is seen. Also with `-q` and `--json`."""
    cli.ok("register", "job", "--total", "10")
    assert cli.ok("progress", "job", "5/10", "-q")[1:] == ("", "")
    assert cli.ok("progress", "job", "5/10", "-q")[1:] == ("", "")
    warning = "warning: job: progress went back from 5 to 3 tasks.\n"
    assert cli.ok("progress", "job", "3/10").err == f"{warning}job: running, 3/10 tasks\n"
    assert cli.ok("status", "job", "--json").json["tasks_completed"] == 3
    assert cli.ok("progress", "job", "2", "-q")[1:] == ("", warning.replace("5 to 3", "3 to 2"))
    ran = cli.ok("progress", "job", "0", "--json")
    assert (ran.json["tasks_completed"], ran.err) == (0, warning.replace("5 to 3", "2 to 0"))
    assert cli.ok("progress", "job", "1", "-q")[1:] == ("", "")


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
    assert (changed["labels"], changed["metadata"]) == ({"x": "1=2", "y": "", "z": "3"}, {"seed": 7, "b": 1})


def test_the_json_is_what_status_shows(cli: Cli) -> None:
    """Each of them prints, with `--json`, the job object that `status --json` then shows."""
    for argv in (("register", "a"), ("progress", "a", "1/2"), ("update", "a", "succeeded")):
        ran = cli.ok(*argv, "--json")
        assert ran.json == cli.ok("status", "a", "--json").json
        assert ran.err == ""


def test_quiet_says_nothing(cli: Cli) -> None:
    """`-q` has no output while all is well."""
    for argv in (("register", "a"), ("progress", "a", "1"), ("update", "a", "running"), ("cancel", "a")):
        assert cli.ok(*argv, "-q")[1:] == ("", "")


def test_a_job_is_registered_once(cli: Cli, jobs: JobRegistry) -> None:
    """A second registration is refused with exit code 6 and changes nothing."""
    cli.ok("register", "a", "--owner", "first")
    ran = cli("register", "a", "--owner", "second")
    assert ran == (6, "", "error: Job a is already registered.\n")
    assert cli.ok("status", "a", "--json").json["owner"] == "first"


def test_statuses_are_taken_in_any_case(cli: Cli) -> None:
    """`RUNNING` and `running` are the same."""
    cli.ok("register", "a")
    assert cli.ok("update", "a", "RUNNING").err == "a: running\n"


@pytest.mark.parametrize(
    ("status", "argv"),
    [
        ("succeeded", ("update", "job", "running")),
        ("failed", ("progress", "job", "1")),
        ("failed", ("update", "job", "--owner", "me")),
        ("succeeded", ("cancel", "job")),
        ("pending", ("cancel", "job", "other", "--reason", "x")),
        ("pending", ("update", "job", "pending", "--total", "3")),
    ],
)
def test_rules_of_the_registry_hold(cli: Cli, jobs: JobRegistry, status: str, argv: tuple[str, ...]) -> None:
    """An ended job is refused with exit code 6; what is allowed goes through, and partly done is 7."""
    add(jobs, "job", status)
    before = jobs.get_record("job")
    ran = cli(*argv)
    assert ran.out == ""
    if status == "pending":
        assert ran.code == (7 if "other" in argv else 0)
    else:
        assert (ran.code, len(sentences(ran.err))) == (6, 1)
        assert "has ended" in ran.err
        assert jobs.get_record("job") == before


def test_an_impossible_transition_names_the_possible_ones(cli: Cli, jobs: JobRegistry) -> None:
    """A step back is refused with exit code 6, and the hint says where the job can go."""
    add(jobs, "job", "running")
    ran = cli("update", "job", "scheduled")
    assert ran.code == 6
    assert ran.err.splitlines() == [
        "error: Job job is running; it cannot become scheduled.",
        "hint: Use a status that may follow running: validating, succeeded, partial, failed, cancelled.",
    ]


def test_an_end_told_twice_is_told_once(cli: Cli, jobs: JobRegistry) -> None:
    """A script may repeat the end that it has told already."""
    add(jobs, "job", "succeeded")
    before = jobs.get_record("job")
    cli.ok("update", "job", "succeeded")
    assert jobs.get_record("job") == before


@pytest.mark.parametrize("argv", [("update", "no", "running"), ("progress", "no", "1/2"), ("cancel", "no")])
def test_no_such_job(cli: Cli, argv: tuple[str, ...]) -> None:
    """A job that is not there: exit code 3, one sentence that names it, and how to find the right name."""
    said = "error: There is no job no.\nhint: Give the full id. To see the ids, run: mops-jobs list\n"
    assert cli(*argv) == (3, "", said)


@pytest.mark.parametrize(
    "done", ["5/4", "x", "5/", "-1", "1/2/3", "1.5", "", "5 / 10", "99999999999999999999", "٣", "5/0"]
)
def test_impossible_progress_is_refused(cli: Cli, jobs: JobRegistry, done: str) -> None:
    """More done than there are, or no numbers at all: exit code 2, one sentence, nothing written."""
    add(jobs, "job")
    before = jobs.get_record("job")
    ran = cli("progress", "job", done)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert jobs.get_record("job") == before


@pytest.mark.parametrize(
    "flags",
    [
        ("--metadata", "[1]"), ("--metadata", "{"), ("--metadata", '{"x": NaN}'), ("--metadata", '{"x": 1e999}'),
        ("--metadata", "[" * 100_000), ("--total", "-1"), ("--total", "many"), ("--label", "x"), ("--label", "=1"),
        ("--parent",), ("extra",), ("--error", "x"),
    ],
)  # fmt: skip
def test_what_cannot_be_registered_is_refused(cli: Cli, jobs: JobRegistry, flags: tuple[str, ...]) -> None:
    """A value that makes no sense: exit code 2, one sentence, and the job is not registered."""
    ran = cli("register", "job", *flags)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert jobs.get_job("job") is None


@pytest.mark.parametrize("job_id", ["a/b", "../x", "", ".", "a b", "a\nb", "\x1b[31m", "-a", "é", "x" * 129, "@latest"])
def test_a_job_id_has_to_be_typable(cli: Cli, job_id: str) -> None:
    """An id with a slash, a blank or a control character is refused with exit code 2, and shown harmlessly."""
    ran = cli("register", "--owner", "me", "--", job_id)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)
    assert "\x1b" not in ran.err


@pytest.mark.parametrize("job_id", ["a.", "a.."])
@pytest.mark.parametrize("is_foreign", [False, True])
def test_an_id_may_end_with_a_dot(cli: Cli, anywhere: VersionedStore, job_id: str, *, is_foreign: bool) -> None:
    """Each store holds it, so ModelOps may have registered it: it is mirrored, shown, reported and cancelled."""
    if is_foreign:
        put(anywhere, key(job_id), foreign(job_id, tasks_total=3, k8s_name=None))
    else:
        cli.ok("register", job_id, "--total", "3")
    assert cli.ok("sync", "--full", "--json").json["problems"] == []
    assert cli.ids("--limit", "0") == [job_id]
    assert cli.ok("progress", job_id, "1/3").err == f"{job_id}: running, 1/3 tasks\n"
    assert cli.ok("status", job_id, "--json", "--refresh").json["tasks_completed"] == 1
    assert len(cli.ok("events", job_id, "--json").lines) >= 1
    cli.ok("cancel", job_id)
    assert cli.ok("sync", "--json").json["problems"] == []
    assert cli.ok("status", job_id, "--json").json["status"] == "cancelled"


@pytest.mark.parametrize("argv", [("update", "a/b", "failed"), ("progress", "a\x07b", "1"), ("cancel", "..")])
def test_an_impossible_job_id_is_a_wrong_usage(cli: Cli, argv: tuple[str, ...]) -> None:
    """An id that no job can have is no missing job but wrong usage: exit code 2."""
    ran = cli(*argv)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)


def test_text_that_is_not_utf_8_does_not_lose_the_report(cli: Cli) -> None:
    """The last words of a dying program may be any bytes: the failure is reported, with what can be read of them."""
    cli.ok("register", "a")
    cli.ok("update", "a", "failed", "--error", "caf\udce9 died")
    assert cli.ok("status", "a", "--json").json["status"] == "failed"


def test_nothing_to_update_is_wrong_usage(cli: Cli, jobs: JobRegistry) -> None:
    """`update` with neither a status nor a flag is refused."""
    add(jobs, "job")
    ran = cli("update", "job")
    assert (ran.code, len(sentences(ran.err))) == (2, 1)


def test_an_observer_may_miss_steps(cli: Cli) -> None:
    """A job found finished is walked through the steps between, in one write; a cancel is never walked to."""
    cli.ok("register", "a")
    assert cli.ok("update", "a", "succeeded", "--json").json["revision"] == 2
    cli.ok("register", "b")
    cli.ok("update", "b", "submitting")
    assert cli("cancel", "b").code == 6


def test_cancel_takes_several_jobs(cli: Cli, jobs: JobRegistry) -> None:
    """Each is cancelled or refused by itself: 7 when only some were, and the reason is kept."""
    for name, status in (("a", "running"), ("b", "succeeded"), ("c", "cancelled")):
        add(jobs, name, status)
    ran = cli("cancel", "a", "b", "c", "--reason", "wrong seed", "--json")
    assert ran.code == 7
    assert [json.loads(line)["job_id"] for line in ran.lines] == ["a", "c"]
    assert json.loads(ran.lines[0])["error_message"] == "Cancelled: wrong seed"
    assert "Job b has ended (succeeded)" in ran.err


@pytest.mark.parametrize(
    ("names", "code"), [(("ended", "no"), 3), (("no", "ended"), 6), (("no", "nor-this"), 3), (("ended", "a", "no"), 7)]
)
def test_cancel_that_cancels_nothing_ends_with_the_last_reason(
    cli: Cli, jobs: JobRegistry, names: tuple[str, ...], code: int
) -> None:
    """Every reason is told; the exit code is the last one's, and 7 only if something was cancelled."""
    add(jobs, "ended", "succeeded")
    add(jobs, "a", "running")
    ran = cli("cancel", *names)
    assert (ran.code, ran.out) == (code, "")
    told = {"ended": "Job ended has ended", "no": "There is no job no.", "nor-this": "There is no job nor-this."}
    for name in names:
        assert (told.get(name, "a: cancelled")) in ran.err


def test_tasks_done_are_told_without_a_total(cli: Cli) -> None:
    """Progress of a job whose size nobody knows is a count."""
    cli.ok("register", "a")
    assert cli.ok("progress", "a", "5").err == "a: running, 5 tasks done\n"


def test_a_foreign_record_is_updated_and_keeps_its_fields(cli: Cli, remote: Remote) -> None:
    """Fields that this version does not know survive an update."""
    remote.put(key("theirs"), foreign("theirs", "running", from_the_future={"x": [1, 2]}))
    cli.ok("update", "theirs", "succeeded")
    record = remote.jobs.get_record("theirs")
    assert record is not None
    assert json.loads(record.value)["from_the_future"] == {"x": [1, 2]}


@pytest.mark.parametrize("line", ["register a", "update a failed", "progress a 1", "cancel a"])
def test_an_unreachable_registry_exits_5(cli: Cli, remote: Remote, line: str) -> None:
    """A report that cannot be delivered says so: exit code 5, one sentence, no doubt about the outcome hidden."""
    remote.store.down = True
    ran = cli(*line.split())
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)


def test_a_race_that_is_never_won_exits_6(cli: Cli, remote: Remote) -> None:
    """A report that loses the race for the record too often is refused, and nothing was written."""
    add(remote.jobs, "a")
    before = remote.jobs.get_record("a")
    remote.store.conflict_next(10_000)
    ran = cli("update", "a", "running")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (6, "", 1)
    assert remote.jobs.get_record("a") == before
