"""Collect the scalars of tasks: from the chunks that runners wrote, else from the outputs of the tasks.

A chunk never changes, so the cache keeps each that a table has read, as it is. A later table needs no request for it.
What is read from outputs is not kept.

While a table is made, its scalars lie in a temporary SQLite database: those of 100,000 tasks would fill the memory.
Chunks have them in the order in which tasks ended, a table by their numbers. SQLite removes the database.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.cache.sync_state import transaction
from mopsjobs.errors import RecordError
from mopsjobs.ledger.format import MAX_CHUNK_BYTES, ChunkKey, parse_chunk_key
from mopsjobs.ledger.scalars import (
    LEFT_OUT,
    Scalars,
    is_not_finite,
    may_have_scalars,
    parse_scalars,
)
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import NOT_READ, FailedRead, ParallelFetcher
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import OutputReader, TaskOutputs, note_problem, scan_outputs
from mopsjobs.utils.table_files import kind_of

CHUNKS = 8
"""Chunks fetched together. Each may have some megabytes."""

MAX_KEYS = 2_000
"""Different scalars in a table. Others are left out."""

LEFT_OUT_NUMBER = -1
"""In place of the number of a key: the value is the count of the scalars of a task that are left out."""

NO_CHUNK = b""
"""In the cache, in place of a chunk that the store does not have: no task beside it has scalars."""

SCHEMA = """
CREATE TABLE wanted (
    member INTEGER, task INTEGER, param_id TEXT, seed TEXT, PRIMARY KEY (member, task)
) WITHOUT ROWID;
CREATE TABLE found (member INTEGER, task INTEGER, scalars TEXT, PRIMARY KEY (member, task)) WITHOUT ROWID;
"""

# Two runs of a shard may both have done a task. The outputs are of the one that came first, and decide.
_FOUND = """
INSERT INTO found VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET scalars = CASE WHEN scalars = excluded.scalars THEN scalars END
"""

_NOT_MIRRORED = "SELECT key FROM ledger_chunk WHERE job_id = ? AND scalars IS NULL ORDER BY name"

_MIRRORED = "SELECT key, scalars FROM ledger_chunk WHERE job_id = ? AND scalars != ? ORDER BY name"

_IS_WANTED = "SELECT 1 FROM wanted WHERE member = ? AND task = ?"

_LACKING = """
SELECT count(*) FROM wanted LEFT JOIN found USING (member, task) WHERE member = ? AND scalars IS NULL
"""

_SHARE = """
INSERT OR IGNORE INTO found
SELECT other.member, other.task, found.scalars
FROM found JOIN wanted AS one USING (member, task)
JOIN wanted AS other USING (member, param_id, seed)
WHERE one.member = ? AND other.task != one.task AND found.scalars IS NOT NULL
"""

_LACKING_OF = """
SELECT task FROM wanted LEFT JOIN found USING (member, task)
WHERE member = ? AND param_id = ? AND seed = ? AND scalars IS NULL
"""


_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


class ScalarKey(NamedTuple):
    """A scalar that some task has: its number, and the kinds of its values, as `table_files.kind_of` names them."""

    number: int
    kinds: set[str]
    is_finite: bool = True


class CollectedScalars:
    """The scalars of tasks of some jobs. A member is the number that the caller gives to a job."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Take an empty database with the tables of `SCHEMA`."""
        self._database = database
        self.keys: dict[str, ScalarKey] = {}
        self.is_full = False
        """Whether scalars are left out, since there are more than `MAX_KEYS`."""

    def want(self, member: int, task: int, param_id: str, seed: int | str) -> None:
        """Note that the table has a row of this task, which succeeded."""
        self._database.execute("INSERT OR IGNORE INTO wanted VALUES (?, ?, ?, ?)", (member, task, param_id, str(seed)))

    def add(self, member: int, task: int, scalars: Scalars) -> None:
        """Add the scalars of a task, if it is wanted. Others would add columns without values."""
        if self._database.execute(_IS_WANTED, (member, task)).fetchone() is not None:
            self._database.execute(_FOUND, (member, task, self._encode(scalars)))

    def replace(self, member: int, tasks: list[int], scalars: Scalars) -> None:
        """Set the scalars of tasks with the same outputs."""
        text = self._encode(scalars)
        self._database.executemany(
            "INSERT OR REPLACE INTO found VALUES (?, ?, ?)", [(member, task, text) for task in tasks]
        )

    def share_with_duplicates(self, member: int) -> None:
        """Give the tasks that no chunk has the scalars of a task with the same parameters and seed: it has the outputs.

        From here on, tasks can be looked for by parameters and seed.
        """
        self._database.execute("CREATE INDEX IF NOT EXISTS by_seed ON wanted (member, param_id, seed)")
        self._database.execute(_SHARE, (member,))

    def has_any(self) -> bool:
        """Return whether the scalars of some task were found."""
        return self._database.execute("SELECT 1 FROM found LIMIT 1").fetchone() is not None

    def count_lacking(self, member: int) -> int:
        """Count the tasks whose scalars no chunk has."""
        return int(self._database.execute(_LACKING, (member,)).fetchone()[0])

    def lacking(self, member: int, param_id: str, seed: str) -> list[int]:
        """Return the tasks with these parameters and this seed whose scalars no chunk has."""
        return [task for (task,) in self._database.execute(_LACKING_OF, (member, param_id, seed))]

    def get(self, member: int, task: int) -> dict[int, object] | None:
        """Return the scalars of a task by the numbers of their keys; see `LEFT_OUT_NUMBER`. None if none were found."""
        row = self._database.execute(
            "SELECT scalars FROM found WHERE member = ? AND task = ?", (member, task)
        ).fetchone()
        if row is None or row[0] is None:
            return None
        found = json.loads(row[0])
        return dict(zip(found[::2], found[1::2], strict=True))

    def _encode(self, scalars: Scalars) -> str:
        """Return the scalars as a JSON list of the numbers of keys, and values."""
        flat: list[object] = []
        for key, value in scalars.items():
            if key == LEFT_OUT:
                flat += (LEFT_OUT_NUMBER, value)
                continue
            known = self.keys.get(key)
            if known is None:
                if len(self.keys) >= MAX_KEYS:
                    self.is_full = True
                    continue
                known = self.keys[key] = ScalarKey(len(self.keys), set())
            known.kinds.add(kind_of(value))
            if known.is_finite and is_not_finite(value):
                self.keys[key] = known._replace(is_finite=False)
            flat += (known.number, value)
        return _ENCODE(flat)


