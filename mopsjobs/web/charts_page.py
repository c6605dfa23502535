"""The page of charts: the last day job by job, load over time, how jobs ended, how long they took, what they used."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request

from mopsjobs.app.freshness import Freshness
from mopsjobs.app.job_texts import UNKNOWN, duration_text, memory_text, usage_text
from mopsjobs.app.store_size import EVENTS_AGE, PRUNE_COMMAND, count_jobs_of_store
from mopsjobs.cache.queries import charts, recent, statistics
from mopsjobs.errors import command_line
from mopsjobs.registry.status import BEFORE_RUNNING, END_STATUSES, STATUSES
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, human_duration, json_time
from mopsjobs.web import day_charts, gantt, gantt_view, query_params, view_models
from mopsjobs.web.rendering import Renderer, link

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
            return {
                "header": self._renderer.site.header_of(connection, freshness),
                "as_of": view_models.moment(json_time(now), now.timestamp()).at,
                **_view(connection, query, now.timestamp()),
                "store": count_jobs_of_store(connection, now),
            }

        def render() -> str:
            return self._renderer.render(
                "charts.html",
                query=query,
                windows=query_params.DAYS,
                shown_groups=SHOWN_GROUPS,
                ended_names=END_STATUSES,
                events_days=EVENTS_AGE.days,
                count_command=command_line(f"{PRUNE_COMMAND} --dry-run"),
                **self._renderer.site.read(view),
            )

        return self._renderer.site.live_charts.answer(request.full_path, render, max_age=MAX_CHARTS_AGE)


def _view(connection: sqlite3.Connection, query: query_params.ChartsQuery, until: float) -> dict[str, Any]:
    length = statistics.SECONDS_PER_DAY / day_charts.PARTS_PER_DAY[query.days]
    parts = int((until - query.since) // length) + 1
    with charts.charted_jobs(connection, query.filter):
        counts = charts.by_status(connection)
        days = charts.days(connection, since=query.since, until=until)
        levels = charts.levels(connection, since=query.since, until=query.since + parts * length, count=parts)
        drawn = gantt.lay_out(recent.recent_jobs(connection, since=gantt.window(until)[0], until=until), until)
        undated = charts.count_undated(connection)
        total = charts.total_usage(connection)
        owners = charts.by_owner(connection, limit=SHOWN_GROUPS + 1)
        labels = charts.by_label(connection, limit=SHOWN_GROUPS + 1)
    ids = recent.job_ids(connection, (bar.job.row for block in drawn.blocks for bar in block.bars))
    links = _Links(query)
    now = {
        "queued": sum(counts.get(name, 0) for name in BEFORE_RUNNING),
        "running": sum(counts.get(name, 0) for name in ("running", "validating")),
    }
    starts = [day.start for day in days]
    spreads = (("queued", "Queue time"), ("ran", "Run time"))
    return {
        "gantt": gantt_view.values(drawn, ids, until, links.recent_jobs),
        "begin": day_charts.date(query.since),
        "levels": day_charts.level_chart(levels, starts, links.jobs_at, now),
        "peaks": [_peak(name, getattr(levels, name), query.since, length, links) for name in ("running", "queued")],
        "undated": undated,
        "ended": day_charts.ended_chart(days, links.ended_jobs),
        "failures": day_charts.failure_chart(days, links.failed_jobs),
        "spreads": [day_charts.spread_chart(days, which, name, links.ended_jobs) for which, name in spreads],
        "days": [_day_row(day, links) for day in reversed(days)],
        "owners": _groups(owners, "owner", query),
        "labels": _groups(labels, "label", query),
        "used": _used(total, sum(counts.values())),
        "owner_costs": _costs(owners, "owner", query),
        "label_costs": _costs(labels, "label", query),
        "pills": _chart_pills(counts, query),
    }


class _Links:
    """The addresses of jobs in the table, of those in the charts."""

    def __init__(self, query: query_params.ChartsQuery) -> None:
        filters = link(query.params[1:], {})
        self._begin = f"/jobs{filters}{'&' * (len(filters) > 1)}"
        self._others = [one for one in query.params[1:] if one[0] != "owner"]

    def ended_jobs(self, since: float, until: float, status: str = "") -> str:
        """Return the address of the jobs that ended in a window."""
        chosen = status and f"status={status}&"
        return f"{self._begin}{chosen}ended_since={_time(since)}&ended_until={_time(until)}"

    def failed_jobs(self, since: float, until: float) -> str:
        """Return the same for failed jobs."""
        return self.ended_jobs(since, until, "failed")

    def jobs_at(self, since: float, until: float) -> str:
        """Return the address of the jobs that were there at some time of a window."""
        return f"{self._begin}ended_since={_time(since)}&until={_time(until)}"

    def recent_jobs(self, owner: str, since: float, status: str = "") -> str:
        """Return the address of the jobs of an owner that were there since a time."""
        return "/jobs" + link(self._others, {"owner": owner, "status": status, "ended_since": _time(since)})


def _time(seconds: float) -> str:
    return json_time(from_timestamp(seconds))


def _peak(name: str, peak: charts.Peak, since: float, length: float, links: _Links) -> dict[str, str]:
    """Return the peak in words, with the address of the jobs of its part of the window."""
    begin = since + (peak.at - since) // length * length
    return {
        "text": f"Peak: {peak.jobs:,} {name}",
        "at": f"{from_timestamp(peak.at):%Y-%m-%d at %H:%M} UTC",
        "to": links.jobs_at(begin, begin + length),
    }


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


def _groups(groups: Sequence[charts.Group], field: str, query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each of the owners or labels with the most jobs: its name leads to its charts."""
    ordered = sorted(groups, key=lambda group: (-group.jobs, group.name))[: SHOWN_GROUPS + 1]
    return [
        {
            "name": group.name,
            "to": _group_link(group, field, query),
            "counts": [
                (count, "/jobs" + _group_link(group, field, query, status) if count else None)
                for count, status in ((group.jobs, ""), (group.active, "active"), (group.failed, "failed"))
            ],
            "rate": _percent(group.failure_rate),
        }
        for group in ordered
    ]


