"""The commands to suggest for a job in its present status.

A record may hold any text. So `command_line` quotes what it takes from a record for the shell, and keeps it from being
read as a flag.
"""

from __future__ import annotations

from collections.abc import Mapping

from mopsjobs.engines import LOCAL_ENGINES
from mopsjobs.errors import command_line

Job = Mapping[str, object]


def next_command(job: Job, *, stale: bool, is_dead: bool = False) -> str:
    """Return the most useful command for a job.

    Args:
        job: the job in its JSON form. Of a family, it is the newest: only that can be resumed.
        stale: whether its data is older than it should be.
        is_dead: whether its runner is known to have ended, whatever the record says.
    """
    job_id = job["job_id"]
    if stale:
        return command_line("sync")
    if job["is_active"]:
        return command_line("resume" if job["suspect"] or is_dead else "wait", job_id)
    if _is_submitted(job):
        return _command_after_end(job)
    if job["status"] == "failed" and job["k8s_name"] is not None:
        from mopsjobs.engines.kubernetes.manifest import is_job_place, kubectl  # here: few jobs need it

        namespace, name = str(job["k8s_namespace"] or "default"), str(job["k8s_name"])
        if is_job_place(namespace, name):
            return kubectl("describe", name, namespace)
    return command_line("status", job_id, "--json")


def _command_after_end(job: Job) -> str:
    """Return the most useful command for a job that mops-jobs submitted and that has ended."""
    job_id, status = job["job_id"], job["status"]
    if status == "succeeded":
        return command_line("results", job_id, "--download DIR")
    if status in ("failed", "partial") and _has_failed_tasks(job):
        return command_line("failures", job_id)  # a task that fails does so again if it is resumed as it is
    is_model_error = status == "failed" and job["error_code"] in ("MODEL", "INCOMPLETE")
    return command_line("logs" if is_model_error else "resume", job_id)


def next_commands(job: Job, newest: Job | None = None) -> list[tuple[str, str]]:
    """Return other useful commands for a job: the purpose and the command of each.

    Args:
        job: the job in its JSON form.
        newest: the newest job of its family, which has the results of all and can be resumed; None if it has no family.
    """
    job_id = job["job_id"]
    failures = [("See why tasks failed", command_line("failures", job_id))] if _has_failed_tasks(job) else []
    if job["is_active"]:
        return [
            ("Follow its log", command_line("logs -f", job_id)),
            *failures,
            ("See it as the registry has it", command_line("status", job_id, "--refresh")),
            ("End it", command_line("cancel", job_id)),
        ]
    found = [("Read its log", command_line("logs", job_id)), *failures]
    last = job if newest is None else newest
    if any(member["results_path"] is not None for member in (job, last)):
        found.append(("Fetch its results", command_line("results", last["job_id"], "--download DIR")))
    if last["is_active"]:
        found.append(("Wait for the job that continues it", command_line("wait", last["job_id"])))
    elif last["status"] != "succeeded" and _is_submitted(last):
        found.append(("Run what is missing", command_line("resume", last["job_id"])))
    return found


def failure_commands(job: Job, newest: Job, task: int) -> list[tuple[str, str]]:
    """Return the commands to look into failed tasks, and to run them again: the purpose and the command of each.

    Args:
        job: the job in its JSON form.
        newest: the newest job of its family, which can be resumed; the job itself if it has no family.
        task: the number of a task that failed.
    """
    from mopsjobs.ledger.attempt import FAILED_OUTCOMES  # here: few views need it

    job_id = job["job_id"]
    found = [
        ("List the tasks", command_line("tasks", job_id, f"--status {','.join(FAILED_OUTCOMES)}")),
        ("Read the log of one", command_line("logs", job_id, f"--task {task}")),
    ]
    if not newest["is_active"] and newest["status"] != "succeeded":
        found.append(("Run what is missing", command_line("resume", newest["job_id"])))
    return found


def _is_submitted(job: Job) -> bool:
    """Return whether mops-jobs submitted the job, and can resume it. Other jobs were only reported."""
    metadata = job["metadata"]
    return isinstance(metadata, Mapping) and "bundle" in metadata


def _has_failed_tasks(job: Job) -> bool:
    """Return whether tasks of the job failed, and mops-jobs knows which."""
    failed = job.get("tasks_failed")
    return isinstance(failed, int) and failed > 0 and _is_submitted(job)


def is_runner_dead(job: Job, env: Mapping[str, str]) -> bool:
    """Return whether the job's runner is known to have ended on this machine, whatever the record says."""
    if job["engine"] not in LOCAL_ENGINES:
        return False
    from mopsjobs.engines.local import has_ended_here  # here: the page needs no engine

    return has_ended_here(job, env)
