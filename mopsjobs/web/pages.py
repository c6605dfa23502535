"""The pages: a handler reads the cache, `view_models` makes texts of that, and a template renders them."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException

from mopsjobs import __version__
from mopsjobs.app.find_job import with_family
from mopsjobs.app.freshness import Freshness
from mopsjobs.app.next_steps import next_command, next_commands
from mopsjobs.cache.queries import charts, families
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.failed_tasks import describe_failures
from mopsjobs.cache.queries.failures import kept_failures
from mopsjobs.errors import JobError, MopsJobsError, UsageError
from mopsjobs.events.format import LOG
from mopsjobs.registry.status import END_STATUSES, STATUSES
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import json_time
from mopsjobs.web import api, query_params, sse, view_models
from mopsjobs.web.preload import preload
from mopsjobs.web.security import protect
from mopsjobs.web.site import Site

SHOWN_EVENTS = 200
"""The last events on the page of a job when it is opened; the script adds later ones."""

LEVEL_PARTS = 240
"""Parts of the window in the chart of queued and running jobs."""

SHOWN_GROUPS = 15
"""Owners or labels in a table of the charts, at most."""

MAX_CHARTS_AGE = 60.0
"""Seconds until the charts are rendered again; they read every job, so changes do not matter."""

COLUMNS = (
    ("name", "Job"),
    ("status", "Status"),
    ("progress", "Progress"),
    ("owner", "Owner"),
    ("created", "Created"),
    ("updated", "Updated"),
    ("duration", "Duration"),
)
"""Columns of the table of jobs: their names in `sort`, and their titles."""

HOURS = (("", "any time"), ("1", "hour"), ("24", "day"), ("48", "2 days"), ("168", "week"), ("720", "30 days"))
"""The windows to choose from: their values in `hours`, and their texts."""

OTHER_FILTERS = {
    "name": "name {}",
    "namespace": "namespace {}",
    "since": "changed since {}, or active",
    "until": "created before {}",
    "days": "ended in the last {} days, or active",
}
"""Filters that the form has no field for, with the texts that show them."""


def make_app(site: Site, names: frozenset[str]) -> Flask:
    """Return the application.

    Args:
        site: the shared state.
        names: the names that the server answers to, as in a Host header.
    """
    app = Flask(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = True
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    # Values come from records: control characters, as those for the direction of text, are removed before escaping.
    app.jinja_env.filters["lines"] = view_models.lines
    app.jinja_env.finalize = lambda value: (
        strip_control_characters(value) if type(value) is str else "" if value is None else value
    )
    protect(app, names)
    stream_slots = threading.BoundedSemaphore(sse.MAX_STREAMS)
    view = _Views(app, site)
    app.add_url_rule("/", "index", lambda: redirect("/jobs", 302))
    app.add_url_rule("/jobs", "jobs", view.jobs)
    app.add_url_rule("/jobs/<path:job_id>", "job", view.job)
    app.add_url_rule("/charts", "charts", view.charts)
    app.add_url_rule("/live", "live", lambda: sse.open_stream(site, stream_slots))
    api.add_routes(app, site)
    preload(app)
    app.register_error_handler(HTTPException, view.handle_http_error)
    app.register_error_handler(MopsJobsError, view.handle_error)
    app.register_error_handler(Exception, view.handle_unexpected_error)
    return app


class _Views:
    """The handlers of the pages and of errors."""

    def __init__(self, app: Flask, site: Site) -> None:
        self._app = app
        self._site = site

    def jobs(self) -> str:
        """Return the table of jobs."""
        params = list(request.args.items(multi=True))
        query = query_params.JobsPageQuery(params, self._site.app.now())

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            counts = job_queries.count_by_status(connection, query.filter_any_status)
            total = (
                sum(counts.values())
                if not query.statuses
                else sum(job_queries.count_by_status(connection, query.filter).values())
            )
            jobs = job_queries.page_of_jobs(
                connection,
                query.filter,
                order=query.order,
                limit=query_params.PAGE_SIZE,
                offset=(query.page - 1) * query_params.PAGE_SIZE,
                now=now,
            )
            broken = len(job_queries.unreadable_records(connection))
            return {
                "header": self._site.header_of(connection, freshness),
                "counts": counts,
                "total": total,
                "rows": [view_models.row(job, now) for job in jobs],
                "broken": broken,
            }

        def render(number: int) -> str:
            data = self._site.read(view)
            return self._render(
                "jobs.html",
                number,
                query=query,
                pills=_pills(query, params, data["counts"]),
                hours=_hours(query),
                other_filters=_other_filters(query, params),
                columns=_columns(query, params),
                paging=_paging(query, params, data["total"]),
                **data,
            )

        return self._site.pages.get(request.full_path, render)

    def job(self, job_id: str) -> str | Response:
        """Return the page of a job."""
        kind = LOG if request.args.get("show") == "log" else None

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            found = job_queries.find_job(connection, job_id, now=now)
            job, family, last = with_family(connection, found, now=now)
            whole_id = str(job["job_id"])
            events = event_queries.last_events(connection, whole_id, limit=SHOWN_EVENTS, kind=kind)
            newest = event_queries.last_events(connection, whole_id, limit=1)
            cache = event_queries.cache_id(connection)
            return {
                "header": self._site.header_of(connection, freshness),
                "row": view_models.row(job, now),
                "job": job,
                "since": None if job["status_since"] is None else view_models.moment(job["status_since"], now),
                "fields": view_models.fields(job, now),
                "parent": job["parent_job_id"],
                "family": None if family is None else view_models.family(family),
                "short": families.describe_short_name(job_id, whole_id, family),
                "outputs": view_models.outputs(job),
                "timeline": view_models.timeline(job, now),
                "progress": view_models.progress_chart(
                    event_queries.progress_points(connection, whole_id), job["ended_at"]
                ),
                "events": [view_models.event(event) for event in sorted(events, key=view_models.event_time)],
                "cursor": event_queries.make_cursor(cache, newest[-1].seq if newest else 0),
                "show": kind or "",
                "next": next_command(last or job, stale=freshness.stale),
                "commands": next_commands(job, last),
                "remarks": job_queries.remarks(connection, whole_id),
                "failed": describe_failures(connection, whole_id, job["tasks_failed"]),
                "failures": view_models.failures(kept_failures(connection, whole_id)),
                "unreadable": job_queries.unreadable_records(connection, whole_id),
            }

        return self._site.pages.get(
            request.full_path, lambda number: self._render("job.html", number, **self._site.read(view))
        )

    def charts(self) -> str:
        """Return the charts."""
        now = self._site.app.now()
        query = query_params.ChartsQuery(request.args.items(multi=True), now)

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            until = now.timestamp()
            counts = job_queries.count_by_status(connection, query.filter)
            with charts.charted_jobs(connection, query.filter):
                days = charts.days(connection, since=query.since, until=until)
                levels = charts.levels(connection, since=query.since, until=until, count=LEVEL_PARTS)
                undated = charts.count_undated(connection)
                owners = charts.by_owner(connection, limit=SHOWN_GROUPS + 1)
                labels = charts.by_label(connection, limit=SHOWN_GROUPS + 1)
            return {
                "header": self._site.header_of(connection, freshness),
                "as_of": view_models.moment(json_time(now), until).at,
                "levels": view_models.level_chart(levels, until, counts),
                "undated": undated,
                "ended": view_models.ended_chart(days),
                "failures": view_models.failure_chart(days),
                "queued": view_models.spread_chart(days, "queued"),
                "ran": view_models.spread_chart(days, "ran"),
                "days": [view_models.day_row(day) for day in reversed(days)],
                "owners": _groups(owners, "owner", query),
                "labels": _groups(labels, "label", query),
                "pills": _chart_pills(counts, query),
            }

        def render(number: int) -> str:
            return self._render(
                "charts.html",
                number,
                query=query,
                windows=query_params.DAYS,
                shown_groups=SHOWN_GROUPS,
                ended_names=END_STATUSES,
                **self._site.read(view),
            )

        return self._site.charts.get(request.full_path, render, max_age=MAX_CHARTS_AGE)

    def _render(self, name: str, number: int, **values: Any) -> str:
        site = self._site
        template = self._app.jinja_env.get_template(name)
        return template.render(
            number=number,
            now=site.app.now().timestamp(),
            registry=site.app.settings.registry_id,
            redirected_by=site.app.settings.redirected_by,
            version=__version__,
            status_of=view_models.status,
            job_path=view_models.job_path,
            **values,
        )

    # --- errors --------------------------------------------------------------------------------------------------

    def handle_http_error(self, error: HTTPException) -> Response:
        """Answer an error of HTTP, as not found."""
        if error.response is not None:
            return error.response  # type: ignore[return-value]
        return self._error(error.code or 500, error.name, error.description or "", None)

    def handle_error(self, error: MopsJobsError) -> Response:
        """Answer an error of mops-jobs: the message of the command, with the matching HTTP status."""
        code = 400 if isinstance(error, UsageError) else 404 if isinstance(error, JobError) else 503
        return self._error(
            code, {400: "Bad Request", 404: "Not Found"}.get(code, "Unavailable"), str(error), error.hint
        )

    def handle_unexpected_error(self, error: Exception) -> Response:
        """Answer any other error; the server goes on."""
        self._site.app.out.warn(f"{request.path}: {type(error).__name__}: {error}")
        return self._error(
            500, "Internal Server Error", "An unexpected error occurred. See the messages of the server.", None
        )

    def _error(self, code: int, title: str, detail: str, hint: str | None) -> Response:
        if api.is_for_programs(request.path):
            return api.problem(code, title, detail, hint)
        try:
            text = self._render(
                "error.html", 0, header=self._site.header(), code=code, title=title, detail=detail, hint=hint
            )
        except MopsJobsError:  # without a usable cache, there is no age for the head of the page
            return Response(f"{title}: {strip_control_characters(detail)}\n", code, mimetype="text/plain")
        return Response(text, code, mimetype="text/html")


def _link(params: list[tuple[str, str]], changes: Mapping[str, str]) -> str:
    """Return the query string with changed values, without empty ones, and for the first page."""
    others = [(name, value) for name, value in params if name not in changes and name != "page" and value]
    return "?" + urlencode([*others, *((name, value) for name, value in changes.items() if value)])


def _pills(
    query: query_params.JobsPageQuery, params: list[tuple[str, str]], counts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return a link for each status: to its jobs only, and from there back to all."""
    pills = [
        {
            "name": "all",
            "count": sum(counts.values()),
            "on": query.filter.statuses is None,
            "to": _link(params, {"status": ""}),
        }
    ]
    for name in STATUSES:
        on = name in query.statuses
        to = _link(params, {"status": "" if query.statuses == {name} else name})
        pills.append(
            {"name": name, "status": view_models.status(name), "count": counts.get(name, 0), "on": on, "to": to}
        )
    others = sum(count for name, count in counts.items() if name not in STATUSES)
    if others:
        pills.append({"name": "unknown", "status": view_models.status("unknown"), "count": others, "to": None})
    return pills


