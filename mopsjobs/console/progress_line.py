"""The line about progress on a terminal: count, bar, elapsed time, and the time left if the work knows it.

It is redrawn each second.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mopsjobs.console import terminal
from mopsjobs.utils.forecast import Forecast
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import human_range

if TYPE_CHECKING:
    from typing import Self, TextIO

REDRAW_SECONDS = 1.0
"""The line is redrawn after this, so that its times go on while nothing is done."""

LEAST_SECONDS = 0.1
"""It is not drawn more often than this."""

DELAY_SECONDS = 0.2
"""Work that is done sooner leaves no line."""

SLOW_SECONDS = 5.0
"""After this time, the line also says what the work waits for."""

BAR_WIDTH = 24
BAR_STEP = 8
"""The bar is as wide as a multiple of this, so that it does not change with each digit of the times."""


class ProgressLine:
    """A line at the bottom of a terminal, from a thread of its own. Call it with the count so far."""

    def __init__(
        self,
        stream: TextIO,
        unit: str,
        total: int | None,
        *,
        clock: Callable[[], float],
        describe: Callable[[], str] = str,
    ) -> None:
        """Take what is counted.

        Args:
            stream: a terminal.
            unit: what is counted.
            total: the expected count; None if it is unknown.
            describe: returns what the work waits for. It is shown beside the times after `SLOW_SECONDS`.
            clock: a monotonic clock in seconds.
        """
        self._stream = stream
        self._describe = describe
        self._unit = unit
        self._total = total
        self._clock = clock
        self._end: Forecast | None = None
        """The range of the end, by the clock, if the work itself knows it."""
        self._note = ""
        self._count = 0
        self._started_at = self._drawn_at = clock()
        self._drawn_width = 0
        # Reentrant: a signal handler may print a message while this thread draws.
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._redraw_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._erase()

    def __call__(self, count: int) -> None:
        """Take the count so far, of work that is done one by one."""
        with self._lock:
            self._count = count
            self._draw_if_due()

    def show(self, done: int, total: int | None, *, note: str = "", left: Forecast | None = None) -> None:
        """Show the progress of work that knows itself how long it takes.

        Args:
            done: the count of what is done.
            total: the expected count, with that.
            note: what the work waits for, while it has not begun.
            left: the range of the time left; None while it is not known.
        """
        with self._lock:
            now = self._clock()
            self._count, self._total, self._note = done, total, note
            self._end = None if left is None else Forecast(now + left.earliest, now + left.latest)
            self._draw_if_due()

    def draw(self) -> None:
        """Draw the line with the times of now."""
        with self._lock:
            now = self._clock()
            if now - self._started_at < DELAY_SECONDS:
                return
            self._drawn_at = now
            # One column less: a full line would move the cursor to the next one.
            width = terminal.columns(self._stream) - 1
            text = terminal.cut_to_width(self._text(now, width), width)
            used = terminal.display_width(text)
            self._write("\r" + text + " " * (min(self._drawn_width, width) - used))
            self._drawn_width = used

    @contextlib.contextmanager
    def erased(self) -> Iterator[None]:
        """Take the line away for the block, in which others write on the terminal, and draw it again."""
        with self._lock:
            is_drawn = self._drawn_width > 0
            self._erase()
            yield
            if is_drawn:
                self.draw()

    def _text(self, now: float, width: int) -> str:
        elapsed = _clock_text(now - self._started_at)
        detail = strip_control_characters(self._describe()) if now - self._started_at >= SLOW_SECONDS else ""
        if not self._total:
            return ", ".join(filter(None, (self._note or f"{self._count:,} {self._unit}", elapsed, detail)))
        left = self._left(now)
        ahead = self._note if left is None else f"{human_range(*left)} left"
        share = min(1.0, self._count / self._total)
        counted = f"{self._count:,}/{self._total:,} {self._unit}, {int(100 * share)} %"
        text = ", ".join(filter(None, (counted, elapsed, ahead, detail)))
        bar = min(BAR_WIDTH, width - terminal.display_width(text) - 3) // BAR_STEP * BAR_STEP
        full = int(share * bar)
        return f"[{'#' * full}{'-' * (bar - full)}] {text}" if bar > 0 else text

    def _left(self, now: float) -> Forecast | None:
        """Return the range of the time left; None if it is not known, or has passed."""
        if self._end is None or self._end.latest <= now:
            return None
        return Forecast(max(0.0, self._end.earliest - now), self._end.latest - now)

    def _draw_if_due(self) -> None:
        if self._clock() - self._drawn_at >= LEAST_SECONDS:
            self.draw()

    def _erase(self) -> None:
        if self._drawn_width:
            self._write("\r" + " " * self._drawn_width + "\r")
            self._drawn_width = 0

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone: the work goes on
            self._stream.write(text)
            self._stream.flush()

    def _redraw_until_stopped(self) -> None:
        pause = DELAY_SECONDS
        while not self._stop.wait(pause):
            self.draw()
            pause = REDRAW_SECONDS


def _clock_text(seconds: float) -> str:
    """Return an elapsed time that changes each second: `0:42`, `12:05`, `2:10:05`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
