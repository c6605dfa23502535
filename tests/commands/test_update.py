"""`update`: a job reports its status; and the rules that `register`, `progress` and `cancel` share with it."""

from __future__ import annotations

import json

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, foreign, key, sentences


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


@pytest.mark.parametrize(
    "argv",
    [
        ("update", "no", "running"),
        ("progress", "no", "1/2"),
        ("cancel", "no"),
        ("resume", "no"),
        ("reconcile", "no"),
        ("run", "no"),
    ],
)
def test_no_such_job(cli: Cli, argv: tuple[str, ...]) -> None:
    """A job that is not there: exit code 3, one sentence that names it, and how to find the right name."""
    said = "error: Job no not found.\nhint: To see the ids, run: mops-jobs list\n"
    assert cli(*argv) == (3, "", said)


@pytest.mark.parametrize("argv", [("update", "a//b", "failed"), ("progress", "a\x07b", "1"), ("cancel", "..")])
def test_an_impossible_job_id_is_a_wrong_usage(cli: Cli, argv: tuple[str, ...]) -> None:
    """An id that no job can have is wrong usage, not a missing job: exit code 2."""
    ran = cli(*argv)
    assert (ran.code, ran.out, len(sentences(ran.err))) == (2, "", 1)


@pytest.mark.parametrize("argv", [("register", "new"), ("update", "a")])
def test_two_values_of_a_label_are_refused(cli: Cli, argv: tuple[str, ...]) -> None:
    """The last one was kept in silence. The same value twice is accepted."""
    cli.ok("register", "a")
    ran = cli(*argv, "--label", "a=1", "--label", "a=2")
    assert (ran.code, ran.err) == (2, "error: invalid label 'a=2': expected one value per key; 'a=1' is given too.\n")
    assert cli.ok(*argv, "--label", "a=1", "--label", "a=1", "--json").json["labels"] == {"a": "1"}


def test_labels_and_a_note_are_set_after_the_end(cli: Cli, remote: Remote) -> None:
    """Every view shows them, on other machines after a sync. Neither the end nor its time moves."""
    remote.put(key("theirs"), foreign("theirs", "failed"))
    add(remote.jobs, "ours", "succeeded")
    cli.ok("sync")
    cli.clock.advance(hours=1)
    for job_id in ("theirs", "ours"):
        before = cli.ok("status", job_id, "--json").json
        cli.ok("update", job_id, "--label", "paper=fig2", "--note", "in the draft")
        cli.ok("sync")
        ran = cli.ok("status", job_id)
        assert "Labels     paper=fig2" in ran.lines
        assert "Note       in the draft" in ran.lines
        after = cli.ok("status", job_id, "--json").json
        assert {name for name in before if before[name] != after[name]} <= {
            "labels", "metadata", "write_id", "revision", "updated_at", "transitions",
        }  # fmt: skip
        assert cli.ids("--label", "paper=fig2", "--match", job_id) == [job_id]
        assert cli("update", job_id, "--owner", "me", "--note", "x").code == 6


def test_labels_and_a_note_after_the_end_leave_events_of_their_own(cli: Cli, remote: Remote) -> None:
    """`events` shows the end once, since the status stays, and then who wrote what. A sync elsewhere learns of it."""
    cli.ok("register", "a")
    cli.ok("sync", "--cache", "other.db", "-q")
    cli.clock.advance(seconds=1)
    cli.ok("update", "a", "succeeded", "--label", "one=1")
    cli.clock.advance(seconds=1)
    cli.ok("update", "a", "--label", "paper=fig2", "--note", "in the draft")
    events = cli.ok("events", "a", "--json").objects
    assert [event["status"] for event in events if event["kind"] == "state"] == ["pending", "succeeded"]
    assert [
        (event["kind"], event.get("text"), event.get("labels")) for event in events if event["kind"] != "state"
    ] == [
        ("labels", None, {"one": "1"}),
        ("note", "in the draft", None),
        ("labels", None, {"paper": "fig2"}),
    ]
    cli.ok("sync", "--cache", "other.db", "-q")
    assert cli.ok("list", "-q", "--label", "paper=fig2", "--cache", "other.db", "--offline").lines == ["a"]


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
