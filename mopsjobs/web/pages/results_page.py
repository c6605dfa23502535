"""The page of a job's results: a scalar over a parameter, the outputs of a task, and the table of results as a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.find_job import Job
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.families import read_family
from mopsjobs.errors import UsageError, shorten
from mopsjobs.utils.table_files import csv_pieces
from mopsjobs.utils.text import did_you_mean, strip_control_characters
from mopsjobs.web.drawings import plots
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.pages.job_page import Reading, is_submitted
from mopsjobs.web.pages.kept_results import find_results, not_read_yet
from mopsjobs.web.pages.logs_page import attachment
from mopsjobs.web.pages.output_view import PARAMETERS as OUTPUT_PARAMETERS
from mopsjobs.web.pages.output_view import OutputView
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import job_path, moment_at
from mopsjobs.web.site.job_results import Results
from mopsjobs.web.site.rendering import Renderer

MAX_PARAMETERS = 100
"""Parameters to choose from."""

SHOWN_SCALARS = 30
"""Scalars with a link of their own. The form has all."""

PARAMETERS = {"y": Parameter(), "x": Parameter()} | OUTPUT_PARAMETERS


class ResultsPage:
    """The handlers of `/jobs/JOB/results` and `/jobs/JOB/results.csv`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site
        self.outputs = OutputView(renderer.site)

    def answer(self, job_id: str) -> Response:
        """Return the page of a job's results."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            job = job_queries.find_job(connection, job_id, now=now)
            results, reading = find_results(self._site, connection, job, now)
            return {
                "job_id": job["job_id"],
                "reading": reading,
                "has_tasks": is_submitted(job),
                "newest": _newest(connection, str(job["job_id"])),
                "results": results,
                "made": None if results is None else moment_at(results.made_at, now),
                "shown": self.outputs.section(connection, job, query, now),
                **_plot(results, str(job["job_id"]), query),
            }

        return self._renderer.page("job_results.html", view)

    def file(self, job_id: str) -> Response:
        """Return the table of results as CSV; 503 while it is being read."""
        parse_query({}, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> tuple[Job, Results | None, Reading | None]:
            now = self._site.app.now().timestamp()
            job = job_queries.find_job(connection, job_id, now=now)
            return job, *find_results(self._site, connection, job, now)

        job, results, reading = self._site.read(view)
        if results is None:
            return not_read_yet(str(job["job_id"]), reading)
        response = Response(csv_pieces(results.columns, results.rows.read()), mimetype="text/csv")
        response.headers["Content-Disposition"] = attachment(f"{job['job_id']}.csv")
        return response


def _newest(connection: sqlite3.Connection, job_id: str) -> str | None:
    """Return the newest job of a family, which has the results of all; None if that is the job itself."""
    family = read_family(connection, job_id)
    return None if family is None or family.newest == job_id else family.newest


def _plot(results: Results | None, job_id: str, query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plot that a query asks for, and what else could be plotted.

    Raises:
        UsageError: if it names a scalar or a parameter that the results lack.
    """
    x, y = query["x"], query["y"]
    empty: dict[str, Any] = {
        "plot": None,
        "x": x,
        "y": y,
        "parameters": [],
        "scalars": [],
        "links": [],
        "is_mixed": False,
    }
    if results is None or not results.sets:
        return empty
    scalars = list(results.scalars)
    parameters = list(plots.plotted(list(results.sets[0])[:MAX_PARAMETERS], results.sets))
    x, y = choose("parameter", x, parameters), choose("value", y, scalars)
    if x is None or y is None:
        return empty | {"parameters": parameters, "scalars": scalars}
    plot = plots.draw(y, Axis(x, results.sets), results.sets, results.set_of, results.scalars[y])
    others = {name: value for name, value in query.items() if value not in (None, "")} | {"x": x}
    links = [
        (name, f"{job_path(job_id)}/results?{urlencode(others | {'y': name})}") for name in scalars[:SHOWN_SCALARS]
    ]
    return {
        "plot": plot,
        "x": x,
        "y": y,
        "parameters": parameters,
        "scalars": scalars,
        "links": links if len(links) > 1 else [],
        "is_mixed": len(parameters) > 1,
    }


def choose(kind: str, name: str | None, names: Sequence[str]) -> str | None:
    """Return the name of a query, or the first one."""
    if name is None:
        return next(iter(names), None)
    by_shown = {strip_control_characters(one): one for one in reversed(names)}  # a form sends what it shows
    if name not in names and name in by_shown:
        return by_shown[name]
    if name not in names:
        raise UsageError(
            f"invalid {kind} '{shorten(name, 100)}': expected one of the results.{did_you_mean(name, names)}"
        )
    return name
