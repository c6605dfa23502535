"""The manifest of a job: its study, its code and the outputs that are expected of it.

It lies beside the record, at `jobs/<job_id>/manifest.json`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.bundles.git_state import GitState, is_commit
from mopsjobs.engines.base import KUBERNETES_JOB, NOTE_PREFIXES
from mopsjobs.errors import NoManifestError, RecordError, UsageError, command_line
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.keys import MANIFEST, RECORDS
from mopsjobs.registry.notes import (
    ATTEMPTS,
    CALIBRATION,
    GROWS,
    LABEL_HISTORY,
    NOTE_HISTORY,
    OWN_WRITE,
    PRECISION,
    SUSPECT,
    WAITS_FOR,
)
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.adaptive import count_sets, judge_sets
from mopsjobs.studies.rounds import Stopped, check_total, grown, read_rounds
from mopsjobs.studies.seeds import MOPS_JOBS, describe_seeds
from mopsjobs.studies.study import Study, Task
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.utils.json_strict import is_number, read_json
from mopsjobs.utils.ranges import Range, is_in_ranges, number_ranges

MAX_SOURCES = 100
"""Jobs whose tasks a job reuses, at most: each costs a listing wherever the outputs of the job are looked at."""

MAX_REUSED = 10**6
"""Reused tasks of a job, at most. Each is a row in the caches of readers of the job: some 90 bytes and 8 µs."""

REUSED_FIELD = "n_reused_tasks"
"""The entry of a record's metadata that counts the reused tasks; absent if there are none."""

SOURCES_FIELD = "reused_from"
"""The entry of a record's metadata that lists the ids of the jobs that have the outputs of the reused tasks."""


class Reuse(NamedTuple):
    """Tasks of a job that another job has done.

    A reused task is complete while the outputs of its source are. Without them, it is a missing task like others: the
    runner runs it, or `resume` does. See docs/decisions/0071-reused-tasks.md.
    """

    job_id: str
    """The job that has their outputs."""
    bundle: str
    """Its code. It may have another study in it; see `submission.reuse`."""
    ranges: tuple[Range, ...]
    """Their numbers in the study of the job that reuses them."""

    @classmethod
    def of(cls, job_id: str, bundle: str, numbers: Iterable[int]) -> Reuse:
        """Return a reuse of tasks, whose numbers ascend."""
        return cls(job_id, bundle, tuple(number_ranges(numbers)))

    @property
    def task_count(self) -> int:
        """Count the tasks."""
        return sum(end - first for first, end in self.ranges)

    def has(self, number: int) -> bool:
        """Return whether a task is one of these."""
        return is_in_ranges(number, self.ranges)

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the tasks, ascending."""
        return itertools.chain.from_iterable(itertools.starmap(range, self.ranges))

    def to_json(self) -> dict[str, object]:
        """Return the reuse as a manifest has it."""
        return {"job_id": self.job_id, "bundle": self.bundle, "tasks": [list(one) for one in self.ranges]}

    @classmethod
    def from_json(cls, value: object, total: int) -> Reuse:
        """Decode a reuse of a manifest.

        Args:
            value: the JSON.
            total: how many tasks the study has.

        Raises:
            TypeError, ValueError, KeyError: if it is not one.
            UsageError: if the id is not valid.
        """
        if not isinstance(value, Mapping):
            raise TypeError("expected an object for each source of reused tasks")
        ranges = tuple((first, end) for first, end in value["tasks"])
        flat = [-1, *itertools.chain.from_iterable(ranges), total + 1]
        if not all(type(number) is int for number in flat):
            raise TypeError("expected whole numbers as ranges of reused tasks")
        if any(earlier >= later for earlier, later in itertools.pairwise(flat)):
            raise ValueError("expected ascending ranges of reused tasks")
        if not isinstance(value["bundle"], str):
            raise TypeError("expected a text as the bundle of reused tasks")
        return cls(check_job_id(value["job_id"]), value["bundle"], ranges)


MAX_VERSION_CHARACTERS = 100


class Origin(NamedTuple):
    """The origin of a job, as its manifest has it."""

    mops_jobs: str | None
    """The version of mops-jobs that submitted it."""
    git: GitState | None
    """The commit of its code; None if the code was not in a git repository, or if that is unknown."""

    def to_json(self) -> dict[str, object]:
        """Return the origin in its JSON form."""
        commit, is_dirty = (None, None) if self.git is None else self.git
        return {"mops_jobs": self.mops_jobs, "git_commit": commit, "git_dirty": is_dirty}

    @classmethod
    def from_json(cls, value: object) -> Origin | None:
        """Decode an origin. A manifest that a job runs by must not fail because of it: what is invalid is left out."""
        if not isinstance(value, Mapping):
            return None
        version, commit, is_dirty = value.get("mops_jobs"), value.get("git_commit"), value.get("git_dirty")
        return cls(
            version[:MAX_VERSION_CHARACTERS] if isinstance(version, str) else None,
            GitState(commit, is_dirty if isinstance(is_dirty, bool) else None) if is_commit(commit) else None,
        )


MANIFEST_VERSION = 1

APART = "study_metadata"
"""Where a record has the entries of a study's metadata whose names mops-jobs uses itself."""

