"""The next command of a job, by its record."""

from __future__ import annotations

import pytest

from mopsjobs.app.next_steps import next_command

SUBMITTED = {"metadata": {"bundle": "sha256:" + "0" * 64}}
"""What the record of a job that mops-jobs submitted has."""


@pytest.mark.parametrize(
    ("status", "failed", "error_code", "command"),
    [
        ("failed", 2, "INCOMPLETE", "mops-jobs failures a"),
        ("failed", 0, "MODEL", "mops-jobs logs a"),
        ("failed", None, "STORE", "mops-jobs resume a"),
        ("partial", 1, "INCOMPLETE", "mops-jobs failures a"),
        ("partial", 0, "INCOMPLETE", "mops-jobs resume a"),
        ("cancelled", 3, None, "mops-jobs resume a"),
    ],
)
def test_the_reasons_of_failed_tasks_come_before_a_resume(
    status: str, failed: int | None, error_code: str | None, command: str
) -> None:
    """The same task with the same code fails again. A model that cannot be loaded has only a log."""
    job = {"job_id": "a", "is_active": False, "status": status, "tasks_failed": failed, "error_code": error_code}
    assert next_command({**job, **SUBMITTED}, stale=False) == command
