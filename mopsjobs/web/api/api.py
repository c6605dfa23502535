"""The API: the JSON documents of the commands, read from the cache."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from urllib.parse import urlencode

from flask import Flask, Response, jsonify, request

from mopsjobs.app.care import metrics
from mopsjobs.app.jobs.find_job import FoundJob, Job, with_family
from mopsjobs.app.jobs.job_tasks import JobTasks, never_mirrored_error
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import API
from mopsjobs.app.tasks.failures import NewFailures, counts_by_record, failures_of_cache, keep_new_failures
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.events import cache_id, parse_cursor, public_event, read_events
from mopsjobs.cache.queries.failures import jobs_with_failures
from mopsjobs.cache.queries.filters import hide_archived, parse_sort
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_filters import invalid_cursor
from mopsjobs.cache.queries.tasks import read_task_query
from mopsjobs.console.result import Document
from mopsjobs.errors import NoManifestError, command_line, read_job_name
from mopsjobs.registry.notes import is_submitted
from mopsjobs.utils.table_files import json_objects, type_of
from mopsjobs.utils.times import json_timestamp
from mopsjobs.web.api.openapi import (
    EVENTS,
    FAILURES,
    JOBS,
    RESULTS,
    TASKS,
    check_failures,
    document,
)
from mopsjobs.web.pages.readings import read_results, reason_to_wait, with_retry
from mopsjobs.web.pages.result_rows import NO_TASKS
from mopsjobs.web.queries.query_params import JobsQuery, parse_query
from mopsjobs.web.site.site import Site

RESULTS_VERSION = 1

METRICS = "/metrics"
HEALTH = "/healthz"

MAX_ANSWER_BYTES = 4_000_000
"""Bytes of a list in one response, at most. A Link header leads to the rest (RFC 8288)."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"


def add_routes(app: Flask, site: Site) -> None:
    """Add the routes `/api/v1/`, `/metrics` and `/healthz`."""
    handlers = _Handlers(site)
    for name in ("jobs", "tasks", "results", "failures", "events"):
        app.add_url_rule(f"/api/v1/{name}", f"api_{name}", getattr(handlers, name))
    app.add_url_rule("/api/v1/jobs/<path:job_id>", "api_job", handlers.job)
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


def _document(head: Mapping[str, object], name: str, texts: Iterable[str]) -> str:
    """Return a document whose last field is a list of JSON texts."""
    return "".join(Document(head, items=(name, texts)).pieces(None))


def _page(text: str, name: str, after: object) -> Response:
    """Return a document with a link to the next page.

    Args:
        text: the document.
        name: the parameter that says where the next page begins.
        after: its value; None on the last page.
    """
    response = Response(text + "\n", mimetype=JSON)
    if after is not None:
        others = [(key, value) for key, value in request.args.items(multi=True) if key != name]
        response.headers["Link"] = f'<{request.path}?{urlencode([*others, (name, str(after))])}>; rel="next"'
    return response


def _check_mirrored(connection: sqlite3.Connection, job: Job) -> None:
    """Refuse a job whose ledger the cache lacks: no request mirrors it.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that there is none.
        StoreUnavailableError: if the cache lacks it.
    """
    job_id = str(job["job_id"])
    if read_ledger(connection, job_id) is None:
        if not is_submitted(job):
            raise NoManifestError(NO_TASKS.text, job_id=job_id)
        raise never_mirrored_error(job_id, hint=f"Run: {command_line('tasks', job_id)}")


