"""Retention in the store: what is no longer needed goes, and nothing else, whatever runs beside it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from mopsjobs.cache import database as cache_database
from mopsjobs.cache import pruning
from mopsjobs.cache.sync import mirror
from mopsjobs.cache.sync.events import sync_events
from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.events import format as event_format
from mopsjobs.events import retention
from mopsjobs.events.format import chunk_key, event_line, parse_chunk_key
from mopsjobs.events.retention import Retention
from mopsjobs.events.writer import EventLog, record_event
from mopsjobs.ledger import format as ledger
from mopsjobs.registry import announcements as registry_announcements
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import CHECKPOINT, OFFERS
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.utils.times import json_time
from support.cli import REMOTE_URL, START, Cli, Clock, LineStore, Remote, add, put
from support.doubles import FaultyStore, RecordingSleep
from support.runs import PATIENCE, at_once
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


def _round(jobs: JobRegistry, clock: Clock) -> Retention:
    return Retention(jobs, MONTH, now=clock.now(), sleep=RecordingSleep())


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
        assert dict(counts) == {"chunks": 4, "announcements": len(gone) - 4}
        assert counts.job_ids == {"old-1", "old-2"}
    again = _round(jobs, clock)
    again.remove()
    assert (again.plan().total(), again.removed.total()) == (0, 0)


def test_what_may_be_of_use_stays(clock: Clock) -> None:
    """Of jobs that ended lately, have no readable record here, or belong to another registry; and what others put here.

    A job that ended lately keeps the events of its beginning, however old these are. A record that was missing is
    looked for again: a runner without a network delivers its record later.
    """
    store = InMemoryVersionedStore()
    jobs = _aged(store, clock)
    foreign = ["changes/notes", "changes/20260301/a/b", "events/20260301T12/old-1/notes.txt", "events/!"]
    for job_id in ("old-1", "old-2", "at-work"):
        foreign += [ledger.chunk_key(job_id, 0, "ab", number) for number in range(3) if job_id != "old-1"]
        for number in range(3):
            store.create_if_absent(ledger.chunk_key(job_id, 0, "ab", number), b"chunk")
        store.create_if_absent(CHECKPOINT.key(job=job_id, param="a" * 64, seed=1, number="000001"), b"{}")
        store.create_if_absent(OFFERS.key(job=job_id, shard=0), b"{}")
    for key in foreign:
        store.create_if_absent(key, b"-")
    theirs = JobRegistry(store, prefix="team-b", now=clock.now)
    _play(theirs, "b-old", clock)
    theirs.finalize_job("b-old", "succeeded")
    record_event(store, "late", "log", now=clock.now, text="x")
    put(store, jobs.key_of("old-2"), "{")
    clock.advance(days=41)
    jobs.finalize_job("at-work", "failed")

    def left(*job_ids: str) -> list[int]:
        return [_of(_keys(store, event_format.PREFIX), job_id) for job_id in job_ids]

    one = _round(jobs, clock)
    planned = one.plan()
    assert {**planned, "announcements": 0} == {
        "chunks": 4, "ledger_chunks": 3, "checkpoints": 1, "offers": 1, "announcements": 0,
    }  # fmt: skip
    assert (len(planned.job_ids), len(one.unknown.job_ids), one.unknown.total()) == (2, 2, 3)
    jobs.register_job("late")
    one.remove()
    assert (one.removed["ledger_chunks"], len(one.unknown.job_ids)) == (3, 1)
    assert [key.split("/")[1] for key in store.list_keys("checkpoints/")] == ["at-work", "old-2"]
    assert [key.split("/")[1] for key in store.list_keys("offers/")] == ["at-work", "old-2"]
    assert left("old-1", "young", "old-2", "at-work", "b-old", "late") == [1, 0, 2, 2, 2, 1]  # old-1 has notes.txt
    assert set(foreign) <= set(_keys(store, ""))
    _round(theirs, clock).remove()
    assert left("at-work", "b-old") == [2, 0]


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


# --- beside others ---------------------------------------------------------------------------------------------------


def test_two_at_once_remove_it_once(store: VersionedStore, clock: Clock) -> None:
    """Each key is counted by one of them, and none is an error."""
    jobs = _aged(store, clock)
    total = _round(jobs, clock).plan().total()
    rounds = [_round(jobs, clock) for _ in range(2)]
    at_once(lambda each: each.remove(), rounds)
    assert sum(one.removed.total() for one in rounds) == total
    assert _round(jobs, clock).plan().total() == 0


@pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
def test_writers_at_work_meanwhile_lose_nothing(store: VersionedStore, clock: Clock) -> None:
    """A runner that goes on writes its events and its record as ever."""
    jobs = _aged(store, clock)
    log = EventLog(store, "at-work", now=clock.now, flush_seconds=0.001)
    for number in range(20):
        log.emit("log", text=f"late {number}")
        jobs.update_progress("at-work", number)
        if number % 5 == 0:
            _round(jobs, clock).remove()
    assert log.close(PATIENCE)
    values = [store.get(key) for key in _keys(store, event_format.PREFIX) if "/at-work/" in key]
    told = [event["text"] for found in values if found for event in event_format.parse_chunk(found.value)]
    assert told[-20:] == [f"late {number}" for number in range(20)]
    assert jobs.get_job("at-work").tasks_completed == 19  # type: ignore[union-attr]


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


def test_ctrl_c_ends_it_with_its_batch(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """Younger batches are whole, and what has gone is told: exit code 130."""
    inner, after = remote.store.inner, retention.BATCH + 100
    add(remote.jobs, "old", "failed")
    for number in range(3 * retention.BATCH):
        put(inner, event_format.chunk_key(START + timedelta(hours=number), "old", "w", number), b"-")
    cli.clock.advance(days=100)
    numbers = itertools.count()

    class Interrupted(LineStore):
        def delete(self, key: str) -> bool:
            if next(numbers) == after:
                raise KeyboardInterrupt
            return super().delete(key)

    before = _keys(inner, "changes/", "events/")
    monkeypatch.setattr("mopsjobs.store.open_store", lambda url, env, **_: Interrupted(inner))
    ran = cli("prune", "--store", "--older-than", "1h", "--yes")
    gone = set(before) - set(_keys(inner, "changes/", "events/"))
    assert ran.code == 130
    assert len(gone) >= after
    assert gone <= set(before[: 2 * retention.BATCH + 1])  # the first key goes by itself
    announced = sum(key.startswith("changes/") for key in gone)
    assert f"Removed {len(gone) - announced} chunks of events" in ran.err
    assert ran.err.endswith(", then stopped.\n")


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


def test_a_removal_that_fails_is_tried_again(clock: Clock) -> None:
    """An outage that passes costs a pause, since removing twice does no harm."""

    class Busy(FaultyStore):
        def delete(self, key: str) -> bool:
            is_first = not self.calls["delete"]  # it comes alone
            is_removed = super().delete(key)
            if is_first:
                self.fail_next(2, "delete")
            return is_removed

    line = Busy(InMemoryVersionedStore())
    jobs = _aged(line.inner, clock)
    one = _round(JobRegistry(line), clock)
    one.remove()
    assert one.removed.total() == 10
    assert _round(jobs, clock).plan().total() == 0


@pytest.mark.parametrize("failure", [StoreAccessError("no"), StoreUnavailableError("away", silent=True)])
def test_what_holds_for_all_keys_stops_at_the_first(clock: Clock, failure: StoreError) -> None:
    """Where nothing may be removed, or no server answers, one request finds out."""
    inner = InMemoryVersionedStore()
    line = Refusing(inner, "", failure)
    jobs = _aged(inner, clock)
    with pytest.raises(type(failure)):
        _round(JobRegistry(line), clock).remove()
    assert line.asked == 1
    assert _round(jobs, clock).plan().total() > 0


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def aged(cli: Cli, remote: Remote) -> Remote:
    """Return a registry across a network, after 41 days."""
    _aged(remote.store.inner, cli.clock)
    return remote


CHUNKS = "4 chunks of events of 2 jobs that ended before 2026-03-12T12:00:00Z and 6 announcements of writes"


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


def test_nothing_goes_unless_it_is_meant(cli: Cli, aged: Remote) -> None:
    """Off a terminal, without `--yes`, and for an age below an hour, the command refuses in one sentence."""
    before = _keys(aged.store.inner, "")
    for words in (("--older-than", "30d"), ("--older-than", "59m", "--yes"), ("--older-than", "soon"), ()):
        cli.fails(2, "prune", "--store", *words)
    assert _keys(aged.store.inner, "") == before


@pytest.mark.parametrize(
    ("held", "failure", "code", "removed"),
    [
        ("/old-2/", StoreError("A hold."), 7, 8),
        ("", StoreAccessError("Not permitted."), 4, 0),
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


def test_without_a_registry_nothing_is_claimed(cli: Cli, aged: Remote) -> None:
    """It is asked, not the cache: out of reach is 5. One that is not there is told, and not made."""
    cli.ok("sync", "-q")
    words = ("prune", "--store", "--older-than", "30d")
    aged.store.down = True
    assert cli(*words, "--dry-run").code == 5
    aged.store.down = False
    aged.store.fail_next(100, "list_keys")
    ran = cli(*words, "--dry-run")
    assert (ran.code, "Would remove" in ran.err) == (5, False)


def test_a_registry_that_is_not_there_is_told_and_not_made(cli: Cli) -> None:
    ran = cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    assert ran.err.startswith("There is no registry at ")
    assert not os.path.exists(cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://"))


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
    assert check["detail"].startswith("announcements since 20260301;")
    assert check["fix"] == "mops-jobs prune --store --older-than 30d"
    cli.ok(*check["fix"].split()[1:], "--yes")
    assert _retention(cli)["state"] == "ok"


def _retention(cli: Cli) -> dict[str, str]:
    (check,) = (one for one in cli("doctor", "--json").json["checks"] if one["name"] == "retention")
    return check  # type: ignore[no-any-return]


# --- the cache beside it ---------------------------------------------------------------------------------------------

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
        """Prune the cache of events of jobs that are gone from it, with the names of their chunks."""
        limit = self.clock - timedelta(seconds=age)
        with self._cache() as cache:
            pruning.prune(cache, limit.timestamp())
            left = {name for (name,) in cache.execute("SELECT chunk FROM event")}
            assert {name for (name,) in cache.execute("SELECT name FROM event_chunk")} == left
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


def test_no_event_comes_back_or_twice_in_azure(template: str, azurite: Azurite) -> None:
    """Over Azurite, a few."""
    _run(lambda: EventRetention(open_store(f"{azurite.endpoint}/{azurite.new_container()}", {}), template), 4, 15)


# --- what commands say of it -----------------------------------------------------------------------------------------


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
    """However old it is by then."""
    cli.ok("sync", "-q")
    cli.clock.advance(hours=2)
    record_event(told.store.inner, "at-work", "log", now=cli.clock.now, text="unseen")
    cli.clock.advance(days=3)
    cli.ok("prune", "--older-than", "1d", "--yes")
    cli.ok("sync", "-q")
    assert any("unseen" in line for line in cli.ok("events", "--json", "--offline").lines)


def test_a_late_chunk_of_a_job_that_is_not_mirrored_yet_is_taken_once(cli: Cli, told: Remote) -> None:
    """Its events may come before its record does, and once more, much later."""
    cli.ok("sync", "-q")
    cli.ok("prune", "--older-than", "39d", "--yes")
    line = event_line({"at": json_time(START), "job_id": "late", "kind": "log", "source": "w", "seq": 0}, {})
    with contextlib.closing(cache_database.open_to_write(str(cli.cache), REMOTE_URL)) as cache:
        for entries in (1, 0):
            told.put(chunk_key(cli.clock.now(), "late", "w", 0), f"{line}\n")
            assert sync_events(told.store.inner, cache, now=cli.clock.now).entries == entries
            cli.clock.advance(days=2)
            sync_events(told.store.inner, cache, now=cli.clock.now)


def test_chunks_that_cannot_be_read_stay_known(cli: Cli, told: Remote) -> None:
    """So that doctor tells of them, and a full sync tries them again, long after other names were forgotten."""
    key = chunk_key(START, "at-work", "w", 7)
    told.put(key, "{")
    assert cli("sync", "-q").code == 7
    cli.ok("prune", "--older-than", "39d", "--yes")
    line = event_line({"at": json_time(START), "job_id": "at-work", "kind": "log", "source": "w", "seq": 0}, {})
    told.put(key, f"{line}\n")
    cli.ok("sync", "-q", "--full")
    assert len(cli.ok("events", "at-work", "--json").lines) == 4


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


def test_a_log_that_is_gone_is_told(cli: Cli, told: Remote) -> None:
    """The exit code is as ever. A job that has not ended may just not have said anything."""
    cli.ok("prune", "--store", "--older-than", "30d", "--yes")
    ran = cli.ok("logs", "old")
    gone = "There are no log lines of job old. Prune may have removed some.\n"
    assert (ran.out, ran.err) == ("", gone)
    add(told.jobs, "silent", "running")
    assert cli.ok("logs", "silent").err == "There are no log lines of job silent yet.\n"
