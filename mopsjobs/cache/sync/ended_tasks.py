"""Read what ended with some chunks of a ledger, and the scalars of tasks, without the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import RecordError
from mopsjobs.ledger.attempt import Attempt
from mopsjobs.ledger.format import parse_attempts, parse_chunk_key
from mopsjobs.ledger.scalars import MAX_OUTPUT_BYTES, Scalars, extract_scalars, may_have_scalars, parse_scalars
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.unread_keys import NOT_READ
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study import Task, is_output_name

TASKS = 16
"""Tasks whose outputs are fetched together: each may be large."""


class EndedAttempts(NamedTuple):
    """The attempts of some chunks, and the scalars of the tasks that succeeded, as far as the chunks have them."""

    attempts: list[Attempt]
    scalars: dict[int, Scalars]


def read_chunks(store: VersionedStore, keys: Sequence[str]) -> EndedAttempts:
    """Read some chunks of attempts with the chunks of scalars beside them. One that cannot be read is left out.

    Raises:
        StoreError: if the store cannot be read.
    """
    ended = EndedAttempts([], {})
    parts = [one for key in keys if (one := parse_chunk_key(key)) is not None]
    both = [one._replace(kind=kind) for one in parts for kind in ("attempts", "scalars")]
    with ParallelFetcher.for_store(store) as fetcher:
        for one, found in zip(both, fetcher.fetch([one.key for one in both]), strict=True):
            if found is None or isinstance(found, FailedRead):
                continue
            try:
                if one.kind == "attempts":
                    ended.attempts.extend(parse_attempts(found.value, one))
                else:
                    ended.scalars.update(parse_scalars(found.value, one))
            except RecordError:
                continue  # the sync of the ledger names the chunk
    return ended


def read_task_scalars(
    store: VersionedStore, job_id: str, outputs: Sequence[str] | None, tasks: Iterable[Task]
) -> tuple[dict[int, Scalars], list[tuple[str, str]]]:
    """Read the scalars of tasks from their outputs.

    Args:
        store: the store of the registry.
        job_id: the job.
        outputs: the outputs that its study names; None if it names none. Then each task costs a listing.
        tasks: the tasks.

    Returns:
        The scalars by task, and the outputs that cannot be read, each with the reason.

    Raises:
        StoreError: if the store cannot be read.
    """
    scalars: dict[int, Scalars] = {}
    problems = []
    tasks = iter(tasks)
    with ParallelFetcher.for_store(store) as fetcher:
        while batch := list(islice(tasks, TASKS)):
            keys = [
                (task.number, name, output_key(job_id, task, name))
                for task in batch
                for name in (_listed_outputs(store, job_id, task) if outputs is None else outputs)
                if may_have_scalars(name)
            ]
            values: dict[int, dict[str, bytes | None]] = {task.number: {} for task in batch}
            for (number, name, key), found in zip(keys, fetcher.fetch([key for _, _, key in keys]), strict=True):
                if isinstance(found, FailedRead):
                    problems.append((key, found.reason.removeprefix(NOT_READ)))
                elif found is not None:
                    values[number][name] = found.value
            scalars |= {number: extract_scalars(of_task) for number, of_task in values.items()}
    return scalars, problems


def _listed_outputs(store: VersionedStore, job_id: str, task: Task) -> list[str]:
    """Return the names of the outputs of a task, without those that are too large to be searched."""
    prefix = output_key(job_id, task, "")
    return [
        name
        for entry in store.scan(prefix)
        if is_output_name(name := entry.key.removeprefix(prefix)) and (entry.size or 0) <= MAX_OUTPUT_BYTES
    ]
