"""The parameters of the API, and its OpenAPI document. Its answers use the JSON Schemas of `--json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.run.job_arguments import API, DEFAULT_LIMIT, filters_on
from mopsjobs.cache.queries import filters, task_filters
from mopsjobs.errors import UsageError, read_job_name
from mopsjobs.utils.schemas import load_schema
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.version import __version__
from mopsjobs.web.queries.query_params import JobsQuery, Parameter, filter_parameters, whole_number

MAX_LIMIT = 1000
"""Jobs or events in one response, at most. Active jobs come on top of that."""

MAX_SKIP = 10**12 - 1

MAX_FAILURE_JOBS = 100

_SORTS = f"-?({'|'.join(filters.SORTS)})"
_STATUSES = f"({'|'.join(task_filters.STATUSES)})"
_ID = {"type": "string", "minLength": 1}

JOB = Parameter(
    read=read_job_name,
    expected="the id of a job, or @latest",
    description="The full id of a job (literally after ./), or @latest.",
    schema=_ID,
    is_required=True,
)

AFTER = Parameter(
    description="Begin after this cursor. The Link header with rel=next of an answer leads to the next page."
)

AFTER_TASK = Parameter(
    None,
    lambda text: parse_whole_number(text, 0, MAX_TASK),
    "the number of a task",
    AFTER.description,
    {"type": "integer", "minimum": 0, "maximum": MAX_TASK},
)

JOBS = {
    "sort": Parameter(
        filters.DEFAULT_SORT,
        description="The order of the jobs; - for descending.",
        schema={"type": "string", "pattern": f"^{_SORTS}(,{_SORTS})*$", "default": filters.DEFAULT_SORT},
    ),
    "limit": whole_number(
        DEFAULT_LIMIT, 1, MAX_LIMIT, "The number of jobs, at most; active jobs are never left out."
    ),
    "skip": whole_number(
        0, 0, MAX_SKIP,
        "Leave out this many jobs. Responses end after 4 MB; a Link header with rel=next then leads to the rest.",
    ),
}  # fmt: skip

EVENTS = {
    "job": Parameter(description="Only events of this job."),
    "since": Parameter(description="Only events after the one with this `cursor`."),
    "limit": whole_number(MAX_LIMIT, 1, MAX_LIMIT, "The number of events, at most."),
}

TASKS = {
    "job": JOB,
    "status": Parameter(
        description="Only tasks with one of these statuses.",
        schema={"type": "string", "pattern": f"^{_STATUSES}(,{_STATUSES})*$"},
    ),
    "param": Parameter(
        (),
        description="Only tasks whose parameters meet this condition, like `beta>0.9`. Repeat for more.",
        schema={
            "type": "array",
            "items": {"type": "string", "pattern": r"^[^=!<>\s][^=!<>]*(=|==|!=|<|<=|>|>=)"},
            "maxItems": task_filters.MAX_CONDITIONS,
        },
    ),
    "limit": whole_number(DEFAULT_LIMIT, 1, MAX_LIMIT, "The number of tasks, at most."),
    "after": AFTER_TASK,
}

RESULTS = {
    "job": JOB,
    "limit": whole_number(MAX_LIMIT, 1, MAX_LIMIT, "The number of rows, at most."),
    "after": AFTER_TASK,
}

FAILURES = {
    "job": Parameter(
        (),
        description="The failed tasks of this job. Repeat for more. Not with filters.",
        schema={"type": "array", "items": _ID, "maxItems": MAX_FAILURE_JOBS},
    ),
    "limit": whole_number(
        DEFAULT_LIMIT,
        1,
        MAX_FAILURE_JOBS,
        "Without `job`: the number of jobs, at most; those that changed last.",
    ),
    "resumed": Parameter(
        default=False,
        description="Without `job`: also jobs whose failures a resume has taken up.",
        schema={"type": "boolean"},
    ),
    "after": AFTER,
}


def check_failures(query: JobsQuery) -> None:
    """Check that a query of `/api/v1/failures` selects jobs in one way.

    Raises:
        UsageError: if there are too many jobs, or both jobs and filters.
    """
    jobs = query.values["job"]
    if len(jobs) > MAX_FAILURE_JOBS:
        raise UsageError(f"too many jobs ({len(jobs):,}): expected at most {MAX_FAILURE_JOBS}.")
    if jobs and any(one.is_set(query.chosen[name]) for name, one in filters_on(API).items()):
        raise UsageError("Jobs and filters contradict each other: both select jobs.")


_LINK = {"description": "Leads to the next page, if there is one (RFC 8288).", "schema": {"type": "string"}}


def _operations() -> Iterator[tuple[str, str, str, Mapping[str, Parameter], bool]]:
    """Yield path, summary, schema, parameters, and whether the query names a job that may be missing."""
    which = filter_parameters(API)
    yield "jobs", "Jobs, as `list --json` prints them", "list", which | JOBS, False
    yield "jobs/{job_id}", "One job, as `status JOB --json` prints it", "job", {"job_id": JOB}, True
    yield "tasks", "The tasks of a job, as `tasks --json` prints them", "tasks", TASKS, True
    results = "The results of a job, with the rows that `results --table FILE.jsonl` writes"
    yield "results", results, "results", RESULTS, True
    yield (
        "failures",
        "Failed tasks by their errors, as `failures --json` prints them",
        "failures",
        FAILURES | which,
        True,
    )
    yield "events", "Events, one JSON object per line, as `events --json` prints them", "event", EVENTS, False


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
                "failures": _schema("failures"),
                "event": _schema("event"),
                **json.loads(files("mopsjobs").joinpath("web", "api", "schemas.json").read_text(encoding="utf-8")),
            }
        },
    }


def _paths() -> dict[str, Any]:
    found = {f"/api/v1/{operation[0]}": _get(*operation) for operation in _operations()}
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
            "description": "The job does not exist, several ids have this prefix, or mops-jobs did not submit it.",
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
