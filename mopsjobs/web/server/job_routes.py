"""The pages of a job, and the files that they offer. No id of mops-jobs has a slash; those of other programs may."""

from __future__ import annotations

from urllib.parse import unquote

from flask import Flask, request
from flask.typing import ResponseReturnValue

from mopsjobs.web.pages.job_page import JobPage
from mopsjobs.web.pages.logs_page import LogsPage
from mopsjobs.web.pages.results_page import ResultsPage
from mopsjobs.web.pages.tasks_page import TasksPage
from mopsjobs.web.site.rendering import Renderer


def add_job_routes(app: Flask, renderer: Renderer) -> None:
    """Add the routes below `/jobs/JOB`."""
    logs, results = LogsPage(renderer), ResultsPage(renderer)
    page = JobPage(renderer)
    app.add_url_rule("/jobs/<path:job_id>", "job", page.answer)
    app.add_url_rule("/jobs/<path:job_id>/tasks", "job_tasks", TasksPage(renderer).answer)
    app.add_url_rule("/jobs/<path:job_id>/logs", "job_logs", logs.answer)
    app.add_url_rule("/jobs/<path:job_id>/logs.txt", "job_logs_file", logs.file)
    app.add_url_rule("/jobs/<path:job_id>/results", "job_results", results.answer)
    app.add_url_rule("/jobs/<path:job_id>/results.csv", "job_results_file", results.file)
    app.add_url_rule("/jobs/<path:job_id>/output", "job_output_file", results.outputs.file)

    def answer_whole_id() -> ResponseReturnValue | None:
        """Answer for an id such as `x/tasks`, by the path before it was decoded: `/jobs/x/tasks` is of job `x`."""
        path, _, _ = str(request.environ.get("REQUEST_URI", "")).partition("?")
        before, _, job_id = path.rpartition("/")
        return page.answer(unquote(job_id)) if before == "/jobs" and "%2f" in job_id.lower() else None

    app.before_request(answer_whole_id)
