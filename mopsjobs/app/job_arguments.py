"""The flags that select jobs, the same on the command line and in the page."""

from __future__ import annotations

import argparse
import math

from mopsjobs.cache import job_json
from mopsjobs.cache.queries import filters
from mopsjobs.errors import UsageError
from mopsjobs.registry.status import parse_statuses
from mopsjobs.utils.suggestions import did_you_mean, invalid_choice
from mopsjobs.utils.times import parse_when

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from typing import NoReturn


DEFAULT_LIMIT = 50
"""Jobs in a listing without `--limit`."""

MAX_LABELS = 100
"""Labels of one filter. SQLite allows a thousand conditions in one."""

MAX_GLOB = 1000
"""Characters of a glob. No id is longer, and SQLite allows 50,000."""

MAX_NUMBER = 100_000
"""Workers, shards or pods. Kubernetes allows as many completions of an Indexed Job with a limit per index."""


class Parser(argparse.ArgumentParser):
    """Parse as argparse does, but raise errors, and suggest the nearest word for a mistyped one."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: object = None) -> argparse.Namespace:  # type: ignore[override]
        """Parse the words.

        Raises:
            UsageError: if they do not fit.
        """
        parsed, unknown = self.parse_known_args(args)
        if not unknown:
            return parsed
        flags = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        if not flags:
            raise UsageError(f"unexpected argument{'s' if len(unknown) > 1 else ''}: {' '.join(unknown)}")
        known = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - argparse has no public name for it
                command = action.choices.get(getattr(parsed, action.dest))
                known |= set() if command is None else set(command._option_string_actions)  # noqa: SLF001 - as above
        raise UsageError(f"unknown flag '{flags[0]}'.{did_you_mean(flags[0], sorted(known))}")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            raise argparse.ArgumentError(None, f"unknown command '{value}'.{did_you_mean(str(value), action.choices)}")
        raise argparse.ArgumentError(None, invalid_choice(action.dest, value, action.choices))

    def error(self, message: str) -> NoReturn:
        """Refuse the words.

        Raises:
            UsageError: if it is called.
        """
        raise UsageError(message if message.endswith((".", "?")) else f"{message}.")


def add_filter_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the flags that select jobs."""
    which = parser.add_argument_group("filters")
    which.add_argument("--hours", metavar="N", type=_hours, help="select jobs created or changed in the last N hours")
    which.add_argument(
        "--since", metavar="TIME", help="select jobs created or changed since this time: 2h or 7d ago, or RFC 3339"
    )
    which.add_argument(
        "--until", metavar="TIME", help="select jobs created before this time: 2h or 7d ago, or RFC 3339"
    )
    which.add_argument(
        "--status",
        metavar="STATUS[,STATUS]",
        help="select jobs with one of these statuses, or of the groups active and done",
    )
    which.add_argument("--name", metavar="GLOB", help="select jobs whose id or Kubernetes name matches, like 'night*'")
    which.add_argument("--match", metavar="REGEX", help="select jobs whose id or Kubernetes name contains a match")
    which.add_argument(
        "--label",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="select jobs with this label, of this value if given; repeat for more",
    )
    which.add_argument("--namespace", metavar="NAMESPACE", help="select jobs in this Kubernetes namespace")
    which.add_argument("--owner", metavar="OWNER", help="select jobs of this owner")
    which.add_argument(
        "--stuck", action="store_true", help="select active jobs that are silent for a minute or marked as suspect"
    )


def job_filter(args: argparse.Namespace, now: datetime) -> filters.Filter:
    """Return the filter that those flags describe.

    Raises:
        UsageError: if a value is malformed, or two flags contradict each other.
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
        raise UsageError("invalid window: expected --until after its start.")
    return chosen


def parse_labels(texts: list[str]) -> dict[str, str]:
    """Read the labels to set, from `key=value` texts.

    Raises:
        UsageError: if a text has no `=`, or no key.
    """
    labels = {}
    for text in texts:
        label, equals, value = text.partition("=")
        if not equals or not label:
            raise UsageError(f"invalid label '{text}': expected key=value.")
        labels[label] = value
    return labels


def add_order_flags(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Declare the flags for the order of jobs, and for their number."""
    group.add_argument(
        "--sort",
        metavar="COLUMN[,COLUMN]",
        default=filters.DEFAULT_SORT,
        help=f"sort by {', '.join(filters.SORTS)}; - in front for descending (default: {filters.DEFAULT_SORT})",
    )
    group.add_argument(
        "--limit",
        metavar="N",
        type=row_limit,
        default=DEFAULT_LIMIT,
        help=f"show at most N jobs, 0 for all (default: {DEFAULT_LIMIT})",
    )


def positive_number(text: str) -> int:
    """Read a number of workers, shards or pods: the type of an argument.

    Raises:
        ArgumentTypeError: if it is not a whole number from 1 to 100,000.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= MAX_NUMBER):
        raise argparse.ArgumentTypeError(f"invalid number '{text}': expected a whole number from 1 to {MAX_NUMBER:,}")
    return int(text)


def row_limit(text: str) -> int:
    """Read the largest number of rows to show, 0 for all: the type of an argument.

    Raises:
        ArgumentTypeError: if it is not a whole number.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise argparse.ArgumentTypeError(f"invalid limit '{text}': expected a whole number, 0 for all")
    return int(text)


def label_filter(text: str) -> tuple[str, str | None]:
    """Read a label to filter by, and its value; None for any value.

    Raises:
        UsageError: if there is no key in front of the `=`.
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
