"""Limits of a resumed job that grow: factors like `x2` of what its earlier launch was asked for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.engines.slurm.options import megabytes, minutes
from mopsjobs.errors import OptionError
from mopsjobs.submission.launching import LaunchOptions, no_effect_error, recorded_timeout
from mopsjobs.utils.sizes import format_size, parse_factor, parse_size

GROWING = ("task_timeout", "task_memory", "memory", "time")
"""The options that take a factor."""


def find_factors(options: Mapping[str, object]) -> dict[str, float]:
    """Return the factors among the options that take one."""
    texts = {name: text for name in GROWING if isinstance(text := options.get(name), str)}
    return {name: factor for name, text in texts.items() if (factor := parse_factor(text)) is not None}


def grown_options(options: LaunchOptions, engine: str, recorded: Mapping[str, str]) -> LaunchOptions:
    """Return options in which limits stand in place of their factors.

    The memory of a shard is that of its pod on Kubernetes, and of its task of the array on Slurm. Elsewhere, it stands
    for the memory of a task.

    Args:
        options: what the user asks for.
        engine: where the job runs.
        recorded: what its earlier launch was asked for.

    Raises:
        OptionError: if there is no limit that could grow, if a size is invalid, or if the engine has no such limit.
    """
    factors, cluster, task_memory = dict(options.factors), dict(options.cluster), options.task_memory
    if "time" in factors and engine != "slurm":
        raise no_effect_error("time", engine)
    cluster |= _grown_time(factors.pop("time", None), recorded.get("time"))
    if engine not in CLUSTER_ENGINES:
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
            cluster["memory"] = _grown_memory(engine, of_shard, factor)
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


def _grown_memory(engine: str, text: str, factor: float) -> str:
    """Return the memory of a shard that has grown, in the notation of its engine."""
    if engine == "kubernetes":
        return _quantity(_size_of(text if not text.isdigit() else f"{text}B") * factor)
    size = megabytes(text)
    if size is None:
        raise OptionError(f"invalid memory '{text[:100]}': expected a size like 4G, or a factor like x2.", "memory")
    return f"{math.ceil(size * factor)}M"


def _grown_time(factor: float | None, text: str | None) -> dict[str, str]:
    """Return the time limit of a shard on Slurm that has grown, as an option; none without a factor."""
    if factor is None:
        return {}
    limit = None if text is None else minutes(text)
    if limit is None:
        raise _no_limit_error("time", factor, "2h")
    return {"time": str(math.ceil(limit * factor))}


def _quantity(size: float) -> str:
    """Return a size as Kubernetes has it: `4Gi`."""
    return format_size(round(size)).removesuffix("B")


def _no_limit_error(name: str, factor: float, example: str) -> OptionError:
    return OptionError(
        f"invalid {name} 'x{factor:g}': expected a limit like {example}, since the job had none that could grow.", name
    )
