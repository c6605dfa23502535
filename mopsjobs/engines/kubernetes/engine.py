"""The Kubernetes engine: run a job of mops-jobs as an Indexed Job of a cluster.

The conditions of the Job tell its end, never the number of failed pods, which are tried again. Each call opens its own
connection and gives up within seconds.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

from mopsjobs.engines.base import (
    NOTE_PREFIXES,
    EngineState,
    EngineTimes,
    Launch,
    LaunchResult,
    RefusedError,
    kubernetes_name,
)
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.kubernetes.client import (
    CREATE_READ_SECONDS,
    MERGED,
    Cluster,
    ConflictError,
    Object,
    event_time,
    field,
    is_other_context,
    open_cluster,
    shard_of,
    true_conditions,
)
from mopsjobs.engines.kubernetes.logs import Window, has_ended, read_lines
from mopsjobs.engines.kubernetes.manifest import (
    CONTAINER,
    CONTEXT_VARIABLE,
    JOB_ID,
    LAUNCH_ID,
    build_manifest,
    check_namespace,
    is_job_place,
    job_name,
    kubectl,
)
from mopsjobs.engines.kubernetes.pod_patch import differences
from mopsjobs.engines.kubernetes.pods import (
    EVICTED,
    NO_PODS,
    START_ERROR,
    SUSPENDED,
    container_starts,
    describe_shards,
    ended_shards,
    last_stop,
    lost_shards,
    memory_problem,
    open_shards,
    present_problem,
    start_of,
    why_suspended,
)
from mopsjobs.engines.trust import NotTrustedError, Trust, choices_of_last_launch, flags_for
from mopsjobs.errors import EngineAccessError, EngineError, EnginePlaceError, EngineUnavailableError, shorten
from mopsjobs.utils.times import parse_time, utc_now

log = logging.getLogger(__name__)

MAX_SHOWN_NAME = 100
"""Characters of an invalid name that a message shows, at most."""

CONTEXT_FIELD = NOTE_PREFIXES["kubernetes"] + "context"
"""The metadata field with the context that a job was launched with."""

JOB_CONTROLLER = "kubernetes.io/job-controller"
"""The controller of a Job that names no other."""

UNSCHEDULABLE = "Unschedulable"

SCALES_UP = ("TriggeredScaleUp", "Nominated")
"""Reasons of the events of pods for which the cluster autoscaler, or Karpenter, adds a node."""

NODE_SECONDS = 900.0
"""How long a cluster waits for a node that it adds."""

SILENT_SECONDS = 30.0
"""A record without a heartbeat for longer may be that of a runner whose pod was replaced."""


class KubernetesEngine:
    """Runs jobs in a cluster: that of the kubeconfig, else the one that this process runs in."""

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

    def launch(self, launch: Launch) -> LaunchResult:
        """See `Engine.launch`. After a lost reply, an annotation tells whether the Job is that of this launch.

        Raises:
            UsageError: if an option is unknown or invalid.
        """
        launch_id = secrets.token_hex(8)
        context = launch.options.get("context") or self._context
        with open_cluster(self._env, context, read_seconds=CREATE_READ_SECONDS) as cluster:
            namespace = check_namespace(launch.options.get("namespace") or cluster.namespace)
            manifest = build_manifest(launch, namespace=namespace, launch_id=launch_id, env=self._env)
            show_command = kubectl("get", job_name(launch.job_id), namespace, context)
            try:
                created = cluster.create(manifest)
            except (ConflictError, EngineUnavailableError) as problem:
                with open_cluster(self._env, context) as other:
                    created = find_created(other, manifest, problem, show_command, self._sleep)
            name = str(created["metadata"]["name"])  # a webhook may rename it
            show_command = kubectl("get", name, namespace, context)
            return LaunchResult(show_command, name, namespace, created["metadata"].get("uid"))

    def state(self, job: Mapping[str, object]) -> EngineState:
        """See `Engine.state`. Never `unknown`: a cluster that does not answer is an error."""
        with self._open(job) as cluster:
            return _state(cluster, job, self._trust, self._now())

    def times(self, job: Mapping[str, object]) -> EngineTimes:
        """See `Engine.times`. The first container that ran began the job, and its Job has the end."""
        with self._open(job) as cluster:
            k8s_job = _find_own_job(cluster, job, self._trust)
            pods: Sequence[Object] = ()
            with contextlib.suppress(EngineAccessError):  # a role may permit to read Jobs alone
                pods = () if k8s_job is None else cluster.pods(k8s_job)
            started = [moment for pod in pods for moment in container_starts(pod)]
            return _times(field(k8s_job, "status") or {}, min(started, default=None))

    def logs(
        self, job: Mapping[str, object], *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[str]:
        """See `Engine.logs`. The shards come in order; with several, `shard N: ` stands in front of each line.

        The lines of a deleted pod are gone; the job's events still have the reports of the runner.
        """
        with self._open(job) as cluster:
            namespace, _ = _place(cluster, job)
            seen: Object | None = None

            def list_pods() -> tuple[bool, Sequence[Object]]:
                nonlocal seen
                k8s_job = _find_own_job(cluster, job, self._trust)
                seen = k8s_job or seen
                is_over = k8s_job is None or _end_state(k8s_job.get("status") or {}) is not None
                # Pods outlive a deleted Job for a moment, so a Job that was never seen has none of its own.
                return is_over, () if seen is None else cluster.pods(seen)

            yield from read_lines(cluster, namespace, list_pods, Window(tail, since), self._sleep, follow=follow)

    def cancel(self, job: Mapping[str, object]) -> bool:
        """See `Engine.cancel`. Deletes the Job; its pods get SIGTERM, and time to store outputs and report."""
        with self._open(job) as cluster:
            k8s_job = _find_own_job(cluster, job, self._trust)
            return k8s_job is not None and cluster.delete(*_place(cluster, job))

    def _open(self, job: Mapping[str, object]) -> AbstractContextManager[Cluster]:
        """Connect to the cluster of a job.

        Raises:
            NotTrustedError: if only the record names the context. It was not used.
        """
        choice = unknown_context(job, self._env, self._trust)
        if choice is not None:
            raise NotTrustedError(
                f"Only the record of job {job['job_id']} names {choice}; it was not used.",
                hint=f"If you trust it, add: {flags_for([choice])}",
            )
        return open_cluster(self._env, self._context, recorded=_recorded_context(job))


def unknown_context(job: Mapping[str, object], env: Mapping[str, str], trust: Trust) -> str | None:
    """Return the context that only the record of a job names, as a choice; None if it names none or a trusted one.

    To sign in may run a program that the kubeconfig names for the context, with the user's rights there.
    """
    context = _recorded_context(job)
    if context is None or env.get(CONTEXT_VARIABLE):
        return None
    choice = f"context:{context}"
    if trust.allows(choice) or choice in choices_of_last_launch(JobDir.for_job(str(job["job_id"]), env)):
        return None
    return choice if is_other_context(env, context) else None


def kubectl_for(verb: str, job: Mapping[str, object], env: Mapping[str, str]) -> str:
    """Return a kubectl command on the Kubernetes Job of a job, by its record and this environment."""
    namespace, name = job.get("k8s_namespace"), kubernetes_name(job) or job_name(str(job["job_id"]))
    if not is_job_place(str(namespace or "default"), name):
        # The command is copied to a shell, and a name from a record may be `--all`.
        namespace, name = None, job_name(str(job["job_id"]))
    context = env.get(CONTEXT_VARIABLE) or _recorded_context(job)
    return kubectl(verb, name, None if namespace is None else str(namespace), context)


def _recorded_context(job: Mapping[str, object]) -> str | None:
    """Return the context that the record of a job names."""
    metadata = job.get("metadata")
    context = metadata.get(CONTEXT_FIELD) if isinstance(metadata, Mapping) else None
    return context if isinstance(context, str) and context else None


def _place(cluster: Cluster, job: Mapping[str, object]) -> tuple[str, str]:
    """Return namespace and name of the Kubernetes Job: those of the record, else those that a launch chooses.

    Raises:
        EnginePlaceError: if no Job can be there. A record must not lead a request to another URL.
    """
    namespace = str(job.get("k8s_namespace") or cluster.namespace)
    name = kubernetes_name(job) or job_name(str(job["job_id"]))
    if not is_job_place(namespace, name):
        raise EnginePlaceError(
            f"invalid Job '{shorten(name, MAX_SHOWN_NAME)}' in namespace '{shorten(namespace, MAX_SHOWN_NAME)}'"
            " in the record of the job: expected names that Kubernetes allows."
        )
    return namespace, name


def _state(cluster: Cluster, job: Mapping[str, object], trust: Trust, now: datetime) -> EngineState:
    namespace, name = _place(cluster, job)
    k8s_job = cluster.job(namespace, name)
    if k8s_job is None:
        return EngineState("gone", "K8sJobMissing", f"Job {name} was not found in namespace {namespace}")
    if not _is_of(k8s_job, job, cluster, trust):
        return EngineState("gone", "Replaced", f"the Job {name} in namespace {namespace} is now another one")
    status = k8s_job.get("status")
    if status is None:
        return EngineState("pending")
    end = _end_state(status)
    if end is not None and end.phase == "failed":
        with contextlib.suppress(EngineAccessError):  # a role may permit to read Jobs alone
            pods = cluster.pods(k8s_job)
            lost = lost_shards(status, pods)
            if lost and {shard.reason for shard in lost} == {START_ERROR}:  # of no pod there is a log
                end = end._replace(reason=START_ERROR)
            numbers = {shard.shard for shard in lost} or open_shards(pods)  # other shards have not ended the Job
            problem = memory_problem(pod for pod in pods if shard_of(pod) in numbers)
            end = end if problem is None else EngineState("failed", *problem)
            if lost:
                words = filter(None, ((end.detail or "").rstrip("."), describe_shards(lost)))
                end = end._replace(detail=": ".join(words), lost=lost)
    heartbeat = job.get("heartbeat_at")
    is_silent = heartbeat is not None and (now - parse_time(str(heartbeat))).total_seconds() > SILENT_SECONDS
    return end or _active_state(cluster, k8s_job, (namespace, name), now, is_silent=is_silent)


def _active_state(
    cluster: Cluster, k8s_job: Object, place: tuple[str, str], now: datetime, *, is_silent: bool
) -> EngineState:
    """Return the state of a Job that has not ended. Of one whose record is silent, the pods are listed in any case."""
    if (held := _held_state(cluster, k8s_job, place)) is not None:
        return held
    status = k8s_job["status"]
    # Active pods may still wait for a node or an image. Only old clusters do not count the ready ones.
    is_running = bool(status.get("ready", status.get("active")))
    if is_running and not status.get("failed") and not is_silent:
        return EngineState("running")
    if not is_running and (target := true_conditions(status).get("FailureTarget")) is not None:
        detail = f"{(target.get('message') or 'the Job fails').rstrip('.')}; it ends when its pods have stopped"
        return EngineState("pending", target.get("reason") or "FailureTarget", detail, is_stuck=True)
    pods = cluster.pods(k8s_job)
    problem, past = present_problem(pods, now), last_stop(pods)
    if is_running:
        starts = [moment for pod in pods if not has_ended(pod) for moment in container_starts(pod)]
        started_at, lost = max(starts, default=None), ended_shards(status, pods)
        return EngineState("running", *(problem or past or NOTHING), lost=lost, started_at=started_at)
    by = field(k8s_job, "spec.managedBy") or JOB_CONTROLLER
    if not pods and by != JOB_CONTROLLER:
        return EngineState("pending", "ManagedBy", f"the Job is run by {by}, maybe in another cluster")
    return _pending_state(cluster, place, pods, problem, past or _to_be_tried_again(status, pods), now)


def _held_state(cluster: Cluster, k8s_job: Object, place: tuple[str, str]) -> EngineState | None:
    """Return the state of a Job that gets no pods, because someone has decided so; None if it gets some."""
    (namespace, name), spec = place, k8s_job.get("spec") or {}
    if k8s_job["metadata"].get("deletionTimestamp"):
        return EngineState("pending", "Terminating", f"the Job {name} is being deleted", is_stuck=True)
    if spec.get("suspend"):
        return EngineState("pending", SUSPENDED, why_suspended(cluster, k8s_job, namespace))
    if spec.get("parallelism") == 0:
        return EngineState("pending", SUSPENDED, "the parallelism of the Job is 0")
    return None


Problem = tuple[str, str | None] | None
"""A word and a sentence; None if nothing is wrong."""

NOTHING: tuple[str | None, str | None] = (None, None)


def _to_be_tried_again(status: Object, pods: Sequence[Object]) -> Problem:
    failed = lost_shards(status, pods)
    return (failed[0].reason, f"{describe_shards(failed)}, to be tried again") if failed else None


def _pending_state(
    cluster: Cluster, place: tuple[str, str], pods: Sequence[Object], problem: Problem, past: Problem, now: datetime
) -> EngineState:
    """Return the state of a Job without a pod that runs: what keeps the next one, else how the last one ended."""
    if problem is None:
        with contextlib.suppress(EngineAccessError):  # a role may not permit to read events
            problem = _problem_in_events(cluster, *place, pods)
    if problem is not None and problem[0] == UNSCHEDULABLE:
        with contextlib.suppress(EngineAccessError):
            if (coming := _coming_node(cluster, place[0], pods, now)) is not None:
                return EngineState("pending", UNSCHEDULABLE, f"{problem[1]}; {coming}")
    if problem is not None or not pods:
        reason, detail = problem or (NO_PODS, "it has no pods")
        return EngineState("pending", reason, detail, is_stuck=True)
    # Another pod is about to start, or the cluster makes one after a pause. An evicted one is replaced at once.
    is_gone = past is not None and past[0] == EVICTED and all(map(has_ended, pods))
    return EngineState("pending", *(past or start_of(pods) or NOTHING), is_gone)


def _problem_in_events(cluster: Cluster, namespace: str, name: str, pods: Sequence[Object]) -> tuple[str, str] | None:
    """Return what only an event says, as kubectl shows it; None if none does.

    A quota or a rule of the namespace refuses the next pods of a Job. Or a volume of a pod cannot be mounted.

    Args:
        cluster: where the Job is.
        namespace: its namespace.
        name: its name.
        pods: its pods.
    """
    unfinished_pods = [pod for pod in pods if not has_ended(pod)]
    if unfinished_pods:
        pod_name = str(unfinished_pods[0]["metadata"]["name"])
        last = cluster.newest_event(namespace, "Pod", pod_name)
    else:
        last = cluster.newest_event(namespace, "Job", name)
    if last is None or last["type"] != "Warning":
        return None
    # Each refused pod has a new name, and a text that is always new would be told again and again.
    pod_names = rf"({re.escape(name)}-\d+)-[a-z0-9]{{5}}\b"
    message = str(last.get("message")).removeprefix(MERGED)
    return str(last.get("reason")), message if unfinished_pods else re.sub(pod_names, r"\1", message)


def _coming_node(cluster: Cluster, namespace: str, pods: Sequence[Object], now: datetime) -> str | None:
    """Return what an autoscaler says of the node that it adds for the first pod that waits; None if it adds none."""
    name = next(str(pod["metadata"]["name"]) for pod in pods if not has_ended(pod))
    last = cluster.newest_event(namespace, "Pod", name, (*SCALES_UP, "NotTriggerScaleUp"))
    if last is None or last["reason"] not in SCALES_UP or now.timestamp() - event_time(last) > NODE_SECONDS:
        return None
    return str(last.get("message"))


def _find_own_job(cluster: Cluster, job: Mapping[str, object], trust: Trust) -> Object | None:
    """Return the Job of a record; None if it is gone, or another one has its name."""
    k8s_job = cluster.job(*_place(cluster, job))
    return k8s_job if k8s_job is not None and _is_of(k8s_job, job, cluster, trust) else None


def _is_of(k8s_job: Object, job: Mapping[str, object], cluster: Cluster, trust: Trust) -> bool:
    """Return True if this is the Job of the record, not another one of that name.

    Raises:
        NotTrustedError: if only the record says so: the Job has no mark of it, and the user does not trust its
            namespace.
    """
    metadata = k8s_job["metadata"]
    if job.get("k8s_uid") and metadata.get("uid") != job["k8s_uid"]:
        return False
    mark = (metadata.get("annotations") or {}).get(JOB_ID)
    if mark is not None:
        return bool(mark == job["job_id"])
    if kubernetes_name(job) is None:
        return False
    # A Job of another program has no mark of its record, and a record may name any Job.
    namespace, name = _place(cluster, job)
    if namespace != cluster.namespace and not trust.allows(f"namespace:{namespace}"):
        raise NotTrustedError(
            f"The Job {name} in namespace {namespace} has no mark of job {job['job_id']}; it was left alone.",
            hint=f"If you trust the record, add: {flags_for([f'namespace:{namespace}'])}",
        )
    return True


def _end_state(status: Object) -> EngineState | None:
    """Return how a Job ended, by its conditions; None while it has not."""
    true = true_conditions(status)
    if "Complete" in true:
        return EngineState("succeeded")
    if "Failed" in true:
        return EngineState("failed", true["Failed"].get("reason") or "Failed", true["Failed"].get("message"))
    return None


def _times(status: Object, first_container: datetime | None) -> EngineTimes:
    """Return when a Job ran, by its status and the start of its first container, if a pod still has that."""
    true = true_conditions(status)
    end = true.get("Complete") or true.get("Failed") or {}
    ended, began = end.get("lastTransitionTime"), None
    if "Complete" in true:
        # Its pods may be gone, but it has run. Before the first container, it waited for a node or an image.
        ended, began = status.get("completionTime") or ended, status.get("startTime")
    started = first_container or (parse_time(began) if began else None)
    return EngineTimes(started, parse_time(ended) if ended else None)


_RUNNER = f"spec.template.spec.containers[{CONTAINER}]"

DECIDING_FIELDS = re.compile(rf"spec\.completions|{re.escape(_RUNNER)}\.(args|image|resources\b.*)")
"""The fields that say which job a Job runs, in how many shards and from which registry, and what the record names."""

PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each look, after a reply that was an error: what it did is done, but may not be visible yet."""


