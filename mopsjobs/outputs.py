"""What a job should leave, and what it has left: its manifest, the keys of its outputs, and the comparison of the two.

    jobs/<job_id>/manifest.json                    the study, the bundle, and which tasks of the study are the job's
    results/<job_id>/<param_id>/<seed>/<name>      one output of one task

A task is complete when every output that the study names is there. Where the study names none, a task that leaves
exactly one output is complete with it; one that leaves another number of them first writes their names under
`_outputs.json`, and is complete when each of those is there. So one listing tells, and a task that was cut short
never looks complete.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Protocol

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.job import check_job_id
from mopsjobs.store.base import Entry, Versioned
from mopsjobs.strict_json import read_json
from mopsjobs.submit.study import Study, Task, is_output_name

MANIFEST_VERSION = 1
NAMES_NAME = "_outputs.json"
"""Holds the names of a task's outputs, where the study does not. No output may begin with `_`."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a job is to do."""

    job_id: str
    study: Study
    bundle: str
    """`sha256:<digest>` of the code."""
    only: tuple[int, ...] | None = None
    """The tasks of the study that are this job's, by number, ascending; None: all of them. A resumed job has a few."""
    parent_job_id: str | None = None
    engine: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def tasks_total(self) -> int:
        """How many tasks the job has."""
        return self.study.tasks_total if self.only is None else len(self.only)

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """The job's tasks with their position in the job, counted from 0."""
        if self.only is None:
            yield from enumerate(self.study.tasks())
            return
        wanted = iter(self.only)
        following = next(wanted, None)
        position = 0
        for task in self.study.tasks():
            if task.number == following:
                yield position, task
                position += 1
                following = next(wanted, None)

    def positions(self, numbers: Iterable[int]) -> list[int]:
        """Where in the job tasks of the study are; those that are not the job's are left out."""
        if self.only is None:
            return list(numbers)
        at = ((bisect_left(self.only, number), number) for number in numbers)
        return [position for position, number in at if self.only[position : position + 1] == (number,)]

    def twins(self) -> dict[int, int]:
        """The tasks that are the same simulation as an earlier one of the job, by position; and the position of that.

        Such tasks share their outputs. See `Study.twins`.
        """
        same = self.study.twins()
        if self.only is None or not same:
            return same
        found: dict[int, int] = {}
        first: dict[int, int] = {}
        for position, number in enumerate(self.only):
            earlier = first.setdefault(same.get(number, number), position)
            if earlier != position:
                found[position] = earlier
        return found

    def record_fields(self) -> dict[str, Any]:
        """The job's record as it is registered, at its submission or later: arguments of `register_job`."""
        return {
            "tasks_total": self.tasks_total,
            "engine": self.engine,
            "owner": self.owner,
            "labels": self.labels,
            "parent_job_id": self.parent_job_id,
            "metadata": {
                "model": self.study.model,
                "scenario": self.study.scenario,
                "bundle": self.bundle,
                "sampling_method": self.study.sampling_method,
                "n_parameter_sets": len(self.study.parameter_sets),
                "n_replicates": self.study.n_replicates,
                **self.study.metadata,
            },
        }

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        document = {
            "version": MANIFEST_VERSION,
            "job_id": self.job_id,
            "bundle": self.bundle,
            "study": self.study.to_dict(),
            "only": None if self.only is None else list(self.only),
            "parent_job_id": self.parent_job_id,
            "engine": self.engine,
            "owner": self.owner,
            "labels": dict(self.labels),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, value: bytes, *, key: str | None = None) -> Manifest:
        """The manifest in these bytes.

        Raises:
            RecordError: they are none, or one that only a newer version understands.
        """
        try:
            document: Any = read_json(value)
            if document["version"] != MANIFEST_VERSION:
                raise RecordError(f"a manifest of version {document['version']!r} is not known here")
            only = document["only"]
            # What the record needs besides came later; the manifests of older jobs are without.
            engine, owner, labels = document.get("engine"), document.get("owner"), document.get("labels") or {}
            names = (document["job_id"], document["bundle"], document["parent_job_id"] or "", engine or "", owner or "")
            if not all(isinstance(name, str) for name in (*names, *labels, *labels.values())):
                raise TypeError("its ids, engine, owner and labels should be texts")
            for name in (document["job_id"], document["parent_job_id"] or "-"):
                check_job_id(name)
            study = Study.from_dict(document["study"], "in the manifest")
            return cls(
                job_id=document["job_id"],
                study=study,
                bundle=document["bundle"],
                only=None if only is None else _numbers(only, study.tasks_total),
                parent_job_id=document["parent_job_id"],
                engine=engine,
                owner=owner,
                labels=labels,
            )
        except RecordError as error:
            raise RecordError(error.reason, key=key) from None
        except UsageError as error:  # a StudyError is one
            raise RecordError(error.message, key=key) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"no manifest of a job ({type(error).__name__}: {error})", key=key) from None


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


def _numbers(only: object, total: int) -> tuple[int, ...]:
    if not isinstance(only, list) or not all(type(number) is int and 0 <= number < total for number in only):
        raise TypeError("its tasks should be numbers of the study's")
    if any(one >= two for one, two in itertools.pairwise(only)):
        raise TypeError("its tasks should be in ascending order")
    return tuple(only)


def manifest_key(job_id: str, prefix: str = "jobs") -> str:
    """Where the manifest of a job lies."""
    return f"{prefix}/{job_id}/manifest.json"


def results_prefix(job_id: str) -> str:
    """Where the outputs of a job lie."""
    return f"results/{job_id}/"


def output_key(job_id: str, task: Task, name: str) -> str:
    """Where an output of a task lies."""
    return f"{results_prefix(job_id)}{task.param_id}/{task.seed}/{name}"


def examine(store: Readable, manifest: Manifest) -> Completeness:
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
