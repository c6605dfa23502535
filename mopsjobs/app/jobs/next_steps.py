"""The commands to suggest for a job in its present status.

A record may hold any text. So `command_line` quotes what it takes from a record for the shell, and keeps it from being
read as a flag.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopsjobs.engines import LOCAL_ENGINES
from mopsjobs.errors import CacheError, command_line
from mopsjobs.registry.notes import CLIENT_TEXT, TASK_HANGS, WAITS_FOR, is_submitted, metadata_of

if TYPE_CHECKING:
    from mopsjobs.app.jobs.find_job import FoundJob
    from mopsjobs.app.run.app import App
    from mopsjobs.cache.queries.ledgers import MemoryEnds

Job = Mapping[str, Any]

START_ERROR = "StartError"
"""The code of a cluster that could not start the command of the image."""

CLUSTER_CODES = ("BackoffLimitExceeded", "FailedIndexes", "PodFailurePolicy", "FAILED")
"""Codes of a cluster whose shards ended with an error. The reason is in their log."""

LOGGED_CODES = ("MODEL", "INCOMPLETE", *CLUSTER_CODES)
"""Codes of errors whose reason is in the log: of the runner, or of a cluster."""

PEAK_RESERVE = 1.25
"""Times the measured peak of memory that a suggested limit has at least."""


_PURPOSES = {
    "sync": "Bring the data up to date",
    "wait": "Wait for its end",
    "status": "See its record",
    "logs": "Read the log of the task that hangs",
    "failures": "See why tasks failed",
    "results": "List its best parameter sets",
    "resume": "Run what is missing",
    "calibrate": "Calibrate again",
    "submit": "Submit the corrected study",
}
"""Purposes of the commands that `next_command` returns and `next_commands` does not."""


def next_steps(job: Job, newest: Job | None, *, stale: bool, ends: MemoryEnds | None) -> list[tuple[str, str]]:
    """Return the most useful command for a job and other ones: the purpose and the command of each.

    Takes arguments as `next_command` and `next_commands` do.
    """
    first, others = next_command(newest or job, stale=stale, ends=ends), next_commands(job, newest, ends)
    program, verb, *_ = first.split()
    told = _PURPOSES[verb] if program == "mops-jobs" else "See what the cluster says"
    purpose = next((why for why, command in others if command == first), told)
    return [(purpose, first), *(one for one in others if one[1] != first)]


def next_command(job: Job, *, stale: bool, is_dead: bool = False, ends: MemoryEnds | None = None) -> str:
    """Return the most useful command for a job.

    Args:
        job: the job in its JSON form. Of a family, it is the newest: only that can be resumed.
        stale: whether its data is older than it should be.
        is_dead: whether its runner is known to have ended, whatever the record says.
        ends: its tasks that ran out of memory, as far as the cache knows them.
    """
    job_id = job["job_id"]
    if stale:
        return command_line("sync")
    if job["is_active"]:
        is_left = bool(job.get("calibration")) and metadata_of(job).get(WAITS_FOR) == CLIENT_TEXT
        verb = "resume" if job["suspect"] or is_dead else "calibrate" if is_left else "wait"
        return _look_command(job) or command_line(verb, job_id)
    if is_submitted(job):
        return _calibrate_command(job) or _command_after_end(job, ends)
    return (job["status"] == "failed" and _kubectl_describe(job)) or command_line("status", job_id, "--json")


def next_of_family(found: FoundJob, app: App, *, stale: bool) -> str:
    """Return the most useful command for a job: of a family, for its newest, which alone can be resumed."""
    last, ends = found.job if found.newest is None else found.newest, None
    if last["tasks_failed"]:
        from mopsjobs.cache.queries.ledgers import memory_ends  # here: few jobs have failed tasks

        with contextlib.suppress(CacheError):  # the record may come from the registry
            ends = app.cache.read_cached(lambda cache: memory_ends(cache, str(last["job_id"])))
    return next_command(last, stale=stale, is_dead=is_runner_dead(last, app.env), ends=ends)


def _look_command(job: Job) -> str | None:
    """Return the command that shows what a task that hangs does, or why a suspect job has not begun, if that is known.

    The runner of a task that hangs is at work, so nothing is to be resumed.
    """
    late = job.get("stragglers")
    if job["suspect"] == TASK_HANGS and isinstance(late, Mapping):
        return command_line("logs", job["job_id"], f"--task {late['oldest']}")
    is_told = isinstance(metadata_of(job).get(WAITS_FOR), str)
    return (_kubectl_describe(job) or _scontrol_show(job)) if job["suspect"] and is_told else None


def _kubectl_describe(job: Job) -> str | None:
    """Return the command that describes the Kubernetes Job of a job; None if it has none."""
    if job["k8s_name"] is None:
        return None
    from mopsjobs.engines.kubernetes.manifest import is_job_place, kubectl  # here: few jobs need it

    namespace, name = str(job["k8s_namespace"] or "default"), str(job["k8s_name"])
    return kubectl("describe", name, namespace) if is_job_place(namespace, name) else None


def _scontrol_show(job: Job) -> str | None:
    """Return the command that shows the job array of a job; None if it has none."""
    if job["engine"] != "slurm":
        return None
    from mopsjobs.engines.slurm.engine import recorded_array  # here: few jobs need it

    array_id = recorded_array(job)
    return None if array_id is None else f"scontrol show job {array_id}"


def _calibrate_command(job: Job) -> str | None:
    """Return the command that calibrates again after an error of the sampler or the objective: a new job has to."""
    code = job["error_code"] if job.get("calibration") else None
    if code not in ("SAMPLER", "TARGET"):
        return None
    return command_line("calibrate", "SPEC", f"--auto --extend {job['job_id']}" if code == "SAMPLER" else "--auto")


def _command_after_end(job: Job, ends: MemoryEnds | None) -> str:
    """Return the most useful command for a job that mops-jobs submitted and that has ended."""
    job_id, status = job["job_id"], job["status"]
    has_best = bool(job.get("calibration") and job["calibration"]["best"])
    if status == "succeeded" or has_best:
        return command_line("results", job_id, "--best" if has_best else "--download DIR")
    if status == "failed" and job["error_code"] in (START_ERROR, *CLUSTER_CODES):  # lost tasks have no errors
        is_startable = job["error_code"] != START_ERROR
        return command_line("logs", job_id) if is_startable else command_line("resume", job_id, "--image IMAGE")
    if status in ("failed", "partial") and has_failed_tasks(job):
        more_memory = memory_command(job, ends)
        if more_memory is not None and ends is not None and 2 * ends.tasks >= job["tasks_failed"]:
            return more_memory
        return command_line("failures", job_id)  # a task that fails does so again if it is resumed as it is
    if (larger_limit := _larger_limit(job)) is not None:
        return command_line("resume", job_id, larger_limit)
    code = job["error_code"]
    if code == "TARGET":  # a resume would end in the same way: the study names a result that no task leaves
        verb, named, options = "submit", "STUDY", f"--auto --extend {job_id}"
    elif job.get("calibration"):
        verb, named, options = "calibrate", job_id, "--rounds N"
    else:
        has_traceback = code == "REDUCE" or (status == "failed" and code in LOGGED_CODES)
        verb, named, options = "logs" if has_traceback else "resume", job_id, ""
    return command_line(verb, named, options)


def _larger_limit(job: Job) -> str | None:
    """Return the flag of `resume` with a larger limit, if one of the whole job or of a shard has ended it."""
    code, launch = job.get("error_code"), _last_launch(job)
    if code in ("OOMKilled", "OUT_OF_MEMORY") and launch.keys() & {"memory", "task_memory"}:
        return "--memory x2"
    if code == "TIMEOUT" and job.get("engine") == "slurm":
        from mopsjobs.engines.slurm.options import minutes  # here: few jobs need it

        # Without a limit of its own, that of the partition has ended it.
        return "--time MINUTES" if minutes(launch.get("time", "")) is None else "--time x2"
    return None


def memory_command(job: Job, ends: MemoryEnds | None) -> str | None:
    """Return the command that runs the tasks again that ran out of memory, with more of it; None if none did.

    A limit grows to twice what it was, or to what the measured peak asks for. Without a limit on this machine, one
    task at a time has all the memory that there is.
    """
    if ends is None or not ends.tasks or job["is_active"] or not is_submitted(job):
        return None
    from mopsjobs.utils.sizes import parse_size  # here: few jobs need it

    launch = _last_launch(job)
    limit = parse_size(launch.get("task_memory", ""))
    if limit is not None:
        factor = max(2, math.ceil(PEAK_RESERVE * (ends.peak or 0) / limit))
        return command_line("resume", job["job_id"], f"--only oom --memory x{factor}")
    if "memory" in launch:
        return command_line("resume", job["job_id"], "--only oom --memory x2")
    if job["engine"] == "local" and launch.get("workers") != "1":
        return command_line("resume", job["job_id"], "--only oom --workers 1")
    return None


def next_commands(job: Job, newest: Job | None = None, ends: MemoryEnds | None = None) -> list[tuple[str, str]]:
    """Return other useful commands for a job: the purpose and the command of each.

    Args:
        job: the job in its JSON form.
        newest: the newest job of its family, which has the results of all and can be resumed; None if it has no family.
        ends: the tasks of that job that ran out of memory.
    """
    job_id = job["job_id"]
    failures = [("See why tasks failed", command_line("failures", job_id))] if has_failed_tasks(job) else []
    if job["is_active"]:
        return [
            ("Follow its log", command_line("logs -f", job_id)),
            *failures,
            *_calibration_commands(job, "Go on if its client is gone", ""),
            ("See it as the registry has it", command_line("status", job_id, "--refresh")),
            ("End it", command_line("cancel", job_id)),
        ]
    found = [("Read its log", command_line("logs", job_id)), *failures]
    found += _calibration_commands(job, "Extend it to more rounds", "--rounds N")
    last = job if newest is None else newest
    if any(member["results_path"] is not None for member in (job, last)):
        found.append(("Fetch its results", command_line("results", last["job_id"], "--download DIR")))
    if last["is_active"]:
        found.append(("Wait for the job that continues it", command_line("wait", last["job_id"])))
    elif last["status"] != "succeeded" and is_submitted(last):
        found += _resume_commands(last, ends)
    return found


def _calibration_commands(job: Job, purpose: str, options: str) -> list[tuple[str, str]]:
    return [(purpose, command_line("calibrate", job["job_id"], options))] if job.get("calibration") else []


def _resume_commands(job: Job, ends: MemoryEnds | None) -> list[tuple[str, str]]:
    if job.get("calibration"):  # its sampler would not be told of what a resume runs
        return []
    found = [("Run again what ran out of memory", more)] if (more := memory_command(job, ends)) is not None else []
    return [*found, ("Run what is missing", command_line("resume", job["job_id"]))]


def failure_commands(job: Job, newest: Job, task: int, ends: MemoryEnds | None = None) -> list[tuple[str, str]]:
    """Return the commands to look into failed tasks, and to run them again: the purpose and the command of each.

    Args:
        job: the job in its JSON form.
        newest: the newest job of its family, which can be resumed; the job itself if it has no family.
        task: the number of a task that failed.
        ends: the tasks of the newest job that ran out of memory.
    """
    from mopsjobs.ledger.attempt import FAILED_OUTCOMES  # here: few views need it

    job_id = job["job_id"]
    can_resume = not newest["is_active"] and newest["status"] != "succeeded"
    return [
        ("List the tasks", command_line("tasks", job_id, f"--status {','.join(FAILED_OUTCOMES)}")),
        ("Read the log of one", command_line("logs", job_id, f"--task {task}")),
        *(_resume_commands(newest, ends) if can_resume else []),
    ]


def has_failed_tasks(job: Job) -> bool:
    """Return whether tasks of the job failed, and mops-jobs knows which."""
    return bool(job.get("tasks_failed")) and is_submitted(job)


def _last_launch(job: Job) -> dict[str, str]:
    from mopsjobs.engines.base import last_launch  # here: few jobs need it

    return last_launch(job)


def is_runner_dead(job: Job, env: Mapping[str, str]) -> bool:
    """Return whether the job's runner is known to have ended on this machine, whatever the record says."""
    if job["engine"] not in LOCAL_ENGINES:
        return False
    from mopsjobs.engines.local import has_ended_here  # here: the page needs no engine

    return has_ended_here(job, env)
