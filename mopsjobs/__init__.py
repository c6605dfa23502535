"""mops-jobs: see, wait for and steer batch simulation jobs without kubectl.

A module imports only from lower floors, or within its package (docs/architecture.md; held by
tests/project/test_layers.py). From the lowest floor up:

    errors
    utils
    console, engines, store
    bundles, registry
    events, ledger, studies
    cache, modelops, submission
    runner
    app
    web
    cli
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store import open_store

__all__ = ["JobRegistry", "__version__", "open_store"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Look a public name up when it is first used (PEP 562): `import mopsjobs` imports nothing else.

    Raises:
        AttributeError: if there is no such name.
    """
    if name == "JobRegistry":
        from mopsjobs.registry.job_registry import JobRegistry

        return JobRegistry
    if name == "open_store":
        from mopsjobs.store import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
