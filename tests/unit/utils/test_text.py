"""Whole numbers are read from ASCII digits only, a text is cut, and of an output the last line is found."""

from __future__ import annotations

import pytest

from mopsjobs.utils.text import cut_in_the_middle, cut_to_length, last_line, parse_whole_number


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), ("99", 99), ("100", None), ("9" * 5000, None)])
def test_a_number_is_read_if_it_lies_between_the_limits(text: str, number: int | None) -> None:
    assert parse_whole_number(text, 0, 99) == number


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("abc", "abc"), ("abcd", "ab…")])
def test_a_longer_text_is_cut_with_a_mark(text: str, cut: str) -> None:
    """The mark counts as a character."""
    assert cut_to_length(text, 3) == cut


@pytest.mark.parametrize(("text", "cut"), [("", ""), ("abcdef", "abcdef"), ("abcdefg", "ab…efg")])
def test_a_message_keeps_both_ends(text: str, cut: str) -> None:
    """Its end has the cause."""
    assert cut_in_the_middle(text, 6) == cut


@pytest.mark.parametrize(
    ("printed", "line"), [(b"", ""), (b" \n\n", ""), (b"a\n b \r\n \n", "b"), (b"a", "a"), (b"\xff", "\ufffd")]
)
def test_the_last_line_of_an_output_is_one_with_words(printed: bytes, line: str) -> None:
    assert last_line(printed) == line
