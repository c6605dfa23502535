"""mops-jobs: see, wait for and steer batch simulation jobs without kubectl.

A module imports only from lower floors, or within its package (docs/architecture.md; held by
tests/project/test_layers.py). From the lowest floor up:

    version, errors
    utils
    console, engines, store
    registry
    bundles
    events, ledger
    studies
    cache, modelops, submission
    runner
    app
    api, web
    cli
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.api.calibration import Calibration
    from mopsjobs.api.cell import Cell, cell
    from mopsjobs.api.checkpoint import Checkpoint, checkpoint
    from mopsjobs.api.current import CurrentTask, current, log
    from mopsjobs.api.info import JobInfo
    from mopsjobs.api.registry import Job, Registry, connect
    from mopsjobs.api.session import Evaluation, Session
    from mopsjobs.api.study import Study, grid
    from mopsjobs.api.table import Failures, Results, Table
    from mopsjobs.engines.trust import NotTrustedError
    from mopsjobs.errors import (
        AmbiguousJobError,
        CacheError,
        ConfigError,
        EngineError,
        InvalidTransitionError,
        JobBusyError,
        JobCancelledError,
        JobEndError,
        JobExistsError,
        JobFailedError,
        JobNotFinishedError,
        JobNotFoundError,
        JobPartialError,
        MopsJobsError,
        NoManifestError,
        NoOutputsError,
        RecordError,
        StoreAccessError,
        StoreError,
        StoreUnavailableError,
        TaskFailedError,
        TerminalStateError,
        TooManyRetriesError,
        UsageError,
    )
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store import open_store
    from mopsjobs.studies.study_parser import StudyError
    from mopsjobs.version import __version__

__all__ = [
    "AmbiguousJobError",
    "CacheError",
    "Calibration",
    "Cell",
    "Checkpoint",
    "ConfigError",
    "CurrentTask",
    "EngineError",
    "Evaluation",
    "Failures",
    "InvalidTransitionError",
    "Job",
    "JobBusyError",
    "JobCancelledError",
    "JobEndError",
    "JobExistsError",
    "JobFailedError",
    "JobInfo",
    "JobNotFinishedError",
    "JobNotFoundError",
    "JobPartialError",
    "JobRegistry",
    "MopsJobsError",
    "NoManifestError",
    "NoOutputsError",
    "NotTrustedError",
    "RecordError",
    "Registry",
    "Results",
    "Session",
    "StoreAccessError",
    "StoreError",
    "StoreUnavailableError",
    "Study",
    "StudyError",
    "Table",
    "TaskFailedError",
    "TerminalStateError",
    "TooManyRetriesError",
    "UsageError",
    "__version__",
    "cell",
    "checkpoint",
    "connect",
    "current",
    "grid",
    "log",
    "open_store",
]


_MODULES = {
    "mopsjobs.api.calibration": ("Calibration",),
    "mopsjobs.api.cell": ("Cell", "cell"),
    "mopsjobs.api.checkpoint": ("Checkpoint", "checkpoint"),
    "mopsjobs.api.current": ("CurrentTask", "current", "log"),
    "mopsjobs.api.info": ("JobInfo",),
    "mopsjobs.api.registry": ("Job", "Registry", "connect"),
    "mopsjobs.api.session": ("Evaluation", "Session"),
    "mopsjobs.api.study": ("Study", "grid"),
    "mopsjobs.api.table": ("Failures", "Results", "Table"),
    "mopsjobs.engines.trust": ("NotTrustedError",),
    "mopsjobs.registry.job_registry": ("JobRegistry",),
    "mopsjobs.store": ("open_store",),
    "mopsjobs.studies.study_parser": ("StudyError",),
    "mopsjobs.version": ("__version__",),
}
"""The modules that have the public names. `mopsjobs.errors` has all others."""


if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> object:
        """Look a public name up when it is first used (PEP 562): `import mopsjobs` imports nothing else.

        Raises:
            AttributeError: if the name does not exist.
        """
        if name not in __all__:
            import sys

            # The module and the name let Python suggest the nearest name.
            message = f"module {__name__!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[__name__])
        from importlib import import_module

        module = next((module for module, names in _MODULES.items() if name in names), "mopsjobs.errors")
        return getattr(import_module(module), name)


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return [*globals(), *__all__]
