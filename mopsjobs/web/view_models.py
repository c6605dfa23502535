"""Turn jobs and events into values for the templates: texts and links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from mopsjobs.app.event_feed import event_text
from mopsjobs.cache.queries.events import StoredEvent
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import human_age, human_duration, parse_time, whole_seconds

Job = Mapping[str, Any]

GLYPHS = {
    "pending": "○", "submitting": "◌", "scheduled": "◔", "running": "▶", "validating": "◕", "succeeded": "✓",
    "partial": "◑", "failed": "✗", "cancelled": "⊘",
}  # fmt: skip
"""A shape for each status, so that colour is not the only sign."""


def job_path(job_id: object) -> str:
    """Return the path of a job's page."""
    return f"/jobs/{quote(str(job_id), safe='')}"


class Status(NamedTuple):
    """A status: its name, its shape, and the class that gives it a colour."""

    name: str
    glyph: str
    kind: str


class Moment(NamedTuple):
    """A time: when, and how long ago."""

    at: str
    ago: str


class Row(NamedTuple):
    """A job in the table."""

    id: str
    path: str
    status: Status
    suspect: str | None
    share: float | None
    """The share of tasks that are done; None if their number is unknown."""
    percent: int | None
    tasks: str
    failed: int
    owner: str | None
    created: Moment
    updated: Moment
    duration: str


def status(name: object) -> Status:
    """Return a status for a template."""
    text = str(name)
    return Status(text, GLYPHS.get(text, "?"), text if text in GLYPHS else "unknown")


def moment(text: object, now: float) -> Moment:
    """Return a time for a template."""
    return Moment(whole_seconds(str(text)), human_age(now - parse_time(str(text)).timestamp()))


def row(job: Job, now: float) -> Row:
    """Return a row of the table of jobs."""
    total, done, share = job["tasks_total"], job["tasks_completed"], job["progress"]
    return Row(
        id=job["job_id"],
        path=job_path(job["job_id"]),
        status=status(job["status"]),
        suspect=job["suspect"],
        share=None if share is None else round(share, 4),
        percent=None if share is None else int(share * 100),
        tasks=f"{done}/{total}" if total else str(done) if done else "",
        failed=job["tasks_failed"] or 0,
        owner=job["owner"],
        created=moment(job["created_at"], now),
        updated=moment(job["updated_at"], now),
        duration=human_duration(job["duration_seconds"]),
    )


def lines(text: object) -> Markup:
    """Return text of several lines, each without control characters. A template filter."""
    return Markup("\n").join(
        strip_control_characters(line) for line in ("" if text is None else str(text)).splitlines()
    )


def event_time(stored: StoredEvent) -> float:
    """Return the time of an event, by its writer's clock, to sort by."""
    return parse_time(str(stored.event["at"])).timestamp()


def event(stored: StoredEvent) -> dict[str, str]:
    """Return an event as a line, with the traceback of a failure below it."""
    content = stored.event
    error = content.get("error")
    trace = str(error.get("traceback") or "") if isinstance(error, Mapping) else ""
    return {
        "at": whole_seconds(str(content["at"])),
        "kind": strip_control_characters(str(content["kind"])),
        "text": "\n".join(
            [
                "".join(strip_control_characters(piece) for piece in event_text(content)),
                *map(strip_control_characters, trace.splitlines()),
            ]
        ),
    }
