"""The limit of failed tasks above which a job is ended: a number, or a share of its tasks. Pure.

A share is judged by the evidence so far, so that chance does not end a job. docs/decisions/0070-fail-early.md has the
rule and its arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.errors import OptionError
from mopsjobs.registry.transitions import counts_of_shards
from mopsjobs.utils.text import parse_whole_number

MAX_NUMBER = 10**9 - 1

USUAL_PART = 1 / 3
"""A job whose tasks fail at up to this part of its limit is never to be ended by chance."""

CHANCE = 1e-9
"""How likely chance may explain the failures of such a job, at most, when it is ended."""

_PERCENT = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)%", re.ASCII)


class Tally(NamedTuple):
    """The counts of a job over its shards."""

    completed: int
    failed: int
    unfinished: int
    """Shards that have work left, also those that have not reported yet."""


def tally(by_shard: Mapping[str, object], shards: int, shard: int, own: tuple[int, int]) -> Tally:
    """Return the counts of a job.

    Args:
        by_shard: the field `shards` of the record.
        shards: how many shards the job has.
        shard: the shard whose counts are known better than by the record.
        own: what it has completed, and what has failed.
    """
    counted: dict[str, Any] = counts_of_shards(by_shard, shards, shard, (*own, 0))
    completed, failed, done = (sum(column) for column in zip(*counted.values(), strict=True))
    return Tally(completed, failed, shards - done)


class FailureLimit(NamedTuple):
    """The limit of a job."""

    text: str
    """As the user gave it."""
    number: int | None
    """Tasks that may fail; None if the limit is a share."""
    share: float | None
    """The part of the tasks that may fail, above 0 and below 1; None if the limit is a number."""

    def is_exceeded(self, failed: int, begun: int) -> bool:
        """Return whether more tasks have failed than the limit allows.

        Args:
            failed: the failed tasks.
            begun: the tasks that have ended or are at work. Those at work count, since failures are often early.
        """
        if self.number is not None:
            return failed > self.number
        assert self.share is not None  # noqa: S101 - one of the two is set
        return failed > self.share * begun and _log_chance(failed, begun, self.share * USUAL_PART) <= math.log(CHANCE)


def _log_chance(failed: int, begun: int, rate: float) -> float:
    """Return a bound on the logarithm of the chance that as many of the begun tasks fail, if each does at this rate.

    It holds where more have failed than the rate explains: H. Chernoff, Ann. Math. Statist. 23 (1952), 493-507.
    """
    well = begun - failed
    bound = failed * math.log(begun * rate / failed)
    return bound + (well * math.log(begun * (1 - rate) / well) if well else 0.0)


def parse_failure_limit(text: str) -> FailureLimit:
    """Return the limit that a text stands for: `10` tasks, or `10%` of them.

    Raises:
        OptionError: if it is neither. It names the field `max_failures`.
    """
    number = parse_whole_number(text, 0, MAX_NUMBER)
    if number is not None:
        return FailureLimit(text, number, None)
    percent = _PERCENT.fullmatch(text)
    share = 0.0 if percent is None else float(percent[1]) / 100
    if not share:
        problem = f"invalid max_failures '{text}': expected a number of tasks, or a share above 0% and below 100%."
        raise OptionError(problem, "max_failures")
    return FailureLimit(text, None, share)
