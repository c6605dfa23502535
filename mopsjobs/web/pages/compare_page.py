"""The page that compares two to five jobs: what differs between them, a job per column."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.overview import jobs_of_study
from mopsjobs.cache.rows import study_of
from mopsjobs.errors import JobError, UsageError, command_line
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.web.drawings import plots
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.pages.compare_rows import NOT_RECORDED, RESULTS_KEY, Section, Side, sections
from mopsjobs.web.pages.compare_scalars import MAX_SCALARS, ScalarStatistics, scalar_names, summarize_scalars
from mopsjobs.web.pages.job_page import Reading, ask
from mopsjobs.web.pages.kept_results import NOT_SUBMITTED, find_results
from mopsjobs.web.pages.results_page import MAX_PARAMETERS, choose
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import MAX_COMPARED, Job, job_path, moment, status
from mopsjobs.web.site.job_provenance import KeptProvenance
from mopsjobs.web.site.job_reads import PROVENANCE
from mopsjobs.web.site.job_results import Results
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Renderer
from mopsjobs.web.site.site import Site

LETTERS = ascii_uppercase[:MAX_COMPARED]
"""The names of the columns."""

MIN_JOBS = 2

ALL = "all"
"""The value of `show` for rows that are equal too."""

MAX_SUGGESTIONS = 20

MAX_SHOWN_IDS = 20
"""Ids of a query of too many that the form has."""

PARAMETERS = {
    "job": Parameter(()),
    "show": Parameter("", lambda text: text if text == ALL else None, ALL),
    "y": Parameter(),
    "x": Parameter(),
}


class Known(NamedTuple):
    """A job with what is kept of it, and what to say of the rest."""

    side: Side
    results: Results | None
    readings: list[tuple[str, Reading]]
    """What is missing, and why."""


class ComparePage:
    """The handler of `/compare`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site
        self._scalars: Memo[Mapping[str, ScalarStatistics]] = Memo(self._site.app.monotonic, 4 * MAX_COMPARED)

    def answer(self) -> Response | tuple[str, int]:
        """Return the page; the form with what is wrong, if the query does not name such jobs."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            return self._view(connection, query)

        try:
            check_count(query["job"])
            return self._renderer.page("compare.html", view)
        except (JobError, UsageError) as error:
            page = self._renderer.render(
                "compare.html",
                header=self._site.header(),
                problem=str(error),
                hint=error.hint,
                form={"ids": _inputs(query["job"]), "suggestions": [], "show": query["show"]},
            )
            return page, 400 if isinstance(error, UsageError) else 404

    def _view(self, connection: sqlite3.Connection, query: Mapping[str, Any]) -> dict[str, Any]:
        now = self._site.app.now().timestamp()
        jobs = [job_queries.find_job(connection, name, now=now) for name in query["job"]]
        ids = [str(job["job_id"]) for job in jobs]
        check_different(query["job"], ids)
        known = [self._known(connection, job, next(one for one in ids if one != job["job_id"]), now) for job in jobs]
        names = scalar_names([one.results for one in known])
        sides = [self._with_scalars(one, names[:MAX_SCALARS]) for one in known]
        found = sections(sides, names[:MAX_SCALARS])
        address = _Address(ids, query)
        return {
            "columns": [_column(job, letter, address, now) for job, letter in zip(jobs, LETTERS, strict=False)],
            "sections": found,
            "all": query["show"] == ALL,
            "toggle": address.to(show="" if query["show"] == ALL else ALL),
            "readings": _readings([one.readings for one in known]),
            "waiting": next((one for some in known for _, one in some.readings if one.is_waiting), None),
            "plot_gaps": ["no value" if one.results else one.side.scalars_missing for one in known],
            "more_scalars": max(0, len(names) - MAX_SCALARS),
            "scalar_links": {name: f"{address.to(y=name)}#plot" for name in names},
            "commands": [command_line("diff", ids[0], f"{shlex.quote(other)} --code") for other in ids[1:]],
            "form": {
                "ids": _inputs(ids),
                "suggestions": _suggestions(connection, jobs),
                "show": query["show"],
            },
            **_plot([one.results for one in known], names, {**query, "y": query["y"] or _first_that_differs(found)}),
        }

    def _known(self, connection: sqlite3.Connection, job: Job, other: str, now: float) -> Known:
        """Return what is kept of a job, and ask for the rest."""
        provenance, reading = _find_provenance(self._site, job, other)
        results, results_reading = find_results(self._site, connection, job, now)
        gaps = [_gap_text(one) for one in (reading, results_reading)]
        # What is kept is shown while newer data is read.
        readings = [
            (name, one)
            for name, one, is_kept in (
                ("Code, study and packages", reading, provenance is not None),
                ("Results", results_reading, results is not None),
            )
            if one is not None and not (is_kept and one.is_waiting)
        ]
        return Known(Side(job, provenance, None, *gaps), results, readings)

    def _with_scalars(self, known: Known, names: Sequence[str]) -> Side:
        results = known.results
        if results is None:
            return known.side
        scalars = self._scalars.get(
            (known.side.job["job_id"], *names), results.made_at, lambda: summarize_scalars(results, names)
        )
        return known.side._replace(scalars=scalars)


def check_count(names: Sequence[str]) -> None:
    """Check that a query names jobs that fit on a page.

    Raises:
        UsageError: if it names fewer than two or more than five.
    """
    if not MIN_JOBS <= len(names) <= MAX_COMPARED:
        hint = "Give each its own 'job' in the address, name them here, or choose them on the page of jobs."
        raise UsageError(f"invalid number of jobs '{len(names)}': expected {MIN_JOBS} to {MAX_COMPARED}.", hint=hint)


def check_different(names: Sequence[str], ids: Sequence[str]) -> None:
    """Check that the names of a query lead to different jobs.

    Raises:
        UsageError: if two of them lead to one.
    """
    for place, job_id in enumerate(ids):
        if job_id in ids[:place]:
            raise UsageError(f"invalid job '{names[place]}': expected another job than {job_id}, which comes before.")


def _find_provenance(site: Site, job: Job, other: str) -> tuple[KeptProvenance | None, Reading | None]:
    """Return the provenance of a job that is kept, and what to say if it lacks what may be known by now."""
    provenance = site.provenances.get(str(job["job_id"]))
    if provenance is not None and provenance.is_current(job):
        return provenance, None
    return provenance, ask(site, PROVENANCE, job, "diff", shlex.quote(other))


def _gap_text(reading: Reading | None) -> str:
    """Return what stands in the cells for what is not known."""
    if reading is None or reading is NOT_SUBMITTED:
        return NOT_RECORDED
    return "being read" if reading.is_waiting else "not read"


def _readings(of_jobs: Sequence[Sequence[tuple[str, Reading]]]) -> list[str]:
    """Return what is missing, one sentence for the jobs that lack the same for the same reason."""
    letters: dict[tuple[str, str], list[str]] = {}
    for letter, readings in zip(LETTERS, of_jobs, strict=False):
        for name, reading in readings:
            letters.setdefault((name, reading.text), []).append(letter)
    return [f"{name} of {', '.join(some)}: {text}" for (name, text), some in letters.items()]


class _Address:
    """The addresses of the page with other jobs, or another view of the same."""

    def __init__(self, ids: Sequence[str], query: Mapping[str, Any]) -> None:
        self._ids = ids
        self._values = {name: query[name] for name in ("show", "y", "x")}

    def to(self, ids: Sequence[str] | None = None, **changes: str) -> str:
        """Return an address; by default with the same jobs."""
        jobs = [("job", one) for one in (self._ids if ids is None else ids)]
        values = [(name, value) for name, value in {**self._values, **changes}.items() if value]
        return f"/compare?{urlencode([*jobs, *values])}"

    def without(self, job_id: str) -> str | None:
        """Return the address without a job; None if too few would be left."""
        others = [one for one in self._ids if one != job_id]
        return self.to(others) if len(others) >= MIN_JOBS else None

    def first(self, job_id: str) -> str | None:
        """Return the address with a job in front; None if it is."""
        others = [one for one in self._ids if one != job_id]
        return None if self._ids[0] == job_id else self.to([job_id, *others])


def _column(job: Job, letter: str, address: _Address, now: float) -> dict[str, Any]:
    job_id = str(job["job_id"])
    return {
        "letter": letter,
        "id": job_id,
        "path": job_path(job_id),
        "kind": status(job["status"]).kind,
        "created": moment(job["created_at"], now),
        "without": address.without(job_id),
        "first": address.first(job_id),
    }


def _inputs(ids: Sequence[str]) -> list[str]:
    """Return the values of the form: the jobs, and room for one more."""
    return [*ids[:MAX_SHOWN_IDS], *[""] * max(len(ids) < MAX_COMPARED, MIN_JOBS - len(ids))]


def _suggestions(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[str]:
    """Return other jobs of the same studies, the last changed first."""
    studies = dict.fromkeys(study for job in jobs if (study := study_of(job["metadata"])) is not None)
    ids = {str(job["job_id"]) for job in jobs}
    found = [one for study in studies for one in jobs_of_study(connection, study, MAX_SUGGESTIONS)]
    return [one for one in dict.fromkeys(found) if one not in ids][:MAX_SUGGESTIONS]


def _first_that_differs(found: Sequence[Section]) -> str | None:
    """Return the first scalar that differs; None if none does."""
    return next((row.name for one in found if one.key == RESULTS_KEY for row in one.rows if row.differs), None)


def _plot(results: Sequence[Results | None], names: Sequence[str], query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plot that a query asks for: the means of a scalar of all jobs over a parameter that all have.

    Raises:
        UsageError: if it names a scalar or a parameter that the results lack.
    """
    known = [one for one in results if one is not None and one.sets]
    shared = [name for name in known[0].sets[0] if all(name in one.sets[0] for one in known)] if known else []
    sets = [params for one in known for params in one.sets]
    parameters = list(plots.plotted(shared[:MAX_PARAMETERS], sets))
    found: dict[str, Any] = {"plot": None, "parameters": parameters, "scalars": list(names), "x": None, "y": None}
    is_whole = len(known) == len(results)
    if not parameters or not names or not (is_whole or (_has(query["x"], parameters) and _has(query["y"], names))):
        return found
    x, y = choose("parameter", query["x"], parameters), choose("value", query["y"], names)
    if x is None or y is None:
        return found
    series = [
        plots.Series((), (), ()) if one is None or not one.sets or y not in one.scalars
        else plots.Series(one.sets, one.set_of, one.scalars[y])
        for one in results
    ]  # fmt: skip
    axis = Axis(x, sets)
    plot = plots.draw_means(y, axis, series)
    rows = {} if plot is None else _rows_of(plot, [axis.label(place) for place in range(axis.size)])
    return found | {"plot": plot, "x": x, "y": y, "plot_rows": rows}


def _has(name: str | None, names: Sequence[str]) -> bool:
    return name is None or name in map(strip_control_characters, names) or name in names


def _rows_of(plot: plots.LinePlot, labels: Sequence[str]) -> dict[str, list[plots.Group | None]]:
    """Return the statistics of all jobs at each place of the axis."""
    rows: dict[str, list[plots.Group | None]] = {label: [None] * len(plot.lines) for label in labels}
    for place, line in enumerate(plot.lines):
        for group in line.groups if line else ():
            rows[group.label][place] = group
    return {label: groups for label, groups in rows.items() if any(groups)}
