"""Which condition too few failed parameter sets suggest, and which further ones would prove it."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from mopsjobs.studies.further_sets import MARGIN, MAX_FURTHER, Suspicion, find_suspicion
from mopsjobs.studies.separating import Separation, SetOutcomes
from mopsjobs.studies.study import param_id

STUDIES = 100


def is_in_corner(params: dict[str, Any]) -> bool:
    return bool(params["a"] >= 3 and params["b"] > 0.5)


def draw_params(seed: int, count: int = 20) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"a": draw.randrange(5), "b": round(draw.random(), 3), "mode": draw.choice("xyz")} for _ in range(count)]


def label(params: list[dict[str, Any]], failed: list[bool], tasks: int = 1) -> list[SetOutcomes]:
    return [SetOutcomes(one, ["E" if flag else None] * tasks) for one, flag in zip(params, failed, strict=True)]


def in_corner(params: list[dict[str, Any]], tasks: int = 1) -> list[SetOutcomes]:
    return label(params, [is_in_corner(one) for one in params], tasks)


def suspicion(sets: list[SetOutcomes]) -> Suspicion:
    found = find_suspicion(sets, "E")
    assert found is not None
    return found


def names(sets: list[SetOutcomes]) -> list[str]:
    return [str(one.condition) for one in Separation(sets, ["E"]).findings("E")]


CORNER = draw_params(3)
"""8 of its 20 sets fail, which is too few for a condition on two parameters."""


def test_further_sets_of_a_corner_prove_it() -> None:
    """They are new, lie inside and beside by turns, have values of the study, and the test then names the corner."""
    sets = in_corner(CORNER, tasks=3)
    assert names(sets) == []
    found = suspicion(sets)
    assert (str(found.condition), found.failed) == ("a > 2 and b > 0.4", 8)
    assert [found.condition.holds(one) for one in found.further] == [True, False] * (len(found.further) // 2)
    assert not {*map(param_id, CORNER)} & {*map(param_id, found.further)}
    assert all(one[name] in [known[name] for known in CORNER] for one in found.further for name in one)
    assert names([*sets, *in_corner(found.further, tasks=3)]) == ["a > 2 and b > 0.4"]
    least = len(found.further) // MARGIN
    assert names([*sets, *in_corner(found.further[:least], tasks=3)]) == ["a > 2 and b > 0.4"]
    assert names([*sets, *in_corner(found.further[: least - 2], tasks=3)]) == []


def test_replicates_do_not_lessen_the_further_sets() -> None:
    """The unit is a parameter set."""
    assert suspicion(in_corner(CORNER, tasks=50)) == suspicion(in_corner(CORNER))


def test_a_full_grid_gets_values_between_its_own() -> None:
    """Each combination of values is there already: whole numbers stay whole, texts stay those of the study."""
    grid = [{"a": a, "b": b, "mode": "x"} for a, b in itertools.product((0, 10, 20, 30, 40), (0.1, 0.3, 0.5, 0.7))]
    sets = label(grid, [one["a"] >= 30 and one["b"] >= 0.5 for one in grid])
    found = suspicion(sets)
    assert {*map(param_id, found.further)}.isdisjoint(map(param_id, grid))
    assert all(isinstance(one["a"], int) and 0.1 <= one["b"] <= 0.7 for one in found.further)


def test_a_full_grid_of_texts_has_no_further_sets() -> None:
    """There is none to draw, so nothing is suspected."""
    grid = [{"p": p, "q": q, "r": r} for p, q, r in itertools.product("abc", "abc", "ab")]
    assert find_suspicion(label(grid, [one["p"] == "a" and one["q"] == "b" for one in grid]), "E") is None


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_less_than_three_failed_sets_suggest_nothing(failed: int) -> None:
    """Any parameter would do."""
    assert find_suspicion(label(CORNER, [place < failed for place in range(20)]), "E") is None


def test_failures_at_random_seldom_suggest_a_condition() -> None:
    """In at most 15 of 100 studies. Of planted corners that are not proved, most are suggested, by their parameters."""
    at_random = 0
    unproved, right = 0, 0
    for seed in range(STUDIES):
        params = draw_params(seed)
        sets = in_corner(params)
        flags = [is_in_corner(one) for one in params]
        if sum(flags) >= 3 and not names(sets):
            unproved += 1
            found = find_suspicion(sets, "E")
            right += found is not None and {part.parameter for part in found.condition.parts} <= {"a", "b"}
            assert found is None or len(found.further) <= MAX_FURTHER
        random.Random(seed).shuffle(flags)
        shuffled = label(params, flags)
        at_random += not names(shuffled) and find_suspicion(shuffled, "E") is not None
    assert at_random <= 15
    assert right > unproved / 2
