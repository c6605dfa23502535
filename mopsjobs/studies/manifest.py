"""The manifest of a job: its study, its code and the outputs that are expected of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.job_state import check_job_id
from mopsjobs.studies.study import Study, Task
from mopsjobs.utils.json_strict import read_json

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

    def duplicate_tasks(self) -> dict[int, int]:
        """The tasks that are the same simulation as an earlier one of the job, by position; and the position of that.

        Such tasks share their outputs. See `Study.twins`.
        """
        same = self.study.duplicate_tasks()
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


def _numbers(only: object, total: int) -> tuple[int, ...]:
    if not isinstance(only, list) or not all(type(number) is int and 0 <= number < total for number in only):
        raise TypeError("its tasks should be numbers of the study's")
    if any(one >= two for one, two in itertools.pairwise(only)):
        raise TypeError("its tasks should be in ascending order")
    return tuple(only)


def manifest_key(job_id: str, prefix: str = "jobs") -> str:
    """Where the manifest of a job lies."""
    return f"{prefix}/{job_id}/manifest.json"
