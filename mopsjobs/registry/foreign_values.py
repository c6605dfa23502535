"""Values of other programs that have another form than the record's fields: how they are shown. Pure.

Reading is lenient where a near value can be shown, and writing is strict. Fields of ModelOps are read so: its programs
write an exit code as a number, an error as an object, or half a task. Fields that only inform are read so, too. A wrong
id, status or time still makes a record unreadable, since a guess there would be a wrong statement about a job.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mopsjobs.errors import shorten

TEXTS = frozenset({"error_message", "error_code", "last_validation_error"})

COUNTS = frozenset({"tasks_total", "tasks_completed", "tasks_verified", "validation_attempts"})

BY_SHARD = frozenset({"usage", "forecast"})
"""Fields that only inform. If they have another form, the record is shown without them."""

MAX_SHOWN = 1000
"""Characters of a value that is not text and shown as text."""

NOT_FINITE = "has a number that is not finite (NaN or Infinity), shown as null"


class ForeignValue(NamedTuple):
    """A value of another form, and the near value that a record has in its place.

    While the record has the near value, the value is written back.
    """

    value: object
    near_value: object
    reason: str


def read_foreign(name: str, value: object, reason: str) -> ForeignValue | None:
    """Return what can be shown of a value that a field does not take for `reason`; None if nothing can."""
    near_value: object = None
    if name in TEXTS:
        near_value = shorten(json.dumps(value, ensure_ascii=False), MAX_SHOWN)
    elif name in COUNTS and isinstance(value, float) and math.isfinite(value) and 0 <= value < 2**53:
        near_value = int(value)
    elif name in BY_SHARD:
        near_value = MappingProxyType({})
    if near_value is None:
        return None
    shown = "empty" if name in BY_SHARD else shorten(str(near_value), 40)
    return ForeignValue(value, near_value, f"{reason}; shown as {shown}")


def finite(value: object) -> object:
    """Return plain JSON types without numbers that JSON does not have: each of them becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(member) for member in value]
    return value
