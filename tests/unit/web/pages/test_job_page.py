"""What the pages show of a job."""

from __future__ import annotations

from mopsjobs.web.pages.job_page import progress_chart


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
