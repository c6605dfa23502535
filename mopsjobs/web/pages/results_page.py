"""The page of a job's results: a scalar over a parameter, the outputs of a task, and the table of results as a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.tasks.results_table import cached_lineage, results_state
from mopsjobs.app.tasks.task_outputs import no_such_task_error
from mopsjobs.cache.queries.families import read_family
from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.errors import UsageError, command_line, shorten
from mopsjobs.studies.study import is_output_name
from mopsjobs.utils.table_files import csv_pieces
from mopsjobs.utils.text import did_you_mean, parse_whole_number, strip_control_characters
from mopsjobs.web.drawings import plots
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.pages.readings import Reading, ask, find_results, is_submitted, not_read_yet, waiting
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import Job, job_path, moment, value_text
from mopsjobs.web.site.job_reads import OUTPUT
from mopsjobs.web.site.kept import KeptOutput, Results, size_text
from mopsjobs.web.site.rendering import Renderer, as_file

MAX_PARAMETERS = 100
"""Parameters to choose from."""

SHOWN_PARAMETERS = 12
"""Parameters of a task that are shown."""

SHOWN_SCALARS = 30
"""Scalars with a link of their own. The form has all."""

OUTPUT_PARAMETERS = {
    "task": Parameter(None, lambda text: parse_whole_number(text, 0, MAX_TASK), "the number of a task"),
    "output": Parameter("", lambda text: text if is_output_name(text) else None, "the name of an output"),
}

PARAMETERS = {"y": Parameter(), "x": Parameter()} | OUTPUT_PARAMETERS

IMAGE = "image/png"
FILE = "application/octet-stream"
"""The media type of all other outputs: a browser interprets none of them."""


class ResultsPage:
    """The handlers of `/jobs/JOB/results`, `/jobs/JOB/results.csv` and `/jobs/JOB/output`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site

    def answer(self, job_id: str) -> Response:
        """Return the page of a job's results."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, job: Job, now: float) -> dict[str, Any]:
            results, reading = find_results(self._site, connection, job, now)
            drawn = plot_results([results], query, with_tasks=True)
            family = read_family(connection, str(job["job_id"]))
            shown = drawn["scalars"][:SHOWN_SCALARS] if len(drawn["scalars"]) > 1 else []
            return {
                "job_id": job["job_id"],
                "reading": reading,
                "has_tasks": is_submitted(job),
                # That of a family has the results of all.
                "newest": None if family is None or family.newest == job["job_id"] else family.newest,
                "results": results,
                "made": None if results is None else moment(results.made_at, now),
                "shown": self._outputs(connection, job, query, now),
                **drawn,
                "links": [(name, _address(job["job_id"], query, x=drawn["x"], y=name)) for name in shown],
                "is_mixed": len(drawn["parameters"]) > 1,
            }

        return self._renderer.job_page("job_results.html", job_id, view)

    def file(self, job_id: str) -> Response:
        """Return the table of results as CSV; 503 while it is being read."""
        parse_query({}, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, job: Job, now: float) -> tuple[Job, Results | None, Reading | None]:
            return job, *find_results(self._site, connection, job, now)

        job, results, reading = self._site.read_job(job_id, view)
        if results is None:
            return not_read_yet(str(job["job_id"]), reading)
        response = Response(csv_pieces(results.columns, results.rows.read()), mimetype="text/csv")
        return as_file(response, f"{job['job_id']}.csv")

    def _outputs(
        self, connection: sqlite3.Connection, job: Job, query: Mapping[str, Any], now: float
    ) -> dict[str, Any] | None:
        """Return the outputs of the task that a query names, for the template; None if it names none.

        Raises:
            UsageError: if the job has no such task.
        """
        if query["task"] is None:
            return None
        kept, reading = self._find(connection, job, query, now)
        found: dict[str, Any] = {"task": query["task"], "reading": reading, "output": None}
        if kept is None:
            return found
        output, params = kept.output, list(kept.output.task.params.items())
        task, file = output.task.row.task, urlencode({"task": output.task.row.task, "output": str(output.name)})
        return found | {
            "output": output,
            "preview": kept.preview,
            "made": moment(kept.made_at, now),
            "params": [(name, value_text(value)) for name, value in params[:SHOWN_PARAMETERS]],
            "has_more_params": len(params) > SHOWN_PARAMETERS,
            "outputs": [
                (name, size_text(size), _address(job["job_id"], query, task=task, output=name))
                for name, size in output.sizes.items()
            ],
            "file": None if output.value is None else f"{job_path(job['job_id'])}/output?{file}",
            "command": command_line("results", output.job_id, "--download DIRECTORY"),
        }

    def output(self, job_id: str) -> Response:
        """Return an output as a file; 503 while it is being read."""
        query = parse_query(OUTPUT_PARAMETERS, request.args.items(multi=True))
        if query["task"] is None:
            raise UsageError("missing task: expected the number of a task.")

        def view(connection: sqlite3.Connection, job: Job, now: float) -> tuple[KeptOutput | None, Reading | None]:
            return self._find(connection, job, query, now)

        kept, reading = self._site.read_job(job_id, view)
        if kept is None:
            return not_read_yet(job_id, reading)
        if kept.output.value is None:
            why = kept.output.problem or f"Task {query['task']} has no outputs."
            return Response(f"{why}\n", 404, mimetype="text/plain")
        is_image = kept.preview is not None and kept.preview.image is not None
        response = Response(kept.output.value, mimetype=IMAGE if is_image else FILE)
        return as_file(response, str(kept.output.name))  # an <img> shows it all the same

    def _find(
        self, connection: sqlite3.Connection, job: Job, query: Mapping[str, Any], now: float
    ) -> tuple[KeptOutput | None, Reading | None]:
        """Return the output that is kept, and what to say if it lacks what is known by now."""
        job_id, number, name = str(job["job_id"]), query["task"], query["output"]
        lineage = cached_lineage(connection, job_id, now=now)
        studies = [StoredStudy.load(connection, str(one["job_id"])) for one in lineage]
        is_whole = lineage[-1]["parent_job_id"] is None  # else an ancestor may have the task
        if is_whole and all(study is not None and study.place_of(number) is None for study in studies):
            raise no_such_task_error(job_id, number)
        kept = self._site.outputs.get((job_id, str(number), name))
        if kept is not None and kept.is_current(results_state(connection, job_id, now=now)):
            return kept, None
        reading = ask(self._site, OUTPUT, job, "results", "--download DIRECTORY", part=(str(number), name))
        return kept, reading or waiting(job)


def _address(job_id: object, query: Mapping[str, Any], **changes: object) -> str:
    """Return the address of the page with another plot or output."""
    values = {name: value for name, value in {**query, **changes}.items() if value not in (None, "")}
    return f"{job_path(job_id)}/results?{urlencode(values)}"


def plot_results(
    results: Sequence[Results | None], query: Mapping[str, Any], *, with_tasks: bool = False
) -> dict[str, Any]:
    """Return the plot that a query asks for, over a parameter that all jobs have, and what else could be plotted.

    Args:
        results: those of each job; None if they are not kept.
        query: has the names of the scalar and the parameter, `y` and `x`; None for the first ones.
        with_tasks: whether each task is drawn.

    Raises:
        UsageError: if the query names a scalar or a parameter that the results of all jobs lack.
    """
    known = [one for one in results if one is not None and one.sets]
    shared = [name for name in known[0].sets[0] if all(name in one.sets[0] for one in known)] if known else []
    sets = [params for one in known for params in one.sets]
    parameters = list(plots.plotted(shared[:MAX_PARAMETERS], sets))
    scalars = list(dict.fromkeys(name for one in results if one is not None for name in one.scalars))
    found = {"plot": None, "parameters": parameters, "scalars": scalars, "x": query["x"], "y": query["y"]}
    if not parameters or not scalars:
        return found
    is_whole = None not in results
    x = _choose("parameter", query["x"], parameters, is_whole=is_whole)
    y = _choose("value", query["y"], scalars, is_whole=is_whole)
    if x is None or y is None:
        return found
    series = [plots.Series() if one is None else one.series(y) for one in results]
    return found | {"plot": plots.draw(y, Axis(x, sets), series, with_tasks=with_tasks), "x": x, "y": y}


def _choose(kind: str, name: str | None, names: Sequence[str], *, is_whole: bool) -> str | None:
    """Return the name of a query, or the first one; None if results that are not read yet may have the name."""
    by_shown = {strip_control_characters(one): one for one in reversed(names)}  # a form sends what it shows
    found = names[0] if name is None else name if name in names else by_shown.get(name)
    if found is None and name is not None and is_whole:
        raise UsageError(
            f"invalid {kind} '{shorten(name, 100)}': expected one of the results.{did_you_mean(name, names)}"
        )
    return found
