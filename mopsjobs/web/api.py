"""The API: the same documents as those of the commands, from the cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, request

from mopsjobs.app import metrics
from mopsjobs.app.freshness import Freshness
from mopsjobs.app.job_arguments import job_filter
from mopsjobs.app.metrics import MetricsOptions
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import cache_id, parse_cursor, public_event, read_events
from mopsjobs.console.result import Document
from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.web import query_params
from mopsjobs.web.openapi import document
from mopsjobs.web.site import Site

METRICS = "/metrics"
HEALTH = "/healthz"

MAX_ANSWER_BYTES = 4_000_000
"""Of jobs in one answer. Where that cuts it, a Link header leads to the rest (RFC 8288)."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
"""RFC 9457."""


def add_routes(app: Flask, site: Site) -> None:
    """Have the application answer under `/api/v1/`, `/metrics` and `/healthz`."""
    handlers = _Handlers(site)
    app.add_url_rule("/api/v1/jobs", "api_jobs", handlers.jobs)
    app.add_url_rule("/api/v1/jobs/<path:job_id>", "api_job", handlers.job)
    app.add_url_rule("/api/v1/events", "api_events", handlers.events)
    app.add_url_rule("/api/v1/openapi.json", "api_openapi", lambda: jsonify(document()))
    app.add_url_rule(METRICS, "metrics", handlers.metrics)
    app.add_url_rule(HEALTH, "health", handlers.health)


def is_for_programs(path: str) -> bool:
    """Whether what is there is read by programs: then errors are problem documents, too."""
    return path.startswith("/api/") or path in (METRICS, HEALTH)


def problem(code: int, title: str, detail: str, hint: str | None) -> Response:
    """An error as RFC 9457 has it, with a `hint` beside."""
    content = {"title": title, "status": code, "detail": detail, "hint": hint}
    return Response(json.dumps(content) + "\n", code, mimetype=PROBLEM)


def _within(texts: Iterator[str], most: int) -> list[str]:
    """The first ones: as many as have so many bytes, and one at least."""
    found: list[str] = []
    size = 0
    for text in texts:
        size += len(text)
        if found and size > most:
            break
        found.append(text)
    return found


class _Handlers:
    def __init__(self, site: Site) -> None:
        self._site = site

    def jobs(self) -> Response:
        """What `list --json` prints."""
        args = query_params.parse_query(query_params.api_query(), request.args.items(multi=True))
        if not 1 <= args.limit <= query_params.MAX_LIMIT:
            raise UsageError(f"limit {args.limit} is not between 1 and {query_params.MAX_LIMIT}.")
        now = self._site.app.now()
        chosen, order = job_filter(args, now), filters.parse_sort(args.sort)

        def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[str, int | None]:
            page = job_queries.list_jobs(connection, chosen, order=order, limit=args.limit, now=now.timestamp())
            texts = _within(page.texts(skip=args.skip), MAX_ANSWER_BYTES)
            after = args.skip + len(texts)
            head = self._site.app.list_header(page, freshness) | {"returned": len(texts)}
            document = "".join(Document(head, items=("jobs", texts)).pieces(None))
            return document, after if texts and after < len(page) else None

        text, after = self._site.read(view)
        response = Response(text + "\n", mimetype=JSON)
        if after is not None:
            query = [(name, value) for name, value in request.args.items(multi=True) if name != "skip"]
            response.headers["Link"] = f'<{request.path}?{urlencode([*query, ("skip", after)])}>; rel="next"'
        return response

    def job(self, job_id: str) -> Response:
        """What `status JOB --json` prints."""
        now = self._site.app.now().timestamp()
        job = self._site.read(lambda connection, _age: job_queries.find_job(connection, job_id, now=now))
        return Response("".join(Document(job).pieces(None)) + "\n", mimetype=JSON)

    def events(self) -> Response:
        """What `events --json` prints: one event a line."""
        args = query_params.parse_query(query_params.events_query(), request.args.items(multi=True))
        if args.limit > query_params.MAX_LIMIT:
            raise UsageError(f"limit {args.limit} is not between 1 and {query_params.MAX_LIMIT}.")

        def view(connection: sqlite3.Connection, _age: Freshness) -> str:
            cache = cache_id(connection)
            after = 0 if args.since is None else parse_cursor(connection, args.since)
            found = read_events(connection, after, job_id=args.job, limit=args.limit)
            return "".join(json.dumps(public_event(cache, one), allow_nan=False) + "\n" for one in found)

        return Response(self._site.read(view), mimetype=NDJSON)

    def metrics(self) -> Response:
        """What `metrics` prints, made once for each state of the cache."""
        now = self._site.app.now().timestamp()

        def make(_number: int) -> str:
            return self._site.read(
                lambda connection, _age: metrics.render(connection, MetricsOptions(), now=now).decode()
            )

        return Response(self._site.pages.get(METRICS, make), content_type=metrics.CONTENT_TYPE)

    def health(self) -> Response:
        """Whether the server answers and has data; how fresh that is, it tells, but a stale cache is no illness."""
        try:
            header = self._site.header()
        except MopsJobsError as error:
            header = {"synced_at": None, "age_seconds": None, "stale": True, "problem": str(error)}
        is_well = header["synced_at"] is not None
        told = {name: header[name] for name in ("synced_at", "age_seconds", "stale", "problem")}
        return Response(json.dumps({"ok": is_well, **told}) + "\n", 200 if is_well else 503, mimetype=JSON)
