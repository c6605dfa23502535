"""Retention in the store: what is no longer needed goes, and nothing else, whatever runs beside it."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.cache.sync import mirror
from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError, UsageError
from mopsjobs.events import format as event_format
from mopsjobs.events import retention
from mopsjobs.events.retention import Retention
from mopsjobs.events.writer import EventLog, record_event
from mopsjobs.ledger import format as ledger
from mopsjobs.ledger.format import ledger_prefix
from mopsjobs.registry import announcements as registry_announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import LEDGER
from mopsjobs.store import open_store
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import START, Cli, Clock, LineStore, Remote, add, command, environment, put, sentences
from support.doubles import FaultyStore, RecordingSleep
from support.runs import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mopsjobs.store.base import VersionedStore
    from support.servers import Azurite

MONTH = timedelta(days=30)


def _aged(store: VersionedStore, clock: Clock) -> JobRegistry:
    """Return a store after 41 days: jobs that ended 40 days ago, one of two days ago, and one at work since then."""
    jobs = JobRegistry(store, now=clock.now)
    for job_id in ("old-1", "old-2", "at-work"):
        _play(jobs, job_id, clock)
        clock.advance(minutes=10)
    jobs.finalize_job("old-1", "succeeded")
    jobs.finalize_job("old-2", "failed")
    for key in ("results/old-1/p/1/out.json", "bundles/sha256/0", "jobs/old-1/manifest.json"):
        put(store, key, b"-")
    clock.advance(days=39)
    _play(jobs, "young", clock)
    jobs.finalize_job("young", "succeeded")
    clock.advance(days=2)
    return jobs


def _play(jobs: JobRegistry, job_id: str, clock: Clock) -> None:
    jobs.register_job(job_id)
    jobs.update_status(job_id, "running")
    for number in range(2):
        assert record_event(jobs.store, job_id, "log", now=clock.now, text=f"line {number}")


def _keys(store: VersionedStore, *prefixes: str) -> list[str]:
    return [key for prefix in prefixes for key in store.list_keys(prefix)]


def _of(keys: Iterable[str], job_id: str) -> int:
    return sum(f"/{job_id}/" in key or key.endswith(f"/{job_id}") for key in keys)


def _round(jobs: JobRegistry, clock: Clock, age: timedelta = MONTH) -> Retention:
    return Retention(jobs, age, now=clock.now(), sleep=RecordingSleep())


# --- what goes -------------------------------------------------------------------------------------------------------


def test_what_nobody_needs_goes_and_all_else_stays(store: VersionedStore, clock: Clock) -> None:
    """Events of jobs that ended long ago, and announcements of more than a day ago; as was said before."""
    jobs = _aged(store, clock)
    jobs.update_progress("at-work", 1)
    before = set(_keys(store, ""))
    one = _round(jobs, clock)
    planned = one.plan()
    assert set(_keys(store, "")) == before
    one.remove()
    gone = before - set(_keys(store, ""))
    assert {key.split("/")[0] for key in gone} == {"events", "changes"}
    chunks_gone = [key for key in gone if key.startswith("events/")]
    assert (_of(chunks_gone, "old-1"), _of(chunks_gone, "old-2"), len(chunks_gone)) == (2, 2, 4)
    assert _of(_keys(store, event_format.PREFIX), "at-work") == _of(_keys(store, event_format.PREFIX), "young") == 2
    assert _keys(store, registry_announcements.PREFIX) == [f"{registry_announcements.slot_of(clock.now())}at-work"]
    for counts in (planned, one.removed):
        assert (counts.chunks.count, counts.jobs) == (4, 2)
        assert (counts.announcements.count, counts.keys) == (len(gone) - 4, len(gone))
        assert (counts.chunks.first, counts.chunks.last) == ("20260301T12", "20260301T12")
        assert (counts.announcements.first, counts.announcements.last) == ("20260301T1200", "20260409T1230")
    again = _round(jobs, clock)
    again.remove()
    assert (again.plan().keys, again.removed.keys) == (0, 0)


def test_the_ledger_of_a_job_goes_with_its_events(clock: Clock) -> None:
    """Just before them. That of a job at work stays, and that of a young one."""
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    for job_id in ("old-1", "old-2", "young", "at-work"):
        for number in range(3):
            store.create_if_absent(ledger.chunk_key(job_id, 0, "ab", number), b"chunk")
    one = _round(jobs, clock)
    planned = one.plan()
    one.remove()
    for counts in (planned, one.removed):
        assert (counts.ledger_chunks, counts.chunks.count, counts.jobs) == (6, 4, 2)
        assert counts.keys == 6 + 4 + counts.announcements.count
    left = _keys(store, LEDGER.prefix)
    assert [_of(left, job_id) for job_id in ("old-1", "old-2", "young", "at-work")] == [0, 0, 3, 3]


def test_a_job_that_is_gone_or_cannot_be_read(clock: Clock) -> None:
    """Events of a job without a record stay, and are counted; so do those of one whose record cannot be read."""
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    store.delete(jobs.key_of("old-1"))
    put(store, jobs.key_of("old-2"), "{")
    one = _round(jobs, clock)
    for planned in (one.plan(), one.remove()):
        assert planned is None or not planned.chunks.count
        assert (one.unknown.jobs, one.unknown.keys, one.unknown.chunks.first) == (1, 2, "20260301T12")
    left = _keys(store, event_format.PREFIX)
    assert (_of(left, "old-1"), _of(left, "old-2")) == (2, 2)


def test_two_registries_in_one_store_keep_off_each_other(clock: Clock) -> None:
    """Each removes the events of its own jobs, and no others: those of the other may be at work."""
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    theirs = JobRegistry(store, prefix="team-b", now=clock.now)
    _play(theirs, "b-at-work", clock)
    _play(theirs, "b-old", clock)
    theirs.finalize_job("b-old", "succeeded")
    clock.advance(days=41)
    _round(jobs, clock).remove()
    left = _keys(store, event_format.PREFIX)
    assert [_of(left, job_id) for job_id in ("young", "at-work", "b-at-work", "b-old")] == [0, 2, 2, 2]
    _round(theirs, clock).remove()
    left = _keys(store, event_format.PREFIX)
    assert [_of(left, job_id) for job_id in ("at-work", "b-at-work", "b-old")] == [2, 2, 0]


def test_a_job_that_is_registered_meanwhile_keeps_its_events(clock: Clock) -> None:
    """A record that was missing is looked for again: a runner without a network delivers its record later."""
    store = InMemoryVersionedStore()
    jobs = JobRegistry(store, now=clock.now)
    record_event(store, "late", "log", now=clock.now, text="x")
    clock.advance(days=41)
    one = _round(jobs, clock)
    assert (one.plan().keys, one.unknown.keys) == (0, 1)
    jobs.register_job("late")
    one.remove()
    assert len(_keys(store, event_format.PREFIX)) == 1
    assert one.unknown.keys == 0


def test_a_late_tail_outlives_the_rest(clock: Clock) -> None:
    """By as much as it was late: a chunk that an outbox delivers ten days after the end goes ten days later."""
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    put(store, event_format.chunk_key(clock.now() - timedelta(days=29), "old-1", "w", 7), b"-")
    _round(jobs, clock).remove()
    assert _of(_keys(store, event_format.PREFIX), "old-1") == 1
    clock.advance(days=2)
    _round(jobs, clock).remove()
    assert _of(_keys(store, event_format.PREFIX), "old-1") == 0


def test_a_log_keeps_its_beginning(clock: Clock) -> None:
    """A job that ended too lately keeps the events of its beginning, however old these are."""
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    jobs.finalize_job("at-work", "failed")
    clock.advance(days=1)
    _round(jobs, clock).remove()
    assert _of(_keys(store, event_format.PREFIX), "at-work") == 2


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_what_is_no_key_of_ours_stays(store: VersionedStore, clock: Clock) -> None:
    """What others have put beside announcements and chunks is left alone."""
    jobs = _aged(store, clock)
    theirs = ["changes/notes", "changes/20260301/a/b", "events/20260301T12/old-1/notes.txt", "events/!"]
    for key in theirs:
        put(store, key, b"-")
    _round(jobs, clock).remove()
    assert set(theirs) <= set(_keys(store, ""))


@given(
    st.lists(st.tuples(st.floats(0, 3 * 86400), st.sampled_from("abc")), max_size=20),
    st.sampled_from("abc"),
    st.floats(3600, 2 * 86400),
)
def test_no_age_takes_what_is_younger(written: list[tuple[float, str]], at_work: str, age: float) -> None:
    """For any times of writing and any age: chunks written since then stay, and all of jobs that have not ended."""
    store, clock = InMemoryVersionedStore(), Clock()
    jobs = JobRegistry(store, now=clock.now)
    for job_id in "abc":
        jobs.register_job(job_id)
        jobs.update_status(job_id, "running" if job_id == at_work else "failed")
    kept = set()
    now = START + timedelta(days=3)
    for ago, job_id in written:
        moment = now - timedelta(seconds=ago)
        key = event_format.chunk_key(moment, job_id, f"w{len(kept)}", 0)
        put(store, key, b"-")
        announcement = f"{registry_announcements.slot_of(moment)}{job_id}"
        if ago <= registry_announcements.RETENTION.total_seconds():
            kept.add(announcement)
        put(store, announcement, b"-")
        if job_id == at_work or ago <= age:
            kept.add(key)
    Retention(jobs, timedelta(seconds=age), now=now).remove()
    left = set(_keys(store, "changes/", "events/"))
    assert kept <= left
    # What stays beside it shares an hour or a slot with something that must stay.
    for key in left - kept:
        hour = key.split("/")[1]
        limit = now - (timedelta(seconds=age) if key.startswith("events/") else registry_announcements.RETENTION)
        assert hour >= limit.strftime("%Y%m%dT%H")


def test_a_reader_looks_no_further_than_announcements_are_kept() -> None:
    """What the promise of a delta sync needs, with clocks as far apart as they may be, is well within what is kept."""
    assert registry_announcements.max_sync_age() > 10 * mirror.MAX_FULL_SYNC_AGE
    assert (
        registry_announcements.RETENTION
        >= mirror.MAX_FULL_SYNC_AGE + 2 * registry_announcements.MAX_CLOCK_SKEW + registry_announcements.MAX_WRITE_DELAY
    )
    now = datetime(2026, 3, 1, 12, 5, tzinfo=UTC)
    oldest = registry_announcements.slots_between(
        now - registry_announcements.max_sync_age() - registry_announcements.MAX_CLOCK_SKEW, now
    )[0]
    store = InMemoryVersionedStore()
    put(store, f"{oldest}job", b"-")
    assert not list(registry_announcements.expired_announcements(store, now))


def test_only_what_is_old_is_listed(clock: Clock) -> None:
    """A listing ends at the first key that is young: its cost follows what goes."""
    store = InMemoryVersionedStore()
    _aged(store, clock)
    for number in range(50):
        record_event(store, "at-work", "log", now=clock.now, text=str(number))
        put(store, f"{registry_announcements.slot_of(clock.now())}job-{number}", b"-")
    taken: list[str] = []

    class Noting(FaultyStore):
        def list_keys(self, prefix: str = "") -> Iterable[str]:  # type: ignore[override]
            for key in super().list_keys(prefix):
                taken.append(key)
                yield key

    counts = _round(JobRegistry(Noting(store), now=clock.now), clock).plan()
    active = 2
    assert len(taken) <= counts.keys + active + 2


def test_ledgers_of_several_jobs_are_listed_at_once(clock: Clock) -> None:
    """A million jobs at 30 ms each would take 8 hours one by one. They go in the order of the chunks all the same."""
    store = InMemoryVersionedStore()
    jobs = JobRegistry(store, now=clock.now)
    ids = [f"job-{number:03}" for number in range(4 * retention.REQUESTS)]
    for job_id in ids:
        _play(jobs, job_id, clock)
        put(store, f"{ledger_prefix(job_id)}20260301T1200-w-000000.gz", b"-")
        jobs.finalize_job(job_id, "succeeded")
    clock.advance(days=40)
    met = threading.Barrier(retention.REQUESTS)

    class Meeting(FaultyStore):
        def list_keys(self, prefix: str = "") -> Iterator[str]:
            if prefix.startswith(LEDGER.prefix):
                met.wait(PATIENCE)
            return super().list_keys(prefix)

    one = _round(JobRegistry(Meeting(store), now=clock.now), clock)
    assert one.plan().ledger_chunks == len(ids)
    removed = [key for key in _order(store, clock) if not key.startswith("changes/")]
    for job_id in ids:
        whole = [key.partition("/")[0] for key in removed if job_id in key]
        assert whole[0] == LEDGER.prefix.rstrip("/")
        assert set(whole[1:]) == {"events"}


def test_events_of_the_last_hour_stay(clock: Clock) -> None:
    """Followers may not have seen them: a shorter age is refused."""
    with pytest.raises(UsageError):
        _round(JobRegistry(InMemoryVersionedStore()), clock, timedelta(minutes=59))


def test_more_jobs_than_are_remembered_are_read_again(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of theirs goes all the same."""
    monkeypatch.setattr(retention, "MAX_JOBS", 1)
    monkeypatch.setattr(retention, "BATCH", 1)
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    one = _round(jobs, clock)
    counts = one.plan()
    assert (counts.jobs, counts.chunks.count) == (2, 4)
    one.remove()
    assert one.removed.chunks.count == 4


