"""The page of charts: load over time, and what each owner used. How jobs ended and how long they took: `summary`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from flask import Response, request

from mopsjobs.app.jobs.job_card import UNKNOWN, usage_text
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import DAYS
from mopsjobs.cache.queries import statistics
from mopsjobs.registry.status import BEFORE_RUNNING, STATUSES
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, human_duration, json_time
from mopsjobs.web.drawings.axes import count_scale, day_texts
from mopsjobs.web.queries import query_params, view_models
from mopsjobs.web.site.rendering import Page, link

WIDTH = 720.0
HEIGHT = 160.0
"""The size of a drawing, in its own units."""

PARTS_PER_DAY = {7: 24, 30: 8, 90: 4}
"""Parts of a day in the chart of queued and running jobs, for each period."""


def level_chart(
    parts: Sequence[statistics.Level],
    length: float,
    days: Sequence[float],
    to: Callable[[float, float], str],
    now: Mapping[str, int],
) -> dict[str, Any]:
    """Return the drawing of queued and running jobs over time, for the template.

    Args:
        parts: the largest numbers in each part of the window, which may end before the last day does.
        length: the seconds of a part.
        days: when the days begin.
        to: returns the address of the jobs that were there at some time, by its begin and its end.
        now: how many jobs are `queued` and `running`.
    """
    window = (days[0], days[-1] + statistics.SECONDS_PER_DAY)
    scale = count_scale("Jobs at the same time", max(max(one.queued, one.running) for one in parts))
    paths = []
    for name, kind in (("queued", "line scheduled dashed"), ("running", "line running")):
        values = [(level.start, getattr(level, name)) for level in parts]
        values.append((parts[-1].start + length, values[-1][1]))
        paths.append((kind, _path_of_steps(values, window, scale.top)))
    by_day: dict[float, list[statistics.Level]] = {day: [] for day in days}
    for level in parts:
        by_day.setdefault(level.start // statistics.SECONDS_PER_DAY * statistics.SECONDS_PER_DAY, []).append(level)
    titles = [
        f"{date(day)}: at most {max((one.queued for one in here), default=0):,} queued,"
        f" {max((one.running for one in here), default=0):,} running"
        for day, here in by_day.items()
    ]
    width = WIDTH / len(days)
    return {
        "title": f"Queued and running jobs, maximum per {human_duration(length)}",
        "words": f"Now {now['queued']:,} queued and {now['running']:,} running jobs.",
        "x": day_texts(list(days)),
        "y": scale.texts,
        "grid": _grid(scale.steps, len(days) if len(days) < 10 else 1),
        "paths": paths,
        "days": [
            (
                f"M{width * place:.1f} 0h{width:.1f}v{HEIGHT:g}h-{width:.1f}z",
                to(day, day + statistics.SECONDS_PER_DAY),
                title,
            )
            for place, (day, title) in enumerate(zip(days, titles, strict=True))
        ],
        "marks": [
            ("running", f"{now['running']:,} running now", "━"),
            ("scheduled", f"{now['queued']:,} queued now", "╍"),
        ],
    }


def _path_of_steps(points: Sequence[tuple[float, float]], window: tuple[float, float], top: float) -> str:
    """Return a line that keeps each value until the next one, as data of a path.

    Args:
        points: times and values.
        window: the times at the left and at the right edge.
        top: the value at the upper edge; 0 is at the lower one.
    """
    corners = [points[0]]
    for (_, before), (at, value) in pairwise(points):
        corners += [(at, before), (at, value)]
    begin, end = window
    places = (((at - begin) / (end - begin) * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in corners)
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)


def _grid(rows: int, columns: int) -> str:
    """Return the lines between equal rows and columns."""
    across = (f"M0 {HEIGHT * row / rows:.1f}h{WIDTH:g}" for row in range(1, rows))
    down = (f"M{WIDTH * column / columns:.1f} 0v{HEIGHT:g}" for column in range(1, columns))
    return "".join([*across, *down])


def date(seconds: float) -> str:
    """Return the date of a time, in UTC."""
    return f"{from_timestamp(seconds):%Y-%m-%d}"


SHOWN_GROUPS = 15

MAX_CHARTS_AGE = 60.0
"""Seconds until the charts are rendered again; they read every job, so changes do not matter."""


class ChartsPage(Page):
    """The handler of `/charts`."""

    def answer(self) -> Response:
        """Return the statistics."""
        now = self._site.app.now()
        query = query_params.ChartsQuery(request.args.items(multi=True), now)

        def view(connection: sqlite3.Connection, _freshness: Freshness) -> dict[str, Any]:
            return {
                "query": query,
                "windows": [(days, f"{days} days") for days in DAYS],
                "shown_groups": SHOWN_GROUPS,
                "as_of": view_models.moment(json_time(now), now.timestamp()).at,
                **_view(connection, query, now.timestamp()),
            }

        return self._renderer.page("charts.html", view, max_age=MAX_CHARTS_AGE, follows=False)


def _view(connection: sqlite3.Connection, query: query_params.ChartsQuery, until: float) -> dict[str, Any]:
    length = statistics.SECONDS_PER_DAY / PARTS_PER_DAY[query.days]
    parts = int((until - query.since) // length) + 1
    with statistics.charted_jobs(connection, query.filter):
        counts = statistics.charted_statuses(connection)
        levels = statistics.levels(connection, since=query.since, until=query.since + parts * length, count=parts)
        undated = statistics.count_undated(connection)
        total = statistics.total_usage(connection)
        costs = statistics.owners_usage(connection, limit=SHOWN_GROUPS + 1)
    filters = link(query.params[1:], {})
    begin = f"/jobs{filters}{'&' * (len(filters) > 1)}"
    days = [query.since + place * statistics.SECONDS_PER_DAY for place in range(query.days)]

    def present(since: float, until: float) -> str:
        """Return the address of the jobs that were there at some time of a window."""
        return f"{begin}ended_since={_time(since)}&until={_time(until)}"

    def of_owner(name: str) -> str:
        """Return the query string of the jobs of an owner."""
        return link([*((key, value) for key, value in query.params if key != "owner"), ("owner", name)], {})

    def of_status(name: str) -> str | None:
        return "/jobs" + link([("status", name), *query.params], {}) if name in STATUSES else None

    now = {
        "queued": sum(counts.get(name, 0) for name in BEFORE_RUNNING),
        "running": sum(counts.get(name, 0) for name in ("running", "validating")),
    }
    # In the order in which a job passes them. Jobs of an unknown status cannot be filtered by it.
    ordered = [*filter(counts.__contains__, STATUSES), *(name for name in counts if name not in STATUSES)]
    unknown = sum(counts.values()) - total.jobs
    return {
        "begin": date(query.since),
        "levels": level_chart(levels, length, days, present, now),
        "undated": undated,
        "of_owner": of_owner,
        "used": f"{usage_text(total._asdict()) or UNKNOWN} ({pluralize(total.jobs, 'job')})" if total.jobs else None,
        "unknown": f"{pluralize(unknown, 'job')} of {sum(counts.values()):,}" if unknown else None,
        "costs": costs,
        "most": max((owner.cpu_seconds or 0.0 for owner in costs), default=0.0) or 1.0,
        "pills": [(view_models.status(name), counts[name], of_status(name)) for name in ordered],
    }


def _time(seconds: float) -> str:
    return json_time(from_timestamp(seconds))
