"""The page of failures: what failed in all jobs, why and where, how often, and since when."""

from __future__ import annotations

import shlex
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import API, NUMBER, REPEATED, filters_on
from mopsjobs.app.tasks.failures import UNNAMED, FailureOverview, MergedGroup, describe_condition, overview_of_filter
from mopsjobs.cache.queries import statistics
from mopsjobs.cache.queries.failures import FailedJob
from mopsjobs.errors import command_line
from mopsjobs.utils.text import cut_to_length, join_first, pluralize
from mopsjobs.web.pages.readings import MAX_READ_TASKS, Reading
from mopsjobs.web.queries.query_params import MAX_FAILED_JOBS, FailuresPageQuery
from mopsjobs.web.queries.search_box import Params, describe_filters
from mopsjobs.web.queries.view_models import choices
from mopsjobs.web.site.job_reads import FAILURES
from mopsjobs.web.site.memo import Memo
from mopsjobs.web.site.rendering import Head, Page, Renderer, link, paging

PAGE_SIZE = 25

MAX_ASKED = 500
"""Jobs that one page has read, the last changed first. `JobReads` remembers more of them, so each has its turn."""

HOURS = {"1": "an hour", "24": "a day", "48": "2 days", "168": "a week", "720": "30 days", "8760": "a year"}
"""The windows to choose from: their values in `hours`, and their texts."""

STATUSES = ("failed", "partial", "active", "cancelled")

COLUMNS = {
    "error": "Error",
    "tasks": "Tasks",
    "jobs": "Jobs",
    "owners": "Owners",
    "first": "First",
    "last": "Last",
}

SORT_KEYS: dict[str, Callable[[MergedGroup], float]] = {
    "tasks": lambda group: group.size,
    "jobs": lambda group: len(group.jobs),
    "first": lambda group: group.first_ts or 0.0,
    "last": lambda group: group.last_ts or 0.0,
}

IN_FORM = ("hours", "status", "owner", "label", "resumed")


SHOWN_JOBS = 6

SHOWN_OWNERS = 2
"""Owners of an error that its row names. If there are more, it names the one with the most jobs."""

MAX_MESSAGE = 300
"""Characters of a message. The log has all."""


def failure_row(
    group: MergedGroup, owners: Mapping[str, str | None], params: Params, default_hours: float | None
) -> dict[str, Any]:
    """Return the row of a group.

    Args:
        group: the failures with one error.
        owners: the owner of each job.
        params: the query of the page.
        default_hours: the length of the window, if the query does not say where it begins.
    """
    by_owner = Counter(owner for job_id in group.jobs if (owner := owners.get(job_id)) is not None).most_common()
    shown = by_owner if len(by_owner) <= SHOWN_OWNERS else by_owner[:1]
    lines = (group.example or group.message).strip().splitlines()
    return {
        "group": group,
        "message": cut_to_length(lines[0], MAX_MESSAGE) if lines else "",
        "is_example": group.example not in (None, group.message),
        "condition": describe_condition(group.separates[0]) if group.separates else None,
        "named": list(zip(group.jobs, group.sizes, strict=True))[:SHOWN_JOBS],
        "jobs_to": _jobs_link(group, params, default_hours),
        "owners": [(owner, link(params, {"owner": owner})) for owner, _ in shown],
        "more_owners": len(by_owner) - len(shown),
    }


def _jobs_link(group: MergedGroup, params: Params, hours: float | None) -> str | None:
    """Return the address of the jobs with an error; None if no text names it."""
    first = group.first
    if first.tasks:
        text = first.type if first.where is None else f"{first.type} in {first.where}"
    else:
        words = [first.type] if first.type != UNNAMED else []
        words += [group.message] if group.message and group.example is None else []
        text = ": ".join(words)
    if not text:
        return None
    others = [(name, value) for name, value in params if name not in ("resumed", "sort", "limit")]
    return "/jobs" + link(others, {"hours": "" if hours is None else f"{hours:g}", "error": text})


