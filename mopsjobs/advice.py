"""What to type next, for a job as it stands.

A record may hold any text. A command line that is printed with text of a record is made here: quoted for the shell, and
never read as a flag.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

Job = Mapping[str, object]


def command(verb: str, job_id: object, options: str = "") -> str:
    """Return what to type to do that with a job.

    Args:
        verb: the command, with flags in front of the id.
        job_id: the job, by whatever id another program has given it.
        options: flags behind the id.
    """
    words = [f"mops-jobs {verb}", shlex.quote(str(job_id)), options]
    if str(job_id).startswith("-"):
        words = [words[0], options, "--", words[1]]
    return " ".join(word for word in words if word)


def next_command(job: Job, *, stale: bool, is_dead: bool = False) -> str:
    """The command that helps most now.

    Args:
        job: as scripts get it.
        stale: whether what is known of it is older than it should be.
        is_dead: whether its runner is known to have ended, whatever the record says.
    """
    job_id = job["job_id"]
    if stale:
        return "mops-jobs sync"
    if job["is_active"]:
        return command("resume" if job["suspect"] or is_dead else "wait", job_id)
    metadata = job["metadata"]
    if isinstance(metadata, Mapping) and "bundle" in metadata:  # it was submitted, not reported
        if job["status"] == "succeeded":
            return command("results", job_id, "--download DIR")
        is_the_models = job["status"] == "failed" and job["error_code"] in ("MODEL", "INCOMPLETE")
        return command("logs" if is_the_models else "resume", job_id)
    if job["status"] == "failed" and job["k8s_name"] is not None:
        from mopsjobs.engines.k8s_manifest import is_job_place, kubectl  # here: few jobs need it

        namespace, name = str(job["k8s_namespace"] or "default"), str(job["k8s_name"])
        if is_job_place(namespace, name):
            return kubectl("describe", name, namespace)
    return command("status", job_id, "--json")


def commands(job: Job) -> list[tuple[str, str]]:
    """What else can be done with the job: each purpose, and the command for it."""
    job_id = job["job_id"]
    if job["is_active"]:
        return [
            ("Follow its log", command("logs -f", job_id)),
            ("See it as the registry has it", command("status", job_id, "--refresh")),
            ("End it", command("cancel", job_id)),
        ]
    found = [("Read its log", command("logs", job_id))]
    if job["results_path"] is not None:
        found.append(("Fetch its results", command("results", job_id, "--download out")))
    if job["status"] != "succeeded":
        found.append(("Run what is missing", command("resume", job_id)))
    return found
