"""One attempt: one try at a task, with its outcome and what it used."""

from __future__ import annotations

import enum
import hashlib
import re
from typing import NamedTuple


class Outcome(enum.StrEnum):
    """The end of an attempt."""

    SUCCEEDED = "succeeded"
    """The model returned, and its outputs are in the store or on their way to it."""
    FAILED = "failed"
    """The model raised an error, or left other outputs than the study names."""
    TIMEOUT = "timeout"
    """The attempt took longer than `--task-timeout`."""
    OOM = "oom"
    """The model ran out of memory: a MemoryError, a kill by the kernel, or more than `--task-memory`."""
    DIED = "died"
    """The worker ended while it ran the task."""
    PREEMPTED = "preempted"
    """The task saved a checkpoint and ended, to be started again: it was told to stop, or asked for it."""
    CANCELLED = "cancelled"
    """The job was cancelled or the runner was asked to stop."""
    LOST = "lost"
    """The runner was killed. The end of the attempt was not seen, or its outputs were lost with the runner."""


FAILED_OUTCOMES = tuple(map(str, (Outcome.FAILED, Outcome.TIMEOUT, Outcome.OOM, Outcome.DIED, Outcome.LOST)))
"""The outcomes of failed tasks. A cancelled task has not failed."""


class AttemptError(NamedTuple):
    """The reason for a failed attempt."""

    key: str
    """The signature of the error; equal for attempts that failed for the same reason."""
    type: str
    """The name of the exception, or a word of the runner: `Timeout`, `WorkerDied`, `MissingOutput`, …"""
    where: str | None
    """`FILE:LINE` of the innermost line of the model's own code; None if there is none."""
    message: str
    """The message of the error, cut to `MAX_MESSAGE_CHARACTERS`."""


class Resumed(NamedTuple):
    """The checkpoint that an attempt goes on from."""

    number: int
    """Counts the checkpoints of the task, from 1."""
    at: str
    """The name that the model gave it."""
    seconds: float
    """How long the task had worked by then, without what was lost."""


class Attempt(NamedTuple):
    """One try at a task. What could not be observed is None."""

    task: int
    """The number of the task in the study, from 0."""
    attempt: int
    """Which try at the task it was in its run, from 1. A later run of the shard begins at 1 again."""
    outcome: Outcome
    started_at: float | None
    """Seconds since the epoch, in UTC, by the clock of the host."""
    seconds: float | None
    """How long it took, by a monotonic clock."""
    user_seconds: float | None
    """Processor time in user mode, of the worker and of the processes that it waited for."""
    system_seconds: float | None
    """Processor time in the kernel, of the same processes."""
    max_rss_bytes: int | None
    """The peak of resident memory, of the worker during the attempt or of a process that it waited for."""
    host: str | None
    """The name of the machine."""
    python: str | None
    """The version of the model's interpreter, for example `3.12.4`."""
    error: AttemptError | None
    """None if it succeeded or was stopped."""
    output_bytes: int | None
    """The size of all its outputs together; None if it left none."""
    resumed: Resumed | None = None
    """None if it began from the start."""


MAX_MESSAGE_CHARACTERS = 500
"""Characters of an error's message that the ledger keeps. The event of the failure has more."""


class Usage(NamedTuple):
    """Measurements of an attempt, as `Attempt` has them. What could not be observed is None."""

    seconds: float | None
    user_seconds: float | None
    system_seconds: float | None
    max_rss_bytes: int | None
    host: str | None
    python: str | None

    @property
    def cpu_seconds(self) -> float | None:
        """Return the processor time, in user mode and in the kernel; None if neither was observed."""
        if self.user_seconds is None and self.system_seconds is None:
            return None
        return (self.user_seconds or 0.0) + (self.system_seconds or 0.0)


NO_USAGE = Usage(None, None, None, None, None, None)


MAX_NORMALISED = 2_000
"""Characters of a message that count. The first ones name the reason; an array may follow."""

_PATTERNS = (
    # Times come before numbers, and ids before both.
    (r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:Z|[+-]\d\d:?\d\d)?", "<time>"),
    (r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b", "<time>"),
    (r"\b0[xX][0-9a-fA-F]+\b", "<address>"),
    # Directories: an absolute path, one from home or from here, or one with two separators. The name stays.
    (r"(?<![\w/])(?:[A-Za-z]:|~|\.{1,2})?[/\\](?:[^\s/\\'\"<>|:,;()]+[/\\])*(?=[^\s/\\'\"<>|:,;()])", "…/"),
    # It begins where its first name does: from each dot of a line of dots, the time would grow with its square.
    (r"(?<![\w/….-])[\w.-]+/(?:[\w.-]+/)+(?=[\w.-])", "…/"),
    # A quoted text with digits names one thing among many.
    (r"'[^'\s]{0,200}\d[^'\s]{0,200}'", "'<id>'"),
    (r'"[^"\s]{0,200}\d[^"\s]{0,200}"', '"<id>"'),
    # A number of bytes is not an id: 300000001B.
    (r"\b(?!\d+B\b)(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b", "<id>"),
    (r"(?<![\w.])[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?", "#"),
    (r"\d+", "#"),
    # As many numbers as there are in an array.
    (r"#(?:[,;]?\s+#|[,;]#)+", "#, …"),
)

_COMPILED = [(re.compile(pattern), mark) for pattern, mark in _PATTERNS]


def normalise(message: str) -> str:
    """Return a message with marks in place of what differs between tasks: numbers, ids, times, addresses, directories.

    `beta=0.93 is above 0.9 in /data/run-17/in.csv` becomes `beta=# is above # in …/in.csv`.
    """
    text = message[:MAX_NORMALISED]
    for pattern, mark in _COMPILED:
        text = pattern.sub(mark, text)
    return text


def error_signature(kind: str, where: str | None, message: str) -> str:
    """Return the signature of an error, as 12 hexadecimal digits.

    Args:
        kind: the name of the exception.
        where: `FILE:LINE` of the innermost line of the model's own code, or `cell NAME:LINE`.
        message: the message.
    """
    text = "\0".join((kind, where or "", normalise(message)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def attempt_error(kind: str, where: str | None, message: str) -> AttemptError:
    """Return the error of an attempt, with its signature. Arguments: see `error_signature`."""
    return AttemptError(error_signature(kind, where, message), kind, where, message[:MAX_MESSAGE_CHARACTERS])
