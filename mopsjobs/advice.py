"""What to type next, for a job as it stands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

Job = Mapping[str, object]


def next_command(job: Job, *, stale: bool, is_dead: bool = False) -> str:
    """The command that helps most now.

    Args:
        job: as scripts get it.
        stale: whether what is known of it is older than it should be.
        is_dead: whether its runner is known to have ended, whatever the record says.
    """
    job_id = shlex.quote(str(job["job_id"]))
    if stale:
        return "mops-jobs sync"
    if job["is_active"]:
        return f"mops-jobs {'resume' if job['suspect'] or is_dead else 'wait'} {job_id}"
    metadata = job["metadata"]
    if isinstance(metadata, Mapping) and "bundle" in metadata:  # it was submitted, not reported
        if job["status"] == "succeeded":
            return f"mops-jobs results {job_id} --download DIR"
        is_the_models = job["status"] == "failed" and job["error_code"] in ("MODEL", "INCOMPLETE")
        return f"mops-jobs {'logs' if is_the_models else 'resume'} {job_id}"
    if job["status"] == "failed" and job["k8s_name"] is not None:
        namespace = shlex.quote(str(job["k8s_namespace"] or "default"))
        return f"kubectl -n {namespace} describe job {shlex.quote(str(job['k8s_name']))}"
    return f"mops-jobs status {job_id} --json"


def commands(job: Job) -> list[tuple[str, str]]:
    """What else can be done with the job: each purpose, and the command for it."""
    job_id = shlex.quote(str(job["job_id"]))
    if job["is_active"]:
        return [
            ("Follow its log", f"mops-jobs logs -f {job_id}"),
            ("See it as the registry has it", f"mops-jobs status {job_id} --refresh"),
            ("End it", f"mops-jobs cancel {job_id}"),
        ]
    found = [("Read its log", f"mops-jobs logs {job_id}")]
    if job["results_path"] is not None:
        found.append(("Fetch its results", f"mops-jobs results {job_id} --download out"))
    if job["status"] != "succeeded":
        found.append(("Run what is missing", f"mops-jobs resume {job_id}"))
    return found
