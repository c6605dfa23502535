"""Decide what a plain value of YAML means: YAML 1.2's core schema, and no guess where readers disagree.

PyYAML reads YAML 1.1, where `12:30` is 750, `010` is 8 and `no` is false. By its own rules, `1e-3` is a text there.
YAML 1.2 (https://yaml.org/spec/1.2.2/, section 10.3) reads numbers as JSON and scientists write them. A value that the
two versions read differently is ambiguous. So is a text that Python, Fortran or a spreadsheet would read as a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable

INT = "tag:yaml.org,2002:int"
FLOAT = "tag:yaml.org,2002:float"
BOOL = "tag:yaml.org,2002:bool"
NULL = "tag:yaml.org,2002:null"
TEXT = "tag:yaml.org,2002:str"

MAX_NUMBER_LENGTH = 1000
"""Characters of a number. The time to read some forms grows with their square."""

_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+", re.ASCII)
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}


def core_tag(text: str) -> str:
    """Return the tag of a plain value by the core schema of YAML 1.2."""
    if text in _CONSTANTS:
        return NULL if _CONSTANTS[text] is None else BOOL
    if _DECIMAL.fullmatch(text) or _OCTAL.fullmatch(text) or _HEXADECIMAL.fullmatch(text):
        return INT
    return FLOAT if _FLOAT.fullmatch(text) or _NOT_FINITE.fullmatch(text) else TEXT


def read_constant(text: str, tag: str) -> bool | None:
    """Return the value of a text with the tag `BOOL` or `NULL`.

    Raises:
        ValueError: if the text does not fit the tag.
    """
    if core_tag(text) != tag:
        raise ValueError(f"{text[:40]!r} is neither true, false nor null")
    return _CONSTANTS[text]


def read_int(text: str) -> int:
    """Return the whole number that a text is.

    Raises:
        ValueError: if it is none.
    """
    if core_tag(text) != INT or _LEADING_ZERO.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a whole number")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def read_float(text: str) -> float:
    """Return the number that a text is.

    Raises:
        ValueError: if it is none.
    """
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return float(text)


def ambiguity(text: str) -> str | None:
    """Return what to write instead of a plain value that readers disagree about; None if they agree."""
    if core_tag(text) != TEXT:
        return _leading_zero(text) if _LEADING_ZERO.fullmatch(text) else None
    for pattern, instead in _AMBIGUOUS:
        if pattern.fullmatch(text):
            return instead(text) if len(text) <= MAX_NUMBER_LENGTH else "a shorter number"
    return None


def _leading_zero(text: str) -> str:
    if len(text) > MAX_NUMBER_LENGTH:
        return "a shorter number"
    decimal = str(int(text))
    is_octal = text[0] == "0" and not set(text) & {"8", "9"} and int(text) > 7
    return f"{decimal} or 0o{text.lstrip('0')}" if is_octal else decimal


def _sexagesimal(text: str) -> str:
    whole, _, fraction = text.lstrip("+-").replace("_", "").partition(".")
    total = 0
    for part in whole.split(":"):
        total = 60 * total + int(part)
    return f"{'-' * (text[0] == '-')}{total}{'.' * bool(fraction)}{fraction}"


def _with_prefix(text: str) -> str:
    return str(int(text.replace("_", "").lower(), 0))


def _underscores(text: str) -> str:
    number = text.replace("_", "")
    return str(int(number)) if _DECIMAL.fullmatch(number) else number


def _fortran(text: str) -> str:
    return re.sub("[dD]", "e", text)


def _constant(value: str) -> Callable[[str], str]:
    return lambda _text: value


_LEADING_ZERO = re.compile("[-+]?0[0-9]+", re.ASCII)

_AMBIGUOUS: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = tuple(
    (re.compile(pattern, re.ASCII), instead)
    for pattern, instead in (
        ("y|Y|yes|Yes|YES|on|On|ON", _constant("true")),
        ("n|N|no|No|NO|off|Off|OFF", _constant("false")),
        ("[Nn]one|NONE|[Nn][Aa][Nn]", _constant("null")),
        ("[-+]?[Ii][Nn][Ff]([Ii][Nn][Ii][Tt][Yy])?", _constant("a finite number")),
        ("[-+]?0([bB][01_]*[01]|[oO][0-7_]*[0-7]|[xX][0-9a-fA-F_]*[0-9a-fA-F])", _with_prefix),
        (r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", _sexagesimal),
        (r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)([eE][-+]?[0-9_]*[0-9])?", _underscores),
        (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[dD][-+]?[0-9]+", _fortran),
        (r"[-+]?[0-9.]+(,[0-9.]+)+", _constant("the number without commas or a list in brackets")),
        (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ] *[0-9]{1,2}:[0-9].*)?", _constant("numbers for year, month and day")),
    )
)
"""Texts that are more than a text to YAML 1.1, Python or Fortran, each with what to write for that meaning."""
