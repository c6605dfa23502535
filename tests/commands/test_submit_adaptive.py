"""Adaptive studies through the commands: a resumed job and an extended one go on from what others have done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mopsjobs.errors import EXIT_USAGE
from mopsjobs.registry.notes import PRECISION
from support.adaptive import MARKS, MODEL, REPLICATES, adaptive_study, seeds
from support.desk import Desk
from support.runs import code, record

SETS: list[dict[str, Any]] = [{"sd": sd} for sd in (0.1, 2.0, 50.0)]


@pytest.fixture
def adaptive(desk: Desk) -> Desk:
    """Return a desk with the model of `support.adaptive`."""
    code(desk.home, MODEL)
    desk.env[MARKS] = str(desk.home.parent)
    return desk


def submit(desk: Desk, sets: list[dict[str, Any]], *argv: str, job_id: str = "job", **until: float) -> str:
    replicates = REPLICATES | ({"until": {"peak": until}} if until else {})
    desk.submit(sets, *argv, job_id=job_id, n_replicates=replicates)
    return desk.ended(job_id)


def counts(desk: Desk, job_id: str) -> tuple[int, int]:
    """Return the tasks that a job needs, as its views say alike, and those that are complete."""
    state = record(desk.jobs, job_id)
    told = state.tasks_total, state.tasks_completed
    rows = desk.ok("tasks", job_id, "--json", "--limit", "0").json["tasks"]
    assert (len(rows), sum(row["outcome"] == "succeeded" for row in rows)) == told
    found = desk("validate", job_id, "--json").json
    assert (found["tasks_total"], found["tasks_verified"]) == told
    return told


def test_a_resumed_job_goes_on_from_the_values_of_its_parent(adaptive: Desk) -> None:
    """A set with a failed replicate is decided once that has run. Its family then has what an undisturbed job has."""
    fails = adaptive.home.with_name("fails")
    sets = [*SETS, {"sd": 3.0, "fails": True}]
    assert submit(adaptive, sets, job_id="calm") == "succeeded"
    expected = adaptive.results("calm")
    fails.write_text(str(seeds(adaptive_study(sets), 3)[5]))
    assert submit(adaptive, sets) == "partial"
    total, completed = counts(adaptive, "job")
    assert total - completed == 1
    assert total < len(expected)
    fails.unlink()
    assert adaptive.ok("resume", "job", "--json").json["job_id"] == "job.2"
    assert adaptive.ended("job.2") == "succeeded"
    assert counts(adaptive, "job.2") == (len(expected), len(expected))
    assert adaptive.results("job") | adaptive.results("job.2") == expected
    assert not adaptive.results("job").keys() & adaptive.results("job.2").keys()
    status = adaptive.ok("status", "job.2", "--json").json
    assert (status["family"]["tasks_total"], status["family"]["tasks_completed"]) == (len(expected), len(expected))
    listed = adaptive.ok("results", "job.2", "--json").out.splitlines()
    assert len(listed) == len(expected)
    target = adaptive.home.with_name("download")
    downloaded = adaptive.ok("results", "job.2", "--download", str(target))
    assert "lost" not in downloaded.err
    assert len((target / "tasks.csv").read_text().splitlines()) == 1 + len(expected)


def test_tasks_of_a_resume_cannot_be_chosen(adaptive: Desk) -> None:
    fails = adaptive.home.with_name("fails")
    sets = [{"sd": 0.1, "fails": True}]
    fails.write_text(str(seeds(adaptive_study(sets), 0)[1]))
    assert submit(adaptive, sets) == "partial"
    refused = adaptive("resume", "job", "--only", "failed")
    assert refused.code == EXIT_USAGE
    assert "Tasks of job job cannot be chosen: its study has a precision, which decides them." in refused.err


def test_a_narrower_target_continues_what_was_done(adaptive: Desk) -> None:
    """Numbers and seeds are the same, so all tasks are reused, and decisions go on from their values."""
    assert submit(adaptive, SETS, confidence=0.95, absolute=4.0) == "succeeded"
    total, _ = counts(adaptive, "job")
    assert submit(adaptive, SETS, "--extend", "job", job_id="more", confidence=0.95, absolute=1.5) == "succeeded"
    more, completed = counts(adaptive, "more")
    assert more == completed > total
    assert record(adaptive.jobs, "more").metadata["n_reused_tasks"] == total
    assert len(adaptive.results("more")) == more - total
    assert submit(adaptive, SETS, job_id="whole", confidence=0.95, absolute=1.5) == "succeeded"
    assert adaptive.results("whole") == adaptive.results("job") | adaptive.results("more")
    precision = record(adaptive.jobs, "more").metadata[PRECISION]
    assert precision == record(adaptive.jobs, "whole").metadata[PRECISION]
    assert submit(adaptive, SETS, "--extend", "more", job_id="wide", confidence=0.95, absolute=4.0) == "succeeded"
    assert counts(adaptive, "wide") == (total, total)
    assert adaptive.results("wide") == {}


def test_reductions_are_made_of_the_tasks_that_were_needed(adaptive: Desk) -> None:
    code(adaptive.home, MODEL + "\ndef summarise(params, tasks):\n    return sum(1 for _ in tasks)\n")
    adaptive.submit(SETS, n_replicates=REPLICATES, reduce="model:summarise")
    assert adaptive.ended() == "succeeded"
    total = record(adaptive.jobs).tasks_total
    listed = [json.loads(line) for line in adaptive.ok("results", "job", "--json").out.splitlines()]
    made = {None if one["params"] is None else one["params"]["sd"]: one["reduced"] for one in listed if one["reduced"]}
    assert made == {0.1: 4, 2.0: total - 44, 50.0: 40, None: total}


def test_a_cancelled_job_is_resumed_where_its_sets_stand(adaptive: Desk) -> None:
    """Its record tells what is known: a set that is open needs the tasks up to its look."""
    holds = adaptive.home.with_name("holds")
    sets: list[dict[str, Any]] = [{"sd": sd, "holds": True} for sd in (0.1, 50.0)]
    holds.write_text(" ".join(map(str, seeds(adaptive_study(sets), 1)[10:])))
    adaptive.submit(sets, n_replicates=REPLICATES)
    adaptive.until(lambda: record(adaptive.jobs).tasks_completed == 4 + 10, "all tasks that are not held")
    adaptive.ok("cancel", "job")
    assert adaptive.ended() == "cancelled"
    assert record(adaptive.jobs).tasks_total == 4 + 15
    found = adaptive("validate", "job", "--json").json
    assert (found["tasks_total"], found["tasks_verified"]) == (4 + 15, 4 + 10)
    holds.unlink()
    assert adaptive.ok("resume", "job", "--json").json["job_id"] == "job.2"
    assert adaptive.ended("job.2") == "succeeded"
    assert counts(adaptive, "job.2") == (44, 44)
    assert len(adaptive.results("job")) == 14
    assert len(adaptive.results("job.2")) == 30
