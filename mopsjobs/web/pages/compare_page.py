"""The page that compares two to five jobs: an aspect per row, a job per column.

What differs is the comparison of `diff`. A part of a job that is not known has a text that says so. It makes no
difference. Scalars are compared over the parameter sets that two jobs share.
"""

from __future__ import annotations

import json
import math
import shlex
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from string import ascii_uppercase
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.job_card import memory_text, metadata_of, noted_text
from mopsjobs.app.origins.compare_jobs import MAX_VALUE, SHORT_HASH, Comparison, compare, set_text
from mopsjobs.app.origins.provenance import printable, replicates_of
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.contrasts import Overall, Replicates, compare_sets
from mopsjobs.app.tasks.results_table import SUCCEEDED, quantile
from mopsjobs.bundles.extraction import BundleFile
from mopsjobs.cache.job_json import count_run, reused_text
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import error_of
from mopsjobs.engines.base import engine_of
from mopsjobs.errors import JobError, UsageError, command_line
from mopsjobs.ledger.environment import Environment
from mopsjobs.studies.precision import Precision
from mopsjobs.studies.study import FIELDS, Study, json_of
from mopsjobs.utils.intervals import mean
from mopsjobs.utils.text import cut_to_length, pluralize
from mopsjobs.utils.times import human_duration
from mopsjobs.web.drawings.plots import QUANTILES
from mopsjobs.web.pages.readings import NO_RESULTS, Reading, ask, find_results
from mopsjobs.web.pages.results_page import plot_results
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import MAX_COMPARED, Job, Status, job_path, moment, status
from mopsjobs.web.site.job_reads import PROVENANCE
from mopsjobs.web.site.kept import KeptProvenance, Results
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Renderer

SHOWN_FILES = 20

SHOWN_PACKAGES = 40

SHOWN_SETS = 3
"""Parameter sets of a job that others lack."""

MAX_TEXT = 300

SAME_COST = 1.1
"""How many times as much as another an amount may be that does not differ: no two runs take the same time."""

NONE = "none"

NOT_RECORDED = "not recorded"

RESULTS_KEY = "results"

FIELD_TITLES = {
    "python": "Python",
    "implementation": "Implementation",
    "platform": "Platform",
    "libc": "C library",
    "mops_jobs": "mops-jobs",
}


class Missing(str):
    """A text in place of a value that is not known."""

    __slots__ = ()


class Cell(NamedTuple):
    """The value of a job in a row."""

    text: str
    notes: Sequence[str] = ()
    status: Status | None = None
    to: str | None = None
    is_weak: bool = False
    """Whether the text says that there is nothing."""


class Row(NamedTuple):
    """An aspect."""

    name: str
    cells: list[Cell]
    differs: bool
    is_name: bool = False
    """Whether the name comes from a record."""

    @property
    def is_shown(self) -> bool:
        """Return whether it differs, or is not known of each job."""
        return self.differs or any(cell.is_weak for cell in self.cells)


class Section(NamedTuple):
    """Rows of one kind: those that differ, and those that are not known of each job."""

    key: str
    rows: list[Row]
    gap: str | None
    """What is said in place of rows, if there is nothing to compare."""

    @property
    def differing(self) -> int:
        """Return how many rows differ."""
        return sum(row.differs for row in self.rows)


class Scalar(NamedTuple):
    """A scalar over the tasks of a job that have it."""

    tasks: int
    mean: float
    low: float
    high: float
    """With `low`, the quantiles of `QUANTILES`."""
    not_finite: int = 0
    """Tasks whose value is NaN or infinite, which the statistics leave out."""


class JobContrast(NamedTuple):
    """The differences of two jobs over the parameter sets that both have, as `results --contrast` has them."""

    overall: Mapping[str, Overall | None]
    notes: Sequence[str]


