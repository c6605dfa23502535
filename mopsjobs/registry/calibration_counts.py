"""How far a calibration is, as the record of its job counts it: its rounds and sets, and the best one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopsjobs.registry.notes import CALIBRATION
from mopsjobs.utils.intervals import mean_text
from mopsjobs.utils.json_strict import is_count, is_number
from mopsjobs.utils.text import cut_to_length, pluralize

COUNTS = ("rounds", "at_most", "inherited", "sets", "failed")
"""Rounds that were told, how many there may be, and how many are of the calibrations that this one extends. Then sets
that were told, and those of them without a value."""

MAX_PARAMS = 500
"""Characters of the parameters of the best set, in words."""


def calibration_counts(metadata: object) -> dict[str, Any] | None:
    """Return the counts of a calibration by their names, and its best set; None for any other job.

    The best one is an object of `value`, `half_width`, `round` and `params`; None if no set has a value. Any program
    may have written the record: what is not a count says nothing.
    """
    found = metadata.get(CALIBRATION) if isinstance(metadata, Mapping) else None
    if not isinstance(found, Mapping):
        return None
    counts: dict[str, Any] = {name: found.get(name) for name in COUNTS}
    if not all(map(is_count, counts.values())):
        return None
    return {**counts, "best": _best(found.get("best"))}


def _best(found: object) -> dict[str, Any] | None:
    if not isinstance(found, Mapping) or not is_number(found.get("value")):
        return None
    half_width: Any
    half_width, number, params = (found.get(name) for name in ("half_width", "round", "params"))
    return {
        "value": found["value"],
        "half_width": half_width if is_number(half_width) and half_width >= 0 else None,
        "round": number if is_count(number) else None,
        "params": dict(params) if isinstance(params, Mapping) else {},
    }


def best_of(metadata: object) -> float | None:
    """Return the smallest value that a calibration has found; None for any other job."""
    counts = calibration_counts(metadata)
    return None if counts is None or counts["best"] is None else float(counts["best"]["value"])


def calibration_text(counts: Mapping[str, Any]) -> str:
    """Return counts in words: `5 of 20 rounds, 80 sets, 2 failed; best 0.12 ± 0.02 in round 4`."""
    failed = f", {counts['failed']:,} failed" if counts["failed"] else ""
    done = (
        f"{counts['rounds']:,} of {pluralize(counts['at_most'], 'round')}, {pluralize(counts['sets'], 'set')}{failed}"
    )
    return f"{done}; {best_text(counts)}"


def best_text(counts: Mapping[str, Any]) -> str:
    """Return the best set in words: `best 0.12 ± 0.02 in round 4`."""
    best = counts["best"]
    if best is None:
        return "no set has a value" if counts["sets"] else "no set was told yet"
    where = "" if best["round"] is None else f" in round {best['round']:,}"
    return f"best {mean_text(best['value'], best['half_width'])}{where}"


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters in words: `beta=0.3, mode=slow`."""
    words = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items())
    return cut_to_length(", ".join(words), MAX_PARAMS)
