"""The API: the JSON documents of the commands, read from the cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, request

from mopsjobs.app import metrics
from mopsjobs.app.find_job import with_family
from mopsjobs.app.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import cache_id, parse_cursor, public_event, read_events
from mopsjobs.console.result import Document
from mopsjobs.web.openapi import document
from mopsjobs.web.query_params import EventsQuery, JobsQuery
from mopsjobs.web.site import Site

METRICS = "/metrics"
HEALTH = "/healthz"

MAX_ANSWER_BYTES = 4_000_000
"""Bytes of jobs in one response, at most. A Link header leads to the rest (RFC 8288)."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"
"""The media type of errors (RFC 9457)."""


def add_routes(app: Flask, site: Site) -> None:
    """Add the routes `/api/v1/`, `/metrics` and `/healthz`."""
    handlers = _Handlers(site)
    app.add_url_rule("/api/v1/jobs", "api_jobs", handlers.jobs)
    app.add_url_rule("/api/v1/jobs/<path:job_id>", "api_job", handlers.job)
    app.add_url_rule("/api/v1/events", "api_events", handlers.events)
    app.add_url_rule("/api/v1/openapi.json", "api_openapi", lambda: jsonify(document()))
    app.add_url_rule(METRICS, "metrics", handlers.metrics)
    app.add_url_rule(HEALTH, "health", handlers.health)


def is_for_programs(path: str) -> bool:
    """Return True if programs read this path: its errors are then problem documents."""
    return path.startswith("/api/") or path in (METRICS, HEALTH)


def problem(code: int, title: str, detail: str, hint: str | None) -> Response:
    """Return an error as a problem document (RFC 9457) with a `hint`."""
    content = {"title": title, "status": code, "detail": detail, "hint": hint}
    return Response(json.dumps(content) + "\n", code, mimetype=PROBLEM)


def _take_bytes(texts: Iterator[str], limit: int) -> list[str]:
    """Return the first texts, up to `limit` bytes, but at least one."""
    first_texts: list[str] = []
    size = 0
    for text in texts:
        size += len(text)
        if first_texts and size > limit:
            break
        first_texts.append(text)
    return first_texts


class _Handlers:
    def __init__(self, site: Site) -> None:
        self._site = site

    def jobs(self) -> Response:
        """Return the document of `list --json`."""
        now = self._site.app.now()
        query = JobsQuery(request.args.items(multi=True), now)

        def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[str, int | None]:
            page = job_queries.list_jobs(
                connection, query.filter, order=query.order, limit=query.limit, now=now.timestamp()
            )
            texts = _take_bytes(page.texts(skip=query.skip), MAX_ANSWER_BYTES)
            after = query.skip + len(texts)
            head = self._site.app.list_header(page, freshness) | {"returned": len(texts)}
            document = "".join(Document(head, items=("jobs", texts)).pieces(None))
            return document, after if texts and after < len(page) else None

        text, after = self._site.read(view)
        response = Response(text + "\n", mimetype=JSON)
        if after is not None:
            others = [(name, value) for name, value in request.args.items(multi=True) if name != "skip"]
            response.headers["Link"] = f'<{request.path}?{urlencode([*others, ("skip", after)])}>; rel="next"'
        return response

    def job(self, job_id: str) -> Response:
        """Return the document of `status JOB --json`."""
        now = self._site.app.now().timestamp()

        def view(connection: sqlite3.Connection, _age: Freshness) -> dict[str, object]:
            return with_family(connection, job_queries.find_job(connection, job_id, now=now), now=now)[0]

        return Response("".join(Document(self._site.read(view)).pieces(None)) + "\n", mimetype=JSON)

    def events(self) -> Response:
        """Return the lines of `events --json`, one event per line."""
        query = EventsQuery(request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _age: Freshness) -> str:
            cache = cache_id(connection)
            after = 0 if query.since is None else parse_cursor(connection, query.since)
            stored = read_events(connection, after, job_id=query.job_id, limit=query.limit)
            return "".join(json.dumps(public_event(cache, event), allow_nan=False) + "\n" for event in stored)

        return Response(self._site.read(view), mimetype=NDJSON)

    def metrics(self) -> Response:
        """Return the output of `metrics`, rendered once for each state of the cache."""
        now = self._site.app.now().timestamp()

        def render(_number: int) -> str:
            return self._site.read(
                lambda connection, _age: metrics.render(connection, metrics.MetricsOptions(), now=now).decode()
            )

        return Response(self._site.pages.get(METRICS, render), content_type=metrics.CONTENT_TYPE)

    def health(self) -> Response:
        """Return 200 if the server has data, however old; the document says how old."""
        header = self._site.header_or_problem()
        is_ok = header["synced_at"] is not None
        fields = {name: header[name] for name in ("synced_at", "age_seconds", "stale", "problem")}
        return Response(json.dumps({"ok": is_ok, **fields}) + "\n", 200 if is_ok else 503, mimetype=JSON)
