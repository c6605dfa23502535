"""The arguments that select jobs, the same on the command line, in the page and in a Python program."""

from __future__ import annotations

import math

from mopsjobs.cache.queries import filters
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.registry.status import parse_statuses
from mopsjobs.utils.text import parse_whole_number
from mopsjobs.utils.times import parse_when

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


DEFAULT_LIMIT = 50
"""Jobs in a listing without a limit."""

MAX_LIMIT = 10**12 - 1

MAX_LABELS = 100
"""Labels of one filter. SQLite allows a thousand conditions in one."""

MAX_NAMES = 100
"""Owners or namespaces of one filter, for the same reason."""

MAX_GLOB = 1000
"""Characters of a glob. No id is longer, and SQLite allows 50,000."""

MAX_NUMBER = 100_000
"""Workers, shards or pods. Kubernetes allows as many completions of an Indexed Job with a limit per index."""


class ShortName(str):
    """A name that a user typed for a command that only reads: an id, or the beginning of one.

    Any other text that names a job is its full id, or `@latest`. See docs/decisions/0089-a-prefix-is-not-an-id.md.
    """

    __slots__ = ()


def job_filter(  # noqa: PLR0913 - one argument a condition, all by name
    now: datetime,
    *,
    hours: float | None = None,
    since: str | None = None,
    until: str | None = None,
    status: str | None = None,
    name: str | None = None,
    match: str | None = None,
    label: Sequence[str] = (),
    namespace: str | None = None,
    owner: str | None = None,
    stuck: bool = False,
) -> filters.Filter:
    """Return the filter for the jobs that meet all these conditions.

    Args:
        now: the time from which `hours` and durations count.
        hours: created or changed in the last `hours`, or still active.
        since: created or changed since this time, or still active: a duration ago, or RFC 3339.
        until: created before this time: a duration ago, or RFC 3339.
        status: one of these statuses or groups, separated by commas.
        name: the id or the Kubernetes name matches this glob.
        match: the id or the Kubernetes name contains a match of this regular expression.
        label: all of these labels, `key=value` or `key` for any value.
        namespace: in this Kubernetes namespace, or in one of these, separated by commas.
        owner: of this owner, or of one of these, separated by commas.
        stuck: active, and silent for a minute, with a task that hangs, or marked as suspect.

    Raises:
        UsageError: if a value is malformed, or two contradict each other.
    """
    if hours is not None and since is not None:
        raise OptionError("hours and since contradict each other: both set where the window begins.", "hours", "since")
    if len(label) > MAX_LABELS:
        raise UsageError(f"too many labels ({len(label):,}): expected at most {MAX_LABELS}.")
    if name is not None and len(name) > MAX_GLOB:
        raise UsageError(f"glob too long ({len(name):,} characters): expected at most {MAX_GLOB:,}.")
    if any(text.count(",") >= MAX_NAMES for text in (namespace or "", owner or "")):
        raise UsageError(f"too many names separated by commas: expected at most {MAX_NAMES}.")
    if hours is not None:
        since = f"{hours}h"
    chosen = filters.Filter(
        statuses=None if status is None else parse_statuses(status),
        since=None if since is None else parse_when(since, now).timestamp(),
        until=None if until is None else parse_when(until, now).timestamp(),
        name=name,
        match=match,
        labels=tuple(label_filter(text) for text in label),
        namespace=namespace,
        owner=owner,
        stuck_at=now.timestamp() if stuck else None,
    )
    if chosen.since is not None and chosen.until is not None and chosen.since > chosen.until:
        raise OptionError("invalid window: expected until after its start.", "until")
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
    if not 0 < hours <= 100 * 365 * 24:
        raise UsageError(f"invalid number of hours '{text}': expected a number above 0, at most a century.")
    return hours


def parse_limit(text: str) -> int:
    """Read the largest number of rows to show, 0 for all.

    Raises:
        UsageError: if it is not a whole number.
    """
    return _parse_number(text, 0, MAX_LIMIT, "limit", "a whole number, 0 for all")


def parse_tail(text: str) -> int:
    """Read how many of the last lines to print.

    Raises:
        UsageError: if it is not a whole number.
    """
    return _parse_number(text, 0, MAX_LIMIT, "number of lines", "a whole number, 0 or more")


def parse_first_count(text: str) -> int:
    """Read how many tasks run before the others, 0 for none.

    Raises:
        UsageError: if it is not a whole number from 0 to 100,000.
    """
    return _parse_number(text, 0, MAX_NUMBER, "number", f"a whole number from 0 to {MAX_NUMBER:,}, 0 for none")


def parse_positive_number(text: str) -> int:
    """Read a number of workers, shards or pods.

    Raises:
        UsageError: if it is not a whole number from 1 to 100,000.
    """
    return _parse_number(text, 1, MAX_NUMBER, "number", f"a whole number from 1 to {MAX_NUMBER:,}")


def _parse_number(text: str, least: int, most: int, name: str, expected: str) -> int:
    number = parse_whole_number(text, least, most)
    if number is None:
        raise UsageError(f"invalid {name} '{text}': expected {expected}.")
    return number
