"""Find the results that a page or the API needs among those that are kept; else ask for them, and say so."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from flask import Response

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.results_table import results_state
from mopsjobs.errors import NoManifestError
from mopsjobs.utils.table_files import type_of
from mopsjobs.utils.times import json_time, json_timestamp
from mopsjobs.web.pages.job_page import Reading, ask, is_submitted
from mopsjobs.web.site.job_reads import RESULTS
from mopsjobs.web.site.job_results import Results
from mopsjobs.web.site.site import Site

SCHEMA_VERSION = 1

RETRY_SECONDS = 5

NOT_SUBMITTED = Reading("mops-jobs did not submit this job: its results are not known.")


def find_results(
    site: Site, connection: sqlite3.Connection, job: Mapping[str, Any], now: float
) -> tuple[Results | None, Reading | None]:
    """Return the results of a job that are kept, and what to say if they lack what is known by now.

    Args:
        site: the shared state.
        connection: the cache.
        job: the job.
        now: seconds since 1970.
    """
    job_id = str(job["job_id"])
    results = site.results.get(job_id)
    if results is not None and results.state == results_state(connection, job_id, now=now):
        return results, None
    return results, ask(site, RESULTS, job, "results", "--table FILE.csv") or waiting(job)


def results_head(app: App, job_id: str, results: Results, returned: int, *, is_stale: bool) -> dict[str, object]:
    """Return the document of results without its rows, which come last in it.

    Args:
        app: the run.
        job_id: the job.
        results: its results.
        returned: the number of rows.
        is_stale: whether more is known by now.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "generated_at": json_time(app.now()),
        "synced_at": json_timestamp(results.made_at),
        "age_seconds": max(0.0, round(app.now().timestamp() - results.made_at, 3)),
        "stale": is_stale,
        "registry": app.settings.registry_id,
        "registry_from": app.settings.registry.origin,
        "job_id": job_id,
        "problems": results.problems,
        "columns": [{"name": column.name, "type": type_of(column.kinds)} for column in results.columns],
        "total": results.rows.count,
        "returned": returned,
    }


def waiting(job: Mapping[str, Any]) -> Reading:
    """Return the sentence about results that are not asked for now, since others wait or they were read just now."""
    return Reading("Waiting to be read from the registry.", is_waiting=True) if is_submitted(job) else NOT_SUBMITTED


def reason_to_wait(job_id: str, reading: Reading | None) -> Reading:
    """Return what to say of data that is not kept.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that there is nothing to read.
    """
    if reading is None or reading == NOT_SUBMITTED:
        raise NoManifestError(NOT_SUBMITTED.text, job_id=job_id)
    return reading


def not_read_yet(job_id: str, reading: Reading | None) -> Response:
    """Return the answer for a file that is not kept. Raise as `reason_to_wait`."""
    reading = reason_to_wait(job_id, reading)
    return with_retry(Response(f"{reading.text}\n", 503, mimetype="text/plain"), reading)


def with_retry(response: Response, reading: Reading) -> Response:
    """Return a response that says when to try again, if that helps."""
    if reading.is_waiting:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response
