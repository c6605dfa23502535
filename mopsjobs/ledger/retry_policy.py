"""Which attempts are followed by another one: by the cause of their end, up to a number.

An error of the model is only tried again if its type is named: it would fail in the same way.
See docs/decisions/0068-retry-by-cause.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.errors import OptionError, shorten
from mopsjobs.ledger.attempt import Attempt, Outcome
from mopsjobs.utils.text import did_you_mean, parse_whole_number

OUT_OF_MEMORY = "OutOfMemory"
"""The type of the error if the kernel killed a worker for its memory. A `MemoryError` is an error of the model."""

MEMORY_LIMIT = "MemoryLimit"
"""The type of the error if a task used more than `--task-memory`."""

MAX_RETRIES = 100

ERROR_PREFIX = "error:"

CAUSES = (str(Outcome.OOM), str(Outcome.TIMEOUT), str(Outcome.DIED))
"""Causes besides `error:TYPE`."""

FIRST_PAUSE = 1.0
"""Seconds before an error of the model is tried again. Each pause is twice the one before."""

MAX_PAUSE = 60.0

_TYPE = re.compile(r"[^\W\d]\w{0,99}")


class RetryPolicy(NamedTuple):
    """The number of further attempts at a task, and the ends that they follow."""

    retries: int = 1
    """Attempts after the first one, at most."""
    causes: frozenset[str] = frozenset({str(Outcome.DIED)})
    """Some of `CAUSES`, or `error:TYPE` with the name of an exception."""

    def tries_again(self, attempt: int, outcome: Outcome, error_type: str | None) -> bool:
        """Return whether an attempt that ended so is followed by another one.

        Args:
            attempt: which attempt it was, from 1, without those that were preempted.
            outcome: how it ended.
            error_type: the type of its error.
        """
        if attempt > self.retries:
            return False
        is_killed = outcome == Outcome.OOM and error_type == OUT_OF_MEMORY
        # The kernel may have killed it because of what others used. So that counts as the death of a worker, too.
        return (
            str(outcome) in self.causes
            or f"{ERROR_PREFIX}{error_type}" in self.causes
            or (is_killed and Outcome.DIED in self.causes)
        )

    def pause(self, attempt: int, outcome: Outcome) -> float:
        """Return the seconds to wait before the next attempt. Only an error of the model may pass with time."""
        return min(MAX_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) if outcome == Outcome.FAILED else 0.0

    def is_final(self, attempt: Attempt) -> bool:
        """Return whether a runner that goes on does not try the task again after this attempt.

        An attempt that was stopped or lost leaves its task to the next run.
        """
        if attempt.outcome in (Outcome.CANCELLED, Outcome.PREEMPTED, Outcome.LOST):
            return False
        return not self.tries_again(attempt.attempt, attempt.outcome, attempt.error and attempt.error.type)


def parse_causes(text: str) -> frozenset[str]:
    """Return the causes in a text, which separates them by commas.

    Raises:
        OptionError: if one is unknown.
    """
    causes = [word.strip() for word in text.split(",")]
    for cause in causes:
        is_error = cause.startswith(ERROR_PREFIX) and _TYPE.fullmatch(cause.removeprefix(ERROR_PREFIX))
        if cause not in CAUSES and not is_error:
            nearest = did_you_mean(cause, CAUSES) or (
                f" Did you mean '{ERROR_PREFIX}{cause}'?" if _TYPE.fullmatch(cause) and cause[:1].isupper() else ""
            )
            expected = f"expected some of {', '.join(CAUSES)} and {ERROR_PREFIX}TYPE, separated by commas"
            raise OptionError(f"invalid retry_on '{shorten(cause, 100)}': {expected}.{nearest}", "retry_on")
    return frozenset(causes)


def retry_policy(retries: int | None, retry_on: str | None) -> RetryPolicy:
    """Return the policy of these options of a launch; None stands for the default of each.

    Raises:
        OptionError: if an option is invalid.
    """
    policy = RetryPolicy()
    if retries is not None and not (type(retries) is int and 0 <= retries <= MAX_RETRIES):
        shown = shorten(str(retries), 100)
        raise OptionError(f"invalid retries '{shown}': expected a whole number from 0 to {MAX_RETRIES}.", "retries")
    return RetryPolicy(
        policy.retries if retries is None else retries, policy.causes if retry_on is None else parse_causes(retry_on)
    )


def recorded_policy(recorded: Mapping[str, str]) -> RetryPolicy:
    """Return the policy of a launch, as far as its record has a valid one; see `engines.base.recorded_launch`."""
    try:
        return retry_policy(
            parse_whole_number(recorded.get("retries", ""), 0, MAX_RETRIES), recorded.get("retry_on") or None
        )
    except OptionError:
        return RetryPolicy()
