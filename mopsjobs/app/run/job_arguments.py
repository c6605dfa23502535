"""The arguments that select jobs, the same on the command line, in the page and in a Python program."""

from __future__ import annotations

import math
from collections import namedtuple

from mopsjobs.cache.queries import filters
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.registry.status import GROUPS, STATUSES, parse_statuses
from mopsjobs.utils.text import compile_pattern, read_whole_number
from mopsjobs.utils.times import parse_when

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from typing import Any

    Apply = Callable[[filters.Filter, Any, datetime], None]

DEFAULT_LIMIT = 50
"""Jobs in a listing without a limit."""

MAX_LIMIT = 10**12 - 1

MAX_HOURS = 100 * 365 * 24
"""A century."""

MAX_LABELS = 100
"""Labels of one filter. SQLite allows a thousand conditions in one."""

MAX_NAMES = 100
"""Owners or namespaces of one filter, for the same reason."""

MAX_GLOB = 1000
"""Characters of a glob. No id is longer, and SQLite allows 50,000."""

TEXT, NUMBER, CHOICES, REPEATED, SWITCH = "text", "number", "choices", "repeated", "switch"
"""Kinds of filters. Choices are separated by commas, and any of them will do. A repeated filter must hold each time."""

EVERYWHERE, COMMANDS, API, PAGE = "everywhere", "commands", "api", "page"
"""Places of filters. Commands and Python programs have the same ones."""

DAYS = (7, 30, 90)
"""The periods of the charts, up to today."""


class FilterArgument(
    namedtuple(  # noqa: PYI024 - typing costs a listing 3 ms
        "FilterArgument",
        "name kind help apply on metavar short read expected schema",
        defaults=(EVERYWHERE, "", None, str, "", {}),
    )
):
    """A filter of jobs, from which its flag, its parameters, its word in the search box and its argument follow.

    Attributes:
        name: the name of the parameter and of the argument; the flag and the word of the search box follow from it.
        kind: the kind of its values.
        help: which jobs pass.
        apply: sets the condition for a value; the time is that from which durations count.
        on: where the filter is: everywhere, on the page alone, or only in commands and Python programs.
        metavar: the value in the help of the flag.
        short: a second name of the flag.
        read: reads the value from a text. It returns None, or raises UsageError, if the text is invalid.
        expected: what a valid value is, for the message about an invalid one.
        schema: what OpenAPI says of the value, besides its kind.
    """

    __slots__ = ()

    @property
    def default(self) -> object:
        """Return the value that says nothing."""
        return {SWITCH: False, REPEATED: ()}.get(self.kind)

    def is_set(self, value: object) -> bool:
        """Return whether a value says something. An empty text does."""
        return value is not None and value is not False and value not in ((), [])


def filters_on(place: str) -> dict[str, FilterArgument]:
    """Return the filters of a place: `COMMANDS`, `API` or `PAGE`."""
    return {name: one for name, one in FILTERS.items() if one.on in (EVERYWHERE, place)}


def job_filter(now: datetime, **values: object) -> filters.Filter:
    """Return the filter for the jobs that meet all these conditions.

    Args:
        now: the time from which `hours` and durations count.
        values: the values of filters, by the names in `FILTERS`.

    Raises:
        UsageError: if a value is malformed, or two contradict each other.
    """
    if values.get("hours") is not None and values.get("since") is not None:
        raise OptionError("hours and since contradict each other: both set where the window begins.", "hours", "since")
    chosen = filters.Filter()
    for name, value in values.items():
        if FILTERS[name].is_set(value):
            FILTERS[name].apply(chosen, value, now)
    if chosen.since is not None and chosen.until is not None and chosen.since > chosen.until:
        raise OptionError(f"invalid until '{values['until']}': expected a time after the window begins.", "until")
    return chosen


def label_filter(text: str) -> tuple[str, str | None]:
    """Read a label to filter by, and its value; None for any value.

    Raises:
        UsageError: if there is no key in front of the `=`.
    """
    label, equals, value = text.partition("=")
    if not label:
        raise UsageError(f"invalid label '{text}': expected key=value, or key for any value.")
    return label, value if equals else None


def parse_hours(text: str) -> float:
    """Read the length of a window in hours.

    Raises:
        UsageError: if it is not a number above 0, at most a century.
    """
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= MAX_HOURS:
        raise UsageError(f"invalid number of hours '{text}': expected a number above 0, at most a century.")
    return hours


def parse_limit(text: str) -> int:
    """Read the largest number of rows to show, 0 for all.

    Raises:
        UsageError: if it is not a whole number.
    """
    return read_whole_number(text, 0, MAX_LIMIT, "limit", "a whole number, 0 for all")


def parse_tail(text: str) -> int:
    """Read how many of the last lines to print.

    Raises:
        UsageError: if it is not a whole number.
    """
    return read_whole_number(text, 0, MAX_LIMIT, "number of lines", "a whole number, 0 or more")