def _hours(query: query_params.JobsPageQuery) -> list[tuple[str, str]]:
    """Return value and text of each window to choose from. A window of the query that is not offered is added."""
    hours = query.hours
    return [*HOURS, *([(hours, f"{hours} hours")] if hours not in dict(HOURS) else [])]


def _other_filters(query: query_params.JobsPageQuery, params: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return the filters of the query that the form has no field for: each with a text, and a link that removes it."""
    return [
        {"name": name, "value": value, "text": text.format(value), "to": _link(params, {name: ""})}
        for name, text in OTHER_FILTERS.items()
        if (value := query.values[name]) is not None
    ]


def _chart_pills(counts: Mapping[str, int], query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a link for each status of the jobs in the charts, in the order in which a job passes them."""
    known = [name for name in STATUSES if name in counts]
    return [
        {
            "status": view_models.status(name),
            "count": counts[name],
            "to": "/jobs" + _link([("status", name), *query.params], {}),
        }
        for name in known
    ] + [
        {"status": view_models.status(name), "count": count, "to": None}
        for name, count in counts.items()
        if name not in known
    ]


def _columns(query: query_params.JobsPageQuery, params: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the heads of the table: each links to the order by its column, or to the reverse of that."""
    first = query.sort.partition(",")[0].strip()
    columns = []
    for name, title in COLUMNS:
        order = {name: "ascending", f"+{name}": "ascending", f"-{name}": "descending"}.get(first)
        reverse = f"-{name}" if order == "ascending" else name
        is_newest_first = order is None and name in ("created", "updated", "duration", "progress")
        to = _link(params, {"sort": f"-{name}" if is_newest_first else reverse})
        columns.append({"name": name, "title": title, "order": order, "to": to})
    return columns


def _paging(query: query_params.JobsPageQuery, params: list[tuple[str, str]], total: int) -> dict[str, Any]:
    last = max(1, -(-total // query_params.PAGE_SIZE))
    begin = (query.page - 1) * query_params.PAGE_SIZE

    def to(page: int) -> str | None:
        return _link(params, {}) + f"&page={page}" if 1 <= page <= last and page != query.page else None

    return {
        "page": query.page,
        "pages": last,
        "begin": begin + 1,
        "end": min(begin + query_params.PAGE_SIZE, total),
        "before": to(min(query.page - 1, last)),
        "after": to(query.page + 1),
    }


def _groups(groups: list[charts.Group], field: str, query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each owner or label, with a link to its charts. A label is added to those of the query."""
    others = [(name, value) for name, value in query.params if name != field or field == "label"]
    return [
        {
            **view_models.group_row(group),
            "to": _link(list(dict.fromkeys([*others, (field, group.name)])), {}),
        }
        for group in groups
    ]
