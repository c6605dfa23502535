"""Sizes of memory as texts: `2GiB`, `200MB`, `4Gi`; and factors of growth: `x2`."""

from __future__ import annotations

import re

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
"""Units by their power of 1,000, or of 1,024 with an `i`."""

_FORMATS = {
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12,
}  # fmt: skip

MAX_FACTOR = 1000

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,3})?) ?(?:([kmgt])(i?)b?|b)", re.ASCII | re.IGNORECASE)

_FACTOR = re.compile(r"x(\d{1,4}(?:\.\d{1,3})?)", re.ASCII)


def parse_size(text: str) -> int | None:
    """Return the bytes of a size with its unit, like `2GiB`, `512Mi` or `200MB`; None if it is malformed or zero."""
    words = _SIZE.fullmatch(text.strip())
    if words is None:
        return None
    number, unit, binary = words.groups()
    size = round(float(number) * (1024 if binary else 1000) ** UNITS[(unit or "").lower()])
    return size if 0 < size < 2**60 else None


def format_size(size: int) -> str:
    """Return a size as the shortest text that `parse_size` reads as exactly these bytes, `300MB` as it was typed."""
    return min((f"{size // unit}{name}" for name, unit in _FORMATS.items() if not size % unit), key=len)


def parse_factor(text: str) -> float | None:
    """Return the number of a factor of growth, like 2 for `x2`; None if the text is not one, or is not above 1."""
    words = _FACTOR.fullmatch(text.strip())
    factor = 0.0 if words is None else float(words[1])
    return factor if 1 < factor <= MAX_FACTOR else None


def human_size(size: int) -> str:
    """Return about how many bytes there are, like `3.1 MiB`."""
    power = min(max(size.bit_length() - 1, 0) // 10, 4)
    name = ("bytes", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{size / 1024**power:,.1f} {name}" if power else f"{size:,} {name}"
