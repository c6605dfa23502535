"""Events that leave the registry and the cache by retention: none comes back, none comes twice, none is missed."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import pruning
from mopsjobs.cache.sync import mirror
from mopsjobs.cache.sync.events import KNOWN_BEFORE, forget_chunks, sync_events
from mopsjobs.cache.sync_state import get_meta
from mopsjobs.events.format import chunk_key, event_line, parse_chunk_key
from mopsjobs.events.retention import Retention
from mopsjobs.events.writer import EventLog, record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import json_time
from support.cli import REMOTE_URL, START, Cli, Clock, Remote, add

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore
    from support.servers import Azurite

EXAMPLES = int(os.environ.get("MOPS_TEST_RETENTION_EXAMPLES", "40"))

JOBS = st.sampled_from("abcd")
PAUSES = st.sampled_from([0.0, 60.0, 900.0, 3600.0, 86400.0]) | st.floats(0, 3 * 86400)
AGES = st.sampled_from([3600.0, 7200.0, 86400.0]) | st.floats(3600, 3 * 86400)
"""Seconds. Of what is pruned in the cache and in the store."""


class EventRetention(RuleBasedStateMachine):
    """Jobs that write events, some twice, a mirror, and both kinds of pruning, in any order."""

    def __init__(self, store: VersionedStore, template: str) -> None:
        super().__init__()
        self.store = store
        self._directory = tempfile.mkdtemp(dir=os.path.dirname(template))
        self.path = shutil.copy(template, f"{self._directory}/cache.db")
        self.clock = START
        self.registry = JobRegistry(store, now=lambda: self.clock)
        self.numbers = itertools.count()
        self.active = set("abcd")
        self.lost: list[tuple[str, int, bytes]] = []
        """Chunks that landed, as far as their writers cannot know: job, number and value."""
        self.had: set[str] = set()
        """Names of the chunks that the cache has."""
        self.dropped: set[str] = set()
        """Names of those that were pruned from it."""

    def teardown(self) -> None:
        shutil.rmtree(self._directory)
        self.store.close()

    @initialize()
    def begin(self) -> None:
        for job_id in sorted(self.active):
            self.registry.register_job(job_id)
            self.registry.update_status(job_id, "running")
            self._write(job_id)

    @rule(job_id=JOBS, quiet=PAUSES)
    def write(self, job_id: str, quiet: float) -> None:
        """Write an event of an active job, and then let time pass."""
        if job_id in self.active:
            self._write(job_id)
        self.clock += timedelta(seconds=quiet)

    @rule(job_id=JOBS, quiet=PAUSES)
    def write_and_lose_the_reply(self, job_id: str, quiet: float) -> None:
        """Lose the reply, so that the event is written again, in whatever hour that is."""
        if job_id in self.active:
            self.lost.append((job_id, *self._write(job_id)))
        self.clock += timedelta(seconds=quiet)

    @rule(which=st.integers(0, 5))
    def write_it_again(self, which: int) -> None:
        """Write it again, also by a laptop that has slept until its job was ended, and all of that was removed."""
        if which < len(self.lost):
            job_id, number, value = self.lost.pop(which)
            self.store.create_if_absent(chunk_key(self.clock, job_id, "w", number), value)

    @rule(job_id=st.sampled_from("abc"))
    def end(self, job_id: str) -> None:
        if job_id in self.active:
            self.active.remove(job_id)
            self.registry.finalize_job(job_id, "succeeded")

    @rule(full=st.booleans())
    def sync(self, full: bool) -> None:
        """Sync: the cache has what it had and what the registry has, each once, without what was pruned."""
        there = {name.name for key in self.store.list_keys("events/") if (name := parse_chunk_key(key)) is not None}
        mirror.sync(self.registry, self.path, REMOTE_URL, now=lambda: self.clock)
        with self._cache() as cache:
            sync_events(self.store, cache, full=full, now=lambda: self.clock)
            found = Counter(name for (name,) in cache.execute("SELECT chunk FROM event"))
        self.had = (self.had | there) - self.dropped
        assert found == Counter(dict.fromkeys(self.had, 1))

    @rule(age=AGES)
    def prune_the_cache(self, age: float) -> None:
        """Prune the cache of events of jobs that are gone from it, and the names that no sync can list."""
        limit = self.clock - timedelta(seconds=age)
        with self._cache() as cache:
            forget_chunks(cache, limit)
            pruning.prune(cache, limit.timestamp())
            left = {name for (name,) in cache.execute("SELECT chunk FROM event")}
            known_before = f"events/{get_meta(cache, KNOWN_BEFORE) or ''}"
            assert not cache.execute("SELECT 1 FROM event_chunk WHERE key < ?", (known_before,)).fetchone()
        assert {name[0] for name in self.had - left}.isdisjoint(self.active)
        self.dropped |= self.had - left
        self.had = left

    @rule(age=AGES)
    def retain(self, age: float) -> None:
        """Remove events of jobs that have ended."""
        before = self._logs()
        Retention(self.registry, timedelta(seconds=age), now=self.clock).remove()
        after = self._logs()
        for job_id in self.active:
            assert after[job_id] == before[job_id]

    def _logs(self) -> Counter[str]:
        return Counter(name.job_id for key in self.store.list_keys("events/") if (name := parse_chunk_key(key)))

    def _write(self, job_id: str) -> tuple[int, bytes]:
        number = next(self.numbers)
        head = {"at": json_time(self.clock), "job_id": job_id, "kind": "log", "source": "w", "seq": number}
        value = f"{event_line(head, {})}\n".encode()
        assert self.store.create_if_absent(chunk_key(self.clock, job_id, "w", number), value)
        return number, value

    def _cache(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(cache_database.open_to_write(self.path, REMOTE_URL))


def _run(machine: Callable[[], EventRetention], examples: int, steps: int) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_no_event_comes_back_or_twice_in_memory(template: str) -> None:
    """Over the store in memory, many interleavings."""
    _run(lambda: EventRetention(InMemoryVersionedStore(), template), EXAMPLES, 30)


def test_no_event_comes_back_or_twice_in_sqlite(template: str, tmp_path: Path) -> None:
    """Over SQLite files, some."""
    numbers = itertools.count()
    _run(lambda: EventRetention(open_store(f"sqlite://{tmp_path}/{next(numbers)}.db", {}), template), 5, 20)


def test_no_event_comes_back_or_twice_in_azure(template: str, azurite: Azurite) -> None:
    """Over Azurite, a few."""
    _run(
        lambda: EventRetention(open_store(f"{azurite.endpoint}/{azurite.new_container()}", {}), template),
        4,
        15,
    )


# --- the commands ----------------------------------------------------------------------------------------------------


def _names(cli: Cli) -> int:
    with contextlib.closing(sqlite3.connect(cli.cache)) as cache:
        return int(cache.execute("SELECT count(*) FROM event_chunk").fetchone()[0])


@pytest.fixture
def told(cli: Cli, remote: Remote) -> Remote:
    """Return a registry, not yet synced, with events of a job that ended 40 days ago and of one at work since then."""
    for job_id in ("old", "at-work"):
        add(remote.jobs, job_id, "running")
        for number in range(3):
            record_event(remote.store.inner, job_id, "log", now=cli.clock.now, text=f"line {number}")
    remote.jobs.finalize_job("old", "succeeded")
    cli.clock.advance(days=40)
    return remote


def test_pruning_the_cache_forgets_names_of_chunks(cli: Cli, told: Remote) -> None:
    """Those of long ago, also while no job is old enough to go; no sync brings their events again."""
    cli.ok("sync", "-q")
    assert _names(cli) == 6
    cli.ok("prune", "--older-than", "39d", "--dry-run")
    assert _names(cli) == 6
    told.jobs.finalize_job("at-work", "failed")
    cli.ok("prune", "--older-than", "60d")
    assert _names(cli) == 6
    cli.ok("prune", "--older-than", "39d", "--yes")
    assert _names(cli) == 0
    cli.ok("sync", "-q", "--full")
    assert _names(cli) == 0
    events = cli.ok("events", "--json").lines
    assert len(events) == 3
    assert not any('"old"' in line for line in events)


def test_a_label_after_the_end_keeps_no_events(cli: Cli, told: Remote) -> None:
    """The store, as the cache, counts from the end of a job, not from the last write to its record."""
    cli.ok("update", "old", "--label", "checked=yes")
    ran = cli.ok("prune", "--store", "--older-than", "39d", "--dry-run", "--json")
    assert (ran.json["jobs"], ran.json["chunks"]["count"]) == (1, 3)


def test_events_that_come_after_their_job_was_pruned_are_not_taken(cli: Cli, remote: Remote) -> None:
    """A listing mirrors jobs alone; their events would come with the next sync, and nothing would take them away."""
    for job_id in ("job", "other"):
        remote.jobs.register_job(job_id)
        remote.jobs.update_status(job_id, "succeeded" if job_id == "job" else "running")
        with contextlib.closing(EventLog(remote.store.inner, job_id, source="s", now=cli.clock.now)) as log:
            log.emit("log", text="a line")
    cli.ok("list", "-q", "--refresh")
    cli.clock.advance(minutes=1)
    assert cli.ok("prune", "--older-than", "1s", "--yes").err == "Removed 1 job and 0 events from the cache.\n"
    cli.ok("sync")
    assert {event["job_id"] for event in cli.ok("events", "--json", "--offline").objects} == {"other"}


def test_what_no_sync_has_seen_is_not_forgotten(cli: Cli, told: Remote) -> None:
    """However old it is by then: the hours that are forgotten end before the last sync."""
    cli.ok("sync", "-q")
    cli.clock.advance(hours=2)
    record_event(told.store.inner, "at-work", "log", now=cli.clock.now, text="unseen")
    cli.clock.advance(days=3)
    cli.ok("prune", "--older-than", "1d", "--yes")
    cli.ok("sync", "-q")
    assert any("unseen" in line for line in cli.ok("events", "--json", "--offline").lines)


@pytest.mark.parametrize("job_id", ["old", "at-work"])
def test_a_chunk_that_is_sent_again_much_later_is_not_taken_again(cli: Cli, told: Remote, job_id: str) -> None:
    """By a laptop that has slept, after the name was forgotten: neither for a job that was pruned nor for another."""
    cli.ok("sync", "-q")
    cli.ok("prune", "--older-than", "39d", "--yes")
    before = cli.ok("events", "--json").lines
    for key in list(told.store.inner.list_keys("events/")):
        found = told.store.inner.get(key)
        if f"/{job_id}/" in key and found is not None:
            told.put(key.replace("20260301T12", cli.clock.now().strftime("%Y%m%dT%H")), found.value)
    cli.ok("sync", "-q", "--full")
    assert cli.ok("events", "--json").lines == before
    assert len(before) == 3


@pytest.mark.parametrize("others_pruned", [False, True])
def test_a_late_chunk_of_a_job_that_is_not_mirrored_yet_is_taken(cli: Cli, told: Remote, others_pruned: bool) -> None:
    """Its events may come before its record does, and tell of an hour whose names are forgotten."""
    cli.ok("sync", "-q")
    cli.ok("prune", "--older-than", "39d" if others_pruned else "60d", "--yes")
    with contextlib.closing(cache_database.open_to_write(str(cli.cache), REMOTE_URL)) as cache:
        forget_chunks(cache, cli.clock.now())
        line = event_line({"at": json_time(START), "job_id": "late", "kind": "log", "source": "w", "seq": 0}, {})
        told.put(chunk_key(cli.clock.now(), "late", "w", 0), f"{line}\n")
        assert sync_events(told.store.inner, cache, now=cli.clock.now).entries == 1
        # Sent once more, much later, it is known.
        cli.clock.advance(days=2)
        sync_events(told.store.inner, cache, now=cli.clock.now)
        forget_chunks(cache, cli.clock.now())
        told.put(chunk_key(cli.clock.now(), "late", "w", 0), f"{line}\n")
        assert sync_events(told.store.inner, cache, now=cli.clock.now).entries == 0


def test_chunks_that_cannot_be_read_stay_known(cli: Cli, told: Remote) -> None:
    """So that doctor tells of them, and a full sync tries them again, long after other names were forgotten."""
    key = chunk_key(START, "at-work", "w", 7)
    told.put(key, "{")
    assert cli("sync", "-q").code == 7
    cli.ok("prune", "--older-than", "39d", "--yes")
    assert _names(cli) == 1
    line = event_line({"at": json_time(START), "job_id": "at-work", "kind": "log", "source": "w", "seq": 0}, {})
    told.put(key, f"{line}\n")
    cli.ok("sync", "-q", "--full")
    assert len(cli.ok("events", "at-work", "--json").lines) == 4


GONE = "There are no events of job old: none were written, or prune --store has removed them.\n"


@pytest.mark.parametrize("words", [("logs", "old"), ("events", "old"), ("logs", "old", "-f"), ("events", "old", "-f")])
def test_a_log_that_is_gone_is_told(cli: Cli, told: Remote, words: tuple[str, ...]) -> None:
    """One sentence, and the exit code as ever; a job that has not ended may just not have said anything."""
    cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    ran = cli.ok(*words)
    assert (ran.out, ran.err) == ("", GONE)
    add(told.jobs, "silent", "running")
    assert cli.ok("logs", "silent").err == "Job silent has no log lines yet.\n"


PRUNED = (
    "This cache has pruned job old with its events. To read them from the registry, unless prune --store has removed"
    " them there, use another cache: --cache PATH.\n"
)


@pytest.mark.parametrize("words", [("logs", "old"), ("events", "old"), ("logs", "old", "-f")])
def test_a_cache_that_has_pruned_them_says_so(cli: Cli, told: Remote, words: tuple[str, ...]) -> None:
    """The registry has not lost them; and what the sentence advises does show them."""
    del told
    cli.ok("sync", "-q")
    cli.ok("prune", "--older-than", "30d", "--yes")
    ran = cli.ok(*words)
    assert (ran.out, ran.err) == ("", PRUNED)
    ran = cli.ok(*words, "--cache", f"{cli.cache}-2")
    assert (len(ran.lines), ran.err) == (3, "")


@pytest.mark.parametrize("command", ["logs", "events"])
def test_a_cache_that_still_has_them_shows_them(cli: Cli, told: Remote, command: str) -> None:
    """What was synced before it left the registry is there to stay, until the cache is pruned too."""
    del told
    cli.ok("sync", "-q")
    cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    cli.ok("sync", "-q", "--full")
    ran = cli.ok(command, "old")
    assert (len(ran.lines), ran.err) == (3, "")


def test_whoever_cannot_ask_claims_nothing(cli: Cli, told: Remote) -> None:
    """Without the network it is unknown whether the registry has events."""
    cli.ok("sync", "-q")
    cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    with contextlib.closing(sqlite3.connect(cli.cache)) as cache, cache:
        cache.execute("DELETE FROM event")
    assert "prune --store" not in cli("logs", "old", "--offline").err
    told.store.down = True
    assert "prune --store" not in cli("logs", "old").err


def test_a_follower_is_not_disturbed(cli: Cli, clock: Clock, told: Remote) -> None:
    """Events are shown as they come, once each, while what is old is removed between two looks."""

    def meanwhile(count: int) -> None:
        if count < 4:
            record_event(told.store.inner, "at-work", "log", now=clock.now, text=f"new {count}")
            Retention(told.jobs, timedelta(hours=1), now=clock.now()).remove()
        elif count == 4:
            told.jobs.finalize_job("at-work", "succeeded")

    clock.on_sleep = meanwhile
    ran = cli.ok("logs", "at-work", "-f")
    assert sorted(ran.lines[:3]) == [f"line {number}" for number in range(3)]  # of one moment, by three writers
    assert ran.lines[3:] == [f"new {number}" for number in range(1, 4)]
