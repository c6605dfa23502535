"""The table of tasks in a download, `tasks.csv`: the state, the job, the bundle and the parameters of each task."""

from __future__ import annotations

import csv
import io
import itertools
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mopsjobs.errors import RecordError, UsageError
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.output_directory import OutputDirectory
from mopsjobs.studies.outputs import Sizes, find_complete_tasks
from mopsjobs.studies.study import Task
from mopsjobs.utils.csv_safe import csv_header, csv_text
from mopsjobs.utils.table_files import free_name

BATCH = 500
"""Rows written at once."""

FIRST_COLUMNS = ("task", "param_id", "seed", "status", "job_id", "bundle", "error")

TABLE_BEGINNING = csv_text([FIRST_COLUMNS[:4]]).rstrip().encode()
"""How the table begins, also that of earlier versions. A file that begins otherwise is another program's."""

TABLE = "tasks.csv"
"""The file of the table in a download."""

HEAD_BYTES = 1_000_000
"""Bytes of a table that are read to learn whose outputs a directory has. The parameters of a study may fill lines."""


def check_same_family(
    directory: OutputDirectory, store: VersionedStore, job_id: str, family: Sequence[Manifest]
) -> None:
    """Refuse a directory whose table is that of another family of jobs: their outputs would mix.

    Args:
        directory: where the outputs go.
        store: where the manifests are.
        job_id: the job.
        family: the manifest of the job, that of its parent, and so on.

    Raises:
        UsageError: if the directory has the outputs of another family.
        StoreError: if a manifest cannot be read.
    """
    earlier = _job_of_table(directory.read_beginning(TABLE, HEAD_BYTES))
    sources = (reuse.job_id for member in family for reuse in member.reused)
    if earlier is None or earlier in (job_id, *(member.job_id for member in family), *sources):
        return
    try:
        others = family_of(store, earlier)
    except (RecordError, UsageError):
        others = []
    if not (family and others and family[-1].job_id == others[-1].job_id):
        raise UsageError(
            f"The directory {directory.path} has the outputs of job {earlier}, which is not of the family of {job_id}.",
            hint="Use another DIRECTORY.",
        )


def _job_of_table(beginning: bytes) -> str | None:
    """Return the job of the first task of a table; None if it does not say."""
    if not beginning.startswith(TABLE_BEGINNING):
        return None
    rows = csv.DictReader(io.StringIO(beginning.decode("utf-8", "replace")))
    try:
        return next(rows, {}).get("job_id") or None
    except csv.Error:
        return None


class TableSummary(NamedTuple):
    """The counts of a table."""

    complete: int
    """Its complete tasks."""
    damaged: Sequence[str] = ()
    """Sentences about outputs of another size that no later job has replaced; see `Completeness.damaged`."""


def write_table(
    path: Path,
    store: VersionedStore,
    family: Sequence[Manifest],
    errors: Mapping[int, str],
    sizes: Sizes | None = None,
) -> TableSummary:
    """Write the tasks of the eldest job of a family as CSV.

    Each row has `FIRST_COLUMNS`, then each parameter. A parameter with the name of one of these is `params.<name>`.

    - `status`: `complete` or `missing`
    - `job_id`, `bundle`: of the job that left the outputs, or of the last one that had the task
    - `error`: the last error of a missing task

    Args:
        path: the file.
        store: where the outputs are.
        family: the manifest of the job, that of its parent, and so on.
        errors: the last error of each task, by its number.
        sizes: see `find_complete_tasks`.

    Raises:
        StoreError: if a listing failed.
        OSError: if the file cannot be written.
    """
    eldest = family[-1]
    complete, reused, member_of, damaged = _find_members(store, family, sizes)
    parameters = eldest.study.parameters
    columns = parameter_columns(parameters, FIRST_COLUMNS).values()

    def row(task: Task) -> list[object]:
        member = family[member_of[task.number]]
        is_complete = bool(complete[task.number])
        done_by = (member.source_of(task.number) if reused[task.number] else None) or member
        values = (_cell(task.params[name]) if name in task.params else None for name in parameters)
        return [
            task.number,
            task.param_id,
            task.seed,
            "complete" if is_complete else "missing",
            done_by.job_id,
            done_by.bundle,
            None if is_complete else errors.get(task.number),
            *values,
        ]

    rows = (row(task) for _, task in eldest.tasks())
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_header([*FIRST_COLUMNS, *columns]))
        while batch := list(itertools.islice(rows, BATCH)):
            file.write(csv_text(batch))
    return TableSummary(complete.count(1), damaged)


def parameter_columns(parameters: Sequence[str], others: Collection[str]) -> dict[str, str]:
    """Map parameters to names of columns: their own, or `params.<name>` if another column has it.

    Args:
        parameters: their names, each once.
        others: the names of columns that are not parameters.
    """
    columns = {name: name for name in parameters}
    taken = {*others, *parameters}
    for name in parameters:
        if name in others:
            columns[name] = free_name(f"params.{name}", "params", taken)
    return columns


def _find_members(
    store: VersionedStore, family: Sequence[Manifest], sizes: Sizes | None
) -> tuple[bytearray, bytearray, array[int], list[str]]:
    """Return for each task whether it is complete, whether it is reused, and the index of the member that has it.

    The sentences at the end are those about damaged outputs.
    """
    damaged: dict[int, str] = {}
    total = family[-1].study.tasks_total
    complete, reused, member_of = bytearray(total), bytearray(total), array("L", [len(family) - 1]) * total
    for index, member in reversed(list(enumerate(family))):
        found = find_complete_tasks(store, member, sizes)
        damaged |= {member.numbers[position]: text for position, text in found.damaged.items()}
        for number, flag, is_reused in zip(member.numbers, found.complete, found.reused, strict=True):
            # The study of a descendant may have been replaced. A task that an ancestor did stays the ancestor's.
            if number < total and (flag or not complete[number]):
                member_of[number], reused[number] = index, is_reused
                complete[number] = complete[number] or flag
    return complete, reused, member_of, [text for number, text in damaged.items() if not complete[number]]


def _cell(value: object) -> object:
    """Return the value of a cell. Null is written out, since an empty cell means that the set lacks the parameter."""
    return "null" if value is None else value
