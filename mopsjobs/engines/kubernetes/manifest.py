"""Build the Kubernetes Job of a launch, as plain JSON types. Nothing here talks to a cluster.

A job of mops-jobs is a batch/v1 Indexed Job, and each index is a shard. A failed shard is tried again by itself
(`backoffLimitPerIndex`). A pod that the cluster takes away does not count as a failure (`podFailurePolicy`). Both need
Kubernetes 1.29 or newer, or an older one with the two features enabled.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mopsjobs.engines.base import Launch, runner_flags
from mopsjobs.errors import EXIT_REFUSED, EXIT_USAGE, OptionError, UsageError
from mopsjobs.utils.text import parse_whole_number

CONTAINER = "runner"

MANAGED_BY = "mops-jobs"

JOB_ID = "mops-jobs/job-id"
"""Label with the part of the job id that fits into a label; annotation with the whole id."""

LAUNCH_ID = "mops-jobs/launch-id"
"""Annotation by which a launch recognises its own Job after a lost reply."""

SHARDS = "mops-jobs/shards"

IMAGE_VARIABLE = "MOPS_JOBS_IMAGE"

DEFAULT_CPU = "1"

DEFAULT_BACKOFF = 3

RUNNER_MEMORY = 256 * 2**20
"""Bytes for the runner of a pod, beside its tasks."""

DEFAULT_TTL_SECONDS = 24 * 3600

GRACE_SECONDS = 60
"""Seconds that a runner has after SIGTERM to store outputs and report."""

FINAL_CODES = (EXIT_USAGE, EXIT_REFUSED)
"""Exit codes of a runner that another try would not change: it was called wrongly, the model cannot be loaded, or the
job has ended."""

MAX_SHARDS = 100_000
"""With more, Kubernetes also needs a limit of failed indexes."""

MAX_PARALLELISM = 10_000

MAX_NAME_LENGTH = 56
"""The host name of a pod is the Job's name, a hyphen and an index of up to six digits: 63 characters at most."""

OPTIONS = (
    "image",
    "namespace",
    "parallelism",
    "backoff_limit_per_index",
    "ttl_seconds",
    "cpu",
    "memory",
    "secret",
    "service_account",
    "context",
)
"""Names of `Launch.options` for this engine."""

MAX_DNS_NAME = 253

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)

_CPU = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)|(\d{1,9})m", re.ASCII)

_MEMORY = re.compile(r"(\d{1,15}(?:\.\d{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)

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
    options = _Options(launch.options)
    if not 1 <= launch.shards <= MAX_SHARDS:
        raise OptionError(f"invalid shards '{launch.shards}': expected 1 to {MAX_SHARDS:,}.", "shards")
    if launch.registry_url.startswith(("sqlite:", "memory:")):
        raise UsageError(
            f"A cluster cannot reach the registry {launch.registry_url}: it is on this machine.",
            hint="Name one that it can reach: --registry azure://container.",
        )
    shared = {"app.kubernetes.io/managed-by": MANAGED_BY, "app.kubernetes.io/name": MANAGED_BY}
    labels = {**shared, JOB_ID: label_value(launch.job_id)}
    annotations = {JOB_ID: launch.job_id, SHARDS: str(launch.shards)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(launch.job_id),
            "namespace": namespace,
            "labels": labels,
            "annotations": {**annotations, LAUNCH_ID: launch_id},
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": launch.shards,
            "parallelism": options.number("parallelism", min(launch.shards, MAX_PARALLELISM), 1, MAX_PARALLELISM),
            "backoffLimitPerIndex": options.number("backoff_limit_per_index", DEFAULT_BACKOFF, 0, 1000),
            "ttlSecondsAfterFinished": options.number("ttl_seconds", DEFAULT_TTL_SECONDS, 0, 2**31 - 1),
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
            "template": _pod(launch, options, labels, annotations, env),
        },
    }


