"""Read the scalars of outputs in the store, many at once: for tables, and for decisions that outputs make."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mopsjobs.ledger.scalars import MAX_OUTPUT_BYTES, Scalars, extract_scalars
from mopsjobs.store.base import Entry, ReadableStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.store.unread_keys import NOT_READ
from mopsjobs.studies.packed_store import by_pack, pack_of

TASKS = 100
"""Tasks whose outputs are fetched together, if they are small."""

BATCH_BYTES = 8 * 1024 * 1024
"""Of the outputs that are fetched together."""

MAX_PROBLEMS = 1_000
"""Problems that are named."""


class TaskOutputs(NamedTuple):
    """Outputs that are searched for scalars."""

    numbers: list[int]
    """The tasks that have them."""
    entries: Mapping[str, Entry]
    """By their names."""


class OutputReader:
    """Reads the scalars of outputs in the store, many at once."""

    def __init__(
        self,
        take: Callable[[int, list[int], Scalars], object],
        on_progress: Callable[[int], None] | None = None,
        refuse: Callable[[list[int], str], object] | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            take: takes a member, its tasks with the same outputs, and their scalars.
            on_progress: called with the number of tasks whose outputs were read.
            refuse: takes tasks of which the store does not send an output, and the reason; None: `take` gets the
                scalars of the others.
        """
        self._take, self._refuse = take, refuse
        self._on_progress = on_progress
        self.tasks_read = 0
        """Tasks whose outputs were read."""
        self.bytes_read = 0
        self.problems: list[tuple[str, str]] = []
        """Key and reason of outputs that cannot be read, the first `MAX_PROBLEMS`."""

    def read(self, store: ReadableStore, member: int, tasks: Iterator[TaskOutputs]) -> None:
        """Collect the scalars of tasks of a member.

        Raises:
            StoreError: if the store cannot be read.
        """
        tasks = by_pack(store, tasks, lambda task: pack_of(task.entries))
        with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
            while batch := list(_take(tasks)):
                self._read_batch(fetcher, member, batch)

    def _read_batch(self, fetcher: ParallelFetcher, member: int, batch: Sequence[TaskOutputs]) -> None:
        entries = [entry for _, outputs in batch for entry in outputs.values() if _is_unread(entry)]
        values = dict(zip((entry.key for entry in entries), fetcher.fetch_entries(entries), strict=True))
        for numbers, outputs in batch:
            found: dict[str, bytes | None] = {}
            problem: str | None = None
            for name, entry in outputs.items():
                value = values.get(entry.key)
                if isinstance(value, FailedRead):
                    problem = f"{entry.key}: {value.reason}"
                    note_problem(self.problems, entry.key, value.reason)
                elif value is not None:
                    found[name] = value.value
                elif not _is_unread(entry):
                    found[name] = entry.value
            self.bytes_read += sum(len(value) for value in found.values() if value is not None)
            if problem is not None and self._refuse is not None:
                self._refuse(numbers, problem)
            else:
                self._take(member, numbers, extract_scalars(found))
        self.tasks_read += sum(bool(outputs) for _, outputs in batch)
        if self._on_progress is not None:
            self._on_progress(self.tasks_read)


def note_problem(problems: list[tuple[str, str]], key: str, reason: str) -> None:
    """Note key and reason of an output that cannot be read, of the first `MAX_PROBLEMS`."""
    if len(problems) < MAX_PROBLEMS:
        problems.append((key, reason.removeprefix(NOT_READ)))


def _is_unread(entry: Entry) -> bool:
    """Return whether an output has to be fetched: one that is too large is not."""
    return entry.value is None and (entry.size is None or entry.size <= MAX_OUTPUT_BYTES)


def _take(tasks: Iterator[TaskOutputs]) -> Iterator[TaskOutputs]:
    """Yield the tasks of one batch."""
    size = 0
    for task in islice(tasks, TASKS):
        yield task
        size += sum(entry.size or 0 for entry in task.entries.values() if _is_unread(entry))
        if size > BATCH_BYTES:
            return
