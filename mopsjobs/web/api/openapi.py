"""The OpenAPI document of the API. Its answers use the JSON Schemas of `--json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from mopsjobs.app.run.job_arguments import API
from mopsjobs.utils.schemas import load_schema
from mopsjobs.version import __version__
from mopsjobs.web.queries import api_params
from mopsjobs.web.queries.query_params import Parameter, filter_parameters

_LINK = {"description": "Leads to the next page, if there is one (RFC 8288).", "schema": {"type": "string"}}

_EVENTS = {
    "application/x-ndjson": {"schema": {"type": "string"}, "x-each-line": {"$ref": "#/components/schemas/event"}}
}


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
                "event": _schema("event"),
                **json.loads(files("mopsjobs").joinpath("web", "api", "schemas.json").read_text(encoding="utf-8")),
            }
        },
    }


def _paths() -> dict[str, Any]:
    which = filter_parameters(API)
    one_job = _parameter("job_id", api_params.JOB) | {"in": "path"}
    metrics = _responses({"text/plain": {"schema": {"type": "string"}}})
    del metrics["400"]  # parameters are ignored
    healthy, unhealthy = "The server has data, however old.", "The server has no data yet, or cannot use its cache."
    return {
        "/api/v1/jobs": _get("Jobs, as `list --json` prints them", _json("list"), which | api_params.JOBS),
        "/api/v1/jobs/{job_id}": _get(
            "One job, as `status JOB --json` prints it", _json("job"), {}, one_job, missing=True
        ),
        "/api/v1/tasks": _get(
            "The tasks of a job, as `tasks --json` prints them", _json("tasks"), api_params.TASKS, missing=True
        ),
        "/api/v1/attempts": _get(
            "Attempts at the tasks of a job, as `query --json` prints the view `attempts`",
            _json("query"),
            api_params.ATTEMPTS,
            missing=True,
        ),
        "/api/v1/results": _get(
            "The results of a job, with the rows that `results --table FILE.jsonl` writes",
            _json("results"),
            api_params.RESULTS,
            missing=True,
        ),
        "/api/v1/failures": _get(
            "Failed tasks by their errors, as `failures --json` prints them",
            _json("failures"),
            api_params.FAILURES | which,
            missing=True,
        ),
        "/api/v1/events": _get(
            "Events, one JSON object per line, as `events --json` prints them", _EVENTS, api_params.EVENTS
        ),
        "/metrics": {
            "get": {"summary": "Metrics in Prometheus' text format, as `metrics` prints them", "responses": metrics}
        },
        "/healthz": {
            "get": {
                "summary": "Whether the server is healthy, for a supervisor",
                "responses": {
                    code: {"description": text, "content": _json("health")}
                    for code, text in (("200", healthy), ("503", unhealthy))
                },
            }
        },
    }


def _get(
    summary: str,
    content: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    *others: dict[str, Any],
    missing: bool = False,
) -> dict[str, Any]:
    responses = _responses(content, missing=missing)
    if parameters.keys() & {"skip", "after"}:
        responses["200"]["headers"] = {"Link": _LINK}
    listed = [*others, *(_parameter(name, parameter) for name, parameter in parameters.items())]
    return {"get": {"summary": summary, "parameters": listed, "responses": responses}}


def _parameter(name: str, parameter: Parameter) -> dict[str, Any]:
    is_list = parameter.default == () and parameter.schema["type"] != "array"
    return {
        "name": name,
        "in": "query",
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": {"type": "array", "items": parameter.schema} if is_list else parameter.schema,
    }


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _responses(content: Mapping[str, Any], *, missing: bool = False) -> dict[str, dict[str, Any]]:
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
        responses["404"] = {
            "description": "There is no such job, several ids have this prefix, or mops-jobs did not submit it.",
            "content": error,
        }
        responses["502"] = {"description": "The record of the job cannot be read.", "content": error}
    return responses


def _schema(name: str) -> dict[str, Any]:
    schema = load_schema(name)
    schema.pop("$schema", None)
    return schema


def _with_items(schema: dict[str, Any], name: str, item: str) -> dict[str, Any]:
    """Return the schema of a document with a list, whose items refer to another schema."""
    schema.pop("$defs", None)
    schema["properties"][name]["items"] = {"$ref": f"#/components/schemas/{item}"}
    return schema
