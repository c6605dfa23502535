"""Points in time and durations: what is understood, and how they are written for records, scripts and people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import UsageError
from mopsjobs.utils.times import (
    MAX_SECONDS,
    human_age,
    human_duration,
    json_time,
    parse_duration,
    parse_time,
    parse_when,
    record_time,
)

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EARLIEST, LATEST = NOW.replace(year=1970, tzinfo=None), NOW.replace(year=2200, tzinfo=None)
moments = st.datetimes(EARLIEST, LATEST, timezones=zones)


# --- points in time -------------------------------------------------------------------------------------------------


@given(moments)
def test_what_is_written_is_read_back_as_the_same_moment(moment: datetime) -> None:
    """Both written forms keep every microsecond, whatever the zone was."""
    assert parse_time(record_time(moment)) == moment
    assert parse_time(json_time(moment)) == moment


@given(moments, moments)
def test_times_of_all_zones_are_read_into_utc_and_keep_their_order(one: datetime, other: datetime) -> None:
    """Every time that is read comes out in UTC, so times can be compared with each other."""
    first, second = parse_time(one.isoformat()), parse_time(other.isoformat())
    assert first.tzinfo is UTC
    assert (first < second) == (one < other)


def test_a_time_without_offset_is_taken_for_utc() -> None:
    """ModelOps' oldest records have none."""
    assert parse_time("2026-11-24T09:00:00") == NOW


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-13-01", "24.11.2026", "2026-11-24T25:00", "0001-01-01T00:00:00+10:00", " 2026-11-24", "1e9"],
)
def test_what_is_no_time_is_a_value_error(text: str) -> None:
    """So is a time that only exists outside the years 1 to 9999 once it is in UTC."""
    with pytest.raises(ValueError):
        parse_time(text)


# --- durations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("7d", 7 * 86400),
        ("1.5d", 36 * 3600),
        ("1h30m", 5400),
        ("36500d", MAX_SECONDS),
    ],
)
def test_a_duration_is_a_row_of_numbers_with_units(text: str, seconds: float) -> None:
    """Decimals and several units in one, in any order, up to a century."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "h", "-5m", "+5m", "5 m", "5M", "5min", "1h30", ".5h", "5.h", "1,5h", "1e3s", "٣h", "²h", "5m\n", "inf"],
)
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    """The sentence repeats what was given and shows how it is written."""
    with pytest.raises(UsageError, match="90s, 5m, 2h, 7d or 1h30m") as caught:
        parse_duration(text)
    assert f"'{text}'" in str(caught.value)


# --- when -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24 hours ago", NOW - timedelta(days=1)),
        ("1.5d", NOW - timedelta(hours=36)),
        ("2026-11-23T09:00:00Z", NOW - timedelta(days=1)),
        ("2026-11-24", NOW.replace(hour=0)),
    ],
)
def test_a_point_in_time_is_a_time_or_a_duration_before_now(text: str, expected: datetime) -> None:
    """`--since 2h` and `--since 2026-11-23T09:00:00Z` are both understood."""
    assert parse_when(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "-2h", "2 h", "2026-99-99", "12:00"])
def test_what_is_neither_is_refused_with_an_example_of_each(text: str) -> None:
    """The sentence repeats what was given."""
    with pytest.raises(UsageError, match="a duration such as 2h or 7d, or RFC 3339 such as 2026") as caught:
        parse_when(text, NOW)
    assert f"'{text}'" in str(caught.value)


# --- for people -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0s"),
        (60, "1m"),
        (3600, "1h"),
        (7800, "2h 10m"),
        (4 * 86400 + 3700, "4d 1h"),
        (100 * 86400 + 3600, "100d"),
    ],
)
def test_a_duration_for_people_has_at_most_two_units(seconds: float, text: str) -> None:
    """Seconds beside days tell nothing; a zero in second place is left out."""
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.9, "just now"),
        (2, "2s ago"),
        (3 * 60 + 59, "3m ago"),
        (-60, "in 1m"),
        (-7300, "in 2h"),
    ],
)
def test_an_age_for_people_has_one_unit(seconds: float, text: str) -> None:
    """A time that another clock wrote a little ahead is `just now`; far ahead it says so."""
    assert human_age(seconds) == text
