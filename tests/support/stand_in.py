"""A stand-in for a cluster: an API server, the rules of the Job controller, and a kubelet that runs real processes.

The API server is kmock's emulator. The controller is `job_controller`. The kubelet starts the command of a container as
a process of this machine, with the environment of the pod, and serves its lines. It is not a cluster: each pod has a
node of any size, and there are no images, networks, volumes, limits or roles. What keeps pods from starting is set by
hand, before or while they wait. Its answers were corrected by those of a real control plane (1.36): defaults, texts,
events and codes.

Its processes have the clock of this machine, and so has the cluster. To let time pass, `pass_seconds` moves what has
happened into the past. So no test waits, and reports of its runners stay new.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp.web
from kmock import KubernetesEmulator

from mopsjobs.utils.times import parse_time
from support.job_controller import (
    FAILURES,
    FINALIZER,
    IGNORED,
    INDEX,
    NEVER,
    Json,
    NewPod,
    condition_of,
    index_of,
    moment,
    plan,
)
from support.kubernetes import EVENTS, JOBS, PODS, Api
from support.runs import PATIENCE

TICK_SECONDS = 0.02

SERVICE = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
"""Variables of each container: the cluster that it runs in. Its pod has no token for it."""

MAX_EVENTS = 10
"""Events of an object with one reason that are kept apart. A cluster merges later ones."""

POD_GC_SECONDS = 40
"""After that time without its Node, the garbage collector ends a pod."""

MONITOR_SECONDS = 50
"""After that time without a word of a node, its pods are not ready."""

TOLERATION_SECONDS = 300
"""So long a pod stays on such a node, if it does not say otherwise."""

UNREACHABLE = "node.kubernetes.io/unreachable"
"""The taint of such a node."""

CREATE_SECONDS = 34
"""So long an API server works on a request that creates something. Then it answers 504, and nothing was created."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_LOG = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/log")


