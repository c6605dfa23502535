"""Collect the scalars of tasks: from the chunks that runners wrote, else from the outputs of the tasks.

They lie in a temporary SQLite database while a table is made: those of 100,000 tasks would fill the memory. Chunks have
them in the order in which tasks ended, a table by their numbers. SQLite removes the database.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, islice
from typing import NamedTuple

from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import RecordError
from mopsjobs.ledger.format import ChunkKey, ledger_prefix, parse_chunk_key
from mopsjobs.ledger.scalars import (
    LEFT_OUT,
    MAX_OUTPUT_BYTES,
    Scalars,
    extract_scalars,
    may_have_scalars,
    parse_scalars,
)
from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.store.bulk_reads import bulk_reads
from mopsjobs.store.unread_keys import NOT_READ
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import scan_outputs
from mopsjobs.studies.study import Study
from mopsjobs.utils.table_files import kind_of

CHUNKS = 8
"""Chunks fetched together. Each may have some megabytes."""

TASKS = 100
"""Tasks whose outputs are fetched together, if they are small."""

BATCH_BYTES = 8 * 1024 * 1024
"""Of the outputs that are fetched together."""

MAX_KEYS = 2_000
"""Different scalars in a table. Others are left out."""

MAX_PROBLEMS = 1_000
"""Problems that are named."""

LEFT_OUT_NUMBER = -1
"""In place of the number of a key: the value is the count of the scalars of a task that are left out."""

SCHEMA = """
CREATE TABLE wanted (
    member INTEGER, task INTEGER, param_id TEXT, seed TEXT, PRIMARY KEY (member, task)
) WITHOUT ROWID;
CREATE TABLE found (member INTEGER, task INTEGER, scalars TEXT, PRIMARY KEY (member, task)) WITHOUT ROWID;
"""
"""Tables of the temporary database that `CollectedScalars` uses."""

# Two runs of a shard may both have done a task. The outputs are of the one that came first, and decide.
_FOUND = """
INSERT INTO found VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET scalars = CASE WHEN scalars = excluded.scalars THEN scalars END
"""

_IS_WANTED = "SELECT 1 FROM wanted WHERE member = ? AND task = ?"

_LACKING = """
SELECT count(*) FROM wanted LEFT JOIN found USING (member, task) WHERE member = ? AND scalars IS NULL
"""

_LACKING_OF = """
SELECT task FROM wanted LEFT JOIN found USING (member, task)
WHERE member = ? AND param_id = ? AND seed = ? AND scalars IS NULL
"""


class ScalarKey(NamedTuple):
    """A scalar that some task has: its number, and the kinds of its values, as `table_files.kind_of` names them."""

    number: int
    kinds: set[str]


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

    def index_wanted(self) -> None:
        """Prepare to look for tasks by parameters and seed."""
        self._database.execute("CREATE INDEX IF NOT EXISTS by_seed ON wanted (member, param_id, seed)")

    def count_lacking(self, member: int) -> int:
        """Count the tasks whose scalars no chunk has."""
        return int(self._database.execute(_LACKING, (member,)).fetchone()[0])

    def lacking(self, member: int, param_id: str, seed: str) -> list[int]:
        """Return the tasks with these parameters and this seed whose scalars no chunk has."""
        return [task for (task,) in self._database.execute(_LACKING_OF, (member, param_id, seed))]

    def get(self, member: int, task: int) -> dict[int, object]:
        """Return the scalars of a task by the numbers of their keys; see `LEFT_OUT_NUMBER`."""
        row = self._database.execute(
            "SELECT scalars FROM found WHERE member = ? AND task = ?", (member, task)
        ).fetchone()
        found = json.loads(row[0]) if row is not None and row[0] is not None else []
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
            flat += (known.number, value)
        return json.dumps(flat, separators=(",", ":"))


class ScalarReader:
    """Reads the scalars of jobs from a store."""

    def __init__(
        self, store: VersionedStore, collected: CollectedScalars, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Prepare to read.

        Args:
            store: the store of the registry.
            collected: takes the scalars.
            on_progress: called with the number of tasks whose outputs were read.
        """
        self._store = store
        self._collected = collected
        self._on_progress = on_progress
        self._tasks_read = 0
        self.chunk_problems: list[tuple[str, str]] = []
        """Key and reason of chunks that cannot be read. The outputs of their tasks are read."""
        self.output_problems: list[tuple[str, str]] = []
        """Key and reason of outputs that cannot be read, the first `MAX_PROBLEMS`."""

    def read(self, member: int, job_id: str) -> None:
        """Collect the scalars of the wanted tasks of a job.

        Args:
            member: the number of the job.
            job_id: its id.

        Raises:
            NoManifestError, RecordError: if outputs have to be read, and the manifest is gone or invalid.
            StoreError: if the store cannot be read.
        """
        if not self._collected.count_lacking(member):
            return
        with bulk_reads(self._store), ParallelFetcher.for_store(self._store) as fetcher:
            self._read_chunks(fetcher, member, job_id)
            if self._collected.count_lacking(member):
                self._collected.index_wanted()
                self._read_outputs(fetcher, member, job_id, load_manifest(self._store, job_id).study)

    def _read_chunks(self, fetcher: ParallelFetcher, member: int, job_id: str) -> None:
        keys = ((key, parse_chunk_key(key)) for key in self._store.list_keys(ledger_prefix(job_id)))
        chunks = ((key, parts) for key, parts in keys if parts is not None and parts.kind == "scalars")
        while batch := list(islice(chunks, CHUNKS)):
            for (key, parts), found in zip(batch, fetcher.fetch([key for key, _ in batch]), strict=True):
                if isinstance(found, FailedRead):
                    self._note(self.chunk_problems, key, found.reason)
                elif found is not None:
                    self._add_chunk(member, key, parts, found.value)

    def _add_chunk(self, member: int, key: str, parts: ChunkKey, value: bytes) -> None:
        try:
            tasks = parse_scalars(value, parts)
        except RecordError as error:
            self._note(self.chunk_problems, key, error.reason)
            return
        for task, scalars in tasks:
            self._collected.add(member, task, scalars)

    def _read_outputs(self, fetcher: ParallelFetcher, member: int, job_id: str, study: Study) -> None:
        """Read the outputs of the tasks that no chunk has. One listing finds them."""
        tasks = self._lacking_tasks(member, job_id, study)
        while batch := list(_take(tasks)):
            entries = [entry for _, outputs in batch for entry in outputs.values() if _is_unread(entry)]
            values = dict(
                zip((entry.key for entry in entries), fetcher.fetch([one.key for one in entries]), strict=True)
            )
            for numbers, outputs in batch:
                found: dict[str, bytes | None] = {}
                for name, entry in outputs.items():
                    value = values.get(entry.key)
                    if isinstance(value, FailedRead):
                        self._note(self.output_problems, entry.key, value.reason)
                    elif value is not None:
                        found[name] = value.value
                    elif not _is_unread(entry):
                        found[name] = entry.value
                self._collected.replace(member, numbers, extract_scalars(found))
            self._tasks_read += len(batch)
            if self._on_progress is not None:
                self._on_progress(self._tasks_read)

    def _lacking_tasks(self, member: int, job_id: str, study: Study) -> Iterator[tuple[list[int], Mapping[str, Entry]]]:
        """Yield numbers and outputs of the tasks that no chunk has; those with the same outputs together."""
        outputs_of_job = scan_outputs(self._store, job_id)
        for (param_id, seed), of_task in groupby(outputs_of_job, key=lambda pair: pair[0][:2]):
            outputs = {
                name: entry for (_, _, name), entry in of_task if may_have_scalars(name) and study.keeps_output(name)
            }
            if outputs and (numbers := self._collected.lacking(member, param_id, seed)):
                yield numbers, outputs

    def _note(self, problems: list[tuple[str, str]], key: str, reason: str) -> None:
        if len(problems) < MAX_PROBLEMS:
            problems.append((key, reason.removeprefix(NOT_READ)))


def _is_unread(entry: Entry) -> bool:
    """Return whether an output has to be fetched: one that is too large is not."""
    return entry.value is None and (entry.size is None or entry.size <= MAX_OUTPUT_BYTES)


def _take(
    tasks: Iterator[tuple[list[int], Mapping[str, Entry]]],
) -> Iterator[tuple[list[int], Mapping[str, Entry]]]:
    """Yield the tasks of one batch."""
    size = 0
    for task in islice(tasks, TASKS):
        yield task
        size += sum(entry.size or 0 for entry in task[1].values() if _is_unread(entry))
        if size > BATCH_BYTES:
            return
