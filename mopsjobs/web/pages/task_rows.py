"""The table of a job's tasks: those that meet conditions, with their parameters, how they ended and what they used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mopsjobs.app.jobs.find_job import FoundJob
from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_filters import WAITING, parse_order
from mopsjobs.cache.queries.tasks import ListedTask, TaskQuery
from mopsjobs.web.pages.readings import NOT_SUBMITTED, Reading, ask
from mopsjobs.web.queries.search_box import Params
from mopsjobs.web.queries.view_models import CLASSES, Job
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.rendering import link, paging
from mopsjobs.web.site.site import Site

PAGE_SIZE = 50

MAX_PAGE = 2_000

MAX_SEEN = 200_000
"""Tasks that are compared with an error, at most. There is no index of errors."""

MAX_PARAMETERS = 12
"""Parameters that are columns."""

NO_TASKS = Reading(NOT_SUBMITTED.format("tasks"))


def task_rows(
    site: Site,
    connection: sqlite3.Connection,
    job: Job,
    query: Mapping[str, Any],
    params: Params,
    reading: Reading | None,
) -> dict[str, Any]:
    """Return the tasks of a page, for the template; what to say if the cache does not know them.

    Args:
        site: the shared state.
        connection: the cache.
        job: the job.
        query: the values of the query of the page.
        params: its names and values.
        reading: what is said of the results of the job. To read them brings the tasks too.

    Raises:
        UsageError: if tasks cannot be sorted as the query says.
    """
    tasks_query = TaskQuery(query["status"], query["param"], parse_order(query["sort"] or "task"))
    ledger = read_ledger(connection, str(job["job_id"]))
    if ledger is None:
        is_coming = reading is not None and reading.is_waiting
        return {"reading": reading if is_coming else ask(site, FAILURES, job, "tasks") or NO_TASKS}
    job_tasks = JobTasks(site.app, FoundJob(job), None)
    found = job_tasks.list_tasks(connection, tasks_query)
    begin = (query["page"] - 1) * PAGE_SIZE
    listed = _with_error(found.tasks(0 if query["error"] else begin + PAGE_SIZE + 1), query["error"])
    shown = list(islice(listed, begin, begin + PAGE_SIZE + 1))
    rows, has_more = shown[:PAGE_SIZE], len(shown) > PAGE_SIZE
    names = ledger.varying[:MAX_PARAMETERS]
    absence = absence_text(job, ledger)
    pages = paging(list(params), query["page"], MAX_PAGE)
    notes = [*([f"This job {absence}"] if absence else []), *job_tasks.record_note(ledger), *found.near_misses()]
    sorts = {"Task": "task", "Time": "-seconds", "Memory": "-memory", "Attempts": "-attempt"}
    return {
        "reading": None,
        "note": " ".join(notes) or None,
        "names": names,
        "heads": {
            title: {
                "title": title,
                "name": "",
                "order": ("descending" if name[0] == "-" else "ascending")
                if name == str(query["sort"] or "task")
                else None,
                "to": link(list(params), {"sort": name}),
            }
            for title, name in sorts.items()
        },
        "has_seed": not names or len({one.row.first_task for one in rows}) < len(rows),
        "rows": [
            (one, CLASSES.get(one.row.outcome, "pending" if one.row.outcome == WAITING else "failed")) for one in rows
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
