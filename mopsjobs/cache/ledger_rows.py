"""Write what is known of the tasks of a job: its parameter sets, its attempts, and one row per task that has ended.

A task without an ended attempt has no row, since a study may have ten million of them. Its number, parameters and seed
follow from the row of its parameter set: see `mopsjobs.cache.stored_study`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from mopsjobs.cache.stored_study import StoredSeed, StoredStudy, to_stored_seed
from mopsjobs.cache.sync.fetcher import Chunk
from mopsjobs.cache.sync_state import transaction
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.study import find_varying
from mopsjobs.utils.ranges import number_ranges

BATCH = 10_000
"""Rows per transaction: some 50 ms of writing, which is how long other writers wait."""

MAX_STARTED_TS = 253_402_300_799.0
"""The last second of the year 9999. A later time comes from a broken clock."""

_LAST = (
    "shard, outcome, started_ts, seconds, user_seconds, system_seconds, max_rss_bytes, host, python, error_key,"
    " error_type, error_where, error_message, output_bytes"
)
"""What is known of an attempt, and of the last one of a task."""

_INSERT_ATTEMPT = (
    f"INSERT OR IGNORE INTO attempt (job_id, task, run, seq, attempt, {_LAST})"  # noqa: S608 - constant names
    f" VALUES ({', '.join('?' * 19)})"
)

# An attempt that succeeded, since its outputs are there: clocks of hosts differ, and two runners may work on one shard.
# Else the last attempt by start, run and place in it.
_REFRESH_TASKS = f"""
    INSERT OR REPLACE INTO task (job_id, task, first_task, seed, attempts, {_LAST})
    SELECT last.job_id, last.task, json_extract(ended.value, '$[1]'), json_extract(ended.value, '$[2]'),
        (SELECT count(*) FROM attempt WHERE job_id = ?1 AND task = last.task), {_LAST}
    FROM json_each(?2) AS ended CROSS JOIN attempt AS last
        ON last.job_id = ?1 AND last.task = json_extract(ended.value, '$[0]')
        AND (last.run, last.seq, last.shard) = (
            SELECT run, seq, shard FROM attempt AS one
            WHERE one.job_id = ?1 AND one.task = json_extract(ended.value, '$[0]')
            ORDER BY outcome = 'succeeded' DESC, started_ts DESC, run DESC, seq DESC, shard DESC LIMIT 1
        )
"""  # noqa: S608 - constant names


def write_study(connection: sqlite3.Connection, manifest: Manifest, now: float) -> None:
    """Write the parameter sets of a job, and then its row in `ledger`, which says that they are complete.

    Args:
        connection: the cache, open to write.
        manifest: the manifest of the job.
        now: seconds since 1970.
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
            "INSERT OR IGNORE INTO ledger (job_id, looked_at, tasks_total, parameters, varying, task_ranges)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                job_id,
                now,
                manifest.tasks_total,
                json.dumps(manifest.study.parameters),
                json.dumps(find_varying(manifest.study).parameters),
                ranges,
            ),
        )


def write_chunks(
    connection: sqlite3.Connection, study: StoredStudy, chunks: Iterable[Chunk]
) -> Iterator[tuple[Chunk, int]]:
    """Write chunks with their attempts, and the rows of their tasks. The caller holds the transaction.

    An attempt at a task that is not of the job is left out; the chunk then has that problem.

    Yields:
        Each chunk that this call has written, and how many of its attempts are new.
    """
    job_id = study.job_id
    for chunk in chunks:
        # An unreadable chunk is replaced: it is read again only on request.
        connection.execute("DELETE FROM ledger_chunk WHERE name = ? AND problem IS NOT NULL", (chunk.parts.name,))
        ended = _tasks_of(study, {one.task for one in chunk.entries})
        strange = {one.task for one in chunk.entries} - ended.keys()
        if strange:
            problem = f"it has attempts at tasks that are not of the job, as task {min(strange)}"
            chunk = chunk._replace(problem=problem)  # noqa: PLW2901
        inserted = connection.execute(
            "INSERT OR IGNORE INTO ledger_chunk (name, job_id, key, problem) VALUES (?, ?, ?, ?)",
            (chunk.parts.name, job_id, chunk.key, chunk.problem),
        )
        if inserted.rowcount != 1:
            continue  # another sync was faster
        attempts = connection.executemany(_INSERT_ATTEMPT, list(_attempt_rows(chunk, ended))).rowcount if ended else 0
        for batch in _batches(ended):
            connection.execute(_REFRESH_TASKS, (job_id, batch))
        yield chunk, attempts


def write_complete_tasks(
    connection: sqlite3.Connection, study: StoredStudy, numbers: Iterable[int], *, forget: bool = False
) -> None:
    """Write the tasks whose outputs exist, as succeeded, unless an attempt says how they ended.

    Args:
        connection: the cache, open to write.
        study: the study of the job.
        numbers: the tasks.
        forget: whether to remove such tasks that an earlier call has written.
    """
    numbers = iter(numbers)
    if forget:
        with transaction(connection):
            connection.execute("DELETE FROM task WHERE job_id = ? AND attempts = 0", (study.job_id,))
    while batch := list(islice(numbers, BATCH)):
        rows = [(study.job_id, number, *place) for number, place in _tasks_of(study, batch).items()]
        with transaction(connection):
            connection.executemany(
                "INSERT INTO task (job_id, task, first_task, seed, attempts, outcome)"
                " VALUES (?, ?, ?, ?, 0, 'succeeded') ON CONFLICT DO UPDATE SET outcome = 'succeeded',"
                " error_key = NULL, error_type = NULL, error_where = NULL, error_message = NULL WHERE outcome = 'lost'",
                rows,
            )


def has_tasks_by_outputs(connection: sqlite3.Connection, job_id: str) -> bool:
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
            seed = None if one.seed is None else to_stored_seed(one.seed)
            params = json.dumps(one.params, allow_nan=False, separators=(",", ":"))
            yield manifest.job_id, first, tasks, one.param_id, seed, params
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
        )


def _batches(ended: dict[int, tuple[int, StoredSeed]]) -> Iterator[str]:
    """Yield JSON lists of number, first task and seed, for the tasks that have to be refreshed."""
    rows = ([number, *place] for number, place in ended.items())
    while batch := list(islice(rows, BATCH)):
        yield json.dumps(batch, separators=(",", ":"))
