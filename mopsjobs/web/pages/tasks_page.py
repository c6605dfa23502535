"""The page of a job's tasks: those that meet conditions, with their parameters, how they ended and what they used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from flask import Response, request

from mopsjobs.app.jobs.find_job import FoundJob
from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_filters import (
    STATUSES,
    WAITING,
    check_count,
    parse_condition,
    parse_order,
    parse_task_statuses,
)
from mopsjobs.cache.queries.tasks import ListedTask, TaskQuery
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.web.pages.readings import NOT_SUBMITTED, Reading, ask
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.queries.view_models import CLASSES, FAILED_STATUSES, Job, choices
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.rendering import Renderer, paging

PAGE_SIZE = 50

MAX_PAGE = 2_000

MAX_SEEN = 200_000
"""Tasks that are compared with an error, at most. There is no index of errors."""

MAX_PARAMETERS = 12
"""Parameters that are columns."""

PARAMETERS = {
    "status": Parameter(""),
    "param": Parameter(()),
    "error": Parameter(),
    "sort": Parameter("task"),
    "page": Parameter(1, lambda text: parse_whole_number(text, 1, MAX_PAGE), f"a whole number from 1 to {MAX_PAGE:,}"),
}

NO_TASKS = Reading(NOT_SUBMITTED.format("tasks"))

STATUS_TEXTS = {"": "any end", FAILED_STATUSES: "failed, for any reason"} | {name: name for name in STATUSES}

SORT_TEXTS = {
    "task": "number",
    "-seconds": "longest first",
    "-memory": "most memory first",
    "-attempt": "most attempts",
}


class TasksPage:
    """The handler of `/jobs/JOB/tasks`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._site = renderer.site

    def answer(self, job_id: str) -> Response:
        """Return a page of tasks."""
        params = list(request.args.items(multi=True))
        query = parse_query(PARAMETERS, params)
        conditions = tuple(parse_condition(text) for text in query["param"])
        check_count(conditions)
        statuses = parse_task_statuses(query["status"]) if query["status"] else None
        order = parse_order(query["sort"])

        def view(connection: sqlite3.Connection, job: Job, _now: float) -> dict[str, Any]:
            return {
                "job_id": job["job_id"],
                "query": query,
                "statuses": choices(STATUS_TEXTS, query["status"]),
                "sorts": choices(SORT_TEXTS, query["sort"]),
                **self._listed(connection, job, TaskQuery(statuses, conditions, order), query, params),
            }

        return self._renderer.job_page("job_tasks.html", job_id, view)

    def _listed(
        self,
        connection: sqlite3.Connection,
        job: Job,
        tasks_query: TaskQuery,
        query: Mapping[str, Any],
        params: list[tuple[str, str]],
    ) -> dict[str, Any]:
        """Return the tasks of the page; what to say if the cache does not know them."""
        ledger = read_ledger(connection, str(job["job_id"]))
        if ledger is None:
            return {"reading": ask(self._site, FAILURES, job, "tasks") or NO_TASKS}
        found = JobTasks(self._site.app, FoundJob(job), None).list_tasks(connection, tasks_query)
        begin = (query["page"] - 1) * PAGE_SIZE
        listed = _with_error(found.tasks(0 if query["error"] else begin + PAGE_SIZE + 1), query["error"])
        shown = list(islice(listed, begin, begin + PAGE_SIZE + 1))
        rows, has_more = shown[:PAGE_SIZE], len(shown) > PAGE_SIZE
        names = ledger.varying[:MAX_PARAMETERS]
        has_seed = not names or len({one.row.first_task for one in rows}) < len(rows)
        absence = absence_text(job, ledger)
        pages = paging(params, query["page"], MAX_PAGE)
        notes = [*([f"This job {absence}"] if absence else []), *found.near_misses()]
        return {
            "reading": None,
            "note": " ".join(notes) or None,
            "names": names,
            "has_seed": has_seed,
            "rows": [
                (one, CLASSES.get(one.row.outcome, "pending" if one.row.outcome == WAITING else "failed"))
                for one in rows
            ],
            "paging": {
                "begin": begin + 1,
                "end": begin + len(rows),
                "total": None if query["error"] else found.count(),
                "before": pages["before"],
                "after": pages["after"] if has_more else None,
            },
        }


def _with_error(tasks: Iterator[ListedTask], error: str | None) -> Iterator[ListedTask]:
    """Yield the tasks with an error, as the groups of failures name it; all of them for None."""
    if error is None:
        return tasks
    return (
        one
        for one in islice(tasks, MAX_SEEN)
        if error == (one.row.outcome if one.row.error_key is None else one.row.error_key)
    )
