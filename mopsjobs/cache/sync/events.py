"""Sync of events: bring chunks from the store into the cache.

Each event gets a number when its chunk is written, in one transaction per batch. So a reader that has seen a number has
missed nothing below it, whatever other processes mirror meanwhile. A chunk is known by its name, not by its key: if it
was sent twice, it is written once.

Names would pile up. So pruning forgets those of a job with its events. Chunks of a pruned job are never written. See
docs/decisions/0024-events-and-logs.md.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import chain, islice

from mopsjobs.cache.pruning import is_pruned
from mopsjobs.cache.sync.chunks import CHUNKS, Chunk, ChunkReport, fetch_chunks, is_missing
from mopsjobs.cache.sync_state import get_meta, set_meta, transaction
from mopsjobs.events.format import BUCKET_FORMAT, PREFIX, ChunkKey, Event, parse_chunk, parse_chunk_key
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import NOT_READ, ParallelFetcher
from mopsjobs.utils.times import json_time, parse_time, utc_now

EVENT_CLOCK_SKEW = timedelta(minutes=15)
"""How far the clock of a writer may be behind, or a write may be delayed, without a chunk being missed."""

MAX_HOURLY_GAP = timedelta(hours=48)
"""Up to this gap since the last sync, hours are listed one by one."""

MAX_DAILY_GAP = timedelta(days=60)
"""Up to this gap, days are listed one by one; after a longer gap, everything is listed."""

SYNCED_AT = "events_synced_at"
"""Name in the cache's notes: when the last sync of the events of all jobs began."""


