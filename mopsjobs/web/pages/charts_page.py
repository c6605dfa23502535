"""The page of charts: load over time, how jobs ended, how long they took, and what each owner used."""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Response, request

from mopsjobs.app.care.store_size import EVENTS_AGE, PRUNE_COMMAND, count_jobs_of_store
from mopsjobs.app.jobs.job_card import UNKNOWN, usage_text
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import DAYS
from mopsjobs.cache.queries import statistics
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
        """Return the statistics."""
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

        return self._renderer.page("charts.html", view, max_age=MAX_CHARTS_AGE, follows=False)


def _view(connection: sqlite3.Connection, query: query_params.ChartsQuery, until: float) -> dict[str, Any]:
    length = statistics.SECONDS_PER_DAY / day_charts.PARTS_PER_DAY[query.days]
    parts = int((until - query.since) // length) + 1
    with statistics.charted_jobs(connection, query.filter):
        counts = statistics.charted_statuses(connection)
        days = statistics.days(connection, since=query.since, until=until)
        levels = statistics.levels(connection, since=query.since, until=query.since + parts * length, count=parts)
        undated = statistics.count_undated(connection)
        total = statistics.total_usage(connection)
        owners = statistics.charted_owners(connection, limit=SHOWN_GROUPS + 1)
    filters = link(query.params[1:], {})
    begin = f"/jobs{filters}{'&' * (len(filters) > 1)}"

    def ended(since: float, until: float, status: str = "") -> str:
        """Return the address of the jobs that ended in a window."""
        return f"{begin}{status and f'status={status}&'}ended_since={_time(since)}&ended_until={_time(until)}"

    def failed(since: float, until: float) -> str:
        return ended(since, until, "failed")

    def present(since: float, until: float) -> str:
        """Return the address of the jobs that were there at some time of a window."""
        return f"{begin}ended_since={_time(since)}&until={_time(until)}"

    def of_owner(name: str, status: str = "") -> str:
        """Return the query string of the jobs of an owner."""
        others = [(key, value) for key, value in query.params if key != "owner"]
        return link([*others, ("owner", name)], {"status": status})

    def of_status(name: str) -> str | None:
        return "/jobs" + link([("status", name), *query.params], {}) if name in STATUSES else None

    def peak(name: str, found: statistics.Peak) -> dict[str, str]:
        """Return a peak in words, with the address of the jobs of its part of the window."""
        first = query.since + (found.at - query.since) // length * length
        at = f"{from_timestamp(found.at):%Y-%m-%d at %H:%M} UTC"
        return {"text": f"Peak: {found.jobs:,} {name}", "at": at, "to": present(first, first + length)}

    now = {
        "queued": sum(counts.get(name, 0) for name in BEFORE_RUNNING),
        "running": sum(counts.get(name, 0) for name in ("running", "validating")),
    }
    # In the order in which a job passes them. Jobs of an unknown status cannot be filtered by it.
    ordered = [*filter(counts.__contains__, STATUSES), *(name for name in counts if name not in STATUSES)]
    measured = [owner for owner in owners if owner.measured]
    costs = sorted(measured, key=lambda owner: (-(owner.cpu_seconds or 0.0), owner.name))
    unknown = sum(counts.values()) - total.jobs
    spreads = (("queued", "Queue time"), ("ran", "Run time"))
    return {
        "begin": day_charts.date(query.since),
        "levels": day_charts.level_chart(levels, [day.start for day in days], present, now),
        "peaks": [peak(name, getattr(levels, name)) for name in ("running", "queued")],
        "undated": undated,
        "ended": day_charts.ended_chart(days, ended),
        "failures": day_charts.failure_chart(days, failed),
        "spreads": [day_charts.spread_chart(days, which, name, ended) for which, name in spreads],
        "owners": sorted(owners, key=lambda owner: (-owner.jobs, owner.name)),
        "of_owner": of_owner,
        "used": f"{usage_text(total._asdict()) or UNKNOWN} ({pluralize(total.jobs, 'job')})" if total.jobs else None,
        "unknown": f"{pluralize(unknown, 'job')} of {sum(counts.values()):,}" if unknown else None,
        "costs": costs,
        "most": max((owner.cpu_seconds or 0.0 for owner in costs), default=0.0) or 1.0,
        "pills": [(view_models.status(name), counts[name], of_status(name)) for name in ordered],
    }


def _time(seconds: float) -> str:
    return json_time(from_timestamp(seconds))
