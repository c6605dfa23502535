"""Syncs of events: only the hours since the last are listed, each chunk is read once, a bad one stops nothing."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from mopsjobs.events.format import chunk_key
from support.cli import START, Cli, Remote, add, key, sentences
from support.events import Writer, event_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mopsjobs.store.base import VersionedStore


def test_each_write_of_the_command_leaves_a_state_event(cli: Cli, anywhere: VersionedStore) -> None:
    """On every backend: register, progress and update leave what the record said afterwards, for others to see."""
    cli.ok("register", "job", "--total", "4")
    cli.ok("progress", "job", "1/4")
    cli.ok("update", "job", "failed", "--error", "no")
    told = cli.ok("events", "job", "--json").objects
    states = sorted((event["revision"], event["status"], event["tasks_completed"]) for event in told)
    assert states == [(1, "pending", 0), (2, "running", 1), (3, "failed", 1)]
    assert {event["kind"] for event in told} == {"state"}


def test_a_write_succeeds_without_its_event(cli: Cli, remote: Remote) -> None:
    """A registry that takes the record and then goes away has the record: the command ends with 0, quietly."""
    cli.ok("register", "job")
    remote.store.before_put = lambda _key: remote.store.fail_next(1, "create_if_absent")
    ran = cli.ok("update", "job", "running")
    assert "warning" not in ran.err
    assert remote.jobs.get_job("job").status == "running"  # type: ignore[union-attr]
    assert len(cli.ok("events", "job").lines) == 1


def test_a_listing_leaves_no_event(cli: Cli, remote: Remote) -> None:
    """What only reads writes nothing."""
    add(remote.jobs, "job")
    for argv in (("sync",), ("list", "--refresh"), ("status", "job"), ("events",), ("logs", "job")):
        cli.ok(*argv)
    assert remote.store.calls["create_if_absent"] == 0


def test_sync_brings_events_for_later(cli: Cli, remote: Remote, write: Writer) -> None:
    """After `sync`, events and logs can be read without the network; the summary counts what was new."""
    add(remote.jobs, "job", "running")
    write("a", "b")
    assert "; 2 new events" in cli.ok("sync").out
    assert cli.ok("sync", "--json").json["events_added"] == 0
    remote.store.down = True
    assert cli.ok("logs", "job", "--offline").lines == ["a", "b"]
    assert event_texts(cli.ok("events", "--json", "--offline")) == ["a", "b"]


def test_a_sync_lists_only_the_hours_since_the_last(cli: Cli, remote: Remote, write: Writer) -> None:
    """The first sync lists everything, later ones the hours since, less 15 minutes. Nothing is fetched twice."""
    listed: list[str] = []
    list_keys = remote.store.list_keys

    def noting(prefix: str = "") -> Iterator[str]:
        listed.append(prefix)
        return list_keys(prefix)

    remote.store.list_keys = noting  # type: ignore[method-assign]
    write("a")
    cli.ok("sync")
    assert listed == ["events/"]
    cli.clock.advance(minutes=30)
    write("b")
    fetched = remote.store.calls["get"]
    cli.ok("sync")
    assert listed[1:] == ["events/20260301T11/", "events/20260301T12/"]
    assert remote.store.calls["get"] == fetched + 1
    cli.clock.advance(hours=1)
    cli.ok("sync")
    assert listed[3:] == ["events/20260301T12/", "events/20260301T13/"]
    listed.clear()
    cli.ok("sync", "--full")
    assert listed == ["events/"]


def test_a_bad_chunk_is_told_once_and_skipped(cli: Cli, remote: Remote, write: Writer) -> None:
    """A chunk that cannot be read is named with its reason, with exit code 7, then left alone; the rest comes in.

    `sync --full` reads it again, and takes it if it can be read by now. What is no chunk is not read.
    """
    bad = write("late")
    good = remote.store.inner.get(bad)
    assert good is not None
    remote.put(bad, b"\x1b[2J\n")
    remote.put("events/README", "hello")
    write("a")
    ran = cli("sync")
    assert ran.code == 7
    told = "line 1: not JSON: Expecting value: line 1 column 1 (char 0)"
    assert ran.err == f"warning: {bad}: {told}\n"
    fetched = remote.store.calls["get"]
    assert cli.ok("sync").err == ""
    assert remote.store.calls["get"] == fetched
    assert event_texts(cli.ok("events", "--json")) == ["a"]
    with contextlib.closing(sqlite3.connect(cli.cache)) as cache:
        assert cache.execute("SELECT * FROM event_problems").fetchall() == [(bad, told)]
    assert cli("sync", "--full").code == 7
    remote.put(bad, good.value)
    cli.ok("sync", "--full")
    assert sorted(event_texts(cli.ok("events", "--json", "--offline"))) == ["a", "late"]


def test_events_of_another_job_are_not_believed(cli: Cli, remote: Remote, write: Writer) -> None:
    """A chunk under one job's key that speaks of another job is a problem."""
    good = remote.store.inner.get(write("a"))
    assert good is not None
    remote.put(chunk_key(START, "other", "w", 0), good.value)
    assert cli("sync").code == 7
    assert len(cli.ok("events", "--json").lines) == 1


def test_jobs_are_mirrored_though_events_are_not(cli: Cli, remote: Remote, write: Writer) -> None:
    """If the line is cut after the jobs, they are there, a warning says what is not, and the exit code is 7."""
    add(remote.jobs, "job")
    write("a")
    remote.store.fail_next(1, "list_keys")
    ran = cli("sync", "--json")
    assert (ran.code, ran.json["events_added"], len(sentences(ran.err))) == (7, None, 1)
    assert cli.ids("--offline") == ["job"]
    assert cli.ok("sync", "--json").json["events_added"] == 1


def test_a_chunk_sent_twice_is_taken_once(cli: Cli, remote: Remote, write: Writer) -> None:
    """The same chunk in two hours, after a lost reply, gives its events once."""
    where = write("a", "b")
    value = remote.store.inner.get(where)
    assert value is not None
    cli.ok("sync")
    remote.put(where.replace("T12/", "T13/"), value.value)
    cli.clock.advance(hours=1)
    cli.ok("sync")
    assert event_texts(cli.ok("events", "--json")) == ["a", "b"]


def test_the_mirror_of_jobs_leaves_events_alone(cli: Cli, remote: Remote, write: Writer) -> None:
    """Syncs of jobs, full ones and after a deletion too, take no event away: history outlives the record."""
    add(remote.jobs, "job", "succeeded")
    write("a")
    cli.ok("sync")
    remote.store.inner.delete(key("job"))
    cli.ok("sync", "--full")
    assert cli.ids() == []
    assert cli.ok("logs", "job", "--offline").lines == ["a"]
    assert cli.ok("logs", "job").lines == ["a"]
