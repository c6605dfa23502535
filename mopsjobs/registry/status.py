"""The statuses of a job, and the table of their transitions. Pure.

It is a module of its own because listings need it and must start fast: it costs an enum, and the record costs
dataclasses.
"""

from __future__ import annotations

from enum import StrEnum

from mopsjobs.errors import UsageError
from mopsjobs.utils.text import invalid_choice


class JobStatus(StrEnum):
    """The status of a job. The values stand in records, as a contract with ModelOps' programs."""

    PENDING = "pending"
    """Registered, and not yet sent to an engine."""
    SUBMITTING = "submitting"
    """Being sent to the engine."""
    SCHEDULED = "scheduled"
    """The engine has accepted it, and no task has started."""
    RUNNING = "running"
    """Tasks are running."""
    VALIDATING = "validating"
    """Tasks are done, and their outputs are being checked."""
    SUCCEEDED = "succeeded"
    """Ended with all its outputs, or without expected outputs."""
    PARTIAL = "partial"
    """Ended with some of its outputs. Can be resumed."""
    FAILED = "failed"
    """Ended with an error."""
    CANCELLED = "cancelled"
    """Ended by a request of a user."""

    PARTIAL_SUCCESS = "partial"
    """ModelOps' name of the same status."""


_S = JobStatus

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _S.PENDING: frozenset({_S.SUBMITTING, _S.CANCELLED}),
    _S.SUBMITTING: frozenset({_S.SCHEDULED, _S.FAILED}),
    _S.SCHEDULED: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset({_S.VALIDATING, _S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    _S.VALIDATING: frozenset({_S.SUCCEEDED, _S.PARTIAL, _S.FAILED}),
    _S.SUCCEEDED: frozenset(),
    _S.PARTIAL: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
}
"""From each status, the statuses that may come next. Everything else here follows from this table."""

LAUNCH_FAILED = "LAUNCH"
"""The error code of a job whose runner was not started, or ended before its first report."""

RUNNER_LOST = "LOST"
"""The error code of a job whose runner ended without a word."""

REDUCE_TEXT = "the reduce function "
"""How the error of a record names that function, where it has failed or left no outputs."""

INTERRUPTED = "INTERRUPTED"
"""The error code of a job whose runner was stopped by a signal, and was not started again."""

STORE_FAILED = "STORE"
"""The error code of a job whose runner could not store its outputs."""

INFERRED_CODES = frozenset({LAUNCH_FAILED, RUNNER_LOST, INTERRUPTED, STORE_FAILED})
"""The error codes of ends that mops-jobs inferred, while outputs may have been on their way."""

CORRECTIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _S.FAILED: frozenset({_S.PARTIAL, _S.SUCCEEDED}),
    _S.PARTIAL: frozenset({_S.SUCCEEDED}),
}
"""From an end with one of these codes, the ends to which the outputs may correct it. No other end ever changes."""

STATUSES = tuple(JobStatus)
"""All statuses that this version knows, in the order in which a job passes them."""

END_STATUSES = tuple(status for status in STATUSES if not TRANSITIONS[status])
"""The statuses that a job ends with, in the same order."""

TERMINAL = frozenset(END_STATUSES)

ACTIVE = frozenset(STATUSES) - TERMINAL

BEFORE_RUNNING = ACTIVE - {JobStatus.RUNNING, JobStatus.VALIDATING}
"""The statuses of a job of which no task has run."""

GROUPS: dict[str, frozenset[JobStatus]] = {"active": ACTIVE, "done": TERMINAL}
"""Words for several statuses on the command line."""


ARCHIVED = "archived"
"""The label that hides ended jobs from lists, with the value `true`. It is here because listings import this module."""

SWEEP = "sweep"
"""The label that makes one row of its jobs, by its value. See docs/decisions/0127-sweeps.md."""


def parse_status(text: str) -> JobStatus:
    """Return the status of that name, in upper or lower case.

    Raises:
        UsageError: if there is none. The message lists all statuses.
    """
    try:
        return JobStatus(text.strip().lower())
    except ValueError:
        raise UsageError(invalid_choice("status", text, JobStatus)) from None


def parse_statuses(text: str) -> frozenset[JobStatus]:
    """Return the statuses in a comma-separated list of names and groups, in upper or lower case.

    Raises:
        UsageError: if one of them is neither a status nor a group.
    """
    found: set[JobStatus] = set()
    for name in text.split(","):
        word = name.strip().lower()
        if word in GROUPS:
            found |= GROUPS[word]
        elif word in set(JobStatus):
            found.add(JobStatus(word))
        else:
            raise UsageError(invalid_choice("status", name, (*JobStatus, *GROUPS)))
    return frozenset(found)


def steps(current: JobStatus, target: JobStatus) -> tuple[JobStatus, ...] | None:
    """Return the shortest sequence of statuses from `current` to `target`, `target` last; None if there is none.

    An observer may have missed steps: a scheduled job that is found finished was running in between. `cancelled` is
    only ever set explicitly, so it follows only a status that leads to it directly.
    """
    if target is JobStatus.CANCELLED:
        return (target,) if target in TRANSITIONS[current] else None
    paths: list[tuple[JobStatus, ...]] = [()]
    reached = {current}
    for path in paths:
        for following in sorted(TRANSITIONS[path[-1] if path else current], key=list(JobStatus).index):
            if following is target:
                return (*path, following)
            if following not in reached:
                reached.add(following)
                paths.append((*path, following))
    return None
