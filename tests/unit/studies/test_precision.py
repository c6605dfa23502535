"""When a parameter set has enough replicates."""

from __future__ import annotations

import math
import random
from itertools import islice
from pathlib import Path

import reliability.precision
from mopsjobs.studies.precision import FAILED, MAX, MORE, PRECISE, Precision, Target, judge, tally
from reliability.trial import Trial

ABSOLUTE = Precision(10, 100, (Target("peak", absolute=0.5),))


def _chain() -> list[int]:
    looks = [ABSOLUTE.next_look(0)]
    while looks[-1] < ABSOLUTE.max:
        looks.append(ABSOLUTE.next_look(looks[-1]))
    return looks


LOOKS = _chain()


def _replicates(values: list[float]) -> list[dict[str, object] | None]:
    return [{"result.json/peak": value} for value in values]


def _noise(count: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(20, 1) for _ in range(count)]


def test_looks_are_fixed_by_the_least_and_the_most_replicates() -> None:
    assert LOOKS[0] == 10
    assert LOOKS[-1] == 100
    assert sorted(set(LOOKS)) == LOOKS
    assert [ABSOLUTE.next_look(n) for n in (0, 9, 11, 100)] == [10, 10, LOOKS[1], 100]
    assert Precision(7, 7, ()).next_look(0) == 7


def test_looks_are_left_out_while_an_interval_is_far_too_wide() -> None:
    """Up to twice the replicates, so that a cluster is not asked in many small steps."""
    assert ABSOLUTE.next_look(10, 1.05) == LOOKS[1]
    assert ABSOLUTE.next_look(10, 1.5) in LOOKS[2:]
    far = ABSOLUTE.next_look(10, math.inf)
    assert far in LOOKS
    assert 1.5 * 10 < far <= 2 * 10
    assert ABSOLUTE.next_look(LOOKS[-2], math.inf) == 100


def test_a_set_is_judged_by_its_looks_alone() -> None:
    """Replicates that have ended beyond a look change nothing until the next one is reached."""
    values = _replicates(_noise(100))
    judged = [judge(ABSOLUTE, values[:count]) for count in range(101)]
    assert (judged[9].verdict, judged[9].n, judged[9].needed) == (MORE, 0, 10)
    end = next(count for count, judgement in enumerate(judged) if judgement.verdict == PRECISE)
    assert end in LOOKS
    assert 10 < end < 100
    assert {judgement.verdict for judgement in judged[:end]} == {MORE}
    assert all(judgement == judged[end] for judgement in judged[end:])
    assert judged[end].needed == judged[end].n == end
    assert judged[end].intervals["peak"].half_width <= 0.5


def test_a_failed_replicate_prevents_precise() -> None:
    """The set gets no replicate beyond the look, and a failure beyond its end does no harm."""
    values = _replicates(_noise(100))
    end = judge(ABSOLUTE, values).n
    for bad in (None, {}, {"result.json/peak": math.nan}, {"result.json/peak": math.inf}, {"result.json/peak": "7"}):
        early = judge(ABSOLUTE, [*values[:3], bad])
        assert (early.verdict, early.n, early.needed) == (FAILED, 0, 10)
        assert judge(ABSOLUTE, [*values[: end - 1], bad, *values[end:]]).verdict == FAILED
        assert judge(ABSOLUTE, [*values[:end], bad]).verdict == PRECISE


def test_a_set_that_is_never_precise_ends_at_the_most_replicates() -> None:
    narrow = Precision(10, 100, (Target("peak", relative=0.5), Target("result.peak", relative=1e-6)))
    found = judge(narrow, _replicates(_noise(100)))
    assert (found.verdict, found.n, found.needed) == (MAX, 100, 100)


def test_a_quantile_has_its_own_interval() -> None:
    """A few replicates have none yet: then the set is not precise, and its looks are left out."""
    target = Target("peak", absolute=0.5, quantile=0.9)
    found = judge(Precision(10, 1000, (target,)), _replicates(_noise(1000)))
    assert found.verdict == PRECISE
    assert found.n > 50
    assert found.intervals["peak"].low <= 20 + 1.2816 <= found.intervals["peak"].high
    early = judge(Precision(10, 1000, (target,)), _replicates(_noise(10)))
    assert (early.verdict, early.intervals["peak"]) == (MORE, None)
    assert early.needed > 15
    assert target.text(None) == "peak q0.9 has no interval, goal 0.5"
    assert str(Precision(10, 1000, (target,))) == "10 to 1,000, until peak q0.9 ± 0.5 (95 %)"


def test_a_name_that_two_scalars_have_is_no_value() -> None:
    values: list[dict[str, object] | None] = [{"result.json/peak": 1.0, "other.json/peak": 2.0}] * 10
    assert judge(ABSOLUTE, values).verdict == FAILED
    assert judge(Precision(10, 20, (Target("result.json/peak", absolute=1),)), values).verdict == PRECISE


def test_a_rare_event_that_never_came_is_not_precise() -> None:
    """As a mean, zeros alone would have an interval without a width."""
    values: list[dict[str, object] | None] = [{"result.json/extinct": False}] * 200
    assert judge(Precision(10, 200, (Target("extinct", relative=0.5),)), values).verdict == MAX
    found = judge(Precision(10, 200, (Target("extinct", absolute=0.05),)), values)
    assert found.verdict == PRECISE
    assert found.n > 30


def test_verdicts_are_counted() -> None:
    sets = [_replicates(_noise(100)), _replicates(_noise(100, 2)), [None], []]
    judged = [judge(ABSOLUTE, values) for values in sets]
    found = tally(ABSOLUTE, ((judgement, 1) for judgement in judged))
    assert {name: found[name] for name in ("sets", "precise", "failed", "at_max")} == {
        "sets": 4, "precise": 2, "failed": 1, "at_max": 0,
    }  # fmt: skip
    assert found["needed"] == sum(judgement.needed for judgement in judged)
    assert found["at_most"] == found["needed"] + 90


def test_intervals_hold_the_truth_though_they_are_looked_at_often(tmp_path: Path) -> None:
    """A part of `./build.sh reliability --only precision`: coverage and cost are within their bounds."""
    trial = Trial(tmp_path, seed=1, scale=0.01)
    figures = [
        one for run in (reliability.precision.run, reliability.precision.quantiles) for one in islice(run(trial), 5)
    ]
    assert all("covered" in str(figure.count) for figure in figures)
