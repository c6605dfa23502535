"""Outputs of a job and of its ancestors: listed with their tasks or reductions, or downloaded with a table of tasks."""

from __future__ import annotations

import csv
import heapq
import io
import itertools
from array import array
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mopsjobs.errors import InvalidKeyError, MopsJobsError, NoOutputsError, RecordError, StoreError, UsageError
from mopsjobs.registry.keys import NAMES_NAME, PACK
from mopsjobs.store.base import Entry, Versioned, VersionedStore
from mopsjobs.store.fetcher import why_unread
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest, Reuse, load_manifest
from mopsjobs.studies.output_directory import OutputDirectory, RefusedFileError, is_safe_segment
from mopsjobs.studies.outputs import (
    REDUCED,
    WHOLE_JOB,
    Sizes,
    SizesOf,
    find_complete_tasks,
    reduced_tasks,
    results_prefix,
)
from mopsjobs.studies.packed_store import PackedStore, by_pack
from mopsjobs.studies.reductions import outdated_sets
from mopsjobs.studies.seeds import SeedIndex
from mopsjobs.studies.study import ParameterSet, Task, param_id
from mopsjobs.utils.csv_safe import csv_header, csv_text
from mopsjobs.utils.files import translate_write_errors
from mopsjobs.utils.table_files import free_name
from mopsjobs.utils.text import pluralize

MAX_NAMED_KEYS = 1000
"""Refused keys that are named with the reason. A writer of the registry can create a million."""


BATCH = 500
"""Rows written at once."""

FIRST_COLUMNS = ("task", "param_id", "seed", "status", "job_id", "bundle", "error")

TABLE_BEGINNING = csv_text([FIRST_COLUMNS[:4]]).rstrip().encode()
"""How the table begins, also that of earlier versions. A file that begins otherwise is another program's."""

TABLE = "tasks.csv"
"""The file of the table in a download."""

HEAD_BYTES = 1_000_000
"""Bytes of a table that are read to learn whose outputs a directory has. The parameters of a study may fill lines."""

WHOLE_BELOW = f"{WHOLE_JOB}/"
"""How the names of outputs of the reduction of the whole job begin."""

SetsById = Mapping[str, list[tuple[int, ParameterSet]]]
"""The result of `Study.sets_by_id`."""


class Reduced(NamedTuple):
    """The reduction that left an output."""

    param_id: str | None
    """The parameter set; None: the whole job."""
    params: Mapping[str, Any] | None
    tasks: int
    """Of how many tasks it was made."""


class Output(NamedTuple):
    """An output: its name and its entry in the store, and its task or its reduction if it has one.

    The name is `<param_id>/<seed>/<name>`, that of a reduction `<param_id>/reduced-<tasks>/<name>`.
    """

    name: str
    entry: Entry
    task: Task | None
    reduced: Reduced | None = None


class TableSummary(NamedTuple):
    """The counts of a table."""

    tasks: int
    complete: int
    """The complete ones of them."""
    damaged: Sequence[str] = ()
    """Sentences about outputs of another size that no later job has replaced; see `Completeness.damaged`."""


class DownloadResult(NamedTuple):
    """The result of a download."""

    files: int
    """Outputs that the directory has now."""
    refused: int
    """Keys that were not downloaded."""
    reasons: tuple[tuple[str, str], ...]
    """The first of these keys, each with the reason."""
    table_problem: str | None
    """Why the table of tasks was not written."""
    tasks: int
    duplicate_tasks: int
    """See `count_tasks`."""
    summary: TableSummary | None = None
    """What the table of tasks tells; None if it was not written."""
    lacking: int = 0
    """Tasks without complete outputs of a job that has succeeded, so that they had them."""

    @property
    def problems(self) -> list[str]:
        """Return sentences about what was not downloaded or written, and why."""
        problems = [f"{key} is not downloaded: {reason}." for key, reason in self.reasons]
        if (more := self.refused - len(self.reasons)) > 0:
            problems.append(f"{more:,} more keys are not downloaded.")
        if self.table_problem is not None:
            problems.append(f"The table of tasks was not written: {self.table_problem}.")
        if self.summary is not None:
            problems += self.summary.damaged
        if self.lacking:
            tasks = pluralize(self.lacking, "task")
            problems.append(f"The outputs of {tasks} were lost or damaged since the job ended.")
        return problems