def check_launch(launch: Launch, env: Mapping[str, str]) -> None:
    """Check the options of a launch before anything of its job is stored.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    namespace = check_namespace(launch.options.get("namespace") or "default")
    build_manifest(launch, namespace=namespace, launch_id="", env=env)


def _pod(
    launch: Launch,
    options: _Options,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    env: Mapping[str, str],
) -> dict[str, Any]:
    account = options.dns_name("service_account")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        # The runner never talks to the API server. Workload identity has a token of its own.
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(launch, options, env)],
    }
    labels = dict(labels)
    if account is not None:
        spec["serviceAccountName"] = account
        labels["azure.workload.identity/use"] = "true"
    return {"metadata": {"labels": labels, "annotations": dict(annotations)}, "spec": spec}


def _container(launch: Launch, options: _Options, env: Mapping[str, str]) -> dict[str, Any]:
    cpu, cores = options.cpu()
    resources = {"cpu": cpu}
    memory = options.memory() or _memory_for_tasks(launch, cores)
    if memory is not None:
        resources["memory"] = memory
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image(env),
        "command": ["mops-jobs"],
        "args": _arguments(launch, cores),
        "env": [{"name": name, "value": value} for name, value in sorted(launch.env.items())],
        "resources": {"requests": resources, "limits": dict(resources)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    secret = options.dns_name("secret")
    if secret is not None:
        container["envFrom"] = [{"secretRef": {"name": secret}}]
    return container


def _arguments(launch: Launch, cores: int) -> list[str]:
    """Return the arguments of `mops-jobs`. Kubernetes sets the index of the shard in JOB_COMPLETION_INDEX."""
    arguments = ["run", launch.job_id, "--registry", launch.registry_url, "--shards", str(launch.shards), "--echo"]
    # In a container, a process sees the cores of the whole node, not its own limit.
    return [*arguments, "--workers", str(_workers(launch, cores)), *runner_flags(launch)]


def _workers(launch: Launch, cores: int) -> int:
    return launch.workers if launch.workers is not None else cores


def _memory_for_tasks(launch: Launch, cores: int) -> str | None:
    """Return the memory of a pod whose tasks have a limit: one of them may be at its last, doubled limit."""
    if launch.task_memory is None:
        return None
    doublings = (launch.retries or 0) if "oom" in (launch.retry_on or "").split(",") else 0
    largest = launch.task_memory << doublings
    others = (_workers(launch, cores) - 1) * launch.task_memory
    return f"{math.ceil((largest + others + RUNNER_MEMORY) / 2**20)}Mi"


def check_namespace(namespace: str) -> str:
    """Return the name of a namespace, unchanged.

    Raises:
        UsageError: if the name is invalid.
    """
    if not _DNS_LABEL.fullmatch(namespace):
        raise OptionError(
            f"invalid namespace '{namespace}': expected lower-case letters, digits and hyphens.", "namespace"
        )
    return namespace


def is_job_place(namespace: str, name: str) -> bool:
    """Return True if namespace and name are valid for a Job. Other texts could change the path of the URL."""
    return _DNS_LABEL.fullmatch(namespace) is not None and len(name) <= MAX_DNS_NAME and bool(_DNS_NAME.fullmatch(name))


class _Options:
    """Reads the options of a launch."""

    def __init__(self, options: Mapping[str, str]) -> None:
        unknown = sorted(options.keys() - set(OPTIONS))
        if unknown:
            expected = f"expected one of {', '.join(OPTIONS)}"
            raise UsageError(f"unknown option of the kubernetes engine {', '.join(unknown)}: {expected}.")
        self._options = options

    def number(self, name: str, default: int, least: int, most: int) -> int:
        text = self._options.get(name)
        if text is None:
            return default
        number = parse_whole_number(text, least, most)
        if number is None:
            raise OptionError(f"invalid {name} '{text}': expected a whole number from {least} to {most:,}.", name)
        return number

    def dns_name(self, name: str) -> str | None:
        text = self._options.get(name)
        if text is not None and (len(text) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(text)):
            raise OptionError(f"invalid {name} '{text}': expected lower-case letters, digits, hyphens and dots.", name)
        return text

    def image(self, env: Mapping[str, str]) -> str:
        image = self._options.get("image") or env.get(IMAGE_VARIABLE, "")
        if not image:
            raise OptionError(
                "missing image: expected the image of the pods.",
                "image",
                hint=f"Name one with --image or {IMAGE_VARIABLE}; examples/kubernetes/Dockerfile makes one.",
            )
        if not image.isprintable() or re.search(r"\s", image):
            raise OptionError(f"invalid image {image!r}: expected a name like registry.example/mops-jobs:1.", "image")
        return image

    def cpu(self) -> tuple[str, int]:
        """Return the quantity of CPU, and the number of whole cores in it, at least one."""
        text = self._options.get("cpu", DEFAULT_CPU)
        words = _CPU.fullmatch(text)
        cores = 0.0 if words is None else float(words[1]) if words[1] else int(words[2]) / 1000
        if cores <= 0:
            raise OptionError(f"invalid cpu '{text}': expected a number of cores like 2, 0.5 or 500m.", "cpu")
        return text, max(1, math.floor(cores))

    def memory(self) -> str | None:
        text = self._options.get("memory")
        if text is None:
            return None
        words = _MEMORY.fullmatch(text)
        if words is None or float(words[1]) <= 0:
            raise OptionError(f"invalid memory '{text}': expected a quantity like 512Mi or 4Gi.", "memory")
        return text
