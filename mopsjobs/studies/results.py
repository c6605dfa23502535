"""Outputs of a job and of its ancestors, each with its task; and the tasks of a job as a CSV table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mopsjobs.store.base import Entry, VersionedStore
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
from mopsjobs.studies.output_directory import is_safe_segment
from mopsjobs.studies.outputs import find_complete_tasks, results_prefix
from mopsjobs.studies.seeds import SeedIndex
from mopsjobs.studies.study import ParameterSet, Task, is_output_name
from mopsjobs.utils.csv_safe import csv_text

BATCH = 500
"""Rows written at once."""

FIRST_COLUMNS = ("task", "param_id", "seed", "status")

TABLE_BEGINNING = csv_text([FIRST_COLUMNS]).rstrip().encode()
"""How the table begins. A file that begins otherwise is another program's."""


class Output(NamedTuple):
    """An output: its name `<param_id>/<seed>/<name>`, its entry in the store, and its task if it has one."""

    name: str
    entry: Entry
    task: Task | None


def outputs_of(store: VersionedStore, job_id: str, family: Sequence[Manifest]) -> Iterator[Output]:
    """Yield the outputs of a job, then those of its ancestors for the tasks that the job did not do again.

    It costs one listing per member of the family.

    Args:
        store: where the outputs are.
        job_id: the job.
        family: the manifest of the job, that of its parent, and so on; empty for a job without a manifest.

    Raises:
        StoreError: if a listing failed.
    """
    redone: set[int] = set()  # an ancestor may have left some outputs of a task that a descendant did again
    generations: Sequence[Manifest | None] = family or [None]
    for generation in generations:
        prefix = results_prefix(job_id if generation is None else generation.job_id)
        tasks = _TaskFinder(generation)
        for entry in store.scan(prefix):
            name = entry.key[len(prefix) :]
            if not name.endswith("/" + NAMES_NAME):
                task = tasks.find(name)
                if task is None or task.number not in redone:
                    yield Output(name, entry, task)
        if generation is not None and generation.only is not None:
            redone.update(generation.only)


def why_not_an_output(output: Output, family: Sequence[Manifest]) -> str:
    """Return the reason why a key below a job's results is not one of its outputs; an empty text if it is one.

    Without a manifest, each key of the form `<param_id>/<seed>/<name>` counts whose segments can name files.
    """
    param_id, *rest = segments = output.name.split("/")
    if len(segments) != 3 or not all(map(is_safe_segment, segments)):
        return "invalid name: expected <param_id>/<seed>/<name>, printable, no part beginning with a dot"
    if family and output.task is None:
        return f"the manifest has no task {param_id}/{rest[0]}"
    names = family[0].study.outputs if family else None
    if family and not (is_output_name(rest[1]) if names is None else rest[1] in names):
        return "the study does not name this output" if names else f"invalid name of an output {rest[1]!r}"
    return ""


def write_table(path: Path, store: VersionedStore, family: Sequence[Manifest]) -> None:
    """Write the tasks of the eldest job of a family as CSV: number, parameter id, seed, status, and each parameter.

    The status is `complete` or `missing`. A parameter with the name of one of the first columns is `params.<name>`.

    Raises:
        StoreError: if a listing failed.
        OSError: if the file cannot be written.
    """
    eldest = family[-1]
    complete = bytearray(eldest.study.tasks_total)
    for generation in family:
        flags = find_complete_tasks(store, generation).complete
        numbers = range(len(flags)) if generation.only is None else generation.only
        for number, flag in zip(numbers, flags, strict=True):
            if flag and number < len(complete):  # the study of a descendant may have been replaced
                complete[number] = 1
    parameters = list(
        dict.fromkeys(name for parameter_set in eldest.study.parameter_sets for name in parameter_set.params)
    )
    columns = [f"params.{name}" if name in FIRST_COLUMNS else name for name in parameters]

    def row(task: Task) -> list[object]:
        status = "complete" if complete[task.number] else "missing"
        values = (_cell(task.params[name]) if name in task.params else None for name in parameters)
        return [task.number, task.param_id, task.seed, status, *values]

    rows = (row(task) for _, task in eldest.tasks())
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_text([[*FIRST_COLUMNS, *columns]]))
        while batch := list(itertools.islice(rows, BATCH)):
            file.write(csv_text(batch))


def _cell(value: object) -> object:
    """Return the value of a cell. Null is written out, since an empty cell means that the set lacks the parameter."""
    return "null" if value is None else value


class _TaskFinder:
    """Find the task of an output by its name. Names come in the order of a listing: one parameter set at a time."""

    def __init__(self, manifest: Manifest | None) -> None:
        self._manifest = manifest
        self._sets = {} if manifest is None else manifest.study.sets_by_id()
        self._param_id: str | None = None
        self._current_sets: list[tuple[int, ParameterSet]] = []
        self._seeds = SeedIndex((), ())

    def find(self, name: str) -> Task | None:
        param_id, _, rest = name.partition("/")
        if param_id != self._param_id and self._manifest is not None:
            self._param_id, self._current_sets = param_id, self._sets.get(param_id, [])
            self._seeds = self._manifest.study.seed_index(self._current_sets)
        seed = rest.partition("/")[0]
        numbers = self._seeds.numbers_of_text(seed)
        if not numbers:
            return None
        # Sets of one id differ only in their seeds.
        return Task(numbers[0], param_id, int(seed), self._current_sets[0][1].params)
