"""The page that compares two to five jobs: what differs between them, a job per column."""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.errors import JobError, UsageError, command_line
from mopsjobs.web.pages.compare_rows import (
    NOT_RECORDED,
    RESULTS_KEY,
    JobContrast,
    Scalar,
    Side,
    contrast_results,
    sections,
    summarize_scalars,
)
from mopsjobs.web.pages.readings import NO_RESULTS, Reading, ask, find_results
from mopsjobs.web.pages.results_page import plot_results
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import MAX_COMPARED, Job, job_path, moment
from mopsjobs.web.site.job_reads import PROVENANCE
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Renderer

LETTERS = ascii_uppercase[:MAX_COMPARED]
"""The names of the columns."""

MIN_JOBS = 2

MAX_SCALARS = 30
"""Scalars that are compared, the first ones of the first job and then those of the others."""

MAX_SHOWN_IDS = 20
"""Ids of a query of too many that the form has."""

PARAMETERS = {
    "job": Parameter(()),
    "show": Parameter("", lambda text: text if text == "all" else None, "all"),
    "y": Parameter(),
    "x": Parameter(),
}
"""With `show`, rows that are equal are shown too."""

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
                form=_form(query["job"], query),
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

        def to(jobs: Sequence[str] = ids, **changes: str) -> str:
            values = {name: query[name] for name in ("show", "y", "x")} | changes
            return f"/compare?{urlencode([*(('job', one) for one in jobs), *((k, v) for k, v in values.items() if v)])}"

        def column(job: Job, job_id: str, letter: str) -> dict[str, Any]:
            others = [one for one in ids if one != job_id]
            return {
                "letter": letter,
                "id": job_id,
                "path": job_path(job_id),
                "created": moment(job["created_at"], now),
                "without": to(others) if len(others) >= MIN_JOBS else None,
                "first": None if job_id == ids[0] else to([job_id, *others]),
            }

        return {
            "columns": [column(*one) for one in zip(jobs, ids, LETTERS, strict=False)],
            "sections": found,
            "all": bool(query["show"]),
            "toggle": to(show="" if query["show"] else "all"),
            "readings": _sentences([readings for _, readings in known], sides),
            "waiting": next((one for _, readings in known for _, one in readings if one.is_waiting), None),
            "plot_gaps": ["no value" if side.results else side.scalars_missing for side in sides],
            "more_scalars": max(0, len(names) - MAX_SCALARS),
            "scalar_links": {name: f"{to(y=name)}#plot" for name in names},
            "commands": [command_line("diff", ids[0], f"{shlex.quote(other)} --code") for other in ids[1:]],
            "form": _form(ids, query),
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


def _form(ids: Sequence[str], query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the form: the jobs, and room for one more."""
    room = max(len(ids) < MAX_COMPARED, MIN_JOBS - len(ids))
    return {"ids": [*ids[:MAX_SHOWN_IDS], *[""] * room], "show": query["show"]}
