"""Ask for what a page or the API needs of a job and the server does not keep, and say so."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from flask import Response

from mopsjobs.app.tasks.results_table import results_state
from mopsjobs.errors import NoManifestError, command_line
from mopsjobs.registry.notes import is_submitted
from mopsjobs.web.queries.view_models import Job
from mopsjobs.web.site.job_reads import RESULTS
from mopsjobs.web.site.kept import Results
from mopsjobs.web.site.site import Site

MAX_READ_TASKS = 500_000
"""Tasks of a job that a page has read: they take some 100 MB of the cache."""

RETRY_SECONDS = 5


class Reading(NamedTuple):
    """A sentence about data that a page lacks."""

    text: str
    is_waiting: bool = False


NOT_SUBMITTED = "mops-jobs did not submit this job: its {} are not known."

NO_RESULTS = Reading(NOT_SUBMITTED.format("results"))


def ask(
    site: Site, kind: str, job: Job, command: str, options: str = "", *, part: Sequence[str] = ()
) -> Reading | None:
    """Ask for what the page of a job lacks, and return what to say of that; None if there is nothing to say.

    Args:
        site: the shared state.
        kind: what to read, as `JobReads.ask` takes it.
        job: the job.
        command: the command that reads the same, for a server that never uses the network.
        options: its flags.
        part: the part of the job that is to be read, as `JobReads.ask` takes it.
    """
    if not is_submitted(job):
        return None
    to_run = f"Run: {command_line(command, job['job_id'], options)}"
    if site.reads is None:
        return Reading(f"Not on this machine yet. {to_run}")
    if job["tasks_total"] > MAX_READ_TASKS:
        return Reading(f"The page does not read more than {MAX_READ_TASKS:,} tasks. {to_run}")
    state = site.reads.ask(kind, str(job["job_id"]), *part, state=str(job["updated_at"]))
    if state.is_waiting:
        return Reading("Being read from the registry.", is_waiting=True)
    return None if state.problem is None else Reading(state.problem)


def find_results(
    site: Site, connection: sqlite3.Connection, job: Job, now: float
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


def read_results(site: Site, name: str) -> tuple[str, Results | None, Reading | None]:
    """Return the id of a job, and its results as `find_results` does."""
    return site.read_job(name, lambda cache, job, now: (str(job["job_id"]), *find_results(site, cache, job, now)))


def waiting(job: Job) -> Reading:
    """Return the sentence about results that are not asked for now, since others wait or they were read just now."""
    return Reading("Waiting to be read from the registry.", is_waiting=True) if is_submitted(job) else NO_RESULTS


def reason_to_wait(job_id: str, reading: Reading | None) -> Reading:
    """Return what to say of data that is not kept.

    Raises:
        NoManifestError: if mops-jobs did not submit the job, so that there is nothing to read.
    """
    if reading is None or reading == NO_RESULTS:
        raise NoManifestError(NO_RESULTS.text, job_id=job_id)
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
