"""The manifest of a job: its study, its code and the outputs that are expected of it.

It lies beside the record, at `jobs/<job_id>/manifest.json`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mopsjobs.engines.base import KUBERNETES_JOB, NOTE_PREFIXES
from mopsjobs.errors import NoManifestError, RecordError, UsageError, command_line
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.keys import MANIFEST, RECORDS
from mopsjobs.registry.notes import LABEL_HISTORY, NOTE_HISTORY, SUSPECT, WAITS_FOR
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.origin import Origin
from mopsjobs.studies.reuse import MAX_REUSED, MAX_SOURCES, REUSED_FIELD, SOURCES_FIELD, Reuse
from mopsjobs.studies.study import Study, Task
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.utils.json_strict import read_json

MANIFEST_VERSION = 1

APART = "study_metadata"
"""Where a record has the entries of a study's metadata whose names mops-jobs uses itself."""

NAMES_NAME = "_outputs.json"
"""The output that lists the names of a task's other outputs, if the study does not. No other begins with `_`."""

DUPLICATES_FIELD = "n_duplicate_tasks"
"""The entry of a record's metadata that counts the tasks which repeat an earlier one; absent if there are none."""

DIFFERENT_FIELD = "n_different_parameter_sets"
"""The entry that counts the parameter sets with different parameters; absent if all have."""

DEFERRED_FIELD = "n_deferred_tasks"
"""The entry that counts the tasks which the job leaves to a later resume; absent if there are none."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The work of a job."""

    job_id: str
    study: Study
    bundle: str
    """`sha256:<digest>` of the code."""
    only: tuple[int, ...] | None = None
    """Numbers of the study's tasks that this job has, ascending; None for all of them. A resumed job has a few."""
    deferred: tuple[int, ...] = ()
    """Numbers of those of its tasks that it leaves to a later resume, ascending. The job then ends `partial`."""
    parent_job_id: str | None = None
    engine: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    """None if an earlier version submitted the job."""
    reused: tuple[Reuse, ...] = ()
    """Tasks of the job whose outputs other jobs have, each in one of these at most."""

    @property
    def tasks_total(self) -> int:
        """Count the tasks of the job."""
        return self.study.tasks_total if self.only is None else len(self.only)

    @property
    def numbers(self) -> Sequence[int]:
        """Return the numbers that the tasks of the job have in the study, ascending."""
        return range(self.study.tasks_total) if self.only is None else self.only

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """Yield the tasks of the job with their position in the job, counted from 0."""
        if self.only is None:
            yield from enumerate(self.study.tasks())
            return
        numbers = iter(self.only)
        following = next(numbers, None)
        position = 0
        for task in self.study.tasks():
            if task.number == following:
                yield position, task
                position += 1
                following = next(numbers, None)

    def positions(self, numbers: Iterable[int]) -> list[int]:
        """Map task numbers of the study to positions in the job, without the tasks that are not in the job."""
        if self.only is None:
            return list(numbers)
        places = ((bisect_left(self.only, number), number) for number in numbers)
        return [position for position, number in places if self.only[position : position + 1] == (number,)]

    def duplicate_tasks(self) -> Mapping[int, int]:
        """Map the position of each task that repeats an earlier task of the job to the position of the earlier one.

        Such tasks share their outputs. See `Study.duplicate_tasks`.
        """
        earlier_of = self.study.duplicate_tasks()
        if self.only is None or not earlier_of:
            return earlier_of
        duplicates: dict[int, int] = {}
        first: dict[int, int] = {}
        for position, number in enumerate(self.only):
            earlier = first.setdefault(earlier_of.get(number, number), position)
            if earlier != position:
                duplicates[position] = earlier
        return duplicates

    def source_of(self, number: int) -> Reuse | None:
        """Return the job that has the outputs of a reused task; None if the task is not reused."""
        return next((one for one in self.reused if one.has(number)), None)

    def record_fields(self) -> dict[str, Any]:
        """Return the arguments of `register_job` for this job, at its submission or later."""
        return {
            "tasks_total": self.tasks_total,
            "engine": self.engine,
            "owner": self.owner,
            "labels": self.labels,
            "parent_job_id": self.parent_job_id,
            "metadata": self._record_metadata(),
        }

    def _record_metadata(self) -> dict[str, Any]:
        """Return the metadata of the record. Entries of the study never replace those that mops-jobs acts on."""
        duplicates, sets, different = (
            len(self.duplicate_tasks()),
            len(self.study.parameter_sets),
            self.study.different_sets,
        )
        own = {
            "model": self.study.model,
            "scenario": self.study.scenario,
            "bundle": self.bundle,
            "sampling_method": self.study.sampling_method,
            "n_parameter_sets": sets,
            "n_replicates": self.study.n_replicates,
            **({DIFFERENT_FIELD: different} if different < sets else {}),
            **({DUPLICATES_FIELD: duplicates} if duplicates else {}),
            **({DEFERRED_FIELD: len(self.deferred)} if self.deferred else {}),
        }
        if self.reused:
            own |= {REUSED_FIELD: sum(one.task_count for one in self.reused)}
            own |= {SOURCES_FIELD: [one.job_id for one in self.reused]}
        used = {*own, DIFFERENT_FIELD, DUPLICATES_FIELD, DEFERRED_FIELD, REUSED_FIELD, SOURCES_FIELD, SUSPECT, APART}
        used |= {NOTE_HISTORY, LABEL_HISTORY, WAITS_FOR, KUBERNETES_JOB}
        notes = tuple(NOTE_PREFIXES.values())
        apart = {name: value for name, value in self.study.metadata.items() if name in used or name.startswith(notes)}
        free = {name: value for name, value in self.study.metadata.items() if name not in apart}
        return {**own, **free, **({APART: apart} if apart else {})}

    def to_json(self) -> bytes:
        """Encode the manifest as it is stored."""
        document = {
            "version": MANIFEST_VERSION,
            "job_id": self.job_id,
            "bundle": self.bundle,
            "study": dataclasses.replace(self.study, reduce=None).to_dict(),
            **({} if self.study.reduce is None else {"reduce": self.study.reduce}),  # 0.1.0 reads studies strictly
            "only": None if self.only is None else list(self.only),
            "parent_job_id": self.parent_job_id,
            "engine": self.engine,
            "owner": self.owner,
            "labels": dict(self.labels),
            **({"deferred": list(self.deferred)} if self.deferred else {}),
            **({} if self.origin is None else {"origin": self.origin.to_json()}),
            **({"reused": [one.to_json() for one in self.reused]} if self.reused else {}),
        }
        return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, value: bytes, *, key: str | None = None) -> Manifest:
        """Decode a manifest.

        Raises:
            RecordError: if the bytes are not a manifest, or only a newer version can read it.
        """
        try:
            document: Any = read_json(value)
            if document["version"] != MANIFEST_VERSION:
                raise RecordError(f"unknown version of a manifest {document['version']!r}: expected {MANIFEST_VERSION}")
            only = document["only"]
            # Manifests of earlier versions lack these fields.
            engine, owner, labels = document.get("engine"), document.get("owner"), document.get("labels") or {}
            names = (document["job_id"], document["bundle"], document["parent_job_id"] or "", engine or "", owner or "")
            if not all(isinstance(name, str) for name in (*names, *labels, *labels.values())):
                raise TypeError("expected texts as its ids, engine, owner and labels")
            for name in (document["job_id"], document["parent_job_id"] or "-"):
                check_job_id(name)
            study = document["study"]
            if "reduce" in document:
                study = {**study, "reduce": document["reduce"]}
            study = parse_study(study, "in the manifest")
            return cls(
                job_id=document["job_id"],
                study=study,
                bundle=document["bundle"],
                only=None if only is None else _parse_numbers(only, study.tasks_total),
                deferred=_parse_numbers(document.get("deferred") or [], study.tasks_total),
                parent_job_id=document["parent_job_id"],
                engine=engine,
                owner=owner,
                labels=labels,
                origin=Origin.from_json(document.get("origin")),
                reused=_parse_reused(document.get("reused") or [], study.tasks_total),
            )
        except RecordError as error:
            raise RecordError(error.reason, key=key) from None
        except UsageError as error:  # a StudyError is one
            raise RecordError(error.message, key=key) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"not a manifest of a job ({type(error).__name__}: {error})", key=key) from None