def find_created(
    cluster: Cluster,
    manifest: Object,
    problem: EngineError,
    show_command: str,
    sleep: Callable[[float], None],
) -> Object:
    """Return the Job that a launch has created although the reply was lost or says otherwise, or that was applied.

    So no Job runs beside a failed record: the reply was lost, late or an error, or the user has applied the printed
    manifest. Such a Job has the mark of its job, and none of a launch, and becomes that of the launch. An API server
    answers a create by 34 s, or drops it, so a launch waits for 40 s. See
    docs/decisions/0086-followers-ask-the-engine.md.

    Args:
        cluster: a connection whose requests take seconds at most.
        manifest: the Job of the launch.
        problem: the error of the request.
        show_command: the command that shows the Job.
        sleep: waits that many seconds.

    Raises:
        EngineUnavailableError: if the Job is not there. With `sent`, the cluster did not say so: it may be there.
        RefusedError: if another Job has the name, or the one that was applied runs something else.
    """
    unavailable = problem if isinstance(problem, EngineUnavailableError) else None
    if unavailable is not None and not unavailable.sent:
        raise unavailable
    metadata: dict[str, dict[str, str]] = manifest["metadata"]
    namespace, name, annotations = str(metadata["namespace"]), str(metadata["name"]), metadata["annotations"]
    existing, is_known = _look(cluster, namespace, name, unavailable, sleep)
    marks = field(existing, "metadata.annotations") or {}
    if existing is not None and marks.get(LAUNCH_ID) == annotations[LAUNCH_ID]:
        return existing
    if field(existing, "metadata.deletionTimestamp"):
        raise RefusedError(
            f"The Job {name} in namespace {namespace} is being deleted; nothing was started.",
            hint=f"Launch again when it is gone: {show_command}",
        )
    if existing is not None and marks.get(JOB_ID) == annotations[JOB_ID] and LAUNCH_ID not in marks:
        _check_applied(manifest, existing)
        return existing
    if marks.get(JOB_ID) == annotations[JOB_ID]:
        raise RefusedError(
            f"Job {annotations[JOB_ID]} is already launched; nothing was started.", hint=f"See it: {show_command}"
        )
    if unavailable is None or existing is not None:
        raise RefusedError(
            f"Namespace {namespace} has another Job {name}; nothing was started.", hint=f"See it: {show_command}"
        )
    raise EngineUnavailableError(
        unavailable.message, hint=f"See whether it has started: {show_command}", sent=not is_known
    )


