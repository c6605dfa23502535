"""Limits of a resumed job that grow: factors like `x2` of what its earlier launch was asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mopsjobs.errors import OptionError
from mopsjobs.submission.launching import LaunchOptions, recorded_timeout
from mopsjobs.utils.sizes import format_size, parse_factor, parse_size

GROWING = ("task_timeout", "task_memory", "memory")
"""The options that take a factor."""


def find_factors(options: Mapping[str, object]) -> dict[str, float]:
    """Return the factors among the options that take one."""
    texts = {name: text for name in GROWING if isinstance(text := options.get(name), str)}
    return {name: factor for name, text in texts.items() if (factor := parse_factor(text)) is not None}


def grown_options(options: LaunchOptions, engine: str, recorded: Mapping[str, str]) -> LaunchOptions:
    """Return options in which limits stand in place of their factors.

    The memory of a shard is that of its pod on Kubernetes. Elsewhere, it stands for the memory of a task.

    Args:
        options: what the user asks for.
        engine: where the job runs.
        recorded: what its earlier launch was asked for.

    Raises:
        OptionError: if there is no limit that could grow, or if a size is invalid.
    """
    factors, cluster, task_memory = dict(options.factors), dict(options.cluster), options.task_memory
    if engine != "kubernetes":
        if "memory" in cluster:
            task_memory = task_memory or _size_of(cluster.pop("memory"))
        if "memory" in factors:
            factors.setdefault("task_memory", factors.pop("memory"))
    elif "memory" in factors:
        factor = factors.pop("memory")
        of_shard, of_task = recorded.get("memory"), recorded.get("task_memory")
        if of_shard is None and of_task is None:
            raise _no_limit_error("memory", factor, "4Gi")
        if of_shard is not None:
            cluster["memory"] = _quantity(_size_of(of_shard if not of_shard.isdigit() else f"{of_shard}B") * factor)
        if of_task is not None and task_memory is None:
            factors.setdefault("task_memory", factor)
    if "task_memory" in factors:
        known = parse_size(recorded.get("task_memory", ""))
        if known is None:
            name = "task_memory" if "task_memory" in options.factors else "memory"
            raise _no_limit_error(name, factors["task_memory"], "2GiB")
        task_memory = round(known * factors["task_memory"])
    task_timeout = options.task_timeout
    if "task_timeout" in factors:
        seconds = recorded_timeout(recorded)
        if seconds is None:
            raise _no_limit_error("task_timeout", factors["task_timeout"], "1h")
        task_timeout = seconds * factors["task_timeout"]
    return dataclasses.replace(options, cluster=cluster, task_memory=task_memory, task_timeout=task_timeout, factors={})


def _size_of(text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise OptionError(f"invalid memory '{text[:100]}': expected a size like 2GiB, or a factor like x2.", "memory")
    return size


def _quantity(size: float) -> str:
    """Return a size as Kubernetes has it: `4Gi`."""
    return format_size(round(size)).removesuffix("B")


def _no_limit_error(name: str, factor: float, example: str) -> OptionError:
    return OptionError(
        f"invalid {name} 'x{factor:g}': expected a limit like {example}, since the job had none that could grow.", name
    )
