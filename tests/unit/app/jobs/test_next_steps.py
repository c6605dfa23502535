"""The next command of a job, by its record."""

from __future__ import annotations

import pytest

from mopsjobs.app.jobs.next_steps import next_command, next_commands
from mopsjobs.cache.queries.task_ends import MemoryEnds

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
        ("cancelled", 3, None, "mops-jobs resume a"),
    ],
)
def test_the_reasons_of_failed_tasks_come_before_a_resume(
    status: str, failed: int | None, error_code: str | None, command: str
) -> None:
    """The same task with the same code fails again. A model that cannot be loaded has only a log."""
    job = {"job_id": "a", "is_active": False, "status": status, "tasks_failed": failed, "error_code": error_code}
    assert next_command({**job, **SUBMITTED}, stale=False) == command


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
        ("local", {"local_task_memory": "200MiB"}, MemoryEnds(0, None), "failures a"),
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
        ({"slurm_time": "1-12:00:00"}, "--time x2"),
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
