"""The outputs of a task on the page of a job's results: their names and sizes, the preview of one, and its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.find_job import Job
from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.results_table import cached_lineage, results_state
from mopsjobs.app.tasks.task_outputs import TaskOutput, no_such_task_error
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.stored_study import StoredStudy
from mopsjobs.errors import UsageError, command_line
from mopsjobs.studies.study import is_output_name
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.web.pages.job_page import Reading, ask
from mopsjobs.web.pages.kept_results import not_read_yet, waiting
from mopsjobs.web.pages.logs_page import attachment
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import job_path, moment_at, value_text
from mopsjobs.web.site.job_outputs import KeptOutput
from mopsjobs.web.site.job_reads import OUTPUT
from mopsjobs.web.site.job_results import size_text
from mopsjobs.web.site.site import Site

MAX_PARAMETERS = 12
"""Parameters of the task that are shown."""

PARAMETERS = {
    "task": Parameter(None, lambda text: parse_whole_number(text, 0, MAX_TASK), "the number of a task"),
    "output": Parameter("", lambda text: text if is_output_name(text) else None, "the name of an output"),
}

IMAGE = "image/png"
FILE = "application/octet-stream"
"""The media type of all other outputs: a browser interprets none of them."""


class _Found(NamedTuple):
    """The output that a query names, as far as it is known."""

    kept: KeptOutput | None
    reading: Reading | None


class OutputView:
    """The outputs of tasks that pages show, and the handler of `/jobs/JOB/output`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def section(
        self, connection: sqlite3.Connection, job: Job, query: Mapping[str, Any], now: float
    ) -> dict[str, Any] | None:
        """Return the outputs of the task that a query names, for the template; None if it names none.

        Raises:
            UsageError: if the job has no such task.
        """
        if query["task"] is None:
            return None
        job_id = str(job["job_id"])
        kept, reading = self._find(connection, job, query, now)
        if kept is None:
            return {"task": query["task"], "reading": reading, "output": None}
        output, path = kept.output, job_path(job_id)
        others = {name: query[name] for name in ("y", "x") if query[name]}
        params = list(output.task.params.items())
        return {
            "task": query["task"],
            "reading": reading,
            "output": output,
            "preview": kept.preview,
            "made": moment_at(kept.made_at, now),
            "params": [(name, value_text(value)) for name, value in params[:MAX_PARAMETERS]],
            "has_more_params": len(params) > MAX_PARAMETERS,
            "outputs": [
                (name, size_text(size), f"{path}/results?{_query(output, name, others)}")
                for name, size in output.sizes.items()
            ],
            "file": None if output.value is None else f"{path}/output?{_query(output, str(output.name), {})}",
            "command": command_line("results", output.job_id, "--download DIRECTORY"),
        }

    def file(self, job_id: str) -> Response:
        """Return an output as a file; 503 while it is being read."""
        query = parse_query(PARAMETERS, request.args.items(multi=True))
        if query["task"] is None:
            raise UsageError("missing task: expected the number of a task.")

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> _Found:
            now = self._site.app.now().timestamp()
            return self._find(connection, job_queries.find_job(connection, job_id, now=now), query, now)

        kept, reading = self._site.read(view)
        if kept is None:
            return not_read_yet(job_id, reading)
        if kept.output.value is None:
            why = kept.output.problem or f"Task {query['task']} has no outputs."
            return Response(f"{why}\n", 404, mimetype="text/plain")
        is_image = kept.preview is not None and kept.preview.image is not None
        response = Response(kept.output.value, mimetype=IMAGE if is_image else FILE)
        response.headers["Content-Disposition"] = attachment(str(kept.output.name))  # an <img> shows it all the same
        return response

    def _find(self, connection: sqlite3.Connection, job: Job, query: Mapping[str, Any], now: float) -> _Found:
        """Return the output that is kept, and what to say if it lacks what is known by now."""
        job_id, number, name = str(job["job_id"]), query["task"], query["output"]
        lineage = cached_lineage(connection, job_id, now=now)
        studies = [StoredStudy.load(connection, str(one["job_id"])) for one in lineage]
        is_whole = lineage[-1]["parent_job_id"] is None  # else an ancestor may have the task
        if is_whole and all(study is not None and study.place_of(number) is None for study in studies):
            raise no_such_task_error(job_id, number)
        kept = self._site.outputs.get(job_id, str(number), name)
        if kept is not None and kept.is_current(results_state(connection, job_id, now=now)):
            return _Found(kept, None)
        reading = ask(self._site, OUTPUT, job, "results", "--download DIRECTORY", part=(str(number), name))
        return _Found(kept, reading or waiting(job))


def _query(output: TaskOutput, name: str, others: Mapping[str, str]) -> str:
    return urlencode({**others, "task": output.task.row.task, "output": name})
