"""Turn groups of failures over jobs into rows of their page: texts, links, and a drawing of when they happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.app.tasks.failures import UNNAMED, MergedGroup, describe_condition
from mopsjobs.utils.text import cut_to_length, pluralize
from mopsjobs.utils.times import from_timestamp
from mopsjobs.web.drawings import svg
from mopsjobs.web.pages.map_view import FAILED_STATUSES, tasks_link
from mopsjobs.web.queries.search_box import Params
from mopsjobs.web.queries.view_models import Moment, job_path, moment_at
from mopsjobs.web.site.rendering import link

SHOWN_JOBS = 6
"""Jobs of an error that its row names."""

SHOWN_OWNERS = 2
"""Owners of an error that its row names. If there are more, it names the one with the most jobs."""

MAX_MESSAGE = 300
"""Characters of a message. The log has all."""

PART_HOURS = (1, 2, 3, 6, 12, 24, 48, 168, 336, 8760)
"""Lengths of the parts of a window."""

MAX_PARTS = 32


class Window:
    """The time that a page shows, and its parts."""

    def __init__(self, since: float, until: float, default_hours: float | None) -> None:
        """Divide it.

        Args:
            since: where it begins, in seconds since 1970.
            until: where it ends: now.
            default_hours: its length, if the query of the page does not say where it begins.
        """
        self.until = until
        self.default_hours = default_hours
        first, last = int(since // 3600), int(until // 3600)
        self._hours = next((hours for hours in PART_HOURS if (last - first) // hours < MAX_PARTS), PART_HOURS[-1])
        self._begin = first // self._hours
        self._count = last // self._hours - self._begin + 1
        days, hours = divmod(self._hours, 24)
        self.part_text = pluralize(hours, "hour") if hours else pluralize(days, "day")
        """The length of a part."""
        self.begin_text = f"{from_timestamp(self._begin * self._hours * 3600):%Y-%m-%d %H:%M} UTC"
        """Where the first part begins."""

    def spark_line(self, hours: Counter[int]) -> SparkLine | None:
        """Return the drawing of how many tasks failed in each part; None if none did, or nothing tells when."""
        counts = [0] * self._count
        for hour, count in hours.items():
            place = hour // self._hours - self._begin
            if 0 <= place < self._count:
                counts[place] += count
        most = max(counts)
        if not most:
            return None
        at = from_timestamp((self._begin + counts.index(most)) * self._hours * 3600)
        words = f"{sum(counts):,} failed, in parts of {self.part_text}; most, {most:,}, from {at:%Y-%m-%d %H:%M} UTC"
        return SparkLine(svg.columns(counts), self._count, words)


class SparkLine(NamedTuple):
    """A small drawing of numbers over time."""

    path: str
    width: int
    """In its own units: the number of parts."""
    words: str


def failure_row(group: MergedGroup, owners: Mapping[str, str | None], params: Params, window: Window) -> dict[str, Any]:
    """Return the row of a group.

    Args:
        group: the failures with one error.
        owners: the owner of each job.
        params: the query of the page.
        window: the time that the page shows.
    """
    first, key, has_tasks, separates = group.first, group.first.key, bool(group.first.tasks), group.separates
    by_owner = Counter(owner for job_id in group.jobs if (owner := owners.get(job_id)) is not None).most_common()
    shown = by_owner if len(by_owner) <= SHOWN_OWNERS else by_owner[:1]
    named = list(zip(group.jobs, group.sizes, strict=True))[:SHOWN_JOBS]
    return {
        "key": key,
        "type": first.type,
        "where": first.where,
        "message": _first_line(group.example or group.message),
        "is_example": group.example not in (None, group.message),
        "condition": describe_condition(separates[0]) if separates else None,
        "condition_of": separates[0]["job_id"] if separates and len(group.jobs) > 1 else None,
        "count": group.size if has_tasks else None,
        "to": tasks_link(group.jobs[0], status=FAILED_STATUSES, error=key) if has_tasks and len(named) == 1 else None,
        "jobs": len(group.jobs),
        "jobs_to": _jobs_link(group, params, window.default_hours),
        "named": [
            {
                "id": job_id,
                "path": job_path(job_id),
                "tasks": pluralize(size, "task") if has_tasks else None,
                "to": tasks_link(job_id, status=FAILED_STATUSES, error=key),
            }
            for job_id, size in named
        ],
        "more_jobs": len(group.jobs) - len(named),
        "owners": [(owner, link(list(params), {"owner": owner})) for owner, _ in shown],
        "more_owners": len(by_owner) - len(shown),
        "spark": window.spark_line(group.hours),
        "first": known_moment(group.first_ts, window.until),
        "last": known_moment(group.last_ts, window.until),
    }


def known_moment(seconds: float | None, now: float) -> Moment | None:
    """Return a time for a template; None if it is not known."""
    return None if seconds is None else moment_at(seconds, now)


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


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return cut_to_length(lines[0], MAX_MESSAGE) if lines else ""
