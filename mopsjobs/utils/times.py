"""Points in time and durations: many forms are read, one form is written.

Everything inside is UTC. A time without an offset counts as UTC, since ModelOps' programs write it so.
Records carry `+00:00` (readable by `datetime.fromisoformat` of any Python), JSON for scripts carries `Z`.
"""

from __future__ import annotations

import functools
import re
import time
from datetime import UTC, datetime, timedelta

from mopsjobs.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])", re.ASCII)

MAX_TIME_LENGTH = 64
"""Characters of a time in ISO 8601: twice what the longest with nanoseconds and an offset has."""

MAX_SECONDS = 100 * 365 * 86400
"""A century. A longer duration is a mistake, and would lead beyond the last `datetime`."""

_FIRST_SECOND = datetime.min.replace(tzinfo=UTC).timestamp()

_LAST_SECOND = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()

_RANGE_STEPS = ((60, 1), (600, 10), (3600, 60), (36000, 600))
"""To how many seconds a range is rounded, by its end. It is not exact to the second."""


def utc_now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.fromtimestamp(time.time(), UTC)


@functools.lru_cache(1024)  # the times of one record are few and read often, and a sync has many records
def parse_time(text: str) -> datetime:
    """Parse a point in time in ISO 8601, and return it in UTC.

    Raises:
        ValueError: if the text is not a time.
    """
    if len(text) > MAX_TIME_LENGTH:  # a fraction may have any number of digits, and the cache keeps the text
        raise ValueError("too long for a time")
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is UTC:  # the usual case: records have `+00:00`
        return moment
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{text!r} is out of range") from error


def record_time(moment: datetime) -> str:
    """Return a time as records carry it: ISO 8601 with `+00:00`."""
    return moment.astimezone(UTC).isoformat()


def json_time(moment: datetime) -> str:
    """Return a time as scripts get it: RFC 3339 with `Z`."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


@functools.lru_cache(1024)  # as `parse_time`: a record has each time two or three times
def rfc3339(text: str) -> str:
    """Return a time as scripts get it, from ISO 8601 text that `parse_time` accepts."""
    # The form of records needs no parsing; a sync has ten such texts per record.
    if _record_time_pattern().fullmatch(text):
        return text[:-6] + "Z"
    return json_time(parse_time(text))


@functools.cache  # not compiled before: no listing needs it
def _record_time_pattern() -> re.Pattern[str]:
    return re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00", re.ASCII)


def whole_seconds(text: str) -> str:
    """Return a time in the form of `json_time` without its fraction of a second."""
    return re.sub(r"\.\d+Z$", "Z", text)


def from_timestamp(seconds: float) -> datetime:
    """Return the time `seconds` after 1970, in UTC, within what Python can represent."""
    return datetime.fromtimestamp(max(_FIRST_SECOND, min(seconds, _LAST_SECOND)), UTC)


def json_timestamp(seconds: float | None) -> str | None:
    """Return the time `seconds` after 1970 as scripts get it; None if it is not known."""
    return None if seconds is None else json_time(from_timestamp(seconds))


def parse_duration(text: str) -> float:
    """Return the seconds of `90s`, `5m`, `2h`, `1.5d`, `2w`, or of several, `1h30m`.

    Raises:
        UsageError: if the text is not a duration, or longer than a century.
    """
    parts = _duration_parts(text)
    if not parts:
        raise UsageError(
            f"invalid duration '{text}': expected a number with s, m, h, d or w, such as 90s, 5m, 2h, 7d or 1h30m."
        )
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > MAX_SECONDS:
        raise UsageError(f"invalid duration '{text}': expected at most a century.")
    return seconds


def _duration_parts(text: str) -> list[tuple[str, str]]:
    """Return numbers and units of a duration; an empty list if the text is none."""
    parts: list[tuple[str, str]] = _DURATION_PART.findall(text)
    return parts if "".join(number + unit for number, unit in parts) == text else []


def parse_when(text: str, now: datetime) -> datetime:
    """Return the time that RFC 3339 text, or a duration before `now`, stands for.

    Raises:
        UsageError: if the text is neither.
    """
    duration = re.sub(r" ([smhdw])(?:econd|inute|our|ay|eek)s?(?: ago)?$", r"\1", text)  # 24 hours ago
    if _duration_parts(duration):
        return now - timedelta(seconds=parse_duration(duration))
    try:
        return parse_time(text)
    except ValueError:
        raise UsageError(
            f"invalid time '{text}': expected a duration such as 2h or 7d, or RFC 3339 such as 2026-11-24T09:00:00Z."
        ) from None


def human_duration(seconds: float) -> str:
    """Return a duration for people, in at most two units: `0s`, `42s`, `3m 5s`, `2h 10m`, `4d 1h`, `210d`."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    if left < 3600:
        major, minor, units = left // 60, left % 60, "ms"
    elif left < 86400:
        major, minor, units = left // 3600, left % 3600 // 60, "hm"
    else:
        major, minor, units = left // 86400, left % 86400 // 3600, "dh"
    return f"{major}{units[0]} {minor}{units[1]}" if minor and major < 100 else f"{major}{units[0]}"


def human_seconds(seconds: float) -> str:
    """Return how long a task took, for people: `0.4 s`, `512.0 s`, `1,234 s`."""
    return f"{seconds:,.1f} s" if seconds < 1000 else f"{seconds:,.0f} s"


def human_range(earliest: float, latest: float) -> str:
    """Return a range of durations for people: `12m to 20m`, `up to 20m`, or `about 5m`."""
    step = next((step for limit, step in _RANGE_STEPS if latest < limit), 3600)
    low, high = earliest // step * step, -(-latest // step) * step
    if high - low <= step:
        return f"about {human_duration(high)}"
    return f"{human_duration(low)} to {human_duration(high)}" if low else f"up to {human_duration(high)}"


def human_age(seconds: float) -> str:
    """Return an age for people: `just now`, `3m ago`; or `in 2m`, if the clock of another machine is ahead."""
    if seconds <= -60:
        return f"in {human_duration(-seconds).split()[0]}"
    return "just now" if seconds < 2 else f"{human_duration(seconds).split()[0]} ago"
