"""Where tasks run, one module an engine; `open_engine(name)` picks one and imports what it needs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.errors import UsageError

if TYPE_CHECKING:
    from mopsjobs.engines.base import Engine
    from mopsjobs.engines.trust import Trust

ENGINES = ("local", "kubernetes", "dask")


def open_engine(name: str, env: Mapping[str, str], trust: Trust | None = None) -> Engine:
    """The engine of that name. Opening starts and sends nothing.

    Args:
        name: which.
        env: where configuration is found.
        trust: what the user has named of that which records choose; None: nothing.

    Raises:
        UsageError: there is none.
        EngineError: what it needs is not installed or not configured; says how to get it.
    """
    if name == "local":
        from mopsjobs.engines.local import LocalEngine

        return LocalEngine(env)
    if name == "kubernetes":
        from mopsjobs.engines.kubernetes.engine import KubernetesEngine

        return KubernetesEngine(env, trust=trust)
    if name == "dask":
        from mopsjobs.engines.dask import DaskEngine

        return DaskEngine(env)
    raise UsageError(f"'{name}' is no engine: use {', '.join(ENGINES)}.")
