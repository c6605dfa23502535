"""The OpenAPI document of the API. Its answers use the JSON Schemas of `--json`."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.run.job_arguments import API, DEFAULT_LIMIT, NUMBER, REPEATED, SWITCH, filters_on
from mopsjobs.cache.queries import task_filters
from mopsjobs.cache.queries.filters import DEFAULT_SORT, SORTS
from mopsjobs.version import __version__
from mopsjobs.web.queries.api_params import MAX_FAILURE_JOBS
from mopsjobs.web.queries.query_params import MAX_LIMIT

_TYPES = {NUMBER: "number", SWITCH: "boolean"}
"""The types of filters that are not texts."""

_SORT = "|".join(SORTS)
_HEALTH: dict[str, Any] = {
    "description": "The state of the server.",
    "type": "object",
    "required": ["ok", "synced_at", "age_seconds", "stale", "problem"],
    "properties": {
        "ok": {"description": "Whether there is data to show, however old.", "type": "boolean"},
        "synced_at": {"description": "When the last complete sync began.", "type": ["string", "null"]},
        "age_seconds": {"description": "How old the data is at most.", "type": ["number", "null"]},
        "stale": {
            "description": "Whether the data is too old, or the last sync failed.",
            "type": "boolean",
        },
        "problem": {"description": "Why the last sync failed; null if it did not.", "type": ["string", "null"]},
    },
}
_RESULTS: dict[str, Any] = {
    "description": "The table of results of a job and its ancestors, or a page of it.",
    "type": "object",
    "required": [
        "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "registry", "registry_from", "job_id",
        "problems", "columns", "total", "returned", "rows",
    ],
    "properties": {
        "schema_version": {"const": 1},
        "generated_at": {"type": "string"},
        "synced_at": {"description": "When the results were read.", "type": "string"},
        "age_seconds": {"type": "number", "minimum": 0},
        "stale": {"description": "Whether tasks have ended since, so that they are read again.", "type": "boolean"},
        "registry": {"type": "string"},
        "registry_from": {"type": "string"},
        "job_id": {"type": "string"},
        "problems": {"description": "What the table lacks.", "type": "array", "items": {"type": "string"}},
        "columns": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "type"],
                "properties": {
                    "name": {"type": "string"},
                    "type": {"enum": ["boolean", "integer", "unsigned", "number", "text"]},
                },
            },
        },
        "total": {"description": "The rows of all pages.", "type": "integer"},
        "returned": {"type": "integer"},
        "rows": {
            "description": "A row per task, in the order of their numbers. Each has all columns; null for no value.",
            "type": "array",
            "items": {"type": "object", "required": ["job_id", "task", "param_id", "seed", "status"]},
        },
    },
}  # fmt: skip
_TEXT: dict[str, Any] = {"type": "string"}
_LINK = {"description": "Leads to the next page, if there is one (RFC 8288).", "schema": {"type": "string"}}


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mops-jobs",
            "version": __version__,
            "description": "Batch jobs, read from a local cache of their registry. The API is read-only. "
            "Requests never contact the registry.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {
                "job": _schema("job"),
                "list": _with_items(_schema("list"), "jobs", "job"),
                "task": _schema("tasks")["$defs"]["task"],
                "tasks": _with_items(_schema("tasks"), "tasks", "task"),
                "query": _schema("query"),
                "failures": _schema("failures"),
                "results": _RESULTS,
                "event": _schema("event"),
                "health": _HEALTH,
                "problem": {
                    "description": "An error (RFC 9457).",
                    "type": "object",
                    "required": ["title", "status", "detail", "hint"],
                    "properties": {
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "hint": {"type": ["string", "null"]},
                    },
                },
            }
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/api/v1/jobs": _get("Jobs, as `list --json` prints them", "list", *_job_parameters()),
        "/api/v1/jobs/{job_id}": _get(
            "One job, as `status JOB --json` prints it",
            "job",
            {
                "name": "job_id",
                "in": "path",
                "required": True,
                "description": "The full id of a job, or @latest.",
                "schema": {"type": "string", "minLength": 1},
            },
            missing=True,
        ),
        "/api/v1/tasks": _get(
            "The tasks of a job, as `tasks --json` prints them", "tasks", *_task_parameters(), missing=True
        ),
        "/api/v1/attempts": _get(
            "Attempts at the tasks of a job, as `query --json` prints the view `attempts`",
            "query",
            _job_parameter(),
            *_page_parameters("attempts", MAX_LIMIT),
            missing=True,
        ),
        "/api/v1/results": _get(
            "The results of a job, with the rows that `results --table FILE.jsonl` writes",
            "results",
            _job_parameter(),
            *_page_parameters("rows", MAX_LIMIT, {"type": "integer", "minimum": 0, "maximum": MAX_TASK}),
            missing=True,
        ),
        "/api/v1/failures": _get(
            "Failed tasks by their errors, as `failures --json` prints them",
            "failures",
            *_failure_parameters(),
            missing=True,
        ),
        "/api/v1/events": _events(),
        "/metrics": _metrics(),
        "/healthz": _health(),
    }


def _get(summary: str, schema: str, *parameters: dict[str, Any], missing: bool = False) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    responses = _responses(content, missing=missing)
    if any(parameter["name"] in ("skip", "after") for parameter in parameters):
        responses["200"]["headers"] = {"Link": _LINK}
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": responses}}


def _events() -> dict[str, Any]:
    content = {
        "application/x-ndjson": {
            "schema": {"type": "string"},
            "x-each-line": {"$ref": "#/components/schemas/event"},
        }
    }
    parameters = [
        _parameter("job", {"type": "string"}, "Only events of this job."),
        _parameter("since", {"type": "string"}, "Only events after the one with this `cursor`."),
        _parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, "The number of events, at most."),
    ]
    summary = "Events, one JSON object per line, as `events --json` prints them"
    return {"get": {"summary": summary, "parameters": parameters, "responses": _responses(content, missing=False)}}


def _metrics() -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    responses = _responses(content, missing=False)
    del responses["400"]  # parameters are ignored
    return {"get": {"summary": "Metrics in Prometheus' text format, as `metrics` prints them", "responses": responses}}


def _health() -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/health"}}}
    responses = {
        "200": {"description": "The server has data, however old.", "content": content},
        "503": {"description": "The server has no data yet, or cannot use its cache.", "content": content},
    }
    return {"get": {"summary": "Whether the server is healthy, for a supervisor", "responses": responses}}


def _job_parameter() -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return _parameter("job", text, "The full id of a job, or @latest.") | {"required": True}


def _page_parameters(what: str, default: int, cursor: dict[str, Any] = _TEXT) -> list[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": default}
    return [_parameter("limit", limit, f"The number of {what}, at most."), _after_parameter(cursor)]


def _after_parameter(cursor: dict[str, Any] = _TEXT) -> dict[str, Any]:
    description = "Begin after this cursor. The Link header with rel=next of an answer leads to the next page."
    return _parameter("after", cursor, description)


def _task_parameters() -> list[dict[str, Any]]:
    words, sorts = "|".join(task_filters.STATUSES), "|".join(task_filters.SORTS)
    condition = {"type": "string", "pattern": r"^[^=!<>\s][^=!<>]*(=|==|!=|<|<=|>|>=)"}
    return [
        _job_parameter(),
        _parameter(
            "status",
            {"type": "string", "pattern": f"^({words})(,({words}))*$"},
            "Only tasks with one of these statuses.",
        ),
        _parameter(
            "param",
            {"type": "array", "items": condition, "maxItems": task_filters.MAX_CONDITIONS},
            "Only tasks whose parameters meet this condition, like `beta>0.9`. Repeat for more.",
        ),
        _parameter(
            "sort",
            {"type": "string", "pattern": f"^-?({sorts})$", "default": "task"},
            "The order of the tasks; - for descending.",
        ),
        *_page_parameters("tasks", DEFAULT_LIMIT),
    ]


def _failure_parameters() -> list[dict[str, Any]]:
    jobs = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_FAILURE_JOBS}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_FAILURE_JOBS, "default": DEFAULT_LIMIT}
    return [
        _parameter("job", jobs, "The failed tasks of this job. Repeat for more. Not with filters."),
        *_filter_parameters(),
        _parameter("limit", limit, "Without `job`: the number of jobs, at most; those that changed last."),
        _parameter("resumed", {"type": "boolean"}, "Without `job`: also jobs whose failures a resume has taken up."),
        _after_parameter(),
    ]


def _filter_parameters() -> list[dict[str, Any]]:
    parameters = []
    for name, argument in filters_on(API).items():
        schema = {"type": _TYPES.get(argument.kind, "string"), **argument.schema}
        is_repeated = argument.kind == REPEATED
        again = " Repeat for more." if is_repeated else ""
        listed = {"type": "array", "items": schema} if is_repeated else schema
        parameters.append(_parameter(name, listed, f"Only {argument.help}.{again}"))
    return parameters


def _job_parameters() -> list[dict[str, Any]]:
    return [
        *_filter_parameters(),
        _parameter(
            "sort",
            {"type": "string", "pattern": f"^-?({_SORT})(,-?({_SORT}))*$", "default": DEFAULT_SORT},
            "The order of the jobs; - for descending.",
        ),
        _parameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            "The number of jobs, at most; active jobs are never left out.",
        ),
        _parameter(
            "skip",
            {"type": "integer", "minimum": 0, "maximum": 999_999_999_999, "default": 0},
            "Leave out this many jobs. Responses end after 4 MB; a Link header with rel=next then leads to the rest.",
        ),
    ]


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _responses(content: dict[str, Any], *, missing: bool) -> dict[str, dict[str, Any]]:
    error = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/problem"}}}
    responses: dict[str, dict[str, Any]] = {
        "200": {"description": "The requested data.", "content": content},
        "400": {"description": "A parameter is unknown or invalid.", "content": error},
        "503": {
            "description": "The cache has never been filled, lacks what is asked for, or cannot be used.",
            "content": error,
        },
    }
    if missing:
        responses["404"] = {"description": "There is no such job, or several ids have this prefix.", "content": error}
        responses["502"] = {"description": "The record of the job cannot be read.", "content": error}
    return responses


def _schema(name: str) -> dict[str, Any]:
    text = files("mopsjobs").joinpath("schemas", f"{name}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    schema.pop("$schema", None)
    return schema


def _with_items(schema: dict[str, Any], name: str, item: str) -> dict[str, Any]:
    """Return the schema of a document with a list, whose items refer to another schema."""
    schema.pop("$defs", None)
    schema["properties"][name]["items"] = {"$ref": f"#/components/schemas/{item}"}
    return schema
