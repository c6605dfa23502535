"""Tell who has suspended a Job, and what it waits for. Kueue suspends the Jobs of its queues until there is room."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lightkube.core.resource import ApiInfo, NamespacedSubResource, ResourceDef
from lightkube.generic_resource import Generic, create_namespaced_resource

from mopsjobs.engines.kubernetes.client import Cluster, MissingError
from mopsjobs.engines.kubernetes.manifest import QUEUE
from mopsjobs.errors import EngineError

if TYPE_CHECKING:
    from lightkube.resources.batch_v1 import Job

SUSPENDED = "Suspended"
"""The reason of a Job that may not run yet. Its pods are not gone: they do not exist yet."""

JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label of a Workload, the object by which Kueue decides about a Job."""

VERSIONS = ("v1beta2", "v1beta1")
"""Versions of Kueue's API, the newest first. Kueue 0.15 brought v1beta2, and Kueue 0.20 no longer serves v1beta1."""

Kind = type[Any]

Answer = TypeVar("Answer")

WORKLOADS: Sequence[Kind] = [
    create_namespaced_resource("kueue.x-k8s.io", version, "Workload", "workloads") for version in VERSIONS
]
"""The objects by which Kueue decides about Jobs, in each version."""


def _pending_workloads(version: str) -> Kind:
    """Return the kind of the Workloads that wait in a queue, in its order."""
    queues = ResourceDef("visibility.kueue.x-k8s.io", version, "LocalQueue")
    info = ApiInfo(resource=queues, parent=queues, plural="localqueues", verbs=["get"], action="pendingworkloads")
    return type("PendingWorkloads", (NamespacedSubResource, Generic), {"_api_info": info})


PENDING_WORKLOADS: Sequence[Kind] = [_pending_workloads(version) for version in VERSIONS]


def why_suspended(cluster: Cluster, job: Job, namespace: str) -> str:
    """Return who has suspended a Job, and what it waits for, in a sentence.

    What a role may not read is left out.
    """
    metadata = job.metadata
    assert metadata is not None  # noqa: S101 - Cluster.job has checked it
    queue = (metadata.labels or {}).get(QUEUE)
    if queue is None:
        by = _suspender(job)
        return "the Job is suspended" if by is None else f"the Job is suspended by {by}"
    waits = f"the Job waits in queue {queue} of Kueue"
    try:
        workloads = _first_known(WORKLOADS, lambda kind: cluster.objects(kind, namespace, {JOB_UID: str(metadata.uid)}))
    except MissingError:
        return f"{waits}, which the cluster at {cluster.server} does not have"
    except EngineError:
        return waits
    if not workloads:
        return f"{waits}, which does not know it"
    position = _position(cluster, namespace, queue, workloads[0])
    reason = _reason(workloads[0])
    return waits + ("" if position is None else f", position {position}") + ("" if reason is None else f": {reason}")


def _first_known(kinds: Sequence[Kind], ask: Callable[[Kind], Answer]) -> Answer:
    """Return what a cluster answers about the first of these kinds that it has.

    Raises:
        MissingError: if it has none of them.
    """
    for kind in kinds[:-1]:
        with contextlib.suppress(MissingError):
            return ask(kind)
    return ask(kinds[-1])


def _suspender(job: Job) -> str | None:
    """Return the program that last set whether the Job is suspended, by its name in the managed fields."""
    found = None
    for entry in (job.metadata and job.metadata.managedFields) or ():
        spec = entry.fieldsV1.get("f:spec") if isinstance(entry.fieldsV1, Mapping) else None
        if isinstance(spec, Mapping) and "f:suspend" in spec and entry.manager:
            found = str(entry.manager)
    return found


def _reason(workload: Mapping[str, Any]) -> str | None:
    """Return why Kueue has not admitted a Workload; None if it gives no reason."""
    with contextlib.suppress(TypeError, AttributeError, LookupError):  # of another version
        for condition in workload["status"]["conditions"]:
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return " ".join(str(condition["message"]).split()) or None
    return None


def _position(cluster: Cluster, namespace: str, queue: str, workload: Mapping[str, Any]) -> str | None:
    """Return the place of a Workload in its queue, such as `3 of 7`; None if the cluster does not tell."""
    with contextlib.suppress(EngineError, TypeError, AttributeError, LookupError, ValueError):
        waiting = _first_known(PENDING_WORKLOADS, lambda kind: cluster.extension(kind, namespace, queue))["items"]
        for item in waiting:
            if item["metadata"]["name"] == workload["metadata"]["name"]:
                return f"{int(item['positionInLocalQueue']) + 1} of {len(waiting)}"
    return None