class FailuresPage(Page):
    """The handler of `/failures`."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer)
        self._memo: Memo[FailureOverview] = Memo(renderer.site.app.monotonic, 16)

    def answer(self) -> Response:
        """Return the page."""
        params = list(request.args.items(multi=True))
        query = FailuresPageQuery(params, self._site.app.now())

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            found = self._find(connection, params, query)
            # Also those that were resumed.
            looked_at = None if found.groups else sum(statistics.by_status(connection, query.filter).values())
            return {
                "looked_at": looked_at,
                "reading": self._read(found.unread, query),
                **_form(params, query),
                **_listed(found, params, query),
            }

        return self._renderer.page("failures.html", view)

    def _find(self, connection: sqlite3.Connection, params: Params, query: FailuresPageQuery) -> FailureOverview:
        """Return the failures. They are merged again after a change, but for a twentieth of the time at most."""
        minute = int(self._site.app.now().timestamp() // 60)  # the window moves, even if nothing changes
        return self._memo.get(
            link(params, {"sort": ""}),
            (self._site.state(), minute),
            lambda: overview_of_filter(
                connection, query.filter, query.values["limit"], resumed=query.values["resumed"]
            ),
        )

    def _read(self, unread: Sequence[FailedJob], query: FailuresPageQuery) -> Reading | None:
        """Ask for jobs to be read whose failures the cache lacks; return what to say of that."""
        lacking = sum(job.failures is None for job in unread)
        reads = self._site.reads
        if reads is None:
            return Reading(f"{_not_read(lacking)} Run: {_command(query)}") if lacking else None
        states = [
            reads.ask(FAILURES, job.job_id, state=job.updated_at)
            for job in unread[:MAX_ASKED]
            if job.tasks_total <= MAX_READ_TASKS
        ]
        foreign = sum(state.is_foreign for state in states)
        said = f"{pluralize(foreign, 'job')} {'was' if foreign == 1 else 'were'} not submitted by mops-jobs."
        said = said if foreign else ""
        if lacking <= foreign:
            return Reading(said) if foreign else None
        problem = next((state.problem for state in states if state.problem is not None and not state.is_foreign), None)
        is_waiting = any(state.is_waiting for state in states)
        why = problem or ("They are being read from the registry." if is_waiting else f"Run: {_command(query)}")
        return Reading(f"{_not_read(lacking - foreign)} {why} {said}".rstrip(), is_waiting=is_waiting)


def _not_read(jobs: int) -> str:
    return f"The failures of {pluralize(jobs, 'job')} are not read yet."


def _command(query: FailuresPageQuery) -> str:
    """Return the command that reads all that the page lacks."""
    flags = [
        f"--{name}" if value is True else f"--{name} {shlex.quote(f'{value:g}' if one.kind == NUMBER else value)}"
        for name, one in filters_on(API).items()
        for value in (query.values[name] if one.kind == REPEATED else [query.values[name]])
        if one.is_set(value)
    ]
    flags += ["--resumed"] if query.values["resumed"] else []
    return command_line("failures", options=" ".join([*flags, "--limit 0"]))


def _listed(found: FailureOverview, params: Params, query: FailuresPageQuery) -> dict[str, Any]:
    """Return the headline, and the rows of the page."""
    ordered = sorted(found.groups, key=SORT_KEYS[query.values["sort"]], reverse=True)
    begin = (query.values["page"] - 1) * PAGE_SIZE
    shown = ordered[begin : begin + PAGE_SIZE]
    ends = [group.last_ts for group in ordered if group.last_ts is not None]
    most = MAX_FAILED_JOBS
    return {
        "found": found,
        "record_jobs": sum(len(group.jobs) for group in ordered if not group.first.tasks),
        "reasons": pluralize(len(ordered) + found.more_groups, "reason"),
        "last": max(ends, default=None),
        "rows": [failure_row(group, found.owners, params, query.default_hours) for group in shown],
        "unexplained": join_first(found.unexplained),
        "all_jobs": link(params, {"limit": str(most)}) if query.values["limit"] < most else None,
        "columns": [
            Head(
                name,
                title,
                "descending" if name == query.values["sort"] else None,
                link(params, {"sort": name}) if name in SORT_KEYS else None,
            )
            for name, title in COLUMNS.items()
        ],
        "paging": paging(params, query.values["page"], -(-len(ordered) // PAGE_SIZE)),
    }


def _form(params: Params, query: FailuresPageQuery) -> dict[str, Any]:
    """Return what the form and the chips need."""
    hours = "" if query.values["hours"] is None else f"{query.values['hours']:g}"
    since, status = query.values["since"], query.values["status"] or ""
    when = f"since {since}" if since else f"within {HOURS.get(hours, f'{hours} hours')}"
    in_form = [(name, value) for name, value in params if name in IN_FORM and value]
    others = [(name, value) for name, value in params if name not in (*IN_FORM, "page") and value]
    return {
        "query": query.values,
        "looked": _describe_jobs(query, when),
        "when": when,
        "hours": choices(HOURS, hours, f"{hours} hours"),
        "chosen_hours": hours,
        "statuses": [*STATUSES, *([status] if status and status not in STATUSES else [])],
        "hidden": others,
        "chips": [(text, "?" + urlencode([*in_form, *rest])) for text, rest in describe_filters(others)],
    }


def _describe_jobs(query: FailuresPageQuery, when: str) -> str:
    """Return which jobs the page looks at, for its form is folded."""
    values = query.values
    words = [
        f"Jobs that changed {when}" if not values["status"] else f"Jobs that are {values['status']} and changed {when}",
        *([f"of {values['owner']}"] if values["owner"] else []),
        *(f"with {label}" for label in values["label"]),
        "with resumed ones" if values["resumed"] else "without resumed ones",
    ]
    return ", ".join(words)
