"""Outputs of tasks and of reductions: their keys in the store, and which of them are complete.

One listing of `results/<job_id>/` answers for all tasks of a job. A study that names no outputs may cost one read per
task. So may an adaptive one, whose tasks are needed or not by the values in outputs: see `studies.adaptive`. These
values, as those of tables, are read by `OutputReader`, many at once.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import compress, groupby
from typing import NamedTuple, TypeVar

from mopsjobs.errors import RecordError
from mopsjobs.ledger.scalars import MAX_OUTPUT_BYTES, Scalars, extract_scalars
from mopsjobs.registry.keys import NAMES_NAME, OUTPUT, REDUCTION
from mopsjobs.store.base import Entry, ReadableStore
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.store.fetcher import NOT_READ, FailedRead, ParallelFetcher
from mopsjobs.studies.adaptive import Values, judge_sets, needed_tasks, searched_output, values_of
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.studies.manifest import Manifest, Reuse
from mopsjobs.studies.packed_store import by_pack, pack_of
from mopsjobs.studies.precision import Judgement
from mopsjobs.studies.study import Study, Task
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.text import pluralize

T = TypeVar("T")

WHOLE_JOB = "all"
"""Stands in keys and names of outputs for the parameter id, if a reduction is that of the whole job."""

REDUCED = "reduced-"
"""Stands there for the seed, before the number of tasks that a reduction was made of."""

MAX_DAMAGED = 1000
"""Tasks with outputs of another size that are named."""

Sizes = Mapping[str, Mapping[tuple[str, str], int]]
"""The bytes of all outputs of a task, by the job that has them, the parameter id, and the seed."""

SizesOf = Callable[[Sequence[Manifest]], Sizes]
"""Returns the sizes that ledgers tell of jobs, and of those whose outputs they reuse."""


class Completeness:
    """The complete tasks of a job, one byte per task, by their position in the job."""

    def __init__(self, total: int) -> None:
        self.complete = bytearray(total)
        self.reused = bytearray(total)
        """Those of them whose outputs only another job has."""
        self._damaged: dict[int, str] = {}
        self.unexpected = 0
        """How many outputs belong to no task of the job."""
        self.reduced: dict[str, int] = {}
        """The complete reductions, by the first part of their names: of how many tasks the largest one was made."""
        self.needed: bytearray | None = None
        """The tasks that the job needs, as far as the outputs tell; None: all."""
        self.values: dict[int, Values] = {}
        """Of an adaptive study: the values of the tasks with outputs, needed or not, by their numbers in the study."""
        self.judgements: Mapping[str, Judgement] = {}
        """Of an adaptive study: those of its sets, by their ids."""

    @property
    def count(self) -> int:
        """Count the complete tasks, of those that are needed."""
        return self.complete.count(1)

    @property
    def expected(self) -> int:
        """Count the tasks that the job needs, complete or not."""
        return len(self.complete) if self.needed is None else self.needed.count(1)

    def missing(self) -> bytes:
        """Return which needed tasks are not complete, one byte per task."""
        missing = self.complete.translate(bytes([1, 0]).ljust(256, b"\0"))
        return bytes(missing) if self.needed is None else _both(missing, self.needed)

    def judge(self, manifest: Manifest, *, keeps_all: bool) -> None:
        """Decide which tasks of an adaptive study are needed, once their values are known.

        Args:
            manifest: the manifest of the job.
            keeps_all: whether complete tasks count that are not needed.
        """
        self.judgements = judge_sets(manifest.study, self.values)
        needed = needed_tasks(manifest.study, self.judgements)
        self.needed = needed if manifest.only is None else bytearray(needed[number] for number in manifest.only)
        if not keeps_all:
            self.complete = bytearray(_both(self.complete, self.needed))
            self.reused = bytearray(_both(self.reused, self.needed))

    @property
    def damaged(self) -> dict[int, str]:
        """Return a sentence for each task whose outputs have another size than is known, by its position.

        They are the first `MAX_DAMAGED`, without those that have the outputs of another job.
        """
        return {position: text for position, text in self._damaged.items() if not self.complete[position]}

    def note_damaged(self, position: int, text: str) -> None:
        """Note that the outputs of a task have another size than is known."""
        if len(self._damaged) < MAX_DAMAGED:
            self._damaged[position] = text


def _both(some: bytearray, others: bytearray) -> bytes:
    """Return which tasks are marked in both."""
    both = int.from_bytes(some, "little") & int.from_bytes(others, "little")  # ten million bytes at once
    return both.to_bytes(len(some), "little")


def results_prefix(job_id: str) -> str:
    """Return the prefix of the outputs of a job."""
    return OUTPUT.prefix_of(job_id)


def output_key(job_id: str, task: Task, name: str) -> str:
    """Return the key of an output of a task."""
    return OUTPUT.key(job=job_id, param=task.param_id, seed=task.seed, output=name)


def reduction_key(job_id: str, param_id: str | None, tasks: int, name: str) -> str:
    """Return the key of an output of a reduction. Made of more tasks, it is another output.

    Args:
        job_id: the job.
        param_id: the parameter set; None for the whole job.
        tasks: of how many tasks it was made.
        name: the name of the output.
    """
    return REDUCTION.key(job=job_id, set=param_id or WHOLE_JOB, tasks=tasks, output=name)


def reduced_tasks(segment: str) -> int | None:
    """Return of how many tasks a reduction was made, by the second part of its name; None for another name."""
    number = segment.removeprefix(REDUCED)
    is_number = number.isascii() and number.isdigit() and len(number) <= 9 and number[0] != "0"
    return int(number) if is_number and number != segment else None


def scan_outputs(store: ReadableStore, job_id: str, below: str = "") -> Iterator[tuple[tuple[str, str, str], Entry]]:
    """List the outputs of a job, each with the parts of its key: parameter id, seed and name, empty if it lacks one.

    Args:
        store: where the outputs are.
        job_id: the job.
        below: the beginning of the names; empty for all.

    Raises:
        StoreError: if the listing failed.
    """
    prefix = results_prefix(job_id)
    for entry in store.scan(prefix + below):
        param_id, seed, name, *_ = (*entry.key[len(prefix) :].split("/", 2), "", "")
        yield (param_id, seed, name), entry


def find_complete_tasks(
    store: ReadableStore,
    manifest: Manifest,
    sizes: Sizes | None = None,
    below: str = "",
    *,
    keeps_all: bool = False,
    only_reused: bool = False,
) -> Completeness:
    """Find the complete tasks of a job by one listing of its outputs, and one of each job whose outputs it reuses.

    Memory grows with the parameter sets, and by ten bytes per task; not with the outputs.

    Args:
        store: where the outputs are.
        manifest: the manifest of the job.
        sizes: a task whose outputs have another size is missing. Tasks that are not here may have any size.
        below: the beginning of the names that are listed; empty for all.
        keeps_all: whether complete tasks of an adaptive study count that the job does not need.
        only_reused: whether only reused tasks are looked for, and none is judged.

    Raises:
        StoreError: if a listing failed.
    """
    result = Completeness(manifest.tasks_total)
    for reuse in manifest.reused if only_reused else (None, *manifest.reused):
        job_id = manifest.job_id if reuse is None else reuse.job_id
        found = _mark_complete(result, store, manifest, reuse, (sizes or {}).get(job_id, {}), below)
        _take_values(result, store, manifest, found)
    if manifest.study.precision is not None and not only_reused:
        result.judge(manifest, keeps_all=keeps_all)
    return result


def _take_values(result: Completeness, store: ReadableStore, manifest: Manifest, found: Iterator[TaskOutputs]) -> None:
    """Read the values that decide, if the study is adaptive, of the complete tasks that `_mark_complete` yields."""
    precision, numbers = manifest.study.precision, manifest.numbers
    if precision is None:
        deque(found, maxlen=0)
        return

    def take(_member: int, positions: list[int], scalars: Scalars) -> None:
        for position in positions:
            result.values.setdefault(numbers[position], values_of(precision, scalars))

    def refuse(positions: list[int], problem: str) -> None:
        result.note_damaged(positions[0], problem)
        for position in positions:
            result.complete[position] = result.reused[position] = 0

    OutputReader(take, refuse=refuse).read(store, 0, found)


def _mark_complete(
    result: Completeness,
    store: ReadableStore,
    manifest: Manifest,
    reuse: Reuse | None,
    sizes: Mapping[tuple[str, str], int],
    below: str,
) -> Iterator[TaskOutputs]:
    """Mark the tasks that are complete by the outputs of the job itself, or by those of one that it reuses.

    It yields their outputs that may have values, if the study is adaptive.
    """
    job_id = manifest.job_id if reuse is None else reuse.job_id
    sets = manifest.study.sets_by_id()
    prefix = results_prefix(job_id)
    for param, of_param in groupby(scan_outputs(store, job_id, below), key=lambda pair: pair[0][0]):
        # With many replicates, two may draw one seed: that is one simulation, with one set of outputs.
        seeds = manifest.study.seed_index(sets.get(param, ()))
        for seed, of_task in groupby(of_param, key=lambda pair: pair[0][1]):
            entries = {name: entry for (_, _, name), entry in of_task}
            if (tasks := _reduced_tasks(manifest, sets, param, seed)) is not None:
                if reuse is None and NAMES_NAME in entries:  # it is written last
                    result.reduced[param] = max(tasks, result.reduced.get(param, 0))
                continue
            outputs = {name: entry for name, entry in entries.items() if name == NAMES_NAME or is_output_name(name)}
            numbers = seeds.numbers_of_text(seed)
            positions = manifest.positions(numbers if reuse is None else filter(reuse.has, numbers))
            if reuse is None:
                result.unexpected += len(entries) - (len(outputs) if positions else 0)
            place = f"{prefix}{param}/{seed}/"
            if not (positions and _is_complete(store, manifest.study, place, outputs)):
                continue
            expected = sizes.get((param, seed)) if sizes else None
            size = None if expected is None else _size_of_task(manifest.study, outputs)
            if size is not None and expected is not None and size != expected:
                text = f"{place} has {pluralize(size, 'byte')}, and its ledger says {expected:,}."
                result.note_damaged(positions[0], text)
            else:
                for position in positions:
                    result.reused[position] = reuse is not None and not result.complete[position]
                    result.complete[position] = 1
                if manifest.study.precision is not None:
                    searched = {name: one for name, one in outputs.items() if searched_output(manifest.study, name)}
                    yield TaskOutputs(positions, searched)


def _reduced_tasks(manifest: Manifest, sets: Container[str], param: str, segment: str) -> int | None:
    """Return of how many tasks a reduction was made; None if the outputs are not those of a reduction of the job."""
    is_known = manifest.study.reduce is not None and (param == WHOLE_JOB or param in sets)
    return reduced_tasks(segment) if is_known else None


def missing_tasks(manifest: Manifest, found: Completeness) -> tuple[int, ...]:
    """Return the tasks that a job needs and that are not complete, by their numbers in the study."""
    return tuple(compress(manifest.numbers, found.missing()))


def _size_of_task(study: Study, outputs: Mapping[str, Entry]) -> int | None:
    """Return the bytes of the outputs of a task together; None if the listing does not tell all sizes."""
    sizes = [_size(entry) for name, entry in outputs.items() if study.keeps_output(name)]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _size(entry: Entry) -> int | None:
    return entry.size if entry.value is None else len(entry.value)


def _is_complete(store: ReadableStore, study: Study, prefix: str, outputs: Mapping[str, Entry]) -> bool:
    if study.outputs is not None:
        return outputs.keys() >= set(study.outputs)
    if NAMES_NAME not in outputs:
        return len(outputs) == 1
    value = outputs[NAMES_NAME].value
    if value is None:
        found = store.get(prefix + NAMES_NAME)
        value = b"null" if found is None else found.value
    expected = _names_in(value)
    return expected is not None and outputs.keys() >= expected


@functools.lru_cache(maxsize=64)
def _names_in(value: bytes) -> frozenset[str] | None:
    """Return the names of outputs that a task has left; None if they are not names. Most tasks have the same ones."""
    try:
        names = read_json(value)
    except RecordError:
        return None
    # Any program may have written this file.
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return frozenset(names)


TASKS = 100
"""Tasks whose outputs are fetched together, if they are small."""

BATCH_BYTES = 8 * 1024 * 1024
"""Of the outputs that are fetched together."""

MAX_PROBLEMS = 1_000
"""Problems that are named."""


class TaskOutputs(NamedTuple):
    """Outputs that are searched for scalars."""

    numbers: list[int]
    """The tasks that have them."""
    entries: Mapping[str, Entry]
    """By their names."""


class OutputReader:
    """Reads the scalars of outputs in the store, many at once."""

    def __init__(
        self,
        take: Callable[[int, list[int], Scalars], object],
        on_progress: Callable[[int], None] | None = None,
        refuse: Callable[[list[int], str], object] | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            take: takes a member, its tasks with the same outputs, and their scalars.
            on_progress: called with the number of tasks whose outputs were read.
            refuse: takes tasks of which the store does not send an output, and the reason; None: `take` gets the
                scalars of the others.
        """
        self._take, self._refuse = take, refuse
        self._on_progress = on_progress
        self.tasks_read = 0
        """Tasks whose outputs were read."""
        self.bytes_read = 0
        self.problems: list[tuple[str, str]] = []
        """Key and reason of outputs that cannot be read, the first `MAX_PROBLEMS`."""

    def read(self, store: ReadableStore, member: int, tasks: Iterator[TaskOutputs]) -> None:
        """Collect the scalars of tasks of a member.

        Raises:
            StoreError: if the store cannot be read.
        """
        tasks = by_pack(store, tasks, lambda task: pack_of(task.entries))
        with bulk_reads(store), ParallelFetcher.for_store(store) as fetcher:
            for batch in batches(tasks, TASKS, BATCH_BYTES, _unread_bytes):
                self._read_batch(fetcher, member, batch)

    def _read_batch(self, fetcher: ParallelFetcher, member: int, batch: Sequence[TaskOutputs]) -> None:
        entries = [entry for _, outputs in batch for entry in outputs.values() if _is_unread(entry)]
        values = dict(zip((entry.key for entry in entries), fetcher.fetch_entries(entries), strict=True))
        for numbers, outputs in batch:
            found: dict[str, bytes | None] = {}
            problem: str | None = None
            for name, entry in outputs.items():
                value = values.get(entry.key)
                if isinstance(value, FailedRead):
                    problem = f"{entry.key}: {value.reason}"
                    note_problem(self.problems, entry.key, value.reason)
                elif value is not None:
                    found[name] = value.value
                elif not _is_unread(entry):
                    found[name] = entry.value
            self.bytes_read += sum(len(value) for value in found.values() if value is not None)
            if problem is not None and self._refuse is not None:
                self._refuse(numbers, problem)
            else:
                self._take(member, numbers, extract_scalars(found))
        self.tasks_read += sum(bool(outputs) for _, outputs in batch)
        if self._on_progress is not None:
            self._on_progress(self.tasks_read)


def note_problem(problems: list[tuple[str, str]], key: str, reason: str) -> None:
    """Note key and reason of an output that cannot be read, of the first `MAX_PROBLEMS`."""
    if len(problems) < MAX_PROBLEMS:
        problems.append((key, reason.removeprefix(NOT_READ)))


def _is_unread(entry: Entry) -> bool:
    """Return whether an output has to be fetched: one that is too large is not."""
    return entry.value is None and (entry.size is None or entry.size <= MAX_OUTPUT_BYTES)


def _unread_bytes(task: TaskOutputs) -> int:
    return sum(entry.size or 0 for entry in task.entries.values() if _is_unread(entry))


def batches(items: Iterable[T], most: int, most_bytes: int, size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield lists of up to this many items. After these bytes, a list gets no further item."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += size_of(item)
        if len(batch) == most or size >= most_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