SEEDS_FIELD = "seeds"
"""The entry of a record's metadata that names the rule of the seeds; absent if it is `mops-jobs`."""

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
    """Numbers of tasks that its parent lacked too, and that it leaves to a later resume, ascending. None of them is in
    `only`. The job then ends `partial`."""
    parent_job_id: str | None = None
    engine: str | None = None
    owner: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    """None if an earlier version submitted the job."""
    reused: tuple[Reuse, ...] = ()
    """Tasks of the job whose outputs other jobs have, each in one of these at most."""
    grows: float | None = None
    """Seconds without a task after which a growing job ends; None for a job whose study has all sets. `load_manifest`
    adds the sets of its rounds to the study."""
    calibration: Mapping[str, Any] | None = None
    """The calibration that asks for the sets of a growing job, as `spec`, and maybe the one that it `extends`; see
    `studies.journal`."""
    rounds: int = 0
    """How many rounds of a growing job are in the study. The stored manifest has none."""
    has_ended: bool = False
    """Whether a growing job gets no further rounds."""
    stopped: Stopped | None = None
    """Why its client ended it early, if it did."""

    @property
    def may_grow(self) -> bool:
        """Return whether further sets may come."""
        return self.grows is not None and not self.has_ended

    @property
    def tasks_total(self) -> int:
        """Count the tasks of the job: those that it may need, if the precision of its study decides."""
        return self.study.tasks_total if self.only is None else len(self.only)

    @property
    def numbers(self) -> Sequence[int]:
        """Return the numbers that the tasks of the job have in the study, ascending."""
        return range(self.study.tasks_total) if self.only is None else self.only

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """Yield the tasks of the job with their position in the job, counted from 0."""
        return enumerate(self.study.tasks() if self.only is None else self.study.some_tasks(self.only))

    def shard_of(self, shards: int) -> Callable[[int], int]:
        """Return a function from the position of a task to its shard.

        The replicates of an adaptive set are in one shard: its decision then needs the outputs of that shard alone.

        Args:
            shards: how many there are.
        """
        if self.study.precision is None:
            return lambda position: position % shards
        firsts: list[tuple[int, int]] = []
        numbers, indexes = self.numbers, dict[str, int]()
        first = 0
        for one in self.study.parameter_sets:
            firsts.append((first, indexes.setdefault(one.param_id, len(indexes)) % shards))
            first += self.study.replicates(one)
        return lambda position: firsts[bisect_right(firsts, (numbers[position], shards)) - 1][1]

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

    def number_of(self, param_id: str, seed: int) -> int | None:
        """Return the first task of the job with these parameters and this seed; None if it has none."""
        sets = self.study.sets_by_id().get(param_id, ())
        return next((one for one in self.study.seed_index(sets).numbers(seed) if self.positions([one])), None)

    def first_counts(self) -> dict[str, int]:
        """Return what the record of an adaptive study says of its precision before any decision."""
        return count_sets(self.study, judge_sets(self.study, {}))

    def record_fields(self) -> dict[str, Any]:
        """Return the arguments of `register_job` for this job, at its submission or later."""
        return {
            "tasks_total": self.tasks_total if self.study.precision is None else self.first_counts()["needed"],
            "engine": self.engine,
            "owner": self.owner,
            "labels": self.labels,
            "parent_job_id": self.parent_job_id,
            "metadata": self._record_metadata(),
        }

    def _record_metadata(self) -> dict[str, Any]:
        """Return the metadata of the record. Entries of the study never replace those that mops-jobs acts on."""
        sets, different = len(self.study.parameter_sets), self.study.different_sets
        duplicates = len(self.duplicate_tasks())
        own = {
            "model": self.study.model,
            "scenario": self.study.scenario,
            "bundle": self.bundle,
            "sampling_method": self.study.sampling_method,
            "n_parameter_sets": sets,
            "n_replicates": self.study.max_replicates,
            **({} if self.study.precision is None else {PRECISION: self.first_counts()}),
            **({} if self.study.seeds == MOPS_JOBS else {SEEDS_FIELD: describe_seeds(self.study.seeds)}),
            **({DIFFERENT_FIELD: different} if different < sets else {}),
            **({DUPLICATES_FIELD: duplicates} if duplicates else {}),
            **({DEFERRED_FIELD: len(self.deferred)} if self.deferred else {}),
            **({} if self.grows is None else {GROWS: self.grows}),
        }
        if self.reused:
            own |= {REUSED_FIELD: sum(one.task_count for one in self.reused)}
            own |= {SOURCES_FIELD: [one.job_id for one in self.reused]}
        used = {*own, DIFFERENT_FIELD, DUPLICATES_FIELD, DEFERRED_FIELD, REUSED_FIELD, SOURCES_FIELD, SUSPECT, APART}
        used |= {SEEDS_FIELD, GROWS, NOTE_HISTORY, LABEL_HISTORY, OWN_WRITE, PRECISION, WAITS_FOR, KUBERNETES_JOB}
        used |= {CALIBRATION, ATTEMPTS}
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
            **({} if self.grows is None else {"grows": {"idle": self.grows}}),
            **({} if self.calibration is None else {"calibration": self.calibration}),
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
            grows = _parse_grows(document.get("grows"))
            study = parse_study(study, "in the manifest", may_grow=grows is not None)
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
                grows=grows,
                calibration=_parse_calibration(document.get("calibration")),
            )
        except RecordError as error:
            raise RecordError(error.reason, key=key) from None
        except UsageError as error:  # a StudyError is one
            raise RecordError(error.message, key=key) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RecordError(f"not a manifest of a job ({type(error).__name__}: {error})", key=key) from None


