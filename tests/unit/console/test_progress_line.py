"""The line about progress: its times go on by themselves, and it fits the terminal."""

from __future__ import annotations

import pytest

from mopsjobs.console import progress_line, terminal
from mopsjobs.console.printer import Printer
from mopsjobs.console.progress_line import ProgressLine
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
    """Each second the elapsed time is one more, and the time left one less."""
    clock = Clock()
    line = _line(stream, clock)
    line.begin(0, 64, workers=2)
    for count in range(1, 9):
        clock.advance(seconds=10)
        line(count)
    texts = []
    for _ in range(3):
        line.draw()
        texts.append(_last(stream))
        clock.advance(seconds=1)
    assert texts == [
        "[###---------------------] 8/64 tasks, 12 %, 1:20, about 9m 20s left",
        "[###---------------------] 8/64 tasks, 12 %, 1:21, about 9m 19s left",
        "[###---------------------] 8/64 tasks, 12 %, 1:22, about 9m 18s left",
    ]


def test_the_start_up_is_not_in_the_estimate(stream: TerminalStream) -> None:
    """Workers start for 100 s; then each task takes 10. What an earlier run did is not in the rate either."""
    clock = Clock()
    line = _line(stream, clock)
    line.wait(50, 64, "starting workers")
    clock.advance(seconds=100)
    line.draw()
    assert _last(stream).endswith("50/64 tasks, 78 %, 1:40, starting workers")
    line.begin(50, 64, workers=1)
    for count in (51, 52):
        assert "left" not in _last(stream)
        clock.advance(seconds=10)
        line(count)
    assert _last(stream).endswith("52/64 tasks, 81 %, 2:00, about 2m left")


@pytest.mark.parametrize("columns", [10, 40, 60, 80, 120])
def test_the_line_fits_the_terminal(stream: TerminalStream, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """The bar shrinks, then goes; the last column stays free, where the cursor would move to the next line."""
    monkeypatch.setattr(terminal, "columns", lambda _stream: columns)
    clock = Clock()
    line = _line(stream, clock)
    line.wait(3, 64, "待機中 " * 10)
    clock.advance(seconds=1)
    line.draw()
    assert 0 < terminal.display_width(_last(stream)) < columns


def test_a_shorter_line_covers_the_one_before(stream: TerminalStream) -> None:
    """What was longer is overwritten with blanks."""
    clock = Clock()
    line = _line(stream, clock)
    line.wait(0, 64, "starting workers")
    clock.advance(seconds=1)
    line.draw()
    line.begin(0, 64)
    line.draw()
    before, after = stream.getvalue().split("\r")[1:]
    assert len(after) == len(before)


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


def test_a_terminal_that_is_gone_does_not_end_the_work(stream: TerminalStream) -> None:
    """The count goes on unseen."""
    clock = Clock()
    line = _line(stream, clock)
    stream.close()
    clock.advance(seconds=1)
    line(1)
