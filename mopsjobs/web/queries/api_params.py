"""Parse the query strings of what the API tells of tasks: those of `tasks`, `failures`, attempts and results."""

from __future__ import annotations

import re
from datetime import datetime

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.run.job_arguments import API, DEFAULT_LIMIT, filters_on, job_filter
from mopsjobs.cache.queries.ledgers import AttemptPlace
from mopsjobs.cache.queries.task_filters import (
    Order,
    check_count,
    invalid_cursor,
    parse_condition,
    parse_order,
    parse_place,
    parse_task_statuses,
)
from mopsjobs.cache.queries.tasks import TaskQuery
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.web.queries.query_params import MAX_LIMIT, Parameter, Query, filter_parameters, parse_query, whole_number

MAX_SEEN = 100_000
"""Tasks that one answer compares with conditions, at most. Its Link leads to the rest."""

MAX_FAILURE_JOBS = 100
"""Jobs whose failures one answer tells, at most."""


TASKS = {
    "job": Parameter(), "status": Parameter(), "param": Parameter(()), "sort": Parameter(),
    "limit": whole_number(DEFAULT_LIMIT, 1, MAX_LIMIT), "after": Parameter(),
}  # fmt: skip

ATTEMPTS = {"job": Parameter(), "limit": whole_number(MAX_LIMIT, 1, MAX_LIMIT), "after": Parameter()}

RESULTS = {
    "job": Parameter(),
    "limit": whole_number(MAX_LIMIT, 1, MAX_LIMIT),
    "after": Parameter(None, lambda text: parse_whole_number(text, 0, MAX_TASK), "the number of a task"),
}

FAILURES = {
    "job": Parameter(()), "resumed": Parameter(default=False), "after": Parameter(),
    "limit": whole_number(DEFAULT_LIMIT, 1, MAX_FAILURE_JOBS),
}  # fmt: skip
"""The parameters besides filters."""

_ATTEMPT = re.compile(r"(\d{1,18})\.([0-9a-f]{1,32})\.(\d{1,18})\.(\d{1,18})", re.ASCII)


class TasksQuery:
    """The query of `/api/v1/tasks`: the job, which of its tasks, and the end of the page before."""

    def __init__(self, query: Query) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid, or `job` is missing.
        """
        values = parse_query(TASKS, query)
        check_count(values["param"])
        self.job = _required(values["job"])
        self.limit: int = values["limit"]
        self.tasks = TaskQuery(
            None if values["status"] is None else parse_task_statuses(values["status"]),
            tuple(map(parse_condition, values["param"])),
            Order() if values["sort"] is None else parse_order(values["sort"]),
            after=None if values["after"] is None else parse_place(values["after"]),
            max_seen=MAX_SEEN,
        )


class AttemptsQuery:
    """The query of `/api/v1/attempts`: the job, and the last attempt of the page before."""

    def __init__(self, query: Query) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid, or `job` is missing.
        """
        values = parse_query(ATTEMPTS, query)
        self.job = _required(values["job"])
        self.limit: int = values["limit"]
        self.after: AttemptPlace | None = None
        if values["after"] is not None:
            match = _ATTEMPT.fullmatch(values["after"])
            if match is None:
                raise invalid_cursor(values["after"])
            self.after = AttemptPlace(int(match[1]), match[2], int(match[3]), int(match[4]))


class ResultsQuery:
    """The query of `/api/v1/results`: the job, and the last task of the page before."""

    def __init__(self, query: Query) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid, or `job` is missing.
        """
        values = parse_query(RESULTS, query)
        self.job = _required(values["job"])
        self.limit: int = values["limit"]
        self.after: int = -1 if values["after"] is None else values["after"]


class FailuresQuery:
    """The query of `/api/v1/failures`: the jobs, by their ids or by filters, and the last group of the page before."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid, or there are both jobs and filters.
        """
        which = filters_on(API)
        values = parse_query(FAILURES | filter_parameters(API), query)
        self.jobs: tuple[str, ...] = values["job"]
        if len(self.jobs) > MAX_FAILURE_JOBS:
            raise UsageError(f"too many jobs ({len(self.jobs):,}): expected at most {MAX_FAILURE_JOBS}.")
        self.limit: int = values["limit"]
        self.after: str | None = values["after"]
        self.filter = job_filter(now, **{name: values[name] for name in which})
        self.resumed: bool = values["resumed"]
        if self.jobs and any(one.is_set(values[name]) for name, one in which.items()):
            raise UsageError("Jobs and filters contradict each other: both select jobs.")


def _required(job: str | None) -> str:
    if job is None:
        raise UsageError("missing job: expected the id of a job, or @latest.")
    return job
