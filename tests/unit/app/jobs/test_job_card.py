"""What is worth saying of a job, as data."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.app.jobs.job_card import Part, deferred_text, job_card, rate_text
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.times import parse_time


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"n_deferred_tasks": 1200}, "1,200 tasks, left to a later resume"),
        ({"n_deferred_tasks": 1}, "1 task, left to a later resume"),
        ({"n_deferred_tasks": 0}, None),
        ({"n_deferred_tasks": "7"}, None),
        ({}, None),
        ([], None),
    ],
    ids=str,
)
def test_tasks_that_a_job_leaves_are_counted(metadata: object, text: str | None) -> None:
    """Another program may have written anything into the record."""
    assert deferred_text({"metadata": metadata}) == text


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
    job |= {"started_at": "2026-03-01T12:00:00Z", "ended_at": None, "updated_at": "2026-03-01T12:00:50Z"}
    assert rate_text(job) == rate


def test_a_rate_does_not_change_after_the_end() -> None:
    """A label or a note is written to the record later."""
    job = {"tasks_completed": 100, "tasks_failed": 0, "metadata": {}, "started_at": "2026-03-01T12:00:00Z"}
    job |= {"ended_at": "2026-03-01T12:00:50Z", "updated_at": "2026-03-08T12:00:00Z"}
    assert rate_text(job) == "2 tasks per second"


@pytest.fixture
def job() -> dict[str, Any]:
    """Return a job that runs, as scripts get it."""
    state = JobState.from_dict(
        {
            "job_id": "night.2",
            "status": "running",
            "created_at": "2026-03-01T12:00:00.5Z",
            "updated_at": "2026-03-01T12:00:50Z",
            "tasks_total": 12,
            "tasks_completed": 3,
            "tasks_failed": 1,
            "owner": "ada",
            "labels": {"b": "2", "a": "1"},
            "parent_job_id": "night",
            "metadata": {"n_reused_tasks": 2, "reused_from": ["x", "y", "z", "w"], "model": "seir:run"},
        }
    )
    return job_json_from_state(state, now=parse_time("2026-03-01T12:01:00Z").timestamp())


NOW = parse_time("2026-03-01T12:01:00Z")


def test_a_section_that_has_nothing_to_say_is_left_out(job: dict[str, Any]) -> None:
    """The others are in one order, whichever view renders them."""
    titles = list(job_card(job, NOW))
    assert titles == [
        "Status", "Progress", "Reused", "Model", "Created", "Updated", "Owner", "Labels",
        "Metadata", "Parent",
    ]  # fmt: skip
    fuller = job_card(job, NOW, failed="1 ValueError", lost=1, remarks=["odd"])
    assert [title for title in fuller if title not in titles] == ["Failed", "Outputs", "Remark"]


def test_parts_of_a_section_lead_to_jobs(job: dict[str, Any]) -> None:
    """To one that it names, or to those of an owner or a label. A view makes addresses of it, or shows the text."""
    card = job_card(job, NOW)
    assert card["Labels"].parts == (Part("a=1", ("label", "a=1")), Part(", "), Part("b=2", ("label", "b=2")))
    assert card["Parent"].parts == (Part("night", ("job", "night")),)
    assert card["Reused"].text == "2 of 12 tasks, from x, y, z, …"
    assert card["Created"].parts == (Part("2026-03-01T12:00:00Z", is_time=True),)


def test_progress_has_a_share_that_a_view_may_draw(job: dict[str, Any]) -> None:
    """A job whose number of tasks is not known has none."""
    assert (card := job_card(job, NOW)["Progress"]).text == "3/12 tasks, 25 %, 1 failed"
    assert card.share == 0.25
    unknown = job_card(job | {"tasks_total": 0}, NOW)["Progress"]
    assert (unknown.text, unknown.share) == ("3 tasks done, 1 failed", None)
