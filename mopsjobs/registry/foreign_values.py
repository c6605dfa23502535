"""Values of other programs that have another form than the record's fields: how they are shown. Pure.

Reading is lenient where a near value can be shown, and writing is strict. Fields of ModelOps are read so: its programs
write an exit code as a number, an error as an object, or half a task. Fields that only inform are read so, too. A wrong
id, status or time still makes a record unreadable, since a guess there would be a wrong statement about a job.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mopsjobs.errors import shorten

TEXTS = frozenset({"error_message", "error_code", "last_validation_error"})

COUNTS = frozenset({"tasks_total", "tasks_completed", "tasks_verified", "validation_attempts"})

BY_SHARD = frozenset({"usage", "forecast"})
"""Fields that only inform. If they have another form, the record is shown without them."""

MAX_SHOWN = 1000
"""Characters of a value that is not text and shown as text."""

PRINTED_BY_MODELOPS = ("error_message", "error_code", "results_path", "last_validation_error", "metadata")
"""Fields that `mops jobs status` prints through rich. A text such as `[/mnt/x]` ends it with an error, and `[data]` is
not shown."""

_MARK = "\u2060"  # WORD JOINER

_MARKUP = re.compile(rf"\[(?=[a-z#/@{_MARK}])")  # a mark of the text itself gets one, too

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
    elif name in COUNTS and type(value) in (int, float) and -(2**53) < value < 2**53:  # type: ignore[operator]
        near_value = max(0, int(value))  # type: ignore[call-overload]
    elif name in BY_SHARD:
        near_value = MappingProxyType({})
    if near_value is None:
        return None
    shown = "empty" if name in BY_SHARD else shorten(str(near_value), 40)
    return ForeignValue(value, near_value, f"{reason}; shown as {shown}")


def with_marks(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose texts ModelOps shows as they are. A bracket that it takes for markup gets a mark.

    The mark has no width, so that both programs show the same. `without_marks` removes it.
    """
    return record | {name: _marked(record[name]) for name in PRINTED_BY_MODELOPS if record.get(name)}


def _marked(value: object) -> object:
    if isinstance(value, str):
        return _MARKUP.sub("[" + _MARK, value)
    if isinstance(value, Mapping):
        return {_marked(name): _marked(member) for name, member in value.items()}
    return [_marked(member) for member in value] if isinstance(value, (list, tuple)) else value


def without_marks(value: bytes) -> bytes:
    """Return the JSON of a record without the marks, which another program may have written as an escape."""
    return value.replace(f"[{_MARK}".encode(), b"[").replace(b"[\\u2060", b"[")


def finite(value: object) -> object:
    """Return plain JSON types without numbers that JSON does not have: each of them becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(member) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(member) for member in value]
    return value
