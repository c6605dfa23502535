"""The page of jobs: how many have each status, the filters, and a table."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Any

from flask import request

from mopsjobs.app.freshness import Freshness
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.registry.status import STATUSES
from mopsjobs.web import query_params, view_models
from mopsjobs.web.rendering import Renderer, link

COLUMNS = (
    ("name", "Job"),
    ("status", "Status"),
    ("progress", "Progress"),
    ("owner", "Owner"),
    ("created", "Created"),
    ("updated", "Updated"),
    ("duration", "Duration"),
)
"""Columns of the table of jobs: their names in `sort`, and their titles."""

HOURS = (("", "any time"), ("1", "hour"), ("24", "day"), ("48", "2 days"), ("168", "week"), ("720", "30 days"))
"""The windows to choose from: their values in `hours`, and their texts."""

OTHER_FILTERS = {
    "name": "name {}",
    "namespace": "namespace {}",
    "since": "changed since {}, or active",
    "until": "created before {}",
    "days": "ended in the last {} days, or active",
}
"""Filters that the form has no field for, with the texts that show them."""


class JobsPage:
    """The handler of `/jobs`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def answer(self) -> str:
        """Return the table of jobs."""
        params = list(request.args.items(multi=True))
        query = query_params.JobsPageQuery(params, self._renderer.site.app.now())

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            now = self._renderer.site.app.now().timestamp()
            counts = job_queries.count_by_status(connection, query.filter_any_status)
            total = (
                sum(counts.values())
                if not query.statuses
                else sum(job_queries.count_by_status(connection, query.filter).values())
            )
            jobs = job_queries.page_of_jobs(
                connection,
                query.filter,
                order=query.order,
                limit=query_params.PAGE_SIZE,
                offset=(query.page - 1) * query_params.PAGE_SIZE,
                now=now,
            )
            broken = len(job_queries.unreadable_records(connection))
            return {
                "header": self._renderer.site.header_of(connection, freshness),
                "counts": counts,
                "total": total,
                "rows": [view_models.row(job, now) for job in jobs],
                "broken": broken,
            }

        def render(number: int) -> str:
            data = self._renderer.site.read(view)
            return self._renderer.render(
                "jobs.html",
                number,
                query=query,
                pills=_pills(query, params, data["counts"]),
                hours=_hours(query),
                other_filters=_other_filters(query, params),
                columns=_columns(query, params),
                paging=_paging(query, params, data["total"]),
                **data,
            )

        return self._renderer.site.pages.get(request.full_path, render)


def _pills(
    query: query_params.JobsPageQuery, params: list[tuple[str, str]], counts: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Return a link for each status: to its jobs only, and from there back to all."""
    pills = [
        {
            "name": "all",
            "count": sum(counts.values()),
            "on": query.filter.statuses is None,
            "to": link(params, {"status": ""}),
        }
    ]
    for name in STATUSES:
        on = name in query.statuses
        to = link(params, {"status": "" if query.statuses == {name} else name})
        pills.append(
            {"name": name, "status": view_models.status(name), "count": counts.get(name, 0), "on": on, "to": to}
        )
    others = sum(count for name, count in counts.items() if name not in STATUSES)
    if others:
        pills.append({"name": "unknown", "status": view_models.status("unknown"), "count": others, "to": None})
    return pills


def _hours(query: query_params.JobsPageQuery) -> list[tuple[str, str]]:
    """Return value and text of each window to choose from. A window of the query that is not offered is added."""
    hours = query.hours
    return [*HOURS, *([(hours, f"{hours} hours")] if hours not in dict(HOURS) else [])]


def _other_filters(query: query_params.JobsPageQuery, params: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Return the filters of the query that the form has no field for: each with a text, and a link that removes it."""
    return [
        {"name": name, "value": value, "text": text.format(value), "to": link(params, {name: ""})}
        for name, text in OTHER_FILTERS.items()
        if (value := query.values[name]) is not None
    ]


def _columns(query: query_params.JobsPageQuery, params: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the heads of the table: each links to the order by its column, or to the reverse of that."""
    first = query.sort.partition(",")[0].strip()
    columns = []
    for name, title in COLUMNS:
        order = {name: "ascending", f"+{name}": "ascending", f"-{name}": "descending"}.get(first)
        reverse = f"-{name}" if order == "ascending" else name
        is_newest_first = order is None and name in ("created", "updated", "duration", "progress")
        to = link(params, {"sort": f"-{name}" if is_newest_first else reverse})
        columns.append({"name": name, "title": title, "order": order, "to": to})
    return columns


def _paging(query: query_params.JobsPageQuery, params: list[tuple[str, str]], total: int) -> dict[str, Any]:
    last = max(1, -(-total // query_params.PAGE_SIZE))
    begin = (query.page - 1) * query_params.PAGE_SIZE

    def to(page: int) -> str | None:
        return link(params, {}) + f"&page={page}" if 1 <= page <= last and page != query.page else None

    return {
        "page": query.page,
        "pages": last,
        "begin": begin + 1,
        "end": min(begin + query_params.PAGE_SIZE, total),
        "before": to(min(query.page - 1, last)),
        "after": to(query.page + 1),
    }
