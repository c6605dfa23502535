"""The values of the fields of a study: a parser takes the JSON of a field, its name, and the list of problems so far.

What is wrong becomes one more problem, and the value that is returned then does not matter.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mopsjobs.errors import shorten
from mopsjobs.studies.precision import Precision, Target
from mopsjobs.studies.seeds import COMMON, MAX_SEED, MODELOPS, MOPS_JOBS, SeedRule

MAX_NUMBER_BITS = 4096
"""Of a whole number: more than any model needs, and within what every JSON reader of a Python reads."""

MAX_TASKS = 10**7
"""Of a job. Each reader of a manifest counts the tasks and draws their seeds: half a minute for this number."""

MAX_SHOWN = 40
"""Characters of a wrong value."""

MISSING = object()
"""In place of the value of a field without a default that the study lacks."""

_FUNCTION = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")

_OUTPUT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,126}[A-Za-z0-9._-])?", re.ASCII)


@functools.lru_cache(maxsize=1024)
def is_output_name(name: str) -> bool:
    """Return True if an output may have this name: it becomes the end of a key and the name of a file."""
    return _OUTPUT_NAME.fullmatch(name) is not None


def parse_text(value: object, where: str, problems: list[str]) -> str:
    """Return a text of one line that is not empty."""
    if isinstance(value, str) and value and value.isprintable():
        return value
    problems.append(f"{where}: expected a text, {describe_actual(value)}")
    return ""


def parse_replicates(value: object, where: str, problems: list[str]) -> int | Precision:
    """Return a number of replicates, or the precision that decides it."""
    if isinstance(value, dict):
        return _parse_precision(value, where, problems)
    return whole_number(1, MAX_TASKS)(value, where, problems)


def whole_number(low: int, high: int) -> Callable[[object, str, list[str]], int]:
    """Return a parser of whole numbers within bounds."""

    def parse(value: object, where: str, problems: list[str]) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        problems.append(f"{where}: expected a whole number from {low} to {high:,}, {describe_actual(value)}")
        return low

    return parse


def _parse_precision(value: Mapping[str, object], where: str, problems: list[str]) -> Precision:
    before = len(problems)
    problems += [
        f"{where}.{name}: unknown field, expected min, max and until" for name in value if name not in Precision._fields
    ]
    parse_look = whole_number(2, MAX_TASKS)
    low, high = (parse_look(value.get(name, MISSING), f"{where}.{name}", problems) for name in ("min", "max"))
    if len(problems) == before and low > high:
        problems.append(f"{where}.max: expected at least min, {low:,}, {describe_actual(high)}")
    until = value.get("until", MISSING)
    if not isinstance(until, dict) or not until:
        actual = "not an empty one" if until == {} else describe_actual(until)
        problems.append(f"{where}.until: expected an object of scalars, {actual}")
        until = {}
    targets = [_parse_target(name, target, f"{where}.until.{name}", problems) for name, target in until.items()]
    return Precision(low, high, tuple(targets))


def _parse_target(name: object, value: object, where: str, problems: list[str]) -> Target:
    fields = value if isinstance(value, dict) else {}
    if unknown := fields.keys() - {"quantile", "confidence", "relative", "absolute"}:
        problems.append(f"{where}.{min(unknown)}: unknown field, expected quantile, confidence, relative or absolute")
        return Target("")
    widths = [width for width in ("relative", "absolute") if width in fields]
    if not isinstance(name, str) or not name.isprintable() or len(widths) != 1:
        form = '{"confidence": 0.95, "relative": 0.05}, or absolute in place of relative'
        problems.append(f"{where}: expected {form}")
        return Target("")
    bounds = {"quantile": 1.0, "confidence": 1.0, widths[0]: math.inf if widths == ["absolute"] else 1.0}
    for field, most in bounds.items():
        number = fields.get(field, 0.5)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number < most:
            below = " and below 1" if most == 1 else ""
            problems.append(f"{where}.{field}: expected a number above 0{below}, {describe_actual(number)}")
            return Target("")
    return Target(name, **{field: fields[field] for field in fields if field in Target._fields})


def parse_seeds(value: object, where: str, problems: list[str]) -> SeedRule:
    """Return a rule of seeds."""
    seeds = list(value.values()) if isinstance(value, dict) and list(value) == ["base"] else value
    if isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in seeds):
        if len(set(seeds)) == len(seeds):
            return {"base": seeds[0]} if isinstance(value, dict) else tuple(seeds)
    elif value in (MOPS_JOBS, MODELOPS, COMMON):
        return str(value)
    expected = f'{MOPS_JOBS}, {MODELOPS}, {COMMON}, a list of different seeds, or {{"base": seed}}'
    is_long = isinstance(value, (list, dict))  # `a list` does not say what is wrong with it
    actual = f"not {shorten(json.dumps(value, default=str), MAX_SHOWN)}" if is_long else describe_actual(value)
    problems.append(f"{where}: expected {expected}, {actual}")
    return MOPS_JOBS


def parse_output_names(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    """Return names of outputs, each once; None for none."""
    names = parse_texts(value, where, problems)
    problems += [
        f"{where}: expected names of up to 128 letters, digits, spaces and . _ -, not {name!r}"
        for name in names or ()
        if not is_output_name(name)
    ]
    if names is not None and len(set(names)) != len(names):
        problems.append(f"{where}: expected each name once")
    return names or None  # an empty list means the same as none: else no task would ever be complete


def parse_texts(value: object, where: str, problems: list[str]) -> tuple[str, ...] | None:
    """Return texts; None for null."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    problems.append(f"{where}: expected a list of texts, or null")
    return None


