"""The records of all jobs, and the rules by which they change. The only writer of records.

`from mopsjobs.registry import JobRegistry` is the entry for Python programs. It is looked up late (PEP 562), so that
a listing, which needs a status alone, does not import the rest.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant
if TYPE_CHECKING:
    from mopsjobs.registry.job_registry import JobRegistry

__all__ = ["JobRegistry"]


def __getattr__(name: str) -> object:
    if name == "JobRegistry":
        from mopsjobs.registry.job_registry import JobRegistry

        return JobRegistry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
