"""Ranges of what tasks cost together: that they hold what happens in seeded populations, and what makes them wide."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from mopsjobs.studies.costs import MeasuredSet, PlannedSet, beyond, estimate_total
from support.existing import existing

Cost = Callable[[Mapping[str, float], random.Random], float]

STUDIES = 200

KINDS: dict[str, Cost] = {
    "constant": lambda _params, _draw: 1.0,
    "skewed": lambda _params, draw: math.exp(draw.gauss(0, 0.7)),
    "by a parameter": lambda params, draw: (0.1 + params["x"]) * math.exp(draw.gauss(0, 0.3)),
    "a region fails": lambda params, draw: 0.02 if params["x"] > 0.7 else math.exp(draw.gauss(0, 0.2)),
}


def measured(costs: Mapping[str, tuple[Mapping[str, float], Sequence[float]]]) -> list[MeasuredSet]:
    sets = []
    for param_id, (params, some) in costs.items():
        mean = sum(some) / len(some)
        sets.append(MeasuredSet(param_id, params, len(some), mean, sum((one - mean) ** 2 for one in some)))
    return sets


def one_set(*costs: float, x: float = 1.0, name: str = "a") -> MeasuredSet:
    return measured({name: ({"x": x}, costs)})[0]


def width(sets: Sequence[MeasuredSet], planned: Sequence[PlannedSet]) -> float:
    """Return the upper end of a range by the lower one."""
    found = existing(estimate_total(sets, planned))
    return found.high / found.low


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sets", "tasks"),
    [(5, 1), pytest.param(10, 5, marks=pytest.mark.long), pytest.param(50, 1, marks=pytest.mark.long)],
)
def test_nine_of_ten_ranges_hold_what_other_sets_cost(kind: str, sets: int, tasks: int) -> None:
    """Of studies whose sets are others than the measured ones, on a machine whose runs differ by 5 %."""
    cost, held = KINDS[kind], 0
    draw = random.Random(f"{kind} {sets}")
    for _ in range(STUDIES):
        known = {}
        for number in range(sets):
            params = {"x": draw.random(), "y": draw.random()}
            known[str(number)] = (params, [cost(params, draw) for _ in range(tasks)])
        planned, total = [], 0.0
        for number in range(40):
            params = {"x": draw.random(), "y": draw.random()}
            planned.append(PlannedSet(f"new {number}", params, 3))
            total += sum(cost(params, draw) for _ in range(3))
        found = existing(estimate_total(measured(known), planned))
        held += found.low <= total * math.exp(draw.gauss(0, 0.05)) <= found.high
    assert held >= 0.88 * STUDIES


@pytest.mark.parametrize("kind", ["constant", "skewed"])
def test_nine_of_ten_ranges_hold_further_replicates(kind: str) -> None:
    cost, held, draw = KINDS[kind], 0, random.Random(kind)
    for _ in range(STUDIES):
        known = measured({"a": ({"x": 1.0}, [cost({}, draw) for _ in range(10)])})
        found = existing(estimate_total(known, [PlannedSet("a", {"x": 1.0}, 100, done=10)]))
        held += found.low <= sum(cost({}, draw) for _ in range(100)) <= found.high
    assert held >= 0.88 * STUDIES


def test_nothing_measured_is_no_range() -> None:
    assert estimate_total([], [PlannedSet("a", {}, 3)]) is None


def test_tasks_that_were_measured_are_as_sure_as_runs_are_alike() -> None:
    """The same ten tasks again are surer than ten others of the set; and more measured tasks make those surer."""
    few, many = one_set(*range(1, 11)), one_set(*list(range(1, 11)) * 10)
    again, others = PlannedSet("a", {"x": 1.0}, 10), PlannedSet("a", {"x": 1.0}, 10, done=10)
    assert width([few], [again]) == pytest.approx(math.exp(2 * 0.1 * 2.2), rel=0.02)
    assert width([few], [again]) < width([many], [others._replace(done=100)]) < width([few], [others])


def test_one_measured_task_gives_a_wide_range() -> None:
    """It does not show how tasks differ: the range reaches from a fourth to four times."""
    assert 10 < width([one_set(1.0)], [PlannedSet("a", {"x": 1.0}, 100)]) < 25


def test_the_nearest_sets_stand_for_a_set_if_they_predict_better() -> None:
    """The cost follows `x`, of which the set that runs has a high one. Where it is noise, the mean of all stands."""
    sets = [one_set(number**2, x=number, name=str(number)) for number in range(1, 21)]
    found = existing(estimate_total(sets, [PlannedSet("new", {"x": 18.5}, 1)]))
    assert found.low < 18.5**2 < found.high
    assert found.low > sum(one.mean for one in sets) / 20
    noise = [one_set(1.0 + number % 2, x=number, name=str(number)) for number in range(20)]
    found = existing(estimate_total(noise, [PlannedSet("new", {"x": 18.5}, 1)]))
    assert math.sqrt(found.low * found.high) == pytest.approx(1.5)


def test_values_beyond_the_measured_ones_are_named() -> None:
    sets = [one_set(1.0, x=1), one_set(1.0, x=3, name="b")]
    assert beyond(sets, [PlannedSet("c", {"x": 2}, 1), PlannedSet("d", {"x": 3.5}, 1)]) == ["x"]
    assert beyond(sets, [PlannedSet("c", {"x": 2, "y": 9}, 1), PlannedSet("d", {"x": None}, 1)]) == []


def test_a_size_has_no_spread_between_runs() -> None:
    found = estimate_total([one_set(100.0, 100.0)], [PlannedSet("a", {"x": 1}, 2)], run_spread=0.0)
    assert found == (200.0, 200.0)


def test_costs_below_what_a_ledger_tells_are_not_nothing() -> None:
    """A million tasks of 0 ms, rounded, take up to 500 s. Those of 100 ms differ by as much as that, too."""
    planned = [PlannedSet("a", {"x": 1}, 1_000_000)]
    assert estimate_total([one_set(0.0, 0.0)], planned, resolution=0.001) == (0.0, 500.0)
    exact, rounded = (estimate_total([one_set(0.1, 0.1)], planned, resolution=unit) for unit in (0.0, 0.001))
    assert exact is not None
    assert rounded == pytest.approx((exact.low - 500, exact.high + 500))


def test_a_rare_giant_does_not_make_the_range_endless() -> None:
    """One of a thousand tasks takes as long as the others together: ten others do, or do not, meet such a one."""
    giant = one_set(*[1.0] * 999, 1000.0)
    assert 10 < width([giant], [PlannedSet("a", {"x": 1.0}, 10, done=1000)]) < 5_000


def test_many_sets_take_a_sample_of_them() -> None:
    """Of ten thousand sets each, 200 are compared with one another; the sum is over all of them."""
    sets = [one_set(float(number), x=number, name=str(number)) for number in range(1, 10_001)]
    planned = [PlannedSet(f"new {number}", {"x": number + 0.5}, 2) for number in range(1, 10_001)]
    found = existing(estimate_total(sets, planned))
    assert found.low < 2 * 10_000 * 5_001 < found.high
