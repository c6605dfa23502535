"""`label` and `note`: what users say about jobs, in every view; and archived jobs, which lists leave out."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, Remote, add, foreign, key


def test_labels_are_set_and_removed_after_the_end(cli: Cli, remote: Remote) -> None:
    """Filters find them at once, on other machines after a sync. `status` and `events` tell who changed what."""
    add(remote.jobs, "job", "succeeded", labels={"draft": "1"})
    cli.ok("sync")
    cli.clock.advance(hours=1)
    assert cli.ok("label", "job", "paper=fig2", "draft-", USER="ada").err == "job: labels paper=fig2\n"
    assert (cli.ids("--label", "paper=fig2", "--offline"), cli.ids("--label", "draft", "--offline")) == (["job"], [])
    ran = cli.ok("status", "job", "--offline")
    assert "Labels     paper=fig2" in ran.lines
    assert "  2026-03-01 13:00:00Z  ada: without draft, paper=fig2" in ran.lines
    (event,) = cli.ok("events", "job", "--kind", "labels", "--json").objects
    assert (event["labels"], event["by"]) == ({"draft": None, "paper": "fig2"}, "ada")
    cli.ok("sync", "--cache", "elsewhere.db", "-q")
    assert cli.ok("list", "-q", "--label", "paper", "--cache", "elsewhere.db", "--offline").lines == ["job"]
    assert cli.ok("label", "job", "paper-").err == "job: no labels\n"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            [],
            """No label is named: expected KEY=VALUE to set it, or KEY- to remove it.
hint: For example: mops-jobs label job paper=fig2""",
        ),
        (["paper"], "invalid label 'paper': expected key=value, or key- to remove it."),
        (["-"], "invalid label '-': expected key=value, or key- to remove it."),
        (["=1"], "invalid label '=1': expected key=value."),
        (["a=1", "a=2"], "invalid label 'a=2': expected one value per key; 'a=1' is given too."),
        (["a-", "a=2"], "invalid label 'a-': expected one change per key; 'a=2' is given too."),
    ],
)
def test_malformed_changes_are_wrong_usage(cli: Cli, jobs: JobRegistry, changes: list[str], problem: str) -> None:
    """Exit code 2, and nothing is written."""
    add(jobs, "job")
    before = jobs.get_record("job")
    assert cli("label", "job", "--", *changes) == (2, "", f"error: {problem}\n")
    assert jobs.get_record("job") == before


def test_lists_leave_out_archived_jobs_and_say_so(cli: Cli, jobs: JobRegistry) -> None:
    """A filter for the label shows them. Their total is not in that of the list; `status` and `summary` have them."""
    for job_id, status in (("old", "failed"), ("new", "failed"), ("busy", "running")):
        add(jobs, job_id, status)
    for job_id in ("old", "busy"):
        cli.ok("label", job_id, "archived=true")
    assert sorted(cli.ids()) == ["busy", "new"]  # an active job is never left out
    assert cli.ids("--status", "failed") == ["new"]
    assert (cli.ok("list", "--json").json["total"], cli.ok("list", "--json").json["returned"]) == (2, 2)
    assert cli.ids("--label", "archived=true", "--status", "failed") == ["old"]
    assert sorted(cli.ids("--label", "archived")) == ["busy", "old"]
    said = cli.ok("list", "--status", "failed").err
    assert "1 archived job not shown; to see: mops-jobs list --label archived" in said
    assert "archived job" not in cli.ok("list", "--status", "running").err
    assert cli.ok("summary", "--json").json["by_status"]["failed"] == 2
    assert cli.ok("status", "old", "--json").json["labels"] == {"archived": "true"}


def test_every_view_shows_a_note_at_once_and_elsewhere_after_a_sync(cli: Cli, remote: Remote) -> None:
    """Over a network as over an embedded registry: `status`, its JSON, and `events`, with author and time."""
    remote.put(key("theirs"), foreign("theirs", "failed"))
    add(remote.jobs, "ours", "succeeded")
    cli.ok("sync")
    for job_id in ("theirs", "ours"):
        cli.clock.moment = datetime(2026, 3, 1, 13, tzinfo=UTC)
        assert cli.ok("note", job_id, "used in the draft", USER="ada").err == f"{job_id}: noted\n"
        cli.clock.advance(hours=1)
        cli.ok("note", job_id, "wrong prior", USER="bob")
        ran = cli.ok("status", job_id, "--offline")
        assert "Note       wrong prior" in ran.lines
        begin = ran.lines.index("Notes and labels")
        assert ran.lines[begin + 1 : begin + 3] == [
            "  2026-03-01 13:00:00Z  ada: used in the draft",
            "  2026-03-01 14:00:00Z  bob: wrong prior",
        ]
        metadata = cli.ok("status", job_id, "--json", "--offline").json["metadata"]
        assert [(one["text"], one["by"]) for one in metadata["note_history"]] == [
            ("used in the draft", "ada"),
            ("wrong prior", "bob"),
        ]
        lines = [line for line in cli.ok("events", job_id).lines if " note " in line]
        assert [line.partition("note  ")[2] for line in lines] == ["ada: used in the draft", "bob: wrong prior"]
        cli.ok("sync", "--cache", "elsewhere.db", "-q")
        assert "Note       wrong prior" in cli.ok("status", job_id, "--cache", "elsewhere.db", "--offline").lines


def test_notes_of_twenty_writers_at_once_are_all_kept(cli: Cli, remote: Remote) -> None:
    """Each lost race is run again on top of the winner's record."""
    add(remote.jobs, "job", "succeeded")
    todo = [f"note {number}" for number in range(1, 20)]

    def rival(written: str) -> None:
        if todo and written == key("job"):
            remote.jobs.add_note("job", todo.pop())

    remote.store.before_put = rival
    cli.ok("note", "job", "note 0")
    found = remote.jobs.get_job("job")
    assert found is not None
    history = [one["text"] for one in found.metadata["note_history"]]  # type: ignore[attr-defined]
    assert sorted(history) == sorted(f"note {number}" for number in range(20))


