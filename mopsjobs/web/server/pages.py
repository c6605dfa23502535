"""The application: its routes and its answers to errors. A handler reads the cache, and a template renders that."""

from __future__ import annotations

import gzip
import importlib
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote

from flask import Flask, Response, abort, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from mopsjobs.app.jobs.job_card import duration_text, memory_text
from mopsjobs.cache.database import OtherCacheError, new_schema
from mopsjobs.errors import JobError, MopsJobsError, RecordError, UsageError
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import human_seconds
from mopsjobs.web.api import api, openapi
from mopsjobs.web.pages.charts_page import ChartsPage
from mopsjobs.web.pages.compare_page import ComparePage
from mopsjobs.web.pages.failures_page import FailuresPage
from mopsjobs.web.pages.job_page import JobPage
from mopsjobs.web.pages.jobs_page import JobsPage
from mopsjobs.web.pages.logs_page import LogsPage
from mopsjobs.web.pages.results_page import ResultsPage
from mopsjobs.web.queries import view_models
from mopsjobs.web.server.security import protect
from mopsjobs.web.site.rendering import Renderer
from mopsjobs.web.site.site import Site

MIN_COMPRESSED = 500
"""Bytes of a response that is compressed: a page of 40 KB becomes one of 6 KB."""

COMPRESSION = 5

COMPRESSED_TYPES = ("text/", "application/json", "application/problem+json", "application/x-ndjson", "image/svg+xml")

MODULES = (
    "cache.counters",
    "cache.sync.ledger",
    "cache.sync.mirror",
    "cache.sync.identity",
    "events.writer",
    "ledger.attempt",
    "registry.job_registry",
    "registry.usage",
    "studies.separating",
    "utils.files",
)
"""Modules of mops-jobs that other code imports only when it needs them."""


