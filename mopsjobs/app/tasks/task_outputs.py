"""List the outputs of one task, and read one of them if it is small. Nothing is written but the cache."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.results_table import place_of_result
from mopsjobs.cache.job_json import reused_tasks
from mopsjobs.cache.queries.tasks import ListedTask, TaskQuery
from mopsjobs.errors import NoManifestError, RecordError, UsageError
from mopsjobs.ledger.scalars import output_order
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.results import read_output
from mopsjobs.utils.text import pluralize

MAX_LISTED = 100
"""Outputs of a task that are listed."""

MAX_OUTPUT_BYTES = 1024 * 1024
"""Of an output that is read."""


class TaskOutput(NamedTuple):
    """The outputs of a task, and one of them."""

    job_id: str
    """The job that did the task: the one that was asked for, an ancestor, or one whose outputs these reuse."""
    number: int | None
    """The number that the task has there; None if that job's manifest is gone."""
    task: ListedTask
    sizes: Mapping[str, int | None]
    """The bytes of each output by its name; None if the store does not list sizes."""
    has_more: bool
    """Whether there are more outputs than these."""
    name: str | None
    """The output that was read; None if the task has no outputs."""
    value: bytes | None
    problem: str | None
    """Why there is no value, if there is an output."""


def read_task_output(lineage: Sequence[JobTasks], number: int, name: str | None, app: App) -> TaskOutput:
    """List the outputs of a task, and read one. It costs a listing of the task's outputs, and a read.

    Args:
        lineage: the result of `find_cached_results`.
        number: the task. If an ancestor did it, its outputs are those of the ancestor, as in the table of results.
        name: the output; None for the first one.
        app: the run.

    Raises:
        UsageError: if the job has no such task.
        StoreError: if the registry cannot be read.
        CacheError: if the cache cannot be used.
    """

    def view(connection: sqlite3.Connection) -> list[tuple[JobTasks, ListedTask]]:
        pages = ((job, job.list_tasks(connection, TaskQuery()).page(number, 1)) for job in lineage)
        return [(member, page[0]) for member, page in pages if page and page[0].row.task == number]

    found = app.cache.read_cached(view)
    if not found:
        raise no_such_task_error(lineage[0].job_id, number)
    job, task = found[place_of_result([task.row.outcome for _, task in found])]
    member = job.job_id
    there: int | None = number
    if not task.row.attempts and reused_tasks(job.job)[0]:
        source = load_manifest(app.store, member).source_of(number)
        if source is not None:
            member, there = source.job_id, None
            with contextlib.suppress(NoManifestError, RecordError):
                there = load_manifest(app.store, member).number_of(task.param_id, int(task.row.seed))
    prefix = f"{results_prefix(member)}{task.param_id}/{int(task.row.seed)}/"
    entries = list(islice(app.store.scan(prefix, lambda: False), MAX_LISTED + 1))
    sizes = {
        output: entry.size if entry.value is None else len(entry.value)
        for entry in entries[:MAX_LISTED]
        if is_output_name(output := entry.key.removeprefix(prefix))
    }
    listed = {output: sizes[output] for output in sorted(sizes, key=output_order)}
    name = next(iter(listed), None) if name is None else name
    value, problem = (None, None) if name is None else _read(app, prefix, name, listed)
    return TaskOutput(member, there, task, listed, len(entries) > MAX_LISTED, name, value, problem)


def no_such_task_error(job_id: str, number: int) -> UsageError:
    """Return the error for a task that a job does not have."""
    return UsageError(f"invalid task '{number}': job {job_id} has no such task.")


def _read(app: App, prefix: str, name: str, sizes: Mapping[str, int | None]) -> tuple[bytes | None, str | None]:
    """Return the value of an output, or why there is none."""
    if name not in sizes:
        return None, f"The task has no output '{name}'."
    size = sizes[name] or 0
    if size <= MAX_OUTPUT_BYTES:
        try:
            found = read_output(app.store, prefix + name)
        except RefusedFileError as error:
            return None, f"The output cannot be read: {error}."
        if found is None:
            return None, f"The task has no output '{name}'."
        if len(found.value) <= MAX_OUTPUT_BYTES:
            return found.value, None
        size = len(found.value)
    return None, f"Too large for a page: {pluralize(size, 'byte')}, of at most {MAX_OUTPUT_BYTES:,}."
