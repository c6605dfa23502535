"""The table of filters: flags, parameters, the search box, Python programs and documents follow from it."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

import pytest

from mopsjobs.api.arguments import filter_values
from mopsjobs.api.registry import Registry
from mopsjobs.app.run import job_arguments
from mopsjobs.app.run.job_arguments import API, CHOICES, COMMANDS, FILTERS, NUMBER, REPEATED, SWITCH, TEXT, job_filter
from mopsjobs.cache.queries.filters import Filter
from mopsjobs.cli import flags
from mopsjobs.cli.parser import build_parser
from mopsjobs.errors import UsageError
from mopsjobs.web.api import openapi
from mopsjobs.web.queries import query_params, search_box
from support.cli import START
from support.docs import load_generator

ANNOTATIONS = {
    TEXT: "str | None", NUMBER: "float | None", CHOICES: "Choices | None", REPEATED: "Labels | None", SWITCH: "bool",
}  # fmt: skip
"""The types of the arguments of `Registry.jobs`, by the kinds of filters."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> str:
    """Add a filter to the table, and return its condition."""
    apply = job_arguments.require_choice("machine")
    added = job_arguments.FilterArgument("machine", CHOICES, "jobs on one of these machines", apply, metavar="HOST")
    monkeypatch.setitem(FILTERS, "machine", added)
    return "machine IN (?, ?, ?)"


def _values(chosen: Filter) -> dict[str, object]:
    return vars(chosen)


def _python_arguments() -> list[tuple[str, str]]:
    """Return the arguments of `Registry.jobs` that filter, with their types."""
    others = {"self", "sort", "limit", "freshness"}
    parameters = inspect.signature(Registry.jobs).parameters.values()
    return [(one.name, one.annotation) for one in parameters if one.name not in others]


def test_a_filter_of_the_table_is_everywhere(machine: str) -> None:
    """One more row is one more flag, parameter of page and API, word of the search box, and line of the reference."""
    parser = build_parser(["list"])
    by_flag = flags.filter_of(parser.parse_args(["list", "--machine", "a,b"]), START)
    by_page = query_params.JobsPageQuery([("machine", "a,b")], START).filter
    by_api = query_params.JobsQuery(API, openapi.JOBS, [("machine", "a,b")], START).filter
    by_python = job_filter(START, **filter_values({"machine": ["a", "b"]}))
    for chosen in (by_flag, by_page, by_api, by_python):
        assert chosen.clauses() == [(machine, ["a,b", "a", "b"])]
    parameters = openapi.document.__wrapped__()["paths"]["/api/v1/jobs"]["get"]["parameters"]
    described = {one["name"]: one["description"] for one in parameters}
    assert described["machine"] == "Only jobs on one of these machines."
    assert search_box.expand_search([("q", "machine:a machine:b")]) == [("machine", "a,b")]
    assert dict(search_box.describe_filters([("machine", "a,b")])).keys() == {"machine:a,b"}
    reference = load_generator("generate_cli").render()
    assert "| `--machine HOST[,HOST]` | select jobs on one of these machines |" in reference


def test_python_has_the_filters_of_the_table() -> None:
    """The signature is written out for editors. Order does not matter, since all are given by name."""
    table = [(name, ANNOTATIONS[one.kind]) for name, one in job_arguments.filters_on(COMMANDS).items()]
    assert sorted(_python_arguments()) == sorted(table)
    assert all(f"\n    {name}: " in str(inspect.getdoc(Registry.jobs)) for name, _ in table)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hours": "two"}, "^invalid hours 'two': expected a number.$"),
        ({"since": 2}, "^invalid since 2: expected a text.$"),
        ({"owner": 7}, "^invalid choice 7: expected a text, or a list of texts.$"),
        ({"label": 7}, "^invalid label 7: expected a text, or a list of texts.$"),
        ({"stuck": "yes"}, "^invalid stuck 'yes': expected True or False.$"),
    ],
)
def test_a_python_argument_of_another_type_is_refused(values: dict[str, Any], message: str) -> None:
    """One sentence names it, its value, and what was expected."""
    with pytest.raises(UsageError, match=message):
        filter_values(values)


def test_a_flag_and_a_query_give_the_filter_of_the_plain_values() -> None:
    """The three ways to ask for jobs lead to one filter."""
    parser = argparse.ArgumentParser()
    flags.add_filter_flags(parser)
    words = ["--hours", "2", "--status", "active", "--label", "a=b", "--label", "c", "--owner", "ada", "--stuck"]
    by_flags = flags.filter_of(parser.parse_args(words), START)
    query = [("hours", "2"), ("status", "active"), ("label", "a=b"), ("label", "c"), ("owner", "ada")]
    by_query = query_params.JobsQuery(API, openapi.JOBS, [*query, ("stuck", "true"), ("until", "")], START).filter
    plain = job_filter(START, hours=2.0, status="active", label=["a=b", "c"], owner="ada", stuck=True)
    assert _values(by_flags) == _values(by_query) == _values(plain)
    assert plain.labels == (("a", "b"), ("c", None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hours": 2.0, "since": "2h"}, "contradict"),
        ({"since": "1h", "until": "2h"}, "invalid until '2h': expected a time after the window begins"),
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
