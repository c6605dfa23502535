"""The time left follows from the rate of the last tasks, without the start-up of the workers."""

from __future__ import annotations

import heapq
import random

import pytest

from mopsjobs.console.time_left import TimeLeft


def _ends(durations: list[float], workers: int, start: float) -> list[float]:
    """Return when each task ends, if workers take them in order."""
    free = [start] * workers
    ends = []
    for duration in durations:
        end = heapq.heappop(free) + duration
        heapq.heappush(free, end)
        ends.append(end)
    return sorted(ends)


def _estimates(ends: list[float], workers: int | None, start: float) -> list[tuple[float, float | None, float]]:
    """Return the share done, the estimate and the truth at each second."""
    left = TimeLeft()
    left.begin(start, 0, len(ends), workers=workers)
    found, done = [], 0
    for second in range(int(start), int(ends[-1]) + 1):
        for end in ends[done:]:
            if end <= second:
                done += 1
                left.add(end, done)
        found.append((done / len(ends), left.seconds(second), ends[-1] - second))
    return found


@pytest.mark.parametrize("workers", [1, 4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_estimate_is_near_the_truth(workers: int, seed: int) -> None:
    """Tasks take 20 to 100 s. From an eighth done to a tenth left, the estimate is never wrong by half."""
    chance = random.Random(seed)
    ends = _ends([chance.uniform(20, 100) for _ in range(120)], workers, 30)
    judged = [(left, truth) for share, left, truth in _estimates(ends, workers, 30) if 0.13 < share < 0.9]
    assert judged
    for left, truth in judged:
        assert left is not None
        assert 0.5 * truth < left < 1.5 * truth


def test_equal_tasks_that_end_together_are_no_burst() -> None:
    """Eight workers end eight tasks at once. The rate is that of the round, not of the moment."""
    ends = _ends([60.0] * 64, 8, 10)
    found = [(left, truth) for _, left, truth in _estimates(ends, 8, 10) if left is not None]
    assert found[0] == (360, 360)
    assert all(abs(left - truth) < 0.35 * truth + 1 for left, truth in found if truth > 60)


def test_nothing_is_said_before_there_is_enough() -> None:
    """Two tasks per worker, or half of few tasks; 5 % where the workers are not known."""
    for total, workers, enough in ((100, 4, 8), (8, 8, 4), (3, 2, 2), (200, None, 10), (8, None, 2)):
        left = TimeLeft()
        left.begin(0, 5, 5 + total, workers=workers)
        for done in range(1, enough + 1):
            assert left.seconds(done) is None
            left.add(done, 5 + done)
        assert left.seconds(enough) is not None


def test_the_time_left_counts_down_between_two_tasks() -> None:
    """Nothing ends for some seconds, and the estimate falls by as many. When a task is overdue, it rises."""
    left = TimeLeft()
    left.begin(0, 0, 10, workers=1)
    for done in (1, 2, 3):
        left.add(10 * done, done)
    assert [left.seconds(now) for now in (30, 31, 35, 40)] == [70, 69, 65, 60]
    assert (left.seconds(70) or 0) > 100


def test_the_last_task_takes_as_long_as_a_task() -> None:
    """Seven of eight workers have nothing to do any more; the last one still needs its time."""
    left = TimeLeft()
    left.begin(0, 0, 17, workers=8)
    left.add(40, 8)
    left.add(80, 16)
    assert left.seconds(80) == 40


def test_a_slower_second_half_is_noticed() -> None:
    """Only the last tasks count: long tasks after short ones raise the estimate to the truth."""
    ends = _ends([1.0] * 100 + [60.0] * 100, 4, 0)
    later = [(left, truth) for share, left, truth in _estimates(ends, 4, 0) if 0.7 < share < 0.9]
    assert all(left is not None and 0.6 * truth < left < 1.4 * truth for left, truth in later)


def test_without_a_total_nothing_is_said() -> None:
    """Nor when more is done than was expected."""
    left = TimeLeft()
    assert left.seconds(1) is None
    for total in (None, 3):
        left.begin(0, 0, total)
        left.add(1, 4)
        assert left.seconds(2) is None
