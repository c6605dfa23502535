"""The page of a job's tasks: those that meet conditions, with their parameters, how they ended and what they used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.jobs.find_job import FoundJob, Job
from mopsjobs.app.jobs.job_card import memory_text
from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.tasks.results_table import SUCCEEDED
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_filters import (
    STATUSES,
    check_count,
    parse_condition,
    parse_order,
    parse_task_statuses,
)
from mopsjobs.cache.queries.tasks import ListedTask, TaskQuery
from mopsjobs.utils.text import cut_to_length, parse_whole_number, pluralize
from mopsjobs.utils.times import human_seconds
from mopsjobs.web.pages.job_page import Reading, ask
from mopsjobs.web.pages.map_view import CLASSES, FAILED_STATUSES
from mopsjobs.web.queries import view_models
from mopsjobs.web.queries.query_params import Parameter, parse_query
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.rendering import Renderer, paging

PAGE_SIZE = 50

MAX_PAGE = 2_000

MAX_SEEN = 200_000
"""Tasks that are compared with an error, at most. There is no index of errors."""

MAX_PARAMETERS = 12
"""Parameters that are columns."""

MAX_ERROR = 200
"""Characters of an error. The log has all."""

PARAMETERS = {
    "status": Parameter(""),
    "param": Parameter(()),
    "error": Parameter(),
    "sort": Parameter("task"),
    "page": Parameter(1, lambda text: parse_whole_number(text, 1, MAX_PAGE), f"a whole number from 1 to {MAX_PAGE:,}"),
}

NOT_SUBMITTED = Reading("mops-jobs did not submit this job: its tasks are not known.")

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

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            job = job_queries.find_job(connection, job_id, now=self._site.app.now().timestamp())
            return {
                "job_id": job["job_id"],
                "query": query,
                "statuses": view_models.choices(STATUS_TEXTS, query["status"]),
                "sorts": view_models.choices(SORT_TEXTS, query["sort"]),
                **self._listed(connection, job, TaskQuery(statuses, conditions, order), query, params),
            }

        return self._renderer.page("job_tasks.html", view)

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
            reading = ask(self._site, FAILURES, job, "tasks") or NOT_SUBMITTED
            return {"reading": reading, "names": [], "rows": [], "paging": None, "has_seed": False, "note": None}
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
            "rows": [_row(one, names, str(job["job_id"])) for one in rows],
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


def _row(one: ListedTask, names: list[str], job_id: str) -> dict[str, Any]:
    row = one.row
    path = view_models.job_path(job_id)
    return {
        "task": row.task,
        "log": f"{path}/logs?{urlencode({'task': row.task})}",
        "values": [view_models.value_text(one.params[name]) if name in one.params else "" for name in names],
        "seed": row.seed,
        "outcome": row.outcome,
        "kind": CLASSES.get(row.outcome, "pending" if row.outcome == "waiting" else "failed"),
        "seconds": None if row.seconds is None else human_seconds(row.seconds),
        "memory": memory_text(row.max_rss_bytes),
        "attempts": row.attempts or None,
        "outputs": f"{path}/results?{urlencode({'task': row.task})}#outputs" if row.outcome == SUCCEEDED else None,
        "bytes": "outputs" if row.output_bytes is None else pluralize(row.output_bytes, "byte"),
        "error": cut_to_length(row.error or "", MAX_ERROR),
    }
