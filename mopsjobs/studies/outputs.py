"""Outputs of tasks: their keys in the store, and which tasks are complete."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Protocol

from mopsjobs.errors import RecordError
from mopsjobs.store.base import Entry, Versioned
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
from mopsjobs.studies.study import Study, Task, is_output_name
from mopsjobs.utils.json_strict import read_json


class Readable(Protocol):
    """As much of a `VersionedStore` as finding outputs needs."""

    def get(self, key: str) -> Versioned | None:
        """See `VersionedStore.get`."""

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        """See `VersionedStore.scan`."""


class Completeness:
    """Which tasks of a job are complete, one byte a task, by their position in the job."""

    def __init__(self, total: int) -> None:
        self.complete = bytearray(total)
        self.unexpected = 0
        """Outputs found of tasks that the job does not have."""

    @property
    def count(self) -> int:
        """How many tasks are complete."""
        return self.complete.count(1)


def results_prefix(job_id: str) -> str:
    """Where the outputs of a job lie."""
    return f"results/{job_id}/"


def output_key(job_id: str, task: Task, name: str) -> str:
    """Where an output of a task lies."""
    return f"{results_prefix(job_id)}{task.param_id}/{task.seed}/{name}"


def find_complete_tasks(store: Readable, manifest: Manifest) -> Completeness:
    """Find out by one listing which tasks of a job are complete.

    Memory follows the parameter sets and nine bytes a task, not the outputs.

    Raises:
        StoreError: the listing failed.
    """
    found = Completeness(manifest.tasks_total)
    sets = manifest.study.sets_by_id()
    prefix = results_prefix(manifest.job_id)
    entries = (((*entry.key[len(prefix) :].split("/", 2), "", "")[:3], entry) for entry in store.scan(prefix))
    for param, of_param in groupby(entries, key=lambda pair: pair[0][0]):
        # With many replicates two may draw the same seed: the same simulation, with the same outputs.
        seeds = manifest.study.seed_index(sets.get(param, ()))
        for seed, of_task in groupby(of_param, key=lambda pair: pair[0][1]):
            found_here = {name: entry.value for (_, _, name), entry in of_task}
            names = {name: value for name, value in found_here.items() if name == NAMES_NAME or is_output_name(name)}
            wanted = manifest.positions(seeds.numbers_of_text(seed))
            found.unexpected += len(found_here) - (len(names) if wanted else 0)
            if wanted and _is_complete(store, manifest.study, f"{prefix}{param}/{seed}/", names):
                for position in wanted:
                    found.complete[position] = 1
    return found


def _is_complete(store: Readable, study: Study, prefix: str, names: dict[str, bytes | None]) -> bool:
    if study.outputs is not None:
        return names.keys() >= set(study.outputs)
    if NAMES_NAME not in names:
        return len(names) == 1
    value = names[NAMES_NAME]
    if value is None:
        found = store.get(prefix + NAMES_NAME)
        value = b"null" if found is None else found.value
    try:
        expected = read_json(value)
    except RecordError:
        return False
    # Whoever wrote it, it may hold anything.
    return isinstance(expected, list) and all(isinstance(name, str) and name in names for name in expected)
