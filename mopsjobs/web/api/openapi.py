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

_WHICH = filter_parameters(API)

_OPERATIONS: tuple[tuple[str, str, str, Mapping[str, Parameter], bool], ...] = (
    ("jobs", "Jobs, as `list --json` prints them", "list", _WHICH | api_params.JOBS, False),
    ("jobs/{job_id}", "One job, as `status JOB --json` prints it", "job", {"job_id": api_params.JOB}, True),
    ("tasks", "The tasks of a job, as `tasks --json` prints them", "tasks", api_params.TASKS, True),
    (
        "attempts", "Attempts at the tasks of a job, as `query --json` prints the view `attempts`",
        "query", api_params.ATTEMPTS, True,
    ),
    (
        "results", "The results of a job, with the rows that `results --table FILE.jsonl` writes",
        "results", api_params.RESULTS, True,
    ),
    (
        "failures", "Failed tasks by their errors, as `failures --json` prints them",
        "failures", api_params.FAILURES | _WHICH, True,
    ),
    (
        "events", "Events, one JSON object per line, as `events --json` prints them",
        "event", api_params.EVENTS, False,
    ),
)  # fmt: skip
"""Path, summary, schema, parameters, and whether the query names a job that may be missing."""


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
    found = {f"/api/v1/{operation[0]}": _get(*operation) for operation in _OPERATIONS}
    metrics = _responses({"text/plain": {"schema": {"type": "string"}}})
    del metrics["400"]  # parameters are ignored
    summary = "Metrics in Prometheus' text format, as `metrics` prints them"
    found["/metrics"] = {"get": {"summary": summary, "responses": metrics}}
    texts = {"200": "The server has data, however old.", "503": "The server has no data yet, or cannot use its cache."}
    health = {code: {"description": text, "content": _json("health")} for code, text in texts.items()}
    found["/healthz"] = {"get": {"summary": "Whether the server is healthy, for a supervisor", "responses": health}}
    return found


def _get(path: str, summary: str, schema: str, parameters: Mapping[str, Parameter], may_miss: bool) -> dict[str, Any]:  # noqa: FBT001
    lines = {"application/x-ndjson": {"schema": {"type": "string"}, "x-each-line": _reference(schema)}}
    responses = _responses(lines if schema == "event" else _json(schema), missing=may_miss)
    if parameters.keys() & {"skip", "after"}:
        responses["200"]["headers"] = {"Link": _LINK}
    listed = [_parameter(name, one, path) for name, one in parameters.items()]
    return {"get": {"summary": summary, "parameters": listed, "responses": responses}}


def _parameter(name: str, parameter: Parameter, path: str) -> dict[str, Any]:
    is_list = parameter.default == () and parameter.schema["type"] != "array"
    return {
        "name": name,
        "in": "path" if f"{{{name}}}" in path else "query",
        "required": parameter.is_required,
        "description": parameter.description,
        "schema": {"type": "array", "items": parameter.schema} if is_list else parameter.schema,
    }


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


def _json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(schema)}}


def _responses(content: Mapping[str, Any], *, missing: bool = False) -> dict[str, dict[str, Any]]:
    error = {"application/problem+json": {"schema": _reference("problem")}}
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
    schema["properties"][name]["items"] = _reference(item)
    return schema
