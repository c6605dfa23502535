"""Plain values of YAML: the core schema of YAML 1.2, and what to write instead of an ambiguous value."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.errors import RecordError
from mopsjobs.utils.yaml_strict import AmbiguousValuesError, ambiguity, read_yaml

ZERO = "a decimal number without a leading zero, or 0o for an octal one"


@pytest.mark.parametrize(
    ("texts", "instead"),
    [
        ("010 08 -012 007", ZERO),
        ("0b101 -0x1F 0O17", "a decimal number"),
        ("12:30 -1:30 1:02:03.5", "a number without colons"),
        ("1_000 0_1 1_000.25", "the number without underscores"),
        ("1.5D-3", "e in place of d"),
        ("No n off", "false"),
        ("ON y", "true"),
        ("None nan", "null"),
    ],
)
def test_an_ambiguous_value_comes_with_what_to_write(texts: str, instead: str) -> None:
    assert {ambiguity(text) for text in texts.split()} == {instead}


@pytest.mark.parametrize("text", ["0", "-0", "1e5", "0x1F", "0o10", "true", "~", "99:99", "1.2.3", "a,b", "yEs", "1_a"])
def test_a_value_that_all_readers_agree_about_is_not_ambiguous(text: str) -> None:
    assert ambiguity(text) is None


def test_all_ambiguous_values_are_named_with_their_lines() -> None:
    with pytest.raises(AmbiguousValuesError) as caught:
        read_yaml(b"a: &x no\nb: [1, 12:30]\nc: *x\nd: 'no'\n")
    assert caught.value.problems == [
        'line 1: no is ambiguous: write false, or "no" for a text',
        'line 2: 12:30 is ambiguous: write a number without colons, or "12:30" for a text',
    ]


def test_names_are_texts_where_yaml_1_2_has_them_so() -> None:
    assert read_yaml(b"{no: 1, on: 2, y: 3, 12:30: 4, 2024-01-01: 5}") == {
        "no": 1, "on": 2, "y": 3, "12:30": 4, "2024-01-01": 5
    }  # fmt: skip


@pytest.mark.parametrize("value", ["!!int 010", "!!int 1.5", "!!float no", "!!bool no", "!!null 0"])
def test_a_value_with_a_tag_fits_the_core_schema(value: str) -> None:
    with pytest.raises(RecordError, match="a value does not fit its tag"):
        read_yaml(f"x: {value}".encode())


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70))
def test_each_number_of_json_is_the_same_in_yaml(number: float) -> None:
    text = json.dumps(number)
    read = read_yaml(f"x: {text}".encode())
    assert read == {"x": number}
    assert isinstance(read, dict)
    assert type(read["x"]) is type(number)


@given(st.from_regex(r"[-+0-9_.:,eExobdD]{1,9}", fullmatch=True))
def test_no_number_of_yaml_1_1_is_silently_another_value(text: str) -> None:
    """A text that PyYAML reads as a number is that number, or refused."""
    document = f"x: {text}"
    try:
        old = yaml.safe_load(document)["x"]
        new = read_yaml(document.encode())
    except (AmbiguousValuesError, yaml.YAMLError, TypeError, ValueError):
        return
    assert isinstance(new, dict)
    if isinstance(old, (int, float)) and math.isfinite(old):
        assert new["x"] == old
