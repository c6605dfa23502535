"""The page of charts: load over time, how jobs ended and how long they took, by day, owner and label."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request

from mopsjobs.app.freshness import Freshness
from mopsjobs.app.job_texts import duration_text
from mopsjobs.cache.queries import charts, statistics
from mopsjobs.registry.status import END_STATUSES, STATUSES
from mopsjobs.utils.times import from_timestamp, human_duration, json_time
from mopsjobs.web import query_params, svg, view_models
from mopsjobs.web.rendering import Renderer, link

LEVEL_PARTS = 240
"""Parts of the window in the chart of queued and running jobs."""

SHOWN_GROUPS = 15
"""Owners or labels in a table of the charts, at most."""

MAX_CHARTS_AGE = 60.0
"""Seconds until the charts are rendered again; they read every job, so changes do not matter."""


class ChartsPage:
    """The handler of `/charts`."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer

    def answer(self) -> Response:
        """Return the charts."""
        now = self._renderer.site.app.now()
        query = query_params.ChartsQuery(request.args.items(multi=True), now)

        def view(connection: sqlite3.Connection, freshness: Freshness) -> dict[str, Any]:
            until = now.timestamp()
            counts = statistics.by_status(connection, query.filter)
            with charts.charted_jobs(connection, query.filter):
                days = charts.days(connection, since=query.since, until=until)
                levels = charts.levels(connection, since=query.since, until=until, count=LEVEL_PARTS)
                undated = charts.count_undated(connection)
                owners = charts.by_owner(connection, limit=SHOWN_GROUPS + 1)
                labels = charts.by_label(connection, limit=SHOWN_GROUPS + 1)
            return {
                "header": self._renderer.site.header_of(connection, freshness),
                "as_of": view_models.moment(json_time(now), until).at,
                "levels": _level_chart(levels, until, counts),
                "undated": undated,
                "ended": _ended_chart(days),
                "failures": _failure_chart(days),
                "queued": _spread_chart(days, "queued"),
                "ran": _spread_chart(days, "ran"),
                "days": [_day_row(day) for day in reversed(days)],
                "owners": _groups(owners, "owner", query),
                "labels": _groups(labels, "label", query),
                "pills": _chart_pills(counts, query),
            }

        def render(number: int) -> str:
            return self._renderer.render(
                "charts.html",
                number,
                query=query,
                windows=query_params.DAYS,
                shown_groups=SHOWN_GROUPS,
                ended_names=END_STATUSES,
                **self._renderer.site.read(view),
            )

        return self._renderer.site.live_charts.answer(request.full_path, render, max_age=MAX_CHARTS_AGE)


def _chart_pills(counts: Mapping[str, int], query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a link for each status of the jobs in the charts, in the order in which a job passes them."""
    known = [name for name in STATUSES if name in counts]
    return [
        {
            "status": view_models.status(name),
            "count": counts[name],
            "to": "/jobs" + link([("status", name), *query.params], {}),
        }
        for name in known
    ] + [
        {"status": view_models.status(name), "count": count, "to": None}
        for name, count in counts.items()
        if name not in known
    ]


def _groups(groups: list[charts.Group], field: str, query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each owner or label, with a link to its charts. A label is added to those of the query."""
    others = [(name, value) for name, value in query.params if name != field or field == "label"]
    return [
        {
            **_group_row(group),
            "to": link(list(dict.fromkeys([*others, (field, group.name)])), {}),
        }
        for group in groups
    ]


def _level_chart(levels: Sequence[charts.Level], until: float, counts: Mapping[str, int]) -> dict[str, Any]:
    """Return queued and running jobs over time, and now.

    Args:
        levels: the peaks in each part of the window.
        until: the end of the window.
        counts: the jobs by status, which tell how many are queued and running now.
    """
    most = {name: max(getattr(level, name) for level in levels) for name in ("queued", "running")}
    top = svg.ceiling(max(most.values()))
    window = (levels[0].start, until)

    def line(name: str) -> str:
        peaks = [(level.start, getattr(level, name)) for level in levels]
        return svg.line(svg.steps([*peaks, (until, peaks[-1][1])]), x=window, y_max=top)

    return {
        "top": int(top),
        "queued": line("queued"),
        "running": line("running"),
        "begin": _day(window[0]),
        "end": _day(window[1]),
        "now": {
            "queued": sum(counts.get(name, 0) for name in ("pending", "submitting", "scheduled")),
            "running": sum(counts.get(name, 0) for name in ("running", "validating")),
        },
        "most": most,
    }


def _ended_chart(days: Sequence[charts.Day]) -> dict[str, Any]:
    """Return the jobs that ended on each day, by status."""
    top = svg.ceiling(max((sum(day.ended.values()) for day in days), default=0))
    columns = [
        [
            (name, float(day.ended[name]), f"{_day(day.start)}: {day.ended[name]} {name}")
            for name in END_STATUSES
            if name in day.ended
        ]
        for day in days
    ]
    return {
        "top": int(top),
        "bars": svg.stacked(columns, y_max=top),
        "begin": _day(days[0].start),
        "end": _day(days[-1].start),
    }


def _failure_chart(days: Sequence[charts.Day]) -> dict[str, Any] | None:
    """Return the failure rate per day; None if no job ended, except by `cancel`."""
    rates = [(day.start, day.failure_rate * 100) for day in days if day.failure_rate is not None]
    if not rates:
        return None
    top = min(100.0, svg.ceiling(max(rate for _, rate in rates)))
    window = (days[0].start, days[-1].start)
    return {
        "top": f"{top:g} %",
        "points": svg.line(rates, x=window, y_max=top),
        "begin": _day(window[0]),
        "end": _day(window[1]),
    }


def _spread_chart(days: Sequence[charts.Day], which: str) -> dict[str, Any] | None:
    """Return median and 90th percentile per day, of `queued` or `ran`; None if no job has that time."""
    spreads = [(day.start, getattr(day, which)) for day in days if getattr(day, which).jobs]
    if not spreads:
        return None
    top = max(spread.p90 for _, spread in spreads)
    window = (days[0].start, days[-1].start)
    return {
        "top": human_duration(top),
        "median": svg.line([(at, spread.median) for at, spread in spreads], x=window, y_max=top),
        "p90": svg.line([(at, spread.p90) for at, spread in spreads], x=window, y_max=top),
        "begin": _day(window[0]),
        "end": _day(window[1]),
    }


def _day_row(day: charts.Day) -> dict[str, Any]:
    """Return a row of the table per day."""
    times = [value for spread in (day.queued, day.ran) for value in (spread.median, spread.p90)]
    return {
        "day": _day(day.start),
        "ended": [day.ended.get(name, 0) for name in END_STATUSES],
        "rate": _percent(day.failure_rate),
        "times": [duration_text(value) or "" for value in times],
    }


def _group_row(group: charts.Group) -> dict[str, Any]:
    """Return a row of the table per owner or label."""
    return {
        "name": group.name,
        "jobs": group.jobs,
        "active": group.active,
        "failed": group.failed,
        "rate": _percent(group.failure_rate),
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"


def _day(seconds: float) -> str:
    return f"{from_timestamp(seconds):%Y-%m-%d}"
