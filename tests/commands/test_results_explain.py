"""`results --explain`: which parameters go with the lowest or the highest values of a scalar."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

import mopsjobs
from support.cli import Cli, Remote
from support.ledgers import Ledger, add_job, attempt, leave_scalars

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry

REPLICATES = 3
SETS = 60


def run_job(jobs: JobRegistry, job_id: str = "job") -> None:
    """Register a job of 60 sets with 3 replicates, with the lowest loss above beta 49; 5 tasks have no finite one."""
    add_job(
        jobs, job_id, [{"beta": number, "gamma": number * 29 % 60} for number in range(SETS)], n_replicates=REPLICATES
    )
    tasks = range(SETS * REPLICATES)
    missing, failed = {3}, {4}
    Ledger(jobs.store, job_id)(
        *(attempt(task, "failed" if task in failed else "succeeded") for task in tasks if task not in missing)
    )
    losses: dict[int, object] = {
        task: {"loss": (0.0 if task // REPLICATES > 49 else 1.0) + task * 37 % 101 / 1000, "note": "x"}
        for task in tasks
        if task not in missing | failed
    }
    leave_scalars(jobs, job_id, losses | {5: {"note": "x"}, 8: {"loss": math.inf}, 9: {"loss": math.nan}})
    jobs.update_status(job_id, "partial")


@pytest.fixture
def jobs(remote: Remote) -> JobRegistry:
    """Return the registry, with such a job."""
    run_job(remote.jobs)
    return remote.jobs


@pytest.mark.usefixtures("jobs")
def test_the_lowest_sets_are_explained_and_the_rest_counted(cli: Cli) -> None:
    """A set without any value is left out, and each of its tasks is counted by what it lacks."""
    ran = cli.ok("results", "job", "--explain", "loss")
    assert ran.lines == [
        "The lowest 10 of 57 parameter sets have loss <= 0.0656667 as the mean of 3 replicates.",
        "  all 10 have beta > 49; no other set has",
    ]
    left_out = "1 failed task, 1 missing task, 3 tasks without a finite loss, 2 parameter sets with fewer than 3 values"
    assert f"Left out: {left_out}.\n" in ran.err


@pytest.mark.usefixtures("jobs")
def test_chance_is_said_to_explain_the_rest(cli: Cli) -> None:
    """The highest losses have nothing in common."""
    [line] = cli.ok("results", "job", "--explain=-loss").lines
    assert line.startswith("No parameter explains the highest ")
    assert line.endswith("as the mean of 3 replicates): chance is not ruled out.")


@pytest.mark.usefixtures("jobs")
def test_the_document_has_the_condition_and_the_counts_offline_too(cli: Cli) -> None:
    """The cache has all of it after one look."""
    first = cli.ok("results", "job", "--explain", "loss", "--json").json
    second = cli.ok("results", "job", "--explain", "loss", "--json", "--offline").json
    assert {**first, "generated_at": None} == {**second, "generated_at": None}
    assert first["separates"] == [{"condition": "beta > 49", "sets": 10, "others": 0, "support": 1.0, "lift": 5.7}]
    counts = {"failed": 1, "missing": 1, "waiting": 0, "not_finite": 3}
    assert first["left_out"] == counts | {"sets_with_too_few": 2, "parameters": 0}


def test_equal_parameters_of_two_jobs_are_one_set(cli: Cli, jobs: JobRegistry) -> None:
    """The same 60 sets twice are no more evidence than once: they have twice the replicates."""
    run_job(jobs, "again")
    found: dict[str, Any] = cli.ok("results", "job", "again", "--explain", "loss", "--json").json
    assert (found["jobs"], found["sets"], found["replicates"]) == (["job", "again"], 57, 6)


def test_too_few_sets_say_so(cli: Cli, remote: Remote) -> None:
    """A condition could not be told from chance, even one that holds for the lowest alone."""
    add_job(remote.jobs, "few", [{"beta": number} for number in range(8)], attempts=map(attempt, range(8)))
    leave_scalars(remote.jobs, "few", {number: {"loss": number} for number in range(8)})
    [line] = cli.ok("results", "few", "--explain", "loss").lines
    assert line == "8 parameter sets are too few to explain the lowest 2 (loss <= 1): chance would do as well."
    assert cli.ok("results", "few", "--explain", "loss", "--json").json["could_tell"] is False


def test_a_job_without_differences_has_nothing_to_explain(cli: Cli, remote: Remote) -> None:
    """All sets have the same loss."""
    add_job(remote.jobs, "flat", [{"beta": number} for number in range(4)], attempts=map(attempt, range(4)))
    leave_scalars(remote.jobs, "flat", dict.fromkeys(range(4), json.loads('{"loss": 2}')))
    ran = cli.ok("results", "flat", "--explain", "loss")
    assert ran.lines == ["4 parameter sets, and no two differ in loss: 2."]


@pytest.mark.usefixtures("jobs")
def test_python_has_the_document_of_the_command(cli: Cli) -> None:
    """Also for the highest values, and offline."""
    own = {"generated_at": None, "data": None}
    with mopsjobs.connect(env=cli.env) as registry:
        job = registry.job("job")
        for result in ("loss", "-loss"):
            document = cli.ok("results", "job", f"--explain={result}", "--json").json
            assert {**job.explain(result, offline=True), **own} == {**document, **own}


def test_a_set_of_an_adaptive_study_has_the_mean_that_other_views_show(cli: Cli, remote: Remote) -> None:
    """Sets have 2 or 3 replicates, all of which count; of a fixed number, those beyond the others' are told."""
    replicates = {"min": 2, "max": 3, "until": {"loss": {"absolute": 0.5}}}
    for job_id, number in (("adaptive", replicates), ("fixed", 3)):
        add_job(remote.jobs, job_id, [{"beta": number} for number in range(40)], n_replicates=number)
        tasks = [task for task in range(120) if task % 3 < 2 or task // 3 < 10]
        Ledger(remote.store.inner, job_id)(*map(attempt, tasks))
        leave_scalars(remote.jobs, job_id, {task: {"loss": task // 3 + task % 3 * 3} for task in tasks})
        remote.jobs.update_status(job_id, "partial")
    ran = cli.ok("results", "adaptive", "--explain", "loss")
    assert ran.lines[0] == "The lowest 10 of 40 parameter sets have loss <= 11.5 as the mean of 2 to 3 replicates."
    assert "beyond" not in ran.err
    best = cli.ok("results", "adaptive", "--best", "loss", "--limit", "10", "--json").json["sets"]
    assert max(one["loss.mean"] for one in best) == 11.5
    ran = cli.ok("results", "fixed", "--explain", "loss")
    assert ran.lines[0] == "The lowest 10 of 40 parameter sets have loss <= 10.5 as the mean of 2 replicates."
    assert "10 values beyond the first 2 of a set" in ran.err


def test_a_task_that_repeats_another_one_counts_once(cli: Cli, remote: Remote) -> None:
    """As in each table of parameter sets."""
    add_job(remote.jobs, "twice", [{"params": {"beta": number // 2}, "seed": 1} for number in range(8)])
    Ledger(remote.store.inner, "twice")(*(attempt(task, "succeeded" if task else "failed") for task in range(0, 8, 2)))
    leave_scalars(remote.jobs, "twice", {task: {"loss": task} for task in range(2, 8, 2)})
    found = cli.ok("results", "twice", "--explain", "loss", "--json").json
    assert (found["sets"], found["replicates"], found["left_out"]["failed"]) == (3, 1, 1)
