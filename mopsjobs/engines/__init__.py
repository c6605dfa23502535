"""Engines, where tasks run, one module or package each. `open_engine` imports the one that is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.errors import EngineError, UsageError
from mopsjobs.utils.text import invalid_choice
from mopsjobs.utils.user_dirs import HAS_USERS

if TYPE_CHECKING:
    from mopsjobs.engines.base import Engine
    from mopsjobs.engines.trust import Trust

ENGINES = ("local", "kubernetes", "dask", "slurm")

LOCAL_ENGINES = ("local", "dask")
"""Engines whose runner is a process of this machine."""

CLUSTER_ENGINES = tuple(name for name in ENGINES if name not in LOCAL_ENGINES)
"""Engines that answer from any machine that reaches them. Commands ask them about a job whose record is silent."""

NOTIFY_PREFIX = "MOPS_JOBS_NOTIFY_"
"""Begins the name of each variable with the secret of a rule of notifications. Models do not get these variables."""


def has_drop(job: Mapping[str, object]) -> bool:
    """Return whether the shards of a job report by files, as the record has its last launch.

    True also of an option that is neither yes nor no: nothing may end such a job. `find_drop` refuses it.
    """
    metadata = job.get("metadata")
    option = metadata.get("slurm_file_drop") if isinstance(metadata, Mapping) else None
    return job.get("engine") == "slurm" and option not in (None, "no")


def check_runner() -> None:
    """Check that a runner can work on this system.

    Raises:
        EngineError: if it cannot, as on Windows.
    """
    if not HAS_USERS:
        raise EngineError(
            "Windows does not run tasks of mops-jobs: it has no process groups, signals and locks as a runner needs.",
            hint="Submit to a cluster, as with --engine kubernetes, or start mops-jobs in WSL.",
        )


def open_engine(name: str, env: Mapping[str, str], trust: Trust | None = None) -> Engine:
    """Return the engine of that name. Opening starts and sends nothing.

    Args:
        name: one of `ENGINES`.
        env: the environment, with the engine's configuration.
        trust: the choices of records that the user trusts; None: none.

    Raises:
        UsageError: if the engine does not exist.
        EngineError: if something that it needs is not installed or not configured; the hint says how to get it.
    """
    if name not in ENGINES:
        raise UsageError(invalid_choice("engine", name, ENGINES))
    if name == "kubernetes":
        from mopsjobs.engines.kubernetes.engine import KubernetesEngine

        return KubernetesEngine(env, trust=trust)
    if name == "slurm":
        from mopsjobs.engines.slurm.engine import SlurmEngine

        return SlurmEngine(env)
    if name == "dask":
        from mopsjobs.engines.dask import DaskEngine

        return DaskEngine(env)
    from mopsjobs.engines.local import LocalEngine

    return LocalEngine(env)
