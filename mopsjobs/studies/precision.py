"""Decide how many replicates a parameter set needs: as many as its intervals take to be as narrow as the study asks.

A set is looked at after fixed numbers of replicates, its looks, and by the first replicates alone. So the decision does
not depend on the order in which replicates finish, on the number of workers, or on when anything was killed. The runner
and all views call `judge`. See docs/decisions/0119-precision-instead-of-a-count.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from mopsjobs.utils.intervals import Interval, careful_interval, least_sample, quantile_interval
from mopsjobs.utils.scalar_keys import scalar_called

PRECISE = "precise"
"""Each interval is as narrow as the study asks."""

MORE = "more"
"""The set needs more replicates."""

FAILED = "failed"
"""A replicate failed, or has no finite value of a scalar that the study names. The set gets no further replicates."""

MAX = "max"
"""The set has as many replicates as the study allows, and an interval is still too wide."""

VERDICTS = {"precise": PRECISE, "failed": FAILED, "at_max": MAX}
"""The final verdicts, by the names of their counts in a record."""

GROWTH = 8
"""From one look to the next, the replicates grow by one part in this many."""

MOST_GROWTH = 2
"""Replicates grow by this factor at most, if an interval is far too wide."""

SKIPPED = 0.75
"""Looks are left out up to this part of the replicates that an interval seems to take."""


class Target(NamedTuple):
    """A scalar, and how precise its mean or a quantile has to be. Exactly one of `relative` and `absolute` is set."""

    scalar: str
    """Its key, or a short name, as `--best` takes it."""
    confidence: float = 0.95
    relative: float | None = None
    """The half-width that its interval may have, as a part of the mean or quantile."""
    absolute: float | None = None
    """The same, in the unit of the scalar."""
    quantile: float | None = None
    """The share of its values that are below the quantile; None: the mean is meant."""

    @property
    def name(self) -> str:
        """Return what has to be precise, in words: `peak`, or `peak q0.9`."""
        return self.scalar if self.quantile is None else f"{self.scalar} q{self.quantile:g}"

    def interval(self, values: Sequence[float]) -> Interval | None:
        """Return the interval after these values of the scalar; None if there is none."""
        if self.quantile is None:
            return careful_interval(values, self.confidence)
        return quantile_interval(values, self.quantile, self.confidence)

    @property
    def least(self) -> int:
        """Return the fewest replicates that have an interval, whatever their values are."""
        return 2 if self.quantile is None else least_sample(self.quantile, self.confidence)

    @property
    def goal(self) -> float:
        """Return the half-width that the interval may have, as `reached` tells it."""
        return self.relative if self.absolute is None and self.relative is not None else self.absolute or 0.0

    def reached(self, found: Interval) -> float:
        """Return the half-width of an interval, as a part of its middle if the goal is one; infinity around 0 then."""
        if self.relative is None or not found.half_width:
            return found.half_width
        return found.half_width / abs(found.mean) if found.mean else math.inf

    def ratio(self, found: Interval | None) -> float:
        """Return how many times as wide as it may be an interval is; infinity if there is none."""
        return math.inf if found is None else self.reached(found) / self.goal

    def text(self, found: Interval | None) -> str:
        """Return what an interval has reached, and the goal, in words: `peak ± 8.1 %, goal 5 %`."""
        is_known = found is not None and math.isfinite(self.reached(found))
        width = width_text(self.reached(found), is_relative=self.relative is not None) if found and is_known else ""
        goal = self.goal_text.removeprefix("± ")
        return f"{self.name} {width or ('is 0' if found else 'has no interval')}, goal {goal}"

    @property
    def goal_text(self) -> str:
        """Return the goal in words: `± 5 %`."""
        return width_text(self.goal, is_relative=self.relative is not None)

    def to_json(self) -> dict[str, float]:
        """Return the target as a study has it, below the name of its scalar."""
        fields = {name: getattr(self, name) for name in ("quantile", "confidence", "relative", "absolute")}
        return {name: value for name, value in fields.items() if value is not None}


def width_text(width: float, *, is_relative: bool) -> str:
    """Return a half-width in words: `± 8.1 %` of the mean, or `± 0.03`."""
    percent = 100 * width
    return f"± {width:.2g}" if not is_relative else f"± {percent:.2g} %" if percent < 100 else f"± {percent:,.0f} %"


def lacks_text(scalar: object) -> str:
    """Return in words why a set has failed whose tasks have not."""
    return f"a replicate has no finite {scalar}"


class Precision(NamedTuple):
    """The wish of a study that has no fixed number of replicates."""

    min: int
    """The first look: at least 2."""
    max: int
    """The last one."""
    until: tuple[Target, ...]

    def to_json(self) -> dict[str, object]:
        """Return what the study asks for, as its file has it."""
        return {"min": self.min, "max": self.max, "until": {one.scalar: one.to_json() for one in self.until}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Precision:
        """Return what a checked study asks for."""
        targets = (Target(scalar, **fields) for scalar, fields in document["until"].items())
        return cls(document["min"], document["max"], tuple(targets))

    def __str__(self) -> str:
        """Return the wish in words: `10 to 500, until peak ± 5 % (95 %)`."""
        goals = (f"{one.name} {one.goal_text} ({100 * one.confidence:g} %)" for one in self.until)
        return f"{self.min:,} to {self.max:,}, until {', '.join(goals)}"

    def next_look(self, n: int, ratio: float = 1.0) -> int:
        """Return the look that follows after `n` replicates; `max` if none does.

        Args:
            n: the replicates so far.
            ratio: how many times too wide the interval is. Looks that come much too early are left out.
        """
        looks = _looks(self.min, self.max)
        far = n * min(MOST_GROWTH, SKIPPED * ratio**2)
        return looks[min(max(bisect_right(looks, n), bisect_right(looks, far) - 1), len(looks) - 1)]


@lru_cache(maxsize=100)
def _looks(least: int, most: int) -> list[int]:
    """Return the numbers of replicates after which a set may be looked at."""
    looks = []
    while least < most:
        looks.append(least)
        least += -(-least // GROWTH)
    return [*looks, most]


class Judgement(NamedTuple):
    """A verdict on the replicates of a parameter set."""

    verdict: str
    """`PRECISE`, `MORE`, `FAILED` or `MAX`. Only `MORE` asks for further replicates."""
    n: int
    """The look that was judged last, a number of replicates; 0 before the first one."""
    needed: int
    """Replicates that the set has to have as far as is known: `n` if it is decided, else the next look."""
    intervals: Mapping[str, Interval | None]
    """Of each target after `n` replicates, by the target's name; None if it has none."""
    ratio: float = math.inf
    """How many times as wide as it may be the worst of them is."""
    lacks: str | None = None
    """The target of which a replicate has no finite value, so that the set has failed."""


