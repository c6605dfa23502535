"""What is worth saying of a job, as data, and the next command of a job, by its record."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from mopsjobs.app.jobs.job_card import Part, job_card, rate_text
from mopsjobs.app.jobs.next_steps import next_command, next_commands, next_steps
from mopsjobs.cache.queries.ledgers import MemoryEnds
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.registry.job_state import JobState
from mopsjobs.utils.times import parse_time


@pytest.mark.parametrize(
    ("metadata", "rate"),
    [
        ({}, "20 tasks per second"),
        ({"n_reused_tasks": 900, "reused_from": ["job"]}, "2 tasks per second"),
        ({"n_reused_tasks": 1000, "reused_from": ["job"]}, None),
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


def test_a_model_that_writes_into_its_own_directory_has_a_warning(job: dict[str, Any]) -> None:
    assert "Warning" not in job_card(job, NOW)
    job["metadata"] |= {"own_write": "trace.csv"}
    text = job_card(job, NOW)["Warning"].text
    assert text.startswith("the model writes trace.csv into its own directory, which all tasks share: write to MOPS_")


def test_replicates_that_are_sets_with_a_seed_are_no_factor(job: dict[str, Any]) -> None:
    """A calibration with a precision, and posterior draws, have fewer tasks than the product says."""
    job["metadata"] |= {"sampling_method": "calibration", "n_parameter_sets": 184, "n_replicates": 4}
    texts = [job_card(job, NOW)["Study"].text]
    job["metadata"] |= {"n_different_parameter_sets": 24}
    texts.append(job_card(job, NOW)["Study"].text)
    assert texts == ["184 parameter sets x 4 replicates, calibration", "184 parameter sets (24 different), calibration"]


def test_a_section_that_has_nothing_to_say_is_left_out(job: dict[str, Any]) -> None:
    """The others are in one order, whichever view renders them."""
    titles = list(job_card(job, NOW))
    assert titles == [
        "Status", "Progress", "Reused", "Model", "Created", "Updated", "Owner", "Labels",
        "Metadata", "Parent",
    ]  # fmt: skip
    fuller = job_card(job, NOW, failed="1 ValueError", lost="1 task lost outputs since", remarks=["odd"])
    assert [title for title in fuller if title not in titles] == ["Failed", "Outputs", "Remark"]


def test_parts_of_a_section_lead_to_jobs(job: dict[str, Any]) -> None:
    """To one that it names, or to those of an owner or a label. A view makes addresses of it, or shows the text."""
    card = job_card(job, NOW)
    assert card["Labels"].parts == (Part("a=1", ("label", "a=1")), Part(", "), Part("b=2", ("label", "b=2")))
    assert card["Parent"].parts == (Part("night", ("job", "night")),)
    assert card["Reused"].text == "2 of 12 tasks, from x, y, z, …"
    assert card["Created"].parts == (Part("2026-03-01T12:00:00Z", is_time=True),)


@pytest.mark.parametrize(("count", "text"), [(1200, "1,200 tasks, left to a later resume"), ("7", None)])
def test_tasks_that_a_job_leaves_are_counted(job: dict[str, Any], count: object, text: str | None) -> None:
    """Another program may have written anything into the record."""
    section = job_card(job | {"metadata": {"n_deferred_tasks": count}}, NOW).get("Deferred")
    assert (section and section.text) == text


def test_progress_has_a_share_that_a_view_may_draw(job: dict[str, Any]) -> None:
    """A job whose number of tasks is not known has none."""
    assert (card := job_card(job, NOW)["Progress"]).text == "3/12 tasks, 25 %, 1 failed"
    assert card.share == 0.25
    unknown = job_card(job | {"tasks_total": 0}, NOW)["Progress"]
    assert (unknown.text, unknown.share) == ("3 tasks done, 1 failed", None)


def first_step(job: dict[str, Any]) -> str:
    """Return the most useful command for a job. The page of a job shows it with its purpose."""
    (purpose, command), *others = next_steps(job, None, stale=False, ends=None)
    assert purpose, command
    assert command not in dict(others).values()
    assert command == next_command(job, stale=False)
    return command


MIB = 2**20

SUBMITTED = {"metadata": {"bundle": "sha256:" + "0" * 64}}
"""What the record of a job that mops-jobs submitted has."""


@pytest.mark.parametrize(
    ("status", "failed", "error_code", "command"),
    [
        ("failed", 2, "INCOMPLETE", "mops-jobs failures a"),
        ("failed", 0, "MODEL", "mops-jobs logs a"),
        ("failed", 0, "FailedIndexes", "mops-jobs logs a"),
        ("failed", 0, "StartError", "mops-jobs resume a --image IMAGE"),
        ("failed", None, "STORE", "mops-jobs resume a"),
        ("partial", 1, "INCOMPLETE", "mops-jobs failures a"),
        ("partial", 0, "INCOMPLETE", "mops-jobs resume a"),
        ("partial", 0, "TARGET", "mops-jobs submit STUDY --auto --extend a"),
        ("cancelled", 3, None, "mops-jobs resume a"),
    ],
)
def test_the_reasons_of_failed_tasks_come_before_a_resume(
    status: str, failed: int | None, error_code: str | None, command: str
) -> None:
    """The same task with the same code fails again. A model that cannot be loaded has only a log."""
    job = {"job_id": "a", "is_active": False, "status": status, "tasks_failed": failed, "error_code": error_code}
    assert first_step({**job, **SUBMITTED, "results_path": None}) == command


@pytest.mark.parametrize(
    ("fields", "command"),
    [
        ({"is_active": True, "metadata": {"waits_for": "its client"}}, "mops-jobs calibrate a"),
        ({"is_active": True, "metadata": {"waits_for": "a core"}}, "mops-jobs wait a"),
        ({"status": "partial", "error_code": "SAMPLER"}, "mops-jobs calibrate SPEC --auto --extend a"),
        ({"status": "partial", "error_code": "TARGET"}, "mops-jobs calibrate SPEC --auto"),
    ],
)
def test_a_calibration_goes_on_by_its_own_command(fields: dict[str, Any], command: str) -> None:
    """A client that is gone is replaced in the same job. After an error of its code, only a new job can go on."""
    job = {"job_id": "a", "is_active": False, "suspect": None, "status": "running", "error_code": None, **SUBMITTED}
    assert first_step({**job, "results_path": None, "calibration": {"best": None}, **fields}) == command


@pytest.mark.parametrize(
    ("engine", "notes", "ends", "command"),
    [
        ("local", {"local_task_memory": "200MiB"}, MemoryEnds(2, 210 * MIB), "resume a --only oom --memory x2"),
        ("local", {"local_task_memory": "200MiB"}, MemoryEnds(2, 900 * MIB), "resume a --only oom --memory x6"),
        ("dask", {"dask_task_memory": "200MiB"}, MemoryEnds(1, None), "resume a --only oom --memory x2"),
        ("kubernetes", {"k8s_memory": "4Gi"}, MemoryEnds(1, None), "resume a --only oom --memory x2"),
        ("local", {}, MemoryEnds(1, 900 * MIB), "resume a --only oom --workers 1"),
        ("local", {"local_workers": "1"}, MemoryEnds(1, 900 * MIB), "failures a"),
        ("dask", {}, MemoryEnds(1, None), "failures a"),
        ("local", {"local_task_memory": "200MiB"}, None, "failures a"),
    ],
)
def test_tasks_that_ran_out_of_memory_lead_to_more_of_it(
    engine: str, notes: dict[str, str], ends: MemoryEnds | None, command: str
) -> None:
    """As much as the measured peak asks for. Without a limit on this machine, one task at a time has it all."""
    job = {"job_id": "a", "is_active": False, "status": "partial", "tasks_failed": 2, "results_path": None}
    job |= {"engine": engine, "metadata": {**SUBMITTED["metadata"], **notes}}
    assert next_command(job, stale=False, ends=ends) == f"mops-jobs {command}"
    suggested = ("Run again what ran out of memory", f"mops-jobs {command}")
    assert (suggested in next_commands(job, ends=ends)) == command.startswith("resume")
    few = next_command({**job, "tasks_failed": 100}, stale=False, ends=ends)
    assert few == "mops-jobs failures a", "other errors are the rule"


def test_a_pod_that_was_killed_for_its_memory_leads_to_more_of_it() -> None:
    job = {"job_id": "a", "is_active": False, "status": "failed", "error_code": "OOMKilled", "engine": "kubernetes"}
    job |= {"metadata": {**SUBMITTED["metadata"], "k8s_memory": "4Gi"}}
    assert next_command(job, stale=False) == "mops-jobs resume a --memory x2"


@pytest.mark.parametrize(
    ("notes", "flag"),
    [
        ({"slurm_time": "2h"}, "--time x2"),
        ({}, "--time MINUTES"),
        ({"slurm_time": "0"}, "--time MINUTES"),
    ],
)
def test_a_time_limit_of_slurm_leads_to_more_time(notes: dict[str, str], flag: str) -> None:
    """To twice the limit of the launch. That of a partition cannot grow."""
    job = {"job_id": "a", "is_active": False, "status": "partial", "error_code": "TIMEOUT", "engine": "slurm"}
    job |= {"metadata": {**SUBMITTED["metadata"], **notes}}
    assert next_command(job, stale=False) == f"mops-jobs resume a {flag}"


def test_a_job_that_slurm_holds_is_looked_at_and_not_resumed() -> None:
    """Its array is there, so that `resume` would refuse. A record without a valid number leaves the usual command."""
    job = {
        "job_id": "a", "is_active": True, "status": "scheduled", "suspect": "JobHeldUser", "engine": "slurm",
        "k8s_name": None, "metadata": {"slurm_job_id": "12", "waits_for": "JobHeldUser: its user holds it"},
    }  # fmt: skip
    assert next_command(job, stale=False) == "scontrol show job 12"
    metadata = {"slurm_job_id": "12; rm -r /", "waits_for": "JobHeldUser"}
    assert next_command({**job, "metadata": metadata}, stale=False) == "mops-jobs resume a"


def test_the_commands_of_a_job_name_it_and_suit_it() -> None:
    """Each has the id as one word behind the flags. A job that was only reported is not to be resumed."""
    job = {"job_id": "--a b", "is_active": False, "status": "failed", "results_path": "results/x", "tasks_failed": 2}
    words = [shlex.split(line) for _, line in next_commands({**job, **SUBMITTED})]
    assert ["./--a b" in word for word in words] == [True] * 4
    assert [word[1] for word in words] == ["logs", "failures", "results", "resume"]
    reported = {**job, "results_path": None, "k8s_name": None, "metadata": {}}
    assert next_commands(reported) == [("Read its log", "mops-jobs logs './--a b'")]
    assert next_command(reported, stale=False) == "mops-jobs status './--a b' --json"
