"""Events in the cache: brought from the store chunk by chunk, and read back in one order that never changes.

Each event gets a number when it comes in. A chunk and its events go in by one transaction, and the numbers grow with
the transactions; so whoever has read up to a number has missed nothing below it, whatever other machines write late
and other processes mirror meanwhile. A chunk is known by its name, not by its key: sent twice, it is taken once.

Names would pile up for ever. So pruning forgets those of hours that lie far enough back, and the cache remembers up to
which hour: nothing written before it is taken from the store again, whether it is there or not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from mopsjobs.cache.pruning import is_pruned
from mopsjobs.cache.queries.events import event_row
from mopsjobs.cache.sync_state import get_meta, set_meta, transaction
from mopsjobs.errors import RecordError, ValueTooLargeError
from mopsjobs.events.format import BUCKET_FORMAT, PREFIX, ChunkKey, Event, bucket_of, parse_chunk, parse_chunk_key
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.times import json_time, parse_time, utc_now

EVENT_CLOCK_SKEW = timedelta(minutes=15)
"""How far a writer's clock may be behind ours, and a chunk be under way, without being overlooked."""


HOURLY = timedelta(hours=48)


DAILY = timedelta(days=60)
"""Gaps up to which hours, or days, are listed one by one; for a longer one, everything is."""


BATCH = 64
"""Chunks fetched and written together."""


FETCHERS = 16


SYNCED_AT = "events_synced_at"
"""What the cache remembers: when the last sync of the events of all jobs began."""


KNOWN_BEFORE = "events_known_before"
"""What the cache remembers: the hour before which all chunks are known, although their names are forgotten."""


class EventsReport:
    """What a sync of events did."""

    def __init__(self) -> None:
        self.listed = 0
        """Chunks that were listed: what the sync has cost."""
        self.chunks = 0
        """Chunks that were new."""
        self.events = 0
        """Events that were new."""
        self.problems: list[tuple[str, str]] = []
        """Key and reason of each new chunk that cannot be read. Each is told once, since a chunk never changes."""


class _Found(NamedTuple):
    key: str
    name: ChunkKey


class _Fetched(NamedTuple):
    key: str
    name: ChunkKey
    events: list[Event]
    problem: str | None


def sync_events(
    store: VersionedStore,
    connection: sqlite3.Connection,
    *,
    job_id: str | None = None,
    since: datetime | None = None,
    full: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> EventsReport:
    """Bring the chunks that the cache lacks into it.

    Listed are the hours since the last such sync of all jobs, less a quarter of an hour for clocks that differ; the
    first time everything.

    Args:
        store: where the chunks are.
        connection: the cache, open to write.
        job_id: bring the events of this job alone.
        since: with `job_id`: what was written before this is known to be there.
        full: list everything again, and try again what could not be read. Of hours whose names are forgotten, nothing
            else is taken.
        now: the time, in UTC.

    Raises:
        StoreError: the store cannot be read. What came before stays.
    """
    started = now()
    known = _synced_at(connection)
    if full:
        begin = None
    elif job_id is None or since is None:
        begin = known
    else:
        begin = since if known is None else max(since, known)
    report = EventsReport()
    keys = _counted(store, prefixes_to_list(begin, started, job_id), report)
    chunks = _lacking(connection, keys, job_id, retry=full)
    with ThreadPoolExecutor(FETCHERS) as fetchers:
        while batch := list(islice(chunks, BATCH)):
            _take(connection, list(_fetched(store, batch, fetchers)), report)
    if job_id is None:
        with transaction(connection):
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SYNCED_AT, json_time(started)))
    return report


def prefixes_to_list(begin: datetime | None, until: datetime, job_id: str | None = None) -> list[str]:
    """What to list, in order, to see all chunks written between two times, of all jobs or of one.

    Everything, if there is no beginning, or one after the end: a clock that was set back tells nothing.
    """
    if begin is None or begin > until or until - begin > DAILY:
        return [PREFIX]
    first, last = begin - EVENT_CLOCK_SKEW, until + EVENT_CLOCK_SKEW
    if last - first > HOURLY:
        days = range((last.date() - first.date()).days + 1)
        return [f"{PREFIX}{first.date() + timedelta(days=day):%Y%m%d}T" for day in days]
    hour = first.replace(minute=0, second=0, microsecond=0)
    hours = []
    while hour <= last:
        hours.append(f"{PREFIX}{hour.strftime(BUCKET_FORMAT)}/" + ("" if job_id is None else f"{job_id}/"))
        hour += timedelta(hours=1)
    return hours


def _synced_at(connection: sqlite3.Connection) -> datetime | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (SYNCED_AT,)).fetchone()
    return None if row is None else parse_time(row[0])