def judge(precision: Precision, values: Sequence[Mapping[str, object] | None]) -> Judgement:
    """Judge a parameter set.

    Args:
        precision: what the study asks for.
        values: the scalars of the first replicates by their keys, up to the first that has not ended; None for one
            that failed. Further ones than the looks need are ignored.
    """
    columns: dict[str, list[float]] = {target.scalar: [] for target in precision.until}
    failed_at, lacks = math.inf, None
    for place, scalars in enumerate(values):
        found = [None if scalars is None else finite_number(scalars, name) for name in columns]
        if None in found:
            failed_at = place
            lacks = None if scalars is None else precision.until[found.index(None)].scalar
            break
        for column, value in zip(columns.values(), found, strict=True):
            column.append(value)  # type: ignore[arg-type]
    n, look, intervals, ratio = 0, precision.min, dict.fromkeys(columns), math.inf
    while True:
        if failed_at < look:
            return Judgement(FAILED, n, look, intervals, ratio, lacks)
        if len(values) < look:
            return Judgement(MORE, n, look, intervals, ratio)
        n = look
        intervals = {one.scalar: one.interval(columns[one.scalar][:n]) for one in precision.until}
        ratio = max(one.ratio(intervals[one.scalar]) for one in precision.until)
        if ratio <= 1 or n == precision.max:
            return Judgement(PRECISE if ratio <= 1 else MAX, n, n, intervals, ratio)
        look = precision.next_look(n, ratio)


def finite_number(scalars: Mapping[str, object], name: str) -> float | None:
    """Return the value of the scalar with this name; None if it is not a finite number, or several have the name."""
    value = scalar_called(scalars, name)
    if not isinstance(value, (int, float)):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def tally(precision: Precision, judgements: Iterable[tuple[Judgement, int]]) -> dict[str, int]:
    """Count parameter sets as a record's `metadata.precision` has them.

    There are `sets`, of which some are `precise`, `failed` or `at_max`. Tasks are `needed`, as far as is known, and
    there are `at_most` some more.

    Args:
        precision: what the study asks for.
        judgements: of each set, with how often the study names the set: its tasks count as often, and itself once.
    """
    counts = {"sets": 0, **dict.fromkeys(VERDICTS, 0), "needed": 0, "at_most": 0}
    for judgement, times in judgements:
        counts["sets"] += 1
        for name, verdict in VERDICTS.items():
            counts[name] += judgement.verdict == verdict
        counts["needed"] += judgement.needed * times
        counts["at_most"] += (precision.max if judgement.verdict == MORE else judgement.needed) * times
    return counts
