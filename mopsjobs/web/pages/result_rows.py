"""The two tables of a job's results: its tasks, and its parameter sets with mean, interval and spread of a scalar."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Any

from mopsjobs.app.jobs.find_job import FoundJob
from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text
from mopsjobs.app.tasks.result_sets import COUNTS, ERROR, ResultSets, SetChoice, SetOrder
from mopsjobs.app.tasks.results_table import BEFORE
from mopsjobs.cache.queries.ledgers import read_ledger
from mopsjobs.cache.queries.task_filters import WAITING, Condition, check_names, parse_order
from mopsjobs.cache.queries.tasks import ListedTask, TaskQuery
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.utils.intervals import mean_text
from mopsjobs.web.drawings.heat_map import FAILED, KIND_OF
from mopsjobs.web.pages.readings import NOT_SUBMITTED, Reading, ask
from mopsjobs.web.queries.search_box import Params
from mopsjobs.web.queries.view_models import CLASSES, Job, value_text
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.kept import Results
from mopsjobs.web.site.rendering import Head, link, paging
from mopsjobs.web.site.site import Site

PAGE_SIZE = 50

MAX_PAGE = 2_000

MAX_SEEN = 200_000
"""Tasks that are compared with an error, at most. There is no index of errors."""

MAX_PARAMETERS = 12

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
    sort = query["sort"] or "task"
    tasks_query = TaskQuery(query["status"], query["param"], parse_order(sort))
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
    notes = [*([f"This job {absence}"] if absence else []), *job_tasks.record_note(ledger), *found.near_misses()]
    sorts = {"Task": "task", "Time": "-seconds", "Memory": "-memory", "Attempts": "-attempt"}
    order = "descending" if sort.startswith("-") else "ascending"
    return {
        "reading": None,
        "note": " ".join(notes) or None,
        "names": names,
        "heads": {
            title: Head("", title, order if name == sort else None, link(params, {"sort": name}))
            for title, name in sorts.items()
        },
        "has_seed": not names or len({one.row.first_task for one in rows}) < len(rows),
        "rows": [
            (one, CLASSES.get(one.row.outcome, "pending" if one.row.outcome == WAITING else "failed")) for one in rows
        ],
        "paging": _paging(
            params, query["page"], len(rows), None if query["error"] else found.count(), has_more=has_more
        ),
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


ENDS = {"lowest": False, "highest": True}
"""The ends of the order by the mean of a scalar, and whether it is descending then."""

OF_SCALAR = "."
"""Before the name of a statistic in an order: that of the scalar that is shown."""

STATISTICS = {
    "mean": ("Mean", "%.5g"),
    "half_width": ("±", "%.2g"),
    "sd": ("Spread (sd)", "%.3g"),
    "n_nan": ("NaN", "%d"),
}
"""Columns of the scalar that is shown, with their titles and the forms of their numbers."""

MAY_BE_FIRST = ""
"""The name of the column that `ResultSets.rows` adds, which no other has."""

Row = Mapping[str, Any]


def set_rows(
    results: Results, scalar: str | None, query: Mapping[str, Any], params: Params, task: int | None
) -> dict[str, Any]:
    """Return the parameter sets of a page, for the template.

    Args:
        results: those of the job, with their table of parameter sets.
        scalar: the scalar that is shown; None without a number.
        query: the values of the query of the page.
        params: its names and values.
        task: the task that is shown.

    Raises:
        UsageError: if a condition names another parameter, or the sets cannot be sorted as the query says.
    """
    sets = results.table
    assert sets is not None  # noqa: S101 - a page keeps no results without it
    check_names(query["param"], [name for name, _ in sets.parameters])
    scalar = scalar if scalar in _names(sets) else None
    order, totals = _order(sets, query["sort"], scalar), sets.totals()
    begin, has_filter = (query["page"] - 1) * PAGE_SIZE, bool(query["param"] or query["status"])
    if has_filter:
        passes = _filter(sets, query["param"], query["status"])
        found = list(filter(passes, _rows(sets, order)))
        shown, total = found[begin : begin + PAGE_SIZE], len(found)
    else:
        shown, total = list(_rows(sets, order, PAGE_SIZE, begin)), totals.sets
    varying = sets.varying()[:MAX_PARAMETERS]
    examples = _examples(results, [row["param_id"] for row in shown])
    chosen = None if task is None or task not in results.tasks else results.set_of[results.tasks.index(task)]
    columns = {} if scalar is None else {name: sets.column_of(scalar, name) for name in STATISTICS}
    if not any(row[columns["n_nan"]] for row in shown if columns):
        columns.pop("n_nan", None)
    titles = {name: title for name, (title, _) in STATISTICS.items()}
    if scalar is not None:
        titles["half_width"] += f" {100 * sets.confidence_of(scalar):g} %"
    counts = [name for name in COUNTS[1:] if name == "done" or getattr(totals, name)]
    return {
        "heads": [
            Head("", "Set", None if order else "ascending", link(params, {"sort": ""}) + "#rows"),
            *(_head(name, name, name, order, params, "value") for name in varying),
            *(_head(name, name.capitalize(), f"-{name}", order, params, "number") for name in counts),
            *(
                _head(
                    column,
                    titles[name],
                    f"{'' if name == 'mean' else '-'}{OF_SCALAR}{name}",
                    order,
                    params,
                    "number",
                )
                for name, column in columns.items()
            ),
            *([] if sets.targets is None else [_head("precision", "Precision", "precision", order, params, "value")]),
            *([_head(ERROR, "Most frequent error", ERROR, order, params, "")] if totals.failed else []),
        ],
        "has_errors": bool(totals.failed),
        "rows": [
            {
                "id": row["param_id"],
                "number": (place := results.set_ids[row["param_id"]]) + 1,
                "is_chosen": place == chosen,
                "params": [None if row[name] is None else value_text(row[name]) for name in varying],
                "may_be_first": row.get(MAY_BE_FIRST),
                "counts": [(name, row[name]) for name in counts],
                "numbers": [(row[column], STATISTICS[name][1]) for name, column in columns.items()],
                "precision": None if sets.targets is None else sets.precision_text(row),
                "error": row[ERROR],
                "task": examples[place][0],
                "failed_task": examples[place][1],
            }
            for row in shown
        ],
        "end": order and order.scalar and next(word for word, down in ENDS.items() if down is order.is_descending),
        "paging": _paging(params, query["page"], len(shown), total, has_more=begin + len(shown) < total),
    }


def _paging(params: Params, page: int, rows: int, total: int | None, *, has_more: bool) -> dict[str, Any]:
    """Return which rows a page shows, and the links to those before and after them."""
    begin, to = (page - 1) * PAGE_SIZE, paging(params, page, MAX_PAGE)
    after = to["after"] if has_more else None
    return {"begin": begin + 1, "end": begin + rows, "total": total, "before": to["before"], "after": after}


def ends_of(results: Results, scalar: str | None) -> list[dict[str, Any]]:
    """Return the parameter sets with the lowest and the highest mean of a scalar, and how sure that is."""
    sets = results.table
    if sets is None or scalar is None or scalar not in _names(sets):
        return []
    varying, found = sets.varying()[:MAX_PARAMETERS], []
    for word, is_descending in ENDS.items():
        order = SetOrder(sets.column_of(scalar), is_descending, scalar)
        [row] = islice(_rows(sets, order, 1), 1)
        if row[order.column] is not None:
            found.append(
                {
                    "word": word,
                    "mean": mean_text(row[order.column], row[sets.column_of(scalar, "half_width")]),
                    "params": [(name, value_text(row[name])) for name in varying if row[name] is not None],
                    "said": sets.standing(order).sentences(word, scalar)[:1],
                    "task": _examples(results, [row["param_id"]])[results.set_ids[row["param_id"]]][0],
                }
            )
    return found


def _names(sets: ResultSets) -> list[str]:
    """Return the scalars that the table has, which leaves some out if there are too many."""
    return [one.name for one in sets.numbers]


def _order(sets: ResultSets, text: str | None, scalar: str | None) -> SetOrder | None:
    """Return the order that a query asks for, by a column or by a statistic of the scalar that is shown."""
    sign = "-" if text is not None and text.startswith("-") else ""
    statistic = (text or "").removeprefix("-").removeprefix(OF_SCALAR)
    if text is not None and text.removeprefix("-").startswith(OF_SCALAR) and statistic in STATISTICS:
        is_mean = statistic == "mean"
        column = None if scalar is None else sets.column_of(scalar, statistic)
        return None if column is None else SetOrder(column, bool(sign), scalar if is_mean else None)
    return sets.order_of(SetChoice(sort=text))


def _rows(sets: ResultSets, order: SetOrder | None, limit: int = 0, offset: int = 0) -> Iterator[Row]:
    """Yield parameter sets by the names of columns; in an order by a mean with whether each may be the first."""
    names = [column.name for column in sets.columns]
    standing = None if order is None or order.scalar is None else sets.standing(order)
    if standing is not None:
        names.insert(len(BEFORE), MAY_BE_FIRST)
    rows = sets.rows(order, limit, offset, standing=standing)
    return (dict(zip(names, row, strict=True)) for row in rows)


def _filter(
    sets: ResultSets, conditions: Collection[Condition], statuses: Collection[str] | None
) -> Callable[[Row], bool]:
    """Return what tells whether a set meets conditions, and has a task with one of some statuses."""
    columns = [column.name for column in sets.columns][len(BEFORE) :]
    names = [(name, column) for (name, _), column in zip(sets.parameters, columns, strict=False)]
    known = {str(Outcome.SUCCEEDED): "done", WAITING: WAITING} | dict.fromkeys(FAILED_OUTCOMES, "failed")
    counts = COUNTS[1:] if statuses is None else {known.get(status, "missing") for status in statuses}

    def passes(row: Row) -> bool:
        params = {name: row[column] for name, column in names if row[column] is not None}
        return all(one.holds(params) for one in conditions) and any(row[name] for name in counts)

    return passes


def _examples(results: Results, ids: Collection[str]) -> dict[int, list[int | None]]:
    """Return two tasks of each of some sets: the first that succeeded, or else the first, and the first that failed."""
    found: dict[int, list[int | None]] = {results.set_ids[one]: [None, None] for one in ids}
    firsts: dict[int, int] = {}
    succeeded, failed = KIND_OF[Outcome.SUCCEEDED], KIND_OF[FAILED]
    for place, task, kind in zip(results.set_of, results.tasks, results.kinds, strict=True):
        if place in found:
            firsts.setdefault(place, task)
            example = 0 if kind == succeeded else 1 if kind == failed else None
            if example is not None and found[place][example] is None:
                found[place][example] = task
    return {place: [firsts[place] if one is None else one, failed] for place, (one, failed) in found.items()}


def _head(column: str, title: str, first: str, order: SetOrder | None, params: Params, kind: str) -> Head:
    """Return the head of a column: a link that sorts by it, and turns the order that there is.

    Args:
        column: the column.
        title: its title.
        first: the order that the first click asks for.
        order: the order of the table.
        params: the query of the page.
        kind: the class of its cells.
    """
    is_sorted = order is not None and order.column == column
    is_descending = order is not None and order.is_descending
    other = first.removeprefix("-") if first.startswith("-") else f"-{first}"
    asked = (other if is_descending == first.startswith("-") else first) if is_sorted else first
    direction = ("descending" if is_descending else "ascending") if is_sorted else None
    return Head(kind, title, direction, link(params, {"sort": asked}) + "#rows")