def outputs_of(store: VersionedStore, job_id: str, family: Sequence[Manifest], below: str = "") -> Iterator[Output]:
    """Yield the outputs of a job, then those of its ancestors for the tasks that the job did not do again.

    Of the reductions of a parameter set, only the last complete one has its outputs listed. Those of ancestors are left
    out if a descendant has reduced the set, or has complete tasks that they lack. The outputs of reused tasks are those
    of their sources. It costs one listing per member of the family, and one per source; see also `outdated_sets`.

    Args:
        store: where the outputs are.
        job_id: the job.
        family: the manifest of the job, that of its parent, and so on; empty for a job without a manifest.
        below: the first part of the names, with its slash; empty for all.

    Raises:
        StoreError: if a listing failed.
    """
    reduced: set[str | None] = set()
    """Sets, and None for the whole job, that a descendant has reduced."""
    outdated = outdated_sets(store, family, "" if below == WHOLE_BELOW else below) or [set()]
    for outputs, lacking in zip(_outputs_by_member(store, job_id, family, below), outdated, strict=True):
        own: set[str | None] = set()
        for output in outputs:
            if output.reduced is not None:
                if output.reduced.param_id in reduced | lacking:
                    continue
                own.add(output.reduced.param_id)
                if output.name.endswith("/" + NAMES_NAME):
                    continue
            yield output
        reduced |= own


def sorted_outputs_of(
    store: VersionedStore,
    job_id: str,
    family: Sequence[Manifest],
    param_id: str | None = None,
    sets: Sequence[SetsById] | None = None,
) -> Iterator[Output]:
    """Yield the outputs of tasks in the order of their names, by concurrent listings: those that `outputs_of` yields.

    Args:
        store: where the outputs are.
        job_id: the job.
        family: see `outputs_of`.
        param_id: only the outputs of this parameter set; None: all.
        sets: the sets of the study of each member, if the caller lists several times.

    Raises:
        StoreError: if a listing failed.
    """
    members = _outputs_by_member(store, job_id, family, "" if param_id is None else f"{param_id}/", sets)
    return (one for one in heapq.merge(*members, key=lambda output: output.name) if one.reduced is None)


class _Part(NamedTuple):
    """The outputs of a member that are listed."""

    redone: Container[int]
    """Tasks whose outputs are left out: an ancestor may have left some of a task that a descendant did again."""
    below: str
    """The beginning of the names."""
    sets: SetsById


def _outputs_by_member(
    store: VersionedStore,
    job_id: str,
    family: Sequence[Manifest],
    below: str = "",
    sets: Sequence[SetsById] | None = None,
) -> Iterator[Iterator[Output]]:
    """Yield the outputs of each member whose names begin with `below`."""
    if not family:
        yield _outputs_of_member(store, job_id, None, _Part(frozenset(), below, {}))
    redone: Container[int] = frozenset()
    for place, generation in enumerate(family):
        part = _Part(redone, below, generation.study.sets_by_id() if sets is None else sets[place])
        own = _outputs_of_member(store, generation.job_id, generation, part)
        yield _with_reused(store, own, generation, part) if generation.reused else own
        if generation.only is None:  # it has what its ancestors did among its reused tasks
            redone = range(generation.study.tasks_total)
        elif isinstance(redone, frozenset):
            redone = redone.union(generation.only)