class Side(NamedTuple):
    """A job, and what is known of it."""

    job: Job
    provenance: KeptProvenance | None = None
    results: Results | None = None
    scalars: Mapping[str, Scalar] | None = None
    contrast: JobContrast | None = None
    """That with the first job; None if it is not known."""
    missing: str = NOT_RECORDED
    """In place of what a provenance would tell."""
    scalars_missing: str = NOT_RECORDED

    @property
    def study(self) -> Study | None:
        """Return the study; None if it is not known."""
        return None if self.provenance is None else self.provenance.study

    @property
    def environments(self) -> Sequence[Environment]:
        """Return the environments of its runners; none if they are not known."""
        return [] if self.provenance is None else self.provenance.provenance.environments

    def known(self, value: object, *, is_noted: bool = True) -> object:
        """Return a value that comes from the provenance, or what stands in place of it."""
        return Missing(self.missing) if self.provenance is None else value if is_noted else Missing(NOT_RECORDED)


def make_row(
    name: str,
    values: Sequence[object],
    text: Callable[[Any], str] = str,
    *,
    none: str = NONE,
    identity: Callable[[Any], object] = lambda value: json.dumps(value, sort_keys=True, default=repr),
    is_name: bool = False,
) -> Row | None:
    """Return a row of values; None if no job has one.

    Args:
        name: the aspect.
        values: the value of each job: None if it has none.
        text: returns the text of a value.
        none: the text for None.
        identity: returns what is equal for equal values. By default, these are equal as JSON.
        is_name: whether the name comes from a record.
    """
    known = [value for value in values if not isinstance(value, Missing)]
    if all(value is None for value in known):
        return None
    cells = [
        Cell(none if value is None else str(value), is_weak=True)
        if value is None or isinstance(value, Missing)
        else Cell(cut_to_length(text(value), MAX_TEXT))
        for value in values
    ]
    return Row(name, cells, len(set(map(identity, known))) > 1, is_name)


def sections(sides: Sequence[Side], names: Sequence[str]) -> list[Section]:
    """Return the rows that are shown.

    Args:
        sides: the jobs, two or more. Scalars are compared with those of the first one.
        names: the scalars.
    """
    compared = compare([None if side.provenance is None else side.provenance.provenance for side in sides])
    found: dict[str, Iterable[Row | None]] = {
        "outcome": _outcome(sides),
        "study": _study(sides),
        "parameters": _parameters(sides, compared),
        "code": _code(sides, compared),
        "environment": _environment(sides, compared),
        "cost": _cost(sides),
        RESULTS_KEY: _results(sides, names),
    }
    made = []
    for key, parts in found.items():
        rows = [row for row in parts if row is not None]
        made.append(Section(key, [row for row in rows if row.is_shown], None if rows else _gap(key, sides)))
    return made


def _gap(key: str, sides: Sequence[Side]) -> str:
    if key == RESULTS_KEY and all(side.scalars is not None for side in sides):
        return "no output has a number"
    return ", ".join(dict.fromkeys(side.scalars_missing if key == RESULTS_KEY else side.missing for side in sides))


OUTCOME: dict[str, Callable[[Job], object]] = {
    "Error": lambda job: error_of(job["error_code"], job["error_message"]),
    "Tasks done": lambda job: (
        f"{job['tasks_completed']:,}" + (f" of {total:,}" if (total := job["tasks_total"]) else "")
    ),
    "Tasks failed": lambda job: f"{job['tasks_failed'] or 0:,}",
    "Tasks reused": reused_text,
    "Owner": lambda job: job["owner"],
}


def _outcome(sides: Sequence[Side]) -> Iterator[Row | None]:
    jobs = [side.job for side in sides]
    names = [status(job["status"]) for job in jobs]
    yield Row("Status", [Cell(name.name, status=name) for name in names], len(set(names)) > 1)
    for title, value in OUTCOME.items():
        yield make_row(title, [value(job) for job in jobs])
    for label in sorted({name for job in jobs for name in job["labels"]}):
        yield make_row(f"Label {label}", [job["labels"].get(label) for job in jobs], is_name=True)
    yield make_row("Note", [noted_text(job) for job in jobs])
    parents = [job["parent_job_id"] for job in jobs]
    row = make_row("Resumed from", parents)
    if row is not None:
        cells = [cell._replace(to=one and job_path(one)) for cell, one in zip(row.cells, parents, strict=True)]
        yield row._replace(cells=cells)