def _counted(store: VersionedStore, listed: Iterable[str], report: EventsReport) -> Iterator[str]:
    """The keys below these prefixes."""
    for prefix in listed:
        for key in store.list_keys(prefix):
            report.listed += 1
            yield key


def _lacking(
    connection: sqlite3.Connection, keys: Iterable[str], job_id: str | None, *, retry: bool
) -> Iterator[_Found]:
    """The chunks that the cache lacks. What lies there and is no chunk by its key is left alone."""
    found = (_Found(key, name) for key in keys if (name := parse_chunk_key(key)) is not None)
    wanted = (one for one in found if job_id is None or one.name.job_id == job_id)
    known_before = get_meta(connection, KNOWN_BEFORE) or ""
    while batch := list(islice(wanted, 500)):
        marks = ", ".join("?" * len(batch))
        names = [one.name.name for one in batch]
        sql = f"SELECT name, problem IS NOT NULL FROM event_chunk WHERE name IN ({marks})"  # noqa: S608 - question marks
        is_bad = dict(connection.execute(sql, names))
        for one in batch:
            if is_bad[one.name.name] and retry if one.name.name in is_bad else one.name.bucket >= known_before:
                yield one


def _fetched(store: VersionedStore, batch: list[_Found], fetchers: ThreadPoolExecutor) -> Iterator[_Fetched]:
    """The chunks with their events, several fetched at a time; one that is gone by now is left out."""

    def fetch(one: _Found) -> _Fetched | None:
        try:
            found = store.get(one.key)
            if found is None:
                return None
            return _Fetched(one.key, one.name, parse_chunk(found.value, job_id=one.name.job_id), None)
        except (RecordError, ValueTooLargeError) as error:
            return _Fetched(one.key, one.name, [], str(error))

    yield from (one for one in fetchers.map(fetch, batch) if one is not None)


def _take(connection: sqlite3.Connection, batch: list[_Fetched], report: EventsReport) -> None:
    """Write chunks with their events, in the order of their first events as far as the writers' own orders allow."""
    latest: dict[str, str] = {}
    order: list[tuple[str, int]] = []
    for one in batch:
        writer = one.name.name.rpartition("-")[0]
        latest[writer] = max(latest.get(writer, ""), str(one.events[0]["at"]) if one.events else "")
        order.append((latest[writer], len(order)))
    with transaction(connection):
        for _, number in sorted(order):
            one = batch[number]
            # A problem gives way: it is fetched again only when somebody wants it to be tried again.
            connection.execute("DELETE FROM event_chunk WHERE name = ? AND problem IS NOT NULL", (one.name.name,))
            taken = connection.execute(
                "INSERT OR IGNORE INTO event_chunk (name, key, problem) VALUES (?, ?, ?)",
                (one.name.name, one.key, one.problem),
            )
            if taken.rowcount != 1:
                continue  # another sync was faster
            if one.problem is not None:
                report.problems.append((one.key, one.problem))
                continue
            if _is_forgotten(connection, one):
                continue
            report.chunks += 1
            report.events += len(one.events)
            connection.executemany(
                "INSERT INTO event (chunk, job_id, at_ts, kind, body) VALUES (?, ?, ?, ?, ?)",
                [event_row(one.name.name, event) for event in one.events],
            )


def _is_forgotten(connection: sqlite3.Connection, one: _Fetched) -> bool:
    """Whether its job was pruned, and events with it; or the cache has had it, in an hour whose names are forgotten.

    A chunk that was sent again, since the first reply was lost, lies in a later hour than its events tell of. So does
    one that waited for a long outage; its events are not here yet. A job of which the cache knows nothing may not have
    been mirrored yet; as long as nobody prunes it, its events stay.
    """
    job_id = one.name.job_id
    if is_pruned(connection, job_id):
        return True
    known_before = get_meta(connection, KNOWN_BEFORE)
    if known_before is None or any(bucket_of(parse_time(str(event["at"]))) >= known_before for event in one.events):
        return False
    had = "SELECT 1 FROM event WHERE job_id = ? AND chunk = ? LIMIT 1"
    return connection.execute(had, (job_id, one.name.name)).fetchone() is not None


def forget_chunks(connection: sqlite3.Connection, before: datetime) -> int:
    """Forget the names of chunks that were written before that time, in UTC, as far as no ordinary sync lists them.

    The events stay. Chunks that could not be read stay known, so that they can be tried again. Returns how many went.
    """
    synced = _synced_at(connection)
    if synced is None:
        return 0
    with transaction(connection):
        hour = max(bucket_of(min(before, synced - EVENT_CLOCK_SKEW)), get_meta(connection, KNOWN_BEFORE) or "")
        set_meta(connection, {KNOWN_BEFORE: hour})
        gone = connection.execute("DELETE FROM event_chunk WHERE key < ? AND problem IS NULL", (f"{PREFIX}{hour}/",))
    return gone.rowcount
