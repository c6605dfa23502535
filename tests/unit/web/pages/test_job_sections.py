"""What the pages show of a job."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.web.pages.job_sections import progress_chart, rate_text


def test_progress_over_time_ends_with_the_job() -> None:
    """A label that is set a day after the end writes an event, and does not stretch the chart."""
    points = [(0.0, 0, 4), (60.0, 4, 4), (86400.0, 4, 4)]
    ended = progress_chart(points, "1970-01-01T00:01:00Z")
    assert ended is not None
    assert (ended["begin"], ended["end"]) == ("1970-01-01 00:00:00Z", "1970-01-01 00:01:00Z")
    active = progress_chart(points, None)
    assert active is not None
    assert active["end"] == "1970-01-02 00:00:00Z"


def test_progress_of_a_second_has_times_that_differ() -> None:
    """The axis has whole seconds; the words have the times of the job."""
    short = progress_chart([(0.4, 0, 4), (0.9, 4, 4)], None)
    assert short is not None
    assert short["x"].ticks == ["00:00:00", "00:00:01", "00:00:02", "00:00:03", "00:00:04"]
    assert short["line"] == "M72.0 160.0L162.0 160.0L162.0 0.0"
    assert (short["begin"], short["end"]) == ("1970-01-01 00:00:00Z", "1970-01-01 00:00:00Z")


@pytest.mark.parametrize(
    ("metadata", "rate"),
    [
        ({}, "20 tasks per second"),
        ({"n_reused_tasks": 900, "reused_from": ["job"]}, "2 tasks per second"),
        ({"n_reused_tasks": 1000, "reused_from": ["job"]}, None),
        ({"n_reused_tasks": 2000, "reused_from": ["job"]}, None),
        ({"n_reused_tasks": "900", "reused_from": ["job"]}, "20 tasks per second"),
        ({"n_reused_tasks": 900, "reused_from": 3}, "20 tasks per second"),
        ([], "20 tasks per second"),
    ],
    ids=str,
)
def test_a_rate_leaves_reused_tasks_out(metadata: object, rate: str | None) -> None:
    """Another program may have written anything into the record."""
    job: dict[str, Any] = {"tasks_completed": 990, "tasks_failed": 10, "metadata": metadata}
    job |= {"started_at": "2026-03-01T12:00:00Z", "updated_at": "2026-03-01T12:00:50Z"}
    assert rate_text(job) == rate