def _study(sides: Sequence[Side]) -> Iterator[Row | None]:
    yield make_row("Title", [metadata_of(side.job).get("title") for side in sides])
    for name, field in FIELDS.items():
        if field.title is not None:
            yield make_row(field.title, [_study_value(side, name) for side in sides], _text)
    known = [side.study.metadata for side in sides if side.study is not None]
    for key in dict.fromkeys(key for metadata in known for key in metadata if key != "title"):
        values = [Missing(side.missing) if side.study is None else side.study.metadata.get(key) for side in sides]
        yield make_row(str(key), values, _text, is_name=True)


def _study_value(side: Side, name: str) -> object:
    """Return a field of a study; from the record, if the manifest is not known."""
    has_replicates = name == "n_replicates"
    if side.provenance is not None and (manifest := side.provenance.provenance.manifest) is not None:
        value = replicates_of(manifest) if has_replicates else getattr(manifest.study, name)
        return str(value) if isinstance(value, Precision) else json_of(value)
    if has_replicates and (side.job["precision"] or side.job["calibration"]):
        return Missing(side.missing)  # the record has one number, where a precision may decide
    recorded = metadata_of(side.job).get(name)
    return Missing(side.missing) if recorded is None else recorded


def _text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ", ".join(value) or NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parameters(sides: Sequence[Side], compared: Comparison) -> Iterator[Row | None]:
    if all(side.study is None for side in sides):
        return
    study = compared.study
    others = iter([] if study is None else zip(study.others, study.other_sets, strict=True))
    cells = []
    for side in sides:
        if side.study is None:
            cells.append(Cell(side.missing, is_weak=True))
            continue
        count, sets = next(others, (0, []))
        notes = [] if study is None or study.common else ["no set is in all jobs"]
        if count and not notes:
            notes = [f"{count:,} not in all jobs:", *map(set_text, sets[:SHOWN_SETS]), *["…"] * (count > SHOWN_SETS)]
        cells.append(Cell(f"{len(side.study.parameter_sets):,}", notes))
    yield Row("Parameter sets", cells, study is not None and any(study.others))
    parameters = [side.provenance.parameters if side.provenance and side.study else None for side in sides]
    for name in dict.fromkeys(name for some in parameters if some is not None for name in some):
        pairs = zip(sides, parameters, strict=True)
        values = [Missing(side.missing) if some is None else some.get(name) for side, some in pairs]
        yield make_row(
            name,
            values,
            lambda summary: str(summary.text),
            none="not set",
            identity=lambda summary: summary and summary.values,
            is_name=True,
        )


def _code(sides: Sequence[Side], compared: Comparison) -> Iterator[Row | None]:
    bundles = [metadata_of(side.job).get("bundle") for side in sides]
    texts = [bundle if isinstance(bundle, str) else Missing(NOT_RECORDED) for bundle in bundles]
    yield make_row("Bundle", texts, lambda text: text.removeprefix("sha256:")[:SHORT_HASH])
    pairs = zip(sides, compared.commits, strict=True)
    yield make_row("Git commit", [side.known(commit, is_noted=commit is not None) for side, commit in pairs])
    known = [None if side.provenance is None else side.provenance.provenance for side in sides]
    opened = [None if job is None else job.files_read for job in known]
    yield make_row(
        "Files that tasks read", [None if some is None else len(some) for some in opened], str, none=NOT_RECORDED
    )
    if compared.files is None:
        return
    files = [None if job is None else job.files for job in known]
    for name, versions in islice(compared.files.items(), SHOWN_FILES):
        cells = [
            Cell(str(side.known(None, is_noted=False)), is_weak=True)
            if of_job is None
            else _file_cell(version, is_unread=some is not None and name not in some)
            for side, of_job, some, version in zip(sides, files, opened, versions, strict=True)
        ]
        yield Row(printable(name), cells, differs=True, is_name=True)
    yield _more(sides, "file", len(compared.files) - SHOWN_FILES)


def _more(sides: Sequence[Side], noun: str, count: int) -> Row | None:
    """Return a row for those that differ and are not shown."""
    return Row(pluralize(count, f"more {noun}"), [Cell("") for _ in sides], differs=True) if count > 0 else None


