"""Run the reduce function of a study after the tasks of a job: over each parameter set, and over the whole job."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import VALUE_ERRORS, RecordError, StoreError, StoreUnavailableError
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import EventLog
from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.runner.pools.base import Feed, Pool, TaskResult
from mopsjobs.runner.results import error_fields
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import bulk_reads, create_all_if_absent
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.outputs import WHOLE_JOB, batches, reduction_key
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.reductions import Reduction, find_reductions
from mopsjobs.studies.results import Output, sorted_outputs_of, why_not_an_output
from mopsjobs.studies.study import Task, find_varying, set_name
from mopsjobs.utils.text import describe_duplicates, pluralize

BATCH_TASKS = 16
"""Tasks whose outputs are in memory at once, for each reduction at work."""

BATCH_BYTES = 2**20
"""Of their outputs, after which a batch gets no further task."""

AHEAD_BATCHES, AHEAD_BYTES = 256, 16 * 2**20
"""Batches of the whole job whose outputs are read together, and bytes of them, after which there is no further one."""

THREADS = 8
"""Outputs that are read at once from a store in a network."""


TaskGroup = tuple[Task, list[Output]]
"""A task with its outputs, which are not read yet."""


@dataclasses.dataclass
class OutputFeed:
    """The outputs of the complete tasks of a family, for the reductions of one run.

    They are read a few tasks at a time, so that memory does not grow with their number.

    Args:
        _store: where the outputs are.
        _family: the manifest of the job, that of its parent, and so on.
        _complete: the tasks that are read, by their numbers in the study.
        _retry: how long to wait for the store.
    """

    _store: VersionedStore
    _family: Sequence[Manifest]
    _complete: bytearray
    _retry: OutageRetry

    def __post_init__(self) -> None:
        self._sets = [member.study.sets_by_id() for member in self._family]
        self._complete = bytearray(self._complete)
        for number in self._family[0].study.duplicate_tasks():
            self._complete[number] = 0  # it shares the outputs of an earlier task
        self._threads = ThreadPoolExecutor(1 if getattr(self._store, "is_local", False) else THREADS)
        self._places: dict[int, int] = {}
        """How many tasks each reduction has got in its present loop."""
        self._batches: dict[int, Iterator[tuple[list[TaskGroup], Mapping[str, bytes]]]] = {}

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    def next_line(self, reduction: Task, *, is_first: bool) -> bytes:
        """Return the outputs of the next tasks of a reduction, or of the first ones; see `base.Feed`.

        Raises:
            StoreError: if the store does not answer for too long.
        """
        number = reduction.number
        if is_first:
            self._places[number] = 0
            self._batches.pop(number, None)
        answer = self._retry.call(lambda: self._read(number, reduction.param_id))
        return json.dumps(answer).encode() + b"\n"

    def end(self, number: int) -> None:
        """Forget a reduction that has ended. Its listing may not be at the end.

        Args:
            number: that of the reduction as a task of the pool.
        """
        self._places.pop(number, None)
        self._batches.pop(number, None)

    def _read(self, number: int, param_id: str) -> dict[str, object]:
        place = self._places[number]
        if number not in self._batches:
            groups = itertools.islice(self._groups(param_id), place, None)
            listed = batches(groups, BATCH_TASKS, BATCH_BYTES, _size_of)
            self._batches[number] = self._with_ranges(listed, is_whole=param_id == WHOLE_JOB)
        try:
            batch, ahead = next(self._batches[number], ([], {}))
            values = iter(self._values([output for _, outputs in batch for output in outputs], ahead))
        except RefusedFileError as error:
            return {"problem": str(error)}
        except StoreError:
            del self._batches[number]  # a listing that failed cannot go on: the next attempt lists again
            raise
        self._places[number] = place + len(batch)
        return {"tasks": [_task_json(task, outputs, values) for task, outputs in batch]}

    def _with_ranges(
        self, listed: Iterator[list[TaskGroup]], *, is_whole: bool
    ) -> Iterator[tuple[list[TaskGroup], Mapping[str, bytes]]]:
        """Yield batches with those outputs that are read together from large packs.

        Parameter ids are hashes, so the whole job goes through its packs again and again. A set has few of them.
        """
        if not is_whole or not isinstance(self._store, PackedStore):
            yield from ((batch, {}) for batch in listed)
            return
        for window in batches(listed, AHEAD_BATCHES, AHEAD_BYTES, lambda batch: sum(map(_size_of, batch))):
            entries = (one.entry for batch in window for _, outputs in batch for one in outputs)
            with bulk_reads(self._store):
                ahead = self._store.read_ranges(entries, self._threads.map)
            yield from ((batch, ahead) for batch in window)

    def _groups(self, param_id: str) -> Iterator[TaskGroup]:
        """Yield the tasks of a reduction in the order of a listing, those with a result of no outputs at the end."""
        left = bytearray(self._complete)
        wanted = None if param_id == WHOLE_JOB else param_id
        listed = sorted_outputs_of(self._store, self._family[0].job_id, self._family, wanted, self._sets)
        for number, outputs in itertools.groupby(listed, lambda one: None if one.task is None else one.task.number):
            if number is not None and left[number]:
                named = [one for one in outputs if not why_not_an_output(one, self._family)]
                if named and named[0].task is not None:
                    left[number] = 0
                    yield named[0].task, named
        yield from ((task, []) for task in self._tasks_of(wanted) if left[task.number])

    def _tasks_of(self, param_id: str | None) -> Iterator[Task]:
        sets = self._sets[0]
        for of_id in sets.values() if param_id is None else [sets.get(param_id, [])]:
            for first, one in of_id:
                for number, seed in enumerate(self._family[0].study.seeds_of(one), first):
                    yield Task(number, one.param_id, seed, one.params)

    def _values(self, outputs: Sequence[Output], ahead: Mapping[str, bytes]) -> list[bytes]:
        """Return the contents of outputs, some of which were read ahead.

        Raises:
            RefusedFileError: if the store does not send one, or has it no more.
            StoreUnavailableError: if the store does not answer.
        """
        with bulk_reads(self._store):
            return list(self._threads.map(lambda output: self._value(output, ahead), outputs))

    def _value(self, output: Output, ahead: Mapping[str, bytes]) -> bytes:
        known = output.entry.value if output.entry.value is not None else ahead.get(output.entry.key)
        if known is not None:
            return known
        try:
            found = self._store.get(output.entry.key)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise RefusedFileError(f"{output.entry.key} cannot be read: {error}") from None
        if found is None:
            raise RefusedFileError(f"{output.entry.key} was deleted")
        return found.value


def _size_of(group: TaskGroup) -> int:
    return sum(one.entry.size or len(one.entry.value or b"") for one in group[1])


def _task_json(task: Task, outputs: Sequence[Output], values: Iterator[bytes]) -> dict[str, object]:
    contents = {one.name.rpartition("/")[2]: base64.b64encode(next(values)).decode() for one in outputs}
    fields = {"params": dict(task.params), "param_id": task.param_id, "seed": task.seed}
    return {"task": task.number, **fields, "outputs": contents}


class ReduceEnd(NamedTuple):
    """The end of a run over reductions."""

    is_done: bool
    """Whether each was tried; False if the run was stopped before."""
    error: str | None = None
    """The first error of one."""


@dataclasses.dataclass
class Reducer:
    """Runs the reductions of a job that are due.

    Args:
        _manifest: the manifest of the job, whose study names a reduce function.
        _store: where the outputs are.
        _retry: how long to wait for the store, and whether a stop was requested.
        _events: take what begins, and failures.
        _on_log: called with what begins, and with the first failure.
        _open_pool: returns a pool for reductions.
    """

    _manifest: Manifest
    _store: VersionedStore
    _retry: OutageRetry
    _events: EventLog
    _on_log: Callable[[str], None]
    _open_pool: Callable[[Feed], Pool]
    _error: str | None = None

    def run(self, is_over: Callable[[], bool]) -> ReduceEnd:
        """Run the due reductions. A function that cannot be loaded, or that fails, is an error of the result.

        Args:
            is_over: whether the run has to end now.

        Raises:
            StoreError: if the store cannot be read or written.
            OSError: if a file cannot be written on this machine.
        """
        store, manifest = self._store, self._manifest
        try:
            family = self._retry.call(lambda: family_of(store, manifest.job_id, manifest))
        except RecordError as error:  # without the tasks of an ancestor, the reductions would be other ones
            self._note(str(error), {})
            return ReduceEnd(True, self._error)
        found = self._retry.call(lambda: find_reductions(store, family))
        if not (due := found.due):
            return ReduceEnd(True)
        repeated = describe_duplicates(len(manifest.study.duplicate_tasks()))
        of = f" of {pluralize(manifest.study.tasks_total, 'task')}{repeated}" if repeated else ""
        text = f"Reducing by {manifest.study.reduce}: {pluralize(len(due), 'reduction')}{of}."
        self._on_log(text)
        self._events.emit(RUNNER, text=text)
        try:
            with contextlib.closing(OutputFeed(store, family, found.complete, self._retry)) as feed:
                pool = self._open_pool(feed.next_line)
                with contextlib.closing(pool.run(self._tasks(due))) as results:
                    for result in results:
                        if is_over():
                            return ReduceEnd(False, self._error)
                        if result is not None and result.is_final:
                            feed.end(result.task.number)
                            self._take(due[result.position], result)
        except (ModelError, BundleError) as error:
            self._note(str(error), error.event_fields if isinstance(error, ModelError) else {})
        return ReduceEnd(True, self._error)

    def _tasks(self, due: Sequence[Reduction]) -> Iterator[tuple[int, Task]]:
        """Yield the reductions as tasks for a pool. Their numbers follow those of the study's tasks."""
        for position, one in enumerate(due):
            arguments = {"params": one.params, "tasks": one.tasks, "missing": one.missing}
            number = self._manifest.study.tasks_total + position
            yield position, Task(number, one.param_id or WHOLE_JOB, one.tasks, arguments)

    def _take(self, reduction: Reduction, result: TaskResult) -> None:
        """Store the outputs of a reduction, or note its error."""
        error, outputs = result.error, result.outputs or {}
        if bad := [name for name in outputs if not is_output_name(name)]:
            error = {"type": "BadOutput", "message": f"{bad[0]!r} cannot be the name of an output"}
        if error is None:
            try:
                self._retry.call(lambda: create_all_if_absent(self._store, self._values(reduction, outputs)))
            except VALUE_ERRORS as refused:
                error = error_fields(refused)
        if error is not None:
            name = set_name(reduction.params, find_varying(self._manifest.study))
            self._note(f"{name}: {error['type']}: {error['message']}", {"error": dict(error)})

    def _values(self, reduction: Reduction, outputs: Mapping[str, bytes]) -> list[tuple[str, bytes]]:
        """Return keys and contents. Their names come last: a reduction with them is complete."""
        job_id, param_id, tasks = self._manifest.job_id, reduction.param_id, reduction.tasks
        contents = [*sorted(outputs.items()), (NAMES_NAME, json.dumps(sorted(outputs)).encode())]
        return [(reduction_key(job_id, param_id, tasks, name), content) for name, content in contents]

    def _note(self, text: str, fields: Mapping[str, object]) -> None:
        if self._error is None:
            self._error = text
            self._on_log(text)
        self._events.emit(RUNNER, text=f"{self._manifest.study.reduce}: {text}", **fields)