def _parse_grows(grows: object) -> float | None:
    if grows is None:
        return None
    idle: Any = grows["idle"] if isinstance(grows, Mapping) else None
    if not is_number(idle) or idle <= 0:
        raise TypeError("expected seconds above 0 as the idle time of a growing job")
    return float(idle)


def _parse_calibration(value: object) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not isinstance(value.get("extends", ""), str):
        raise TypeError("expected an object as the calibration")
    check_job_id(value.get("extends", "-"))
    return value


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
    """Read the manifest of a job, with one request; that of a growing job with all its rounds so far.

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
    return with_rounds(store, manifest)


def with_rounds(store: ReadableStore, manifest: Manifest) -> Manifest:
    """Return the manifest of a growing job with the sets of all its rounds so far. Any other manifest stays.

    Raises:
        RecordError: if a round is invalid.
        StoreError: if the store cannot be read.
    """
    if manifest.grows is None:
        return manifest
    rounds = read_rounds(store, manifest.job_id)
    added = [one for sets in rounds.sets for one in sets]
    check_total(manifest.study, manifest.study.tasks_total, added)
    return dataclasses.replace(
        manifest,
        study=grown(manifest.study, added),
        rounds=len(rounds.sets),
        has_ended=rounds.has_ended,
        stopped=rounds.stopped,
    )
