"""Forecasts on a virtual clock: the range holds the end, says nothing too early, and never seconds instead of minutes.

A part of what `./build.sh reliability --only forecast` does with a thousand runs of each kind.
"""

from __future__ import annotations

import functools
import statistics

import pytest

from mopsjobs.utils.forecast import Forecaster
from reliability.forecast import KINDS, LEAST_COVERAGE, MINUTES, Judged, coverage, judge, make_run, too_soon_seconds


@functools.cache  # two tests look at them
def _judged(kind: str) -> list[list[Judged]]:
    """Return the moments of some runs of a kind, with the forecasts of each."""
    return [judge(make_run(kind, seed)) for seed in range(6)]


def test_four_of_five_ranges_hold_the_end() -> None:
    """Over runs of every kind, and moments throughout each. No range says seconds while minutes are left."""
    judged = [moments for kind in KINDS for moments in _judged(kind)]
    assert coverage([one for moments in judged for one in moments]) >= LEAST_COVERAGE
    assert max(too_soon_seconds(moments) for moments in judged) < MINUTES


def test_ranges_are_narrow_where_they_can_be() -> None:
    """Of constant tasks a tenth of the rest; of those that differ, no more than the rest itself."""
    for kind, most in (("constant", 0.15), ("log-normal", 1.0), ("warming up", 0.6)):
        judged = [one for moments in _judged(kind) for one in moments if one.forecast]
        widths = [(one.forecast.latest - one.forecast.earliest) / one.left for one in judged]
        assert statistics.median(widths) < most


@pytest.mark.parametrize(("left", "workers", "enough"), [(100, 1, 4), (100, 8, 10), (3, 1, 3), (1, 1, 1)])
def test_it_says_nothing_too_early(left: int, workers: int, enough: int) -> None:
    """Before the first tasks of all workers, and some more, have finished; or half of all, if they are few."""
    forecaster = Forecaster()
    total = left + enough
    said = []
    for finished in range(enough + 1):
        at_work = [1.0] * min(workers, total - finished)
        said.append(forecaster.estimate(10.0 * finished, at_work, total - finished - len(at_work), workers))
        forecaster.add(10.0)
    assert said[:-1] == [None] * enough
    assert said[-1] is not None


def test_tasks_that_may_follow_move_only_the_end_of_the_range() -> None:
    """Ten tasks of 10 s on two workers take 50 s. Ninety more may follow, so it takes 500 s at most."""
    forecaster = Forecaster()
    for _ in range(20):
        forecaster.add(10.0)
    known = forecaster.estimate(100.0, [0.0, 0.0], 8, 2)
    found = forecaster.estimate(100.0, [0.0, 0.0], 8, 2, more=90)
    assert known is not None
    assert found is not None
    assert found.earliest == known.earliest
    assert known.latest < 60
    assert found.latest == pytest.approx(500, rel=0.15)


def test_a_task_that_is_overdue_moves_the_end() -> None:
    """The last task takes longer than any other. The longer it takes, the later the range."""
    forecaster = Forecaster()
    for seconds in (9.0, 10.0, 11.0) * 10:
        forecaster.add(seconds)
    ranges = [forecaster.estimate(elapsed, [elapsed], 0, 4) for elapsed in (2.0, 60.0, 600.0)]
    first, second, third = (found for found in ranges if found is not None)
    assert 6.5 < first.earliest < first.latest < 11
    assert second.latest > 60
    assert third.latest > 600


def test_workers_that_wait_between_tasks_count() -> None:
    """A task takes 1 s, but each worker ends one every 4 s, since the runner stores outputs in between."""
    forecaster = Forecaster()
    for finished in range(50):
        forecaster.estimate(4.0 * finished, [1.0], 100 - finished - 1, 1)
        forecaster.add(1.0)
    found = forecaster.estimate(200.0, [0.0], 49, 1)
    assert found is not None
    assert 170 < found.earliest < found.latest < 230


def test_stragglers_are_those_that_the_finished_do_not_explain() -> None:
    """Three interquartile ranges above the third quartile, of logarithms; and twice the 99th percentile, and 10 s."""
    forecaster = Forecaster()
    for count in range(40):
        limit = forecaster.straggler_seconds()
        assert (limit is None) == (count < 8)
        assert limit is None or (limit == pytest.approx(120.0, rel=0.02)) == (count < 20), "ten times as long as usual"
        forecaster.add(12.0 if count % 2 else 8.0)
    limit = forecaster.straggler_seconds()
    assert limit is not None
    assert limit == pytest.approx(12 * 1.5**3, rel=0.1)
    assert forecaster.quantile(0.5) == pytest.approx(8.0, rel=0.02)
    for _ in range(9):
        forecaster.add(100.0)  # one of two kinds of task is long: now it is explained
    assert (forecaster.straggler_seconds() or 0) >= 200
