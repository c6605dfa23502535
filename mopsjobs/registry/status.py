"""The statuses of a job, and the one table that says how they follow on each other. Pure.

Apart from job.py because listings need it and must start fast: this module costs an enum, the record costs dataclasses.
"""

from __future__ import annotations

from enum import StrEnum

from mopsjobs.errors import UsageError


class JobStatus(StrEnum):
    """Where a job stands. The values are what records carry, a contract with ModelOps' programs."""

    PENDING = "pending"
    """Registered, nothing sent to an engine yet."""
    SUBMITTING = "submitting"
    """On its way to the engine."""
    SCHEDULED = "scheduled"
    """The engine has it; no task has started."""
    RUNNING = "running"
    """Tasks are being worked on."""
    VALIDATING = "validating"
    """Tasks are done; their outputs are being looked for."""
    SUCCEEDED = "succeeded"
    """Ended well: all outputs are there, or nobody asked for any."""
    PARTIAL = "partial"
    """Ended with some outputs missing. Can be resumed."""
    FAILED = "failed"
    """Ended by an error."""
    CANCELLED = "cancelled"
    """Ended because somebody asked for it."""

    PARTIAL_SUCCESS = "partial"
    """ModelOps' name for PARTIAL; the same member."""


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
"""From each status, the ones that may come next. Everything else here follows from this table."""


TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)


ACTIVE = frozenset(JobStatus) - TERMINAL


GROUPS: dict[str, frozenset[JobStatus]] = {"active": ACTIVE, "done": TERMINAL}
"""Words that stand for several statuses on the command line."""


def parse_status(text: str) -> JobStatus:
    """The status of that name, in any case.

    Raises:
        UsageError: there is none. Lists those that there are.
    """
    try:
        return JobStatus(text.strip().lower())
    except ValueError:
        raise UsageError(f"'{text}' is no status: use one of {', '.join(JobStatus)}.") from None


def parse_statuses(text: str) -> frozenset[JobStatus]:
    """The statuses in a comma-separated list of names and groups, in any case.

    Raises:
        UsageError: one of them is neither a status nor a group.
    """
    found: set[JobStatus] = set()
    for name in text.split(","):
        word = name.strip().lower()
        if word in GROUPS:
            found |= GROUPS[word]
        elif word in set(JobStatus):
            found.add(JobStatus(word))
        else:
            raise UsageError(f"'{name}' is no status: use {', '.join(JobStatus)}, or the groups {', '.join(GROUPS)}.")
    return frozenset(found)


def steps(current: JobStatus, target: JobStatus) -> tuple[JobStatus, ...] | None:
    """The statuses to pass through from `current` to `target`, the shortest way, `target` last; None: no way.

    An observer may have missed steps: a job that was scheduled and is found finished has been running in between. Being
    cancelled is no such finding but an act, so it is never reached by a walk, only from a status next to it.
    """
    if target is JobStatus.CANCELLED:
        return (target,) if target in TRANSITIONS[current] else None
    ways: list[tuple[JobStatus, ...]] = [()]
    seen = {current}
    for way in ways:
        for following in sorted(TRANSITIONS[way[-1] if way else current], key=list(JobStatus).index):
            if following is target:
                return (*way, following)
            if following not in seen:
                seen.add(following)
                ways.append((*way, following))
    return None