# --- beside others ---------------------------------------------------------------------------------------------------


def test_two_at_once_remove_it_once(store: VersionedStore, clock: Clock) -> None:
    """Each key is counted by one of them, and none is an error."""
    jobs = _aged(store, clock)
    total = _round(jobs, clock).plan().keys
    rounds = [_round(jobs, clock) for _ in range(2)]
    threads = [threading.Thread(target=one.remove) for one in rounds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.removed.keys for one in rounds) == total
    assert _round(jobs, clock).plan().keys == 0


def _order(store: VersionedStore, clock: Clock) -> list[str]:
    """Return what a round removes, in its order."""
    taken: list[str] = []

    class Noting(FaultyStore):
        def delete(self, key: str) -> bool:
            taken.append(key)
            return True

    _round(JobRegistry(Noting(store)), clock).remove()
    return taken


class Ended(BaseException):
    """An end like a kill: nothing catches it."""


def test_cut_short_it_leaves_the_younger_part(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any key: what is left are the youngest, and the next round takes them."""
    monkeypatch.setattr(retention, "BATCH", 1)
    whole = InMemoryVersionedStore()
    _aged(whole, clock)
    order = _order(whole, clock)
    assert len(order) == 10
    for survivors in range(1, len(order)):
        store = InMemoryVersionedStore()
        for entry in whole.scan():
            put(store, entry.key, entry.value or b"")
        left = len(order) - survivors

        class Dying(FaultyStore):
            def delete(self, key: str) -> bool:
                if len(_keys(self.inner, "changes/", "events/")) == at_least:  # noqa: B023
                    raise Ended
                return super().delete(key)

        at_least = len(_keys(store, "changes/", "events/")) - left
        with pytest.raises(Ended):
            _round(JobRegistry(Dying(store)), clock).remove()
        assert [key for key in order if store.get(key)] == order[left:]
        _round(JobRegistry(store), clock).remove()
        assert not [key for key in order if store.get(key)]


@pytest.fixture
def many(cli: Cli, remote: Remote) -> Remote:
    """Return a registry with old chunks for three batches."""
    add(remote.jobs, "old", "failed")
    for number in range(3 * retention.BATCH):
        put(
            remote.store.inner,
            event_format.chunk_key(cli.clock.now() + timedelta(hours=number), "old", "w", number),
            b"-",
        )
    cli.clock.advance(days=100)
    return remote


def test_ctrl_c_ends_it_with_what_is_under_way(cli: Cli, many: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued stays, younger batches are whole, and what has gone is told: exit code 130."""
    after = retention.BATCH + 100
    numbers, stopped = itertools.count(), threading.Event()

    class Interrupted(LineStore):
        def delete(self, key: str) -> bool:
            number = next(numbers)
            if number == after:
                os.kill(os.getpid(), signal.SIGINT)
            if number >= after:
                stopped.wait(PATIENCE)
                stopped.set()  # if nothing has stopped it, all go, and are counted below
            return super().delete(key)

    class Threads(ThreadPoolExecutor):
        def shutdown(self, *arguments: bool, **options: bool) -> None:
            if options.get("cancel_futures"):
                stopped.set()  # what is under way goes on when nothing new is begun
            super().shutdown(*arguments, **options)

    monkeypatch.setattr(retention, "ThreadPoolExecutor", Threads)
    inner = many.store.inner
    before = _keys(inner, "changes/", "events/")
    monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: Interrupted(inner))
    ran = cli("prune", "--store", "--older-than", "1h", "--yes")
    gone = set(before) - set(_keys(inner, "changes/", "events/"))
    assert ran.code == 130
    assert after <= len(gone) <= after + 3 * retention.REQUESTS
    assert gone <= set(before[: 2 * retention.BATCH + 1])  # the first key goes by itself
    announcements = sum(key.startswith("changes/") for key in gone)
    assert f"Removed {len(gone) - announcements} chunks of events" in ran.err
    assert ran.err.endswith(f"{announcements} announcement of writes (of 2026-03-01T12:00:00Z), then stopped.\n")


