"""`events`: resumed by a cursor without loss or repeat, chosen by their kinds, followed to the end."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import jsonschema
import pytest

from support.cli import Cli, Clock, Remote, add, during_sleeps
from support.events import Writer, event_texts

# --- cursors ---------------------------------------------------------------------------------------------------------


def test_a_script_resumes_from_its_cursor(cli: Cli, remote: Remote, write: Writer) -> None:
    """`--since` goes on after the event with that cursor, and prints nothing if there is none."""
    write("a", "b", "c")
    lines = cli.ok("events", "--json").objects
    assert event_texts(cli.ok("events", "--json", "--since", lines[0]["cursor"])) == ["b", "c"]
    assert cli.ok("events", "--json", "--since", lines[2]["cursor"]).out == ""
    write("d")
    assert event_texts(cli.ok("events", "--json", "--since", lines[2]["cursor"])) == ["d"]


@pytest.mark.slow
def test_no_loss_and_no_repeat(cli: Cli, remote: Remote, clock: Clock) -> None:
    """A script that resumes from its last cursor sees each event once.

    Whatever comes in between: several writers, late chunks, outages, syncs of all jobs and of one.
    """
    draw = random.Random(7)
    writers = {name: Writer(remote.store.inner, clock, name[0], name) for name in ("a1", "a2", "b1", "c1")}
    for job_id in "abc":
        add(remote.jobs, job_id, "running")
    seen: list[tuple[str, int]] = []
    cursor: list[str] = []
    for step in range(250):
        clock.advance(minutes=draw.choice([0, 0, 1, 7, 20]))
        name = draw.choice(sorted(writers))
        texts = [f"{step}.{number}" for number in range(draw.randrange(1, 4))]
        if draw.random() < 0.5:
            # On its way for up to 15 minutes: the key tells an earlier time than that at which it is seen.
            late = writers[name]
            moment = clock.now() - timedelta(minutes=draw.randrange(15))
            late(*texts, at=moment)
        else:
            writers[name](*texts)
        deed = draw.choice(["sync", "one", "logs", "cut", "read", "read"])
        if deed == "sync":
            cli.ok("sync")
        elif deed in ("one", "logs"):
            cli.ok("events" if deed == "one" else "logs", draw.choice("abc"))
        elif deed == "cut":
            remote.store.fail_next(1, draw.choice(["get", "list_keys"]))
            cli("sync", "-q")
            remote.store._failures.clear()
        else:
            ran = cli.ok("events", "--json", *(("--since", cursor[-1]) if cursor else ()))
            events = ran.objects
            seen += [(event["source"], event["seq"]) for event in events]
            cursor += [event["cursor"] for event in events]
    ran = cli.ok("events", "--json", "--since", cursor[-1])
    seen += [(event["source"], event["seq"]) for event in ran.objects]
    assert len(seen) == len(set(seen))
    for name, writer in writers.items():
        assert sorted(seq for source, seq in seen if source == name) == list(range(writer._seq))


@pytest.mark.parametrize("flags", [(), ("--offline",), ("--follow",)])
def test_a_cursor_of_another_cache_is_refused(cli: Cli, remote: Remote, write: Writer, flags: tuple[str, ...]) -> None:
    """In another cache, or where there is none, a cursor means nothing: exit code 2, one sentence, nothing printed."""
    write("a")
    cursor = json.loads(cli.ok("events", "--json").lines[0])["cursor"]
    other = {"MOPS_JOBS_CACHE": str(cli.cache) + "2"}
    for _ in range(2):
        assert "another cache" in cli.fails(2, "events", "--since", cursor, *flags, **other)
        cli.ok("events", **other)
    assert cli("events", "--since", cursor.partition("-")[0] + "-99", *flags).code == 2


@pytest.mark.parametrize("text", ["x", "zzzzzzzzzzzz-1", "0123456789ab-"])
def test_what_is_no_cursor_is_refused(cli: Cli, remote: Remote, write: Writer, text: str) -> None:
    """Any other text: exit code 2, one sentence."""
    write("a")
    cli.ok("sync")
    cli.fails(2, "events", f"--since={text}")


def test_a_cache_rebuilt_meanwhile_ends_a_follower(cli: Cli, remote: Remote, write: Writer) -> None:
    """A follower whose cache was deleted under it stops and says so, instead of printing events again."""
    add(remote.jobs, "job", "running")
    write("a")
    during_sleeps(cli, _2=lambda: [one.unlink() for one in cli.cache.parent.glob("cache.db*")])
    ran = cli.ends(1, "events", "job", "--follow", "--json")
    assert "rebuilt" in ran.err
    assert event_texts(ran) == ["a"]


# --- events ----------------------------------------------------------------------------------------------------------


def test_lines_for_people(cli: Cli, remote: Remote, write: Writer) -> None:
    """One line an event: time, job, kind, and what it says, by its kind."""
    write("x", kind="log", task=3)
    write("", kind="state", status="running", tasks_total=4, tasks_completed=1, tasks_failed=1)
    write("", kind="task_failed", task=2, error={"type": "ValueError", "message": "no"})
    write("", kind="dropped", count=7)
    write("lost a worker", kind="runner")
    write("", kind="novel", more=1)
    assert cli.ok("events").lines == [
        f"2026-03-01 12:00:00Z  job  {told}"
        for told in (
            "log  task 3: x", "state  running 1/4 tasks, 1 failed", "task_failed  task 2: ValueError: no",
            "dropped  7 events are missing here", "runner  lost a worker", "novel  text= more=1",
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"status": ["x"]},
        {"status": None, "tasks_total": "x"},
        {"count": {}},
        {"error": 1},
        {"error": {}},
        {"text": [1]},
    ],
)
def test_odd_fields_do_no_harm(cli: Cli, remote: Remote, write: Writer, fields: dict[str, Any]) -> None:
    """Fields of other types than usual are shown somehow, by each of the commands."""
    add(remote.jobs, "job", "failed")
    for kind in ("state", "log", "dropped", "task_failed"):
        write("a", kind=kind, **fields)
    cli.clock.advance(hours=1)
    assert len(cli.ok("events").lines) == 4
    assert cli("events", "job", "--follow").code == 0
    assert cli("logs", "job", "-f").code == 100


def test_events_json_keeps_its_promise(cli: Cli, remote: Remote, write: Writer) -> None:
    """Each line fits the schema, and its cursor cannot be forged by the event."""
    write("a", kind="log", cursor="forged")
    write("b", kind="novel", x=[1, {"y": None}])
    schema = cli.ok("schema", "event").json
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    for line in cli.ok("events", "--json").lines:
        validator.validate(json.loads(line))
        assert next(iter(json.loads(line))) == "cursor"


def test_an_outage_shows_what_is_there(cli: Cli, remote: Remote, write: Writer) -> None:
    """Without network the cached events are shown with a warning; a cache that never had any is an error, 5."""
    add(remote.jobs, "job", "running")
    write("a")
    remote.store.down = True
    assert cli("events").code == 5
    assert cli("events", "--offline").code == 5
    assert cli("logs", "job").code == 5
    remote.store.down = False
    cli.ok("sync")
    write("b")
    remote.store.down = True
    for argv in (("events", "job", "--json"), ("events", "--json")):
        ran = cli.ok(*argv)
        assert event_texts(ran) == ["a"]
        assert ran.err.startswith("warning: ")
    assert cli.ok("logs", "job").lines == ["a"]


# --- following -------------------------------------------------------------------------------------------------------


def test_following_one_job_ends_when_all_was_printed(cli: Cli, remote: Remote, write: Writer) -> None:
    """Events are printed as they come; after the job's end, what its writers still bring is printed too."""
    add(remote.jobs, "job", "running")
    write("a")
    during_sleeps(
        cli,
        _1=lambda: write("b"),
        _3=lambda: (write("c"), remote.jobs.update_status("job", "succeeded")),
        _4=lambda: write("d", "e"),
    )
    assert event_texts(cli.ok("events", "job", "--follow", "--json")) == ["a", "b", "c", "d", "e"]
    assert cli.clock.slept == [2.0] * 6


