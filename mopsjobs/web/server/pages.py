"""The application: its routes and its answers to errors. A handler reads the cache, and a template renders that."""

from __future__ import annotations

from flask import Flask, Response, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from mopsjobs.cache.database import OtherCacheError
from mopsjobs.errors import JobError, MopsJobsError, RecordError, UsageError
from mopsjobs.utils.text import pluralize, strip_control_characters
from mopsjobs.web.api import api, openapi
from mopsjobs.web.pages.charts_page import ChartsPage
from mopsjobs.web.pages.compare_page import ComparePage
from mopsjobs.web.pages.failures_page import FailuresPage
from mopsjobs.web.pages.jobs_page import JobsPage
from mopsjobs.web.queries import view_models
from mopsjobs.web.server.compression import compress_responses
from mopsjobs.web.server.job_routes import add_job_routes
from mopsjobs.web.server.preload import preload
from mopsjobs.web.server.security import protect
from mopsjobs.web.site.rendering import Renderer
from mopsjobs.web.site.site import Site


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
    filters = {"lines": view_models.lines, "isolated": view_models.isolated}
    app.jinja_env.filters |= filters | {"number": "{:,}".format, "plural": pluralize}
    app.jinja_env.finalize = lambda value: (
        strip_control_characters(value) if type(value) is str else "" if value is None else value
    )
    protect(app, names)
    compress_responses(app)
    renderer = Renderer(app, site)
    errors = _Errors(renderer)
    app.add_url_rule("/", "index", lambda: redirect("/jobs", 302))
    app.add_url_rule("/jobs", "jobs", JobsPage(renderer).answer)
    add_job_routes(app, renderer)
    app.add_url_rule("/compare", "compare", ComparePage(renderer).answer)
    app.add_url_rule("/failures", "failures", FailuresPage(renderer).answer)
    app.add_url_rule("/charts", "charts", ChartsPage(renderer).answer)
    app.add_url_rule("/api", "api", lambda: renderer.page("api.html", lambda *_: {"document": openapi.document()}))
    for path in [rule.rule for rule in app.url_map.iter_rules() if rule.rule.count("/") == 1 and rule.rule != "/"]:
        app.add_url_rule(f"{path}/", f"{path}/", _without_slash)
    api.add_routes(app, site)
    preload(app)
    app.register_error_handler(HTTPException, errors.handle_http_error)
    app.register_error_handler(MopsJobsError, errors.handle_error)
    app.register_error_handler(Exception, errors.handle_unexpected_error)
    return app


def _without_slash() -> ResponseReturnValue:
    """Lead to the page whose address has no slash at its end."""
    query = request.query_string.decode("latin-1")
    return redirect(request.path.rstrip("/") + (f"?{query}" if query else ""), 308)


_STATUSES = (
    (OtherCacheError, 503, "Unavailable"),  # no request can do anything about it
    (UsageError, 400, "Bad Request"),
    (JobError, 404, "Not Found"),
    (RecordError, 502, "Unreadable Record"),  # what the registry has is wrong; a later request gets no other answer
)
"""The HTTP status of an error of mops-jobs, and its title; 503 for all others."""


class _Errors:
    """The handlers of errors."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def handle_http_error(self, error: HTTPException) -> Response:
        """Answer an error of HTTP, as not found."""
        if error.response is not None:
            return error.response  # type: ignore[return-value]
        return self._error(error.code or 500, error.name, error.description or "", None)

    def handle_error(self, error: MopsJobsError) -> Response:
        """Answer an error of mops-jobs: the message of the command, with the matching HTTP status."""
        matching = ((code, title) for kind, code, title in _STATUSES if isinstance(error, kind))
        code, title = next(matching, (503, "Unavailable"))
        return self._error(code, title, str(error), error.hint, getattr(error, "candidates", ()))

    def handle_unexpected_error(self, error: Exception) -> Response:
        """Answer any other error; the server goes on."""
        self._renderer.site.app.out.warn(f"{request.path}: {type(error).__name__}: {error}")
        return self._error(
            500, "Internal Server Error", "An unexpected error occurred. See the messages of the server.", None
        )

    def _error(
        self, code: int, title: str, detail: str, hint: str | None, candidates: tuple[str, ...] = ()
    ) -> Response:
        if api.is_for_programs(request.path):
            return api.problem(code, title, detail, hint)
        header = self._renderer.site.header_or_problem()
        text = self._renderer.render(
            "error.html",
            header=header if header["notice"] != detail else {**header, "notice": None},
            code=code,
            title=title,
            detail=detail,
            hint=hint,
            candidates=candidates,
        )
        return Response(text, code, mimetype="text/html")
