"""The pages. A handler reads the cache, has `shown` turn that into texts, and a template puts them in place."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException

from mopsjobs import __version__
from mopsjobs.app.freshness import Freshness
from mopsjobs.app.next_steps import next_command, next_commands
from mopsjobs.cache.queries import charts
from mopsjobs.cache.queries import events as event_queries
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import cache_id, make_cursor
from mopsjobs.errors import JobError, MopsJobsError, UsageError
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.web import api, query_params, sse, view_models
from mopsjobs.web.preload import preload
from mopsjobs.web.security import protect
from mopsjobs.web.site import Site

SHOWN_EVENTS = 200
"""The last ones of a job, when its page is opened; those that come in later are added."""


LEVEL_STEPS = 240
"""Moments at which jobs are counted for a chart over time."""


SHOWN_GROUPS = 15


CHARTS_AGE = 60.0
"""Seconds for which the charts stay as they are, whatever changes: they read every job."""


COLUMNS = (
    ("name", "Job"),
    ("status", "Status"),
    ("progress", "Progress"),
    ("owner", "Owner"),
    ("created", "Created"),
    ("updated", "Updated"),
    ("duration", "Duration"),
)
"""Of the table of jobs: what `sort` calls them, and their heads."""


def make_app(site: Site, names: frozenset[str]) -> Flask:
    """The application.

    Args:
        site: what it shows.
        names: the names it answers to, as a Host header has them.
    """
    app = Flask(__name__, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = True
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    # What a template shows came from a record: nothing in it may turn the writing direction. Escaping comes after.
    app.jinja_env.filters["lines"] = view_models.lines
    app.jinja_env.finalize = lambda value: (
        strip_control_characters(value) if type(value) is str else "" if value is None else value
    )
    protect(app, names)
    seats = threading.BoundedSemaphore(sse.MAX_STREAMS)
    view = _Views(app, site)
    app.add_url_rule("/", "index", lambda: redirect("/jobs", 302))
    app.add_url_rule("/jobs", "jobs", view.jobs)
    app.add_url_rule("/jobs/<path:job_id>", "job", view.job)
    app.add_url_rule("/charts", "charts", view.charts)
    app.add_url_rule("/live", "live", lambda: sse.open_stream(site, seats))
    api.add_routes(app, site)
    preload(app)
    app.register_error_handler(HTTPException, view.http_error)
    app.register_error_handler(MopsJobsError, view.refused)
    app.register_error_handler(Exception, view.unexpected)
    return app


class _Views:
    """The handlers of the pages, and of what goes wrong."""

    def __init__(self, app: Flask, site: Site) -> None:
        self._app = app
        self._site = site

    def jobs(self) -> str:
        """The table of jobs."""
        query = list(request.args.items(multi=True))
        wanted = query_params.JobsPageQuery(query, self._site.app.now())

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            counts = job_queries.count_by_status(connection, wanted.all_statuses)
            chosen = wanted.chosen
            total = (
                sum(counts.values())
                if not wanted.statuses
                else sum(job_queries.count_by_status(connection, chosen).values())
            )
            found = job_queries.page_of_jobs(
                connection,
                chosen,
                order=wanted.order,
                limit=query_params.PAGE_SIZE,
                offset=(wanted.page - 1) * query_params.PAGE_SIZE,
                now=now,
            )
            broken = len(job_queries.unreadable_records(connection))
            return {
                "header": self._site.header_of(connection, freshness),
                "counts": counts,
                "total": total,
                "rows": [view_models.row(job, now) for job in found],
                "broken": broken,
            }

        def make(number: int) -> str:
            data = self._site.read(view)
            return self._rendered(
                "jobs.html",
                number,
                wanted=wanted,
                pills=_pills(wanted, query, data["counts"]),
                columns=_columns(wanted, query),
                paging=_paging(wanted, query, data["total"]),
                **data,
            )

        return self._site.pages.get(request.full_path, make)

    def job(self, job_id: str) -> str | Response:
        """One job."""
        kind = "log" if request.args.get("show") == "log" else None

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            job = job_queries.find_job(connection, job_id, now=now)
            whole_id = str(job["job_id"])
            events = event_queries.last_events(connection, whole_id, limit=SHOWN_EVENTS, kind=kind)
            seen = event_queries.last_events(connection, whole_id, limit=1)
            return {
                "header": self._site.header_of(connection, freshness),
                "row": view_models.row(job, now),
                "job": job,
                "since": None if job["status_since"] is None else view_models.moment(job["status_since"], now),
                "facts": view_models.facts(job, now),
                "parent": job["parent_job_id"],
                "outputs": view_models.outputs(job),
                "timeline": view_models.timeline(job, now),
                "progress": view_models.progress_chart(event_queries.progress_points(connection, whole_id)),
                "events": [view_models.event(one) for one in sorted(events, key=view_models.event_time)],
                "cursor": make_cursor(cache_id(connection), seen[-1].seq if seen else 0),
                "show": kind or "",
                "next": next_command(job, stale=freshness.stale),
                "commands": next_commands(job),
                "unreadable": job_queries.unreadable_records(connection, whole_id),
            }

        return self._site.pages.get(
            request.full_path, lambda number: self._rendered("job.html", number, **self._site.read(view))
        )

    def charts(self) -> str:
        """Charts over the whole cache."""
        args = query_params.parse_query(query_params.charts_query(), request.args.items(multi=True))

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._site.app.now().timestamp()
            since = now - args.days * charts.DAY
            step = (now - since) / LEVEL_STEPS
            chosen = query_params.chart_filter(args)
            counts = job_queries.count_by_status(connection, chosen)
            with charts.charted_jobs(connection, chosen, since):
                days = charts.days(connection, since=since + charts.DAY, until=now)
                levels = charts.levels(connection, since=since, until=now, step=step)
                owners = charts.by_owner(connection, limit=SHOWN_GROUPS)
                labels = charts.by_label(connection, limit=SHOWN_GROUPS)
            return {
                "header": self._site.header_of(connection, freshness),
                "levels": view_models.level_chart(levels),
                "ended": view_models.ended_chart(days),
                "failures": view_models.failure_chart(days),
                "queued": view_models.spread_chart(days, "queued"),
                "ran": view_models.spread_chart(days, "ran"),
                "days": [view_models.day_row(day) for day in reversed(days)],
                "owners": _groups(owners, "owner", args),
                "labels": _groups(labels, "label", args),
                "pills": _charted(counts, args),
            }

        def make(number: int) -> str:
            return self._rendered(
                "charts.html",
                number,
                args=args,
                windows=query_params.DAYS,
                ended_names=view_models.ENDED,
                **self._site.read(view),
            )

        return self._site.charts.get(request.full_path, make, max_age=CHARTS_AGE)

    def _rendered(self, name: str, number: int, **values: Any) -> str:
        site = self._site
        template = self._app.jinja_env.get_template(name)
        return template.render(
            number=number,
            registry=site.app.settings.registry_id,
            redirected_by=site.app.settings.redirected_by,
            version=__version__,
            status_of=view_models.status,
            job_path=view_models.job_path,
            **values,
        )

    # --- what goes wrong -----------------------------------------------------------------------------------------

    def http_error(self, error: HTTPException) -> Response:
        """Not found and its kind."""
        if error.response is not None:
            return error.response  # type: ignore[return-value]
        return self._error(error.code or 500, error.name, error.description or "", None)

    def refused(self, error: MopsJobsError) -> Response:
        """An error of ours: the words of the command, with the code of HTTP that fits."""
        code = 400 if isinstance(error, UsageError) else 404 if isinstance(error, JobError) else 503
        return self._error(
            code, {400: "Bad Request", 404: "Not Found"}.get(code, "Unavailable"), str(error), error.hint
        )

    def unexpected(self, error: Exception) -> Response:
        """Whatever else: the server goes on."""
        self._site.app.out.warn(f"{request.path}: {type(error).__name__}: {error}")
        return self._error(
            500, "Internal Server Error", "Something unexpected went wrong; the server's output tells.", None
        )

    def _error(self, code: int, title: str, detail: str, hint: str | None) -> Response:
        if api.is_for_programs(request.path):
            return api.problem(code, title, detail, hint)
        try:
            text = self._rendered(
                "error.html", 0, header=self._site.header(), code=code, title=title, detail=detail, hint=hint
            )
        except MopsJobsError:  # the cache cannot be used, and so the header cannot tell its age
            return Response(f"{title}: {strip_control_characters(detail)}\n", code, mimetype="text/plain")
        return Response(text, code, mimetype="text/html")


def _link(query: list[tuple[str, str]], changes: Mapping[str, str]) -> str:
    """The page with another value, or without one where it is empty; always from its first page on."""
    kept = [(name, value) for name, value in query if name not in changes and name != "page" and value]
    return "?" + urlencode([*kept, *((name, value) for name, value in changes.items() if value)])


def _pills(
    wanted: query_params.JobsPageQuery, query: list[tuple[str, str]], counts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """A link for each status: to its jobs alone, or, from there, back to all."""
    pills = [
        {"name": "all", "count": sum(counts.values()), "on": not wanted.statuses, "to": _link(query, {"status": ""})}
    ]
    for name in view_models.STATUSES:
        on = name in wanted.statuses
        to = _link(query, {"status": "" if wanted.statuses == {name} else name})
        pills.append(
            {"name": name, "status": view_models.status(name), "count": counts.get(name, 0), "on": on, "to": to}
        )
    others = sum(count for name, count in counts.items() if name not in view_models.STATUSES)
    if others:
        pills.append(
            {"name": "unknown", "status": view_models.status("unknown"), "count": others, "on": False, "to": None}
        )
    return pills


def _charted(counts: Mapping[str, int], args: Any) -> list[dict[str, Any]]:
    """The statuses of the jobs in the charts, in the order in which a job passes them; each leads to those jobs."""
    kept = {"owner": args.owner or "", "label": args.label or ""}
    known = [name for name in view_models.STATUSES if name in counts]
    return [
        {"status": view_models.status(name), "count": counts[name], "to": "/jobs" + _link([], {"status": name, **kept})}
        for name in known
    ] + [
        {"status": view_models.status(name), "count": count, "to": None}
        for name, count in counts.items()
        if name not in known
    ]


def _columns(wanted: query_params.JobsPageQuery, query: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The heads of the table: each sorts by its column, and the other way round when that is done already."""
    first = wanted.sort.partition(",")[0].strip()
    found = []
    for name, title in COLUMNS:
        order = {name: "ascending", f"+{name}": "ascending", f"-{name}": "descending"}.get(first)
        turned = f"-{name}" if order == "ascending" else name
        start = f"-{name}" if order is None and name in ("created", "updated", "duration", "progress") else turned
        found.append({"name": name, "title": title, "order": order, "to": _link(query, {"sort": start})})
    return found


def _paging(wanted: query_params.JobsPageQuery, query: list[tuple[str, str]], total: int) -> dict[str, Any]:
    last = max(1, -(-total // query_params.PAGE_SIZE))
    begin = (wanted.page - 1) * query_params.PAGE_SIZE

    def to(page: int) -> str | None:
        return _link(query, {}) + f"&page={page}" if 1 <= page <= last and page != wanted.page else None

    return {
        "page": wanted.page,
        "pages": last,
        "begin": begin + 1,
        "end": min(begin + query_params.PAGE_SIZE, total),
        "before": to(min(wanted.page - 1, last)),
        "after": to(wanted.page + 1),
    }


def _groups(found: list[charts.Group], which: str, args: Any) -> list[dict[str, Any]]:
    """Rows with a link to the charts of that group alone."""
    kept = {"days": str(args.days), "owner": args.owner or "", "label": args.label or ""}
    rows = []
    for group in found:
        values = {**kept, which: group.name}
        rows.append(
            {**view_models.group_row(group), "to": "?" + urlencode({name: v for name, v in values.items() if v})}
        )
    return rows
