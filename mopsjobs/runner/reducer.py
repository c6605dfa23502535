"""Run the reduce function of a study after the tasks of a job: over each parameter set, and over the whole job."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import RecordError
from mopsjobs.events.format import RUNNER
from mopsjobs.events.writer import EventLog
from mopsjobs.runner.output_feed import OutputFeed
from mopsjobs.runner.pools.base import Feed, Pool, TaskResult
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk_writes import create_all_if_absent
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
from mopsjobs.studies.outputs import WHOLE_JOB, reduction_key
from mopsjobs.studies.reductions import Reduction, find_reductions
from mopsjobs.studies.study import Task, is_output_name
from mopsjobs.studies.task_names import find_varying, set_name
from mopsjobs.submission.offline import VALUE_ERRORS
from mopsjobs.utils.text import pluralize


class ReduceEnd(NamedTuple):
    """The end of a run over reductions."""

    is_done: bool
    """Whether each was tried; False if the run was stopped before."""
    error: str | None = None
    """The first error of one."""


class Reducer:
    """Runs the reductions of a job that are due."""

    def __init__(
        self,
        manifest: Manifest,
        store: VersionedStore,
        retry: OutageRetry,
        events: EventLog,
        on_log: Callable[[str], None],
        open_pool: Callable[[Feed], Pool],
    ) -> None:
        """Prepare to run.

        Args:
            manifest: the manifest of the job, whose study names a reduce function.
            store: where the outputs are.
            retry: how long to wait for the store, and whether a stop was requested.
            events: take what begins, and failures.
            on_log: called with what begins, and with the first failure.
            open_pool: returns a pool for reductions.
        """
        self._manifest = manifest
        self._store = store
        self._retry = retry
        self._events = events
        self._on_log = on_log
        self._open_pool = open_pool
        self._error: str | None = None

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
        text = f"Reducing by {manifest.study.reduce}: {pluralize(len(due), 'reduction')}."
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
                error = {"type": type(refused).__name__, "message": str(refused)}
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
