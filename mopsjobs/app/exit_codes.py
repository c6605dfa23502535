"""How a job's end is told by an exit code. A contract with scripts; see errors.py for the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mopsjobs.errors import EXIT_DONE, EXIT_JOB_CANCELLED, EXIT_JOB_FAILED, EXIT_JOB_PARTIAL, EXIT_NOT_FINISHED

_BY_STATUS = {
    "succeeded": EXIT_DONE,
    "failed": EXIT_JOB_FAILED,
    "partial": EXIT_JOB_PARTIAL,
    "cancelled": EXIT_JOB_CANCELLED,
}


_WORST_FIRST = (EXIT_JOB_FAILED, EXIT_JOB_PARTIAL, EXIT_JOB_CANCELLED, EXIT_NOT_FINISHED, EXIT_DONE)


def exit_code_of(job: Mapping[str, object]) -> int:
    """The exit code that tells where a job, as scripts get it, stands."""
    return _BY_STATUS.get(str(job["status"]), EXIT_NOT_FINISHED)


def worst(codes: Iterable[int]) -> int:
    """The one exit code for several jobs: a failure outweighs all, then partial, cancelled, not finished."""
    return min(codes, key=_WORST_FIRST.index, default=EXIT_DONE)
