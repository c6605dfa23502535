"""What a query string asks for: the flags of `list` under the same names, read by the same parser."""

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
"""Jobs, or events, in one answer of the API; of jobs, active ones come on top."""


PAGE_SIZE = 25
"""What a screen shows. Each row costs the page more time than its part of the query does."""


DAYS = (7, 30, 90)
"""How far back charts may reach."""


@cache
def api_query() -> argparse.ArgumentParser:
    """The parser of what `/api/v1/jobs` may be asked."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_filter_flags(parser)
    add_order_flags(parser)
    parser.add_argument("--skip", type=row_limit, default=0)
    return parser


@cache
def events_query() -> argparse.ArgumentParser:
    """The parser of what `/api/v1/events` may be asked."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--job")
    parser.add_argument("--since")
    parser.add_argument("--limit", type=positive_number, default=MAX_LIMIT)
    return parser


@cache
def page_query() -> argparse.ArgumentParser:
    """The parser of what the page of jobs may be asked."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_filter_flags(parser)
    parser.add_argument("--q")
    parser.add_argument("--sort", default=filters.DEFAULT_SORT)
    parser.add_argument("--page", type=positive_number, default=1)
    return parser


@cache
def charts_query() -> argparse.ArgumentParser:
    """The parser of what the charts may be asked."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--owner")
    parser.add_argument("--label")
    parser.add_argument("--days", type=int, choices=DAYS, default=30)
    return parser


def parse_query(parser: argparse.ArgumentParser, query: Iterable[tuple[str, str]]) -> argparse.Namespace:
    """The values of a query string. An empty value is none: forms send those of fields that nobody has filled in.

    Raises:
        UsageError: there is no such parameter, or its value makes no sense.
    """
    known = vars(parser.parse_args([]))
    known.pop("match", None)  # nothing ends a search in a thread of a server: see cache/matching.py
    words = []
    for name, value in query:
        if name == "match" and "name" in known:
            hint = "Use name=GLOB: '*' stands for any characters, '?' for one."
            raise UsageError("The page and its API take no regular expression 'match'.", hint=hint)
        if name not in known:
            raise UsageError(f"There is no parameter '{name}': use {', '.join(known)}.")
        if known[name] is False:
            if value not in ("true", "false", ""):
                raise UsageError(f"'{name}' is true or false, not '{value}'.")
            words += [f"--{name}"] if value == "true" else []
        elif value:
            words.append(f"--{name}={value}")
    return parser.parse_args(words)


class JobsPageQuery:
    """Which page of which jobs somebody wants to see."""

    def __init__(self, query: Iterable[tuple[str, str]], now: datetime) -> None:
        """Read the query string.

        Raises:
            UsageError: it makes no sense.
        """
        args = parse_query(page_query(), query)
        self.q: str = args.q or ""
        self.sort: str = args.sort
        self.order = filters.parse_sort(args.sort)
        self.page: int = args.page
        self.status: str = args.status or ""
        self.statuses = frozenset(self.status.lower().replace(" ", "").split(",")) - {""}
        """The statuses asked for by name."""
        self.owner: str = args.owner or ""
        self.hours: float | None = args.hours
        self.label: str = args.label[0] if len(args.label) == 1 else ""
        self.chosen = job_filter(args, now)
        self.chosen.text = args.q
        args.status = None
        self.all_statuses = job_filter(args, now)
        """The same, whatever the status: what the counts beside the statuses are of."""
        self.all_statuses.text = args.q


def chart_filter(args: argparse.Namespace) -> filters.Filter:
    """Which jobs the charts are of.

    Raises:
        UsageError: `label` is none.
    """
    labels = (label_filter(args.label),) if args.label else ()
    return filters.Filter(owner=args.owner or None, labels=labels)
