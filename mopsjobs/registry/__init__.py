"""The records of all jobs, and the rules by which they change. `JobRegistry` is the only writer of records.

`job_state.py` has the record, `status.py` its statuses and `transitions.py` its rules, as pure functions.
`job_registry.py` applies them by compare-and-swap, and `announcements.py` says before each write which job it changes.

`from mopsjobs.registry import JobRegistry` is the entry for Python programs. The name is resolved late (PEP 562), since
a listing needs only the statuses.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry

__all__ = ["JobRegistry"]


if not TYPE_CHECKING:  # a type checker would take any name for one that exists

    def __getattr__(name: str) -> object:
        if name == "JobRegistry":
            from mopsjobs.registry.job_registry import JobRegistry

            return JobRegistry
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
