"""Conditions on tasks: how they are read, and what they compare."""

from __future__ import annotations

import pytest

from mopsjobs.cache.queries.task_filters import (
    Condition,
    check_names,
    parse_condition,
    parse_order,
    parse_task_statuses,
)
from mopsjobs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("beta>0.9", Condition("beta", ">", "0.9")),
        ("mode==exit", Condition("mode", "==", "exit")),
        ("mode!=a=b<c", Condition("mode", "!=", "a=b<c")),
        ("mode=", Condition("mode", "=", "")),
        ('mode == "a b"', Condition("mode", "==", "a b")),
        ('"my mode" != "\\u00e4"', Condition("my mode", "!=", "ä")),
        ('"a<b>=c" >= 3', Condition("a<b>=c", ">=", "3")),
        ('"a<b>', Condition('"a', "<", "b>")),
        ('mode = "a"b"', Condition("mode", "=", '"a"b"')),
    ],
)
def test_the_first_operator_splits_a_condition(text: str, condition: Condition) -> None:
    """Blanks and quotes around name and value do not count. A value may have operators of its own."""
    assert parse_condition(text) == condition


@pytest.mark.parametrize("text", ["", "beta", "=3", " > 1", "x" * 10_000])
def test_a_condition_without_name_or_operator_is_refused(text: str) -> None:
    """The error shows the form, and quotes no more than a line of what was typed."""
    with pytest.raises(UsageError, match="expected NAME, an operator and a value") as refused:
        parse_condition(text)
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("text", ["beta>", "beta >= ", "beta=>0.2", "beta=<0.2", "beta<>3", "beta===3", "beta><1"])
def test_a_condition_with_another_operator_or_without_a_value_is_refused(text: str) -> None:
    """One sentence says what was expected, and the hint has the operators."""
    with pytest.raises(UsageError, match=r"^invalid condition 'beta.*': expected a value after [<>=]+\.\n") as refused:
        parse_condition(text)
    assert refused.value.hint == ("Operators are != <= >= = < >. A text that begins with one of them needs quotes.")
    assert parse_condition('mode="=>"') == Condition("mode", "=", "=>")


@pytest.mark.parametrize(
    ("text", "params", "holds"),
    [
        ("x>0.9", {"x": 1}, True),
        ("x>9", {"x": 10}, True),  # as texts, "10" comes before "9"
        ("x>9", {"x": "10"}, False),
        ("x=1.0", {"x": 1}, True),
        ("x!=one", {"x": 1}, True),
        ("x=true", {"x": True}, True),
        ("x=1", {"x": True}, False),
        ("x=True", {"x": True}, True),
        ("x=True", {"x": "True"}, True),
        ("x=null", {"x": None}, True),
        ("x=[1,2]", {"x": [1, 2]}, True),
        ("x=nan", {"x": "nan"}, True),
        ("x<inf", {"x": 1}, True),  # as texts
        (f"x={2**64 - 1}", {"x": 2**64 - 1}, True),
        (f"x={2**64 - 1}", {"x": 2**64}, False),
        ("x>" + "9" * 5000, {"x": 1}, False),
        ("x!=1", {"y": 1}, False),
    ],
)
def test_two_numbers_compare_as_numbers(text: str, params: dict[str, object], holds: bool) -> None:
    """Everything else compares as text; a set without the parameter meets no condition on it."""
    assert parse_condition(text).holds(params) is holds


def test_an_unknown_parameter_is_refused_with_the_nearest() -> None:
    """The names of a study may be many and long; the error is not."""
    names = ["beta", *(f"{number}" * 1000 for number in range(1000))]
    with pytest.raises(UsageError, match="Did you mean 'beta'") as refused:
        check_names([parse_condition("bta=1")], names)
    assert len(refused.value.message) < 1000
    with pytest.raises(UsageError, match="has no parameters"):
        check_names([parse_condition("bta=1")], [])


def test_statuses_and_orders_are_words_of_a_list() -> None:
    """A word that is none of them is refused, with the nearest."""
    assert parse_task_statuses("failed, oom") == {"failed", "oom"}
    assert parse_order("-seconds") == ("seconds", True)
    with pytest.raises(UsageError, match=r"invalid status of a task 'fail': .* Did you mean 'failed'"):
        parse_task_statuses("fail")
    with pytest.raises(UsageError, match=r"invalid sort column 'second': .* Did you mean 'seconds'"):
        parse_order("-second")
