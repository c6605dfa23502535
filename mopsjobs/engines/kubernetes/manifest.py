"""Build the Kubernetes Job of a launch, as plain JSON types. Nothing here talks to a cluster.

A job of mops-jobs is a batch/v1 Indexed Job, and each index is a shard. A failed shard is tried again by itself
(`backoffLimitPerIndex`). A pod that the cluster takes away does not count as a failure (`podFailurePolicy`). Both need
Kubernetes 1.29 or newer, or an older one with the two features enabled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mopsjobs.engines.base import PATCH, Launch, shard_arguments, shard_memory
from mopsjobs.engines.kubernetes.options import (
    MEMORY,
    NAME_FORM,
    OPTIONS,
    is_dns_label,
    is_dns_name,
    is_label_value,
    read_cpu,
    read_image,
    read_placement,
    read_ttl,
)
from mopsjobs.engines.kubernetes.pod_patch import patch_template
from mopsjobs.engines.launch_option import check_names, checked, whole_number
from mopsjobs.errors import EXIT_REFUSED, EXIT_USAGE, OptionError, UsageError

CONTAINER = "runner"

MANAGED_BY = "mops-jobs"

JOB_ID = "mops-jobs/job-id"
"""Label with the part of the job id that fits into a label; annotation with the whole id."""

LAUNCH_ID = "mops-jobs/launch-id"
"""Annotation by which a launch recognises its own Job after a lost reply."""

SHARDS = "mops-jobs/shards"

QUEUE = "kueue.x-k8s.io/queue-name"
"""Label with the queue of Kueue that starts a Job."""

CONTEXT_VARIABLE = "MOPS_JOBS_KUBE_CONTEXT"
"""The context of the kubeconfig to use if no option names one. It takes precedence over that of a record."""

GPU = "nvidia.com/gpu"
"""The resource that `gpus` counts."""

DEFAULT_BACKOFF = 3

GRACE_SECONDS = 60
"""Seconds that a runner has after SIGTERM to let tasks save by the default, store outputs and report."""

FINAL_CODES = (EXIT_USAGE, EXIT_REFUSED)
"""Exit codes of a runner that another try would not change: it was called wrongly, the model cannot be loaded, or the
job has ended."""

MAX_SHARDS = 100_000
"""With more, Kubernetes also needs a limit of failed indexes."""

MAX_PARALLELISM = 10_000

MAX_NAME_LENGTH = 56
"""The host name of a pod is the Job's name, a hyphen and an index of up to six digits: 63 characters at most."""

_SUFFIX_LENGTH = 8


def job_name(job_id: str) -> str:
    """Return the name of a job's Kubernetes Job, which is unique and never changes.

    It has lower-case letters, digits and hyphens. If that changes or shortens the id, a hash of the id is appended.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", job_id.lower()).strip("-")
    if plain == job_id and len(plain) <= MAX_NAME_LENGTH:
        return plain
    suffix = hashlib.sha256(job_id.encode()).hexdigest()[:_SUFFIX_LENGTH]
    head = plain[: MAX_NAME_LENGTH - _SUFFIX_LENGTH - 1].strip("-") or "job"
    return f"{head}-{suffix}"


def kubectl(verb: str, name: str, namespace: str | None = None, context: str | None = None) -> str:
    """Return a kubectl command on a Kubernetes Job. Without namespace or context, kubectl takes its own default."""
    words = ["kubectl", *(["--context", context] if context else []), *(["-n", namespace] if namespace else [])]
    return shlex.join([*words, verb, "job", name])


def label_value(text: str) -> str:
    """Return the part of a text that fits into the value of a label."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("._-")


