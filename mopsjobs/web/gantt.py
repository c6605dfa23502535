"""Lay out the jobs of the last day: a block of lanes for each owner, a bar for each job. Pure.

The window begins and ends at full hours, so bars of jobs that have ended stay in their places until the next one.
Places across are percentages, and those down are pixels: so texts and marks keep their form in a window of any width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopsjobs.cache.queries.charts import peaks
from mopsjobs.cache.queries.recent import RecentJob
from mopsjobs.utils.times import from_timestamp

HOUR = 3600.0

HOURS = 24
"""Hours before now, at least."""

TICK_HOURS = 3

MAX_OWNERS = 10
"""Owners with a block of their own: those with the most jobs."""

MAX_BARS = 25
"""Bars of an owner."""

FIRST = ("failed", "partial")
"""Statuses of jobs that have a bar before others."""

MAX_LANES = 6
"""Lanes of an owner."""

PARTS_PER_HOUR = 4
"""Parts of the area that stands for the jobs without a bar."""

LEAST_WIDTH = 0.3
"""Per cent. A bar is at least as wide."""

MARK_WIDTH = 1.6
"""Per cent to the right of a bar for the mark of its status, and to keep bars apart."""

HEAD, LANE, OTHERS, GAP = 20, 14, 18, 10
"""Pixels: of the line with the owner, of a lane, of the area of other jobs, and below a block.

A bar of the template takes 10 of a lane.
"""


class Bar(NamedTuple):
    """A job. Percentages from the left, and the pixels to its top."""

    job: RecentJob
    left: float
    start: float
    """Where its first task starts, at its right end if none has."""
    right: float
    y: int


class Block(NamedTuple):
    """The jobs of an owner."""

    owner: str
    jobs: int
    counts: Mapping[str, int]
    """Its jobs by status."""
    y: int
    bars: list[Bar]
    """In the order in which the jobs began."""
    others: int
    """Jobs without a bar."""
    others_y: int
    levels: list[int]
    """The largest number of them in each part of the window."""


class Gantt(NamedTuple):
    """The drawing."""

    since: float
    until: float
    now: float
    """Percent from the left."""
    levels_width: float
    """Per cent that the levels of the blocks take: up to the part that has now."""
    ticks: list[tuple[float, str]]
    """Places of full hours, with their texts."""
    height: int
    blocks: list[Block]
    rest: list[tuple[str, int, Mapping[str, int]]]
    """Owners without a block: name, jobs, and jobs by status."""


def window(now: float) -> tuple[float, float]:
    """Return the full hours between which the last day lies."""
    return (now - HOURS * HOUR) // HOUR * HOUR, -(-now // HOUR) * HOUR


def lay_out(owners: Mapping[str, Sequence[RecentJob]], now: float) -> Gantt:
    """Return the drawing of jobs by their owners."""
    since, until = window(now)
    scale = 100 / (until - since)
    ordered = sorted(owners.items(), key=lambda one: (-len(one[1]), one[0]))
    part = HOUR / PARTS_PER_HOUR
    edges = [since + part * number for number in range(int((now - since) // part) + 2)]
    blocks: list[Block] = []
    y = 0
    for owner, jobs in ordered[:MAX_OWNERS]:
        bars, lanes = _bars(jobs, since, now, scale, y + HEAD)
        drawn = {bar.job.row for bar in bars}
        others = [job for job in jobs if job.row not in drawn]
        others_y = y + HEAD + lanes * LANE
        blocks.append(Block(owner, len(jobs), _counts(jobs), y, bars, len(others), others_y, _levels(others, edges)))
        y = others_y + (OTHERS if others else 0) + GAP
    hours = range(int(since // HOUR) + 1, int(until // HOUR))  # a text has no room at the edges
    at = [hour * HOUR for hour in hours if hour % TICK_HOURS == 0]
    return Gantt(
        since,
        until,
        (now - since) * scale,
        len(edges[1:]) * part * scale,
        [((moment - since) * scale, f"{from_timestamp(moment):%H:%M}") for moment in at],
        y,
        blocks,
        [(owner, len(jobs), _counts(jobs)) for owner, jobs in ordered[MAX_OWNERS:]],
    )


def _bars(jobs: Sequence[RecentJob], since: float, now: float, scale: float, y: int) -> tuple[list[Bar], int]:
    """Return the bars of an owner, and the number of their lanes.

    Jobs that failed come first, then active ones, then the longest. A job has a bar if a lane has room for it.
    """

    def rank(job: RecentJob) -> tuple[bool, bool, float, int]:
        end = now if job.ended is None else job.ended
        return job.status not in FIRST, not job.is_active, max(job.created, since) - end, job.row

    lanes: list[list[tuple[float, float]]] = []
    bars = []
    for job in sorted(jobs, key=rank)[:MAX_BARS]:
        left = max(0.0, (job.created - since) * scale)
        right = max(left + LEAST_WIDTH, (min(now, now if job.ended is None else job.ended) - since) * scale)
        start = left if not job.has_history else right
        if job.started is not None:
            start = min(right, max(left, (job.started - since) * scale))
        lane = _lane(lanes, left, right + MARK_WIDTH)
        if lane is not None:
            bars.append(Bar(job, left, start, right, y + lane * LANE))
    return sorted(bars, key=lambda bar: (bar.job.created, bar.job.row)), len(lanes)


def _lane(lanes: list[list[tuple[float, float]]], left: float, right: float) -> int | None:
    """Return the first lane with room between two places, and take it; None if no lane has."""
    for number, lane in enumerate(lanes):
        place = bisect_left(lane, (left, right))
        if (place == 0 or lane[place - 1][1] <= left) and (place == len(lane) or right <= lane[place][0]):
            lane.insert(place, (left, right))
            return number
    if len(lanes) == MAX_LANES:
        return None
    lanes.append([(left, right)])
    return len(lanes) - 1


def _levels(jobs: Sequence[RecentJob], edges: Sequence[float]) -> list[int]:
    return peaks([job.created for job in jobs], [job.ended for job in jobs if job.ended is not None], edges)[0]


def _counts(jobs: Sequence[RecentJob]) -> Mapping[str, int]:
    return Counter(job.status for job in jobs)
