"""The Kubernetes engine: a job of ours is an Indexed Job of a cluster.

What the Job's conditions say decides, never a count of its failed pods: those are tried again. Each call opens a
connection of its own and gives up within seconds; only following a log takes longer.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mopsjobs.engines.base import NOTE_PREFIXES, EngineState, Launch, Launched, launch_notes
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes import logs as k8s_logs
from mopsjobs.engines.kubernetes.client import Cluster, ConflictError, is_other_context, open_cluster
from mopsjobs.engines.kubernetes.manifest import (
    JOB_ID,
    LAUNCH_ID,
    build_manifest,
    check_namespace,
    is_job_place,
    job_name,
    kubectl,
)
from mopsjobs.engines.trust import NotTrustedError, Trust, flags_for, launched_here, remember_launch
from mopsjobs.errors import EngineError, EnginePlaceError, EngineUnavailableError, shortened
from mopsjobs.utils.times import utc_now

if TYPE_CHECKING:
    from lightkube.models.batch_v1 import JobStatus
    from lightkube.resources.batch_v1 import Job
    from lightkube.resources.core_v1 import Pod


CONTEXT_VARIABLE = "MOPS_JOBS_KUBE_CONTEXT"
"""The context of the kubeconfig to use where no option names one. It goes before the one that a record names."""


SHOWN_CHARACTERS = 100
"""What a message shows at most of a name that is none."""


CONTEXT_NOTE = NOTE_PREFIXES["kubernetes"] + "context"
"""Where the metadata of a record name the context that its job was launched with."""


class KubernetesEngine:
    """Runs jobs in a cluster: that of the kubeconfig, or else the one that this process is in."""

    name = "kubernetes"

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        trust: Trust | None = None,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._env = env
        self._trust = trust or Trust()
        self._now = now
        self._sleep = sleep
        self._context = env.get(CONTEXT_VARIABLE) or None

    def launch(self, launch: Launch) -> Launched:
        """See `Engine.launch`. A reply that is lost is made up for: the Job that is there says whose launch it is of.

        Raises:
            UsageError: an option is unknown or makes no sense; names it.
        """
        launch_id = secrets.token_hex(8)
        context = launch.options.get("context") or self._context
        with open_cluster(self._env, context) as cluster:
            namespace = check_namespace(launch.options.get("namespace") or cluster.namespace)
            manifest = build_manifest(launch, namespace=namespace, launch_id=launch_id, env=self._env)
            name = job_name(launch.job_id)
            look = kubectl("get", name, namespace, context)
            try:
                made = cluster.create(manifest)
            except (ConflictError, EngineUnavailableError) as problem:
                made = _made_all_the_same(cluster, manifest, problem, look)
        uid = None if made.metadata is None else made.metadata.uid
        noted = _noted_options(launch, manifest)
        if context is not None:
            noted[CONTEXT_NOTE] = context  # a name, and nothing of what it stands for
        told: dict[str, object] = {**launch.options, "image": noted[NOTE_PREFIXES[self.name] + "image"]}
        told |= {"namespace": namespace, "context": context}
        remember_launch(JobDir.of(launch.job_id, self._env), self.name, told)
        return Launched(look, name, namespace, uid, metadata=noted)

    def state(self, job: Mapping[str, object]) -> EngineState:
        """See `Engine.state`. `unknown` is not among the answers: what cannot be asked is an error."""
        with self._open(job) as cluster:
            return _state(cluster, job, self._trust)

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`. One shard after the other, in their order, with `[shard] ` in front if there are several.

        A pod that is gone has taken its lines along. What the runner reported is in the job's events.
        """
        window = k8s_logs.Window(tail, since)
        with self._open(job, follow=follow) as cluster:
            namespace, name = _place(cluster, job)
            if not follow:
                pods = () if _own_job(cluster, job, self._trust) is None else cluster.pods(namespace, name)
                yield from k8s_logs.present(cluster, pods, window, self._now())
                return
            was_seen = False

            def look() -> tuple[bool, Sequence[Pod]]:
                nonlocal was_seen
                phase = _state(cluster, job, self._trust).phase
                was_seen = was_seen or phase != "gone"
                # Pods outlive their Job for a moment; those of another one by its name are none of the job's.
                pods = cluster.pods(namespace, name) if was_seen else ()
                return phase in ("succeeded", "failed", "gone"), pods

            yield from k8s_logs.follow(cluster, look, window, self._now, self._sleep)

    def cancel(self, job: Mapping[str, object]) -> bool:
        """See `Engine.cancel`. Deletes the Job; its pods get SIGTERM, and time to write down what they know."""
        with self._open(job) as cluster:
            found = _own_job(cluster, job, self._trust)
            return found is not None and cluster.delete(*_place(cluster, job))

    def _open(self, job: Mapping[str, object], *, follow: bool = False) -> AbstractContextManager[Cluster]:
        """Connect to the cluster of a job.

        Raises:
            NotTrustedError: if only the record names its context. Nothing of that context was used.
        """
        choice = unknown_context(job, self._env, self._trust)
        if choice is not None:
            raise NotTrustedError(
                f"Only the record of job {job['job_id']} names {choice}; it was not used."
                f" If you trust it, add: {flags_for([choice])}"
            )
        return open_cluster(self._env, self._context, noted=_noted(job), follow=follow)