@pytest.mark.parametrize("silent", [False, True])
def test_ctrl_c_ends_waits_between_attempts(clock: Clock, silent: bool) -> None:
    """Those who wait for a server that is busy do not try again."""
    store = InMemoryVersionedStore()
    _aged(store, clock)
    naps: list[float] = []
    begun = threading.Event()

    class Away(FaultyStore):
        def delete(self, key: str) -> bool:
            if not self.calls["delete"]:  # it comes alone
                return super().delete(key)
            self.calls["delete"] += 1
            if self.calls["delete"] == 2:
                assert begun.wait(PATIENCE)
                raise KeyboardInterrupt
            raise StoreUnavailableError("busy", silent=silent)

    def nap(seconds: float) -> None:
        naps.append(seconds)
        begun.set()
        assert one._is_over.wait(PATIENCE)

    line = Away(store)
    one = Retention(JobRegistry(line), MONTH, now=clock.now(), sleep=nap)
    with pytest.raises(KeyboardInterrupt):
        one.remove()
    assert one.removed.keys == 1
    assert max(naps) <= retention.STEP_SECONDS
    assert line.calls["delete"] <= 1 + 1 + retention.REQUESTS


def test_refusals_are_counted_by_one_at_a_time(clock: Clock) -> None:
    """Eight threads that count at once lose none, however they interleave."""
    store = InMemoryVersionedStore()
    _aged(store, clock)
    for number in range(100):
        put(store, event_format.chunk_key(START, "old-1", f"w{number}", 0), b"-")
    refusing = Refusing(store, "events/", StoreError("A hold."))
    one = _round(JobRegistry(refusing), clock)

    class Slow(int):
        """A count that lets the other threads go first."""

        def __add__(self, other: int) -> Slow:
            time.sleep(0)  # no wait: it only lets go of the interpreter
            return Slow(int(self) + other)

    one.refused = Slow(0)
    one.remove()
    assert one.refused == 104
    assert len(one.refusals) == retention.MAX_SHOWN_REFUSALS


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_writers_at_work_meanwhile_lose_nothing(store: VersionedStore, clock: Clock) -> None:
    """A runner that goes on writes its events and its record as ever."""
    jobs = _aged(store, clock)
    with_log = EventLog(store, "at-work", now=clock.now, flush_seconds=0.001)
    for number in range(20):
        with_log.emit("log", text=f"late {number}")
        jobs.update_progress("at-work", number)
        if number % 5 == 0:
            _round(jobs, clock).remove()
    assert with_log.close(PATIENCE)
    told = [
        event["text"]
        for key in _keys(store, event_format.PREFIX)
        if "/at-work/" in key
        for event in _events(store, key)
    ]
    assert told[-20:] == [f"late {number}" for number in range(20)]


