"""Forecasts of runs whose end is known: how often the range holds the end, and how wide it is.

All runs are on a virtual clock. At 50 moments of each, a forecaster that knows only what has happened so far gives a
range. 80 % of the ranges should hold the true end, and at least 75 % have to.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.utils.forecast import Forecast, Forecaster
from reliability.forecast.runs import KINDS, Run, make_run
from reliability.trial import Figure, Trial, hold

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = 1_000
"""Of the whole trial, for each kind."""

MOMENTS = 50
"""At which each run is looked at."""

LEAST_COVERAGE = 0.75

SOON = 10.0
"""A range that ends before that many seconds..."""

MINUTES = 60.0
"""...is wrong if more than this is left; and it may not say so for as long as this."""


class Judged(NamedTuple):
    """One moment of a run."""

    at: float
    forecast: Forecast | None
    left: float
    """Seconds until the true end."""

    @property
    def is_covered(self) -> bool:
        """Return whether the range holds the end."""
        return self.forecast is not None and self.forecast.earliest <= self.left <= self.forecast.latest

    @property
    def is_too_soon(self) -> bool:
        """Return whether the range says seconds, and minutes are left."""
        return self.forecast is not None and self.forecast.latest < SOON and self.left > MINUTES


def run(trial: Trial) -> Iterator[Figure]:
    """Yield what the forecasts of each kind are worth."""
    together: list[Judged] = []
    for kind in KINDS:
        judged: list[Judged] = []
        longest = 0.0
        for number in range(trial.times(RUNS)):
            moments = judge(make_run(kind, trial.seed * 1_000_000 + number))
            judged += moments
            longest = max(longest, too_soon_seconds(moments))
        together += judged
        spoken = [one for one in judged if one.forecast is not None]
        widths = [(one.forecast.latest - one.forecast.earliest) / one.left for one in spoken if one.forecast]
        yield Figure(
            f"{kind}: ranges that hold the end",
            f"{coverage(judged):.1%} of {len(spoken):,}; width {median(widths):.0%} of the rest (median);"
            f" silent at {1 - len(spoken) / len(judged):.0%} of the moments",
        )
        hold(longest < MINUTES, f"{kind}: the range said less than {SOON:g} s for {longest:.0f} s")
    yield Figure("all ranges that hold the end", f"{coverage(together):.1%}")
    hold(coverage(together) >= LEAST_COVERAGE, f"{coverage(together):.1%} of the ranges hold the end")


def judge(run: Run) -> list[Judged]:
    """Return what a forecaster says at moments of a run."""
    forecaster = Forecaster(ahead=run.ahead)
    ends = iter(sorted((end, end - begin) for begin, end in run.spans))
    following = next(ends, None)
    judged = []
    for moment in range(1, MOMENTS):
        now = run.end * moment / MOMENTS
        while following is not None and following[0] <= now:
            forecaster.add(following[1])
            following = next(ends, None)
        at_work = [now - begin for begin, end in run.spans if begin <= now < end]
        waiting = len(run.spans) - forecaster.finished - len(at_work)
        forecast = forecaster.estimate(now, at_work, waiting, run.workers_at(now))
        judged.append(Judged(now, forecast, run.end - now))
    return judged


def coverage(judged: list[Judged]) -> float:
    """Return the share of the ranges that hold the end."""
    spoken = [one for one in judged if one.forecast is not None]
    return sum(one.is_covered for one in spoken) / len(spoken)


def too_soon_seconds(judged: list[Judged]) -> float:
    """Return for how long at most a run was said to end within seconds, while minutes were left."""
    longest, since = 0.0, None
    for one in judged:
        since = (since if since is not None else one.at) if one.is_too_soon else None
        longest = max(longest, 0.0 if since is None else one.at - since)
    return longest