def unknown_context(job: Mapping[str, object], env: Mapping[str, str], trust: Trust) -> str | None:
    """The context that only the record of a job names, as a choice; None if it names none, or one that is trusted.

    Signing in may run a program that the kubeconfig names for a context, with the rights that the user has there.
    """
    noted = _noted(job)
    if noted is None or env.get(CONTEXT_VARIABLE):
        return None
    choice = f"context:{noted}"
    if trust.allows(choice) or choice in launched_here(JobDir.of(str(job["job_id"]), env)):
        return None
    return choice if is_other_context(env, noted) else None


def kubectl_for(verb: str, job: Mapping[str, object], env: Mapping[str, str]) -> str:
    """What to type to do that with a job's Job, as far as its record and this environment tell where it is."""
    namespace, name = job.get("k8s_namespace"), str(job.get("k8s_name") or job_name(str(job["job_id"])))
    if not is_job_place(str(namespace or "default"), name):
        # It would be typed as it stands here, and `--all` is no name.
        namespace, name = None, job_name(str(job["job_id"]))
    context = env.get(CONTEXT_VARIABLE) or _noted(job)
    return kubectl(verb, name, None if namespace is None else str(namespace), context)


def _noted_options(launch: Launch, manifest: Mapping[str, Any]) -> dict[str, str]:
    """What the record keeps of a launch. The namespace has a field of its own."""
    options = {name: value for name, value in launch.options.items() if name not in ("namespace", "context")}
    options["image"] = manifest["spec"]["template"]["spec"]["containers"][0]["image"]
    options["shards"] = str(launch.shards)
    return launch_notes(dataclasses.replace(launch, options=options), "kubernetes")


def _noted(job: Mapping[str, object]) -> str | None:
    """The context that a job's record names."""
    metadata = job.get("metadata")
    noted = metadata.get(CONTEXT_NOTE) if isinstance(metadata, Mapping) else None
    return noted if isinstance(noted, str) and noted else None


def _place(cluster: Cluster, job: Mapping[str, object]) -> tuple[str, str]:
    """The namespace and the name of a job's Job: those of the record, or those that a launch would have chosen.

    Raises:
        EnginePlaceError: no Job can be there. Whoever writes records must not lead our rights on the cluster elsewhere.
    """
    namespace = str(job.get("k8s_namespace") or cluster.namespace)
    name = str(job.get("k8s_name") or job_name(str(job["job_id"])))
    if not is_job_place(namespace, name):
        raise EnginePlaceError(
            f"No cluster can have a Job '{shortened(name, SHOWN_CHARACTERS)}' in a namespace"
            f" '{shortened(namespace, SHOWN_CHARACTERS)}', as the record of the job has it."
        )
    return namespace, name


def _made_all_the_same(cluster: Cluster, manifest: Mapping[str, object], problem: EngineError, look: str) -> Job:
    """The Job that a launch has made although the reply says otherwise, or did not come."""
    wanted: dict[str, dict[str, str]] = manifest["metadata"]  # type: ignore[assignment]
    namespace, name, notes = str(wanted["namespace"]), str(wanted["name"]), wanted["annotations"]
    try:
        there = cluster.job(namespace, name)
    except EngineError:
        there = None
    found = {} if there is None or there.metadata is None else there.metadata.annotations or {}
    if there is not None and found.get(LAUNCH_ID) == notes[LAUNCH_ID]:
        return there
    if found.get(JOB_ID) == notes[JOB_ID]:
        raise EngineError(f"Job {notes[JOB_ID]} is already launched; nothing was started.", hint=f"See it: {look}")
    if isinstance(problem, ConflictError):
        raise EngineError(f"Namespace {namespace} has another Job {name}; nothing was started.", hint=f"See it: {look}")
    raise EngineUnavailableError(problem.message, hint=f"Whether it has started: {look}")