def _assign(field: str, read: Callable[[Any, datetime], object] = lambda value, _now: value) -> Apply:
    """Return a function that sets a field of a filter to the value."""

    def apply(chosen: filters.Filter, value: Any, now: datetime) -> None:
        setattr(chosen, field, read(value, now))

    return apply


def _moment(text: str, now: datetime) -> float:
    return parse_when(text, now).timestamp()


def _set_name(chosen: filters.Filter, glob: str, _now: datetime) -> None:
    if len(glob) > MAX_GLOB:
        raise UsageError(f"glob too long ({len(glob):,} characters): expected at most {MAX_GLOB:,}.")
    chosen.require("(job_id GLOB ? OR name GLOB ?)", glob, glob)


def _set_match(chosen: filters.Filter, pattern: str, _now: datetime) -> None:
    compile_pattern(pattern)
    chosen.match = pattern


def _parse_labels(texts: Sequence[str], _now: datetime) -> tuple[object, ...]:
    if len(texts) > MAX_LABELS:
        raise UsageError(f"too many labels ({len(texts):,}): expected at most {MAX_LABELS}.")
    return tuple(map(label_filter, texts))


def require_choice(column: str) -> Apply:
    """Return a function that requires one of several values, separated by commas, in a column."""

    def require(chosen: filters.Filter, text: str, _now: datetime) -> None:
        if text.count(",") >= MAX_NAMES:
            raise UsageError(f"too many names separated by commas: expected at most {MAX_NAMES}.")
        condition, names = filters.is_one_of(column, text)
        chosen.require(condition, *names)

    return require


def _set_days(chosen: filters.Filter, days: int, now: datetime) -> None:
    from mopsjobs.cache.queries.statistics import window_start  # here: only pages have it

    chosen.end_after(window_start(days, now.timestamp()))


_WORDS = "|".join([*STATUSES, *GROUPS])

_WHEN = {"pattern": r"^(\d{1,4}[smhdw]|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)$"}

_TABLE = (
    FilterArgument(
        "hours", NUMBER, "jobs created or changed in the last N hours",
        _assign("since", lambda hours, now: _moment(f"{hours}h", now)), metavar="N", read=parse_hours,
        expected="a number above 0, at most a century", schema={"exclusiveMinimum": 0, "maximum": MAX_HOURS},
    ),
    FilterArgument(
        "since", TEXT, "jobs created or changed since this time: 2h or 7d ago, or RFC 3339", _assign("since", _moment),
        metavar="TIME", schema=_WHEN,
    ),
    FilterArgument(
        "until", TEXT, "jobs created before this time: 2h or 7d ago, or RFC 3339", _assign("until", _moment),
        metavar="TIME", schema=_WHEN,
    ),
    FilterArgument(
        "status", CHOICES, "jobs with one of these statuses, or of the groups active and done",
        _assign("statuses", lambda text, _now: parse_statuses(text)), metavar="STATUS", short="-s",
        schema={"pattern": f"^({_WORDS})(,({_WORDS}))*$"},
    ),
    FilterArgument(
        "name", TEXT, "jobs whose id or Kubernetes name matches, like 'night*'", _set_name, metavar="GLOB",
    ),
    FilterArgument(  # a regular expression cannot be interrupted in a thread of a server
        "match", TEXT, "jobs whose id or Kubernetes name contains a match", _set_match, metavar="REGEX", on=COMMANDS,
    ),
    FilterArgument(
        "label", REPEATED, "jobs with this label, of this value if given", _assign("labels", _parse_labels),
        metavar="KEY[=VALUE]",
    ),
    FilterArgument(
        "namespace", CHOICES, "jobs in one of these Kubernetes namespaces", require_choice("namespace"),
        metavar="NAMESPACE",
    ),
    FilterArgument("owner", CHOICES, "jobs of one of these owners", require_choice("owner"), metavar="OWNER"),
    FilterArgument(
        "stuck", SWITCH, "active jobs that are silent, have a hanging task or are suspect",
        _assign("stuck_at", lambda _on, now: now.timestamp()),
    ),
    FilterArgument(
        "q", TEXT, "jobs whose id, Kubernetes name, owner, study, error, note or label contains this", _assign("text"),
        on=PAGE,
    ),
    FilterArgument(
        "days", NUMBER, "jobs that ended in the last N days, or are active", _set_days, on=PAGE,
        read=lambda text: int(text) if text in map(str, DAYS) else None,
        expected=f"one of {', '.join(map(str, DAYS))}",
    ),
    FilterArgument(
        "ended_since", TEXT, "jobs that ended since this time, or are active",
        lambda chosen, text, now: chosen.end_after(_moment(text, now)), on=PAGE,
    ),
    FilterArgument("study", CHOICES, "jobs of one of these studies", require_choice("study"), on=PAGE),
    FilterArgument("error", TEXT, "jobs with this text in an error", _assign("error"), on=PAGE),
    FilterArgument("open", SWITCH, "failed or partial jobs that no resume has taken up", _assign("is_open"), on=PAGE),
)  # fmt: skip

FILTERS = {argument.name: argument for argument in _TABLE}
"""All filters of jobs, in the order of the help."""
