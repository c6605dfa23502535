"""Read the search box of the page of jobs: words to search for, and filters such as `owner:ada` or `is:stuck`.

Each filter is a parameter of the page too. So a search with filters leads to the page with these parameters, and a page
has one address, however it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mopsjobs.errors import UsageError
from mopsjobs.utils.text import did_you_mean, invalid_choice

Params = Sequence[tuple[str, str]]
"""The names and values of a query string."""

FILTERS = (
    "owner",
    "status",
    "label",
    "study",
    "error",
    "param",
    "name",
    "namespace",
    "since",
    "until",
    "hours",
    "days",
    "ended_since",
    "ended_until",
)
"""Parameters with a value that can be written in the box, as `name:value`."""

FLAGS = ("stuck", "open")
"""Parameters that are true or false, written as `is:name`."""

LISTS = ("owner", "status", "study", "namespace")
"""Parameters whose value may be several, separated by commas: any of them will do."""

REPEATED = ("label", "param")
"""Parameters that may come more than once: all of them must hold."""

_WORD = re.compile(r"""(?:([A-Za-z_]+):)?("[^"]*"|\S+)|\S+""")


def expand_search(params: Params) -> list[tuple[str, str]] | None:
    """Return the query string with the filters of its search box as parameters; None if it has none.

    Raises:
        UsageError: if the box names a filter that is not there.
    """
    text = next((value for name, value in reversed(params) if name == "q"), "")
    words, filters = _read(text)
    if not filters:
        return None
    found = [(name, value) for name, value in params if name not in ("q", "page") and value]
    for name, value in filters:
        found = _with_filter(found, name, value)
    return [*found, *([("q", " ".join(words))] if words else [])]


def describe_filters(params: Params) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each filter of a query string as the box has it, with the query string that lacks it."""
    chips = []
    last = {name: place for place, (name, value) in enumerate(params) if value}
    for place, (name, value) in enumerate(params):
        others = [one for number, one in enumerate(params) if number != place and one[0] != "page"]
        if not value or (value == "false" and name in FLAGS):
            continue
        if name not in (*FLAGS, *REPEATED):  # only the last one counts
            if place != last[name]:
                continue
            others = [one for one in others if one[0] != name]
        if name in FLAGS:
            chips.append((f"is:{name}", others))
        elif name == "q":
            chips.append((f'"{value}"', others))
        elif name in LISTS:
            pieces = [piece for piece in value.split(",") if piece]
            for piece in pieces:
                left = ",".join(other for other in pieces if other != piece)
                chips.append((token(name, piece), [*others, *([(name, left)] if left else [])]))
        elif name in FILTERS:
            chips.append((token(name, value), others))
    return chips


def token(name: str, value: str) -> str:
    """Return a filter as it is written in the box."""
    return f'{name}:"{value}"' if re.search(r"\s", value) else f"{name}:{value}"


def _read(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words and the filters in a text. A word in quotes is never a filter."""
    words, filters = [], []
    for match in _WORD.finditer(text):
        name, value = match[1], (match[2] or match[0]).strip('"')
        if name is None:
            words.append(value)
        elif name == "is":
            if value not in FLAGS:
                raise UsageError(invalid_choice("is:", value, FLAGS), hint="For a status, write status:failed.")
            filters.append((value, "true"))
        elif name in FILTERS:
            filters.append((name, value))
        else:
            raise UsageError(
                f"unknown filter '{name}': expected one of {', '.join((*FILTERS, 'is'))}.{did_you_mean(name, FILTERS)}",
                hint=f'To search for the text itself, put it in quotes: "{match[0]}"',
            )
    return words, filters


def _with_filter(params: list[tuple[str, str]], name: str, value: str) -> list[tuple[str, str]]:
    """Return the query string with one more filter: added to those of its kind, or in place of them."""
    if name in REPEATED:
        return params if (name, value) in params else [*params, (name, value)]
    earlier = [one for other, one in params if other == name and name in LISTS]
    pieces = dict.fromkeys(piece for one in (*earlier, value) for piece in one.split(",") if piece)
    others = [one for one in params if one[0] != name]
    return [*others, (name, ",".join(pieces) if name in LISTS else value)]