def _events(store: VersionedStore, key: str) -> list[event_format.Event]:
    found = store.get(key)
    assert found is not None
    return event_format.parse_chunk(found.value)


# --- a store that does not take it -----------------------------------------------------------------------------------


class Refusing(LineStore):
    """Removes nothing whose key contains `held`; `failure` is what it raises instead."""

    def __init__(self, inner: VersionedStore, held: str, failure: StoreError) -> None:
        super().__init__(inner)
        self.held = held
        self.failure = failure
        self.asked = 0

    def delete(self, key: str) -> bool:
        if self.held in key:
            self.asked += 1
            raise self.failure
        return super().delete(key)


@pytest.mark.parametrize("silent", [False, True])
def test_a_removal_that_fails_is_tried_again(clock: Clock, silent: bool) -> None:
    """An outage that passes costs a pause, since removing twice does no harm; so does silence, but from the first."""

    class Busy(FaultyStore):
        def delete(self, key: str) -> bool:
            is_first = not self.calls["delete"]  # it comes alone
            is_removed = super().delete(key)
            if is_first:
                self.fail_next(2, "delete")
            return is_removed

    line = Busy(InMemoryVersionedStore())
    line.silent = silent
    jobs = _aged(line.inner, clock)
    one = _round(JobRegistry(line), clock)
    one.remove()
    assert one.removed.keys == 10
    assert _round(jobs, clock).plan().keys == 0


