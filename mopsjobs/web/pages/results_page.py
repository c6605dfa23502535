"""The page of a job's results: what failed and where, a scalar over a parameter, the table, and a task with its log.

Its address has all that a reader chooses: scalar, axes, filters, order, page and task.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, redirect, request
from flask.typing import ResponseReturnValue

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.tasks.failures import describe_left_out
from mopsjobs.app.tasks.results_table import cached_lineage, results_state
from mopsjobs.app.tasks.task_outputs import no_such_task_error
from mopsjobs.cache.queries.families import read_family
from mopsjobs.cache.queries.task_filters import STATUSES
from mopsjobs.cache.queries.tasks import read_task_query
from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.errors import UsageError, command_line, shorten
from mopsjobs.studies.field_values import is_output_name
from mopsjobs.utils.table_files import csv_pieces
from mopsjobs.utils.text import did_you_mean, parse_whole_number, pluralize, strip_control_characters
from mopsjobs.web.drawings import plots
from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.heat_map import KINDS, Axes, HeatMap, choose_axes, lay_out, map_values
from mopsjobs.web.pages.logs_page import last_lines
from mopsjobs.web.pages.readings import Reading, ask, find_results, not_read_yet, read_results, waiting
from mopsjobs.web.pages.result_rows import MAX_PAGE, ends_of, set_rows, task_rows
from mopsjobs.web.queries.query_params import Parameter, choice, parse_query
from mopsjobs.web.queries.search_box import Params
from mopsjobs.web.queries.view_models import (
    CLASSES,
    FAILED_STATUSES,
    Job,
    choices,
    dots_of,
    job_path,
    moment,
    value_text,
)
from mopsjobs.web.site.job_reads import OUTPUT
from mopsjobs.web.site.kept import KeptOutput, Results
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Page, Renderer, as_file, link

MAX_PARAMETERS = 100

SHOWN_PARAMETERS = 12

MAX_MAP_TASKS = 100_000
"""Tasks of a map. Of more, the conditions of failures tell as much, and cost less."""

SHOWN_REPLICATES = 60
"""Tasks of a parameter set that are links beside the chosen one."""

SHOWN_LINES = 50

OUTPUT_PARAMETERS = {
    "task": Parameter(None, lambda text: parse_whole_number(text, 0, MAX_TASK), "the number of a task"),
    "output": Parameter("", lambda text: text if is_output_name(text) else None, "the name of an output"),
}

SETS, TASKS = "sets", "tasks"

PARAMETERS = {
    "y": Parameter(),
    "x": Parameter(),
    "up": Parameter(),
    "rows": choice(None, (SETS, TASKS)),
    "status": Parameter(""),
    "param": Parameter(()),
    "error": Parameter(),
    "sort": Parameter(),
    "page": Parameter(1, lambda text: parse_whole_number(text, 1, MAX_PAGE), f"a whole number from 1 to {MAX_PAGE:,}"),
} | OUTPUT_PARAMETERS

IN_DRAWING = ("y", "x", "up")
IN_TABLE = ("status", "param", "error", "task", "output", "page")
"""Parameters that have fields in the form of the drawings, and in that of the table."""

STATUS_TEXTS = {"": "any end", FAILED_STATUSES: "failed, for any reason"} | {name: name for name in STATUSES}

IMAGE = "image/png"
FILE = "application/octet-stream"
"""The media type of all other outputs: a browser interprets none of them."""


class _Drawings(NamedTuple):
    """The drawings of a job."""

    plot: Mapping[str, Any]
    """As `plot_results` returns it."""
    heat_map: HeatMap | None
    axes: Axes
    ends: Sequence[Mapping[str, Any]] = ()
    """As `ends_of` returns them."""


class ResultsPage(Page):
    """The handlers of `/jobs/JOB/results`, `/jobs/JOB/results.csv` and `/jobs/JOB/output`."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer)
        self._drawn: Memo[_Drawings] = Memo(renderer.site.app.monotonic, 16)

    def tasks(self, job_id: str) -> ResponseReturnValue:
        """Lead from the address of tasks to their table."""
        others = [(name, value) for name, value in request.args.items(multi=True) if name != "rows"]
        return redirect(f"{job_path(job_id)}/results?{urlencode([('rows', TASKS), *others])}", 302)

    def answer(self, job_id: str) -> Response:
        """Return the page of a job's results."""
        params = list(request.args.items(multi=True))
        query = parse_query(PARAMETERS, params)
        which = read_task_query(query["status"] or None, query["param"])
        chosen = {**query, "param": which.conditions, "status": which.statuses}
        of_tasks = chosen | {"sort": query["sort"] if query["rows"] == TASKS else None}

        def view(connection: sqlite3.Connection, job: Job, now: float) -> dict[str, Any]:
            results, reading = find_results(self._site, connection, job, now)
            drawn = self._draw(str(job["job_id"]), results, query)
            lacks_sets = results is None and not (reading is not None and reading.is_waiting)
            is_by_task = query["rows"] == TASKS or query["error"] is not None or (lacks_sets and query["rows"] is None)
            family = read_family(connection, str(job["job_id"]))

            def to_rows(conditions: Sequence[str], status: str = "") -> str:
                others = [(name, value) for name, value in params if name not in ("param", "status", "task", "output")]
                asked = [*(("param", one) for one in conditions), ("status", status)]
                return link([*others, *asked], {}) + "#rows"

            return {
                "job_id": job["job_id"],
                "query": query,
                "reading": reading,
                # That of a family has the results of all.
                "newest": None if family is None or family.newest == job["job_id"] else family.newest,
                "results": results,
                "made": None if results is None else moment(results.made_at, now),
                "left_out": None if results is None else _left_out(results),
                "ends": drawn.ends,
                "dots": dots_of(
                    drawn.plot["plot"].dots if drawn.plot["plot"] else [], _select(params, query), query["task"]
                ),
                "statuses": choices(STATUS_TEXTS, query["status"]),
                "shown": self._task(connection, job, results, query, params, now),
                **drawn.plot,
                "map": drawn.heat_map and map_values(drawn.heat_map, drawn.axes, to_rows),
                "axes": drawn.axes,
                "choices": list(drawn.plot["varying"])[:MAX_PARAMETERS],
                "is_mixed": len(drawn.plot["varying"]) > 1,
                "to_failed": to_rows([], FAILED_STATUSES),
                "regions": [] if results is None else _regions(results, to_rows),
                "select": _select(params, query),
                "hidden": [(name, value) for name, value in params if value and name not in (*IN_DRAWING, "page")],
                "in_table": [
                    (name, value) for name, value in params if value and name in (*IN_DRAWING, "rows", "sort")
                ],
                "clear": link([one for one in params if one[0] not in IN_TABLE], {}) + "#rows",
                "by_task": is_by_task,
                "switch": [
                    (
                        text,
                        link(params, {"rows": name, "sort": "", "error": ""}) + "#rows",
                        is_by_task is (name == TASKS),
                    )
                    for name, text in ((SETS, "Parameter sets"), (TASKS, "Tasks"))
                ],
                "table": task_rows(self._site, connection, job, of_tasks, params, reading)
                if is_by_task
                else {"reading": reading}
                if results is None
                else {"reading": None, **set_rows(results, drawn.plot["y"], chosen, params, query["task"])},
            }

        return self._renderer.job_page("job_results.html", job_id, view)

    def _draw(self, job_id: str, results: Results | None, query: Mapping[str, Any]) -> _Drawings:
        """Return plot and map of the results of a job.

        What separates failed tasks from others is the first choice for the axes.

        Raises:
            UsageError: if the query names a scalar or a parameter that they lack.
        """
        chosen = Axes(query["x"], query["up"])

        def draw(results: Results) -> _Drawings:
            sets = results.set_tasks()
            names = list(results.sets[0])[:MAX_PARAMETERS] if results.sets else []
            varying = list(plots.plotted(names, results.sets)) if sets else []
            preferred = [part.parameter for one in results.separates for part in one.condition.parts]
            axes = choose_axes(varying, sets, preferred, chosen)
            plot = plot_results(results, {**query, "x": axes.x or query["x"]})
            has_map = axes.x is not None and 0 < sum(len(one.kinds) for one in sets) <= MAX_MAP_TASKS
            heat_map = lay_out(sets, axes) if has_map else None
            return _Drawings({**plot, "varying": varying}, heat_map, axes, ends_of(results, plot["y"]))

        if results is None:
            return _Drawings({**plot_results(None, query), "varying": []}, None, chosen)
        return self._drawn.get((job_id, chosen, query["y"]), results.made_at, lambda: draw(results))

    def file(self, job_id: str) -> Response:
        """Return the table of results as CSV; 503 while it is being read."""
        parse_query({}, request.args.items(multi=True))
        whole_id, results, reading = read_results(self._site, job_id)
        if results is None:
            return not_read_yet(whole_id, reading)
        response = Response(csv_pieces(results.columns, results.rows.read()), mimetype="text/csv")
        return as_file(response, f"{whole_id}.csv")

    def _task(
        self,
        connection: sqlite3.Connection,
        job: Job,
        results: Results | None,
        query: Mapping[str, Any],
        params: Params,
        now: float,
    ) -> dict[str, Any] | None:
        """Return outputs and log of the task that a query names, for the template; None if it names none.

        Raises:
            UsageError: if the job has no such task.
        """
        number = query["task"]
        if number is None:
            return None
        kept, reading = self._find(connection, job, query, now)
        owner, there = (str(job["job_id"]), number) if kept is None else (kept.output.job_id, kept.output.number)
        found: dict[str, Any] = {
            "task": number,
            "reading": reading,
            "output": None,
            "replicates": [] if results is None else _replicates(results, number),
            "lines": [] if there is None else last_lines(connection, owner, there, SHOWN_LINES),
            "owner": owner,
            "number_there": there,
            "close": link(params, {"task": "", "output": ""}) + "#rows",
        }
        if kept is None:
            return found
        output, values = kept.output, list(kept.output.task.params.items())
        file = urlencode({"task": number, "output": str(output.name)})
        return found | {
            "output": output,
            "preview": kept.preview,
            "made": moment(kept.made_at, now),
            "params": [(name, value_text(value)) for name, value in values[:SHOWN_PARAMETERS]],
            "has_more_params": len(values) > SHOWN_PARAMETERS,
            "outputs": [
                (
                    name,
                    "" if size is None else pluralize(size, "byte"),
                    f"{_select(params, query)}task={number}&{urlencode({'output': name})}#task",
                )
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


def _left_out(results: Results) -> str | None:
    """Return which simulations a mean leaves out, since they failed, as the table counts them; None if none did."""
    assert results.table is not None  # noqa: S101 - a page keeps no results without it
    totals = results.table.totals()
    return describe_left_out(totals.failed, totals.tasks, results.separates) if totals.failed else None


def _regions(results: Results, to_rows: Callable[[Sequence[str], str], str]) -> list[tuple[str, str]]:
    """Return what separates a part of the failed tasks, each with the link to the failed sets there."""
    assert results.table is not None  # noqa: S101 - a page keeps no results without it
    failed = results.table.totals().failed
    return [
        (f"only {one.condition}", to_rows([*map(str, one.condition.parts)], FAILED_STATUSES))
        for one in results.separates
        if one.failed < failed and not re.search("…| is (not )?set", str(one.condition))  # no filter has these
    ]


def _replicates(results: Results, number: int) -> list[tuple[int, str, str]]:
    """Return the tasks of the parameter set that a task has: number, how it ended, and the class of that."""
    if number not in results.tasks:
        return []
    place = results.set_of[results.tasks.index(number)]
    pairs = zip(results.set_of, results.tasks, results.kinds, strict=True)
    return [(task, KINDS[kind], CLASSES.get(KINDS[kind], "pending")) for of, task, kind in pairs if of == place][
        :SHOWN_REPLICATES
    ]


def _select(params: Params, query: Mapping[str, Any]) -> str:
    """Return the address of the page up to the number of another task."""
    page = str(query["page"]) if query["page"] > 1 else ""
    query_string = link(params, {"task": "", "output": "", "page": page})
    return query_string if query_string == "?" else f"{query_string}&"


def plot_results(results: Results | None, query: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plot that a query asks for, and what else could be plotted.

    Args:
        results: those of the job; None if they are not kept.
        query: has the names of the scalar and the parameter, `y` and `x`; None for the first ones.

    Raises:
        UsageError: if the query names a scalar or a parameter that the results lack.
    """
    names = list(results.sets[0])[:MAX_PARAMETERS] if results is not None and results.sets else []
    parameters = [] if results is None else list(plots.plotted(names, results.sets))
    scalars = [] if results is None else list(results.scalars)
    found = {"plot": None, "parameters": parameters, "scalars": scalars, "x": query["x"], "y": query["y"]}
    if results is None or not parameters or not scalars:
        return found
    x, y = _choose("parameter", query["x"], parameters), _choose("value", query["y"], scalars)
    return found | {"plot": plots.draw(y, Axis(x, results.sets), results.series(y)), "x": x, "y": y}


def _choose(kind: str, name: str | None, names: Sequence[str]) -> str:
    """Return the name of a query, or the first one."""
    by_shown = {strip_control_characters(one): one for one in reversed(names)}  # a form sends what it shows
    found = names[0] if name is None else name if name in names else by_shown.get(name)
    if found is None:
        text = shorten(str(name), 100)
        raise UsageError(f"invalid {kind} '{text}': expected one of the results.{did_you_mean(text, names)}")
    return found
