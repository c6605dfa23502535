"""The budget of a job in CPU-hours: how it is given, what its record says of it, and when it is used. Pure.

CPU-hours are the processor time of tasks, as `usage` of the record has it: all attempts, in all runs of a shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.engines import has_drop
from mopsjobs.engines.base import last_launch
from mopsjobs.errors import OptionError, shorten
from mopsjobs.registry.usage import Number, total_usage
from mopsjobs.utils.text import parse_whole_number

if TYPE_CHECKING:
    from mopsjobs.registry.job_state import JobState

OPTION = "max_cpu_hours"

MIN_HOURS, MAX_HOURS = 1e-9, 1e9

SECONDS = 3600.0

ROUNDING = 0.01
"""Seconds by which the record may have less of a shard than it used."""


def parse_cpu_hours(value: str | float) -> float:
    """Return the CPU-hours of a budget.

    Raises:
        OptionError: if it is not a number above zero. It names the field `max_cpu_hours`.
    """
    try:
        hours = float(value) if str(value).isascii() else 0.0
    except ValueError:
        hours = 0.0
    if not MIN_HOURS <= hours <= MAX_HOURS:
        expected = "expected CPU-hours above 0, like 50 or 0.5"
        raise OptionError(f"invalid {OPTION} '{shorten(str(value), 100)}': {expected}.", OPTION)
    return hours


def budget_of(job: Mapping[str, object]) -> float | None:
    """Return the CPU-hours that a job may use, by the options of its last launch; None if it has no budget."""
    try:
        return parse_cpu_hours(last_launch(job)[OPTION])
    except (KeyError, OptionError):
        return None


def budget_text(used_seconds: Number, hours: float) -> str:
    """Return use and budget: `12.4 of 50 CPU-hours`."""
    digits = max(1, 2 - math.floor(math.log10(hours)))  # three digits of the budget
    return f"{(used_seconds or 0.0) / SECONDS:,.{digits}f} of {f'{hours:,.12f}'.rstrip('0').rstrip('.')} CPU-hours"


def spent_budget(state: JobState) -> str | None:
    """Return why a job has ended whose budget is used, as its record tells; None if it is not, or there is none.

    Shards of a drop do not see each other: each has its part of the budget, and ends when that is used.
    """
    job = state.fields()
    hours, options = budget_of(job), last_launch(job)
    if hours is None:
        return None
    used = total_usage(state).cpu_seconds or 0.0
    least = hours * SECONDS - ROUNDING * len(state.usage)
    shards = (parse_whole_number(options.get("shards", ""), 1, 10**6) or 1) if has_drop(job) else 1
    parts = [values[0] or 0.0 for values in state.usage.values()]  # type: ignore[index]
    is_spent = used >= least or (shards > 1 and max(parts, default=0.0) >= hours * SECONDS / shards - ROUNDING)
    return budget_reason(used, hours) if is_spent else None


def budget_reason(used_seconds: float, hours: float, part: float | None = None) -> str:
    """Return the sentence about the end of a job whose budget is used, without its full stop.

    Args:
        used_seconds: what was used.
        hours: the budget.
        part: the part of it that a shard has; None: the job as a whole is meant.
    """
    whose = "" if part is None else " by this shard"
    return f"Ended by --max-cpu-hours {hours:.12g}: {budget_text(used_seconds, part or hours)} used{whose}"