def _with_reused(store: VersionedStore, own: Iterator[Output], manifest: Manifest, part: _Part) -> Iterator[Output]:
    """Yield the outputs of a job and of its reused tasks, in the order of their names.

    If the source had lost the outputs of a reused task, the job has done that task, and its own outputs count.
    """
    sources = [own, *(_reused_outputs(store, manifest, reuse, part) for reuse in manifest.reused)]
    streams = (zip(itertools.repeat(place), outputs) for place, outputs in enumerate(sources))
    merged = heapq.merge(*streams, key=lambda one: one[1].name)
    for _, of_task in itertools.groupby(merged, key=lambda one: one[1].name.rpartition("/")[0]):
        found = list(of_task)
        first = min(place for place, _ in found)
        yield from (output for place, output in found if place == first)


def _reused_outputs(store: VersionedStore, manifest: Manifest, reuse: Reuse, part: _Part) -> Iterator[Output]:
    for output in _outputs_of_member(store, reuse.job_id, manifest, part):
        if output.task is not None and reuse.has(output.task.number):
            yield output


def _outputs_of_member(store: VersionedStore, job_id: str, manifest: Manifest | None, part: _Part) -> Iterator[Output]:
    prefix = results_prefix(job_id)
    tasks = _TaskFinder(manifest, part.sets)

    def outputs() -> Iterator[Output]:
        for entry in store.scan(prefix + part.below):
            name = entry.key[len(prefix) :]
            task = tasks.find(name)
            if task is None or task.number not in part.redone:
                yield Output(name, entry, task, tasks.find_reduced(name) if task is None else None)

    for (_, may_be_reduced), listed in itertools.groupby(outputs(), _place_of):
        is_reduced = may_be_reduced and manifest is not None and manifest.study.reduce is not None
        for output in _without_old_reductions(listed) if is_reduced else listed:
            if output.reduced is not None or not output.name.endswith("/" + NAMES_NAME):
                yield output


def _place_of(output: Output) -> tuple[str, bool]:
    """Return the parameter id of an output, and whether its second part begins as that of a reduction."""
    param_id, _, rest = output.name.partition("/")
    return param_id, rest.startswith(REDUCED)


def _without_old_reductions(listed: Iterator[Output]) -> list[Output]:
    """Return the outputs of a parameter set without those of reductions but the last one that has its names."""
    outputs = list(listed)
    complete = [one.reduced.tasks for one in outputs if one.reduced and one.name.split("/")[2:] == [NAMES_NAME]]
    last = max(complete, default=None)
    return [one for one in outputs if one.reduced is None or one.reduced.tasks == last]


def download(
    store: VersionedStore,
    job_id: str,
    directory: Path,
    *,
    on_progress: Callable[[int], None] | None = None,
    errors: Mapping[int, str] = MappingProxyType({}),
    sizes_of: SizesOf | None = None,
) -> DownloadResult:
    """Write the outputs of a job to a directory as `<param_id>/<seed>/<name>`, and a table of its tasks.

    A key that is refused does not stop the rest. The job may not have it, the store may not send it, or another file
    may be in its place.

    Args:
        store: where the outputs are.
        job_id: the full id. A job without a manifest has outputs, but no table.
        directory: where the files go.
        on_progress: called with the number of files so far.
        errors: the last error of each task, by its number, for the table.
        sizes_of: tells the sizes that outputs are to have; None: any. Outputs of another size are written, and told.

    Raises:
        NoOutputsError: if the job has no outputs.
        UsageError: if the directory has the outputs of another family of jobs.
        MopsJobsError: if a file cannot be written.
        StoreError: if the store does not answer, or a manifest cannot be read.
    """
    family = family_of(store, job_id)
    files_of_job = OutputDirectory(directory)
    check_same_family(files_of_job, store, job_id, family)
    files, refused, reasons = 0, 0, []
    for output in by_pack(store, outputs_of(store, job_id, family), lambda output: output.entry.version):
        try:
            is_written = _write_output(store, output, family, files_of_job)
        except RefusedFileError as error:
            refused += 1
            if refused <= MAX_NAMED_KEYS:
                reasons.append((output.entry.key, str(error)))
            continue
        files += is_written
        if is_written and on_progress is not None:
            on_progress(files)
    if not files and not refused:
        raise NoOutputsError(f"Job {job_id} has no outputs.", job_id=job_id)
    summary, problem = None, None
    if family and files:
        sizes = None if sizes_of is None else sizes_of(family)
        try:
            summary = _replace_table(files_of_job, lambda path: write_table(path, store, family, errors, sizes))
        except RefusedFileError as error:
            problem = str(error)
    return DownloadResult(files, refused, tuple(reasons), problem, *count_tasks(family), summary)