def make_app(site: Site, names: frozenset[str]) -> Flask:
    """Return the application.

    Args:
        site: the shared state.
        names: the names that the server answers to, as in a Host header.
    """
    app = Flask("mopsjobs.web", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = True
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    # Values come from records: control characters, as those for the direction of text, are removed before escaping.
    app.jinja_env.filters |= {
        "cut": cut_to_length,
        "duration": duration_text,
        "isolated": view_models.isolated,
        "lines": view_models.lines,
        "memory": memory_text,
        "moment": view_models.moment,
        "number": "{:,}".format,
        "plural": pluralize,
        "seconds": human_seconds,
        "value": view_models.value_text,
    }
    links = (view_models.job_path, view_models.log_link, view_models.tasks_link)
    app.jinja_env.globals |= {"status_of": view_models.status, **{one.__name__: one for one in links}}
    app.jinja_env.finalize = lambda value: (
        strip_control_characters(value) if type(value) is str else "" if value is None else value
    )
    protect(app, names)
    _compress_responses(app)
    renderer = Renderer(app, site)
    app.add_url_rule("/", "index", lambda: redirect("/jobs", 302))
    pages: dict[str, Callable[[], ResponseReturnValue]] = {
        "jobs": JobsPage(renderer).answer,
        "compare": ComparePage(renderer).answer,
        "failures": FailuresPage(renderer).answer,
        "charts": ChartsPage(renderer).answer,
        "api": lambda: renderer.page("api.html", lambda *_: {"document": openapi.document()}),
    }
    for name, answer in pages.items():
        app.add_url_rule(f"/{name}", name, answer, strict_slashes=False)
    _add_job_routes(app, renderer)
    api.add_routes(app, site)
    _preload(app)
    _handle_errors(app, renderer)
    return app


_STATUSES = (
    (OtherCacheError, 503, "Unavailable"),  # no request can do anything about it
    (UsageError, 400, "Bad Request"),
    (JobError, 404, "Not Found"),
    (RecordError, 502, "Unreadable Record"),  # what the registry has is wrong; a later request gets no other answer
)
"""The HTTP status of an error of mops-jobs, and its title; 503 for all others."""


def _handle_errors(app: Flask, renderer: Renderer) -> None:
    """Answer errors: of HTTP, of mops-jobs with the message of the command, and all others, after which it goes on."""

    def answer(code: int, title: str, detail: str, hint: str | None = None, candidates: Sequence[str] = ()) -> Response:
        if api.is_for_programs(request.path):
            return api.problem(code, title, detail, hint)
        header = renderer.site.header()
        text = renderer.render(
            "error.html",
            header=header if header["notice"] != detail else {**header, "notice": None},
            code=code,
            title=title,
            detail=detail,
            hint=hint,
            candidates=candidates,
        )
        return Response(text, code, mimetype="text/html")

    @app.errorhandler(HTTPException)
    def handle_http_error(error: HTTPException) -> ResponseReturnValue:
        if error.response is not None:
            return error.response
        return answer(error.code or 500, error.name, error.description or "")

    @app.errorhandler(MopsJobsError)
    def handle_error(error: MopsJobsError) -> Response:
        matching = ((code, title) for kind, code, title in _STATUSES if isinstance(error, kind))
        code, title = next(matching, (503, "Unavailable"))
        return answer(code, title, str(error), error.hint, getattr(error, "candidates", ()))

    @app.errorhandler(Exception)
    def handle_unexpected_error(error: Exception) -> Response:
        renderer.site.app.out.warn(f"{request.path}: {type(error).__name__}: {error}")
        return answer(500, "Internal Server Error", "An unexpected error occurred. See the messages of the server.")


def _add_job_routes(app: Flask, renderer: Renderer) -> None:
    """Add the routes below `/jobs/JOB`. No id of mops-jobs has a slash; those of other programs may."""
    page, logs, results = JobPage(renderer), LogsPage(renderer), ResultsPage(renderer)
    answers: dict[str, Callable[[str], ResponseReturnValue]] = {
        "": page.answer,
        "/tasks": results.tasks,
        "/logs": logs.answer,
        "/logs.txt": logs.file,
        "/results": results.answer,
        "/results.csv": results.file,
        "/output": results.output,
    }
    for path, answer in answers.items():
        app.add_url_rule(f"/jobs/<path:job_id>{path}", f"job{path}", answer)

    def answer_whole_id() -> ResponseReturnValue | None:
        """Answer for an id such as `x/tasks`, by the path before it was decoded: `/jobs/x/tasks` is of job `x`."""
        path, _, _ = str(request.environ.get("REQUEST_URI", "")).partition("?")
        before, _, job_id = path.rpartition("/")
        return page.answer(unquote(job_id)) if before == "/jobs" and "%2f" in job_id.lower() else None

    app.before_request(answer_whole_id)


def _compress_responses(app: Flask) -> None:
    """Make the application compress text for clients that take it. Streams are left alone."""

    @app.after_request
    def compress(response: Response) -> Response:
        is_text = (response.mimetype or "").startswith(COMPRESSED_TYPES) and not response.is_streamed
        if response.direct_passthrough or not is_text or response.status_code == 304:
            return response
        response.vary.add("Accept-Encoding")
        data = response.get_data()
        if len(data) < MIN_COMPRESSED or not request.accept_encodings["gzip"]:
            return response
        response.set_data(gzip.compress(data, COMPRESSION, mtime=0))
        response.headers["Content-Encoding"] = "gzip"
        tag, _ = response.get_etag()
        if tag is not None:
            response.set_etag(tag, weak=True)  # other bytes, equal content
        return response


def _preload(app: Flask) -> None:
    """Load templates, static files, schemas and modules, since their directory may be cleared later."""
    for name in app.jinja_env.list_templates():
        app.jinja_env.get_template(name)
    app.jinja_env.auto_reload = False
    new_schema()
    openapi.document()
    for name in MODULES:
        importlib.import_module(f"mopsjobs.{name}")
    importlib.import_module("filelock")
    directory = Path(__file__).parents[1] / "static"
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    def static(name: str) -> Response:
        if name not in files:
            abort(404)
        response = Response(files[name], mimetype=mimetypes.guess_type(name)[0] or "application/octet-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.add_etag()
        response.make_conditional(request)
        return response

    app.add_url_rule("/static/<name>", "static", static)
