"""The one loop that writes in the background: once, in order, again after an outage, and all of it at the end."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from mopsjobs.utils.background import LAST_PAUSE, MAX_PAUSE, BackgroundWriter
from support.runs import PATIENCE, until


class Owner:
    """Gives numbers to a writer whose time passes only while it waits."""

    def __init__(self, write: Callable[[int], object] | None = None, **more: Any) -> None:
        self.items: deque[int] = deque()
        self.written: list[int] = []
        self.now = 0.0
        self.pauses: list[float] = []
        options: dict[str, Any] = {"first_pause": 2.0, "clock": lambda: self.now, "wait": self._wait, **more}
        self.writer = BackgroundWriter("numbers", self._take, write or self.written.append, "They wait.", **options)
        self.writer.start()

    def _take(self) -> tuple[int | None, float | None]:
        return (self.items.popleft(), None) if self.items else (None, None)

    def _wait(self, changed: threading.Condition, seconds: float | None) -> None:
        if seconds is None:
            changed.wait()
        else:
            self.pauses.append(seconds)
            self.now += seconds

    def give(self, *items: int) -> None:
        with self.writer.changed:
            self.items += items
            self.writer.changed.notify()


def failing(times: int, written: list[int]) -> Callable[[int], None]:
    """Return a write that fails some times, and then notes its items."""
    left = iter(range(times))

    def write(item: int) -> None:
        if next(left, None) is not None:
            raise OSError("away")
        written.append(item)

    return write


def test_items_are_written_once_and_in_order() -> None:
    owner = Owner()
    owner.give(*range(100))
    assert owner.writer.close(PATIENCE)
    assert owner.written == list(range(100))
    assert owner.writer.close(0.0)


def test_an_outage_delays_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The pauses grow up to a limit, each drawn from its upper half."""
    written: list[int] = []
    with caplog.at_level(logging.INFO):
        owner = Owner(failing(9, written))
        owner.give(1, 2)
        until(lambda: written == [1, 2])
    assert [record.getMessage() for record in caplog.records] == ["away They wait."]
    longest = [min(MAX_PAUSE, 2.0 * 2**number) for number in range(9)]
    assert all(most / 2 <= pause <= most for pause, most in zip(owner.pauses, longest, strict=True))
    assert owner.writer.failure is None
    assert owner.writer.close(PATIENCE)


def test_an_item_is_given_up_when_the_time_of_close_is_over() -> None:
    """The pauses are short then. What was given up can be had."""
    owner = Owner(failing(10**9, []))
    owner.now = 0.0
    with owner.writer.changed:
        owner.items += [7, 8]
        owner.writer.is_closing, owner.writer._give_up_at = True, 3.5
        owner.writer.changed.notify()
    assert owner.writer.join(PATIENCE)
    assert max(owner.pauses) <= LAST_PAUSE
    assert owner.now == pytest.approx(3.5)
    assert (owner.writer.current, list(owner.items)) == (7, [8])
    assert not owner.writer.close(0.0)


def test_slow_writes_get_the_time_at_the_end_that_failures_do_not_get() -> None:
    gate, written = threading.Event(), list[int]()
    owner = Owner(lambda item: written.append(item) if gate.wait(PATIENCE) else None)
    owner.give(1, 2)
    assert not owner.writer.close(0.0)
    looks = iter([False, False, True])
    assert not owner.writer.close(0.0, PATIENCE, lambda: next(looks))  # a signal has come meanwhile
    gate.set()
    assert owner.writer.close(0.0, PATIENCE)
    assert written == [1, 2]


def test_kept_items_do_not_wait_for_the_end_of_an_outage() -> None:
    """One attempt is enough until the pause is over."""
    kept: list[int] = []
    written: list[int] = []
    owner = Owner(failing(1, written), keep=kept.append)
    owner.give(1, 2, 3)
    until(lambda: kept == [1, 2, 3])
    owner.now += 2.0
    owner.give(4)
    assert owner.writer.close(PATIENCE)
    assert (written, owner.pauses) == ([4], [])


def test_a_writer_that_is_closed_at_once_makes_no_further_attempt() -> None:
    """It waits for the end of an outage then. Its owner may have no time for another silence of the store."""
    attempts = threading.Semaphore(0)

    def write(_item: int) -> None:
        attempts.release()
        raise OSError("away")

    owner = Owner(write, first_pause=PATIENCE, clock=lambda: 0.0, wait=lambda changed, seconds: changed.wait(seconds))
    owner.give(1)
    assert attempts.acquire(timeout=PATIENCE)
    assert not owner.writer.close(0.0)
    assert owner.writer.join(PATIENCE)
    assert not attempts.acquire(blocking=False)
