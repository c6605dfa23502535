"""What goes with the lowest and the highest values of a scalar, if anything does."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from mopsjobs.app.tasks.explain import Explanation, SetValues, explain_extremes

Loss = Callable[[dict[str, Any], random.Random], float]


def draw_sets(count: int, loss: Loss, *, replicates: int = 1, seed: int = 1) -> list[SetValues]:
    draw = random.Random(seed)
    sets = []
    for _ in range(count):
        params = {"a": draw.random(), "b": draw.random(), "mode": draw.choice("xyz")}
        sets.append(SetValues(params, [loss(params, draw) for _ in range(replicates)]))
    return sets


def is_planted(params: dict[str, Any]) -> bool:
    return params["a"] > 0.8 and params["b"] <= 0.25


def texts(found: Explanation) -> list[str]:
    return [str(one.condition) for one in found.findings]


@pytest.mark.parametrize("highest", [False, True])
def test_a_planted_region_is_named_with_its_sets(*, highest: bool) -> None:
    """The extreme sets are those of the region, and the condition counts sets, not replicates."""
    sign = 1 if highest else -1
    sets = draw_sets(1000, lambda params, draw: draw.random() + 3 * sign * is_planted(params), replicates=3)
    planted = sum(is_planted(dict(one.params)) for one in sets)
    found = explain_extremes(sets, highest=highest)
    [finding] = found.findings
    assert {part.parameter for part in finding.condition.parts} == {"a", "b"}
    assert (found.sets, found.values, found.extreme) == (1000, 3, 50)
    assert finding.failed == min(planted, 50)
    assert explain_extremes(sets, highest=not highest).findings == []


def test_a_region_is_named_by_sets_and_never_by_their_replicates() -> None:
    """Of 8 sets, that with the highest a has the lowest loss in each of 100 replicates: that proves nothing."""
    sets = [SetValues({"a": number}, [float(-number)] * 100) for number in range(8)]
    found = explain_extremes(sets, highest=False)
    assert (found.sets, found.extreme, found.findings) == (8, 2, [])


def test_shuffled_values_have_no_explanation() -> None:
    """Of 100 shuffled studies, at most 5 name a condition."""
    named = 0
    for seed in range(100):
        sets = draw_sets(200, lambda params, draw: draw.random() - is_planted(params), seed=seed)
        values = [one.values for one in sets]
        random.Random(seed).shuffle(values)
        shuffled = [SetValues(one.params, some) for one, some in zip(sets, values, strict=True)]
        named += bool(explain_extremes(shuffled, highest=False).findings)
    assert named <= 5


def test_sets_with_fewer_values_are_no_likelier_to_be_extreme() -> None:
    """A mean of 1 value is extreme more often than one of 20. Each set counts with as many as nine of ten have."""
    sets = draw_sets(400, lambda _, draw: draw.gauss(0, 1), replicates=20)
    sets = [SetValues(one.params, one.values[: 1 if one.params["a"] < 0.05 else 20]) for one in sets]
    short = sum(len(one.values) == 1 for one in sets)
    found = explain_extremes(sets, highest=False)
    assert (found.values, found.too_few, found.sets) == (20, short, 400 - short)
    assert found.findings == []


def test_equal_means_are_extreme_together() -> None:
    """The order of the sets does not choose among them."""
    sets = [SetValues({"a": number}, [0.0 if number < 30 else 1.0]) for number in range(100)]
    found = explain_extremes(sets, highest=False)
    assert (found.extreme, found.bound, texts(found)) == (30, 0.0, ["a <= 29"])
    assert explain_extremes(sets, highest=True).extreme == 70


@pytest.mark.parametrize(("count", "extreme"), [(1, 1), (8, 2), (20, 5), (40, 10), (200, 10), (1000, 50)])
def test_five_percent_are_extreme_or_ten_sets_or_a_quarter(count: int, extreme: int) -> None:
    """Fewer sets would prove nothing, and more than a quarter are not extreme."""
    sets = [SetValues({"a": number}, [float(number)]) for number in range(count)]
    assert explain_extremes(sets, highest=False).extreme == extreme


@pytest.mark.parametrize(("count", "could_tell"), [(1, True), (8, False), (12, False), (16, True), (200, True)])
def test_few_sets_could_not_tell_even_the_clearest_condition(count: int, could_tell: bool) -> None:
    """Here, the values have nothing to do with the parameter. Of one set, nothing varies."""
    losses = random.Random(3).sample(range(count), count)
    found = explain_extremes([SetValues({"a": a}, [float(loss)]) for a, loss in enumerate(losses)], highest=False)
    assert (found.could_tell, found.findings) == (could_tell, [])
    words = [SetValues({"a": f"{a}"}, [float(loss)]) for a, loss in enumerate(losses)]
    assert explain_extremes(words, highest=False).could_tell, "only numbers tell how many would do"


def test_no_values_are_no_sets() -> None:
    """Sets without a finite value are left out."""
    assert explain_extremes([SetValues({"a": 1}, [])], highest=False) == Explanation(0, 0, 0, None, 0, [], 0)
