"""Compare jobs: the code, studies, environments and outputs of two. `diff` prints it, and a page shows it.

Outputs are compared task by task, as a stream: memory does not grow with their number. Tasks of two jobs are the same
simulation if parameter set and seed are equal, whatever the studies are called. Both jobs are listed once. An output is
only read if both have one of equal size, and if the listing does not carry it.
"""

from __future__ import annotations

import contextlib
import difflib
import heapq
import itertools
import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, repeat
from typing import Any, NamedTuple

from mopsjobs.app.origins.provenance import Provenance, printable, read_provenance
from mopsjobs.app.run.app import App
from mopsjobs.bundles.extraction import read_files
from mopsjobs.console.terminal import title_text
from mopsjobs.errors import shorten
from mopsjobs.ledger.environment import Environment
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.results import Output, count_tasks, read_output, sorted_outputs_of, why_not_an_output
from mopsjobs.studies.study import FIELDS, ParameterSet, Study, json_of
from mopsjobs.utils.text import parse_whole_number, pluralize, repeats_text

SCHEMA_VERSION = 1


MAX_NAMED = 20
"""Parameter sets and tasks of each kind that are named of each job. All are counted."""

MAX_VALUE = 60
"""Characters of a value that is named beside others."""

SHORT_HASH = 12

MAX_FILE_BYTES = 256 * 1024

MAX_FILE_LINES = 2_000
"""Of a file whose lines are compared: the time grows with their square."""

MAX_DIFF_LINES = 2_000

Values = tuple[Any, ...]
"""A value of each job, in their order."""


class CodeDifference(NamedTuple):
    """The difference of two bundles, by the names of their files."""

    added: list[str]
    removed: list[str]
    changed: list[str]
    """Files of both with another content, target or executable bit."""
    read: list[str] | None
    """Those of all these that a task of either job may have read; None if that is not known."""
    diffs: dict[str, list[str] | None]
    """Lines of a unified diff for each file; None for one that is too large or not a text. Empty unless wanted."""


class StudyDifference(NamedTuple):
    """The difference of two studies, as scripts get it."""

    fields: dict[str, Values]
    only_first: int
    """Parameter sets that only the first has, a set as often as it is repeated."""
    only_second: int
    common: int
    first_sets: list[Mapping[str, Any]]
    """The parameters of the first few that only the first has."""
    second_sets: list[Mapping[str, Any]]


class EnvironmentDifference(NamedTuple):
    """The difference of the environments of jobs. Several versions of one job are joined by commas."""

    fields: dict[str, Values]
    """`python`, `implementation`, `platform`, `libc` or `mops_jobs`, where they differ."""
    packages: dict[str, Values]
    """Packages that differ, with their versions; None for a job without the package, or without a note."""


class JobDifference(NamedTuple):
    """The difference of two jobs."""

    first: Provenance
    second: Provenance
    code: CodeDifference | None
    """A part is None if it is not known of both."""
    study: StudyDifference | None
    environment: EnvironmentDifference | None
    images: Values | None
    """The images of both, if they differ."""
    results: ComparedResults | None
    """None if they were not to be compared."""

    def to_json(self) -> dict[str, object]:
        """Return the difference as scripts get it; see docs/reference/json.md."""
        return {
            "schema_version": SCHEMA_VERSION,
            "first": self.first.job_id,
            "second": self.second.job_id,
            "code": None if self.code is None else self.code._asdict(),
            "study": None if self.study is None else self.study._asdict(),
            "environment": None if self.environment is None else self.environment._asdict(),
            "image": self.images,
            "results": None if self.results is None else _results_json(self.results),
        }


def compare_jobs(
    first: str,
    second: str,
    app: App,
    *,
    with_lines: bool = False,
    with_results: bool = True,
    on_progress: Callable[[int], None] | None = None,
) -> JobDifference:
    """Compare two jobs.

    Args:
        first: a job, as `find_job` takes it.
        second: another one.
        app: the run.
        with_lines: whether to compare the lines of changed files.
        with_results: whether to compare the outputs.
        on_progress: called with the number of tasks whose outputs were compared so far.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        StoreError: if the registry cannot be read.
        RecordError: if a manifest is invalid.
    """
    one, other = (read_provenance(name, app, with_hosts=False) for name in (first, second))
    results = None
    if with_results:
        ours, theirs = (JobOutputs(job.job_id, family_of(app.store, job.job_id, job.manifest)) for job in (one, other))
        results = compare_results(app.store, ours, theirs, on_progress)
    return difference_of(one, other, results, with_lines=with_lines)


