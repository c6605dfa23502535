"""The rounds of a growing job: the parameter sets that its client has asked for, since its submission.

Each round is an object that is created once, numbered without a gap. The one after the last is the end mark. So all
readers see the same sets in the same order, and the numbers of tasks never change. See
docs/decisions/0126-growing-jobs.md.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.registry.keys import ROUND, KeyForm
from mopsjobs.store.base import ReadableStore, VersionedStore
from mopsjobs.store.fetcher import FailedRead, ParallelFetcher
from mopsjobs.studies.field_values import MAX_TASKS
from mopsjobs.studies.seeds import MODELOPS, drawn_seed
from mopsjobs.studies.study import ParameterSet, Study, Task
from mopsjobs.studies.study_parser import parse_sets
from mopsjobs.utils.json_strict import read_json

ROUND_VERSION = 1

END = json.dumps({"end": True}, separators=(",", ":")).encode()
"""The end mark: no round follows."""


class Stopped(NamedTuple):
    """Why a client ended its job before all that was to be done, for the record of the job."""

    code: str
    reason: str
    """A sentence without its full stop."""

    def to_mark(self) -> bytes:
        """Return an end mark with it."""
        return json.dumps({"end": True, **self._asdict()}, separators=(",", ":")).encode()


class EndedTask(NamedTuple):
    """A task that has ended, for good."""

    number: int
    params: Mapping[str, object]
    seed: int
    outputs: dict[str, bytes] | None
    """By their names; None if it has failed."""
    error: Mapping[str, object] | None
    """`type` and `message`, and maybe `at` and `traceback`; None if it has succeeded."""


READ_TOGETHER = 64
"""Rounds that are fetched together."""


class Rounds(NamedTuple):
    """Rounds in their order."""

    sets: tuple[tuple[ParameterSet, ...], ...]
    """The sets of each."""
    has_ended: bool
    """Whether the end mark follows."""
    stopped: Stopped | None = None
    """The reason in the end mark, if it has one."""


def round_key(job_id: str, number: int) -> str:
    """Return the key of a round. They are counted from 1."""
    return ROUND.key(job=job_id, number=f"{number:06d}")


def encode_round(sets: Sequence[ParameterSet]) -> bytes:
    """Return the bytes of a round, the same for the same sets."""
    rows = [{"params": dict(one.params)} | ({} if one.seed is None else {"seed": one.seed}) for one in sets]
    return json.dumps({"version": ROUND_VERSION, "sets": rows}, separators=(",", ":"), allow_nan=False).encode()


def parse_round(value: bytes, key: str) -> tuple[ParameterSet, ...] | None:
    """Return the sets of a round; None for the end mark.

    Raises:
        RecordError: if it is neither.
    """
    try:
        document: Any = read_json(value)
        if document.get("end") is True:
            return None
        if document["version"] != ROUND_VERSION:
            raise RecordError(f"unknown version of a round {document['version']!r}: expected {ROUND_VERSION}")
        return parse_sets(document["sets"], "in the round")
    except RecordError as error:
        raise RecordError(error.reason, key=key) from None
    except UsageError as error:  # a StudyError is one
        raise RecordError(error.message, key=key) from None
    except (TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"not a round of a growing job ({type(error).__name__}: {error})", key=key) from None


def read_round(store: ReadableStore, job_id: str, number: int) -> Rounds | None:
    """Read one round, with one request; None if it does not exist yet.

    Raises:
        RecordError: if it is invalid.
        StoreError: if the store cannot be read.
    """
    key = round_key(job_id, number)
    found = store.get(key)
    if found is None:
        return None
    sets = parse_round(found.value, key)
    return Rounds((), has_ended=True) if sets is None else Rounds((sets,), has_ended=False)


def read_rounds(store: ReadableStore, job_id: str) -> Rounds:
    """Read all rounds of a job, by one listing, and by their values if that lacks them.

    Raises:
        RecordError: if a round is invalid or missing.
        StoreError: if the store cannot be read.
    """
    rounds: list[tuple[ParameterSet, ...]] = []
    for key, value in read_values(store, ROUND, job_id):
        if key != round_key(job_id, len(rounds) + 1):
            raise RecordError(f"the round {len(rounds) + 1} is missing", key=key)
        sets = parse_round(value, key)
        if sets is None:
            return Rounds(tuple(rounds), has_ended=True, stopped=_stopped(read_json(value)))
        rounds.append(sets)
    return Rounds(tuple(rounds), has_ended=False)


def _stopped(mark: Any) -> Stopped | None:
    fields = [mark.get(name) for name in Stopped._fields]
    return Stopped(*fields) if all(isinstance(one, str) for one in fields) else None


def count_rounds(store: VersionedStore, job_id: str) -> int:
    """Count the rounds of a job so far, the end mark included, by one listing.

    Raises:
        StoreError: if the store cannot be read.
    """
    return sum(ROUND.parse(key) is not None for key in store.list_keys(ROUND.prefix_of(job_id)))


def read_values(store: ReadableStore, form: KeyForm, job_id: str) -> Iterator[tuple[str, bytes]]:
    """Yield the keys of a job that have a form, with their values, by one listing. What it lacks is read in parallel.

    Raises:
        RecordError: if a value is gone or unreadable.
        StoreError: if the store cannot be read.
    """
    entries = [entry for entry in store.scan(form.prefix_of(job_id)) if form.parse(entry.key) is not None]
    known = {entry.key: entry.value for entry in entries if entry.value is not None}
    unread = [entry.key for entry in entries if entry.value is None]
    with ParallelFetcher.for_store(store) as fetcher:
        for start in range(0, len(unread), READ_TOGETHER):
            keys = unread[start : start + READ_TOGETHER]
            for key, found in zip(keys, fetcher.fetch(keys), strict=True):
                if found is None or isinstance(found, FailedRead):
                    raise RecordError("it is listed, but cannot be read" if found is None else found.reason, key=key)
                known[key] = found.value
    yield from ((entry.key, known[entry.key]) for entry in entries)


def with_replicates(study: Study, sets: Sequence[ParameterSet], replicates: int | None) -> tuple[ParameterSet, ...]:
    """Return sets with this many tasks each: sets with the seeds that the rule of the study draws for these.

    Args:
        study: the study of the growing job.
        sets: the sets; those that name seeds stay as they are.
        replicates: the tasks of each; None: those that the study names.

    Raises:
        UsageError: if the study lists fewer seeds.
    """
    if replicates is None or replicates == study.n_replicates:
        return tuple(sets)
    if isinstance(study.seeds, tuple) and replicates > len(study.seeds):
        raise UsageError(f"invalid replicates {replicates}: expected at most {len(study.seeds)}, as the seeds listed.")
    grown: list[ParameterSet] = []
    for one in sets:
        if one.seed is not None:
            grown.append(one)
        elif study.seeds == MODELOPS:  # a study counts them on, from those of earlier sets with these parameters
            first = drawn_seed(MODELOPS, one.param_id, 0)
            grown += (one._replace(seed=first + number) for number in range(replicates))
        else:
            grown += (one._replace(seed=study.seed_of(one, number)) for number in range(replicates))
    return tuple(grown)


def grown(study: Study, sets: Sequence[ParameterSet]) -> Study:
    """Return a study with further sets behind its own."""
    return dataclasses.replace(study, parameter_sets=(*study.parameter_sets, *sets)) if sets else study


def check_total(study: Study, known: int, sets: Sequence[ParameterSet]) -> None:
    """Refuse sets with which a job has more tasks than any may have.

    Raises:
        RecordError: if it would have.
    """
    total = known + sum(map(study.replicates, sets))
    if total > MAX_TASKS:
        raise RecordError(f"{total:,} tasks: expected at most {MAX_TASKS:,} in one job")


def as_sets(sets: Sequence[Mapping[str, object]]) -> tuple[ParameterSet, ...]:
    """Check parameter sets, and return them as a study has them.

    Raises:
        StudyError: if one is invalid.
    """
    return parse_sets(list(sets))


class GrowingTasks:
    """The tasks of a study that grows, by their numbers, which never change. Not thread-safe.

    Args:
        study: the study as it is known at first.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.tasks: list[Task] = []
        self.first_of: list[int] = []
        """For each task the first one with its parameters and its seed, which is run for both."""
        self.duplicates = 0
        """How many tasks repeat an earlier one."""
        self._firsts: dict[tuple[str, int], int] = {}
        self._add(study.parameter_sets)

    def grow(self, sets: Sequence[ParameterSet]) -> range:
        """Add the sets of a round, and return the numbers of their tasks.

        Raises:
            RecordError: if they are too many.
        """
        check_total(self.study, len(self.tasks), sets)
        first, known = len(self.tasks), len(self.study.parameter_sets)
        self.study = grown(self.study, sets)
        self._add(self.study.parameter_sets[known:])
        return range(first, len(self.tasks))

    def _add(self, sets: Sequence[ParameterSet]) -> None:
        for one in sets:
            for seed in self.study.seeds_of(one):
                number = len(self.tasks)
                self.tasks.append(Task(number, one.param_id, seed, one.params))
                first = self._firsts.setdefault((one.param_id, seed), number)
                self.first_of.append(first)
                self.duplicates += first != number
