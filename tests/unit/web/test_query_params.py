"""Query strings of the page and its API, read without a parser of command lines."""

from __future__ import annotations

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.web.query_params import ChartsQuery, EventsQuery, JobsPageQuery, JobsQuery
from support.cli import START


def test_empty_values_count_as_defaults() -> None:
    """Forms send their empty fields."""
    empty = [("status", ""), ("label", ""), ("stuck", ""), ("limit", ""), ("skip", ""), ("sort", "")]
    for query in (JobsQuery(empty, START), JobsQuery([], START)):
        assert (query.limit, query.skip, query.filter.is_everything) == (50, 0, True)
    page = JobsPageQuery([("q", ""), ("page", ""), ("owner", "")], START)
    assert (page.q, page.page, page.owner, page.filter.text) == ("", 1, "", None)
    charts = ChartsQuery([("owner", ""), ("label", ""), ("days", "")])
    assert (charts.owner, charts.label, charts.days, charts.filter.is_everything) == ("", "", 30, True)


def test_a_repeated_parameter_counts_once_and_a_label_each_time() -> None:
    """The last value counts, as on the command line; labels add up."""
    query = JobsQuery([("owner", "ada"), ("owner", "bob"), ("label", "a"), ("label", "b=1")], START)
    assert (query.filter.owner, query.filter.labels) == ("bob", (("a", None), ("b", "1")))


def test_counts_per_status_leave_the_status_out() -> None:
    """The second filter of the page has all conditions but the status."""
    page = JobsPageQuery([("status", "failed"), ("owner", "ada"), ("q", "night")], START)
    assert (page.filter.statuses, page.filter_any_status.statuses) == ({"failed"}, None)
    assert (page.filter_any_status.owner, page.filter_any_status.text) == ("ada", "night")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([("colour", "red")], "unknown parameter 'colour': expected one of job, since, limit"),
        ([("limit", "1001")], "invalid limit 1001: expected 1 to 1000"),
        ([("limit", "x")], "invalid number 'x': expected a whole number from 1 to 100,000"),
    ],
)
def test_invalid_parameters_are_named(query: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EventsQuery(query)


@pytest.mark.parametrize("days", ["8", "x", "-30", "030"])
def test_only_the_offered_periods_are_accepted(days: str) -> None:
    with pytest.raises(UsageError, match=f"invalid days '{days}': expected one of 7, 30, 90"):
        ChartsQuery([("days", days)])
