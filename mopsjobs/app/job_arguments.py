"""What the words for choosing jobs mean, the same on the command line and in the page."""

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
"""Jobs that a listing shows unless told otherwise."""


MAX_LABELS = 100
"""Labels that one filter may ask for. SQLite takes a thousand conditions in one."""


MAX_GLOB = 1000
"""Characters of a glob. No id is longer, and SQLite takes 50,000."""


MAX_NUMBER = 100_000
"""Of workers, shards or pods. Kubernetes takes as many completions of an Indexed Job with a limit per index."""


class Parser(argparse.ArgumentParser):
    """argparse that raises what it has to say: one sentence, told where all others are."""

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message[:1].upper()}{message[1:]}.")


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose jobs, the same wherever jobs are chosen."""
    which = parser.add_argument_group("which jobs")
    which.add_argument("--hours", metavar="N", type=_hours, help="created or changed in the last N hours")
    which.add_argument("--since", metavar="WHEN", help="created or changed since: 2h, 7d or RFC 3339")
    which.add_argument("--until", metavar="WHEN", help="created before: 2h, 7d or RFC 3339")
    which.add_argument("--status", metavar="A,B", help="with one of these statuses; also the groups active and done")
    which.add_argument("--name", metavar="GLOB", help="whose id or Kubernetes name fits, like 'night*'")
    which.add_argument("--match", metavar="REGEX", help="whose id or Kubernetes name contains this")
    which.add_argument(
        "--label", metavar="K[=V]", action="append", default=[], help="with this label, of this value; repeat"
    )
    which.add_argument("--namespace", metavar="NS", help="in this Kubernetes namespace")
    which.add_argument("--owner", metavar="WHO", help="of this owner")
    which.add_argument("--stuck", action="store_true", help="active, but silent for a minute or marked as suspect")


def job_filter(args: argparse.Namespace, now: datetime) -> filters.Filter:
    """Which jobs those flags choose.

    Raises:
        UsageError: one makes no sense, or two contradict each other.
    """
    if args.hours is not None and args.since is not None:
        raise UsageError("--hours and --since both say where the window begins: use one of them.")
    if len(args.label) > MAX_LABELS:
        raise UsageError(f"Too many labels, {len(args.label):,}: expected at most {MAX_LABELS}.")
    if args.name is not None and len(args.name) > MAX_GLOB:
        raise UsageError(f"Too long a glob, {len(args.name):,} characters: expected at most {MAX_GLOB:,}.")
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
        raise UsageError("The window ends before it begins.")
    return chosen


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Labels to set, from `key=value` texts.

    Raises:
        UsageError: one has no `=`, or nothing in front of it.
    """
    labels = {}
    for text in texts:
        label, equals, value = text.partition("=")
        if not equals or not label:
            raise UsageError(f"'{text}' is no label: use key=value.")
        labels[label] = value
    return labels


def add_order_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """The flags that say in which order jobs come, and how many of them."""
    group.add_argument("--sort", metavar="A,-B", default=filters.DEFAULT_SORT, help=f"by {', '.join(filters.SORTS)}")
    group.add_argument(
        "--limit", metavar="N", type=row_limit, default=DEFAULT_LIMIT, help="at most N, 0 for all (default 50)"
    )


def positive_number(text: str) -> int:
    """An argument's type: how many workers, shards, pods there are to be.

    Raises:
        ArgumentTypeError: it is no whole number from 1 to 100,000.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MAX_NUMBER):
        raise argparse.ArgumentTypeError(f"'{text}' should be a whole number from 1 to {MAX_NUMBER:,}")
    return int(text)


def row_limit(text: str) -> int:
    """An argument's type: how many to show at most, 0 for all.

    Raises:
        ArgumentTypeError: it is no such number.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"'{text}' is no limit: use a whole number, 0 for all")
    return int(text)


def label_filter(text: str) -> tuple[str, str | None]:
    """The label that a filter asks for, and its value; None for any value.

    Raises:
        UsageError: there is nothing in front of the `=`.
    """
    label, equals, value = text.partition("=")
    if not label:
        raise UsageError(f"'{text}' is no label: use key=value, or key alone for any value.")
    return label, value if equals else None


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= 100 * 365 * 24:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of hours: use one above 0, at most a century")
    return hours
