"""The page of jobs: what failed, what runs and what waits, the search, and a table of jobs."""

from __future__ import annotations

import copy
import functools
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, redirect, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.cache.queries import filters, overview, statistics
from mopsjobs.cache.queries.jobs import describe_unreadable, page_of_jobs
from mopsjobs.cache.queries.ledgers import describe_failures
from mopsjobs.cache.queries.sweeps import Sweep, sweeps_and_jobs
from mopsjobs.cache.sync_state import known_to
from mopsjobs.errors import UsageError, command_line
from mopsjobs.registry.status import ARCHIVED, BEFORE_RUNNING, STATUSES, SWEEP, TERMINAL
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, human_duration, json_time
from mopsjobs.web.queries import query_params, view_models
from mopsjobs.web.queries.search_box import Params, describe_filters, expand_search
from mopsjobs.web.site.rendering import Head, Page, link, paging

SHOWN_ROWS = {"running": 8, "waiting": 3}
"""Rows of a section, at most, while sections below it have rows too. A link leads to the others."""

FIRST_COMMANDS = (
    ("Run a study of your model", "submit study.json --auto"),
    ("Report a job of your own", "register nightly-1"),
    ("Check that this is the registry that you mean", "doctor"),
)
"""What to type in an empty registry."""

COLUMNS = {
    "status": ("Status", "status"),
    "name": ("Job", "name"),
    "study": ("Study and labels", None),
    "owner": ("Owner", "owner"),
    "progress": ("Tasks", "progress"),
    "best": ("Best", None),
    "error": ("Error", None),
    "done": ("Done", "updated"),
}
"""The columns of the table: their titles, and what their heads sort by."""

MAX_CHIPS = 50
"""Parameters of which the filters have chips. Each chip has a link with all others."""


