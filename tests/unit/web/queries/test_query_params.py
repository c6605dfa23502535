"""Query strings of the page and its API, read without a parser of command lines."""

from __future__ import annotations

import pytest

from mopsjobs.app.run.job_arguments import API
from mopsjobs.errors import UsageError
from mopsjobs.web.api.openapi import JOBS
from mopsjobs.web.queries.query_params import ChartsQuery, JobsPageQuery, JobsQuery
from support.cli import START


def test_empty_values_count_as_defaults() -> None:
    """Forms send their empty fields."""
    empty = [("status", ""), ("label", ""), ("stuck", ""), ("limit", ""), ("skip", ""), ("sort", "")]
    for query in (JobsQuery(API, JOBS, empty, START), JobsQuery(API, JOBS, [], START)):
        assert (query.values["limit"], query.values["skip"], query.filter.clauses()) == (50, 0, [("true", [])])
    page = JobsPageQuery([("q", ""), ("page", ""), ("owner", "")], START)
    assert (page.page, page.order, page.filter.clauses()) == (1, None, [("true", [])])
    charts = ChartsQuery([("owner", ""), ("label", ""), ("days", "")], START)
    assert (charts.owner, charts.labels, charts.days) == ("", (), 30)


def test_a_repeated_parameter_counts_once_and_a_label_each_time() -> None:
    """The last value counts, as on the command line; labels add up."""
    query = JobsQuery(API, JOBS, [("owner", "ada"), ("owner", "bob"), ("label", "a"), ("label", "b=1")], START)
    assert (query.filter.conditions, query.filter.labels) == ((("owner = ?", ["bob"]),), (("a", None), ("b", "1")))


def test_counts_per_status_leave_the_status_out() -> None:
    """The second filter of the page has all conditions but the status."""
    page = JobsPageQuery([("status", "failed"), ("owner", "ada"), ("q", "night")], START)
    assert (page.filter.statuses, page.filter_any_status.statuses) == ({"failed"}, None)
    assert (page.filter_any_status.conditions, page.filter_any_status.text) == ((("owner = ?", ["ada"]),), "night")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([("colour", "red")], "^unknown parameter 'colour': expected one of "),
        ([("limit", "1001")], "^invalid limit '1001': expected a whole number from 1 to 1,000.$"),
        ([("hours", "soon")], "^invalid hours 'soon': expected a number above 0"),
        ([("skip", "-1")], "^invalid skip '-1': expected a whole number from 0 to"),
        ([("hours", "2"), ("since", "1h")], "^hours and since contradict each other"),
        ([("since", "1h"), ("until", "2h")], "^invalid until '2h': expected a time after the window begins"),
    ],
)
def test_errors_name_parameters_not_flags(query: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        JobsQuery(API, JOBS, query, START)
    assert "--" not in str(caught.value)


def test_active_jobs_pass_a_window_of_ends() -> None:
    """As in the charts; of two begins, the later one counts."""
    [(condition, _)] = JobsPageQuery([("ended_since", "2026-02-27T00:00:00Z")], START).filter.clauses()
    assert condition == "(is_active = 1 OR +ended_ts >= ?)"
    later = JobsPageQuery([("days", "7"), ("ended_since", "60d")], START)
    assert later.filter.ended_since == JobsPageQuery([("days", "7")], START).filter.ended_since


@pytest.mark.parametrize("days", ["8", "x", "-30", "030"])
def test_only_the_offered_periods_are_accepted(days: str) -> None:
    with pytest.raises(UsageError, match=f"invalid days '{days}': expected one of 7, 30, 90"):
        ChartsQuery([("days", days)], START)
