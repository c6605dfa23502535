"""What is told of which job: by its status, its tasks and its runner, and by the rule's jobs and labels."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.app.following.notify.notifier import covers, occasions_of
from mopsjobs.app.run.notify_rules import Rule


def rule(**fields: Any) -> Rule:
    made = Rule("team", "slack")
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def job(**fields: Any) -> dict[str, Any]:
    usual = {"status": "running", "is_active": True, "suspect": None, "owner": "ada", "labels": {}}
    return {**usual, "tasks_total": 100, "tasks_completed": 0, "tasks_failed": 0, **fields}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"suspect": "no_update"}, ["suspect"]),
        ({"tasks_failed": 9}, []),
        ({"tasks_failed": 10}, ["failures"]),
        ({"tasks_completed": 91, "tasks_failed": 9}, []),
        ({"tasks_completed": 81, "tasks_failed": 9}, ["failures"]),
        ({"tasks_total": 3, "tasks_completed": 2, "tasks_failed": 1}, ["failures"]),
        ({"tasks_total": 3, "tasks_failed": 2}, []),
        ({"tasks_total": None, "tasks_failed": 9}, []),
        ({"tasks_failed": 10, "suspect": "pod_gone"}, ["failures", "suspect"]),
        ({"status": "succeeded", "is_active": False}, ["end"]),
        ({"status": "cancelled", "is_active": False, "tasks_failed": 50}, ["end"]),
    ],
)
def test_what_is_told_follows_the_state(fields: dict[str, Any], expected: list[str]) -> None:
    """A rate counts from ten ended tasks on, or from all tasks of a smaller job. An end tells all else."""
    assert occasions_of(rule(), job(**fields)) == expected


@pytest.mark.parametrize("status", ["succeeded", "partial", "failed", "cancelled"])
def test_a_rule_may_tell_of_failed_jobs_only(status: str) -> None:
    """`failed` tells of failed and partial jobs; a cancelled one was ended by a user."""
    found = occasions_of(rule(occasions=("failed",)), job(status=status, is_active=False))
    assert found == (["end"] if status in ("partial", "failed") else [])


@pytest.mark.parametrize("occasion", ["end", "failures", "suspect"])
def test_a_rule_tells_only_what_it_is_for(occasion: str) -> None:
    """Each word of `on` selects one event."""
    events = [job(tasks_failed=10), job(suspect="no_update"), job(status="failed", is_active=False)]
    assert {one for each in events for one in occasions_of(rule(occasions=(occasion,)), each)} == {occasion}


@pytest.mark.parametrize(
    ("fields", "names", "is_covered"),
    [
        ({"jobs": "named"}, (), False),
        ({"jobs": "named"}, ("other",), False),
        ({"jobs": "named"}, ("team",), True),
        ({"jobs": "mine"}, (), True),
        ({"jobs": "all"}, (), True),
        ({"jobs": "all", "labels": ("exp=7",)}, (), True),
        ({"jobs": "all", "labels": ("exp",)}, (), True),
        ({"jobs": "all", "labels": ("exp=8",)}, (), False),
        ({"jobs": "all", "labels": ("exp=7", "other")}, (), False),
        ({"jobs": "all", "labels": ("exp=8",)}, ("team",), True),
    ],
)
def test_a_rule_covers_its_jobs(fields: dict[str, Any], names: tuple[str, ...], *, is_covered: bool) -> None:
    """Jobs that name it, jobs of the user, or all; with all of its labels. A job that names it needs none."""
    assert covers(rule(**fields), job(labels={"exp": "7"}), names, "ada") is is_covered


@pytest.mark.parametrize("user", ["eve", None])
def test_the_jobs_of_others_are_not_mine(user: str | None) -> None:
    """Nor are those of anyone, where the user has no name."""
    assert not covers(rule(jobs="mine"), job(), (), user)
    assert not covers(rule(jobs="mine"), job(owner=None), (), user)
