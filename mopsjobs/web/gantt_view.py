"""Turn the drawing of the last day into values for its template: texts and links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mopsjobs.registry.status import STATUSES
from mopsjobs.utils.text import cut_to_length, pluralize
from mopsjobs.utils.times import from_timestamp, human_duration
from mopsjobs.web import svg
from mopsjobs.web.gantt import OTHERS, Bar, Block, Gantt
from mopsjobs.web.view_models import job_path, status

MAX_NAME = 30
"""Characters of an owner above its bars."""

SHOWN_REST = 20
"""Rows of owners without bars."""

JobsLink = Callable[[str, float, str], str]
"""Returns the address of the jobs of an owner since a time, with a status."""


def values(drawn: Gantt, ids: Mapping[int, str], now: float, to: JobsLink) -> dict[str, Any]:
    """Return the drawing for its template.

    Args:
        drawn: the drawing.
        ids: the ids of its jobs.
        now: seconds since 1970.
        to: returns addresses.
    """
    names = {bar.job.status for block in drawn.blocks for bar in block.bars}
    rows = [(block.owner, block.jobs, block.counts) for block in drawn.blocks]
    shown = [name for name in STATUSES if any(name in counts for _, _, counts in [*rows, *drawn.rest])]
    bars = sum(len(block.bars) for block in drawn.blocks)
    return {
        "since": f"{from_timestamp(drawn.since):%Y-%m-%d %H:%M} UTC",
        "now": f"{drawn.now:.2f}",
        "clock": f"{from_timestamp(now):%H:%M}",
        "ticks": [(f"{place:.2f}", text) for place, text in drawn.ticks],
        "height": drawn.height,
        "levels": f"{drawn.levels_width:.2f}",
        "bars": bars,
        "jobs": sum(jobs for _, jobs, _ in [*rows, *drawn.rest]),
        "blocks": [_block(block, drawn.since, ids, now, to) for block in drawn.blocks],
        "keys": [status(name) for name in STATUSES if name in names],
        "statuses": shown,
        "rows": [_row(row, shown, drawn.since, to) for row in [*rows, *drawn.rest[:SHOWN_REST]]],
        "more": pluralize(len(drawn.rest) - SHOWN_REST, "more owner") if len(drawn.rest) > SHOWN_REST else None,
    }


def _block(block: Block, since: float, ids: Mapping[int, str], now: float, to: JobsLink) -> dict[str, Any]:
    most = max(block.levels, default=0)
    return {
        "key": f"of {block.owner}",
        "owner": cut_to_length(block.owner, MAX_NAME),
        "full": block.owner,
        "text": pluralize(block.jobs, "job"),
        "y": block.y + 14,
        "to": to(block.owner, since, "") if block.owner else None,
        "bars": [_bar(bar, ids[bar.job.row], now) for bar in block.bars if bar.job.row in ids],
        "others": {
            "y": block.others_y,
            "height": OTHERS,
            "width": len(block.levels),
            "path": svg.area(block.levels, y_max=most),
            "title": f"{pluralize(block.others, 'more job')} of {block.owner or 'no owner'},"
            f" at most {most:,} at the same time",
        }
        if block.others
        else None,
    }


def _bar(bar: Bar, job_id: str, now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "to": job_path(job_id),
        "kind": status(bar.job.status).kind,
        "title": f"{job_id}: {_describe(bar, now)}",
        "left": f"{bar.left:.2f}",
        "waits": f"{bar.start - bar.left:.2f}" if bar.start > bar.left else None,
        "start": f"{bar.start:.2f}",
        "runs": f"{bar.right - bar.start:.2f}" if bar.right > bar.start else None,
        "right": f"{bar.right:.2f}",
        "y": bar.y,
    }


def _describe(bar: Bar, now: float) -> str:
    """Return status and times of a job in words."""
    job = bar.job
    end = now if job.ended is None else job.ended
    texts = [job.status, f"registered {from_timestamp(job.created):%m-%d %H:%M}"]
    if not job.has_history:
        texts.append("first task at an unknown time")
    elif job.started is None:
        texts.append(f"queued {human_duration(end - job.created)}")
    else:
        queued, ran = human_duration(job.started - job.created), human_duration(end - job.started)
        texts.append(f"queued {queued}, {'runs for' if job.ended is None else 'ran'} {ran}")
    if job.ended is not None:
        texts.append(f"ended {from_timestamp(job.ended):%m-%d %H:%M}")
    return ", ".join(texts)


def _row(row: tuple[str, int, Mapping[str, int]], shown: Sequence[str], since: float, to: JobsLink) -> dict[str, Any]:
    """Return a row of the table of owners."""
    owner, jobs, counts = row
    return {
        "owner": owner,
        "to": to(owner, since, "") if owner else None,
        "jobs": jobs,
        "counts": [
            (counts.get(name, 0), to(owner, since, name) if owner and counts.get(name) else None) for name in shown
        ],
    }