class _Container:
    """A container that runs, or has run: its process, and its lines with their times."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.lines: list[bytes] = []
        self.started_at = datetime.now(UTC)
        self.reason: str | None = None
        """Why the kubelet has killed it; None: it ended by itself."""
        self.kill_at: datetime | None = None
        """The end of its grace period; None: it has not been stopped."""
        self.process = subprocess.Popen(
            argv, env=dict(env), cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                now = time.time_ns()
                at = datetime.fromtimestamp(now // 10**9, UTC)
                self.lines.append(b"%s.%09dZ %s\n" % (f"{at:%Y-%m-%dT%H:%M:%S}".encode(), now % 10**9, line.rstrip()))

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, once all lines were read; None before."""
        code = self.process.poll()
        if code is not None:
            self.kill()  # all processes of a container end with its first one
        if code is None or self._reader.is_alive():
            return None
        return code if code >= 0 else 128 - code

    def terminate(self) -> None:
        """Send SIGTERM to the first process of the container, and to no other. Without a handler, it does nothing.

        The kernel spares the first process of a container as it does the first one of a machine.
        """
        with contextlib.suppress(OSError, StopIteration):
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
            if not int(caught, 16) >> signal.SIGTERM - 1 & 1:
                return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """Kill all processes of the container."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class _Server(KubernetesEmulator):
    """The emulator, with what it lacks: admission, identities, selectors and logs."""

    stand_in: StandIn

    async def _handle(self, request: Any) -> Any:
        answer = await self.stand_in.answer(request)
        return await super()._handle(request) if answer is None else answer


def _in_loop(act: Callable[..., Any]) -> Callable[..., Any]:
    """Have a method run in the loop of the server, whose objects it uses."""

    @functools.wraps(act)
    def call(stand_in: StandIn, *args: Any, **options: Any) -> Any:
        async def run() -> Any:
            return act(stand_in, *args, **options)

        return stand_in._run(run())

    return call


class StandIn(Api):
    """A cluster as far as the Job controller's rules and a kubelet go. Close it: it runs processes."""

    unschedulable: str | None = None
    """Why no node takes a pod; None: the node takes all."""
    scale_up: str | None = None
    """What an autoscaler says of the node that it adds for a pod; None: it adds none."""
    missing_volumes: str | None = None
    """Why the volumes of pods cannot be mounted; None: they can."""
    quota: str | None = None
    """Why no more pod may be made; None: any may."""
    is_pulling = False
    """Whether images take long."""
    forbidden: str | None = None
    """What this user may not do, such as `list pods`; None: all is permitted."""
    refusal: tuple[int, str] | tuple[int, str, str] | None = None
    """Why no more Job may be made, as code and message; None: any may."""
    admission_seconds: float | None = 0.0
    """How long the admission of a Job takes; None: until the client hangs up."""
    retry_seconds = 0.02
    """The back-off of the first retry; 10 s in Kubernetes."""

    def __init__(self, directory: Path, programs: Mapping[str, Sequence[str]], env: Mapping[str, str]) -> None:
        """Start it.

        Args:
            directory: where each pod gets its own.
            programs: the commands that images have, and what runs for each.
            env: the environment of each container, besides that of its pod.
        """
        self.secrets: dict[str, dict[str, str]] = {}
        """The Secrets, each with its keys. A pod that names another one gets CreateContainerConfigError."""
        self.missing_images: set[str] = set()
        """Images that cannot be pulled."""
        self.memory_kills: set[int] = set()
        """Shards whose containers the kernel kills, as soon as they have written a line."""
        self.worker_kills: set[int] = set()
        """Shards in which the kernel has killed a worker: the container goes on, and is called `OOMKilled`."""
        self.asked: set[str] = set()
        """What was asked for, in the same words."""
        self._directory = directory
        self.programs = programs
        self._env = env
        self._containers: dict[str, _Container] = {}
        self._lost: dict[str, datetime] = {}
        """Pods on nodes that do not answer, and since when."""
        self._mute: set[str] = set()
        """Those of them whose logs get no answer at all, and no error either."""
        self._removed: dict[str, datetime] = {}
        """Pods whose Node was removed, and when."""
        self._closes = asyncio.Event()
        self._event_texts: dict[tuple[str, str], set[str]] = {}
        """The texts of the events of an object, by its uid and the reason."""
        self._numbers = iter(range(10**6))
        server = _Server()
        server.stand_in = self
        super().__init__(server)
        self._is_closing = False
        self._task = asyncio.run_coroutine_threadsafe(self._control(), self._loop)

    def close(self) -> None:
        self._is_closing = True
        self._loop.call_soon_threadsafe(self._closes.set)
        with contextlib.suppress(Exception):
            self._task.result(PATIENCE)
        for name, container in self._containers.items():
            print(f"{name}, exit code {container.process.poll()}: {container.lines[-5:]}")  # shown if the test fails
            container.kill()
            container.process.wait()
        super().close()

    # --- what tests look at and do ------------------------------------------------------------------------------

    @_in_loop
    def job(self, name: str, namespace: str = "models") -> Json | None:
        """Return a Job as it is now; None if there is none."""
        return self._object(JOBS, namespace, name)

    @_in_loop
    def pods(self, name: str) -> list[Json]:
        """Return the pods of a Job, the oldest first."""
        return self._pods_of(name)

    def end_of(self, name: str) -> str | None:
        """Return the reason with which a Job has ended; None if it has not."""
        status = (self.job(name) or {}).get("status", {})
        end = condition_of(status, "Failed") or condition_of(status, "Complete")
        return None if end is None else str(end["reason"])

    @_in_loop
    def apply(self, job: Json) -> None:
        """Create a Job, as `kubectl apply` does."""
        self._admit(copy.deepcopy(job))

    @_in_loop
    def delete_pod(self, name: str, index: int, *, is_forced: bool = False) -> None:
        """Delete the pod of an index, as a user does. A forced deletion waits for the finalizer of the Job, too."""
        for pod in self._alive(name, index):
            self._delete_pod(pod)
            if is_forced:
                now = {"deletionGracePeriodSeconds": 0, "deletionTimestamp": moment(datetime.now(UTC))}
                self._save(PODS, {**pod, "metadata": {**pod["metadata"], **now}})

    @_in_loop
    def press_node(self, name: str, index: int, message: str) -> None:
        """Let the kubelet evict the pod of an index, since its node has too little of something. The pod stays."""
        for pod in self._alive(name, index):
            self._containers[pod["metadata"]["name"]].kill()
            pod["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
            self._set_conditions(pod, _disruption("TerminationByKubelet"))

    @_in_loop
    def change(self, name: str, **spec: object) -> None:
        """Change a Job, as a user does. Kueue suspends one when another one takes its place; its pods stop."""
        job = self._existing(name)
        self._save(JOBS, {**job, "spec": {**job["spec"], **spec}})

    @_in_loop
    def evict(self, name: str, index: int, reason: str = "EvictionByEvictionAPI") -> None:
        """Evict the pod of an index, as a drained node does, or a pod of higher priority, or the end of a spot node."""
        for pod in self._alive(name, index):
            pod["status"]["conditions"] = [*pod["status"].get("conditions", ()), _disruption(reason)]
            self._delete_pod(pod)

    @_in_loop
    def lose_node(self, name: str, index: int, *, is_partitioned: bool = False, is_mute: bool = False) -> None:
        """Cut the power of the node of an index, or its network: then its processes go on, and reach the registry.

        After a while the pod is not ready, then it is evicted, then its grace period ends. No kubelet reports its end.
        Who asks for its log gets a 500, or from a mute node no answer.
        """
        for pod in self._alive(name, index):
            self._lost[pod["metadata"]["name"]] = datetime.now(UTC)
            if is_mute:
                self._mute.add(pod["metadata"]["name"])
            if not is_partitioned:
                self._containers[pod["metadata"]["name"]].kill()

    @_in_loop
    def find_node(self, name: str, index: int) -> None:
        """Bring the lost node of an index back. Its kubelet reports, and does what was asked of it meanwhile."""
        for pod in self._alive(name, index):
            del self._lost[pod["metadata"]["name"]]
            if "deletionTimestamp" in pod["metadata"]:
                self._stop(pod)
            else:
                self._set_conditions(pod, {"type": "Ready", "status": "True"})

    @_in_loop
    def remove_node(self, name: str, index: int) -> None:
        """Remove the lost node of an index from the cluster: the garbage collector ends its pods after a while."""
        for pod in self._alive(name, index):
            self._removed[pod["metadata"]["name"]] = datetime.now(UTC)

    @_in_loop
    def delete_job(self, name: str) -> None:
        """Delete a Job in the foreground: it stays until its pods are gone, and makes no others."""
        job = self._existing(name)
        job["metadata"] |= {"deletionTimestamp": moment(datetime.now(UTC)), "finalizers": ["foregroundDeletion"]}
        self._save(JOBS, job)

    @_in_loop
    def orphan_pods(self, name: str) -> None:
        """Delete a Job and leave its pods, as `kubectl delete --cascade=orphan` does."""
        for pod in self._pods_of(name):
            pod["metadata"] |= {"finalizers": [], "ownerReferences": []}
            self._save(PODS, pod)
        self._remove(JOBS, self._existing(name))

    @_in_loop
    def pass_seconds(self, seconds: float) -> None:
        """Let time pass for nodes and grace periods: all that has happened is that much longer ago."""
        self._pass(timedelta(seconds=seconds))

    def _pass(self, time: timedelta) -> None:
        for resource in (JOBS, PODS, EVENTS):
            for one in self._objects(resource):
                self._save(resource, _earlier(one, time))
        for container in self._containers.values():
            container.started_at -= time
            container.kill_at = None if container.kill_at is None else container.kill_at - time
        for times in (self._lost, self._removed):
            times.update({name: at - time for name, at in times.items()})

    def running_indexes(self, name: str) -> set[int]:
        """Return the indexes of a Job whose pods run and were not told to stop."""
        return {
            index_of(pod)
            for pod in self.pods(name)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        }

    @_in_loop
    def exit_codes(self, name: str) -> list[int | None]:
        """Return the exit codes of all containers of a Job, the oldest first; None of one that runs."""
        return [container.exit_code for pod, container in self._containers.items() if pod.startswith(f"{name}-")]

    def _alive(self, name: str, index: int) -> list[Json]:
        pods = [pod for pod in self._pods_of(name) if index_of(pod) == index]
        return [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]

    def _existing(self, name: str) -> Json:
        job = self._object(JOBS, "models", name)
        assert job is not None
        return job

    # --- the API server -----------------------------------------------------------------------------------------

    async def answer(self, request: Any) -> Any:
        """Return the response to a request that the emulator cannot serve alone; None: it can."""
        *_, kind = (word for word in request.url.path.split("/") if word in ("jobs", "pods", "events", "log"))
        verb = {"POST": "create", "DELETE": "delete"}.get(str(request.method.value).upper(), "get")
        verb = "list" if verb == "get" and request.url.path.endswith(kind) and kind != "log" else verb
        asked = f"{verb} {'pods/log' if kind == 'log' else kind}"
        self.asked.add(asked)
        if asked == self.forbidden:
            what = f'User "ada" cannot {verb} resource "{asked.partition(" ")[2]}" in the namespace "models"'
            return _refuse(403, f"{kind} is forbidden: {what}", "Forbidden")
        if found := _LOG.fullmatch(request.url.path):
            if found[2] in self._mute:
                await self._closes.wait()
            return self._serve_log(*found.groups(), request.params)
        kind = None if request.resource is None else request.resource.plural
        action = None if request.action is None else str(request.action.value).lower()
        if action == "create" and kind == "jobs":
            return await self._create(request)
        if action == "list" and kind in ("pods", "events"):
            items = self._objects(PODS if kind == "pods" else EVENTS)
            labels, fields = (_selector(request.params.get(name)) for name in ("labelSelector", "fieldSelector"))
            items = [one for one in items if labels.items() <= one["metadata"].get("labels", {}).items()]
            items = [one for one in items if all(_field(one, path) == value for path, value in fields.items())]
            return aiohttp.web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
        return None

    async def _create(self, request: Any) -> aiohttp.web.StreamResponse:
        """Admit a Job when its time has come. Nothing is created later than that, or for a client that hangs up."""
        if self.refusal is not None:
            return _refuse(*self.refusal)
        seconds = self.admission_seconds
        if seconds is None:
            await self._closes.wait()
        else:
            self._pass(timedelta(seconds=min(seconds, CREATE_SECONDS)))
        if seconds is None or seconds > CREATE_SECONDS:
            text = "Timeout: request did not complete within requested timeout - context deadline exceeded"
            return _refuse(504, text, "Timeout")
        return self._admit(request.data)

    def _admit(self, job: Json) -> aiohttp.web.StreamResponse:
        """Create a Job, with the defaults of an API server."""
        metadata = job["metadata"]
        existing = self._object(JOBS, metadata["namespace"], metadata["name"])
        if existing is not None:
            word = "object is being deleted: " if "deletionTimestamp" in existing["metadata"] else ""
            return _refuse(409, f'{word}jobs.batch "{metadata["name"]}" already exists', "AlreadyExists")
        metadata |= {"uid": f"uid-{next(self._numbers)}", "creationTimestamp": moment(datetime.now(UTC))}
        job = _with_defaults(job)
        self._save(JOBS, {**job, "status": {}})
        return aiohttp.web.json_response(job, status=201)

    def _serve_log(self, namespace: str, name: str, params: Mapping[str, str]) -> aiohttp.web.StreamResponse:
        pod, container = self._object(PODS, namespace, name), self._containers.get(name)
        if pod is None:
            return _refuse(404, f'pods "{name}" not found')
        if container is None:
            return _refuse(400, f'container "runner" in pod "{name}" is waiting to start: ContainerCreating')
        if name in self._lost:
            host = "10.0.0.7:10250"
            return _refuse(500, f'Get "https://{host}/containerLogs/{namespace}/{name}": dial tcp {host}: i/o timeout')
        since = params.get("sinceTime", "")[:19].encode()
        lines = [line for line in container.lines if line[:19] >= since]
        if "tailLines" in params:
            lines = lines[len(lines) - min(len(lines), int(params["tailLines"])) :]
        return aiohttp.web.Response(body=b"".join(lines))

    def _objects(self, resource: str) -> list[Json]:
        kind = resource.rpartition("/")[2]
        found = [one for (key, _, _), one in self.mock.objects.items() if key.plural == kind]
        return [one.raw for one in found if not one.deleted]

    def _object(self, resource: str, namespace: str, name: str) -> Json | None:
        for one in self._objects(resource):
            if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, name):
                return one
        return None

    def _pods_of(self, name: str) -> list[Json]:
        label = "batch.kubernetes.io/job-name"
        return [pod for pod in self._objects(PODS) if pod["metadata"]["labels"][label] == name]

    def _save(self, resource: str, content: Json) -> None:
        self.mock.objects[resource, content["metadata"]["namespace"], content["metadata"]["name"]] = content

    def _remove(self, resource: str, content: Json) -> None:
        self.mock.objects[resource, content["metadata"]["namespace"], content["metadata"]["name"]].delete()

    # --- the controller -----------------------------------------------------------------------------------------

    async def _control(self) -> None:
        while not self._is_closing:
            jobs = {job["metadata"]["uid"]: job for job in self._objects(JOBS)}
            for job in jobs.values():
                self._sync_job(job)
            for pod in self._objects(PODS):
                owner = next(iter(pod["metadata"]["ownerReferences"]), None)
                if owner is not None and owner["uid"] not in jobs:
                    self._release(pod)
                    self._delete_pod(pod)
            for pod in self._objects(PODS):
                self._sync_pod(pod)
            await asyncio.sleep(TICK_SECONDS)

    def _sync_job(self, job: Json) -> None:
        name, now = job["metadata"]["name"], datetime.now(UTC)
        uid = job["metadata"]["uid"]
        pods = [
            pod for pod in self._pods_of(name) if any(one["uid"] == uid for one in pod["metadata"]["ownerReferences"])
        ]
        is_deleted = "deletionTimestamp" in job["metadata"]
        if is_deleted and not pods:
            self._remove(JOBS, job)
            return
        done = plan(job, pods, now, self.retry_seconds)
        for new in () if is_deleted else done.create:
            if self.quota is not None:
                pod = f"{name}-{new.index}-{_suffix()}"  # each try has a name of its own
                self._event("Job", job, "FailedCreate", f'Error creating: pods "{pod}" is forbidden: {self.quota}')
                break
            self._create_pod(job, new)
            self._event("Job", job, "SuccessfulCreate", f"Created pod: {name}-{new.index}-{_suffix()}", "Normal")
        for pod in pods:
            if pod["metadata"]["name"] in done.release:
                self._release(pod)
            if is_deleted or pod["metadata"]["name"] in done.delete:
                self._delete_pod(pod)
        self._save(JOBS, {**job, "status": done.status})

    def _event(
        self, kind: str, one: Json, reason: str, message: str, severity: str = "Warning", at: datetime | None = None
    ) -> None:
        about = {"kind": kind, "name": one["metadata"]["name"], "namespace": one["metadata"]["namespace"]}
        metadata = {"name": f"{about['name']}.{reason}", "namespace": about["namespace"]}
        texts = self._event_texts.setdefault((one["metadata"]["uid"], reason), set())
        texts.add(message)
        if len(texts) > MAX_EVENTS:
            message = f"(combined from similar events): {message}"
        event = {"metadata": metadata, "involvedObject": about, "type": severity, "reason": reason}
        self._save(EVENTS, {**event, "message": message, "lastTimestamp": moment(at or datetime.now(UTC))})

    def _create_pod(self, job: Json, new: NewPod) -> None:
        owner, template, index = job["metadata"], job["spec"]["template"], new.index
        name = f"{owner['name']}-{index}-{next(self._numbers):05}"
        marks = template["metadata"]
        labels = {"batch.kubernetes.io/job-name": owner["name"], INDEX: str(index)}
        metadata = {
            "name": name, "namespace": owner["namespace"], "uid": f"uid-{name}",
            "creationTimestamp": moment(datetime.now(UTC)),
            "labels": {**marks.get("labels", {}), **labels},
            "annotations": {**marks.get("annotations", {}), INDEX: str(index), FAILURES: str(new.failures)},
            "finalizers": [FINALIZER],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": owner["name"], "uid": owner["uid"]}],
        }  # fmt: skip
        if new.ignored:
            metadata["annotations"][IGNORED] = str(new.ignored)
        kept = template["spec"].get("tolerations", [])
        seconds = {"effect": "NoExecute", "operator": "Exists", "tolerationSeconds": TOLERATION_SECONDS}
        added = [] if any(one.get("key") == UNREACHABLE for one in kept) else [{"key": UNREACHABLE, **seconds}]
        spec = {**template["spec"], "nodeName": f"node-{index}", "tolerations": [*kept, *added]}
        self._save(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})

    # --- the kubelet --------------------------------------------------------------------------------------------

    def _sync_pod(self, pod: Json) -> None:
        """Bring a pod a step further: to a node, to its image, to its process, to its end."""
        name = pod["metadata"]["name"]
        if pod["status"]["phase"] not in ("Pending", "Running"):
            if "deletionTimestamp" in pod["metadata"] and not pod["metadata"]["finalizers"]:
                self._remove(PODS, pod)
            return
        if name in self._lost:
            self._sync_lost(pod, datetime.now(UTC))
            return
        container = self._containers.get(name)
        if container is None and "deletionTimestamp" in pod["metadata"]:
            self._save(PODS, {**pod, "status": {**pod["status"], "phase": "Failed"}})
            return
        if container is None:
            self._save(PODS, {**pod, "status": self._waiting(pod) or self._started(pod)})
            return
        self._stop_if_due(pod, container)
        code = container.exit_code
        if code is None:
            return
        kept = [one for one in pod["status"]["conditions"] if one["type"] == "DisruptionTarget"]
        status = {**pod["status"], "phase": "Succeeded" if code == 0 else "Failed", "conditions": kept}
        reason = "Completed" if code == 0 else "Error"
        if container.reason == "OOMKilled" or index_of(pod) in self.worker_kills:
            reason = "OOMKilled"
        started, ended = moment(container.started_at), moment(datetime.now(UTC))
        terminated = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": ended}
        status["containerStatuses"] = [_container_status(pod, {"terminated": terminated}, ready=False)]
        self._save(PODS, {**pod, "status": status})

    def _sync_lost(self, pod: Json, now: datetime) -> None:
        """Bring a pod on a lost node a step further: not ready, evicted, and ended after its Node was removed."""
        name = pod["metadata"]["name"]
        unready_at = self._lost[name] + timedelta(seconds=MONITOR_SECONDS)
        if now >= unready_at and condition_of(pod["status"], "Ready"):
            # The rest of its status stays as its kubelet left it.
            self._set_conditions(pod, {"type": "Ready", "status": "False", "lastTransitionTime": moment(unready_at)})
            self._event("Pod", pod, "NodeNotReady", "Node is not ready", at=unready_at)
        found = next(one for one in pod["spec"]["tolerations"] if one.get("key") == UNREACHABLE)
        seconds = found.get("tolerationSeconds")
        evicted_at = None if seconds is None else unready_at + timedelta(seconds=seconds)
        if evicted_at is not None and now >= evicted_at and "deletionTimestamp" not in pod["metadata"]:
            text = f"Marking for deletion Pod {pod['metadata']['namespace']}/{name}"
            self._event("Pod", pod, "TaintManagerEviction", text, "Normal", at=evicted_at)
            self._set_conditions(pod, _disruption("DeletionByTaintManager"))
            self._delete_pod(pod, evicted_at)
        removed_at = self._removed.get(name)
        if removed_at is not None and now >= removed_at + timedelta(seconds=POD_GC_SECONDS):
            pod["status"]["phase"] = "Failed"
            self._set_conditions(pod, _disruption("DeletionByPodGC"))
            self._delete_pod(pod)

    def _set_conditions(self, pod: Json, *conditions: Json) -> None:
        types = {one["type"] for one in conditions}
        kept = [one for one in pod["status"].get("conditions", ()) if one["type"] not in types]
        pod["status"]["conditions"] = [*kept, *conditions]
        self._save(PODS, pod)

    def _stop_if_due(self, pod: Json, container: _Container) -> None:
        """Stop a container for its memory, or at the end of its grace period."""
        if index_of(pod) in self.memory_kills and container.lines and container.reason is None:
            self._kill(pod, "OOMKilled")
        if container.kill_at is not None and datetime.now(UTC) >= container.kill_at:
            container.kill()

    def _waiting(self, pod: Json) -> Json | None:
        """Return the status of a pod that cannot start; None if it can."""
        (spec,) = pod["spec"]["containers"]
        if self.unschedulable is not None:
            if self.scale_up is not None and "conditions" not in pod["status"]:
                self._event("Pod", pod, "TriggeredScaleUp", self.scale_up, "Normal")
            self._event("Pod", pod, "FailedScheduling", self.unschedulable)
            unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
            return {"phase": "Pending", "conditions": [{**unscheduled, "message": self.unschedulable}]}
        waiting = None
        if self.is_pulling:
            self._event("Pod", pod, "Pulling", f'Pulling image "{spec["image"]}"', "Normal")
            waiting = {"reason": "ContainerCreating"}
        if self.missing_volumes is not None:
            self._event("Pod", pod, "FailedMount", self.missing_volumes)
            waiting = {"reason": "ContainerCreating"}
        if spec["image"] in self.missing_images:
            image = f"docker.io/library/{spec['image']}"
            message = (
                f'rpc error: code = Unknown desc = failed to pull and unpack image "{image}": failed to resolve'
                f' reference "{image}": pull access denied, repository does not exist or may require authorization:'
                " server message: insufficient_scope: authorization failed"
            )
            waiting = {"reason": "ErrImagePull", "message": message}
            if pod["status"].get("containerStatuses"):  # it has tried
                text = f'Back-off pulling image "{spec["image"]}": ErrImagePull: {message}'
                waiting = {"reason": "ImagePullBackOff", "message": text}
        for source in spec.get("envFrom", ()):
            if source["secretRef"]["name"] not in self.secrets:
                message = f'secret "{source["secretRef"]["name"]}" not found'
                waiting = waiting or {"reason": "CreateContainerConfigError", "message": message}
        if waiting is None:
            return None
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}]
        statuses = [_container_status(pod, {"waiting": waiting}, ready=False)]
        return {"phase": "Pending", "conditions": conditions, "containerStatuses": statuses}

    def _started(self, pod: Json) -> Json:
        """Start the process of a pod, and return the status."""
        (spec,), name = pod["spec"]["containers"], pod["metadata"]["name"]
        directory = self._directory / name
        directory.mkdir()
        env = {**self._env, **SERVICE, "HOME": str(directory), "HOSTNAME": name}
        env["JOB_COMPLETION_INDEX"] = str(index_of(pod))
        for source in spec.get("envFrom", ()):
            env |= self.secrets[source["secretRef"]["name"]]
        env |= {one["name"]: one["value"] for one in spec.get("env", ())}
        program, *more = spec["command"]
        if program not in self.programs:
            at = moment(datetime.now(UTC))
            message = (
                "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create"
                " failed: unable to start container process: error during container init:"
                f' exec: "{program}": executable file not found in $PATH: unknown'
            )
            ended = {"exitCode": 128, "reason": "StartError", "message": message, "startedAt": at, "finishedAt": at}
            return {
                "phase": "Failed",
                "containerStatuses": [_container_status(pod, {"terminated": ended}, ready=False)],
            }
        argv = [*self.programs[program], *more, *spec.get("args", ())]
        container = self._containers[name] = _Container(argv, env, directory)
        running = {"running": {"startedAt": moment(container.started_at)}}
        return {
            "phase": "Running",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
            "containerStatuses": [_container_status(pod, running, ready=True)],
        }

    def _kill(self, pod: Json, reason: str) -> None:
        container = self._containers[pod["metadata"]["name"]]
        container.reason = reason
        container.kill()

    def _delete_pod(self, pod: Json, at: datetime | None = None) -> None:
        """Ask a pod to stop. It is removed when its process has ended and its Job has counted it."""
        if "deletionTimestamp" not in pod["metadata"]:
            grace = pod["spec"]["terminationGracePeriodSeconds"]
            pod["metadata"]["deletionGracePeriodSeconds"] = grace
            end = (at or datetime.now(UTC)) + timedelta(seconds=grace)
            pod["metadata"]["deletionTimestamp"] = moment(end)
            self._save(PODS, pod)
            if pod["metadata"]["name"] not in self._lost:
                self._stop(pod)

    def _stop(self, pod: Json) -> None:
        """Stop the container of a pod. Its grace period begins when its kubelet hears of it."""
        container = self._containers.get(pod["metadata"]["name"])
        if container is not None:
            container.kill_at = datetime.now(UTC) + timedelta(seconds=pod["metadata"]["deletionGracePeriodSeconds"])
            container.terminate()

    def _release(self, pod: Json) -> None:
        """Take the finalizer of the Job controller from a pod."""
        pod["metadata"]["finalizers"] = []
        self._save(PODS, pod)