def count_tasks(family: Sequence[Manifest]) -> tuple[int, int]:
    """Count the tasks of the eldest job of a family, and those of them that repeat an earlier one."""
    return (family[-1].tasks_total, len(family[-1].duplicate_tasks())) if family else (0, 0)


def _write_output(
    store: VersionedStore, output: Output, family: Sequence[Manifest], directory: OutputDirectory
) -> bool:
    """Write one output. Return False if it was deleted meanwhile.

    Raises:
        RefusedFileError: if the job may not have it, or if a link or another file is in its place.
    """
    if reason := why_not_an_output(output, family):
        raise RefusedFileError(reason)
    found = read_output(store, output.entry.key, output.entry)
    if found is None:
        return False
    earlier = (read_output(store, f"{results_prefix(generation.job_id)}{output.name}") for generation in family[1:])
    with translate_write_errors(directory.path / output.name):
        directory.write(output.name, found.value, (one.value for one in earlier if one is not None))
    return True


def read_output(store: VersionedStore, key: str, entry: Entry | None = None) -> Versioned | None:
    """Return an output; None if there is none.

    Args:
        store: where it is.
        key: its key.
        entry: its entry in a listing, which tells in which pack it is.

    Raises:
        RefusedFileError: if the store does not send this value.
        StoreError: if the store does not answer.
    """
    try:
        return store.get_entry(entry) if entry is not None and isinstance(store, PackedStore) else store.get(key)
    except InvalidKeyError as error:  # other programs write keys that the store refuses to read
        raise RefusedFileError(error.message.removesuffix(".")) from None
    except StoreError as error:
        reason = why_unread(store, key, error)
        if reason is None:
            return None
        raise RefusedFileError(reason) from None


def read_outputs(store: VersionedStore, keys: Mapping[str, str]) -> dict[str, bytes]:
    """Return outputs by their names, without those that are gone.

    Args:
        store: where they are.
        keys: their keys, by their names.

    Raises:
        MopsJobsError: if the store does not send one.
        StoreError: if the store does not answer.
    """
    outputs = {}
    for name, key in keys.items():
        try:
            found = read_output(store, key)
        except RefusedFileError as error:
            raise MopsJobsError(f"{key} cannot be read: {error}.") from None
        if found is not None:
            outputs[name] = found.value
    return outputs


def read_reduced(store: VersionedStore, job_id: str, params: Mapping[str, Any] | None) -> dict[str, bytes]:
    """Return the outputs of a reduction by their names. It costs a listing per member of the family, and the reads.

    Args:
        store: where they are.
        job_id: the full id of the job.
        params: the parameters of a set; None for the whole job.

    Raises:
        NoOutputsError: if there are none.
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
        MopsJobsError: if the store does not send an output.
    """
    manifest = load_manifest(store, job_id)
    function, keys = manifest.study.reduce, dict[str, str]()
    if function is not None:
        below = WHOLE_BELOW if params is None else f"{param_id(params)}/"
        listed = outputs_of(store, job_id, family_of(store, job_id, manifest), below)
        keys = {one.name.rpartition("/")[2]: one.entry.key for one in listed if one.reduced is not None}
    if not keys:
        what = "names no reduce function" if function is None else f"has no outputs of {function} for that"
        raise NoOutputsError(f"Job {job_id} {what}.", job_id=job_id)
    return read_outputs(store, keys)


def _replace_table(directory: OutputDirectory, write: Callable[[Path], TableSummary]) -> TableSummary:
    with translate_write_errors(directory.path / TABLE):
        return directory.replace(TABLE, TABLE_BEGINNING, write)


