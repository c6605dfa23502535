"""The exit code for the end of a job. A contract with scripts; errors.py has the numbers."""

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
    """Return the exit code for the status of a job in its JSON form."""
    return _BY_STATUS.get(str(job["status"]), EXIT_NOT_FINISHED)


def worst_exit_code(codes: Iterable[int]) -> int:
    """Return one exit code for several jobs: failed outweighs partial, cancelled and not finished, in this order."""
    return min(codes, key=_WORST_FIRST.index, default=EXIT_DONE)