class JobsPage(Page):
    """The handler of `/jobs`."""

    def answer(self) -> Response | tuple[str, int]:
        """Return the page, or lead to its address: filters in the search box stand for other parameters."""
        params = list(request.args.items(multi=True))
        now = self._site.app.now()
        try:
            expanded = expand_search(params)
            if expanded is not None:
                return redirect("/jobs" + link(expanded, {}), 302)  # type: ignore[return-value]
            query = query_params.JobsPageQuery(params, now)
        except UsageError as error:
            return self._refuse("jobs.html", error, **self._form(params, dict(params))), 400

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            filters.hide_archived(connection, query.filter, query.filter_any_status)
            with filters.searching(connection, query.filter, query.filter_any_status):
                return self._view(connection, freshness, query, params)

        return self._renderer.page("jobs.html", view)

    def _view(
        self,
        connection: sqlite3.Connection,
        freshness: Freshness,
        query: query_params.JobsPageQuery,
        params: Params,
    ) -> dict[str, Any]:
        now = self._site.app.now().timestamp()
        counts = statistics.by_status(connection, query.filter)
        failures = overview.open_failures(connection, _recent(query.filter_any_status, now))
        active = overview.active_jobs(connection, query.filter_any_status, now)
        sections = _sections(connection, query, params, counts, now)
        has_best = any(row["best"] for section in sections for row in section["rows"])
        paged = sections[-1]["row_total"] if sections else 0
        return {
            "panels": {**_panels(failures, *active, query, params, now), "unknown": freshness.unknown_since},
            "total": sum(counts.values()),
            "archived": filters.count_archived(connection, query.filter),
            "archived_to": link([*params, ("label", f"{ARCHIVED}=true")], {}),
            "columns": _columns(query, params, has_best=has_best),
            "has_best": has_best,
            "first_commands": [(why, command_line(command)) for why, command in FIRST_COMMANDS],
            "paging": paging(params, query.page, max(1, -(-paged // query_params.PAGE_SIZE))),
            "unreadable": describe_unreadable(connection),
            "sections": sections,
            **self._form(params, query.values),
        }

    def _form(self, params: Params, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the search and the chips need, also for values that could not be read."""
        user = self._site.user
        owner = next((value for name, value in reversed(params) if name == "owner" and value), "")
        others = [one for one in params if one[0] != "compare"]
        return {
            "search": {
                "text": values.get("q") or "",
                "hidden": [(name, value) for name, value in params if name not in ("q", "page") and value],
                "has_boxes": values.get("compare") in (True, "true"),
                "to_boxes": "?" + urlencode([*others, ("compare", "true")]),
                "without_boxes": "?" + urlencode(others),
                "mine": None if user is None else link(params, {"owner": user}),
                "owner": owner if "," not in owner else None,
            },
            "chips": [(text, "?" + urlencode(others)) for text, others in describe_filters(params[:MAX_CHIPS])],
        }


def _recent(job_filter: filters.Filter, now: float) -> filters.Filter:
    """Return a filter for recent jobs, if it has no window of its own."""
    chosen = copy.copy(job_filter)
    if not _has_window(chosen):
        chosen.since = now - query_params.FAILURE_HOURS * 3600
    return chosen


def _has_window(job_filter: filters.Filter) -> bool:
    ends = (job_filter.since, job_filter.until, job_filter.ended_since)
    return any(end is not None for end in ends)


def _panels(
    failures: overview.OpenFailures,
    running: overview.ActiveJobs,
    waiting: overview.ActiveJobs,
    query: query_params.JobsPageQuery,
    params: Params,
    now: float,
) -> dict[str, Any]:
    """Return the answers to the three first questions, each with a link to its jobs."""
    plain = [(name, value) for name, value in params if name not in (*query_params.UNPANELED, "sort")]
    window = {} if _has_window(query.filter) else {"hours": f"{query_params.FAILURE_HOURS:g}"}
    to_failures = {"open": "true", **window}
    oldest = waiting.oldest
    return {
        "failures": failures,
        "failed_to": link(plain, to_failures),
        "errors": [(code, count, link(plain, {**to_failures, "error": code})) for code, count in failures.errors],
        "days": round(query_params.FAILURE_HOURS / 24) if window else None,
        "is_part": query.is_part,
        "running": running,
        "running_to": link(plain, {"status": "running,validating"}),
        "suspect": running.suspect + waiting.suspect,
        "suspect_to": link(plain, {"stuck": "true"}),
        "next": _moment_ahead(running.next_end, now),
        "last": _moment_ahead(running.last_end, now),
        "waiting": waiting.jobs,
        "waiting_to": link(plain, {"status": ",".join(name for name in STATUSES if name in BEFORE_RUNNING)}),
        "oldest": None if oldest is None else json_time(from_timestamp(oldest)),
        "longest": None if oldest is None else human_duration(now - oldest),
    }


def _moment_ahead(at: float | None, now: float) -> dict[str, str] | None:
    """Return a time ahead: how far, by the clock, and in full."""
    if at is None:
        return None
    moment = from_timestamp(at)
    form = "%H:%M" if at - now < 86400 else "%Y-%m-%d %H:%M"
    return {"left": human_duration(at - now), "clock": f"{moment:{form}} UTC", "at": json_time(moment)}


def _sections(
    connection: sqlite3.Connection,
    query: query_params.JobsPageQuery,
    params: Params,
    counts: Mapping[str, int],
    now: float,
) -> list[dict[str, Any]]:
    """Return the rows of the page: what runs, what waits and what has ended; in one section if they are sorted."""
    offset = (query.page - 1) * query_params.PAGE_SIZE
    has_sweeps = filters.shows_sweeps(connection, query.filter)
    in_phase = functools.partial(overview.rows_in_phase, connection) if has_sweeps else overview.in_phase
    if query.order is not None:
        parts = [("", counts, query.filter, query.order)]
    else:
        parts = [
            (phase, names, in_phase(query.filter, phase), overview.order_of_phase(connection, phase, now))
            for phase, names in _by_phase(counts).items()
            if names
        ]
    sections, known = [], known_to(connection, now)
    for phase, names, chosen, order in parts:
        is_paged = phase == parts[-1][0]
        if query.page > 1 and not is_paged:
            continue
        limit = query_params.PAGE_SIZE if is_paged else SHOWN_ROWS[phase]
        shown = {"limit": limit, "offset": offset if is_paged else 0}
        total = row_total = sum(names.values())
        if has_sweeps:
            whole = query.filter if not phase else overview.in_phase(query.filter, phase)
            row_total += sweeps_and_jobs(connection, chosen)[0] - sweeps_and_jobs(connection, whole)[1]
            found = overview.listed_rows(connection, chosen, query.filter, order=order, now=now, **shown)
        else:
            found = [*page_of_jobs(connection, chosen, order=order, now=now, **shown)]
        rows = [_row(one, now, known, params) for one in found]
        _add_details(connection, [row for row in rows if row["sweep"] is None])
        others = link(params, {"status": ",".join(names)})
        sections.append(
            {
                "phase": phase,
                "total": total,
                "row_total": row_total,
                "statuses": [
                    (view_models.status(name), names[name], link(params, {"status": name}))
                    for name in filters.URGENCY
                    if name in names
                ],
                "unknown": sum(count for name, count in names.items() if name not in filters.URGENCY),
                "rows": rows,
                "more": None if is_paged or row_total <= limit else (row_total - limit, others),
            }
        )
    return sections


def _row(found: dict[str, Any] | Sweep, now: float, known: float, params: Params) -> dict[str, Any]:
    if not isinstance(found, Sweep):
        shown = view_models.row(found, now, known)
        return shown if found["calibration"] is None else view_models.calibration_row(shown, found["calibration"])
    return {**view_models.sweep_row(found, now), "to": link([*params, ("label", f"{SWEEP}={found.name}")], {})}


def _by_phase(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the counts per status, by what the jobs are doing."""
    phases: dict[str, dict[str, int]] = {phase: {} for phase in filters.PHASES}
    for name, count in counts.items():
        phase = "waiting" if name in BEFORE_RUNNING else "ended" if name in TERMINAL else "running"
        phases[phase][name] = count
    return phases


def _add_details(connection: sqlite3.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Add the job that continues each, and the errors of its tasks if the cache has them."""
    resumed = overview.resumed_as(connection, [row["id"] for row in rows])
    for row in rows:
        row["resumed"] = resumed.get(row["id"])
        known = count = None
        if failed := row["failed"]:
            known = describe_failures(connection, row["id"], failed, is_active=row["ended"] is None)
            count = f"{pluralize(failed, 'task')} failed"
        row["error"] = known or row["error"] or count


def _columns(query: query_params.JobsPageQuery, params: Params, *, has_best: bool) -> list[Head]:
    """Return the heads of the table. Some link to the order by their column, or to the reverse of that.

    Args:
        query: the query of the page.
        params: its names and values.
        has_best: whether a row has a best set.
    """
    first = (query.sort or "").partition(",")[0].strip().lstrip("+")
    columns = []
    for name, (title, column) in COLUMNS.items():
        order = None if column is None else {column: "ascending", f"-{column}": "descending"}.get(first)
        is_descending = order == "ascending" or (order is None and column in ("progress", "updated"))
        chosen = f"{'-' * is_descending}{column}" + ",-updated" * (column == "status")
        to = None if column is None else link(params, {"sort": chosen})
        if name != "best" or has_best:
            columns.append(Head(name, title, order, to))
    if query.values["compare"]:
        columns.insert(2, Head("compare", "Compare", None, None))
    return columns
