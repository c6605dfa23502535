"""Make a `Launch` from what the user asks for, and from what the record of an earlier launch says."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.engines.base import PATCH, Launch
from mopsjobs.engines.launch_option import names_of
from mopsjobs.engines.slurm.options import SETUP_VARIABLE, megabytes, minutes, split_start_flags, wants_file_drop
from mopsjobs.errors import EngineError, OptionError, UsageError
from mopsjobs.ledger.retry_policy import retry_policy
from mopsjobs.store.urls import identity, sqlite_path
from mopsjobs.submission.launch_options import ENGINE_OPTIONS, LaunchOptions, with_recorded
from mopsjobs.submission.model_check import find_python
from mopsjobs.submission.session import Session
from mopsjobs.utils.file_systems import network_file_system
from mopsjobs.utils.measurement import memory_size
from mopsjobs.utils.sizes import format_size, parse_size

_NOTHING: Mapping[str, str] = MappingProxyType({})


def make_launch(
    job_id: str,
    engine: str,
    options: LaunchOptions,
    session: Session,
    *,
    recorded: Mapping[str, str] = _NOTHING,
    namespace: str | None = None,
    foreground: bool = False,
) -> Launch:
    """Return the launch of a job. Nothing is started.

    Args:
        job_id: the job to launch.
        engine: where it runs.
        options: what the user asks for.
        session: the registry and the environment.
        recorded: what an earlier launch was asked for; see `engines.base.recorded_launch`.
        namespace: where an earlier launch ran on Kubernetes.
        foreground: whether the caller becomes the runner; see `Launch.foreground`.

    Raises:
        OptionError: if an option has no effect, or if the interpreter does not exist.
        UsageError: if what the record says is not valid, or if the nodes of Slurm cannot share the registry.
        EngineError: if the library of the engine is not installed.
    """
    own = _options_of_engine(engine, options, session.env, recorded)
    is_cluster = engine in CLUSTER_ENGINES
    if is_cluster:
        own = _with_recorded(engine, own, recorded, namespace, session)
    if engine == "slurm" and (setup := session.env.get(SETUP_VARIABLE)):
        own.setdefault("setup", setup)
    options = with_recorded(options, recorded)
    of_tasks = options.of_tasks()
    of_tasks["python"] = find_python(engine, options.python, session.env, recorded.get("python"))
    if options.retries is not None or options.retry_on is not None:
        retries, causes = retry_policy(options.retries, options.retry_on)
        of_tasks |= {"retries": retries, "retry_on": ",".join(sorted(causes))}
    launch = Launch(
        job_id=job_id,
        registry_url=_registry_url(engine, own, session),
        registry_id=identity(session.registry_url, session.env),
        shards=(options.shards if is_cluster else None) or 1,
        foreground=foreground,
        options=own,
        **of_tasks,
    )
    if engine == "local" and launch.task_memory is not None and memory_size() is None:
        problem = "task_memory has no effect on this system: only Linux tells the memory of processes."
        raise OptionError(problem, "task_memory")
    if engine == "kubernetes":
        launch = _complete(launch, session.env)
    elif engine == "slurm":
        from mopsjobs.engines.slurm import engine as slurm

        slurm.check_launch(launch)
    return launch


def _registry_url(engine: str, options: Mapping[str, str], session: Session) -> str:
    """Return the registry as the runner opens it. On Slurm, one with a drop of files opens none.

    Raises:
        UsageError: if the nodes of Slurm cannot share the registry.
    """
    url = session.registry_url
    if engine != "slurm":
        return url
    if not wants_file_drop(options):
        return url_for_nodes(url)
    if (warning := warning_on_login_node(url)) is not None:
        session.warn(warning)
    return url


def _complete(launch: Launch, env: Mapping[str, str]) -> Launch:
    """Return a launch on Kubernetes with the image, the namespace and the context of the environment.

    The record then names them before the launch, also if that fails.

    Raises:
        UsageError: if an option is unknown or invalid.
    """
    from mopsjobs.engines.kubernetes.client import current_place
    from mopsjobs.engines.kubernetes.manifest import CONTEXT_VARIABLE, complete_launch

    namespace = None
    with contextlib.suppress(EngineError):  # the launch raises it again
        namespace = current_place(env, launch.options.get("context") or env.get(CONTEXT_VARIABLE))[1]
    return complete_launch(launch, namespace, env)


def _options_of_engine(
    engine: str, options: LaunchOptions, env: Mapping[str, str], recorded: Mapping[str, str]
) -> dict[str, str]:
    """Return the options that only this engine understands. An option without effect is refused, not ignored.

    Raises:
        OptionError: if an option has no effect.
        UsageError: if dask has no scheduler.
        EngineError: if the library of the engine is not installed.
    """
    known = names_of(ENGINE_OPTIONS.get(engine, ()))
    for name in options.cluster:
        if name not in known:
            raise no_effect_error(name, engine)
    if options.shards is not None and engine not in CLUSTER_ENGINES:
        raise no_effect_error("shards", engine)
    if engine == "dask":
        return _dask_options(options, env, recorded)
    if options.scheduler is not None:
        raise no_effect_error("scheduler", engine)
    cluster = dict(options.cluster)
    if PATCH in cluster:
        from mopsjobs.engines.kubernetes.pod_patch import read_pod_patch

        cluster[PATCH] = read_pod_patch(cluster[PATCH])
    return cluster


def no_effect_error(name: str, engine: str) -> OptionError:
    """Return the error for an option that an engine does not have."""
    return OptionError(f"{name} has no effect with the {engine} engine.", name)


def _dask_options(options: LaunchOptions, env: Mapping[str, str], recorded: Mapping[str, str]) -> dict[str, str]:
    from mopsjobs.engines.dask import check_installed, scheduler_url

    if options.workers is not None:
        raise OptionError("workers has no effect with the dask engine: the cluster has its own.", "workers")
    url = scheduler_url(options.scheduler or recorded.get("scheduler"), env)
    check_installed()
    return {"scheduler": url}


def recorded_options(engine: str, recorded: Mapping[str, str], namespace: str | None) -> dict[str, str]:
    """Return the options of an earlier launch on a cluster, as far as its record has them. It has no patch."""
    found = {name: recorded[name] for name in names_of(ENGINE_OPTIONS[engine]) if name in recorded and name != PATCH}
    return {**found, "namespace": namespace} if namespace else found


def _with_recorded(
    engine: str, own: Mapping[str, str], recorded: Mapping[str, str], namespace: str | None, session: Session
) -> dict[str, str]:
    """Return the options of a launch with those of an earlier one. What is not repeated is named in a warning."""
    found = {**recorded_options(engine, recorded, namespace), **own}
    if PATCH in recorded and PATCH not in own:
        session.warn(
            "The job ran with a patch of its pods, which a record does not keep; the new pods are without it."
            " To use it again: --pod-patch FILE"
        )
    if "sbatch_arg" in found and "sbatch_arg" not in own:
        repeated, start = split_start_flags(found.pop("sbatch_arg"))
        if repeated:
            found["sbatch_arg"] = repeated
        if start:
            again = shlex.join(f"--sbatch-arg={flag}" for flag in start)
            session.warn(
                f"The job was submitted with {shlex.join(start)}, and is now without. To use it again: {again}"
            )
    return found


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
    factors, cluster = dict(options.factors), dict(options.cluster)
    known, limits = with_recorded(LaunchOptions(), recorded), dict[str, Any]()
    if "time" in factors:
        cluster["time"] = _grown_time(engine, recorded.get("time"), factors["time"])
    if engine not in CLUSTER_ENGINES:
        if "memory" in cluster:
            limits["task_memory"] = options.task_memory or _size_of(cluster.pop("memory"))
        if "memory" in factors:
            factors.setdefault("task_memory", factors["memory"])
    elif "memory" in factors:
        if "memory" in recorded:
            cluster["memory"] = _grown_memory(engine, recorded["memory"], factors["memory"])
        elif known.task_memory is None:
            raise _no_limit_error("memory", factors["memory"], "4Gi")
        if known.task_memory is not None and options.task_memory is None:
            factors.setdefault("task_memory", factors["memory"])
    for name, example in (("task_memory", "2GiB"), ("task_timeout", "1h")):
        if name in factors:
            if (limit := getattr(known, name)) is None:
                raise _no_limit_error(name if name in options.factors else "memory", factors[name], example)
            grown = limit * factors[name]
            limits[name] = round(grown) if name == "task_memory" else grown
    return dataclasses.replace(options, cluster=cluster, factors={}, **limits)


def _size_of(text: str) -> int:
    size = parse_size(text)
    if size is None:
        raise OptionError(f"invalid memory '{text[:100]}': expected a size like 2GiB, or a factor like x2.", "memory")
    return size


def _grown_memory(engine: str, text: str, factor: float) -> str:
    """Return the memory of a shard that has grown, in the notation of its engine."""
    if engine == "kubernetes":
        return format_size(round(_size_of(text if not text.isdigit() else f"{text}B") * factor)).removesuffix("B")
    size = megabytes(text)
    if size is None:
        raise OptionError(f"invalid memory '{text[:100]}': expected a size like 4G, or a factor like x2.", "memory")
    return f"{math.ceil(size * factor)}M"


def _grown_time(engine: str, text: str | None, factor: float) -> str:
    """Return the time limit of a shard on Slurm that has grown."""
    if engine != "slurm":
        raise no_effect_error("time", engine)
    limit = None if text is None else minutes(text)
    if limit is None:
        raise _no_limit_error("time", factor, "2h")
    return str(math.ceil(limit * factor))


def _no_limit_error(name: str, factor: float, example: str) -> OptionError:
    return OptionError(
        f"invalid {name} 'x{factor:g}': expected a limit like {example}, since the job had none that could grow.", name
    )


# --- an embedded registry that nodes cannot share: docs/decisions/0088-a-drop-of-files.md -----------------------------

_SHARE_HINT = (
    "Let the shards report by files, which commands on the login node deliver: --file-drop. Or name a registry that the"
    " nodes reach over the network: --registry azure://container."
)


def url_for_nodes(url: str) -> str:
    """Return the URL of a registry as the nodes of a cluster open it: an embedded one by its absolute path.

    Raises:
        UsageError: if it is on a network file system.
    """
    if not url.startswith("sqlite:"):
        return url
    path = sqlite_path(url)
    if (kind := network_file_system(path)) is not None:
        raise UsageError(
            f"The registry {path} is on a network file system ({kind}), where the nodes of a cluster cannot share a"
            " SQLite file: they would overwrite each other's records.",
            hint=_SHARE_HINT,
        )
    return f"sqlite://{path}"


def warning_on_login_node(url: str) -> str | None:
    """Return a warning if the registry of a job with a drop of files is on a network file system; None for any other.

    No node opens it. But commands on several login nodes would.
    """
    path = sqlite_path(url) if url.startswith("sqlite:") else None
    if path is None or (kind := network_file_system(path)) is None:
        return None
    return (
        f"The registry {path} is on a network file system ({kind}), where machines cannot share a SQLite file. Run all"
        f" commands on {socket.gethostname()} alone, or name a registry on a local disk of it:"
        " --registry sqlite:///PATH/registry.db"
    )


def check_on_node(url: str) -> None:
    """Check on a node that it shares the registry of its job.

    Raises:
        UsageError: if it is on a network file system, or if this node has no file of it.
    """
    if url.startswith("sqlite:") and not os.path.exists(path := sqlite_path(url_for_nodes(url))):
        raise UsageError(
            f"The node {socket.gethostname()} has no registry {path}: the file is on another machine, or gone.",
            hint=_SHARE_HINT,
        )
