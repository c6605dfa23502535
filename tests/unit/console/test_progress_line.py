"""The line about progress: its times go on by themselves, and it fits the terminal."""

from __future__ import annotations

import pytest

from mopsjobs.console import progress_line, terminal
from mopsjobs.console.printer import Printer
from mopsjobs.console.progress_line import ProgressLine
from mopsjobs.utils.forecast import Forecast
from support.cli import Clock
from support.terminal import TerminalStream


@pytest.fixture
def stream() -> TerminalStream:
    """Return a terminal of 80 columns."""
    return TerminalStream()


def _line(stream: TerminalStream, clock: Clock, total: int | None = 64) -> ProgressLine:
    """Return a line that no thread redraws."""
    return ProgressLine(stream, "tasks", total, clock=clock.monotonic)


def _last(stream: TerminalStream) -> str:
    return stream.getvalue().rpartition("\r")[2].rstrip()


def test_times_go_on_while_nothing_is_done(stream: TerminalStream) -> None:
    """Each second the elapsed time is one more, and the time left one less. The range of the end stays."""
    clock = Clock()
    line = _line(stream, clock)
    line.show(8, 64, left=Forecast(9.5, 21.5))
    texts = []
    for seconds in (1, 1, 9):
        clock.advance(seconds=seconds)
        line.draw()
        texts.append(_last(stream))
    assert texts == [
        "[###---------------------] 8/64 tasks, 12 %, 0:01, 8s to 21s left",
        "[###---------------------] 8/64 tasks, 12 %, 0:02, 7s to 20s left",
        "[###---------------------] 8/64 tasks, 12 %, 0:11, up to 11s left",
    ]
    clock.advance(seconds=11)
    line.draw()
    assert _last(stream).endswith("8/64 tasks, 12 %, 0:22")


def test_the_line_says_what_the_work_waits_for(stream: TerminalStream) -> None:
    """Workers start, and no time is left to tell."""
    clock = Clock()
    line = _line(stream, clock)
    line.show(50, 64, note="starting workers")
    clock.advance(seconds=100)
    line.draw()
    assert _last(stream).endswith("50/64 tasks, 78 %, 1:40, starting workers")


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 120])
def test_the_line_fits_the_terminal(stream: TerminalStream, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """The bar shrinks, then goes; the last column stays free, where the cursor would move to the next line."""
    monkeypatch.setattr(terminal, "columns", lambda _stream: columns)
    clock = Clock()
    line = _line(stream, clock)
    line.show(3, 64, note="待機中 " * 10)
    clock.advance(seconds=1)
    line.draw()
    assert 0 < terminal.display_width(_last(stream)) < columns


def test_a_message_takes_the_place_of_the_line(stream: TerminalStream) -> None:
    """The line is erased, the message written, and the line drawn again below it."""
    clock = Clock()
    out = Printer(None, stream, {})
    with out.progress("tasks", 4, clock=clock.monotonic) as line:
        assert line is not None
        clock.advance(seconds=1)
        line(1)
        out.note("task 3: ValueError")
        out.note("task 4: ValueError")
        drawn = "[######------------------] 1/4 tasks, 25 %, 0:01"
    erased = f"\r{' ' * len(drawn)}\r"
    assert (
        stream.getvalue()
        == f"\r{drawn}{erased}task 3: ValueError\n\r{drawn}{erased}task 4: ValueError\n\r{drawn}{erased}"
    )


def test_quick_work_leaves_no_line(stream: TerminalStream) -> None:
    """Nothing flashes up."""
    clock = Clock()
    line = _line(stream, clock)
    line(1)
    clock.advance(seconds=progress_line.DELAY_SECONDS / 2)
    line.draw()
    assert stream.getvalue() == ""


def test_a_count_without_a_total(stream: TerminalStream) -> None:
    """Count and elapsed time."""
    clock = Clock()
    line = _line(stream, clock, None)
    clock.advance(hours=2, seconds=65)
    line(1204)
    assert _last(stream) == "1,204 tasks, 2:01:05"