class _Handlers:
    def __init__(self, site: Site) -> None:
        self._site = site

    def jobs(self) -> Response:
        """Return the document of `list --json`."""
        now = self._site.app.now()
        query = JobsQuery(API, JOBS, request.args.items(multi=True), now)
        skip, order = query.values["skip"], parse_sort(query.values["sort"])

        def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[str, int | None]:
            hide_archived(connection, query.filter)
            page = job_queries.list_jobs(
                connection, query.filter, order=order, limit=query.values["limit"], now=now.timestamp()
            )
            texts = _take_bytes(page.texts(skip=skip), MAX_ANSWER_BYTES)
            after = skip + len(texts)
            head = self._site.app.list_header(page, freshness) | {"returned": len(texts)}
            return _document(head, "jobs", texts), after if texts and after < len(page) else None

        text, after = self._site.read(view)
        return _page(text, "skip", after)

    def job(self, job_id: str) -> Response:
        """Return the document of `status JOB --json`."""

        def view(connection: sqlite3.Connection, job: Job, now: float) -> dict[str, object]:
            return with_family(connection, job, now=now)[0]

        job = self._site.read_job(read_job_name(job_id), view)
        return Response("".join(Document(job).pieces(None)) + "\n", mimetype=JSON)

    def tasks(self) -> Response:
        """Return the document of `tasks --json`."""
        query = parse_query(TASKS, request.args.items(multi=True))
        which, limit = read_task_query(query["status"], query["param"], after=query["after"]), query["limit"]

        def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[str, int | None]:
            job = job_queries.find_job(connection, query["job"], now=self._site.app.now().timestamp())
            _check_mirrored(connection, job)
            found = JobTasks(self._site.app, FoundJob(job, freshness))
            tasks = found.list_tasks(connection, which)
            total = tasks.count()
            listed = list(tasks.tasks(limit + 1))  # one more, to know whether there are more
            texts = (json.dumps(one.to_json(), allow_nan=False) for one in islice(listed, limit))
            taken = _take_bytes(texts, MAX_ANSWER_BYTES)
            head = found.document_head(tasks, len(taken), total)
            after = listed[len(taken) - 1].row.task if len(taken) < len(listed) else None
            return _document(head, "tasks", taken), after

        text, after = self._site.read(view)
        return _page(text, "after", after)

    def results(self) -> Response:
        """Return the table of `results --table` as a document; 503 while it is being read."""
        site = self._site
        query = parse_query(RESULTS, request.args.items(multi=True))
        job_id, results, reading = read_results(site, query["job"])
        if results is None:
            why = reason_to_wait(job_id, reading)
            return with_retry(problem(503, "Unavailable", f"The results of {job_id}: {why.text}", None), why)
        objects = json_objects(results.columns, results.rows.read(-1 if query["after"] is None else query["after"]))
        listed = list(islice(objects, query["limit"] + 1))  # one more, to know whether there are more
        taken = _take_bytes(iter(listed[: query["limit"]]), MAX_ANSWER_BYTES)
        age = {
            "synced_at": json_timestamp(results.made_at),
            "age_seconds": max(0.0, round(site.app.now().timestamp() - results.made_at, 3)),
            "stale": reading is not None,  # more is known by now
        }
        head = {
            **site.app.document_head(RESULTS_VERSION, age),
            "job_id": job_id,
            "problems": results.problems,
            "columns": [{"name": column.name, "type": type_of(column.kinds)} for column in results.columns],
            "total": results.rows.count,
            "returned": len(taken),
        }
        after = json.loads(taken[-1])["task"] if len(taken) < len(listed) else None
        return _page(_document(head, "rows", taken), "after", after)

    def failures(self) -> Response:
        """Return the document of `failures --json`, by the ledgers that are in the cache."""
        site = self._site
        query = JobsQuery(API, FAILURES, request.args.items(multi=True), site.app.now())
        check_failures(query)
        named, after, resumed = (query.values[name] for name in ("job", "after", "resumed"))
        new: NewFailures = {}

        def view(connection: sqlite3.Connection, freshness: Freshness) -> tuple[str, str | None]:
            jobs = [job_queries.find_job(connection, name, now=0.0) for name in named]
            for job in jobs:
                if not counts_by_record(connection, str(job["job_id"])):
                    _check_mirrored(connection, job)
            names = [str(job["job_id"]) for job in jobs]
            if not names:
                names, _ = jobs_with_failures(connection, query.filter, query.values["limit"], resumed=resumed)
            with_resumed = resumed or bool(named)
            failures = failures_of_cache(connection, dict.fromkeys(names), freshness, new, resumed=with_resumed)
            keys = [group.first.key for group in failures.groups]
            if after is not None and after not in keys:
                raise invalid_cursor(after)
            groups = failures.groups[0 if after is None else keys.index(after) + 1 :]
            taken = _take_bytes((json.dumps(group.to_json(), allow_nan=False) for group in groups), MAX_ANSWER_BYTES)
            document = _document(failures.document_head(site.app), "groups", taken)
            return document, groups[len(taken) - 1].first.key if len(taken) < len(groups) else None

        text, after = site.read(view)
        keep_new_failures(new, site.app)
        return _page(text, "after", after)

    def events(self) -> Response:
        """Return the lines of `events --json`, one event per line."""
        query = parse_query(EVENTS, request.args.items(multi=True))

        def view(connection: sqlite3.Connection, _age: Freshness) -> str:
            cache = cache_id(connection)
            after = 0 if query["since"] is None else parse_cursor(connection, query["since"])
            stored = read_events(connection, after, job_id=query["job"], limit=query["limit"])
            return "".join(json.dumps(public_event(cache, event), allow_nan=False) + "\n" for event in stored)

        return Response(self._site.read(view), mimetype=NDJSON)

    def metrics(self) -> Response:
        """Return the output of `metrics`, rendered once for each state of the cache."""
        now = self._site.app.now().timestamp()

        def render() -> str:
            return self._site.read(lambda connection, _age: metrics.render(connection, now=now).decode())

        return Response(self._site.rendered(METRICS, render).text, content_type=metrics.CONTENT_TYPE)

    def health(self) -> Response:
        """Return 200 if the server has data, however old; the document says how old."""
        header = self._site.header()
        is_ok = header["synced_at"] is not None
        fields = {name: header[name] for name in ("synced_at", "age_seconds", "stale", "problem")}
        return Response(json.dumps({"ok": is_ok, **fields}) + "\n", 200 if is_ok else 503, mimetype=JSON)
