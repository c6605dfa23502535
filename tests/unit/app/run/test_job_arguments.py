"""Arguments that select jobs: plain values, the same for flags, queries and Python programs."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import pytest

from mopsjobs.app.run.job_arguments import job_filter
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cli import flags
from mopsjobs.errors import UsageError
from mopsjobs.web.queries import query_params
from support.cli import START


def _values(chosen: Filter) -> dict[str, object]:
    return {name: getattr(chosen, name) for name in Filter.__slots__}


def test_without_a_condition_all_jobs_pass() -> None:
    assert job_filter(START).is_everything


def test_flags_and_queries_have_the_arguments_of_job_filter() -> None:
    """Each argument is a flag; each but the regular expression is a parameter of the page and its API."""
    arguments = {name for name in inspect.signature(job_filter).parameters if name != "now"}
    assert set(flags.FILTERS) == arguments
    assert set(query_params.FILTERS) == arguments - {"match"}


def test_a_flag_and_a_query_give_the_filter_of_the_plain_values() -> None:
    """The three ways to ask for jobs lead to one filter."""
    parser = argparse.ArgumentParser()
    flags.add_filter_flags(parser)
    words = ["--hours", "2", "--status", "active", "--label", "a=b", "--label", "c", "--owner", "ada", "--stuck"]
    by_flags = flags.filter_of(parser.parse_args(words), START)
    query = [("hours", "2"), ("status", "active"), ("label", "a=b"), ("label", "c"), ("owner", "ada")]
    by_query = query_params.JobsQuery([*query, ("stuck", "true"), ("until", "")], START).filter
    plain = job_filter(START, hours=2.0, status="active", label=["a=b", "c"], owner="ada", stuck=True)
    assert _values(by_flags) == _values(by_query) == _values(plain)
    assert plain.labels == (("a", "b"), ("c", None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hours": 2.0, "since": "2h"}, "contradict"),
        ({"since": "1h", "until": "2h"}, "invalid window"),
        ({"label": ["=7"]}, "invalid label '=7'"),
        ({"label": ["k"] * 101}, "too many labels"),
        ({"name": "a" * 1001}, "glob too long"),
        ({"match": "("}, "invalid regular expression"),
        ({"status": "nope"}, "invalid status"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        job_filter(START, **values)


@pytest.mark.parametrize("text", ["0", "nan", "soon", "1e9", "-1"])
def test_a_flag_with_an_invalid_number_is_named(text: str) -> None:
    """The reader knows no flag; argparse puts the flag's name before its message."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    flags.add_filter_flags(parser)
    with pytest.raises(argparse.ArgumentError, match=f"^argument --hours: invalid number of hours '{text}'"):
        parser.parse_args([f"--hours={text}"])
