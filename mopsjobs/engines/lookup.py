"""Find a job in the engines while its record cannot be read, within a time limit."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import EngineState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.kubeconfig import is_cluster_configured
from mopsjobs.engines.local import runner_pid
from mopsjobs.errors import MopsJobsError


class EngineAnswer(NamedTuple):
    """The state of a job on an engine, and commands to see or stop it without mops-jobs."""

    engine: str
    state: EngineState
    show_command: str
    """A command that shows the job."""
    stop_command: str | None
    """A command that stops the job; None if it is not known."""


def find_in_engines(job_id: str, env: Mapping[str, str], seconds: float) -> tuple[EngineAnswer | None, str | None]:
    """Find a job by its id: on this machine first, then in the cluster.

    Args:
        job_id: the job.
        env: the environment, with the configuration of the engines.
        seconds: how long the cluster may take. The system's own name resolution has no time limit.

    Returns:
        The answer of an engine, None if none knows the job; and the reason for None in a sentence, which is None if
        no cluster is configured.
    """
    job: dict[str, object] = {"job_id": job_id}
    here = open_engine("local", env).state(job)
    if here.reason != "NotHere":
        pid = runner_pid(job_id, env)
        show_command = JobDir.for_job(job_id, env).show_command
        return EngineAnswer("local", here, show_command, None if pid is None else f"kill {pid}"), None
    if not is_cluster_configured(env):
        return None, None
    answers: list[tuple[EngineAnswer | None, str]] = []
    # A daemon thread: the program may end while it hangs.
    thread = threading.Thread(target=lambda: answers.append(_find_in_cluster(job, env)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (None, "The cluster does not answer either.")


def _find_in_cluster(job: Mapping[str, object], env: Mapping[str, str]) -> tuple[EngineAnswer | None, str]:
    try:
        from mopsjobs.engines.kubernetes.engine import kubectl_for

        state = open_engine("kubernetes", env).state(job)
    except (MopsJobsError, ImportError) as error:
        return None, f"The cluster cannot be queried either: {error}"
    if state.phase == "gone":
        return None, f"The cluster does not know it either: {state.detail}."
    return EngineAnswer("kubernetes", state, kubectl_for("get", job, env), kubectl_for("delete", job, env)), ""
