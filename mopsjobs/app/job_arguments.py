"""The arguments that choose and order jobs, the same on the command line and in the page."""

from __future__ import annotations

import argparse
import math

from mopsjobs.cache import job_json
from mopsjobs.cache.queries import filters
from mopsjobs.errors import UsageError
from mopsjobs.registry.status import parse_statuses
from mopsjobs.utils.times import parse_when

TYPE_CHECKING = False

if TYPE_CHECKING:
    from datetime import datetime
    from typing import NoReturn


DEFAULT_LIMIT = 50
"""Jobs in a listing without `--limit`."""


MAX_LABELS = 100
"""Labels in one filter. SQLite takes a thousand conditions in one query."""


MAX_GLOB = 1000
"""Characters of a glob. No id is longer, and SQLite takes 50,000."""


MAX_NUMBER = 100_000
"""Workers, shards or pods. Kubernetes takes this many completions of an Indexed Job with a limit per index."""


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises its errors, so that they are printed where all others are."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise UsageError(f"{message[:1].upper()}{message[1:]}.")


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that choose jobs."""
    which = parser.add_argument_group("which jobs")
    which.add_argument("--hours", metavar="N", type=_hours, help="jobs created or changed in the last N hours")
    which.add_argument("--since", metavar="WHEN", help="jobs created or changed since: 2h, 7d or RFC 3339")
    which.add_argument("--until", metavar="WHEN", help="jobs created before: 2h, 7d or RFC 3339")
    which.add_argument(
        "--status", metavar="A,B", help="jobs with one of these statuses; also the groups active and done"
    )
    which.add_argument("--name", metavar="GLOB", help="jobs whose id or Kubernetes name matches, like 'night*'")
    which.add_argument("--match", metavar="REGEX", help="jobs whose id or Kubernetes name contains a match")
    which.add_argument(
        "--label", metavar="K[=V]", action="append", default=[], help="jobs with this label, and this value; repeatable"
    )
    which.add_argument("--namespace", metavar="NS", help="jobs in this Kubernetes namespace")
    which.add_argument("--owner", metavar="NAME", help="jobs of this owner")
    which.add_argument(
        "--stuck", action="store_true", help="active jobs that are silent for a minute or marked as suspect"
    )


def job_filter(args: argparse.Namespace, now: datetime) -> filters.Filter:
    """Return the filter that the flags of `add_filter_flags` describe.

    Raises:
        UsageError: if a flag has an invalid value, or two flags contradict each other.
    """
    if args.hours is not None and args.since is not None:
        raise UsageError("--hours and --since contradict each other: both set where the window begins.")
    if len(args.label) > MAX_LABELS:
        raise UsageError(f"too many labels ({len(args.label):,}): expected at most {MAX_LABELS}.")
    if args.name is not None and len(args.name) > MAX_GLOB:
        raise UsageError(f"glob too long ({len(args.name):,} characters): expected at most {MAX_GLOB:,}.")
    since = f"{args.hours}h" if args.hours is not None else args.since
    chosen = filters.Filter(
        statuses=None if args.status is None else parse_statuses(args.status),
        since=None if since is None else parse_when(since, now).timestamp(),
        until=None if args.until is None else parse_when(args.until, now).timestamp(),
        name=args.name,
        match=args.match,
        labels=tuple(label_filter(text) for text in args.label),
        namespace=args.namespace,
        owner=args.owner,
        silent_since=now.timestamp() - job_json.SILENT_SECONDS if args.stuck else None,
    )
    if chosen.since is not None and chosen.until is not None and chosen.since > chosen.until:
        raise UsageError("invalid window: it ends before it begins.")
    return chosen


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Parse labels to set, from texts `key=value`.

    Raises:
        UsageError: if a text has no `=`, or nothing in front of it.
    """
    labels = {}
    for text in texts:
        label, equals, value = text.partition("=")
        if not equals or not label:
            raise UsageError(f"invalid label '{text}': expected key=value.")
        labels[label] = value
    return labels


def add_order_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Declare the flags that order and limit a listing."""
    group.add_argument(
        "--sort", metavar="A,-B", default=filters.DEFAULT_SORT, help=f"sort by {', '.join(filters.SORTS)}"
    )
    group.add_argument(
        "--limit", metavar="N", type=row_limit, default=DEFAULT_LIMIT, help="at most N jobs, 0 for all (default: 50)"
    )


def positive_number(text: str) -> int:
    """Parse a number of workers, shards or pods, for argparse.

    Raises:
        ArgumentTypeError: if the text is not a whole number from 1 to 100,000.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MAX_NUMBER):
        raise argparse.ArgumentTypeError(f"invalid number '{text}': expected a whole number from 1 to {MAX_NUMBER:,}")
    return int(text)


def row_limit(text: str) -> int:
    """Parse a limit of rows, 0 for all, for argparse.

    Raises:
        ArgumentTypeError: if the text is not a whole number.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"invalid limit '{text}': expected a whole number, 0 for all")
    return int(text)


def label_filter(text: str) -> tuple[str, str | None]:
    """Parse a label and its value, from `key=value` or `key`; the value is None for any value.

    Raises:
        UsageError: if there is nothing in front of the `=`.
    """
    label, equals, value = text.partition("=")
    if not label:
        raise UsageError(f"invalid label '{text}': expected key=value, or key for any value.")
    return label, value if equals else None


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= 100 * 365 * 24:
        raise argparse.ArgumentTypeError(
            f"invalid number of hours '{text}': expected a number above 0, at most a century"
        )
    return hours