def _state(cluster: Cluster, job: Mapping[str, object], trust: Trust) -> EngineState:
    namespace, name = _place(cluster, job)
    found = cluster.job(namespace, name)
    if found is None:
        return EngineState("gone", "K8sJobMissing", f"there is no Job {name} in namespace {namespace}")
    if not _is_of(found, job, cluster, trust):
        return EngineState("gone", "Replaced", f"the Job {name} in namespace {namespace} is another one by now")
    if found.status is None:
        return EngineState("pending")
    return _ended(found.status) or _living(cluster, found, found.status, namespace, name)


def _living(cluster: Cluster, found: Job, status: JobStatus, namespace: str, name: str) -> EngineState:
    """How a Job is that has not ended."""
    if found.spec is not None and found.spec.suspend:
        return EngineState("pending", "Suspended", "the Job is suspended")
    # Pods that wait for a node or an image are active too; only a cluster too old to count the ready is taken at that.
    is_running = bool(status.active if status.ready is None else status.ready)
    if is_running and not status.failed:
        return EngineState("running")
    reason, detail = _trouble(cluster.pods(namespace, name), is_running=is_running)
    return EngineState("running" if is_running else "pending", reason, detail)


def _own_job(cluster: Cluster, job: Mapping[str, object], trust: Trust) -> Job | None:
    """The Job of a record; None if it is gone, or another one has its name."""
    found = cluster.job(*_place(cluster, job))
    return found if found is not None and _is_of(found, job, cluster, trust) else None


def _is_of(found: Job, job: Mapping[str, object], cluster: Cluster, trust: Trust) -> bool:
    """Whether this is the Job of that record, and not one that has its name.

    Raises:
        NotTrustedError: if only the record says so: the Job is not marked as its job's, and the user has not named its
            namespace.
    """
    assert found.metadata is not None  # noqa: S101 - Cluster.job has looked
    if job.get("k8s_uid") and found.metadata.uid != job["k8s_uid"]:
        return False
    marked = (found.metadata.annotations or {}).get(JOB_ID)
    if marked is not None:
        return bool(marked == job["job_id"])
    if not job.get("k8s_name"):
        return False
    # Another program's Job says nothing of its record, which may name any Job.
    namespace, name = _place(cluster, job)
    if namespace != cluster.namespace and not trust.allows(f"namespace:{namespace}"):
        raise NotTrustedError(
            f"The Job {name} in namespace {namespace} has no mark of job {job['job_id']}; it was left alone."
            f" If you trust the record, add: {flags_for([f'namespace:{namespace}'])}"
        )
    return True


def _ended(status: JobStatus) -> EngineState | None:
    """How a Job ended, by its conditions; None while it has not."""
    true = {one.type: one for one in status.conditions or () if one.status == "True"}
    if "Complete" in true:
        return EngineState("succeeded")
    if "Failed" in true:
        return EngineState("failed", true["Failed"].reason or "Failed", true["Failed"].message)
    return None


def _trouble(pods: Sequence[Pod], *, is_running: bool) -> tuple[str | None, str | None]:
    """What has happened to a Job's pods, or keeps them from running, as a word and a sentence."""
    evicted = [pod.status for pod in pods if pod.status is not None and pod.status.reason == "Evicted"]
    if evicted:
        said = evicted[-1].message or "no reason given"
        return "Evicted", f"{len(evicted)} of its pods were evicted; the last: {said}"
    if is_running:
        return None, None
    if not pods:
        return "NoPods", "it has no pods"
    for status in (pod.status for pod in pods if pod.status is not None):
        for container in status.containerStatuses or ():
            waiting = None if container.state is None else container.state.waiting
            if waiting is not None and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
                return waiting.reason, waiting.message
        for condition in status.conditions or ():
            if condition.type == "PodScheduled" and condition.status == "False":
                return condition.reason, condition.message
    return None, None
