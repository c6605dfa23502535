"""The page of charts: load over time, and what each owner used. How jobs ended and how long they took: `summary`."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flask import Response, request

from mopsjobs.app.jobs.job_card import UNKNOWN, usage_text
from mopsjobs.app.run.freshness import Freshness
from mopsjobs.app.run.job_arguments import DAYS
from mopsjobs.cache.queries import statistics
from mopsjobs.registry.status import BEFORE_RUNNING, STATUSES
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import from_timestamp, human_duration, json_time
from mopsjobs.web.drawings.axes import AxisTexts, Scale, count_scale, day_texts
from mopsjobs.web.queries import query_params, view_models
from mopsjobs.web.site.rendering import Renderer, link

WIDTH = 720.0
HEIGHT = 160.0
"""The size of a drawing, in its own units."""

PARTS_PER_DAY = {7: 24, 30: 8, 90: 4}
"""Parts of a day in the chart of queued and running jobs, for each period."""

DayLink = Callable[[float, float], str]
"""Returns the address of the jobs of a time: its begin and its end."""


class Place(NamedTuple):
    """A part of a drawing that leads to its jobs."""

    path: str
    to: str
    title: str


class Chart(NamedTuple):
    """A drawing."""

    title: str
    words: str
    """What it shows, for people who do not see it."""
    x: AxisTexts
    y: AxisTexts
    grid: str
    paths: list[tuple[str, str]]
    """Classes and data, from the bottom."""
    places: list[Place]
    keys: list[tuple[str, str, str]]
    """What the colours mean: class, name, mark."""


def line(points: Sequence[tuple[float, float]], *, x: tuple[float, float], y_max: float) -> str:
    """Return a line, as data of a path.

    Args:
        points: pairs of x and y.
        x: the values at the left and at the right edge.
        y_max: the value at the top; 0 is at the bottom.
    """
    span, top = (x[1] - x[0]) or 1.0, y_max or 1.0
    places = (((at - x[0]) / span * WIDTH, HEIGHT - value / top * HEIGHT) for at, value in points)
    return "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places) if points else ""


def steps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points of a line that keeps each value until the next one."""
    corners: list[tuple[float, float]] = []
    for at, value in points:
        if corners:
            corners.append((at, corners[-1][1]))
        corners.append((at, value))
    return corners


def grid(rows: int, columns: int = 1) -> str:
    """Return the lines between equal rows and columns."""
    across = (f"M0 {HEIGHT * row / rows:.1f}h{WIDTH:g}" for row in range(1, rows))
    down = (f"M{WIDTH * column / columns:.1f} 0v{HEIGHT:g}" for column in range(1, columns))
    return "".join([*across, *down])


def level_chart(parts: Sequence[statistics.Level], days: Sequence[float], to: DayLink, now: Mapping[str, int]) -> Chart:
    """Return queued and running jobs over time.

    Args:
        parts: the largest numbers in each part of the window, which may end before the last day does.
        days: when the days begin.
        to: returns the address of the jobs that were there at some time.
        now: how many jobs are `queued` and `running`.
    """
    window = (days[0], days[-1] + statistics.SECONDS_PER_DAY)
    length = parts[1].start - parts[0].start if len(parts) > 1 else statistics.SECONDS_PER_DAY
    scale = count_scale("Jobs at the same time", max(max(one.queued, one.running) for one in parts))
    paths = []
    for name, kind in (("queued", "line scheduled dashed"), ("running", "line running")):
        values = [(level.start, getattr(level, name)) for level in parts]
        corners = steps([*values, (parts[-1].start + length, values[-1][1])])
        paths.append((kind, line(corners, x=window, y_max=scale.top)))
    by_day: dict[float, list[statistics.Level]] = {day: [] for day in days}
    for level in parts:
        by_day.setdefault(level.start // statistics.SECONDS_PER_DAY * statistics.SECONDS_PER_DAY, []).append(level)
    titles = [
        f"{date(day)}: at most {max((one.queued for one in here), default=0):,} queued,"
        f" {max((one.running for one in here), default=0):,} running"
        for day, here in by_day.items()
    ]
    return Chart(
        f"Queued and running jobs, maximum per {human_duration(length)}",
        f"Now {now['queued']:,} queued and {now['running']:,} running jobs.",
        *_axes(days, scale),
        paths,
        _places(days, titles, to),
        [
            ("running", f"{now['running']:,} running now", "━"),
            ("scheduled", f"{now['queued']:,} queued now", "╍"),
        ],
    )


def date(seconds: float) -> str:
    """Return the date of a time, in UTC."""
    return f"{from_timestamp(seconds):%Y-%m-%d}"


def _axes(starts: Sequence[float], scale: Scale) -> tuple[AxisTexts, AxisTexts, str]:
    return day_texts(list(starts)), scale.texts, grid(scale.steps, len(starts) if len(starts) < 10 else 1)


def _places(starts: Sequence[float], titles: Sequence[str], to: DayLink) -> list[Place]:
    """Return the columns of the days that have a title."""
    width = WIDTH / len(starts)
    return [
        Place(
            f"M{width * place:.1f} 0h{width:.1f}v{HEIGHT:g}h-{width:.1f}z",
            to(at, at + statistics.SECONDS_PER_DAY),
            title,
        )
        for place, (at, title) in enumerate(zip(starts, titles, strict=True))
        if title
    ]


SHOWN_GROUPS = 15

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
        "levels": level_chart(levels, days, present, now),
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