def difference_of(
    first: Provenance, second: Provenance, results: ComparedResults | None = None, *, with_lines: bool = False
) -> JobDifference:
    """Compare two jobs by their provenance. `with_lines`: also the lines of changed files, from their archives."""
    ours, theirs, study = first.manifest, second.manifest, None
    if ours is not None and theirs is not None:
        study = compare_studies(ours.study, theirs.study, [_spec(ours), _spec(theirs)])
    images = (first.image, second.image)
    return JobDifference(
        first,
        second,
        _compare_code((first, second), with_lines=with_lines),
        study,
        compare_environments(first.environments, second.environments),
        None if images[0] == images[1] else images,
        results,
    )


def _spec(manifest: Manifest) -> Mapping[str, Any]:
    return (manifest.calibration or {}).get("spec") or {}


def _compare_code(jobs: tuple[Provenance, Provenance], *, with_lines: bool) -> CodeDifference | None:
    if jobs[0].files is None or jobs[1].files is None:
        return None
    ours, theirs = ({file.name: file for file in job.files or ()} for job in jobs)
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    opened = [job.files_read for job in jobs if job.files_read is not None]
    read = [printable(name) for name in names if any(name in some for some in opened)]
    return CodeDifference(
        [printable(name) for name in names if name not in ours],
        [printable(name) for name in names if name not in theirs],
        [printable(name) for name in names if name in ours and name in theirs],
        read if len(opened) == len(jobs) else None,
        _compare_lines(jobs, names) if with_lines else {},
    )


def set_text(one: Mapping[str, Any]) -> str:
    """Return a parameter set of `StudyDifference` in one line."""
    params = ", ".join(f"{name}={value_text(value)}" for name, value in one["params"].items())
    return shorten(params if one["seed"] is None else f"{params}, seed {one['seed']}", 2 * MAX_VALUE)


def value_text(value: object) -> str:
    """Return a value in one line: a text as it is, all others as JSON."""
    return shorten(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), MAX_VALUE)


def _compare_lines(jobs: Sequence[Provenance], names: Sequence[str]) -> dict[str, list[str] | None]:
    """Return the unified diff of each file, until there are `MAX_DIFF_LINES`; None for a side without lines."""
    sides = [(job, read_files(job.archive or b"", set(names), MAX_FILE_BYTES)) for job in jobs]
    diffs: dict[str, list[str] | None] = {}
    left = MAX_DIFF_LINES
    for name in names:
        shown, lines = printable(name), None
        first, second = (_text_lines(job, contents, name) for job, contents in sides)
        if left > 0 and first is not None and second is not None:
            lines = list(difflib.unified_diff(first, second, f"a/{shown}", f"b/{shown}", lineterm=""))[:left]
        diffs[shown] = lines
        left -= len(lines or ())
    return diffs


def _text_lines(job: Provenance, contents: Mapping[str, bytes], name: str) -> list[str] | None:
    """Return the lines of a file, none if the job lacks it; None if it is too large or not a text."""
    if name not in contents:
        return None if any(file.name == name and file.target is None for file in job.files or ()) else []
    try:
        lines = contents[name].decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return None
    return None if len(lines) > MAX_FILE_LINES or any("\0" in line for line in lines) else lines


def compare_studies(first: Study, second: Study, specs: Sequence[Mapping[str, Any]] = ({}, {})) -> StudyDifference:
    """Compare studies, and the calibrations that have asked for their sets; empty specifications for other jobs.

    Parameter sets are equal if their parameters and their named seeds are.
    """
    studies = (first, second)
    documents = [{name: json_of(getattr(study, name)) for name in FIELDS} for study in studies]
    for document, spec in zip(documents, specs, strict=True):
        document.update({name: value for name, value in spec.items() if name not in FIELDS or name == "n_replicates"})
    texts = {
        name: [json.dumps(document.get(name), sort_keys=True) for document in documents]
        for name in dict.fromkeys(itertools.chain(*documents))
    }
    fields = {name: tuple(map(json.loads, pair)) for name, pair in texts.items() if pair[0] != pair[1]}
    ours, theirs = (Counter(map(_identity, study.parameter_sets)) for study in studies)
    only = (ours - theirs, theirs - ours)
    counts = (only[0].total(), only[1].total(), (ours & theirs).total())
    return StudyDifference(fields, *counts, *map(_named_sets, studies, only))


