"""Lines that are too long for a terminal are broken at blanks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.console.terminal import StyledText, display_width, style_text
from mopsjobs.console.wrapping import wrap_line


def _texts(text: str, width: int, indent: int = 2) -> list[str]:
    return ["".join(line) for line in wrap_line([text], width, indent)]


def test_a_line_continues_under_its_indent() -> None:
    """A word moves to the next line as a whole, and words are measured as a terminal shows them."""
    assert _texts("label0=値0, label1=値1", 20) == ["label0=値0,", "  label1=値1"]
    assert _texts("Labels     a=1, b=2, c=3", 20, 11) == ["Labels     a=1, b=2,", "           c=3"]


def test_a_command_line_stays_whole() -> None:
    """A command that was copied from two lines would run its first half. It ends at a punctuation mark."""
    text = "Trying again. If its runner is gone: mops-jobs resume nightly.1"
    assert _texts(text, 44) == ["Trying again. If its runner is gone:", "  mops-jobs resume nightly.1"]
    text = "To look first: mops-jobs cancel a --dry-run. Nothing was done."
    assert _texts(text, 40) == ["To look first:", "  mops-jobs cancel a --dry-run. Nothing", "  was done."]


def test_a_word_longer_than_a_line_is_left_to_the_terminal() -> None:
    """Moved to a line of its own, it would be broken there too."""
    assert _texts("path " + "x" * 60, 40) == ["path " + "x" * 60]


def test_a_style_goes_on_after_a_break() -> None:
    """The parts of a piece have its style."""
    lines = wrap_line(["Error ", style_text("one two", "red")], 10, 2)
    assert lines == [["Error ", "one"], ["  ", "two"]]
    assert [getattr(piece, "style", None) for line in lines for piece in line] == [None, "red", None, "red"]
    assert isinstance(lines[0][1], StyledText)


@given(st.lists(st.text(st.sampled_from("ab 値é"), max_size=20), max_size=4), st.integers(12, 40), st.integers(0, 8))
def test_wrapping_keeps_every_word(pieces: list[str], width: int, indent: int) -> None:
    """No word is lost or split, and a line is too long only where one word is."""
    lines = ["".join(line) for line in wrap_line(pieces, width, indent)]
    text = "".join(pieces)
    assert " ".join(lines).split() == text.split()
    for line in lines:
        words = line.split()
        assert display_width(line.rstrip()) <= width or len(words) == 1 or display_width(words[-1]) > width - indent