def missing_chunks(connection: sqlite3.Connection, job_id: str) -> list[ChunkKey]:
    """Return the keys of the chunks of scalars that the cache lacks: those that `mirror_scalars` would read."""
    return [_key_beside(key) for (key,) in connection.execute(_NOT_MIRRORED, (job_id,))]


def mirror_scalars(store: VersionedStore, connection: sqlite3.Connection, job_id: str) -> list[tuple[str, str]]:
    """Bring the chunks of scalars of a job into the cache that lie beside its mirrored chunks of attempts.

    A runner writes the scalars first, so none comes later; through an outbox, one may come a moment later. So the cache
    notes that there is none only after the ledger is complete.

    Args:
        store: the store of the registry.
        connection: the cache, open to write.
        job_id: the job.

    Returns:
        Key and reason of each chunk that cannot be read. A later call tries again.

    Raises:
        StoreError: if the store cannot be read. What was written before stays.
    """
    problems = []
    missing = missing_chunks(connection, job_id)
    (is_complete,) = connection.execute("SELECT total(is_complete) FROM ledger WHERE job_id = ?", (job_id,)).fetchone()
    with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
        for batch in (missing[place : place + CHUNKS] for place in range(0, len(missing), CHUNKS)):
            rows = []
            for one, found in zip(batch, fetcher.fetch([one.key for one in batch]), strict=True):
                if isinstance(found, FailedRead):
                    problems.append((one.key, found.reason.removeprefix(NOT_READ)))
                elif found is None:
                    rows += [(NO_CHUNK, one.name)] if is_complete else []
                elif len(found.value) > MAX_CHUNK_BYTES:
                    problems.append((one.key, f"larger than {MAX_CHUNK_BYTES:,} bytes"))
                else:
                    rows.append((found.value, one.name))
            with transaction(connection):
                connection.executemany("UPDATE ledger_chunk SET scalars = ? WHERE name = ?", rows)
    return problems


