"""Widths of texts, where they are cut and broken, and tables that are fitted to a width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.console.result import Table
from mopsjobs.console.table import format_table
from mopsjobs.console.terminal import StyledText, cut_to_width, display_width, style_text, wrap_line


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


ID = "i" * 63


def _table(job_id: str = ID, owner: str = "田中太郎") -> Table:
    headers = ("JOB", "STATUS", "OWNER", "NOTE")
    rows = [["a", "running", "ada", "x" * 30], [job_id, "failed", owner, "🚀 e\u0301"]]
    return Table(headers, rows, never_cut=("JOB",), drop_order=("NOTE", "OWNER"))


def _format(table: Table, width: int | None) -> tuple[list[str], list[str]]:
    return format_table(table, width, lambda text, _style: text)


def test_a_pipe_gets_every_cell_whole() -> None:
    """The columns are aligned by what a terminal shows."""
    assert _format(_table("job.2"), None) == (
        [
            "JOB    STATUS   OWNER     NOTE",
            "a      running  ada       " + "x" * 30,
            "job.2  failed   田中太郎  🚀 e\u0301",
        ],
        [],
    )


def test_cells_are_cut_before_a_column_is_dropped() -> None:
    """The widest column gives way first."""
    lines, dropped = _format(_table("job.2"), 45)
    assert lines[1] == "a      running  ada       xxxxxxxxxxxxxxxxxx…"
    assert not dropped
    assert _format(_table("job.2"), 37) == (
        ["JOB    STATUS   OWNER", "a      running  ada", "job.2  failed   田中太郎"],
        ["NOTE"],
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("job_id", ["a", "i" * 25, "i" * 40, ID])
def test_lines_fit_and_ids_are_whole(job_id: str, width: int) -> None:
    """A line is longer than the terminal only where an id alone is."""
    lines, _ = _format(_table(job_id, "田" * 50), width)
    assert all(display_width(line) <= width or line == job_id for line in lines)
    assert any(line.startswith(job_id) for line in lines)
    assert any("failed" in line for line in lines)


def test_a_table_that_cannot_fit_is_not_cut() -> None:
    """Cutting would lose text and win nothing: the terminal breaks the lines."""
    table = Table(("WHAT", "VALUE"), [("prometheus-client", "v" * 90)], never_cut=("VALUE",))
    assert _format(table, 60)[0][1] == "prometheus-client  " + "v" * 90
