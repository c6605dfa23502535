"""Read JSON of other programs strictly: refuse what two readers would understand in two ways.

Python's own reader accepts duplicate names, NaN, numbers beyond every float, and halves of surrogate pairs, which fail
in the next encoder. It refuses depth only where the stack ends, which depends on the caller. RFC 8259 leaves all of
this to the reader. RFC 7493 (I-JSON) forbids most of it.
"""

from __future__ import annotations

import json
import math
import sys

from mopsjobs.errors import RecordError

MAX_DEPTH = 100
"""Lists and objects within each other. Python's own bound depends on its version and on the caller."""


MAX_COUNT = 2**53
"""Whole numbers from here on are rounded by other readers."""


class NotFiniteError(RecordError):
    """The text has NaN, Infinity or a number beyond every float, and is JSON otherwise as far as it was read."""


def read_json(value: bytes, *, max_depth: int = MAX_DEPTH, must_be_finite: bool = True) -> object:
    """Parse JSON in UTF-8, with or without a byte order mark.

    Raises:
        RecordError: if the bytes are not such JSON, or nested deeper than `max_depth`.
        NotFiniteError: if a number is not finite, and `must_be_finite`.
    """
    try:
        text = value.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RecordError("not UTF-8 text") from None
    content = parse_json(text, max_depth=max_depth, must_be_finite=must_be_finite)
    if "\\ud" in text or "\\uD" in text:
        try:
            check_surrogates(content)
        except UnicodeEncodeError:
            raise RecordError("has half a surrogate pair in a text") from None
    return content


def parse_json(text: str, *, max_depth: int = MAX_DEPTH, must_be_finite: bool = True) -> object:
    """Parse JSON as `read_json` does, from text. An escape may be half of a surrogate pair.

    Raises:
        RecordError: if the text is not JSON, or nested deeper than `max_depth`.
        NotFiniteError: if a number is not finite, and `must_be_finite`.
    """
    try:
        content = (_DECODER if must_be_finite else _NOT_FINITE_DECODER).decode(text)
    except NotFiniteError:
        raise
    except RecursionError:
        raise RecordError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"not JSON: {error}") from None
    except ValueError as error:
        # Python bounds the digits that it reads, since the time grows with their square.
        is_number = str(error).startswith("Exceeds the limit")
        raise RecordError(f"not JSON: {'a number with too many digits' if is_number else error}") from None
    if is_deeper(content, max_depth, text):
        raise RecordError("nested too deeply")
    return content


def is_number(value: object) -> bool:
    """Return whether a value of JSON is a number that some float is near. Whole ones may be beyond all of them."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_count(value: object) -> bool:
    """Return whether a value of JSON is a whole number from 0 on that each reader takes as it is."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def check_surrogates(content: object, errors: str = "strict") -> object:
    """Return the content of JSON, without halves of surrogate pairs. `errors="replace"` makes each of them a `?`.

    Raises:
        UnicodeEncodeError: if there is one, and `errors` is "strict".
    """
    return json.loads(json.dumps(content, ensure_ascii=False).encode("utf-8", errors))


def _refuse_constant(name: str) -> float:
    raise NotFiniteError(f"not JSON: invalid number {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits[:40])


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:40]!r} comes twice in one object")
    return members


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique_names)

_NOT_FINITE_DECODER = json.JSONDecoder(object_pairs_hook=_unique_names)


def is_deeper(value: object, max_depth: int, text: str) -> bool:
    """Return whether more than `max_depth` lists and objects lie within each other in `value`.

    It does not recurse, since the stack may be what ends first. `text` is the JSON of `value`: its brackets are counted
    first, which is fast.
    """
    if text.count("[") + text.count("{") <= max_depth:
        return False
    level = [value]
    for _ in range(max_depth):
        inner: list[object] = []
        for outer in level:
            if isinstance(outer, dict):
                inner.extend(outer.values())
            elif isinstance(outer, (list, tuple)):
                inner.extend(outer)
        level = [item for item in inner if isinstance(item, (dict, list, tuple))]
        if not level:
            return False
    return True