def _group_link(group: charts.Group, field: str, query: query_params.ChartsQuery, status: str = "") -> str:
    """Return the query string of the jobs of a group. A label is added to those of the query."""
    others = [(name, value) for name, value in query.params if name != field or field == "label"]
    return link(list(dict.fromkeys([*others, (field, group.name)])), {"status": status})


def _used(total: statistics.UsageSum, jobs: int) -> dict[str, str | None]:
    """Return what all jobs used, and how many of them do not tell."""
    unknown = jobs - total.jobs
    return {
        "text": f"{usage_text(total._asdict()) or UNKNOWN} ({pluralize(total.jobs, 'job')})" if total.jobs else None,
        "unknown": f"{pluralize(unknown, 'job')} of {jobs:,}" if unknown else None,
    }


def _costs(groups: Sequence[charts.Group], field: str, query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each of the owners or labels that used the most processor time, with a bar."""
    known = [group for group in groups if group.measured]
    ordered = sorted(known, key=lambda group: (-(group.cpu_seconds or 0.0), group.name))[: SHOWN_GROUPS + 1]
    most = max((group.cpu_seconds or 0.0 for group in ordered), default=0.0) or 1.0
    return [
        {
            "name": group.name,
            "to": "/jobs" + _group_link(group, field, query),
            "share": round(100 * (group.cpu_seconds or 0.0) / most, 1),
            "texts": [
                duration_text(group.cpu_seconds) or UNKNOWN,
                duration_text(group.task_seconds) or UNKNOWN,
                duration_text(group.held_core_seconds) or UNKNOWN,
                UNKNOWN if group.cpu_efficiency is None else f"{100 * group.cpu_efficiency:.0f} %",
                memory_text(group.max_rss_bytes) or UNKNOWN,
                f"{group.measured:,}",
                f"{group.jobs - group.measured:,}",
            ],
        }
        for group in ordered
    ]


def _day_row(day: charts.Day, links: _Links) -> dict[str, Any]:
    """Return a row of the table per day."""
    times = [value for spread in (day.queued, day.ran) for value in (spread.median, spread.p90)]
    window = (day.start, day.start + statistics.SECONDS_PER_DAY)
    return {
        "day": day_charts.date(day.start),
        "to": links.ended_jobs(*window) if day.ended else None,
        "ended": [
            (day.ended.get(name, 0), links.ended_jobs(*window, name) if day.ended.get(name) else None)
            for name in END_STATUSES
        ],
        "rate": _percent(day.failure_rate),
        "times": ["" if value is None else human_duration(value) for value in times],
    }


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"
