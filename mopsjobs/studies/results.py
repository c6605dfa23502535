"""The outputs of a job with the tasks that they are of, those of its ancestors included; and its tasks as a table."""

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
"""How the table begins, by which it is known from another program's."""


class Output(NamedTuple):
    """One output: its name `<param_id>/<seed>/<name>`, where it lies, and of which task it is, if that is known."""

    name: str
    entry: Entry
    task: Task | None


def outputs_of(store: VersionedStore, job_id: str, family: Sequence[Manifest]) -> Iterator[Output]:
    """All outputs of a job, then those of its ancestors for the tasks that were complete when they ended.

    Args:
        store: where they are.
        job_id: the job.
        family: its manifest, that of its parent, and so on; empty for a job without.

    Raises:
        StoreError: a listing failed.
    """
    redone: set[int] = set()  # an ancestor may have left half of what a descendant has done again
    generations: Sequence[Manifest | None] = family or [None]
    for generation in generations:
        prefix = results_prefix(job_id if generation is None else generation.job_id)
        tasks = _Tasks(generation)
        for entry in store.scan(prefix):
            name = entry.key[len(prefix) :]
            if not name.endswith("/" + NAMES_NAME):
                task = tasks.of(name)
                if task is None or task.number not in redone:
                    yield Output(name, entry, task)
        if generation is not None and generation.only is not None:
            redone.update(generation.only)


def why_not_an_output(one: Output, family: Sequence[Manifest]) -> str:
    """Return why a key below a job's results is not one of its outputs; nothing if it is.

    Without a manifest each key of the form `<param_id>/<seed>/<name>` counts whose segments can name files.
    """
    param_id, *rest = segments = one.name.split("/")
    if len(segments) != 3 or not all(map(is_safe_segment, segments)):
        return "invalid name: expected <param_id>/<seed>/<name>, printable, no part beginning with a dot"
    if family and one.task is None:
        return f"the manifest has no task {param_id}/{rest[0]}"
    named = family[0].study.outputs if family else None
    if family and not (is_output_name(rest[1]) if named is None else rest[1] in named):
        return "the study does not name this output" if named else f"invalid name of an output {rest[1]!r}"
    return ""


def write_table(path: Path, store: VersionedStore, family: Sequence[Manifest]) -> None:
    """Write the tasks of the eldest as CSV: number, parameter id, seed, `complete` or `missing`, and each parameter.

    A parameter that is called like one of the first columns is `params.<name>`.

    Raises:
        StoreError: a listing failed.
        OSError: it cannot be written.
    """
    eldest = family[-1]
    complete = bytearray(eldest.study.tasks_total)
    for generation in family:
        flags = find_complete_tasks(store, generation).complete
        numbers = range(len(flags)) if generation.only is None else generation.only
        for number, flag in zip(numbers, flags, strict=True):
            if flag and number < len(complete):  # a descendant's study is the same, if nobody has written another
                complete[number] = 1
    parameters = list(dict.fromkeys(name for one in eldest.study.parameter_sets for name in one.params))
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
    """A parameter that is null says so: an empty cell is that of a set which does not have the parameter."""
    return "null" if value is None else value


class _Tasks:
    """Finds the task of an output by its name, for names in the order of a listing: one parameter set at a time."""

    def __init__(self, manifest: Manifest | None) -> None:
        self._manifest = manifest
        self._sets = {} if manifest is None else manifest.study.sets_by_id()
        self._param_id: str | None = None
        self._here: list[tuple[int, ParameterSet]] = []
        self._seeds = SeedIndex((), ())

    def of(self, name: str) -> Task | None:
        param_id, _, rest = name.partition("/")
        if param_id != self._param_id and self._manifest is not None:
            self._param_id, self._here = param_id, self._sets.get(param_id, [])
            self._seeds = self._manifest.study.seed_index(self._here)
        seed = rest.partition("/")[0]
        numbers = self._seeds.numbers_of_text(seed)
        if not numbers:
            return None
        # Sets of one id differ in their seeds alone.
        return Task(numbers[0], param_id, int(seed), self._here[0][1].params)