def build_manifest(launch: Launch, *, namespace: str, launch_id: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the Kubernetes Job that runs a job.

    Args:
        launch: what to run.
        namespace: the namespace of the Job.
        launch_id: a random text, a new one for each launch.
        env: the environment of this process, for defaults.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    options = launch.options
    check_names(options, OPTIONS, "kubernetes")
    if not 1 <= launch.shards <= MAX_SHARDS:
        raise OptionError(f"invalid shards '{launch.shards}': expected 1 to {MAX_SHARDS:,}.", "shards")
    if launch.registry_url.startswith(("sqlite:", "memory:")):
        raise UsageError(
            f"A cluster cannot reach the registry {launch.registry_url}: it is on this machine.",
            hint="Name one that it can reach: --registry azure://container.",
        )
    shared = {"app.kubernetes.io/managed-by": MANAGED_BY, "app.kubernetes.io/name": MANAGED_BY}
    labels = {**shared, JOB_ID: label_value(launch.job_id)}
    # The value of a label, and the name of an object.
    queue = checked(options, "queue", lambda text: is_dns_name(text) and is_label_value(text), f"up to 63 {NAME_FORM}")
    annotations = {JOB_ID: launch.job_id, SHARDS: str(launch.shards)}
    patch = json.loads(options.get(PATCH, "{}"))
    template = patch_template(_pod(launch, labels, annotations, env), patch)
    # A policy may want them on the Job, too.
    patched = {
        part: {name: text for name, text in template["metadata"][part].items() if name in names}
        for part, names in (patch.get("metadata") or {}).items()
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(launch.job_id),
            "namespace": namespace,
            "labels": {**patched.get("labels", {}), **labels, **({} if queue is None else {QUEUE: queue})},
            "annotations": {**patched.get("annotations", {}), **annotations, LAUNCH_ID: launch_id},
        },
        "spec": {
            **({} if queue is None else {"suspend": True}),  # until the queue has room for it
            "completionMode": "Indexed",
            "completions": launch.shards,
            "parallelism": whole_number(
                options, "parallelism", min(launch.shards, MAX_PARALLELISM), 1, MAX_PARALLELISM
            ),
            "backoffLimitPerIndex": whole_number(options, "backoff_limit", DEFAULT_BACKOFF, 0, 1000),
            "ttlSecondsAfterFinished": read_ttl(options),
            # A pod that is evicted, preempted or on a lost node has not failed. No other pod can do what a final code
            # refuses.
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": list(FINAL_CODES)},
                    },
                ]
            },
            "template": template,
        },
    }


def preview_manifest(launch: Launch, env: Mapping[str, str]) -> dict[str, Any]:
    """Return the Job that a launch would create, without the mark of one launch. No cluster is asked.

    Without a namespace in options or kubeconfig, the Job names none.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    namespace = launch.options.get("namespace")
    manifest = build_manifest(launch, namespace=check_namespace(namespace or "default"), launch_id="", env=env)
    del manifest["metadata"]["annotations"][LAUNCH_ID]
    if not namespace:
        del manifest["metadata"]["namespace"]
    return manifest


def complete_launch(launch: Launch, namespace: str | None, env: Mapping[str, str]) -> Launch:
    """Check the options of a launch before anything of its job is stored, and add those of the environment.

    Args:
        launch: the launch.
        namespace: the default namespace; None if it is not known.
        env: the environment, with the default of image and context.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    options = {**launch.options, "image": read_image(launch.options, env)}
    for name, value in (("namespace", namespace), ("context", env.get(CONTEXT_VARIABLE))):
        if value and not options.get(name):
            options[name] = value
    launch = dataclasses.replace(launch, options=options)
    preview_manifest(launch, env)
    return launch


def _pod(
    launch: Launch, labels: Mapping[str, str], annotations: Mapping[str, str], env: Mapping[str, str]
) -> dict[str, Any]:
    account = checked(launch.options, "service_account", is_dns_name, NAME_FORM)
    identity = {} if account is None else {"azure.workload.identity/use": "true"}
    return {
        "metadata": {"labels": {**labels, **identity}, "annotations": dict(annotations)},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS + math.ceil(launch.grace or 0),
            # The runner never talks to the API server. Workload identity has a token of its own.
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [_container(launch, env)],
            **({} if account is None else {"serviceAccountName": account}),
            **read_placement(launch.options),
        },
    }


def _container(launch: Launch, env: Mapping[str, str]) -> dict[str, Any]:
    options, (cpu, cores) = launch.options, read_cpu(launch.options)
    # In a container, a process sees the cores of the whole node, not its own limit.
    workers = cores if launch.workers is None else launch.workers
    memory = checked(options, "memory", MEMORY.fullmatch, "a quantity like 512Mi or 4Gi")
    if memory is None and (needed := shard_memory(launch, workers)):
        memory = f"{needed}Mi"
    gpus = whole_number(options, "gpus", 0, 1, 1000)
    resources = {"cpu": cpu, "memory": memory, GPU: str(gpus) if gpus else None}
    resources = {name: quantity for name, quantity in resources.items() if quantity is not None}
    secret = checked(options, "secret", is_dns_name, NAME_FORM)
    return {
        "name": CONTAINER,
        "image": read_image(options, env),
        "command": ["mops-jobs"],
        "args": shard_arguments(launch, ["--registry", launch.registry_url], workers),
        "env": [{"name": name, "value": value} for name, value in sorted(launch.env.items())],
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **({} if secret is None else {"envFrom": [{"secretRef": {"name": secret}}]}),
    }


def check_namespace(namespace: str) -> str:
    """Return the name of a namespace, unchanged.

    Raises:
        UsageError: if the name is invalid.
    """
    checked({"namespace": namespace}, "namespace", is_dns_label, "lower-case letters, digits and hyphens")
    return namespace


def is_job_place(namespace: str, name: str) -> bool:
    """Return True if namespace and name are valid for a Job. Other texts could change the path of the URL."""
    return is_dns_label(namespace) and is_dns_name(name)