def _file_cell(file: BundleFile | None, *, is_unread: bool) -> Cell:
    if file is None:
        return Cell(NONE, is_weak=True)
    if file.target is not None:
        return Cell(f"link to {cut_to_length(printable(file.target), MAX_VALUE)}")
    executable = ", executable" if file.is_executable else ""
    notes = [f"{pluralize(file.size, 'byte')}{executable}", *["no task read it"] * is_unread]
    return Cell(f"{(file.sha256 or '')[:SHORT_HASH]}", notes)


def _environment(sides: Sequence[Side], compared: Comparison) -> Iterator[Row | None]:
    yield make_row("Engine", [engine_of(side.job) for side in sides])
    yield make_row("Image", [side.known(image) for side, image in zip(sides, compared.images, strict=True)])

    def noted(values: Sequence[object]) -> list[object]:
        pairs = zip(sides, values, strict=True)
        return [side.known(value, is_noted=bool(side.environments)) for side, value in pairs]

    found = compared.environment
    for name, title in FIELD_TITLES.items():
        same = [getattr(side.environments[0], name) if side.environments else None for side in sides]
        yield make_row(title, noted(found.fields.get(name, same) if found else same))
    if found is None:
        return
    for name, versions in islice(found.packages.items(), SHOWN_PACKAGES):
        yield make_row(name, noted(versions), is_name=True)
    yield _more(sides, "package", len(found.packages) - SHOWN_PACKAGES)


def _cost(sides: Sequence[Side]) -> Iterator[Row | None]:
    jobs = [side.job for side in sides]
    yield _amounts("Run time", [job["run_seconds"] for job in jobs], _seconds_text)
    yield _amounts("CPU time", [job["cpu_seconds"] for job in jobs], _seconds_text)
    yield _amounts("CPU time per task", [_cpu_per_task(job) for job in jobs], _seconds_text)
    efficiencies = [job["cpu_efficiency"] for job in jobs]
    row = _amounts("CPU efficiency", efficiencies, lambda share: f"{100 * share:.0f} %")
    yield row and row._replace(cells=[cell._replace(notes=()) for cell in row.cells])
    yield _amounts("Peak memory", [job["max_rss_bytes"] for job in jobs], lambda size: str(memory_text(size)))


def _cpu_per_task(job: Job) -> float | None:
    ended = count_run(job)
    return job["cpu_seconds"] / ended if ended and job["cpu_seconds"] is not None else None


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else human_duration(seconds)


def _amounts(name: str, values: Sequence[float | None], text: Callable[[float], str]) -> Row | None:
    """Return a row of numbers, each also in relation to that of the first job."""
    row = make_row(name, [Missing(NOT_RECORDED) if value is None else value for value in values], text)
    if row is None:
        return None
    first = values[0]
    cells = [
        cell._replace(notes=[f"{100 * (value / first - 1):+,.0f} %"])
        if first and value is not None and cell.text != row.cells[0].text
        else cell
        for cell, value in zip(row.cells, values, strict=True)
    ]
    known = sorted(value for value in values if value is not None)
    return row._replace(cells=cells, differs=known[-1] > SAME_COST * known[0])


