"""Reductions: the calls of a study's reduce function, one per parameter set over its tasks, and one over the job.

A reduction is made of the tasks that are complete. Its outputs have the number of these tasks in their names. So a
reduction is due if none was made of as many tasks as are complete now, in the job or in an ancestor.
See docs/decisions/0079-reduce-functions.md.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, compress
from typing import Any, NamedTuple

from mopsjobs.store.base import ReadableStore, VersionedStore
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import WHOLE_JOB, Completeness, find_complete_tasks


class Reduction(NamedTuple):
    """One call of the reduce function."""

    param_id: str | None
    """The parameter set; None: the whole job."""
    params: Mapping[str, Any] | None
    """Its parameters; None: the whole job."""
    tasks: int
    """Its complete tasks. Tasks that share their outputs count once."""
    missing: int
    """Its tasks without complete outputs, counted in the same way."""
    is_done: bool
    """Whether its outputs are there."""


class Reductions(NamedTuple):
    """The reductions of a job, over the tasks of its whole family."""

    made: Sequence[Reduction]
    """Those with at least one complete task. The last one is that of the whole job."""
    complete: bytearray
    """The complete tasks of the family, by their numbers in the study."""

    @property
    def due(self) -> list[Reduction]:
        """Return those without outputs."""
        return [one for one in self.made if not one.is_done]


def find_reductions(
    store: ReadableStore, family: Sequence[Manifest], completeness: Completeness | None = None
) -> Reductions:
    """Find the reductions of a job, by one listing of the outputs of each member of its family.

    Args:
        store: where the outputs are.
        family: the manifest of the job, that of its parent, and so on. The study names a reduce function.
        completeness: the result of `find_complete_tasks` for the job, if the caller has it.

    Raises:
        StoreError: if a listing failed.
    """
    study = family[0].study
    complete = bytearray(study.tasks_total)
    done: dict[str, int] = {}
    needed: bytearray | None = None
    for place, member in enumerate(family):
        found = completeness if completeness is not None and not place else find_complete_tasks(store, member)
        for number, flag in zip(member.numbers, found.complete, strict=True):
            if flag and number < len(complete):  # the study of an ancestor may have been replaced
                complete[number] = 1
        needed = needed or found.needed  # a job of an adaptive study has all its tasks
        for name, tasks in found.reduced.items():
            done[name] = max(tasks, done.get(name, 0))
    return Reductions(list(_reductions(family[0], complete, done, needed)), complete)


def lacks_reductions(store: VersionedStore, manifest: Manifest) -> bool:
    """Return whether reductions of a job are due; False if its study names no reduce function.

    Raises:
        RecordError: if the manifest of an ancestor is invalid.
        StoreError: if the store cannot be read.
    """
    if manifest.study.reduce is None:
        return False
    return bool(find_reductions(store, family_of(store, manifest.job_id, manifest)).due)


def outdated_sets(store: ReadableStore, family: Sequence[Manifest], below: str = "") -> list[set[str | None]]:
    """Return for each member of a family the parameter sets whose reductions, by it or an ancestor, lack tasks.

    These are the sets, and None for the whole job, of which a descendant has complete tasks that the member and its
    ancestors lack. Without descendants, or a reduce function, it costs nothing; else one listing per member.

    Args:
        store: where the outputs are.
        family: the manifest of the job, that of its parent, and so on.
        below: the beginning of the names that are listed; empty for all.

    Raises:
        StoreError: if a listing failed.
    """
    if len(family) < 2 or family[0].study.reduce is None:
        return [set() for _ in family]
    study = family[0].study
    known = bytearray(study.tasks_total)
    news: list[set[str | None]] = []
    for member in reversed(family):
        new = bytearray(study.tasks_total)
        found = find_complete_tasks(store, member, below=below)
        for number in compress(member.numbers, found.complete):
            if number < len(known) and not known[number]:  # the study of an ancestor may have been replaced
                known[number] = new[number] = 1
        has_new: set[str | None] = {
            param_id
            for param_id, sets in study.sets_by_id().items()
            if any(any(new[first : first + study.replicates(one)]) for first, one in sets)
        }
        news.insert(0, has_new | {None} if has_new else has_new)
    nothing: set[str | None] = set()
    return list(accumulate(news[:-1], operator.or_, initial=nothing))


def _reductions(
    manifest: Manifest, complete: bytearray, done: Mapping[str, int], needed: bytearray | None
) -> Iterator[Reduction]:
    study = manifest.study
    repeated = bytearray(study.tasks_total)
    for number in study.duplicate_tasks():
        repeated[number] = 1
    all_tasks = all_missing = 0
    for param_id, sets in study.sets_by_id().items():
        tasks = total = 0
        for first, parameter_set in sets:
            for number in range(first, first + study.replicates(parameter_set)):
                if not repeated[number] and (needed is None or needed[number]):
                    total += 1
                    tasks += complete[number]
        all_tasks += tasks
        all_missing += total - tasks
        if tasks:
            yield Reduction(param_id, sets[0][1].params, tasks, total - tasks, done.get(param_id) == tasks)
    if all_tasks:
        yield Reduction(None, None, all_tasks, all_missing, done.get(WHOLE_JOB) == all_tasks)