def _check_applied(manifest: Object, applied: Object) -> None:
    """Check that a Job that was applied runs what a launch would run.

    Raises:
        RefusedError: if it does not.
    """
    paths = {difference.path for difference in differences(manifest["spec"], applied.get("spec") or {}, "spec")}
    changed = [path for path in sorted(paths) if DECIDING_FIELDS.fullmatch(path)]
    if changed:
        name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        raise RefusedError(
            f"The Job {name} that was applied in namespace {namespace} differs in {', '.join(changed)};"
            " nothing was started.",
            hint=f"Submit with flags that agree with the Job, or delete it: {kubectl('delete', name, namespace)}",
        )


def _look(
    cluster: Cluster,
    namespace: str,
    name: str,
    unavailable: EngineUnavailableError | None,
    sleep: Callable[[float], None],
) -> tuple[Object | None, bool]:
    """Return the Job of that name, and whether the last look was answered."""
    # After a silence of `CREATE_READ_SECONDS`, the API server has dropped the request, and one look tells.
    pauses = PAUSES[:1] if unavailable is None or unavailable.silent else PAUSES
    if unavailable is not None:
        log.warning("warning: %s Looking for up to %g s whether the Job is there.", unavailable, sum(pauses))
    is_known = False
    for pause in pauses:
        sleep(pause)
        try:
            existing, is_known = cluster.job(namespace, name), True
        except EngineError:
            is_known = False
            continue
        if existing is not None:
            return existing, True
    return None, is_known