def test_control_characters_of_a_note_do_not_reach_a_terminal(cli: Cli, jobs: JobRegistry) -> None:
    """Neither in the line of the note, nor in the history, nor in events."""
    add(jobs, "job")
    cli.ok("note", "job", "red \x1b[31m text\nsecond line", USER="e\x1bve")
    for argv in (("status", "job"), ("events", "job")):
        assert "\x1b" not in cli.ok(*argv).out


def test_labels_of_all_matching_jobs_change_after_one_sync(cli: Cli, remote: Remote) -> None:
    """Ended and archived ones, and those of other programs that no sync has brought yet. Each is told."""
    add(remote.jobs, "a", "succeeded", labels={"sweep": "old", "draft": "1"})
    cli.ok("sync", "-q")
    add(remote.jobs, "b", labels={"sweep": "old", "archived": "true"})
    add(remote.jobs, "c", labels={"sweep": "new"})
    remote.put(key("theirs"), foreign("theirs", "failed", labels={"sweep": "old"}))
    remote.store.calls.clear()
    ran = cli.ok("label", "--match", "sweep=old", "archived=true", "draft-")
    assert ran.err.splitlines() == [
        "a: labels archived=true, sweep=old",
        "b: labels archived=true, sweep=old",
        "theirs: labels archived=true, sweep=old",
        "3 jobs changed.",
    ]
    assert cli.ids("--offline") == ["b", "c"]
    assert remote.store.calls["scan"] == 1
    again = cli.ok("label", "--match", "sweep", "--match", "archived", "archived-", "--json").objects
    assert [(job["job_id"], job["labels"]) for job in again] == [
        (job_id, {"sweep": "old"}) for job_id in ("a", "b", "theirs")
    ]
    assert cli.ok("label", "--match", "sweep=gone", "x=1").err == "No job matches; no label was changed.\n"


def test_jobs_that_the_cache_has_pruned_are_not_labelled_and_told(cli: Cli, remote: Remote) -> None:
    add(remote.jobs, "old", "succeeded", labels={"sweep": "s"})
    cli.ok("sync")
    cli.clock.advance(hours=2)
    cli.ok("prune", "--older-than", "1h", "--yes")
    add(remote.jobs, "new", labels={"sweep": "s"})
    ran = cli.ok("label", "--match", "sweep=s", "x=1")
    note = "Jobs that were pruned from this cache are left out."
    assert ran.err.splitlines()[-2:] == ["1 job changed.", note]


def test_a_job_that_cannot_be_changed_does_not_keep_others(cli: Cli, remote: Remote) -> None:
    """It is told with its reason, and the exit code is 7. An outage ends the command, which says how many are left."""
    for job_id in "abcd":
        add(remote.jobs, job_id, labels={"x": "1"})
    cli.ok("sync", "-q")

    def bury(_key: str) -> None:
        remote.store.inner.delete(key("b"))

    remote.store.before_put = bury
    ran = cli.ends(7, "label", "--match", "x=1", "y=2")
    assert "warning: Job b not found." in ran.err.splitlines()
    assert "3 jobs changed." in ran.err
    remote.store.before_put = lambda written: setattr(remote.store, "down", "/c/" in written)  # afterwards
    ran = cli.ends(7, "label", "--match", "x=1", "y=3")
    assert "warning: d: Cannot reach the registry: connection refused. 1 job not changed; repeat the" in ran.err
    assert "2 jobs changed." in ran.err
    assert cli("label", "--match", "x=1", "y=3").code == 5


@pytest.mark.parametrize(
    "words", [("job",), ("--match", "x"), ("--match", "=1", "y=1"), ("--match", "x", "y"), ("--match", "x", "@latest")]
)
def test_incomplete_label_commands_are_wrong_usage(cli: Cli, words: tuple[str, ...]) -> None:
    """Neither a job without changes nor a match without changes."""
    assert cli("label", *words).code == 2
