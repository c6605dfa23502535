"""The page of charts: load over time, how jobs ended, how long they took, and what each owner used."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from flask import Response, request

from mopsjobs.app.care.store_size import EVENTS_AGE, PRUNE_COMMAND, count_jobs_of_store
from mopsjobs.app.jobs.job_card import UNKNOWN, duration_text, memory_text, usage_text
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import DAYS
from mopsjobs.cache.queries import charts, statistics
from mopsjobs.errors import command_line
from mopsjobs.registry.status import BEFORE_RUNNING, STATUSES
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, json_time
from mopsjobs.web.drawings import day_charts
from mopsjobs.web.queries import query_params, view_models
from mopsjobs.web.site.rendering import Renderer, link

SHOWN_GROUPS = 15
"""Owners in a table of the charts, at most."""

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

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            return {
                "query": query,
                "windows": [(days, f"{days} days") for days in DAYS],
                "shown_groups": SHOWN_GROUPS,
                "events_days": EVENTS_AGE.days,
                "count_command": command_line(f"{PRUNE_COMMAND} --dry-run"),
                "as_of": view_models.moment(json_time(now), now.timestamp()).at,
                **_view(connection, query, now.timestamp()),
                "store": count_jobs_of_store(connection, now),
            }

        charts_of_site = self._renderer.site.live_charts
        return self._renderer.page("charts.html", view, pages=charts_of_site, max_age=MAX_CHARTS_AGE)


def _view(connection: sqlite3.Connection, query: query_params.ChartsQuery, until: float) -> dict[str, Any]:
    length = statistics.SECONDS_PER_DAY / day_charts.PARTS_PER_DAY[query.days]
    parts = int((until - query.since) // length) + 1
    with charts.charted_jobs(connection, query.filter):
        counts = charts.by_status(connection)
        days = charts.days(connection, since=query.since, until=until)
        levels = charts.levels(connection, since=query.since, until=query.since + parts * length, count=parts)
        undated = charts.count_undated(connection)
        total = charts.total_usage(connection)
        owners = charts.by_owner(connection, limit=SHOWN_GROUPS + 1)
    links = _Links(query)
    now = {
        "queued": sum(counts.get(name, 0) for name in BEFORE_RUNNING),
        "running": sum(counts.get(name, 0) for name in ("running", "validating")),
    }
    starts = [day.start for day in days]
    spreads = (("queued", "Queue time"), ("ran", "Run time"))
    return {
        "begin": day_charts.date(query.since),
        "levels": day_charts.level_chart(levels, starts, links.jobs_at, now),
        "peaks": [_peak(name, getattr(levels, name), query.since, length, links) for name in ("running", "queued")],
        "undated": undated,
        "ended": day_charts.ended_chart(days, links.ended_jobs),
        "failures": day_charts.failure_chart(days, links.failed_jobs),
        "spreads": [day_charts.spread_chart(days, which, name, links.ended_jobs) for which, name in spreads],
        "owners": _owner_rows(owners, query),
        "used": _used(total, sum(counts.values())),
        "costs": _cost_rows(owners, query),
        "pills": _chart_pills(counts, query),
    }


class _Links:
    """The addresses of jobs in the table, of those in the charts."""

    def __init__(self, query: query_params.ChartsQuery) -> None:
        filters = link(query.params[1:], {})
        self._begin = f"/jobs{filters}{'&' * (len(filters) > 1)}"

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


def _owner_rows(owners: Sequence[charts.Owner], query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each of the owners with the most jobs: the name leads to their charts."""
    ordered = sorted(owners, key=lambda owner: (-owner.jobs, owner.name))[: SHOWN_GROUPS + 1]
    return [
        {
            "name": owner.name,
            "to": _owner_link(owner, query),
            "counts": [
                (count, "/jobs" + _owner_link(owner, query, status) if count else None)
                for count, status in ((owner.jobs, ""), (owner.active, "active"), (owner.failed, "failed"))
            ],
            "rate": "" if owner.failure_rate is None else f"{owner.failure_rate * 100:.1f} %",
        }
        for owner in ordered
    ]


def _owner_link(owner: charts.Owner, query: query_params.ChartsQuery, status: str = "") -> str:
    """Return the query string of the jobs of an owner."""
    others = [(name, value) for name, value in query.params if name != "owner"]
    return link([*others, ("owner", owner.name)], {"status": status})


def _used(total: statistics.UsageSum, jobs: int) -> dict[str, str | None]:
    """Return what all jobs used, and how many of them do not tell."""
    unknown = jobs - total.jobs
    return {
        "text": f"{usage_text(total._asdict()) or UNKNOWN} ({pluralize(total.jobs, 'job')})" if total.jobs else None,
        "unknown": f"{pluralize(unknown, 'job')} of {jobs:,}" if unknown else None,
    }


def _cost_rows(owners: Sequence[charts.Owner], query: query_params.ChartsQuery) -> list[dict[str, Any]]:
    """Return a row for each of the owners that used the most processor time, with a bar."""
    known = [owner for owner in owners if owner.measured]
    ordered = sorted(known, key=lambda owner: (-(owner.cpu_seconds or 0.0), owner.name))[: SHOWN_GROUPS + 1]
    most = max((owner.cpu_seconds or 0.0 for owner in ordered), default=0.0) or 1.0
    return [
        {
            "name": owner.name,
            "to": "/jobs" + _owner_link(owner, query),
            "share": round(100 * (owner.cpu_seconds or 0.0) / most, 1),
            "texts": [
                duration_text(owner.cpu_seconds) or UNKNOWN,
                duration_text(owner.task_seconds) or UNKNOWN,
                duration_text(owner.held_core_seconds) or UNKNOWN,
                UNKNOWN if owner.cpu_efficiency is None else f"{100 * owner.cpu_efficiency:.0f} %",
                memory_text(owner.max_rss_bytes) or UNKNOWN,
                f"{owner.measured:,}",
                f"{owner.jobs - owner.measured:,}",
            ],
        }
        for owner in ordered
    ]
