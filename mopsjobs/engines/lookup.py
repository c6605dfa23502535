"""Find a job in the engines while its record cannot be read, within a time limit."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import EngineState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.kubeconfig import is_cluster_configured
from mopsjobs.engines.local import runner_pid
from mopsjobs.engines.slurm.commands import NotConfiguredError, is_installed
from mopsjobs.engines.trust import choices_of_last_launch
from mopsjobs.errors import MopsJobsError


class EngineAnswer(NamedTuple):
    """The state of a job on an engine, and commands to see or stop it without mops-jobs."""

    engine: str
    state: EngineState
    show_command: str
    """A command that shows the job."""
    stop_command: str | None
    """A command that stops the job; None if it is not known."""


Found = tuple[EngineAnswer | None, str | None]
"""The answer of an engine, or the reason for None in a sentence; two None if the engine is not configured."""


def find_in_engines(job_id: str, env: Mapping[str, str], seconds: float) -> Found:
    """Find a job by its id: on this machine first, then in Slurm, then in the cluster of Kubernetes.

    Args:
        job_id: the job.
        env: the environment, with the configuration of the engines.
        seconds: how long the answer of each cluster may take. The system's own name resolution has no time limit.

    Returns:
        The answer of an engine, None if none knows the job; and the reason for None in a sentence, which is None if
        none is configured.
    """
    job: dict[str, object] = {"job_id": job_id}
    here = open_engine("local", env).state(job)
    if here.reason != "NotHere":
        pid = runner_pid(job_id, env)
        show_command = JobDir.for_job(job_id, env).show_command
        return EngineAnswer("local", here, show_command, None if pid is None else f"kill {pid}"), None
    reasons: list[str] = []
    for engine, is_usable, find, name in (
        ("slurm", is_installed, _find_in_slurm, "Slurm"),
        ("kubernetes", is_cluster_configured, _find_in_cluster, "The cluster"),
    ):
        if not is_usable(env):
            continue
        with contextlib.suppress(MopsJobsError, ImportError):
            open_engine(engine, env)  # a slow disk may take longer to load it than a cluster to answer
        answer, reason = _within(seconds, functools.partial(find, job, env)) or (
            None,
            f"{name} did not answer within {seconds:g} s either.",
        )
        if answer is not None:
            return answer, None
        reasons += [reason] if reason else []
    return None, " ".join(reasons) or None


def _within(seconds: float, find: Callable[[], Found]) -> Found | None:
    """Return what `find` returns; None if it takes longer."""
    answers: list[Found] = []
    # A daemon thread: the program may end while it hangs.
    thread = threading.Thread(target=lambda: answers.append(find()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _find_in_slurm(job: Mapping[str, object], env: Mapping[str, str]) -> Found:
    from mopsjobs.engines.slurm.engine import SlurmEngine, show_command, stop_command

    try:
        engine = SlurmEngine(env)
        array_id, state = engine.newest_array(str(job["job_id"])), engine.state(job)
    except NotConfiguredError:
        return None, None
    except MopsJobsError as error:
        return None, f"Slurm cannot be queried either: {error}"
    if array_id is None or state.phase == "gone":
        return None, f"Job {job['job_id']} was not found in Slurm."
    return EngineAnswer("slurm", state, show_command(array_id), stop_command(array_id)), ""


def _find_in_cluster(job: Mapping[str, object], env: Mapping[str, str]) -> Found:
    try:
        from mopsjobs.engines.kubernetes.engine import kubectl_for

        job = {**job, **_place(str(job["job_id"]), env)}
        state = open_engine("kubernetes", env).state(job)
    except (MopsJobsError, ImportError) as error:
        return None, f"The cluster cannot be queried either: {error}"
    if state.phase == "gone":
        return None, f"In the cluster, {state.detail}."
    return EngineAnswer("kubernetes", state, kubectl_for("get", job, env), kubectl_for("delete", job, env)), ""


def _place(job_id: str, env: Mapping[str, str]) -> dict[str, object]:
    """Return where a job is in a cluster, as the fields of its record: as a launch from here chose, else the default.

    Raises:
        EngineAccessError: if no cluster is configured, or its configuration cannot be used.
    """
    from mopsjobs.engines.kubernetes.client import current_place
    from mopsjobs.engines.kubernetes.engine import CONTEXT_FIELD
    from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE

    chosen = dict(choice.partition(":")[::2] for choice in choices_of_last_launch(JobDir.for_job(job_id, env)))
    context = env.get(CONTEXT_VARIABLE) or chosen.get("context")
    namespace = chosen.get("namespace") or current_place(env, context)[1]
    return {"k8s_namespace": namespace, "metadata": {} if context is None else {CONTEXT_FIELD: context}}
