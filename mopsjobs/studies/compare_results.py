"""Compare the outputs of two jobs, task by task, as a stream: memory does not grow with their number.

Tasks of two jobs are the same simulation if parameter set and seed are equal, whatever the studies are called. Both
jobs are listed once. An output is only read if both have one of equal size, and if the listing does not carry it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import NamedTuple

from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.results import Output, count_tasks, read_output, sorted_outputs_of, why_not_an_output

MAX_NAMED = 20
"""Tasks that are named of each kind. All are counted."""

THREADS = 8
"""Tasks that are compared at once."""

LARGE_BYTES = 16 * 2**20
"""Outputs of this size and more are compared one at a time."""


class JobOutputs(NamedTuple):
    """A job whose outputs are compared."""

    job_id: str
    family: Sequence[Manifest]
    """See `outputs_of`."""


class ComparedTask(NamedTuple):
    """A task whose outputs were compared."""

    name: str
    """Its parameter set and seed, as `<param_id>/<seed>`."""
    outputs: tuple[str, ...]
    """The names of its outputs that differ, or that only one job has."""


class ComparedResults:
    """The counts of a comparison, with the first few tasks of each kind."""

    def __init__(self) -> None:
        self.equal = 0
        """Tasks with equal outputs."""
        self.different = 0
        """Tasks of both jobs whose outputs differ."""
        self.unreadable = 0
        """Tasks of both jobs with an output that the store does not send, and no other difference."""
        self.only_first = 0
        """Tasks of which only the first job has outputs."""
        self.only_second = 0
        self.repeated = (0, 0)
        """Tasks of each job that repeat an earlier one. They share its outputs, which are compared once."""
        self.named: dict[str, list[ComparedTask]] = {
            "different": [], "unreadable": [], "only_first": [], "only_second": [],
        }  # fmt: skip

    def add(self, kind: str, task: ComparedTask) -> None:
        """Count a task."""
        setattr(self, kind, getattr(self, kind) + 1)
        if kind in self.named and len(self.named[kind]) < MAX_NAMED:
            self.named[kind].append(task)


def compare_results(
    store: VersionedStore, first: JobOutputs, second: JobOutputs, on_progress: Callable[[int], None] | None = None
) -> ComparedResults:
    """Compare the outputs of two jobs.

    Args:
        store: where the outputs of both are.
        first: a job.
        second: another one.
        on_progress: called with the number of tasks so far.

    Raises:
        StoreError: if a listing failed, or the store does not answer.
    """
    result, large = ComparedResults(), threading.Lock()
    result.repeated = (count_tasks(first.family)[1], count_tasks(second.family)[1])
    pending: deque[Future[tuple[str, ComparedTask]]] = deque()
    done = 0

    def take() -> None:
        nonlocal done
        result.add(*pending.popleft().result())
        done += 1
        if on_progress is not None:
            on_progress(done)

    with ThreadPoolExecutor(THREADS) as threads:
        try:
            for name, ours, theirs in _pairs(_tasks(store, first), _tasks(store, second)):
                pending.append(threads.submit(_compare_task, store, large, name, ours, theirs))
                if len(pending) > 2 * THREADS:
                    take()
            while pending:
                take()
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return result


def _tasks(store: VersionedStore, job: JobOutputs) -> Iterator[tuple[str, list[Output]]]:
    """Yield the tasks of a job with their outputs, in the order of their names with a slash."""
    outputs = (
        output
        for output in sorted_outputs_of(store, job.job_id, job.family)
        if not why_not_an_output(output, job.family)
    )
    for name, of_task in groupby(outputs, key=lambda output: output.name.rpartition("/")[0]):
        yield name, list(of_task)


def _pairs(
    first: Iterator[tuple[str, list[Output]]], second: Iterator[tuple[str, list[Output]]]
) -> Iterator[tuple[str, list[Output], list[Output]]]:
    """Yield each task of either job with its outputs in both."""
    ours, theirs = next(first, None), next(second, None)
    while ours is not None or theirs is not None:
        name = min(task[0] + "/" for task in (ours, theirs) if task is not None)[:-1]
        has_ours, has_theirs = ours is not None and ours[0] == name, theirs is not None and theirs[0] == name
        yield name, ours[1] if ours and has_ours else [], theirs[1] if theirs and has_theirs else []
        ours = next(first, None) if has_ours else ours
        theirs = next(second, None) if has_theirs else theirs


def _compare_task(
    store: VersionedStore, large: threading.Lock, task: str, ours: list[Output], theirs: list[Output]
) -> tuple[str, ComparedTask]:
    first, second = ({output.name.rpartition("/")[2]: output for output in outputs} for outputs in (ours, theirs))
    if not (first and second):
        return "only_first" if first else "only_second", ComparedTask(task, tuple(first or second))
    differing, unreadable = [], []
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            differing.append(name)
            continue
        try:
            if not _is_equal(store, large, first[name], second[name]):
                differing.append(name)
        except RefusedFileError:
            unreadable.append(name)
    kind = "different" if differing else "unreadable" if unreadable else "equal"
    return kind, ComparedTask(task, tuple(differing or unreadable))


def _is_equal(store: VersionedStore, large: threading.Lock, first: Output, second: Output) -> bool:
    """Return whether two outputs have the same bytes.

    Raises:
        RefusedFileError: if the store does not send one of them.
    """
    sizes = (first.entry.size, second.entry.size)
    if None not in sizes and sizes[0] != sizes[1]:
        return False
    if (sizes[0] or 0) < LARGE_BYTES:
        return _value(store, first) == _value(store, second)
    with large:
        return _value(store, first) == _value(store, second)


def _value(store: VersionedStore, output: Output) -> bytes | None:
    if output.entry.value is not None:
        return output.entry.value
    found = read_output(store, output.entry.key, output.entry)
    return None if found is None else found.value