@pytest.mark.parametrize("failure", [StoreAccessError("no"), StoreUnavailableError("away", silent=True)])
def test_what_holds_for_all_keys_stops_at_the_first(clock: Clock, failure: StoreError) -> None:
    """Where nothing may be removed, or no server answers, one request finds out."""
    inner = InMemoryVersionedStore()
    line = Refusing(inner, "", failure)
    jobs = _aged(inner, clock)
    with pytest.raises(type(failure)):
        _round(JobRegistry(line), clock).remove()
    assert line.asked == 1
    assert _round(jobs, clock).plan().keys > 0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def aged(cli: Cli, remote: Remote) -> Remote:
    """Return a registry across a network, after 41 days."""
    _aged(remote.store.inner, cli.clock)
    return remote


CHUNKS = (
    "4 chunks of events (of 2026-03-01T12:00:00Z) of 2 jobs that ended before 2026-03-12T12:00:00Z"
    " and 6 announcements of writes (of 2026-03-01T12:00:00Z to 2026-04-09T12:30:00Z)"
)


def test_it_says_what_before_it_does(cli: Cli, aged: Remote) -> None:
    """`--dry-run` removes nothing; the same words come before and after. The second time nothing is left."""
    inner = aged.store.inner
    before = _keys(inner, "")
    assert cli.ok("prune", "--store", "--older-than", "30d", "--dry-run").err == f"Would remove {CHUNKS}.\n"
    assert _keys(inner, "") == before
    ran = cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    assert (ran.out, ran.err) == ("", f"Removing {CHUNKS}.\nRemoved {CHUNKS}.\n")
    assert len(_keys(inner, "")) == len(before) - 10
    assert (
        cli.ok("prune", "--store", "--older-than", "30d").err
        == "The registry has no events or announcements older than 30d to remove.\n"
    )
    assert cli.ok("prune", "--store", "--older-than", "30d", "--yes", "-q").err == ""