def _identity(one: ParameterSet) -> tuple[str, int | None]:
    return one.param_id, one.seed


def _named_sets(study: Study, wanted: Container[tuple[str, int | None]]) -> list[Mapping[str, Any]]:
    """Return the parameters of the first few of the wanted sets, with their named seeds."""
    first_of: dict[tuple[str, int | None], ParameterSet] = {}
    for one in study.parameter_sets:
        if len(first_of) < MAX_NAMED and _identity(one) in wanted:
            first_of.setdefault(_identity(one), one)
    return [{"params": dict(one.params), "seed": one.seed} for one in first_of.values()]


def compare_environments(first: Sequence[Environment], second: Sequence[Environment]) -> EnvironmentDifference | None:
    """Compare the environments of two jobs; None if those of one were not noted."""
    sides = (first, second)
    if not (first and second):
        return None
    packages = sorted({name for side in sides for one in side for name in one.packages})
    return EnvironmentDifference(
        _differing(Environment._fields[:-1], [[one.to_json() for one in side] for side in sides]),
        _differing(packages, [[one.packages for one in side] for side in sides]),
    )


def _differing(names: Iterable[str], sides: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Values]:
    """Return the names whose values differ between the sides, each with the values of both."""
    found = {}
    for name in names:
        values = [sorted({str(one[name]) for one in side if one.get(name) is not None}) for side in sides]
        if values[0] != values[1]:
            found[name] = tuple(", ".join(some) or None for some in values)
    return found


def _results_json(results: ComparedResults) -> dict[str, object]:
    return {
        **results.counts,
        "repeated": list(results.repeated),
        "tasks": {kind: [_task_json(task) for task in tasks] for kind, tasks in results.named.items()},
    }


def _task_json(task: ComparedTask) -> dict[str, object]:
    param_id, _, seed = task.name.rpartition("/")
    return {"param_id": param_id, "seed": parse_whole_number(seed, 0, 2**64 - 1), "outputs": list(task.outputs)}


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


KINDS = ("equal", "different", "unreadable", "only_first", "only_second")
"""Kinds of tasks: both jobs have outputs, or only one has. `unreadable` ones have an output that the store does not
send, and do not differ otherwise."""


class ComparedResults:
    """The counts of a comparison, with the first few tasks of each kind."""

    def __init__(self, repeated: tuple[int, int]) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self.repeated = repeated
        """Tasks of each job that repeat an earlier one. They share its outputs, which are compared once."""
        self.named: dict[str, list[ComparedTask]] = {kind: [] for kind in KINDS[1:]}

    def add(self, kind: str, task: ComparedTask) -> None:
        """Count a task."""
        self.counts[kind] += 1
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
    result, large = ComparedResults((count_tasks(first.family)[1], count_tasks(second.family)[1])), threading.Lock()
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
    sides = (zip(repeat(side), tasks) for side, tasks in enumerate((first, second)))
    merged = heapq.merge(*sides, key=lambda one: one[1][0] + "/")
    for name, of_name in groupby(merged, key=lambda one: one[1][0]):
        found = {side: outputs for side, (_, outputs) in of_name}
        yield name, found.get(0, []), found.get(1, [])


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
    with contextlib.nullcontext() if (sizes[0] or 0) < LARGE_BYTES else large:
        return _value(store, first) == _value(store, second)


def _value(store: VersionedStore, output: Output) -> bytes | None:
    if output.entry.value is not None:
        return output.entry.value
    found = read_output(store, output.entry.key, output.entry)
    return None if found is None else found.value


SHOWN = 10
"""Names of each kind in the text. The JSON has more."""

SAME = "equal"

UNREAD = ", which no task read"
"""After the name of a file, if it is known."""

Line = str | list[str]


def _line(title: str, text: str) -> Line:
    return [title_text(title), text]


def difference_lines(found: JobDifference) -> list[Line]:
    """Return the difference of two jobs as text; results, if they were compared."""
    return list(_lines(found))


def _lines(found: JobDifference) -> Iterator[Line]:
    yield _line("Jobs", f"{found.first.job_id} -> {found.second.job_id}")
    yield from _code_lines(found)
    yield from _study_lines(found)
    yield from _environment_lines(found)
    if found.images is not None:
        yield _line("Image", _arrow(found.images))
    if found.results is not None:
        yield from _result_lines(found.results, found)


