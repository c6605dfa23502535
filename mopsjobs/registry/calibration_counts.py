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

ERRORS, NOT_PRECISE, ASYNCHRONOUS = "errors", "not_precise", "asynchronous"
"""Further fields, which records of earlier versions lack. They count failed sets by their errors, and sets that have
all replicates that they may have without being as precise as asked. The last tells whether each set is a round."""

NO_VALUE = "NoValue"
"""The error of a set whose replicates have no finite value of what the objective names."""

MAX_PARAMS = 500
"""Characters of the parameters of the best set, in words."""

MAX_ERROR = 40
"""Characters of the type of an error, in words."""


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
    errors, not_precise = found.get(ERRORS), found.get(NOT_PRECISE)
    errors = errors if isinstance(errors, Mapping) else {}
    counts[ERRORS] = {str(name): count for name, count in errors.items() if is_count(count) and count}
    counts[NOT_PRECISE] = not_precise if is_count(not_precise) else 0
    counts[ASYNCHRONOUS] = found.get(ASYNCHRONOUS) is True
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
    """Return counts in words: `5 of 20 rounds, 80 sets, 2 failed (ValueError); best 0.12 ± 0.02 in round 4`."""
    sets = "" if counts[ASYNCHRONOUS] else f", {pluralize(counts['sets'], 'set')}"
    done = f"{counts['rounds']:,} of {pluralize(counts['at_most'], round_word(counts))}{sets}{failed_text(counts)}"
    order = "; asynchronous: the order in which sets end decides what is asked" if counts[ASYNCHRONOUS] else ""
    return f"{done}; {best_text(counts)}{order}"


def round_word(counts: Mapping[str, Any]) -> str:
    """Return what a round of a calibration is called: in asynchronous mode, it is a set."""
    return "set" if counts[ASYNCHRONOUS] else "round"


def failed_text(counts: Mapping[str, Any]) -> str:
    """Return in words why sets have no value, and how many are not precise: `, 3 failed (ValueError 2, NoValue 1)`."""
    names = {NO_VALUE: "no finite value"}
    errors = [(names.get(name, cut_to_length(name, MAX_ERROR)), count) for name, count in counts[ERRORS].items()]
    words = ", ".join(name if count == counts["failed"] else f"{name} {count:,}" for name, count in errors)
    failed = f", {counts['failed']:,} failed{words and f' ({words})'}" if counts["failed"] else ""
    return failed + (f", {counts[NOT_PRECISE]:,} not precise" if counts[NOT_PRECISE] else "")


def best_text(counts: Mapping[str, Any]) -> str:
    """Return the best set in words: `best 0.12 ± 0.02 in round 4`."""
    best = counts["best"]
    if best is None:
        return "no set has a value" if counts["sets"] else "no set was told yet"
    where = "" if best["round"] is None else f" in {round_word(counts)} {best['round']:,}"
    return f"best {mean_text(best['value'], best['half_width'])}{where}"


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters in words: `beta=0.3, mode=slow`."""
    words = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items())
    return cut_to_length(", ".join(words), MAX_PARAMS)
