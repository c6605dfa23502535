"""Read the options of a launch on Kubernetes, which are texts, by the syntax rules of Kubernetes."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from typing import Any

from mopsjobs.engines.base import PATCH
from mopsjobs.engines.launch_option import LaunchOption, checked
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.utils.times import parse_duration

OPTIONS = (
    LaunchOption("image", "text", "IMAGE", "the image of the pods", "MOPS_JOBS_IMAGE"),
    LaunchOption("namespace", "text", "NAMESPACE", "the namespace of the job", "that of the kubeconfig"),
    LaunchOption("cpu", "text", "CORES", "cores per shard", "1"),
    LaunchOption(
        "memory", "text", "SIZE", "memory per shard, like 4Gi", "that of the cluster",
        growth=", or x2 for twice that of the job; elsewhere than on a cluster, per task",
    ),
    LaunchOption("gpus", "count", "N", "NVIDIA GPUs per shard; others by --pod-patch", "none"),
    LaunchOption("secret", "text", "NAME", "a secret whose keys become the environment of the pods", "none"),
    LaunchOption(
        "service_account", "text", "NAME", "a service account, for workload identity", "that of the namespace",
    ),
    LaunchOption("parallelism", "count", "N", "largest number of shards that run at the same time", "all"),
    LaunchOption("backoff_limit", "count", "N", "how often to start the pod of a shard again after it failed", "3"),
    LaunchOption("ttl", "duration", "DURATION", "how long the cluster keeps the ended job", "24h"),
    LaunchOption(
        "queue", "text", "NAME", "the queue of Kueue that starts the job when there is room", "start at once",
    ),
    LaunchOption("priority_class", "text", "NAME", "the priority class of the pods", "that of the cluster"),
    LaunchOption("node_selector", "labels", "KEY=VALUE", "a label that nodes need", "any node"),
    LaunchOption(
        "toleration", "texts", "KEY[=VALUE][:EFFECT]",
        "a taint of nodes that the pods tolerate, like sku=gpu:NoSchedule", "none",
    ),
    LaunchOption(
        PATCH, "file", "FILE", "a strategic merge patch of the pods, YAML or JSON", "none", is_repeatable=False,
    ),
    LaunchOption("context", "text", "NAME", "a context of the kubeconfig", "the current one"),
)  # fmt: skip
"""The options of this engine, `Launch.options`. Several selectors and tolerations are separated by commas."""

IMAGE_VARIABLE = "MOPS_JOBS_IMAGE"

DEFAULT_CPU = "1"

MAX_TTL_SECONDS = 2**31 - 1

MAX_DNS_NAME = 253

NAME_FORM = "lower-case letters, digits, hyphens and dots"

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
"""What a taint of a node does to pods that do not tolerate it."""

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)

_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)

_CPU = re.compile(r"(?=.*[1-9])(\d{1,6}(\.\d{1,3})?|\d{1,9}m)", re.ASCII)

MEMORY = re.compile(r"(?=.*[1-9])(\d{1,15}(?:\.\d{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T)?", re.ASCII)


def is_dns_label(text: str) -> bool:
    """Return True if a text is a valid name of a namespace."""
    return _DNS_LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """Return True if a text is a valid name of an object."""
    return len(text) <= MAX_DNS_NAME and _DNS_NAME.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Return True if a text is a valid key of a label: a name, maybe behind a domain and a slash."""
    domain, slash, name = text.rpartition("/")
    return _LABEL_NAME.fullmatch(name) is not None and (not slash or is_dns_name(domain))


def is_label_value(text: str) -> bool:
    """Return True if a text is a valid value of a label. It may be empty."""
    return not text or _LABEL_NAME.fullmatch(text) is not None


def read_image(options: Mapping[str, str], env: Mapping[str, str]) -> str:
    """Return the image of the pods: the option, else that of the environment.

    Raises:
        OptionError: if there is none, or if it is invalid.
    """
    image = options.get("image") or env.get(IMAGE_VARIABLE)
    if not image:
        raise OptionError(
            "missing image: expected the image of the pods.",
            "image",
            hint=f"Name one with --image or {IMAGE_VARIABLE}; examples/kubernetes/Dockerfile makes one.",
        )
    checked({"image": image}, "image", re.compile(r"\S+").fullmatch, "a name like registry.example/mops-jobs:1")
    return image


def read_cpu(options: Mapping[str, str]) -> tuple[str, int]:
    """Return the quantity of CPU, and the number of whole cores in it, at least one.

    Raises:
        OptionError: if it is invalid.
    """
    text = checked(options, "cpu", _CPU.fullmatch, "a number of cores like 2, 0.5 or 500m") or DEFAULT_CPU
    cores = float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    return text, max(1, math.floor(cores))


def read_ttl(options: Mapping[str, str]) -> int:
    """Return how many seconds the cluster keeps an ended Job.

    Raises:
        OptionError: if the option is invalid.
    """
    text = options.get("ttl", "24h")
    with contextlib.suppress(UsageError):
        if (seconds := parse_duration(text)) <= MAX_TTL_SECONDS:
            return round(seconds)
    raise OptionError(f"invalid ttl {text!r}: expected a duration such as 90s, 1h or 7d, at most 68 years.", "ttl")


def read_placement(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of a pod that say on which nodes it runs.

    Raises:
        OptionError: if an option is invalid.
    """
    selector = {}
    for item in _items(options, "node_selector"):
        key, sign, value = item.partition("=")
        if not sign or not is_label_key(key) or not is_label_value(value):
            raise OptionError(
                f"invalid node_selector '{item}': expected KEY=VALUE with the key and the value of a label, such as"
                " kubernetes.io/arch=arm64.",
                "node_selector",
            )
        selector[key] = value
    priority_class = checked(options, "priority_class", is_dns_name, NAME_FORM)
    tolerations = [_toleration(item) for item in _items(options, "toleration")]
    fields = {"priorityClassName": priority_class, "nodeSelector": selector, "tolerations": tolerations}
    return {name: value for name, value in fields.items() if value}


def _items(options: Mapping[str, str], name: str) -> list[str]:
    return options[name].split(",") if name in options else []


def _toleration(text: str) -> dict[str, str]:
    taint, colon, effect = text.partition(":")
    key, sign, value = taint.partition("=")
    if not is_label_key(key) or not is_label_value(value) or (colon and effect not in EFFECTS):
        raise OptionError(
            f"invalid toleration '{text}': expected KEY[=VALUE][:EFFECT] with one of the effects"
            f" {', '.join(EFFECTS)}, such as sku=gpu:NoSchedule.",
            "toleration",
        )
    found = {"key": key, "operator": "Equal", "value": value} if sign else {"key": key, "operator": "Exists"}
    return {**found, "effect": effect} if colon else found
