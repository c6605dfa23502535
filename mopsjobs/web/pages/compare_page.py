"""The page that compares two to five jobs: ends, costs and results side by side, and what `diff` prints of each pair.

A part of a job that is not known has a text that says so. It makes no difference. Scalars are compared over the
parameter sets that two jobs share.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from flask import Response, request

from mopsjobs.app.jobs.job_card import memory_text, noted_text
from mopsjobs.app.origins.compare_jobs import difference_lines, difference_of
from mopsjobs.app.origins.provenance import Provenance
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.contrasts import Overall, Replicates, compare_sets
from mopsjobs.app.tasks.results_table import SUCCEEDED, quantile
from mopsjobs.cache.job_json import count_run, reused_text
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.rows import error_of
from mopsjobs.engines.base import engine_of
from mopsjobs.errors import JobError, UsageError, command_line, job_word
from mopsjobs.utils.intervals import mean
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import human_duration
from mopsjobs.web.drawings import plots
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.pages.readings import NO_RESULTS, Reading, ask, find_results
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import MAX_COMPARED, Job, job_path, moment
from mopsjobs.web.site.job_reads import PROVENANCE
from mopsjobs.web.site.kept import Results
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Page, Renderer

MAX_TEXT = 300

SAME_COST = 1.1
"""How many times as much as another an amount may be that does not differ: no two runs take the same time."""

NONE = "none"

NOT_RECORDED = "not recorded"

MAX_PARAMETERS = 100
"""Parameters to plot over, the first ones of the first job."""

PARAMETERS = {"job": Parameter(()), "y": Parameter(), "x": Parameter()}

LETTERS = ascii_uppercase[:MAX_COMPARED]

MIN_JOBS = 2

MAX_SCALARS = 30
"""Scalars that are compared, the first ones of the first job and then those of the others."""

MAX_SHOWN_IDS = 20
"""Ids of a query of too many that the form has."""

Readings = list[tuple[str, Reading]]
"""What is missing of a job, and why."""


class Missing(str):
    """A text in place of a value that is not known."""

    __slots__ = ()


class Cell(NamedTuple):
    """The value of a job in a row."""

    text: str
    notes: Sequence[str] = ()
    is_weak: bool = False
    """Whether the text says that there is nothing."""


class Row(NamedTuple):
    """An aspect that differs, or is not known of each job."""

    name: str
    cells: list[Cell]
    differs: bool


class Section(NamedTuple):
    """Rows of one kind, or what is said in place of them."""

    name: str
    rows: list[Row]
    instead: str

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
    provenance: Provenance | None = None
    results: Results | None = None
    scalars: Mapping[str, Scalar] | None = None
    contrast: JobContrast | None = None
    """That with the first job; None if it is not known."""
    missing: str = NOT_RECORDED
    """In place of what its results would tell."""


def make_rows(name: str, values: Sequence[object], text: Callable[[Any], str] = str) -> Iterator[Row]:
    """Yield the row of values, None for a job that has none, if they differ, or if some are not known."""
    known = {value for value in values if not isinstance(value, Missing)}
    if len(known) > 1 or (known - {None} and len(known) < len(set(values))):
        cells = [
            Cell(NONE if value is None else str(value), is_weak=True)
            if value is None or isinstance(value, Missing)
            else Cell(cut_to_length(text(value), MAX_TEXT))
            for value in values
        ]
        yield Row(name, cells, len(known) > 1)


def sections(sides: Sequence[Side], names: Sequence[str]) -> list[Section]:
    """Return the rows that are shown.

    Args:
        sides: the jobs, two or more. Scalars are compared with those of the first one.
        names: the scalars.
    """
    missing = [
        f"{letter}: {side.missing if side.scalars is None else 'no number'}"
        for letter, side in zip(LETTERS, sides, strict=False)
        if not side.scalars
    ]
    equal = ["Equal"] * (len(sides) - len(missing) >= MIN_JOBS)
    return [
        Section("Outcome", [*_outcome(sides)], "Equal"),
        Section("Cost", [*_cost(sides)], "Equal, or not recorded"),
        Section("Results", [*_results(sides, names)], "; ".join([*equal, *missing])),
    ]


OUTCOME: dict[str, Callable[[Job], object]] = {
    "Status": lambda job: job["status"],
    "Error": lambda job: error_of(job["error_code"], job["error_message"]),
    "Tasks done": lambda job: (
        f"{job['tasks_completed']:,}" + (f" of {total:,}" if (total := job["tasks_total"]) else "")
    ),
    "Tasks failed": lambda job: f"{job['tasks_failed'] or 0:,}",
    "Tasks reused": reused_text,
    "Owner": lambda job: job["owner"],
    "Engine": engine_of,
    "Note": noted_text,
    "Resumed from": lambda job: job["parent_job_id"],
}


def _outcome(sides: Sequence[Side]) -> Iterator[Row]:
    for title, value in OUTCOME.items():
        yield from make_rows(title, [value(side.job) for side in sides])
    for label in sorted({name for side in sides for name in side.job["labels"]}):
        yield from make_rows(f"Label {label}", [side.job["labels"].get(label) for side in sides])


def _cpu_per_task(job: Job) -> float | None:
    ended = count_run(job)
    return job["cpu_seconds"] / ended if ended and job["cpu_seconds"] is not None else None


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else human_duration(seconds)


COST: dict[str, tuple[Callable[[Job], float | None], Callable[[float], str]]] = {
    "Run time": (lambda job: job["run_seconds"], _seconds_text),
    "CPU time": (lambda job: job["cpu_seconds"], _seconds_text),
    "CPU time per task": (_cpu_per_task, _seconds_text),
    "CPU efficiency": (lambda job: job["cpu_efficiency"], lambda share: f"{100 * share:.0f} %"),
    "Peak memory": (lambda job: job["max_rss_bytes"], lambda size: str(memory_text(size))),
}


def _cost(sides: Sequence[Side]) -> Iterator[Row]:
    """Yield the amounts that differ, each also in relation to that of the first job."""
    for name, (amount, text) in COST.items():
        values = [amount(side.job) for side in sides]
        known, first = sorted(value for value in values if value is not None), values[0]
        for row in make_rows(name, [Missing(NOT_RECORDED) if value is None else value for value in values], text):
            cells = [
                cell._replace(notes=[f"{100 * (value / first - 1):+,.0f} %"])
                if first and value is not None and cell.text != row.cells[0].text
                else cell
                for cell, value in zip(row.cells, values, strict=True)
            ]
            differs = known[-1] > SAME_COST * known[0]
            if differs or len(known) < len(values):
                yield row._replace(cells=cells, differs=differs)


def _results(sides: Sequence[Side], names: Sequence[str]) -> Iterator[Row]:
    for name in names:
        first = (sides[0].scalars or {}).get(name)
        cells, means, differs = [], set(), False
        for place, side in enumerate(sides):
            scalar = None if side.scalars is None else side.scalars.get(name)
            if side.scalars is not None:
                means.add(scalar and scalar.mean)
            if scalar is None:
                cells.append(Cell(side.missing if side.scalars is None else NONE, is_weak=True))
                continue
            left_out = f", {scalar.not_finite:,} more NaN or infinite" if scalar.not_finite else ""
            notes = [f"{scalar.low:.4g} to {scalar.high:.4g}, {pluralize(scalar.tasks, 'task')}{left_out}"]
            if first and place:
                overall = None if side.contrast is None else side.contrast.overall.get(name)
                differs = differs or (overall is not None and overall.difference.difference != 0)
                notes.append(difference_text(overall))
            cells.append(Cell(f"{scalar.mean:.6g}", notes))
        differs = differs or len(means) > 1
        if differs or any(cell.is_weak for cell in cells):
            yield Row(name, cells, differs)


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
            low, high = (quantile(ordered, share) for share in plots.QUANTILES)
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


class ComparePage(Page):
    """The handler of `/compare`."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer)
        self._numbers: Memo[list[tuple[Mapping[str, Scalar], JobContrast | None] | None]]
        self._numbers = Memo(self._site.app.monotonic, 8)
        self._plots: Memo[dict[str, Any]] = Memo(self._site.app.monotonic, 8)

    def answer(self) -> Response | tuple[str, int]:
        """Return the page; the form with what is wrong, if the query does not name such jobs."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))
        names = query["job"]

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            return self._view(connection, names, query)

        try:
            if not MIN_JOBS <= len(names) <= MAX_COMPARED:
                hint = "Give each its own 'job' in the address, name them here, or choose them on the page of jobs."
                expected = f"expected {MIN_JOBS} to {MAX_COMPARED}"
                raise UsageError(f"invalid number of jobs '{len(names)}': {expected}.", hint=hint)
            return self._renderer.page("compare.html", view)
        except (JobError, UsageError) as error:
            page = self._refuse("compare.html", error, form=_form(names))
            return page, 400 if isinstance(error, UsageError) else 404

    def _view(self, connection: sqlite3.Connection, names: Sequence[str], query: Mapping[str, Any]) -> dict[str, Any]:
        now = self._site.app.now().timestamp()
        jobs = [job_queries.find_job(connection, name, now=now) for name in names]
        ids = [str(job["job_id"]) for job in jobs]
        for place, job_id in enumerate(ids):
            if job_id in ids[:place]:
                expected = f"expected another job than {job_id}, which comes before"
                raise UsageError(f"invalid job '{names[place]}': {expected}.")
        known = [self._side(connection, job, next(one for one in ids if one != job["job_id"]), now) for job in jobs]
        of_jobs = [side.results for side, _ in known]
        scalars = list(dict.fromkeys(name for one in of_jobs if one is not None for name in one.scalars))
        shown = scalars[:MAX_SCALARS]
        state = tuple(one and one.made_at for one in of_jobs)
        # Older numbers may be shown for a moment, but none from before a job's results were there.
        key = (*ids, *shown, *(one is None for one in of_jobs))
        numbers = self._numbers.get(key, state, lambda: summarize(of_jobs, shown))
        sides = [
            side if one is None else side._replace(scalars=one[0], contrast=one[1])
            for (side, _), one in zip(known, numbers, strict=True)
        ]
        compared = sections(sides, shown)
        y = query["y"] or next((row.name for row in compared[-1].rows if row.differs), "")
        return {
            **self._plots.get((*key, query["x"], y), state, lambda: _plot(of_jobs, query["x"], y)),
            "columns": [
                {"letter": letter, "id": job_id, "path": job_path(job_id), "created": moment(job["created_at"], now)}
                for job, job_id, letter in zip(jobs, ids, LETTERS, strict=False)
            ],
            "sections": compared,
            "differences": _differences(sides),
            "readings": _sentences([readings for _, readings in known], sides),
            "waiting": next((one for _, readings in known for _, one in readings if one.is_waiting), None),
            "more_scalars": len(scalars) - len(shown),
            "has_scalars": bool(shown),
            "commands": [command_line("diff", ids[0], f"{job_word(other)} --code") for other in ids[1:]],
            "form": _form(ids),
        }

    def _side(self, connection: sqlite3.Connection, job: Job, other: str, now: float) -> tuple[Side, Readings]:
        """Return what is kept of a job, ask for the rest, and return what to say of that."""
        provenance, reading = self._site.provenances.get(str(job["job_id"])), None
        if provenance is None or not _is_current(provenance, job):
            reading = ask(self._site, PROVENANCE, job, "diff", job_word(other))
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
        return Side(job, provenance, results, missing=_gap_text(results_reading)), readings


def _plot(results: Sequence[Results | None], x: str | None, y: str) -> dict[str, Any]:
    """Return the plot of means over a parameter that all jobs have, as far as their results are known.

    A name that they lack stands for the first one: what is not read yet may have it.
    """
    known = [one for one in results if one is not None and one.sets]
    sets = [params for one in known for params in one.sets]
    shared = [name for name in (known[0].sets[0] if known else ()) if all(name in one.sets[0] for one in known)]
    parameters = list(plots.plotted(shared[:MAX_PARAMETERS], sets))
    scalars = list(dict.fromkeys(name for one in known for name in one.scalars))
    if not parameters or not scalars:
        return {"plot": None}
    # A form sends what it shows.
    x, y = (
        next((name for name in names if asked in (name, strip_control_characters(name))), names[0])
        for asked, names in ((x, parameters), (y, scalars))
    )
    series = [one.series(y) if one in known and y in one.scalars else plots.Series() for one in results]
    found = plots.draw_means(y, Axis(x, sets), series)
    return {"plot": found, "x": x, "y": y, "parameters": parameters, "scalars": scalars}


def _differences(sides: Sequence[Side]) -> list[tuple[str, str]]:
    """Return what `diff` prints of the first job and each other, without outputs, as far as both are known."""
    first, found = sides[0].provenance, []
    for letter, side in zip(LETTERS, sides, strict=False):
        if first is not None and side.provenance not in (None, first):
            lines = difference_lines(difference_of(first, side.provenance))
            found.append((letter, "\n".join(line if isinstance(line, str) else "".join(line) for line in lines)))
    return found


def _is_current(provenance: Provenance, job: Job) -> bool:
    """Return whether nothing can have come to it since: manifest and bundle never change, notes are added."""
    is_whole = bool(provenance.environments or not job["is_active"])
    return is_whole and bool(provenance.job["status"] == job["status"])


def summarize(
    results: Sequence[Results | None], names: Sequence[str]
) -> list[tuple[Mapping[str, Scalar], JobContrast | None] | None]:
    """Return these scalars of each job, and their differences to the first job; None if its results are not known."""
    first = results[0]
    return [
        one
        and (
            summarize_scalars(one, names),
            None if first is None or one is first else contrast_results(first, one, names),
        )
        for one in results
    ]


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
