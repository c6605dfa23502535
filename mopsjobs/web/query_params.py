"""Parse query strings: the flags of `list` under the same names, by the same parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime
from functools import cache

from mopsjobs.app.job_arguments import (
    Parser,
    add_filter_flags,
    add_order_flags,
    job_filter,
    label_filter,
    positive_number,
    row_limit,
)
from mopsjobs.cache.queries import filters
from mopsjobs.errors import UsageError

MAX_LIMIT = 1000
"""Jobs or events in one response of the API, at most. Active jobs come on top of that."""

PAGE_SIZE = 25
"""Jobs per page: a screen full."""

DAYS = (7, 30, 90)
"""The periods of the charts."""


@cache
def api_query() -> argparse.ArgumentParser:
    """Return the parser of `/api/v1/jobs`."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_filter_flags(parser)
    add_order_flags(parser)
    parser.add_argument("--skip", type=row_limit, default=0)
    return parser


@cache
def events_query() -> argparse.ArgumentParser:
    """Return the parser of `/api/v1/events`."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--job")
    parser.add_argument("--since")
    parser.add_argument("--limit", type=positive_number, default=MAX_LIMIT)
    return parser


@cache
def page_query() -> argparse.ArgumentParser:
    """Return the parser of the page of jobs."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_filter_flags(parser)
    parser.add_argument("--q")
    parser.add_argument("--sort", default=filters.DEFAULT_SORT)
    parser.add_argument("--page", type=positive_number, default=1)
    return parser


@cache
def charts_query() -> argparse.ArgumentParser:
    """Return the parser of the charts."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--owner")
    parser.add_argument("--label")
    parser.add_argument("--days", type=int, choices=DAYS, default=30)
    return parser


def parse_query(parser: argparse.ArgumentParser, query: Iterable[tuple[str, str]]) -> argparse.Namespace:
    """Return the values of a query string. Empty values are ignored, since forms send their empty fields.

    Raises:
        UsageError: if a parameter is unknown or invalid.
    """
    defaults = vars(parser.parse_args([]))
    defaults.pop("match", None)  # a regular expression cannot be interrupted in a thread of a server
    words = []
    for name, value in query:
        if name == "match" and "name" in defaults:
            hint = "Use name=GLOB: '*' stands for any characters, '?' for one."
            raise UsageError("The page and its API do not support the regular expressions of 'match'.", hint=hint)
        if name not in defaults:
            raise UsageError(f"unknown parameter '{name}': expected one of {', '.join(defaults)}.")
        if defaults[name] is False:
            if value not in ("true", "false", ""):
                raise UsageError(f"invalid {name} '{value}': expected true or false.")
            words += [f"--{name}"] if value == "true" else []
        elif value:
            words.append(f"--{name}={value}")
    return parser.parse_args(words)


class JobsPageQuery:
    """The query of the page of jobs: filters, order and page number."""

    def __init__(self, query: Iterable[tuple[str, str]], now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: if a parameter is unknown or invalid.
        """
        args = parse_query(page_query(), query)
        self.q: str = args.q or ""
        self.sort: str = args.sort
        self.order = filters.parse_sort(args.sort)
        self.page: int = args.page
        self.status: str = args.status or ""
        self.statuses = frozenset(self.status.lower().replace(" ", "").split(",")) - {""}
        """The statuses in the query."""
        self.owner: str = args.owner or ""
        self.hours: float | None = args.hours
        self.label: str = args.label[0] if len(args.label) == 1 else ""
        self.filter = job_filter(args, now)
        self.filter.text = args.q
        args.status = None
        self.filter_any_status = job_filter(args, now)
        """The filter without the status, for the counts per status."""
        self.filter_any_status.text = args.q


def chart_filter(args: argparse.Namespace) -> filters.Filter:
    """Return the filter of the charts.

    Raises:
        UsageError: if the label is invalid.
    """
    labels = (label_filter(args.label),) if args.label else ()
    return filters.Filter(owner=args.owner or None, labels=labels)
