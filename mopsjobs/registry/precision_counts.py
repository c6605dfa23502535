"""The precision of an adaptive study, as the record of its job counts it: its parameter sets, and its tasks. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopsjobs.registry.notes import PRECISION
from mopsjobs.utils.json_strict import is_count

COUNTS = ("sets", "precise", "failed", "at_max", "needed", "at_most")
"""Parameter sets, and those of them with a final verdict; tasks that are needed as far as is known, and at most."""

WIDEST = "widest"
"""The set that is furthest from its goal, in words. If only failed sets are: one without a finite value, and why."""

MAX_WIDEST = 200
"""Characters of it."""


def precision_counts(metadata: object) -> dict[str, Any] | None:
    """Return the counts and `WIDEST` of a job, by their names; None if its study is not adaptive.

    Any program may have written the record: what is not a count says nothing.
    """
    found = metadata.get(PRECISION) if isinstance(metadata, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    counts: dict[str, Any] = {name: found.get(name) for name in COUNTS}
    if not all(map(is_count, counts.values())):
        return None
    widest = found.get(WIDEST)
    return {**counts, WIDEST: widest[:MAX_WIDEST] if isinstance(widest, str) else None}


def precision_text(counts: Mapping[str, Any]) -> str:
    """Return counts in words: `212 of 256 sets precise, 1 failed; 14,310 of at most 128,000 tasks; widest: …`."""
    is_open = counts["needed"] < counts["at_most"]
    tasks = f"{counts['needed']:,} of at most {counts['at_most']:,} tasks" if is_open else f"{counts['needed']:,} tasks"
    is_failure = counts["precise"] + counts["failed"] == counts["sets"]  # then no interval is too wide
    widest = [f"{'failed' if is_failure else 'widest'}: {counts[WIDEST]}"] if counts[WIDEST] else []
    return "; ".join([sets_text(counts), tasks, *widest])


def sets_text(counts: Mapping[str, Any]) -> str:
    """Return counts of sets in words."""
    words = [f"{counts['precise']:,} of {counts['sets']:,} sets precise"]
    words += [f"{counts[name]:,} {word}" for name, word in (("failed", "failed"), ("at_max", "at max")) if counts[name]]
    return ", ".join(words)
