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
from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE, is_job_place, job_name, kubectl
from mopsjobs.engines.local import registry_of_runner, runner_pid
from mopsjobs.engines.slurm.commands import NotConfiguredError, is_installed
from mopsjobs.engines.trust import choices_of_last_launch
from mopsjobs.errors import MopsJobsError, modelops_environment


class EngineAnswer(NamedTuple):
    """The state of a job on an engine, and commands to see or stop it without mops-jobs."""

    engine: str
    state: EngineState
    show_command: str
    """A command that shows the job."""
    stop_command: str | None
    """A command that stops the job; None if it is not known."""


IN_CLUSTER = "In the cluster, "
"""The beginning of a reason that the cluster has told."""

Found = tuple[EngineAnswer | None, str | None]
"""The answer of an engine, or the reason for None in a sentence; two None if the engine is not configured."""


def find_in_engines(job_id: str, env: Mapping[str, str], seconds: float, verb: str | None, registry_id: str) -> Found:
    """Find a job by its id: on this machine first, then in Slurm, then in the cluster of Kubernetes.

    Args:
        job_id: the job.
        env: the environment, with the configuration of the engines.
        seconds: how long the answer of each cluster may take. The system's own name resolution has no time limit.
        verb: what kubectl is to do with a job that no engine knows, such as `get`; None if it cannot be in a cluster.
        registry_id: the identity of its registry. A runner on this machine may be of a job of another one.

    Returns:
        The answer of an engine, None if none knows the job; and the reason for None in a sentence, with what to type
        in place of it.
    """
    job: dict[str, object] = {"job_id": job_id}
    here = open_engine("local", env).state(job)
    reasons: list[str] = []
    other = registry_of_runner(job_id, env)
    if other not in (None, registry_id):
        reasons.append(f"The job of this id on this machine is of another registry: {other}.")
    elif here.reason != "NotHere":
        pid = runner_pid(job_id, env)
        show_command = JobDir.for_job(job_id, env).show_command
        return EngineAnswer("local", here, show_command, None if pid is None else f"kill {pid}"), None
    for engine, is_usable, find, name in (
        ("slurm", is_installed, _find_in_slurm, "Slurm"),
        ("kubernetes", is_cluster_configured, _find_in_cluster, "The cluster"),
    ):
        if not is_usable(env):
            continue
        with contextlib.suppress(MopsJobsError, ImportError):
            open_engine(engine, env)  # a slow disk may take longer to load it than a cluster to answer
        late = None, f"{name} did not answer within {seconds:g} s either."
        answer, reason = _within(seconds, functools.partial(find, job, env)) or late
        if answer is not None:
            return answer, None
        reasons += [reason] if reason else []
    # If Slurm alone is configured, kubectl is of no use.
    if verb is not None and (is_cluster_configured(env) or not reasons):
        is_gone = any(reason.startswith(IN_CLUSTER) for reason in reasons)
        reasons.append(by_hand(verb, job_id, env, is_gone=is_gone))
    return None, " ".join(filter(None, reasons)) or None


def by_hand(verb: str, job_id: str, env: Mapping[str, str], *, is_gone: bool = False) -> str:
    """Return what to type for a job whose record cannot be read: where mops-jobs and where ModelOps launch it.

    Args:
        verb: what kubectl is to do.
        job_id: the job.
        env: the environment, with the configuration of the cluster.
        is_gone: whether the cluster has said that mops-jobs has no such job there.
    """
    context, namespace = None, None
    with contextlib.suppress(MopsJobsError, ImportError):  # without a configuration, kubectl takes its own
        context, namespace = _place(job_id, env)
    ours = kubectl(verb, job_name(job_id), namespace, context)
    of_modelops = f"modelops-dask-{modelops_environment()}"
    theirs = kubectl(verb, job_id, of_modelops, context)
    parts = [] if is_gone else [f"By hand: {ours}"]
    if theirs != ours and is_job_place(of_modelops, job_id):
        parts.append(f"{'If' if is_gone else 'If instead'} ModelOps submitted it: {theirs}")
    return ". ".join(parts)


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
        from mopsjobs.engines.kubernetes.engine import CONTEXT_FIELD, kubectl_for

        context, namespace = _place(str(job["job_id"]), env)
        job = {**job, "k8s_namespace": namespace, "metadata": {} if context is None else {CONTEXT_FIELD: context}}
        state = open_engine("kubernetes", env).state(job)
    except (MopsJobsError, ImportError) as error:
        return None, f"The cluster cannot be queried either: {error}"
    if state.phase == "gone":
        return None, f"{IN_CLUSTER}{state.detail}."
    return EngineAnswer("kubernetes", state, kubectl_for("get", job, env), kubectl_for("delete", job, env)), ""


def _place(job_id: str, env: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the context and the namespace of a job: as a launch from here chose, else the defaults.

    Raises:
        EngineAccessError: if no cluster is configured, or its configuration cannot be used.
    """
    from mopsjobs.engines.kubernetes.client import current_place

    chosen = dict(choice.partition(":")[::2] for choice in choices_of_last_launch(JobDir.for_job(job_id, env)))
    context = env.get(CONTEXT_VARIABLE) or chosen.get("context")
    return context, chosen.get("namespace") or current_place(env, context)[1]
