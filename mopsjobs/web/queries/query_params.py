"""Parse query strings: the arguments of `list` under the same names, with the same meaning."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from mopsjobs.app.run.job_arguments import API, NUMBER, PAGE, REPEATED, SWITCH, filters_on, job_filter
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries.statistics import window_start
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import parse_whole_number

TYPES = {NUMBER: "number", SWITCH: "boolean"}
"""The types of filters that are not texts, in JSON."""

MAX_PAGE = 100_000

PAGE_SIZE = 25
"""Jobs per page: a screen full."""

Query = Iterable[tuple[str, str]]
"""The names and values of a query string. A name may come more than once."""


class Parameter(NamedTuple):
    """A parameter of a query: its default, and the function that reads its value."""

    default: Any = None
    """False for a parameter that is true or false; an empty tuple for one that may be repeated."""
    read: Callable[[str], Any] = str
    """Returns None, or raises UsageError, if the value is invalid."""
    expected: str = ""
    """What a valid value is, for the message about an invalid one."""
    description: str = ""
    """What it asks for, for the document of the API."""
    schema: Mapping[str, object] = {"type": "string"}
    """The JSON Schema of a value, for the document of the API."""
    is_required: bool = False


def whole_number(default: int, least: int, most: int, description: str = "") -> Parameter:
    """Return a parameter that is a whole number in a range."""
    expected = f"a whole number from {least} to {most:,}"
    schema = {"type": "integer", "minimum": least, "maximum": most, "default": default}
    return Parameter(default, lambda text: parse_whole_number(text, least, most), expected, description, schema)


def choice(default: object, words: Collection[str]) -> Parameter:
    """Return a parameter that is one of some words."""
    return Parameter(default, lambda text: text if text in words else None, f"one of {', '.join(words)}")


def filter_parameters(place: str) -> dict[str, Parameter]:
    """Return the parameters that filter jobs, on the page or in its API."""
    return {
        name: Parameter(
            argument.default,
            argument.read,
            argument.expected,
            f"Only {argument.help}." + " Repeat for more." * (argument.kind == REPEATED),
            {"type": TYPES.get(argument.kind, "string"), **argument.schema},
        )
        for name, argument in filters_on(place).items()
    }


UNPANELED = ("status", "open", "stuck")
"""Filters that the panels do not follow: each panel has its own."""

JOBS_PAGE = {
    "sort": Parameter(),
    "compare": Parameter(default=False),
    "page": whole_number(1, 1, MAX_PAGE),
}

FAILURE_SORTS = ("tasks", "jobs", "first", "last")
"""Columns of the page of failures by which it can be sorted: the most, or the newest, first."""

FAILURE_HOURS = 168.0
"""The window of failures, on their page as in the panel, unless the query has one."""

MAX_FAILED_JOBS = 20_000

FAILURES_PAGE = {
    "resumed": Parameter(default=False),
    "sort": choice(FAILURE_SORTS[0], FAILURE_SORTS),
    "limit": whole_number(5000, 1, MAX_FAILED_JOBS),
    "page": whole_number(1, 1, MAX_PAGE),
}

CHARTS = {"owner": Parameter(""), "label": Parameter(()), "days": filter_parameters(PAGE)["days"]._replace(default=30)}


def parse_query(parameters: Mapping[str, Parameter], query: Query) -> dict[str, Any]:
    """Return the value of each parameter. Empty values are ignored, since forms send their empty fields.

    Raises:
        UsageError: if a parameter is unknown, invalid or missing.
    """
    texts = []
    values = {name: parameter.default for name, parameter in parameters.items()}
    for name, text in query:
        if name == "match" and "name" in parameters:
            hint = "Use name=GLOB: '*' stands for any characters, '?' for one."
            raise UsageError("The page and its API do not support the regular expressions of 'match'.", hint=hint)
        if name not in parameters:
            known = f"one of {', '.join(parameters)}" if parameters else "none here"
            raise UsageError(f"unknown parameter '{name}': expected {known}.")
        if parameters[name].default is False:
            if text not in ("true", "false", ""):
                raise UsageError(f"invalid {name} '{text}': expected true or false.")
            values[name] = values[name] or text == "true"
        elif text:
            texts.append((name, text))
    for name, text in texts:
        value = _read(name, parameters[name], text)
        values[name] = (*values[name], value) if parameters[name].default == () else value
    for name, parameter in parameters.items():
        if parameter.is_required and values[name] is None:
            raise UsageError(f"missing {name}: expected {parameter.expected}.")
    return values


def _read(name: str, parameter: Parameter, text: str) -> Any:
    """Return the value of a parameter. An error names the parameter, where the command line would name a flag."""
    value = None
    with contextlib.suppress(UsageError):
        value = parameter.read(text)
    if value is None:
        raise UsageError(f"invalid {name} '{text}': expected {parameter.expected}.")
    return value


class JobsQuery:
    """A query with filters of jobs: the values of all its parameters, and the filter."""

    def __init__(self, place: str, parameters: Mapping[str, Parameter], query: Query, now: datetime) -> None:
        """Read the query string.

        Args:
            place: where the filters are: `PAGE` or `API`.
            parameters: those besides filters.
            query: the names and values.
            now: the current time.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        which = filter_parameters(place)
        self.values = parse_query({**which, **parameters}, query)
        self.chosen = {name: self.values[name] for name in which}
        self.filter = job_filter(now, **self.chosen)


class JobsPageQuery(JobsQuery):
    """The query of the page of jobs: filters, order and page number."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string. Raise as `JobsQuery`."""
        super().__init__(PAGE, JOBS_PAGE, query, now)
        self.sort: str | None = self.values["sort"]
        self.order = None if self.sort is None else filters.parse_sort(self.sort)
        """The ORDER BY clause; None for the order that is most useful in each phase."""
        self.page: int = self.values["page"]
        self.filter_any_status = job_filter(now, **self.chosen | dict.fromkeys(UNPANELED))
        """The filter for panels, whatever the status."""
        self.is_part = any(value for name, value in self.chosen.items() if name not in UNPANELED)
        """Whether the panels count a part of all jobs."""


class FailuresPageQuery(JobsQuery):
    """The query of the page of failures: the jobs, and the order of their errors."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string. Raise as `JobsQuery`."""
        query = list(query)
        has_window = any(name in ("hours", "since") and text for name, text in query)
        self.default_hours: float | None = None if has_window else FAILURE_HOURS
        """The length of the window in hours, if the query does not say where it begins."""
        super().__init__(API, FAILURES_PAGE, query if has_window else [*query, ("hours", f"{FAILURE_HOURS:g}")], now)


class ChartsQuery:
    """The query of the charts: the jobs and the period."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        values = parse_query(CHARTS, query)
        self.owner: str = values["owner"]
        self.labels: tuple[str, ...] = values["label"]
        self.days: int = values["days"]
        self.since = window_start(self.days, now.timestamp())
        self.filter = job_filter(now, owner=self.owner or None, label=self.labels)
        self.filter.ended_since = self.since
        self.params = [("days", str(self.days)), ("owner", self.owner), *(("label", label) for label in self.labels)]
        """The names and values of the query, defaults included."""
