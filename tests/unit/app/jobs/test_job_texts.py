"""Texts about a job that the command line and the page share."""

from __future__ import annotations

import pytest

from mopsjobs.app.jobs.job_texts import deferred_text


@pytest.mark.parametrize(
    ("metadata", "completed", "text"),
    [
        ({"n_deferred_tasks": 7}, 0, "7 of 10 tasks, left to a later resume"),
        ({"n_deferred_tasks": 6}, 3, "6 of 10 tasks, left to a later resume"),
        ({"n_deferred_tasks": 7}, 5, "4 of 10 tasks, left to a later resume"),
        ({"n_deferred_tasks": 7}, 9, None),
        ({"n_deferred_tasks": 0}, 3, None),
        ({"n_deferred_tasks": "7"}, 3, None),
        ({}, 3, None),
        ([], 3, None),
    ],
    ids=str,
)
def test_tasks_that_a_job_leaves_are_counted(metadata: object, completed: int, text: str | None) -> None:
    """Without those that are complete all the same. Another program may have written anything into the record."""
    failed = 1 if completed else None
    job = {"metadata": metadata, "tasks_total": 10, "tasks_completed": completed, "tasks_failed": failed}
    assert deferred_text(job) == text