def test_scripts_get_the_counts(cli: Cli, aged: Remote) -> None:
    """`--json` is one document, the same for what would go and what went; the cache's prune has none."""
    expected = {
        "schema_version": 1,
        "dry_run": True,
        "ended_before": "2026-03-12T12:00:00Z",
        "jobs": 2,
        "chunks": {"count": 4, "first": "2026-03-01T12:00:00Z", "last": "2026-03-01T12:00:00Z"},
        "announcements": {"count": 6, "first": "2026-03-01T12:00:00Z", "last": "2026-04-09T12:30:00Z"},
        "ledger_chunks": 0,
        "refused": 0,
        "without_record": {"jobs": 0, "chunks": 0},
        "claims": 0,
    }
    words = ("prune", "--store", "--older-than", "30d", "--json")
    assert cli.ok(*words, "--dry-run").json == expected
    assert cli.ok(*words, "--yes").json == {**expected, "dry_run": False}
    assert cli.ok(*words).json["chunks"] == {"count": 0, "first": None, "last": None}
    assert cli("prune", "--older-than", "30d", "--json").code == 2
    assert not list(registry_announcements.expired_announcements(aged.store.inner, cli.clock.now()))


def test_what_stays_without_a_record_is_told(cli: Cli, aged: Remote) -> None:
    """In a note, before and after, and to scripts."""
    aged.store.inner.delete(aged.jobs.key_of("old-1"))
    words = ("prune", "--store", "--older-than", "30d")
    note = "Kept 2 old chunks of events of 1 job without a record."
    assert cli.ok(*words, "--dry-run").err.splitlines()[1:] == [note]
    ran = cli.ok(*words, "--yes", "--json")
    assert ran.err.splitlines()[-1] == note
    assert (ran.json["chunks"]["count"], ran.json["without_record"]) == (2, {"jobs": 1, "chunks": 2})