def _not_recorded(found: JobDifference, lacks: Callable[[Provenance], bool]) -> str:
    """Return which job lacks a part, so that it is not compared."""
    lacking = [job.job_id for job in (found.first, found.second) if lacks(job)]
    return f"not recorded of {lacking[0] if len(lacking) == 1 else 'either job'}"


def _code_lines(found: JobDifference) -> Iterator[Line]:
    code = found.code
    if code is None:
        yield _line("Code", _not_recorded(found, lambda job: job.files is None))
        return
    read = code.added + code.removed + code.changed if code.read is None else code.read
    commits = [
        job.git and job.git.commit[:SHORT_HASH] + (" with changes" if job.git.is_dirty else "") for job in found[:2]
    ]
    git = "" if commits[0] == commits[1] else f"; git {_arrow(commits)}"
    kinds = (("changed", code.changed, "~"), ("added", code.added, "+"), ("removed", code.removed, "-"))
    counts = ", ".join(f"{pluralize(len(names), 'file')} {kind}" for kind, names, _ in kinds if names)
    yield _line("Code", (counts or SAME) + git)
    for _, names, mark in kinds:
        yield from _some(f"  {mark} {name}{'' if name in read else UNREAD}" for name in names)
    for name, lines in code.diffs.items():
        if lines is None:
            yield f"  {name} is too large for a diff, or not a text"
        yield from lines or ()


def _study_lines(found: JobDifference) -> Iterator[Line]:
    study = found.study
    if study is None:
        yield _line("Study", _not_recorded(found, lambda job: job.manifest is None))
        return
    counts = [
        f"{pluralize(count, 'parameter set')} only in {job.job_id}"
        for count, job in zip((study.only_first, study.only_second), found[:2], strict=True)
        if count
    ]
    fields = [f"other {', '.join(study.fields)}"] if study.fields else []
    common = [f"{study.common:,} in both"] if counts else []
    yield _line("Study", ", ".join([*fields, *counts, *common]) or SAME)
    for name, pair in study.fields.items():
        yield f"  {name}: {_arrow(pair, 'none')}"
    for mark, sets in zip("-+", (study.first_sets, study.second_sets), strict=True):
        yield from _some(f"  {mark} {set_text(one)}" for one in sets)


def _environment_lines(found: JobDifference) -> Iterator[Line]:
    environment = found.environment
    if environment is None:
        yield _line("Packages", _not_recorded(found, lambda job: not job.environments))
        return
    if environment.fields:
        yield _line("Python", "; ".join(f"{name} {_arrow(pair)}" for name, pair in environment.fields.items()))
    packages = environment.packages
    yield _line("Packages", pluralize(len(packages), "difference") if packages else SAME)
    yield from _some(f"  {name}: {_arrow(pair, 'none')}" for name, pair in packages.items())


def _result_lines(results: ComparedResults, found: JobDifference) -> Iterator[Line]:
    told = {
        "unreadable": "not readable",
        "only_first": f"only in {found.first.job_id}",
        "only_second": f"only in {found.second.job_id}",
    }
    words = ", ".join(
        f"{pluralize(count, 'task')} {told.get(kind, kind)}" for kind, count in results.counts.items() if count
    )
    yield _line("Results", words or "none")
    for job, count in zip((found.first, found.second), results.repeated, strict=True):
        if count:
            yield f"  {pluralize(count, 'task')} of {job.job_id} {repeats_text(count)}: not counted"
    functions = {job.manifest and (job.manifest.study.reduce, job.manifest.bundle) for job in found[:2]}
    if len(functions) > 1 and any(function and function[0] for function in functions):
        yield "  outputs of the reduce function: not compared"
    for kind, mark in (("different", "~"), ("unreadable", "?"), ("only_first", "-"), ("only_second", "+")):
        yield from _some(
            f"  {mark} {task.name[:SHORT_HASH]}…/{task.name.rpartition('/')[2]}: {', '.join(task.outputs[:SHOWN])}"
            for task in results.named[kind]
        )


def _some(lines: Iterator[str]) -> Iterator[str]:
    """Yield the first few lines, and a mark if there are more."""
    for number, line in enumerate(lines):
        if number == SHOWN:
            yield "  …"
            return
        yield line


def _arrow(pair: Sequence[object], missing: str = "not recorded") -> str:
    return " -> ".join(missing if value is None else value_text(value) for value in pair)