def sync_events(
    store: VersionedStore,
    connection: sqlite3.Connection,
    *,
    job_id: str | None = None,
    since: datetime | None = None,
    full: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> ChunkReport:
    """Bring the missing chunks into the cache.

    The hours since the last such sync of all jobs are listed, and a quarter of an hour before it, for clocks that
    differ. The first sync lists everything. Each new chunk costs one read.

    Args:
        store: the store with the chunks.
        connection: the cache, open to write.
        job_id: bring only the events of this job.
        since: with `job_id`: chunks written before this time are in the cache already.
        full: list everything again, and try unreadable chunks again.
        now: the time, in UTC.

    Raises:
        StoreError: if the store cannot be read. Chunks that were written before stay.
    """
    started = now()
    last_sync = _synced_at(connection)
    if full:
        begin = None
    elif job_id is None or since is None:
        begin = last_sync
    else:
        begin = since if last_sync is None else max(since, last_sync)
    report = ChunkReport()
    listed = _list_keys(store, prefixes_to_list(begin, started, job_id), report)
    unread = set(_unread_chunks(connection, job_id))
    keys = chain(sorted(unread), (key for key in listed if key not in unread))
    chunks = _missing_chunks(connection, keys, job_id, retry=full)
    with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
        while batch := list(islice(chunks, CHUNKS)):
            _write_chunks(connection, list(fetch_chunks(fetcher, batch, _parse)), report)
    if job_id is None:
        with transaction(connection):
            set_meta(connection, {SYNCED_AT: json_time(started)})
    return report


def prefixes_to_list(begin: datetime | None, until: datetime, job_id: str | None = None) -> list[str]:
    """Return the prefixes, in order, of all chunks written between two times, of all jobs or of one.

    Return the prefix of everything if there is no begin, or a begin after the end: a clock was set back.
    """
    if begin is None or begin > until or until - begin > MAX_DAILY_GAP:
        return [PREFIX]
    first, last = begin - EVENT_CLOCK_SKEW, until + EVENT_CLOCK_SKEW
    if last - first > MAX_HOURLY_GAP:
        days = range((last.date() - first.date()).days + 1)
        return [f"{PREFIX}{first.date() + timedelta(days=day):%Y%m%d}T" for day in days]
    hour = first.replace(minute=0, second=0, microsecond=0)
    hours = []
    while hour <= last:
        hours.append(f"{PREFIX}{hour.strftime(BUCKET_FORMAT)}/" + ("" if job_id is None else f"{job_id}/"))
        hour += timedelta(hours=1)
    return hours


def _synced_at(connection: sqlite3.Connection) -> datetime | None:
    synced_at = get_meta(connection, SYNCED_AT)
    return None if synced_at is None else parse_time(synced_at)


def _list_keys(store: VersionedStore, prefixes: Iterable[str], report: ChunkReport) -> Iterator[str]:
    """Yield the keys below these prefixes, and count them."""
    for prefix in prefixes:
        for key in store.list_keys(prefix):
            report.listed += 1
            yield key


def _missing_chunks(
    connection: sqlite3.Connection, keys: Iterable[str], job_id: str | None, *, retry: bool
) -> Iterator[tuple[str, ChunkKey]]:
    """Yield key and parts of the chunks that the cache lacks, without other keys and those of pruned jobs."""
    listed = ((key, parts) for key in keys if (parts := parse_chunk_key(key)) is not None)
    of_job = ((key, parts) for key, parts in listed if job_id is None or parts.job_id == job_id)
    while batch := list(islice(of_job, 500)):
        marks = ", ".join("?" * len(batch))
        sql = f"SELECT name, problem FROM event_chunk WHERE name IN ({marks})"  # noqa: S608 - question marks
        known: dict[str, str | None] = dict(connection.execute(sql, [parts.name for _, parts in batch]))
        missing = [(key, parts) for key, parts in batch if is_missing(parts.name, known, retry=retry)]
        pruned = {job for job in {parts.job_id for _, parts in missing} if is_pruned(connection, job)}
        yield from ((key, parts) for key, parts in missing if parts.job_id not in pruned)


def _parse(value: bytes, parts: ChunkKey) -> list[Event]:
    return parse_chunk(value, job_id=parts.job_id)


def _unread_chunks(connection: sqlite3.Connection, job_id: str | None) -> Iterator[str]:
    """Yield the keys of the chunks that the store did not send to earlier syncs."""
    sql = "SELECT key FROM event_chunk WHERE problem LIKE ? ORDER BY key"
    for (key,) in connection.execute(sql, (f"{NOT_READ}%",)).fetchall():
        parts = parse_chunk_key(key)
        if parts is not None and job_id in (None, parts.job_id):
            yield key


def _write_chunks(connection: sqlite3.Connection, batch: list[Chunk], report: ChunkReport) -> None:
    """Write chunks with their events, ordered by their first events as far as the orders of their writers allow."""
    latest: dict[str, str] = {}
    order: list[tuple[str, int]] = []
    for chunk in batch:
        writer = chunk.parts.name.rpartition("-")[0]
        latest[writer] = max(latest.get(writer, ""), str(chunk.entries[0]["at"]) if chunk.entries else "")
        order.append((latest[writer], len(order)))
    with transaction(connection):
        for _, number in sorted(order):
            chunk = batch[number]
            # An unreadable chunk is replaced: it is fetched again only on request.
            connection.execute("DELETE FROM event_chunk WHERE name = ? AND problem IS NOT NULL", (chunk.parts.name,))
            if chunk.problem is None and is_pruned(connection, chunk.parts.job_id):
                continue
            insertion = connection.execute(
                "INSERT OR IGNORE INTO event_chunk (name, key, problem) VALUES (?, ?, ?)",
                (chunk.parts.name, chunk.key, chunk.problem),
            )
            if insertion.rowcount != 1:
                continue  # another sync was faster
            if chunk.problem is not None:
                report.problems.append((chunk.key, chunk.problem))
                continue
            report.chunks += 1
            report.entries += len(chunk.entries)
            connection.executemany(
                "INSERT INTO event (chunk, job_id, at_ts, kind, body) VALUES (?, ?, ?, ?, ?)",
                [_event_row(chunk.parts.name, event) for event in chunk.entries],
            )


def _event_row(chunk: str, event: Event) -> tuple[str, object, float, object, str]:
    """Return the row of an event of a chunk: chunk, job id, time, kind and body."""
    at = parse_time(str(event["at"])).timestamp()
    return (chunk, event["job_id"], at, event["kind"], json.dumps(event, allow_nan=False, separators=(",", ":")))