def test_nothing_goes_unless_it_is_meant(cli: Cli, aged: Remote) -> None:
    """Off a terminal, without `--yes`, and for an age below an hour, the command refuses in one sentence."""
    before = _keys(aged.store.inner, "")
    for words in (("--older-than", "30d"), ("--older-than", "59m", "--yes"), ("--older-than", "soon"), ()):
        ran = cli("prune", "--store", *words)
        assert (ran.code, ran.out) == (2, "")
    assert _keys(aged.store.inner, "") == before


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 130, 1), ("y", 0, 0)])
def test_on_a_terminal_it_asks(cli: Cli, jobs: JobRegistry, answer: str, code: int, left: int) -> None:
    """A person is asked, and only a yes removes anything."""
    add(jobs, "old", "failed")
    record_event(jobs.store, "old", "log", now=cli.clock.now, text="x")
    ours, theirs = pty.openpty()
    words = command("prune", "--store", "--older-than", "1h")
    with subprocess.Popen(words, stdin=theirs, stderr=theirs, stdout=theirs, env=environment(cli)) as process:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        assert process.wait(PATIENCE) == code
    os.close(ours)
    assert len(_keys(jobs.store, "changes/")) == len(_keys(jobs.store, "events/")) == left


@pytest.mark.parametrize(
    ("held", "failure", "code", "removed"),
    [
        ("/old-2/", StoreError("A hold."), 7, 8),
        ("", StoreError("A hold."), 7, 0),
        ("", StoreAccessError("Not permitted."), 4, 0),
        ("/old-2/", StoreAccessError("Not permitted."), 4, 8),
        ("", StoreUnavailableError("Away."), 5, 0),
        ("/old-2/", StoreUnavailableError("Away."), 5, 8),
    ],
)
def test_the_exit_code_tells_why_it_stays(
    cli: Cli, aged: Remote, held: str, failure: StoreError, code: int, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held back by itself: partly done. Not permitted, or no server: as everywhere. What went is told."""
    monkeypatch.setattr(retention, "BATCH", 1)
    inner = aged.store.inner
    before = len(_keys(inner, ""))
    monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: Refusing(inner, held, failure))
    ran = cli("prune", "--store", "--older-than", "30d", "--yes")
    assert (ran.code, before - len(_keys(inner, ""))) == (code, removed)
    assert str(failure) in ran.err
    assert ("Removed " in ran.err) == (removed > 0)


def test_without_a_network_nothing_is_claimed(cli: Cli, aged: Remote) -> None:
    """The registry is asked, not the cache: out of reach is 5."""
    cli.ok("sync", "-q")
    aged.store.break_scan_at = 0
    aged.store.fail_next(100, "list_keys")
    ran = cli("prune", "--store", "--older-than", "30d", "--dry-run")
    assert (ran.code, len(sentences(ran.err))) == (5, 1)


def test_it_works_on_every_backend(cli: Cli, anywhere: VersionedStore) -> None:
    """By the command, with a cache synced before and after: it shows the same jobs."""
    _aged(anywhere, cli.clock)
    cli.ok("sync", "-q")
    listed = cli.ids("--limit", "0")
    cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    assert not list(registry_announcements.expired_announcements(anywhere, cli.clock.now()))
    cli.ok("sync", "-q", "--full")
    assert cli.ids("--limit", "0") == listed


@pytest.fixture
def container(cli: Cli, azurite: Azurite) -> Iterator[str]:
    """Yield a container of a real Azurite, after 41 days, which `cli` has for its registry."""
    name = azurite.new_container()
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{name}"
    with contextlib.closing(open_store(cli.env["MOPS_JOBS_REGISTRY"], {})) as opened:
        _aged(opened, cli.clock)
        yield name


def test_who_may_only_read_removes_nothing(cli: Cli, azurite: Azurite, container: str) -> None:
    """With a SAS to read and list: `--dry-run` tells what would go, and removing it is not permitted."""
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    allowed = ContainerSasPermissions(read=True, list=True)
    expiry = datetime.now(UTC) + timedelta(hours=1)
    sas = generate_container_sas(azurite.account, container, azurite.key, permission=allowed, expiry=expiry)
    words = ("prune", "--store", "--older-than", "30d")
    env = {"AZURE_STORAGE_ACCOUNT": azurite.account, "AZURE_STORAGE_SAS_TOKEN": sas}
    assert cli.ok(*words, "--dry-run", **env).err == f"Would remove {CHUNKS}.\n"
    ran = cli(*words, "--yes", **env)
    assert (ran.code, sas in ran.err) == (4, False)
    assert cli.ok(*words, "--dry-run").err == f"Would remove {CHUNKS}.\n"


def test_what_is_held_stays_and_the_rest_goes(cli: Cli, azurite: Azurite, container: str) -> None:
    """A blob under a lease is named, with exit code 7; the others go."""
    with azurite.client(container) as client:
        held = next(name for name in client.list_blob_names() if name.startswith("events/") and "/old-1/" in name)
        lease = client.get_blob_client(held).acquire_lease()
        ran = cli("prune", "--store", "--older-than", "30d", "--yes", "-q")
        assert (ran.code, len(sentences(ran.err))) == (7, 1)
        assert held in ran.err
        lease.release()
    assert cli.ok("prune", "--store", "--older-than", "30d", "--yes").err.startswith("Removing 1 chunk of events (")


def test_a_registry_that_is_not_there_is_told(cli: Cli) -> None:
    """And not made."""
    ran = cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    assert ran.err.startswith("There is no registry at ")
    assert cli.ok("prune", "--store", "--older-than", "30d", "--dry-run", "--json").json["jobs"] == 0
    assert not os.path.exists(cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))


def test_doctor_tells_when_announcements_pile_up(cli: Cli, anywhere: VersionedStore) -> None:
    """And which command ends it; keys of others before them do not hide them."""
    jobs = JobRegistry(anywhere, now=cli.clock.now)
    _play(jobs, "a", cli.clock)
    put(anywhere, "changes/!notes/x", b"-")
    cli.clock.advance(days=2)
    assert _retention(cli)["state"] == "ok"
    cli.clock.advance(days=39)
    check = _retention(cli)
    assert check["state"] == "warn"
    assert "events since 2026-03-01" in check["detail"]
    assert check["fix"] == "mops-jobs prune --store --older-than 30d"
    cli.ok(*check["fix"].split()[1:], "--yes")
    assert _retention(cli)["state"] == "ok"


def _retention(cli: Cli) -> dict[str, str]:
    (check,) = (one for one in cli("doctor", "--json").json["checks"] if one["name"] == "retention")
    return check  # type: ignore[no-any-return]
