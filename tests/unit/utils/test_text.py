"""Whole numbers are read from ASCII digits only, and from no text that Python refuses to convert."""

from __future__ import annotations

import pytest

from mopsjobs.utils.text import parse_whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("99", 99), ("100", None), ("9" * 5000, None)])
def test_a_number_is_read_if_it_lies_between_the_limits(text: str, number: int | None) -> None:
    assert parse_whole_number(text, 0, 99) == number


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "1.0", "²", "\u0661"])
def test_text_with_other_than_ascii_digits_is_no_number(text: str) -> None:
    assert parse_whole_number(text, 0, 99) is None
