"""Tell who has suspended a Job, and what it waits for. Kueue suspends the Jobs of its queues until there is room."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from mopsjobs.engines.kubernetes.client import Cluster, MissingError, Object, field
from mopsjobs.engines.kubernetes.manifest import QUEUE
from mopsjobs.errors import EngineError

SUSPENDED = "Suspended"
"""The reason of a Job that may not run yet. Its pods are not gone: they do not exist yet."""

VERSIONS = ("v1beta2", "v1beta1")
"""Versions of Kueue's API, the newest first. Kueue 0.15 brought v1beta2, and Kueue 0.20 no longer serves v1beta1."""


def why_suspended(cluster: Cluster, job: Object, namespace: str) -> str:
    """Return who has suspended a Job, and what it waits for, in a sentence.

    What a role may not read is left out.
    """
    queue = (field(job, "metadata.labels") or {}).get(QUEUE)
    if queue is None:
        by = _suspender(job)
        return "the Job is suspended" if by is None else f"the Job is suspended by {by}"
    waits, uid = f"the Job waits in queue {queue} of Kueue", field(job, "metadata.uid")
    try:
        workloads = _items(
            cluster, f"kueue.x-k8s.io/{{}}/namespaces/{namespace}/workloads", f"kueue.x-k8s.io/job-uid={uid}"
        )
    except MissingError:
        return f"{waits}, which the cluster at {cluster.server} does not have"
    except EngineError:
        return waits
    if not workloads:
        return f"{waits}, which does not know it"
    position, reason = _position(cluster, namespace, queue, workloads[0]), _reason(workloads[0])
    return waits + ("" if position is None else f", position {position}") + ("" if reason is None else f": {reason}")


def _items(cluster: Cluster, path: str, selector: str = "") -> Sequence[Object]:
    """Return the objects of a list, by the first version of the API that the cluster has.

    Raises:
        MissingError: if it has none of them.
    """
    params = {"labelSelector": selector} if selector else None
    for version in VERSIONS[:-1]:
        with contextlib.suppress(MissingError):
            return cluster.items(f"/apis/{path.format(version)}", params)
    return cluster.items(f"/apis/{path.format(VERSIONS[-1])}", params)


def _suspender(job: Object) -> str | None:
    """Return the program that last set whether the Job is suspended, by its name in the managed fields."""
    entries = field(job, "metadata.managedFields") or ()
    names = [entry.get("manager") for entry in entries if "f:suspend" in (field(entry, "fieldsV1.f:spec") or {})]
    return next(filter(None, reversed(names)), None)


def _reason(workload: Object) -> str | None:
    """Return why Kueue does not start a Workload; None if it gives no reason."""
    with contextlib.suppress(TypeError, AttributeError, LookupError):  # of another version
        if field(workload, "spec.active") is False:
            return "its Workload is deactivated, and starts when someone activates it"
        status = workload["status"]
        for check in status.get("admissionChecks") or ():
            if check["state"] != "Ready":
                words = " ".join(str(check.get("message") or "").split())
                return f"admission check {check['name']} is {check['state']}{words and f': {words}'}"
        for condition in status["conditions"]:
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return " ".join(str(condition["message"]).split()) or None
    return None


def _position(cluster: Cluster, namespace: str, queue: str, workload: Object) -> str | None:
    """Return the place of a Workload in its queue, such as `3 of 7`; None if the cluster does not tell."""
    path = f"visibility.kueue.x-k8s.io/{{}}/namespaces/{namespace}/localqueues/{queue}/pendingworkloads"
    with contextlib.suppress(EngineError, TypeError, AttributeError, LookupError, ValueError):
        waiting = _items(cluster, path)
        for item in waiting:
            if item["metadata"]["name"] == workload["metadata"]["name"]:
                return f"{int(item['positionInLocalQueue']) + 1} of {len(waiting)}"
    return None