def parse_function(value: object, where: str, problems: list[str]) -> str | None:
    """Return the name of a function; None for null."""
    if value is None:
        return None
    if isinstance(value, str) and _FUNCTION.fullmatch(value) and ".py:" not in value:
        return value
    problems.append(f"{where}: expected package.module:function, {describe_actual(value)}")
    return None


def parse_switch(value: object, where: str, problems: list[str]) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        problems.append(f"{where}: expected true or false, {describe_actual(value)}")
    return value is True


def parse_object(value: object, where: str, problems: list[str]) -> Mapping[str, Any]:
    """Return an object of JSON, empty for null."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.append(f"{where}: expected an object, {describe_actual(value)}")
        return {}
    check_json(value, where, problems)
    return value


def check_json(value: object, where: str, problems: list[str]) -> None:
    """Note what JSON cannot hold: parameters are hashed, and sent to another process, as JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                problems.append(f"{where}: expected texts as names, not {describe(name)}")
            elif not _is_encodable(name):
                problems.append(f"{where}: expected texts as names, not {name!r}, which has half a character")
            else:
                check_json(item, f"{where}.{name}", problems)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_json(item, f"{where}[{number}]", problems)
    elif isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        problems.append(f"{where}: expected a smaller number")
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where}: expected a finite number")
    elif isinstance(value, str) and not _is_encodable(value):
        problems.append(f"{where}: expected a text, not {value!r}, which has half a character")
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        problems.append(f"{where}: expected a number, a text, true, false or null, not {describe(value)}")


def _is_encodable(text: str) -> bool:
    """Return True if UTF-8 can encode it. JSON can write half of a surrogate pair; UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def describe_actual(value: object) -> str:
    """Return the end of a sentence that says what was expected."""
    return "but it is missing" if value is MISSING else f"not {describe(value)}"


def describe(value: object) -> str:
    """Return what a value is: itself, if it is short."""
    names = {dict: "an object", list: "a list", bool: "true or false"}
    if value is None:
        return "null"
    if isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS:
        return "a number of very many digits"
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        shown = json.dumps(value)
        return shown if len(shown) <= MAX_SHOWN else shown[: MAX_SHOWN - 3] + "…"
    return names.get(type(value), type(value).__name__)