def _with_defaults(job: Json) -> Json:
    """Return a Job as an API server keeps it: with defaults and canonical quantities, and without empty lists."""
    uid, name = job["metadata"]["uid"], job["metadata"]["name"]
    marks = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
    template = copy.deepcopy(job["spec"]["template"])
    template["metadata"]["labels"] = {**template["metadata"].get("labels", {}), **marks}
    pod = template["spec"]
    template["spec"] = {"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", **pod}
    for number, container in enumerate(pod["containers"]):
        kept = {key: value for key, value in container.items() if value != []}
        for quantities in kept.get("resources", {}).values():
            quantities |= {key: _canonical(value) for key, value in quantities.items()}
        message = {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
        pod["containers"][number] = {"imagePullPolicy": "IfNotPresent", **message, **kept}
    defaults = {"suspend": False, "podReplacementPolicy": "Failed", "parallelism": 1, "backoffLimit": NEVER}
    selector = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    return {**job, "spec": {**defaults, "selector": selector, **job["spec"], "template": template}}


def _canonical(quantity: str) -> str:
    """Return a quantity as an API server writes it, as far as tests have such."""
    text = str(quantity)
    if re.fullmatch(r"\d*\.\d+", text):
        return f"{round(float(text) * 1000)}m"
    found = re.fullmatch(r"(\d+)Mi", text)
    return f"{int(found[1]) // 1024}Gi" if found and int(found[1]) % 1024 == 0 else text


def _earlier(value: Any, time: timedelta) -> Any:
    """Return a value with all its times that much earlier."""
    if isinstance(value, dict):
        return {name: _earlier(one, time) for name, one in value.items()}
    if isinstance(value, list):
        return [_earlier(one, time) for one in value]
    return moment(parse_time(value) - time) if isinstance(value, str) and _TIME.fullmatch(value) else value


def _selector(text: str | None) -> dict[str, str]:
    return dict(part.split("=", 1) for part in (text or "").split(",") if part)


def _field(one: Json, path: str) -> object:
    """Return the field of an object at a path like `involvedObject.name`."""
    found: Any = one
    for name in path.split("."):
        found = found[name]
    return found


def _suffix() -> str:
    """Return the random end of the name of a pod."""
    return "".join(random.choices("bcdfghjklmnpqrstvwxz2456789", k=5))


def _disruption(reason: str) -> Json:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason}


def _container_status(pod: Json, state: Json, *, ready: bool) -> Json:
    (spec,) = pod["spec"]["containers"]
    names = {"name": spec["name"], "image": spec["image"], "imageID": spec["image"]}
    return {**names, "ready": ready, "restartCount": 0, "state": state}


def _refuse(code: int, message: str, reason: str = "") -> aiohttp.web.Response:
    body = {"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": reason}
    return aiohttp.web.json_response(body, status=code)
