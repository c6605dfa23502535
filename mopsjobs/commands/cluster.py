"""What a launch on Kubernetes is told, by flags or by the record of an earlier launch."""

from __future__ import annotations

import argparse

from mopsjobs.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CLUSTER_OPTIONS = {
    "image": ("IMAGE", "what the pods run (default: MOPS_JOBS_IMAGE)"),
    "namespace": ("NS", "where (default: that of the kubeconfig)"),
    "cpu": ("CORES", "cores a shard gets (default: 1)"),
    "memory": ("SIZE", "memory a shard gets, like 4Gi (default: the cluster's)"),
    "secret": ("NAME", "a secret whose keys become the pods' environment"),
    "service_account": ("NAME", "a service account, for workload identity"),
    "parallelism": ("N", "shards that run at a time (default: all)"),
    "context": ("NAME", "a context of the kubeconfig (default: the current one)"),
}
"""Flags that only the kubernetes engine understands, by the names of its options."""


def add_cluster_options(parser: argparse._ArgumentGroup) -> None:
    """Declare those flags."""
    for option, (metavar, text) in CLUSTER_OPTIONS.items():
        parser.add_argument("--" + option.replace("_", "-"), metavar=metavar, help=text)


def cluster_options(args: argparse.Namespace, engine: str) -> dict[str, str]:
    """Those that were given. A flag that would have no effect is refused, not ignored.

    Raises:
        UsageError: one was given, and another engine is meant.
    """
    given = {name: getattr(args, name) for name in CLUSTER_OPTIONS if getattr(args, name) is not None}
    if engine != "kubernetes":
        for name in [*given, *(["shards"] if args.shards is not None else [])]:
            raise UsageError(f"--{name.replace('_', '-')} has no effect with the {engine} engine.")
    return given


def recorded_options(namespace: str | None, told: Mapping[str, str]) -> dict[str, str]:
    """The options of an earlier launch, as far as its record tells: see `engines.base.noted`."""
    found = {name: told[name] for name in CLUSTER_OPTIONS if name in told}
    return {**found, "namespace": namespace} if namespace else found


def recorded_shards(told: Mapping[str, str]) -> int | None:
    """The number of shards of an earlier launch; None where its record does not tell."""
    text = told.get("shards", "")
    return int(text) if text.isascii() and text.isdigit() else None
