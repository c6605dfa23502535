"""Sync of ledgers: bring the attempts at the tasks of a job from the store into the cache.

Only ledgers that a view has looked at are mirrored. The first look reads the manifest, lists the chunks and reads them.
A later one lists them again, and reads new ones. After the end of a job, a ledger is complete, and costs nothing more.

A job may have no ledger: an older version ran it. Then its outputs tell which tasks succeeded, by one listing. They
also tell that of tasks whose attempts were lost with their runner. See docs/decisions/0044-the-ledger.md.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import compress, islice

from mopsjobs.cache.ledger_rows import (
    has_tasks_by_outputs,
    write_chunks,
    write_complete_tasks,
    write_study,
)
from mopsjobs.cache.pruning import is_pruned
from mopsjobs.cache.queries.ledgers import BY_LEDGER, BY_OUTPUTS
from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.cache.sync.fetcher import CHUNKS, Chunk, ChunkReport, ParallelFetcher, fetch_chunks, is_missing
from mopsjobs.cache.sync_state import transaction
from mopsjobs.errors import JobNotFoundError, NoManifestError, RecordError
from mopsjobs.ledger.format import ChunkKey, ledger_prefix, parse_attempts, parse_chunk_key
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import find_complete_tasks, find_reused_tasks
from mopsjobs.utils.times import utc_now

BATCH_ATTEMPTS = 10_000
"""Attempts after which a transaction ends. A chunk that was sent every few seconds has few."""

SETTLED_SECONDS = 60.0
"""A job that ended longer ago sends no more chunks, unless the store was away for longer."""


def sync_ledger(
    store: VersionedStore,
    connection: sqlite3.Connection,
    job_id: str,
    *,
    full: bool = False,
    now: Callable[[], datetime] = utc_now,
    report: ChunkReport | None = None,
) -> ChunkReport:
    """Bring the missing attempts of a job into the cache.

    Args:
        store: the store of the registry.
        connection: the cache, open to write.
        job_id: the job.
        full: read unreadable chunks again, and look whether the outputs are still there that tell how tasks ended.
        now: the time, in UTC.
        report: is continued, if given.

    Raises:
        NoManifestError: if mops-jobs did not submit the job: nothing says which tasks it has.
        RecordError: if the manifest is invalid.
        StoreError: if the store cannot be read. What was written before stays.
    """
    report = report or ChunkReport()
    started = now().timestamp()
    ended = _end_of(connection, job_id, started)  # before the listing, so that no later chunk is taken for the last
    study = StoredStudy.load(connection, job_id)
    manifest = None
    if study is None:
        manifest = load_manifest(store, job_id)
        write_study(connection, manifest, started)
        study = StoredStudy.load(connection, job_id)
        if study is None:  # pruned or deleted meanwhile
            raise JobNotFoundError(job_id)
    if manifest is None and full and has_tasks_by_outputs(connection, job_id):
        manifest = load_manifest(store, job_id)
    if manifest is not None:  # no attempt of this job says how reused tasks ended
        complete = find_reused_tasks(store, manifest).complete
        write_complete_tasks(connection, study, compress(manifest.numbers, complete), forget=True)
    with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
        keys = _missing_chunks(connection, store, job_id, report, retry=full)
        while batch := list(islice(keys, CHUNKS)):
            _write_chunks(connection, study, fetch_chunks(fetcher, batch, parse_attempts), report)
    basis = _basis(connection, job_id)
    if basis == BY_OUTPUTS or (ended is not None and _has_unexplained(connection, study)):
        manifest = manifest or load_manifest(store, job_id)
        write_complete_tasks(connection, study, _complete_tasks(store, manifest))
    is_complete = ended is not None and started >= ended + SETTLED_SECONDS
    with transaction(connection):
        connection.execute(
            "UPDATE ledger SET synced_ts = max(coalesce(synced_ts, 0), ?), basis = ?, is_complete = ?, problem = NULL"
            " WHERE job_id = ?",
            (started, basis, is_complete, job_id),
        )
    return report


def sync_ledgers(
    store: VersionedStore,
    connection: sqlite3.Connection,
    *,
    full: bool = False,
    now: Callable[[], datetime] = utc_now,
) -> ChunkReport:
    """Bring the ledgers up to date that a view has looked at and that are not complete.

    A job whose manifest is gone or invalid gets a `problem`, and the others go on.

    Raises:
        StoreError: if the store cannot be read.
    """
    report = ChunkReport()
    sql = "SELECT job_id FROM ledger WHERE ? OR NOT is_complete ORDER BY job_id"
    for (job_id,) in connection.execute(sql, (full,)).fetchall():
        try:
            sync_ledger(store, connection, job_id, full=full, now=now, report=report)
        except (NoManifestError, RecordError) as error:
            with transaction(connection):
                connection.execute("UPDATE ledger SET problem = ? WHERE job_id = ?", (str(error), job_id))
        except JobNotFoundError:
            continue
    return report


def _end_of(connection: sqlite3.Connection, job_id: str, started: float) -> float | None:
    """Return when a job ended, in seconds since 1970; None if it has not, or the cache does not know it.

    The cache does not keep when a pruned job ended. It was before the first look at its ledger, maybe at `started`.
    """
    row = connection.execute("SELECT ended_ts FROM job WHERE job_id = ? AND is_active = 0", (job_id,)).fetchone()
    if row is None and is_pruned(connection, job_id):
        row = connection.execute("SELECT looked_at FROM ledger WHERE job_id = ?", (job_id,)).fetchone() or (started,)
    return None if row is None else float(row[0])


def _missing_chunks(
    connection: sqlite3.Connection, store: VersionedStore, job_id: str, report: ChunkReport, *, retry: bool
) -> Iterator[tuple[str, ChunkKey]]:
    """Yield key and parts of the chunks that the cache lacks. Other keys below the prefix are skipped."""
    known: dict[str, str | None] = dict(
        connection.execute("SELECT name, problem FROM ledger_chunk WHERE job_id = ?", (job_id,))
    )
    for key in store.list_keys(ledger_prefix(job_id)):
        report.listed += 1
        parts = parse_chunk_key(key)
        if parts is None or parts.kind != "attempts" or parts.job_id != job_id:
            continue
        if is_missing(parts.name, known, retry=retry):
            yield key, parts


def _write_chunks(
    connection: sqlite3.Connection, study: StoredStudy, chunks: Iterator[Chunk], report: ChunkReport
) -> None:
    """Write chunks, in transactions of some `BATCH_ATTEMPTS`."""
    for batch in _transactions(chunks):
        with transaction(connection):
            if StoredStudy.load(connection, study.job_id) is None:  # pruned or deleted meanwhile
                continue
            for chunk, attempts in write_chunks(connection, study, batch):
                report.chunks += 1
                report.entries += attempts
                if chunk.problem is not None:
                    report.problems.append((chunk.key, chunk.problem))


def _transactions(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    for chunk in chunks:
        batch.append(chunk)
        if sum(len(one.entries) for one in batch) >= BATCH_ATTEMPTS:
            yield batch
            batch = []
    if batch:
        yield batch


def _basis(connection: sqlite3.Connection, job_id: str) -> str:
    """Return what tells the outcomes of a job."""
    row = connection.execute("SELECT 1 FROM ledger_chunk WHERE job_id = ? LIMIT 1", (job_id,)).fetchone()
    return BY_OUTPUTS if row is None else BY_LEDGER


def _has_unexplained(connection: sqlite3.Connection, study: StoredStudy) -> bool:
    """Return whether no attempt says how some task of a job ended."""
    sql = "SELECT count(*) FROM task WHERE job_id = ? AND outcome != 'lost'"
    return bool(connection.execute(sql, (study.job_id,)).fetchone()[0] < study.tasks_total)


def _complete_tasks(store: VersionedStore, manifest: Manifest) -> Iterator[int]:
    """Yield the numbers of the tasks whose outputs exist."""
    return compress(manifest.numbers, find_complete_tasks(store, manifest).complete)
