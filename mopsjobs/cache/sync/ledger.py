"""Sync of ledgers: bring the attempts at the tasks of a job from the store into the cache.

Only ledgers that a view has looked at are mirrored. The first look reads the manifest, lists the chunks and reads them.
A later one lists them again, and reads new ones. After the end of a job, a ledger is complete, and costs nothing more.
If the record of the job changes later, `mopsjobs.cache.rows` lets the next look list it again.

A job may have no ledger: an older version ran it. Then its outputs tell which tasks succeeded, by one listing. They
also tell that of tasks whose attempts were lost with their runner. See docs/decisions/0044-the-ledger.md. A task
whose outputs are deleted stays what the ledger of the job that ran it says.

The cache gets the parameter sets of a job, its attempts, and one row per task that has ended. A task without an ended
attempt has no row, since a study may have ten million of them. Its number, parameters and seed follow from the row of
its parameter set: see `mopsjobs.cache.stored_study`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import compress, islice

from mopsjobs.cache.pruning import is_pruned
from mopsjobs.cache.queries.ledgers import BY_LEDGER, BY_OUTPUTS
from mopsjobs.cache.stored_study import StoredSeed, StoredStudy, to_stored_seed
from mopsjobs.cache.sync.chunks import CHUNKS, Chunk, ChunkReport, fetch_chunks, is_missing
from mopsjobs.cache.sync.scalars import mirror_scalars, read_chunks
from mopsjobs.cache.sync_state import transaction
from mopsjobs.errors import JobNotFoundError, NoManifestError, RecordError
from mopsjobs.ledger.format import ChunkKey, ledger_prefix, parse_attempts, parse_chunk_key
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import ParallelFetcher
from mopsjobs.studies.adaptive import adaptive_sets
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import Completeness, find_complete_tasks
from mopsjobs.studies.precision import Judgement
from mopsjobs.studies.rounds import count_rounds
from mopsjobs.studies.study import find_varying
from mopsjobs.utils.ranges import number_ranges
from mopsjobs.utils.times import utc_now

BATCH = 10_000
"""Rows per transaction: some 50 ms of writing, which is how long other writers wait. A chunk that was sent every few
seconds has few attempts, so a transaction has many chunks."""

MAX_STARTED_TS = 253_402_300_799.0
"""The last second of the year 9999. A later time comes from a broken clock."""

_LAST = (
    "shard, outcome, started_ts, seconds, user_seconds, system_seconds, max_rss_bytes, host, python, error_key,"
    " error_type, error_where, error_message, output_bytes, resumed_at, resumed_seconds"
)
"""What is known of an attempt, and of the last one of a task."""

_INSERT_ATTEMPT = (
    f"INSERT OR IGNORE INTO attempt (job_id, task, run, seq, attempt, {_LAST})"  # noqa: S608 - constant names
    f" VALUES ({', '.join('?' * 21)})"
)

# An attempt that succeeded, since its outputs are there: clocks of hosts differ, and two runners may work on one shard.
# Else the last attempt by start, run and place in it. One that was stopped comes after all others: its runner may
# have been stopped since another one has ended the job. It says nothing of a task that failed there.
_REFRESH_TASKS = f"""
    INSERT OR REPLACE INTO task (job_id, task, first_task, seed, attempts, resumes, {_LAST})
    SELECT last.job_id, last.task, json_extract(ended.value, '$[1]'), json_extract(ended.value, '$[2]'),
        (SELECT count(*) FROM attempt WHERE job_id = ?1 AND task = last.task),
        (SELECT count(resumed_at) FROM attempt WHERE job_id = ?1 AND task = last.task), {_LAST}
    FROM json_each(?2) AS ended CROSS JOIN attempt AS last
        ON last.job_id = ?1 AND last.task = json_extract(ended.value, '$[0]')
        AND (last.run, last.seq, last.shard) = (
            SELECT run, seq, shard FROM attempt AS one
            WHERE one.job_id = ?1 AND one.task = json_extract(ended.value, '$[0]')
            ORDER BY outcome = 'succeeded' DESC, outcome = 'cancelled', started_ts DESC, run DESC, seq DESC, shard DESC
            LIMIT 1
        )