def _results(sides: Sequence[Side], names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        first = (sides[0].scalars or {}).get(name)
        cells, means, differs = [], set(), False
        for place, side in enumerate(sides):
            scalar = None if side.scalars is None else side.scalars.get(name)
            if side.scalars is not None:
                means.add(scalar and scalar.mean)
            if scalar is None:
                cells.append(Cell(side.scalars_missing if side.scalars is None else NONE, is_weak=True))
                continue
            left_out = f", {scalar.not_finite:,} more NaN or infinite" if scalar.not_finite else ""
            notes = [f"{scalar.low:.4g} to {scalar.high:.4g}, {pluralize(scalar.tasks, 'task')}{left_out}"]
            if first and place:
                overall = None if side.contrast is None else side.contrast.overall.get(name)
                differs = differs or (overall is not None and overall.difference.difference != 0)
                notes.append(difference_text(overall))
            cells.append(Cell(f"{scalar.mean:.6g}", notes))
        yield Row(name, cells, differs or len(means) > 1, is_name=True)


def difference_text(overall: Overall | None) -> str:
    """Return the difference of a scalar over all pairs of sets, and what pairing has bought."""
    if overall is None:
        return "no shared parameter set"
    shared, found = pluralize(overall.sets, "shared set"), overall.difference
    if not found.difference and not found.error:
        return f"no difference in {shared}"
    width = "" if found.half_width is None else f" ± {found.half_width:.2g}"
    bought = f", {found.variance_ratio:.3g} times less variance by pairs" if (found.variance_ratio or 1) != 1 else ""
    return f"{found.difference:+.4g}{width} in {shared}{bought}"


def summarize_scalars(results: Results, names: Sequence[str]) -> dict[str, Scalar]:
    """Return the statistics of these scalars, without those that no task has."""
    found = {}
    for name in names:
        not_finite = sum(map(math.isinf, results.scalars.get(name, ())))  # see `Series.values`
        if ordered := sorted(filter(math.isfinite, results.scalars.get(name, ()))):
            low, high = (quantile(ordered, share) for share in QUANTILES)
            found[name] = Scalar(len(ordered), mean(ordered), low, high, not_finite)
    return found


def contrast_results(first: Results, second: Results, names: Sequence[str]) -> JobContrast:
    """Compare these scalars of two jobs."""
    compared = compare_sets(_replicates(first, names), _replicates(second, names), len(names))
    return JobContrast(dict(zip(names, compared.overall, strict=True)), compared.notes(names))


def _replicates(results: Results, names: Sequence[str]) -> dict[str, Replicates]:
    of_set: list[dict[int, Sequence[float | None] | str]] = [{} for _ in results.set_ids]
    for number, seed, end, values in results.simulations(names):
        of_set[number][seed] = values if end == SUCCEEDED else end
    return dict(zip(results.set_ids, of_set, strict=True))


LETTERS = ascii_uppercase[:MAX_COMPARED]

MIN_JOBS = 2

MAX_SCALARS = 30
"""Scalars that are compared, the first ones of the first job and then those of the others."""

MAX_SHOWN_IDS = 20
"""Ids of a query of too many that the form has."""

PARAMETERS = {
    "job": Parameter(()),
    "y": Parameter(),
    "x": Parameter(),
}

Readings = list[tuple[str, Reading]]
"""What is missing of a job, and why."""


class ComparePage:
    """The handler of `/compare`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site
        self._scalars: Memo[Mapping[str, Scalar]] = Memo(self._site.app.monotonic, 4 * MAX_COMPARED)
        self._contrasts: Memo[JobContrast] = Memo(self._site.app.monotonic, 4 * MAX_COMPARED)

    def answer(self) -> Response | tuple[str, int]:
        """Return the page; the form with what is wrong, if the query does not name such jobs."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            return self._view(connection, query)

        try:
            if not MIN_JOBS <= len(query["job"]) <= MAX_COMPARED:
                hint = "Give each its own 'job' in the address, name them here, or choose them on the page of jobs."
                expected = f"expected {MIN_JOBS} to {MAX_COMPARED}"
                raise UsageError(f"invalid number of jobs '{len(query['job'])}': {expected}.", hint=hint)
            return self._renderer.page("compare.html", view)
        except (JobError, UsageError) as error:
            page = self._renderer.render(
                "compare.html",
                header=self._site.header(),
                problem=str(error),
                hint=error.hint,
                form=_form(query["job"]),
            )
            return page, 400 if isinstance(error, UsageError) else 404

    def _view(self, connection: sqlite3.Connection, query: Mapping[str, Any]) -> dict[str, Any]:
        now = self._site.app.now().timestamp()
        jobs = [job_queries.find_job(connection, name, now=now) for name in query["job"]]
        ids = [str(job["job_id"]) for job in jobs]
        for place, job_id in enumerate(ids):
            if job_id in ids[:place]:
                expected = f"expected another job than {job_id}, which comes before"
                raise UsageError(f"invalid job '{query['job'][place]}': {expected}.")
        known = [self._side(connection, job, next(one for one in ids if one != job["job_id"]), now) for job in jobs]
        results = [side.results for side, _ in known]
        names = list(dict.fromkeys(name for one in results if one is not None for name in one.scalars))
        sides = [self._with_scalars(side, names[:MAX_SCALARS], known[0][0]) for side, _ in known]
        found = sections(sides, names[:MAX_SCALARS])
        first_that_differs = (row.name for one in found if one.key == RESULTS_KEY for row in one.rows if row.differs)

        def to_plot(name: str) -> str:
            more = [("y", name), *([("x", query["x"])] if query["x"] else [])]
            return f"/compare?{urlencode([*(('job', one) for one in ids), *more])}#plot"

        columns = [
            {"letter": letter, "id": job_id, "path": job_path(job_id), "created": moment(job["created_at"], now)}
            for job, job_id, letter in zip(jobs, ids, LETTERS, strict=False)
        ]
        return {
            "columns": columns,
            "sections": found,
            "readings": _sentences([readings for _, readings in known], sides),
            "waiting": next((one for _, readings in known for _, one in readings if one.is_waiting), None),
            "plot_gaps": ["no value" if side.results else side.scalars_missing for side in sides],
            "more_scalars": max(0, len(names) - MAX_SCALARS),
            "scalar_links": {name: to_plot(name) for name in names},
            "commands": [command_line("diff", ids[0], f"{shlex.quote(other)} --code") for other in ids[1:]],
            "form": _form(ids),
            **plot_results(results, {**query, "y": query["y"] or next(first_that_differs, None)}),
        }

    def _side(self, connection: sqlite3.Connection, job: Job, other: str, now: float) -> tuple[Side, Readings]:
        """Return what is kept of a job, ask for the rest, and return what to say of that."""
        provenance, reading = self._site.provenances.get(str(job["job_id"])), None
        if provenance is None or not provenance.is_current(job):
            reading = ask(self._site, PROVENANCE, job, "diff", shlex.quote(other))
        results, results_reading = find_results(self._site, connection, job, now)
        # What is kept is shown while newer data is read.
        readings = [
            (name, one)
            for name, one, kept in (
                ("Code, study and packages", reading, provenance),
                ("Results", results_reading, results),
            )
            if one is not None and not (kept is not None and one.is_waiting)
        ]
        gaps = (_gap_text(reading), _gap_text(results_reading))
        return Side(job, provenance, results, None, None, *gaps), readings

    def _with_scalars(self, side: Side, names: Sequence[str], first: Side) -> Side:
        results, others = side.results, first.results
        if results is None:
            return side
        key = (side.job["job_id"], *names)
        side = side._replace(scalars=self._scalars.get(key, results.made_at, lambda: summarize_scalars(results, names)))
        if others is None or results is others:
            return side
        key, made_at = (first.job["job_id"], *key), (others.made_at, results.made_at)
        compared = self._contrasts.get(key, made_at, lambda: contrast_results(others, results, names))
        return side._replace(contrast=compared)


def _gap_text(reading: Reading | None) -> str:
    """Return what stands in the cells for what is not known."""
    if reading is None or reading is NO_RESULTS:
        return NOT_RECORDED
    return "being read" if reading.is_waiting else "not read"


def _sentences(of_jobs: Sequence[Readings], sides: Sequence[Side]) -> list[str]:
    """Return what is missing, one sentence for the jobs that lack the same for the same reason."""
    letters: dict[tuple[str, str], list[str]] = {}
    for letter, readings, side in zip(LETTERS, of_jobs, sides, strict=False):
        for name, reading in readings:
            letters.setdefault((name, reading.text), []).append(letter)
        for note in () if side.contrast is None else side.contrast.notes:
            letters.setdefault(("Differences from A", note), []).append(letter)
    return [f"{name} of {', '.join(some)}: {text}" for (name, text), some in letters.items()]


def _form(ids: Sequence[str]) -> list[str]:
    """Return the values of the form: the jobs, and room for one more."""
    room = max(len(ids) < MAX_COMPARED, MIN_JOBS - len(ids))
    return [*ids[:MAX_SHOWN_IDS], *[""] * room]