def why_not_an_output(output: Output, family: Sequence[Manifest]) -> str:
    """Return the reason why a key below a job's results is not one of its outputs; an empty text if it is one.

    Without a manifest, each key of the form `<param_id>/<seed>/<name>` counts whose segments can name files.
    """
    if PACK.parse(output.entry.key) is not None:
        return "invalid pack: the tasks in it count as missing, and a resume runs them again"
    param_id, *rest = segments = output.name.split("/")
    if len(segments) != 3 or not all(map(is_safe_segment, segments)):
        return "invalid name: expected <param_id>/<seed>/<name>, printable, no part beginning with a dot"
    if output.reduced is not None:
        return "" if is_output_name(rest[1]) else f"invalid name of an output {rest[1]!r}"
    if family and output.task is None:
        return f"the manifest has no task {param_id}/{rest[0]}"
    if family and not family[0].study.keeps_output(rest[1]):
        is_named = family[0].study.outputs is not None
        return "the study does not name this output" if is_named else f"invalid name of an output {rest[1]!r}"
    return ""


class _TaskFinder:
    """Find the task of an output by its name. Names come in the order of a listing: one parameter set at a time."""

    def __init__(self, manifest: Manifest | None, sets: SetsById) -> None:
        self._manifest = manifest
        self._sets = sets
        self._reduce = None if manifest is None else manifest.study.reduce
        self._param_id: str | None = None
        self._current_sets: list[tuple[int, ParameterSet]] = []
        self._seeds = SeedIndex()

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

    def find_reduced(self, name: str) -> Reduced | None:
        """Return the reduction of an output, by its name; None if it is none of the job."""
        param_id, _, rest = name.partition("/")
        sets = self._sets.get(param_id)
        tasks = reduced_tasks(rest.partition("/")[0])
        if self._reduce is None or tasks is None or (sets is None and param_id != WHOLE_JOB):
            return None
        return Reduced(None, None, tasks) if sets is None else Reduced(param_id, sets[0][1].params, tasks)


# --- the table of tasks ----------------------------------------------------------------------------------------------


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


def write_table(
    path: Path,
    store: VersionedStore,
    family: Sequence[Manifest],
    errors: Mapping[int, str],
    sizes: Sizes | None = None,
) -> TableSummary:
    """Write the tasks of the eldest job of a family as CSV: of an adaptive study, those that are needed.

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
    complete, reused, member_of, damaged, needed = _find_members(store, family, sizes)
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

    is_needed = itertools.compress(eldest.numbers, needed or ())
    rows = map(row, (task for _, task in eldest.tasks()) if needed is None else eldest.study.some_tasks(is_needed))
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_header([*FIRST_COLUMNS, *columns]))
        while batch := list(itertools.islice(rows, BATCH)):
            file.write(csv_text(batch))
    return TableSummary(len(complete) if needed is None else needed.count(1), complete.count(1), damaged)


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
) -> tuple[bytearray, bytearray, array[int], list[str], bytearray | None]:
    """Return for each task whether it is complete, whether it is reused, and the index of the member that has it.

    The sentences are those about damaged outputs. At the end are the tasks that are needed; None: all.
    """
    needed: bytearray | None = None
    damaged: dict[int, str] = {}
    total = family[-1].study.tasks_total
    complete, reused, member_of = bytearray(total), bytearray(total), array("L", [len(family) - 1]) * total
    for index, member in reversed(list(enumerate(family))):
        found = find_complete_tasks(store, member, sizes)
        needed = found.needed
        damaged |= {member.numbers[position]: text for position, text in found.damaged.items()}
        for number, flag, is_reused in zip(member.numbers, found.complete, found.reused, strict=True):
            # The study of a descendant may have been replaced. A task that an ancestor did stays the ancestor's.
            if number < total and (flag or not complete[number]):
                member_of[number], reused[number] = index, is_reused
                complete[number] = complete[number] or flag
    return complete, reused, member_of, [text for number, text in damaged.items() if not complete[number]], needed


def _cell(value: object) -> object:
    """Return the value of a cell. Null is written out, since an empty cell means that the set lacks the parameter."""
    return "null" if value is None else value