"""  # noqa: S608 - constant names

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
    reads_sources: bool = True,
) -> ChunkReport:
    """Bring the missing attempts of a job into the cache.

    Args:
        store: the store of the registry.
        connection: the cache, open to write.
        job_id: the job.
        full: read unreadable chunks again, and look whether the outputs are still there that tell how tasks ended.
        now: the time, in UTC.
        report: is continued, if given.
        reads_sources: whether ledgers of other jobs tell of reused tasks whose outputs are gone.

    Raises:
        NoManifestError: if mops-jobs did not submit the job: nothing says which tasks it has.
        RecordError: if the manifest is invalid.
        StoreError: if the store cannot be read. What was written before stays.
    """
    report = report or ChunkReport()
    started = now().timestamp()
    # Before the listing, so that no later chunk is taken for the last.
    version, ended = _version_of(connection, job_id), _end_of(connection, job_id, started)
    study = StoredStudy.load(connection, job_id)
    manifest = None
    if study is None:
        manifest = load_manifest(store, job_id)
        _write_study(connection, manifest, started)
        study = StoredStudy.load(connection, job_id)
        if study is None:  # pruned or deleted meanwhile
            raise JobNotFoundError(job_id)
    if manifest is None and full and _has_tasks_by_outputs(connection, job_id):
        manifest = load_manifest(store, job_id)
    if manifest is not None:  # no attempt of this job says how reused tasks ended
        _write_complete_tasks(
            connection,
            study,
            _complete_tasks(manifest, find_complete_tasks(store, manifest, only_reused=True)),
            forget=True,
        )
    with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
        keys = _missing_chunks(connection, store, job_id, report, retry=full)
        if study.rounds is not None:
            keys = iter(list(keys))  # before the rounds, so that these have all tasks of the chunks
            study = _grow(store, connection, study)
        while batch := list(islice(keys, CHUNKS)):
            _write_chunks(connection, study, fetch_chunks(fetcher, batch, parse_attempts), report)
    basis = _basis(connection, job_id)
    if basis == BY_OUTPUTS or (ended is not None and _has_unexplained(connection, study)):
        manifest = manifest or load_manifest(store, job_id)
        found = find_complete_tasks(store, manifest)
        _write_needed(connection, manifest, found.judgements)
        _write_complete_tasks(connection, study, _complete_tasks(manifest, found))
        if ended is not None and reads_sources:
            lost = _lost_reused(connection, manifest, found)
            kept = _kept_by_sources(store, connection, study, lost, now) if lost else ()
            _write_complete_tasks(connection, study, kept)
    is_complete = ended is not None and started >= ended + SETTLED_SECONDS
    with transaction(connection):
        connection.execute(
            "UPDATE ledger SET synced_ts = max(coalesce(synced_ts, 0), ?), basis = ?, is_complete = ?, problem = NULL"
            " WHERE job_id = ?",
            (started, basis, is_complete and version == _version_of(connection, job_id), job_id),
        )
    return report


def _version_of(connection: sqlite3.Connection, job_id: str) -> str | None:
    """Return the version of the record of a job in the cache."""
    row = connection.execute("SELECT version FROM job WHERE job_id = ?", (job_id,)).fetchone()
    return None if row is None else str(row[0])


def _grow(store: VersionedStore, connection: sqlite3.Connection, study: StoredStudy) -> StoredStudy:
    """Write the parameter sets that a growing job has got since its rounds were read last."""
    if count_rounds(store, study.job_id) == study.rounds:
        return study
    _write_study(connection, load_manifest(store, study.job_id), 0.0)
    return StoredStudy.load(connection, study.job_id) or study


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
    """Write chunks, in transactions of some `BATCH`."""
    for batch in _transactions(chunks):
        with transaction(connection):
            if StoredStudy.load(connection, study.job_id) is not None:  # else pruned or deleted meanwhile
                for chunk in batch:
                    _write_chunk(connection, study, chunk, report)


def _transactions(chunks: Iterator[Chunk]) -> Iterator[list[Chunk]]:
    batch: list[Chunk] = []
    for chunk in chunks:
        batch.append(chunk)
        if sum(len(one.entries) for one in batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _basis(connection: sqlite3.Connection, job_id: str) -> str:
    """Return what tells the outcomes of a job."""
    row = connection.execute("SELECT 1 FROM ledger_chunk WHERE job_id = ? LIMIT 1", (job_id,)).fetchone()
    return BY_OUTPUTS if row is None else BY_LEDGER


def _has_unexplained(connection: sqlite3.Connection, study: StoredStudy) -> bool:
    """Return whether no attempt says how some task of an ended job ended, or which tasks an adaptive one needed.

    A record that was cancelled has the tasks of the last report. Any other one counts those that the outputs ask for.
    """
    total = study.count_tasks()
    sql = "SELECT count(*) FROM task WHERE job_id = ? AND outcome != 'lost'"
    if connection.execute(sql, (study.job_id,)).fetchone()[0] < total:
        return True
    sql = "SELECT 1 FROM job WHERE job_id = ? AND tasks_total = ? AND status != 'cancelled'"
    return study.is_adaptive and connection.execute(sql, (study.job_id, total)).fetchone() is None


def _write_study(connection: sqlite3.Connection, manifest: Manifest, now: float) -> None:
    """Write the parameter sets of a job, and then its row in `ledger`, which says that they are complete.

    Args:
        connection: the cache, open to write.
        manifest: the manifest of the job.
        now: seconds since 1970, at the first look.
    """
    job_id = manifest.job_id
    rows = _set_rows(manifest)
    while batch := list(islice(rows, BATCH)):
        with transaction(connection):
            connection.executemany(
                "INSERT OR IGNORE INTO parameter_set (job_id, first_task, tasks, param_id, seed, params)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                batch,
            )
    ranges = None if manifest.only is None else json.dumps(list(number_ranges(manifest.only)), separators=(",", ":"))
    with transaction(connection):
        connection.execute(
            "INSERT INTO ledger (job_id, looked_at, tasks_total, parameters, varying, task_ranges, seeds, precision,"
            " rounds) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET tasks_total ="
            " excluded.tasks_total, parameters = excluded.parameters, varying = excluded.varying, rounds ="
            " excluded.rounds WHERE excluded.tasks_total >= ledger.tasks_total",
            (
                job_id,
                now,
                manifest.tasks_total,
                json.dumps(manifest.study.parameters),
                json.dumps(find_varying(manifest.study).parameters),
                ranges,
                json.dumps(manifest.study.seeds),
                None if manifest.study.precision is None else json.dumps(manifest.study.precision.to_json()),
                manifest.rounds if manifest.may_grow else None,
            ),
        )


def _write_needed(connection: sqlite3.Connection, manifest: Manifest, judgements: Mapping[str, Judgement]) -> None:
    """Note how many tasks of each set of an adaptive study the outputs ask for. Of other studies, none are judged."""
    if not judgements:
        return
    rows = (
        (judgements[one.param_id].needed, manifest.job_id, first)
        for one in adaptive_sets(manifest.study)
        for first in one.firsts
    )
    while batch := list(islice(rows, BATCH)):
        with transaction(connection):
            connection.executemany("UPDATE parameter_set SET needed = ? WHERE job_id = ? AND first_task = ?", batch)


def _write_chunk(connection: sqlite3.Connection, study: StoredStudy, chunk: Chunk, report: ChunkReport) -> None:
    """Write a chunk with its attempts, and the rows of their tasks. The caller holds the transaction.

    An attempt at a task that is not of the job is left out; the chunk then has that problem.
    """
    # An unreadable chunk is replaced: it is read again only on request.
    connection.execute("DELETE FROM ledger_chunk WHERE name = ? AND problem IS NOT NULL", (chunk.parts.name,))
    ended = _tasks_of(study, {one.task for one in chunk.entries})
    problem = chunk.problem
    if strange := {one.task for one in chunk.entries} - ended.keys():
        problem = f"it has attempts at tasks that are not of the job, as task {min(strange)}"
    inserted = connection.execute(
        "INSERT OR IGNORE INTO ledger_chunk (name, job_id, key, problem) VALUES (?, ?, ?, ?)",
        (chunk.parts.name, study.job_id, chunk.key, problem),
    )
    if inserted.rowcount != 1:
        return  # another sync was faster
    report.chunks += 1
    if ended:
        report.entries += connection.executemany(_INSERT_ATTEMPT, list(_attempt_rows(chunk, ended))).rowcount
    for batch in _batches(ended):
        connection.execute(_REFRESH_TASKS, (study.job_id, batch))
    if problem is not None:
        report.problems.append((chunk.key, problem))


def _complete_tasks(manifest: Manifest, found: Completeness) -> Iterator[tuple[int, str | None]]:
    """Yield the numbers of complete tasks, each with the job whose outputs are reused; None: the job has its own."""
    for number, is_reused in compress(zip(manifest.numbers, found.reused, strict=True), found.complete):
        yield number, next(one.job_id for one in manifest.reused if one.has(number)) if is_reused else None


def _lost_reused(connection: sqlite3.Connection, manifest: Manifest, found: Completeness) -> dict[int, str]:
    """Return the reused tasks that an ended job had and whose outputs are gone, each with the job that did it.

    They were complete at the end if the record counts them. Else they are missing, as tasks that did not run are.
    """
    missing = (number for number, is_there in zip(manifest.numbers, found.complete, strict=True) if not is_there)
    sources = ((number, manifest.source_of(number)) for number in missing) if manifest.reused else ()
    lost = {number: source.job_id for number, source in sources if source is not None}
    own = connection.execute("SELECT task, outcome FROM task WHERE job_id = ?", (manifest.job_id,)) if lost else ()
    outcomes: dict[int, str] = dict(own)
    lost = {number: source for number, source in lost.items() if number not in outcomes}
    (counted,) = connection.execute(
        "SELECT total(tasks_completed) FROM job WHERE job_id = ?", (manifest.job_id,)
    ).fetchone()
    return lost if list(outcomes.values()).count("succeeded") + len(lost) <= counted else {}


def _kept_by_sources(
    store: VersionedStore,
    connection: sqlite3.Connection,
    study: StoredStudy,
    lost: Mapping[int, str],
    now: Callable[[], datetime],
) -> Iterator[tuple[int, str | None]]:
    """Yield those of these tasks whose values the ledger of their source has, as `_complete_tasks` does."""
    kept: dict[str, set[tuple[str, int]]] = {}
    for source in set(lost.values()):
        with contextlib.suppress(NoManifestError, RecordError, JobNotFoundError):
            sync_ledger(store, connection, source, now=now, reads_sources=False)
            mirror_scalars(store, connection, source)
        chunks = read_chunks(connection, source)
        kept[source] = {(param_id, seed) for _, tasks in chunks for param_id, seed, _ in tasks}
    for number, source in lost.items():
        one = study.set_of(number)
        if one is not None and (one.param_id, one.seed_of(number)) in kept[source]:
            yield number, source


def _write_complete_tasks(
    connection: sqlite3.Connection,
    study: StoredStudy,
    tasks: Iterable[tuple[int, str | None]],
    *,
    forget: bool = False,
) -> None:
    """Write the tasks whose outputs exist, as succeeded, unless an attempt says how they ended.

    Args:
        connection: the cache, open to write.
        study: the study of the job.
        tasks: the result of `_complete_tasks`.
        forget: whether to remove such tasks that an earlier call has written.
    """
    tasks = iter(tasks)
    if forget:
        with transaction(connection):
            connection.execute("DELETE FROM task WHERE job_id = ? AND attempts = 0", (study.job_id,))
    while batch := dict(islice(tasks, BATCH)):
        rows = [(study.job_id, number, *place, batch[number]) for number, place in _tasks_of(study, batch).items()]
        with transaction(connection):
            connection.executemany(
                "INSERT INTO task (job_id, task, first_task, seed, reused_from, attempts, outcome)"
                " VALUES (?, ?, ?, ?, ?, 0, 'succeeded') ON CONFLICT DO UPDATE SET outcome = 'succeeded',"
                " error_key = NULL, error_type = NULL, error_where = NULL, error_message = NULL WHERE outcome = 'lost'",
                rows,
            )


def _has_tasks_by_outputs(connection: sqlite3.Connection, job_id: str) -> bool:
    """Return whether only outputs tell that some task of a job succeeded."""
    row = connection.execute("SELECT 1 FROM task WHERE job_id = ? AND attempts = 0 LIMIT 1", (job_id,)).fetchone()
    return row is not None


def _set_rows(manifest: Manifest) -> Iterator[tuple[str, int, int, str, StoredSeed | None, str]]:
    """Yield the rows of the parameter sets that have a task of the job."""
    ranges = None if manifest.only is None else number_ranges(manifest.only)
    low, high = (0, manifest.study.tasks_total) if ranges is None else next(ranges, (0, 0))
    first = 0
    for one in manifest.study.parameter_sets:
        tasks = manifest.study.replicates(one)
        while ranges is not None and high <= first:
            low, high = next(ranges, (manifest.study.tasks_total,) * 2)
            if low == high:
                return
        if low < first + tasks:
            seed = manifest.study.first_seed(one)
            params = json.dumps(one.params, allow_nan=False, separators=(",", ":"))
            yield manifest.job_id, first, tasks, one.param_id, None if seed is None else to_stored_seed(seed), params
        first += tasks


def _tasks_of(study: StoredStudy, numbers: Iterable[int]) -> dict[int, tuple[int, StoredSeed]]:
    """Map those of these numbers that are tasks of the job to the first task of their set and their seed."""
    return {number: place for number in sorted(numbers) if (place := study.place_of(number)) is not None}


def _attempt_rows(chunk: Chunk, ended: Mapping[int, object]) -> Iterator[tuple[object, ...]]:
    run, _, number = chunk.parts.name.rpartition(".")[2].partition("-")
    for position, one in enumerate(chunk.entries):
        if one.task not in ended:
            continue
        started = one.started_at if one.started_at is None or 0 <= one.started_at <= MAX_STARTED_TS else None
        yield (
            chunk.parts.job_id,
            one.task,
            run,
            int(number) << 20 | position,  # the order within the run: chunks, then places in them
            one.attempt,
            chunk.parts.shard,
            str(one.outcome),
            started,
            one.seconds,
            one.user_seconds,
            one.system_seconds,
            one.max_rss_bytes,
            one.host,
            one.python,
            *((None,) * 4 if one.error is None else one.error),
            one.output_bytes,
            *((None, None) if one.resumed is None else one.resumed[1:]),
        )


def _batches(ended: dict[int, tuple[int, StoredSeed]]) -> Iterator[str]:
    """Yield JSON lists of number, first task and seed, for the tasks that have to be refreshed."""
    rows = ([number, *place] for number, place in ended.items())
    while batch := list(islice(rows, BATCH)):
        yield json.dumps(batch, separators=(",", ":"))