def read_chunks(
    connection: sqlite3.Connection, job_id: str
) -> Iterator[tuple[int, Iterator[tuple[str, int, Scalars]]]]:
    """Yield the bytes of each chunk of scalars of a job, and its tasks by parameters and seed, with their scalars.

    Nothing is told of a chunk that cannot be read.
    """
    study = StoredStudy.load(connection, job_id)
    if study is None:
        return
    for key, value in connection.execute(_MIRRORED, (job_id, NO_CHUNK)):
        with contextlib.suppress(RecordError):
            tasks = parse_scalars(value, _key_beside(key))
            sets = ((study.set_of(number), number, scalars) for number, scalars in tasks)
            yield len(value), ((one.param_id, one.seed_of(number), scalars) for one, number, scalars in sets if one)


class ScalarReader:
    """Reads the scalars of jobs: from chunks in the cache, and what these lack from outputs in the store."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        open_store: Callable[[], VersionedStore] | None,
        collected: CollectedScalars,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            connection: the cache, with the chunks that `mirror_scalars` brought.
            open_store: opens the store of the registry; None: outputs are not read.
            collected: takes the scalars.
            on_progress: see `OutputReader`.
        """
        self._connection = connection
        self.open_store = open_store
        self._collected = collected
        self.outputs = OutputReader(collected.replace, on_progress)
        self.bytes_read = 0
        """Of chunks, as the cache has them."""
        self.tasks_lacking = 0
        """Tasks that succeeded and whose scalars are in no chunk of the cache, if outputs are not read."""
        self.tasks_lost = 0
        """Tasks that succeeded, and of which neither a chunk nor outputs are left."""
        self.chunk_problems: list[tuple[str, str]] = []
        """Key and reason of chunks that cannot be read. The outputs of their tasks are read."""

    def read(self, member: int, job_id: str, sources: Iterable[str] = ()) -> None:
        """Collect the scalars of the wanted tasks of a job.

        Args:
            member: the number of the job.
            job_id: its id.
            sources: the jobs that did its reused tasks. The cache may have pruned the job, and know only its ledger.

        Raises:
            NoManifestError, RecordError: if outputs have to be read, and the manifest is gone or invalid.
            StoreError: if the store cannot be read.
        """
        if not self._collected.count_lacking(member):
            return
        for key, value in self._connection.execute(_MIRRORED, (job_id, NO_CHUNK)):
            self.bytes_read += len(value)
            self._add_chunk(member, _key_beside(key), value)
        if not self._collected.count_lacking(member):
            return
        self._collected.share_with_duplicates(member)
        for source in sources:
            self._read_reused(member, source)
        lacking = self._collected.count_lacking(member)
        if self.open_store is None:
            self.tasks_lacking += lacking
        elif lacking:
            store = self.open_store()
            self.outputs.read(store, member, self._lacking_tasks(store, member, job_id))
            self.tasks_lost += self._collected.count_lacking(member)

    def _read_reused(self, member: int, source: str) -> None:
        """Collect the scalars of reused tasks from the chunks of the job that did them, with numbers of its own."""
        for size, tasks in read_chunks(self._connection, source):
            self.bytes_read += size
            for param_id, seed, scalars in tasks:
                self._collected.replace(member, self._collected.lacking(member, param_id, str(seed)), scalars)

    def _add_chunk(self, member: int, key: ChunkKey, value: bytes) -> None:
        try:
            tasks = parse_scalars(value, key)
        except RecordError as error:
            note_problem(self.chunk_problems, key.key, error.reason)
            return
        for task, scalars in tasks:
            self._collected.add(member, task, scalars)

    def _lacking_tasks(self, store: VersionedStore, member: int, job_id: str) -> Iterator[TaskOutputs]:
        """Yield the outputs of the tasks that no chunk has. One listing finds them."""
        manifest = load_manifest(store, job_id)
        study, sources = manifest.study, [job_id, *(reuse.job_id for reuse in manifest.reused)]
        listed = itertools.chain.from_iterable(scan_outputs(store, source) for source in sources)
        for (param_id, seed), of_task in groupby(listed, key=lambda pair: pair[0][:2]):
            outputs = {
                name: entry for (_, _, name), entry in of_task if may_have_scalars(name) and study.keeps_output(name)
            }
            if numbers := self._collected.lacking(member, param_id, seed):  # also a task without scalars is found
                yield TaskOutputs(numbers, outputs)


def _key_beside(key: str) -> ChunkKey:
    """Return the key of the scalars that lie beside a chunk of attempts."""
    parts = parse_chunk_key(key)
    assert parts is not None  # noqa: S101 - the cache has parsed it before
    return parts._replace(kind="scalars")
