"""Read the search box of the page of jobs: words to search for, and filters such as `owner:ada` or `is:stuck`.

Each filter is a parameter of the page too. So a search with filters leads to the page with these parameters, and a page
has one address, however it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mopsjobs.app.run.job_arguments import CHOICES, FILTERS, PAGE, REPEATED, SWITCH, FilterArgument, filters_on
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import did_you_mean, invalid_choice

Params = Sequence[tuple[str, str]]
"""The names and values of a query string."""

_WORD = re.compile(r"""(?:([A-Za-z_]+):)?("[^"]*"|\S+)|\S+""")


def box_filters() -> dict[str, FilterArgument]:
    """Return the filters that can be written in the box: as `is:name` if they are true or false, else as `name:value`.

    The words of the box themselves are the parameter `q`.
    """
    return {name: one for name, one in filters_on(PAGE).items() if name != "q"}


def switches() -> list[str]:
    """Return the filters that are written as `is:name`."""
    return [name for name, one in box_filters().items() if one.kind == SWITCH]


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
    chips, known = [], box_filters()
    last = {name: place for place, (name, value) in enumerate(params) if value}
    for place, (name, value) in enumerate(params):
        kind = known[name].kind if name in known else "q" if name == "q" else None
        if not value or kind is None or (value == "false" and kind == SWITCH):
            continue
        if kind not in (SWITCH, REPEATED) and place != last[name]:  # only the last one counts
            continue
        others = [one for one in params if one[0] != "page" and one != (name, value)]
        if kind not in (SWITCH, REPEATED):
            others = [one for one in others if one[0] != name]
        text = f"is:{name}" if kind == SWITCH else f'"{value}"' if kind == "q" else token(name, value)
        chips.append((text, others))
    return chips


def token(name: str, value: str) -> str:
    """Return a filter as it is written in the box."""
    return f'{name}:"{value}"' if re.search(r"\s", value) else f"{name}:{value}"


def _read(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the words and the filters in a text. A word in quotes is never a filter."""
    words, filters = [], []
    flags = switches()
    valued = [name for name in box_filters() if name not in flags]
    for match in _WORD.finditer(text):
        name, value = match[1], (match[2] or match[0]).strip('"')
        if name is None:
            words.append(value)
        elif name == "is":
            if value not in flags:
                raise UsageError(invalid_choice("is:", value, flags), hint="For a status, write status:failed.")
            filters.append((value, "true"))
        elif name in valued:
            filters.append((name, value))
        else:
            raise UsageError(
                f"unknown filter '{name}': expected one of {', '.join((*valued, 'is'))}.{did_you_mean(name, valued)}",
                hint=f'To search for the text itself, put it in quotes: "{match[0]}"',
            )
    return words, filters


def _with_filter(params: list[tuple[str, str]], name: str, value: str) -> list[tuple[str, str]]:
    """Return the query string with one more filter: added to those of its kind, or in place of them."""
    kind = FILTERS[name].kind
    if kind == REPEATED:
        return params if (name, value) in params else [*params, (name, value)]
    earlier = [one for other, one in params if other == name and kind == CHOICES]
    pieces = dict.fromkeys(piece for one in (*earlier, value) for piece in one.split(",") if piece)
    others = [one for one in params if one[0] != name]
    return [*others, (name, ",".join(pieces) if kind == CHOICES else value)]