def test_a_job_long_ended_is_not_waited_for(cli: Cli, remote: Remote, write: Writer) -> None:
    """Following a job that ended a while ago prints what there is and ends at once."""
    add(remote.jobs, "job", "succeeded")
    write("a", "b")
    cli.clock.advance(minutes=5)
    ran = cli.ok("events", "job", "-f", "--json")
    assert event_texts(ran) == ["a", "b"]
    assert event_texts(cli.ok("events", "job", "-f", "--json", "--since", ran.objects[0]["cursor"])) == ["b"]
    assert cli.clock.slept == []


def test_an_outage_is_survived_and_told_once(cli: Cli, remote: Remote, write: Writer) -> None:
    """While the registry does not answer, a follower tries again, more and more patiently, and misses nothing."""
    add(remote.jobs, "job", "running")
    write("a")

    def back() -> None:
        remote.store.down = False
        write("b")
        remote.jobs.update_status("job", "failed")

    during_sleeps(cli, _1=lambda: setattr(remote.store, "down", True), _8=back)
    ran = cli("logs", "job", "-f")
    assert (ran.code, ran.lines) == (100, ["a", "b"])
    assert ran.err.count("warning") == 1
    assert all(pause <= 60 for pause in cli.clock.slept)


def test_following_all_jobs_goes_on_for_ever(
    cli: Cli, remote: Remote, write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without JOB, only an interruption ends it: exit code 130. It looks less often the more there is to list."""
    monkeypatch.setattr("mopsjobs.app.following.event_feed.CHEAP_LISTING", 1)

    def deed(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt
        write(str(count))

    cli.clock.on_sleep = deed
    ran = cli("events", "--follow", "--json")
    assert (ran.code, event_texts(ran)) == (130, ["1", "2"])
    assert cli.clock.slept == [2.0, 2.0, 4.0]


def test_kinds_choose_events(cli: Cli, remote: Remote, write: Writer) -> None:
    """One kind, several, repeated; also kinds of other writers, and each with its cursor."""
    add(remote.jobs, "job", "running")
    for kind in ("log", "task_failed", "runner", "custom", "log"):
        write(kind, kind=kind)
    for flags, shown in {
        ("--kind", "runner"): ["runner"],
        ("--kind", "task_failed, log"): ["log", "task_failed", "log"],
        ("--kind", "runner", "--kind", "custom"): ["runner", "custom"],
    }.items():
        assert event_texts(cli.ok("events", "--json", *flags)) == shown
        assert event_texts(cli.ok("events", "job", "--json", *flags)) == shown
    cursor = json.loads(cli.ok("events", "--json", "--kind", "task_failed").out)["cursor"]
    assert event_texts(cli.ok("events", "--json", "--kind", "log", "--since", cursor)) == ["log"]


def test_a_follower_of_one_kind_ends_with_the_job(cli: Cli, remote: Remote, write: Writer) -> None:
    """The event of the end ends it, and is not printed."""
    add(remote.jobs, "job", "running")
    during_sleeps(
        cli,
        _1=lambda: write("a", kind="task_failed"),
        _2=lambda: (remote.jobs.update_status("job", "failed"), write("b"), write("", kind="state", status="failed")),
    )
    assert event_texts(cli.ok("events", "job", "--follow", "--json", "--kind", "task_failed")) == ["a"]
    assert cli.clock.slept == [2.0] * 3


@pytest.mark.parametrize(("kind", "nearest"), [("task_faild", "task_failed"), ("log,stat", "state"), ("", "")])
def test_a_mistyped_kind_is_refused(cli: Cli, remote: Remote, kind: str, nearest: str) -> None:
    """Exit code 2, with the known kinds and the nearest one."""
    said = cli.fails(2, "events", f"--kind={kind}")
    assert "expected one of state, task_failed, log, runner, straggler, note, labels, notified, dropped." in said
    assert f"Did you mean '{nearest}'?" in said or not nearest


def test_a_kind_without_events_is_noted(cli: Cli, remote: Remote, write: Writer) -> None:
    """So a kind that no writer knows is noticed; the exit code is 0."""
    write("a")
    ran = cli.ok("events", "--kind", "custom,runner")
    assert (ran.out, ran.err.strip()) == ("", "There are no events of kind custom or runner.")