def _parse_numbers(only: object, total: int) -> tuple[int, ...]:
    if not isinstance(only, list) or not all(type(number) is int and 0 <= number < total for number in only):
        raise TypeError("expected numbers of the study's tasks")
    if any(earlier >= later for earlier, later in itertools.pairwise(only)):
        raise TypeError("expected its tasks in ascending order")
    return tuple(only)


def _parse_reused(reused: object, total: int) -> tuple[Reuse, ...]:
    if not isinstance(reused, list) or len(reused) > MAX_SOURCES:
        raise TypeError(f"expected a list of up to {MAX_SOURCES} sources of reused tasks")
    parsed = tuple(Reuse.from_json(one, total) for one in reused)
    if sum(one.task_count for one in parsed) > MAX_REUSED:
        raise TypeError(f"expected at most {MAX_REUSED:,} reused tasks")
    return parsed


def manifest_key(job_id: str, prefix: str = RECORDS) -> str:
    """Return the key of a job's manifest."""
    return MANIFEST.below(prefix).key(job=job_id)


def load_manifest(store: ReadableStore, job_id: str) -> Manifest:
    """Read the manifest of a job, with one request.

    Raises:
        NoManifestError: if the job has none.
        RecordError: if it is invalid, or that of another job.
    """
    key = manifest_key(job_id)
    found = store.get(key)
    if found is None:
        raise NoManifestError(
            f"Job {job_id} has no manifest: mops-jobs did not submit it.",
            job_id=job_id,
            hint="If ModelOps did, use mops jobs validate or mops jobs resume. If it is active, end it with"
            f" {command_line('update', job_id)} STATUS. To run its tasks here, submit its study again.",
        )
    manifest = Manifest.from_json(found.value, key=key)
    if manifest.job_id != job_id:
        raise RecordError(f"it is the manifest of job {manifest.job_id[:80]!r}", key=key)
    return manifest
