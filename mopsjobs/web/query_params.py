"""Parse query strings: the arguments of `list` under the same names, with the same meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from mopsjobs.app.job_arguments import (
    DEFAULT_LIMIT,
    job_filter,
    label_filter,
    parse_hours,
    parse_limit,
    parse_positive_number,
)
from mopsjobs.cache.queries import filters
from mopsjobs.errors import UsageError
from mopsjobs.utils.suggestions import invalid_choice

MAX_LIMIT = 1000
"""Jobs or events in one response of the API, at most. Active jobs come on top of that."""

PAGE_SIZE = 25
"""Jobs per page: a screen full."""

DAYS = (7, 30, 90)
"""The periods of the charts."""

Query = Iterable[tuple[str, str]]
"""The names and values of a query string. A name may come more than once."""


class Parameter(NamedTuple):
    """A parameter of a query: its default, and the function that reads its value."""

    default: Any = None
    """False for a parameter that is true or false; an empty tuple for one that may be repeated."""
    read: Callable[[str], Any] = str


FILTERS = {
    "hours": Parameter(read=parse_hours),
    "since": Parameter(),
    "until": Parameter(),
    "status": Parameter(),
    "name": Parameter(),
    "label": Parameter(()),
    "namespace": Parameter(),
    "owner": Parameter(),
    "stuck": Parameter(default=False),
}
"""The arguments of `job_filter` but `match`: a regular expression cannot be interrupted in a thread of a server."""

SORT = {"sort": Parameter(filters.DEFAULT_SORT)}

API_JOBS = FILTERS | SORT | {"limit": Parameter(DEFAULT_LIMIT, parse_limit), "skip": Parameter(0, parse_limit)}

API_EVENTS = {"job": Parameter(), "since": Parameter(), "limit": Parameter(MAX_LIMIT, parse_positive_number)}

JOBS_PAGE = FILTERS | {"q": Parameter()} | SORT | {"page": Parameter(1, parse_positive_number)}

CHARTS = {"owner": Parameter(""), "label": Parameter(""), "days": Parameter("30")}


def parse_query(parameters: Mapping[str, Parameter], query: Query) -> dict[str, Any]:
    """Return the value of each parameter. Empty values are ignored, since forms send their empty fields.

    Raises:
        UsageError: if a parameter is unknown or invalid.
    """
    texts = []
    values = {name: parameter.default for name, parameter in parameters.items()}
    for name, text in query:
        if name == "match" and "name" in parameters:
            hint = "Use name=GLOB: '*' stands for any characters, '?' for one."
            raise UsageError("The page and its API do not support the regular expressions of 'match'.", hint=hint)
        if name not in parameters:
            raise UsageError(f"unknown parameter '{name}': expected one of {', '.join(parameters)}.")
        if parameters[name].default is False:
            if text not in ("true", "false", ""):
                raise UsageError(f"invalid {name} '{text}': expected true or false.")
            values[name] = values[name] or text == "true"
        elif text:
            texts.append((name, text))
    for name, text in texts:
        try:
            value = parameters[name].read(text)
        except UsageError as error:
            raise UsageError(f"argument --{name}: {error}") from None  # the words of the command
        values[name] = (*values[name], value) if parameters[name].default == () else value
    return values


class JobsQuery:
    """The query of `/api/v1/jobs`: filter, order, and which of the jobs to return."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        values = parse_query(API_JOBS, query)
        self.limit = _check_limit(values["limit"])
        self.skip: int = values["skip"]
        self.filter = _filter(values, now)
        self.order = filters.parse_sort(values["sort"])


class EventsQuery:
    """The query of `/api/v1/events`: the job, the cursor, and the number of events."""

    def __init__(self, query: Query) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        values = parse_query(API_EVENTS, query)
        self.job_id: str | None = values["job"]
        self.since: str | None = values["since"]
        self.limit = _check_limit(values["limit"])


class JobsPageQuery:
    """The query of the page of jobs: filters, order and page number."""

    def __init__(self, query: Query, now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        values = parse_query(JOBS_PAGE, query)
        self.q: str = values["q"] or ""
        self.sort: str = values["sort"]
        self.order = filters.parse_sort(self.sort)
        self.page: int = values["page"]
        self.status: str = values["status"] or ""
        self.statuses = frozenset(self.status.lower().replace(" ", "").split(",")) - {""}
        """The statuses in the query."""
        self.owner: str = values["owner"] or ""
        self.hours: float | None = values["hours"]
        labels: tuple[str, ...] = values["label"]
        self.label = labels[0] if len(labels) == 1 else ""
        self.filter = _filter(values, now)
        self.filter.text = values["q"]
        self.filter_any_status = _filter(values | {"status": None}, now)
        """The filter without the status, for the counts per status."""
        self.filter_any_status.text = values["q"]


class ChartsQuery:
    """The query of the charts: the jobs and the period."""

    def __init__(self, query: Query) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        values = parse_query(CHARTS, query)
        self.owner: str = values["owner"]
        self.label: str = values["label"]
        if values["days"] not in map(str, DAYS):
            raise UsageError(invalid_choice("days", values["days"], DAYS))
        self.days = int(values["days"])
        self.filter = filters.Filter(owner=self.owner or None, labels=(label_filter(self.label),) if self.label else ())


def _filter(values: Mapping[str, Any], now: datetime) -> filters.Filter:
    return job_filter(now, **{name: values[name] for name in FILTERS})


def _check_limit(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"invalid limit {limit}: expected 1 to {MAX_LIMIT}.")
    return limit
