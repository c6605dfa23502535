"""Check the JSON of the rows of a snapshot: its form, not whether the values are true.

A view of all jobs reads these columns without checks, since `rows.to_row` has made them. So one row of another form
would end each listing by an internal error. To read each record strictly takes as long as a listing. So only the types
of its fields are compared, with those of a job without values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any

from mopsjobs.errors import RecordError
from mopsjobs.registry.job_state import FIELDS, JobState
from mopsjobs.utils.json_strict import check_surrogates
from mopsjobs.utils.times import parse_time

_NUMBER = (int, float, NoneType)

MAX_NUMBER = 2**53
"""Bound of numbers and counts in records."""

_USAGE = dict.fromkeys(("cpu_seconds", "task_seconds", "held_core_seconds", "cpu_efficiency", "max_rss_bytes"), _NUMBER)

_FORECAST: dict[str, tuple[type, ...]] = {
    "earliest": _NUMBER, "latest": _NUMBER, "basis": (dict,), "stragglers": (dict, NoneType),
}  # fmt: skip


def _refuse(name: str) -> float:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse)
"""Made once. Unlike `read_json`, it is fast."""


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object without space around it.

    Raises:
        RecordError: if the text is not one, has NaN, or half of a surrogate pair.
    """
    try:
        content, end = _DECODER.raw_decode(text)
        if "\\ud" in text or "\\uD" in text:
            check_surrogates(content)
    except (ValueError, RecursionError):
        raise RecordError("not JSON") from None
    if not isinstance(content, dict) or end != len(text):
        raise RecordError("not a JSON object")
    return content


def check_rows(columns: Mapping[str, Sequence[Any]]) -> None:
    """Check the columns with JSON and with times as text.

    Raises:
        RecordError: if one has a form that no row has.
    """
    known: set[tuple[type, ...]] = set()
    for text, job_id in zip(columns["record"], columns["job_id"], strict=True):
        record = parse_object(text)
        types = tuple(map(type, record.values()))
        if tuple(record) != FIELDS or record["job_id"] != job_id or not (types in known or _are_of_fields(types)):
            raise RecordError("invalid column record")
        known.add(types)
    for name, kinds in (("usage", _USAGE), ("forecast", _FORECAST)):
        for text in {text for text in columns[name] if text is not None}:
            found = parse_object(text)
            if found.keys() != kinds.keys() or not all(type(found[key]) in kinds[key] for key in kinds):
                raise RecordError(f"invalid column {name}")
            since = (found.get("stragglers") or {"since": None}).get("since", "none")
            for number in (since, *(value for key, value in found.items() if kinds[key] is _NUMBER)):
                if number is not None and not (type(number) in _NUMBER and 0 <= number < MAX_NUMBER):
                    raise RecordError(f"invalid number in column {name}")
    try:
        for text in {text for text in columns["status_since"] if text is not None}:
            parse_time(text)
    except ValueError:
        raise RecordError("invalid column status_since") from None


def _are_of_fields(types: tuple[type, ...]) -> bool:
    return all(found in kinds for found, kinds in zip(types, _field_types(), strict=True))


def _field_types() -> list[tuple[type, ...]]:
    """Return the types of each field: that of its value in a job without values; a text if that has none."""
    fields = JobState(job_id="", status="", created_at="", updated_at="").fields()
    return [(str, NoneType) if value is None else (type(value),) for value in fields.values()]
