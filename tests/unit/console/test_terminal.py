"""How many columns of a terminal a text takes, and where it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.console.terminal import cut_to_width, display_width


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("nightly.1", 9),
        ("müller", 6),
        ("田中太郎", 8),
        ("한국", 4),
        ("ﾃｽﾄ", 3),
        ("\uff21\uff11", 4),
        ("🚀", 2),
        ("e\u0301quipe", 6),
        ("\u1112\u1161\u11ab", 2),
        ("नमस्ते", 4),
        ("❤", 1),
        ("❤\ufe0f", 2),
        ("🚀\ufe0f", 2),
        ("🇩🇪", 2),
        ("…", 1),
    ],
)
def test_a_text_is_as_wide_as_a_terminal_shows_it(text: str, width: int) -> None:
    """East Asian and emoji characters count two, combining marks none."""
    assert display_width(text) == width


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    """A wide character that does not fit is left out; a mark stays with its character."""
    assert cut_to_width("田中太郎", 8) == "田中太郎"
    assert cut_to_width("田中太郎", 7) == "田中太…"
    assert cut_to_width("田中太郎", 6) == "田中…"
    assert cut_to_width("e\u0301e\u0301e\u0301", 2) == "e\u0301…"


@given(st.text(), st.integers(1, 40))
def test_a_cut_text_fits(text: str, width: int) -> None:
    """It takes no more columns than there are, and begins as the text does."""
    cut = cut_to_width(text, width)
    assert display_width(cut) <= width
    assert cut == text or text.startswith(cut[:-1])
