"""What separates failed parameter sets from the others, if anything does, and how chance is judged."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.cache.queries.task_filters import parse_condition
from mopsjobs.studies import separating
from mopsjobs.studies.separating import (
    MARGIN,
    MAX_FURTHER,
    Chance,
    Finding,
    LogFactorials,
    Separation,
    SetOutcomes,
    Suspicion,
    find_suspicion,
)
from mopsjobs.studies.study import param_id

Params = Mapping[str, Any]

LABELINGS = 100


def draw_params(draw: random.Random) -> dict[str, Any]:
    return {"beta": draw.random(), "mode": draw.choice("xyz"), "n": draw.randrange(10), "gamma": draw.gauss(0, 1)}


def make_sets(count: int, is_failed: Callable[[Params], bool], seed: int = 1, tasks: int = 1) -> list[SetOutcomes]:
    draw = random.Random(seed)
    drawn = (draw_params(draw) for _ in range(count))
    return [SetOutcomes(params, ["A" if is_failed(params) else None] * tasks) for params in drawn]


def find(sets: list[SetOutcomes], key: str = "A") -> list[Finding]:
    return Separation(sets, [key]).findings(key)


def texts(findings: list[Finding]) -> list[str]:
    return [str(one.condition) for one in findings]


@pytest.mark.parametrize(
    ("is_failed", "condition"),
    [
        (lambda params: params["beta"] > 0.9, "beta > 0.9"),
        (lambda params: params["n"] <= 1, "n <= 1"),
        (lambda params: params["n"] == 7, "n == 7"),
        (lambda params: params["mode"] == "y", 'mode == "y"'),
        (lambda params: params["beta"] > 0.9 and params["mode"] == "x", 'beta > 0.9 and mode == "x"'),
        (lambda params: 0.4 < params["beta"] <= 0.6, "beta > 0.4 and beta <= 0.6"),
        (lambda params: params["mode"] != "y" and params["n"] > 7, 'mode != "y" and n > 7'),
    ],
)
def test_a_planted_condition_is_found_and_written_as_planted(
    is_failed: Callable[[Params], bool], condition: str
) -> None:
    """All failed tasks are under it, and no other is."""
    sets = make_sets(2000, is_failed)
    [found] = find(sets)
    assert str(found.condition) == condition
    failed = sum(is_failed(one.params) for one in sets)
    assert found[1:5] == (failed, 0, 0, 1.0)
    assert found.lift == pytest.approx(len(sets) / failed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["beta", "n", "mode", "gamma"]), st.floats(0, 0.3), st.integers(1, 3))
def test_the_counts_of_a_finding_are_those_of_its_sentence(seed: int, name: str, noise: float, tasks: int) -> None:
    """The written condition is read, and the tasks that it is about are counted anew."""
    draw = random.Random(seed)
    limit = draw_params(draw)[name]
    sets = [
        SetOutcomes(
            one.params, [draw.choice(["A", "A", "B"]) if draw.random() < noise else end for end in one.outcomes]
        )
        for one in make_sets(
            200, lambda params: params[name] == limit if name == "mode" else params[name] > limit, seed, tasks
        )
    ]
    for found in find(sets):
        conditions = [parse_condition(part) for part in str(found.condition).split(" and ")]
        inside = [end for one in sets if all(each.holds(one.params) for each in conditions) for end in one.outcomes]
        assert (inside.count("A"), inside.count(None), inside.count("B")) == found[1:4]


def test_a_condition_with_exceptions_is_found() -> None:
    """A tenth of the tasks under it succeeds, and some fail elsewhere."""
    draw = random.Random(5)
    sets = make_sets(2000, lambda params: draw.random() < (0.9 if params["beta"] > 0.8 else 0.02))
    found = find(sets)[0]
    assert str(found.condition).startswith("beta > 0.")
    assert found.support > 0.85
    assert 0 < found.passed < 60


def test_two_causes_of_one_error_are_both_found() -> None:
    """What the first condition leaves is searched again."""
    found = find(make_sets(3000, lambda params: params["beta"] > 0.9 or params["mode"] == "z"))
    assert sorted(texts(found)) == ["beta > 0.9", 'mode == "z"']


def test_an_absent_parameter_is_a_condition() -> None:
    """A set without it may fail for that reason."""
    sets = make_sets(200, lambda params: params["n"] == 0)
    sets = [one._replace(params=one.params | ({} if one.outcomes[0] else {"rate": 1})) for one in sets]
    assert texts(find(sets))[0] in ("rate is not set", "n <= 0", "n == 0")
    only = [SetOutcomes({"rate": 1} if number % 4 else {}, [None if number % 4 else "A"]) for number in range(100)]
    assert texts(find(only)) == ["rate is not set"]


def test_random_labelings_give_no_finding_more_often_than_stated() -> None:
    """Over 100 labelings of each kind at most 1 % have a finding, with few and with many failures."""
    for count, failures in ((20, 5), (100, 3), (100, 30)):
        findings = 0
        for seed in range(LABELINGS):
            draw = random.Random(seed)
            failed = set(draw.sample(range(count), failures))
            sets = [SetOutcomes(draw_params(draw), ["A" if place in failed else None]) for place in range(count)]
            findings += bool(find(sets))
        assert findings <= LABELINGS * separating.RATE


def test_replicates_of_one_set_are_not_counted_as_independent() -> None:
    """4 sets of 100 replicates, of which one always fails, say nothing about parameters."""
    sets = [SetOutcomes({"beta": number / 4}, ["A" if number == 3 else None] * 100) for number in range(4)]
    assert find(sets) == []


def test_few_failures_at_one_end_of_a_parameter_are_enough() -> None:
    """5 of 40 sets that are those with the highest beta: likelier than 1 in 5,000 it is not."""
    [found] = find(make_sets(40, lambda params: params["beta"] > 0.85))
    assert (found.condition.parts[0].parameter, found.passed, found.support) == ("beta", 0, 1.0)


def test_sets_with_more_tasks_are_no_likelier_to_have_failed() -> None:
    """One task in 20 fails. Sets of mode x have 10 tasks, others one: mode x is not the reason."""
    draw = random.Random(2)
    sets = []
    for _ in range(400):
        params = draw_params(draw)
        tasks = 10 if params["mode"] == "x" else 1
        sets.append(SetOutcomes(params, ["A" if draw.random() < 0.05 else None for _ in range(tasks)]))
    assert find(sets) == []


@pytest.mark.parametrize("sets", [[], [SetOutcomes({}, [])], [SetOutcomes({"n": 1}, ["A"])]])
def test_too_few_sets_give_nothing(sets: list[SetOutcomes]) -> None:
    """No sets, no ended task, one failed set."""
    assert find(sets) == []


def test_an_error_that_another_one_prevents_has_no_condition_by_that() -> None:
    """Above beta 0.5 everything fails with B. A happens by chance below it, and has no condition."""
    draw = random.Random(3)
    sets = make_sets(1000, lambda _: draw.random() < 0.1)
    sets = [one._replace(outcomes=["B"]) if one.params["beta"] > 0.5 else one for one in sets]
    assert find(sets, "A") == []
    assert texts(find(sets, "B")) == ["beta > 0.5"]


def test_a_finding_counts_tasks() -> None:
    """Each set has 5 tasks; those with other errors are counted apart."""
    sets = make_sets(400, lambda params: params["beta"] > 0.8, tasks=5)
    sets = [one._replace(outcomes=["B", *one.outcomes[1:]]) for one in sets]
    [found] = find(sets)
    assert found.failed == 4 * found.others
    assert (found.passed, found.support) == (0, 1.0)


def test_what_is_drawn_from_many_sets_is_counted_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search sees 500 of 20,000 sets, and the tasks of all are counted under its condition."""
    monkeypatch.setattr(separating, "MAX_SETS", 500)
    sets = make_sets(20_000, lambda params: params["beta"] > 0.9123 and params["mode"] == "x")
    [found] = find(sets)
    assert {part.parameter for part in found.condition.parts} == {"beta", "mode"}
    assert found.failed + found.passed == sum(found.condition.holds(one.params) for one in sets) > 500


def test_mixed_types_are_compared_by_what_they_are() -> None:
    """A cut holds for numbers only; texts, booleans and lists are values."""
    values: list[Any] = [1, 2.5, "x", True, None, [1, 2], {"a": 1}, 10**400, -3]
    sets = [SetOutcomes({"p": value, "q": place % 7}, ["A" if value is None else None])
            for place, value in enumerate(values * 20)]  # fmt: skip
    assert texts(find(sets)) == ["p == null"]


def test_ten_thousand_parameters_are_searched_up_to_a_bound() -> None:
    """The first parameters that vary are compared. How many are not is told."""
    draw = random.Random(4)
    sets = []
    for number in range(40):
        params = {f"p{place}": draw.random() for place in range(10_000)} | {"same": "y" * 100_000}
        sets.append(SetOutcomes(params | {"p0": number}, ["A" if number > 29 else None]))
    separation = Separation(sets, ["A"])
    assert texts(separation.findings("A")) == ["p0 > 29"]
    assert separation.left_out == 9_501


def chance(total: int, failed: int) -> Chance:
    return Chance(LogFactorials(total), total, failed)


@pytest.mark.parametrize(("total", "failed", "size", "hits"), [(20, 5, 5, 5), (20, 5, 8, 4), (30, 12, 9, 7)])
def test_the_tail_is_that_of_fishers_test(total: int, failed: int, size: int, hits: int) -> None:
    """The tail is the sum of the exact probabilities."""
    ways = sum(
        math.comb(size, count) * math.comb(total - size, failed - count) for count in range(hits, min(size, failed) + 1)
    )
    assert math.exp(chance(total, failed).log_tail(size, hits)) == pytest.approx(ways / math.comb(total, failed))


def test_a_tail_of_what_is_no_more_than_average_is_one() -> None:
    """A condition that holds for as many failed sets as chance gives is never remarkable."""
    assert chance(20, 10).log_point(4, 2) == 0.0
    assert chance(20, 10).log_tail(4, 2) == 0.0


def test_only_conditions_that_may_be_findings_are_counted() -> None:
    """With 3 of 100 sets failed, a cut that leaves 50 sets on each side is never a finding at 1 %."""
    assert chance(100, 3).testable(Counter({3: 2, 50: 90}), 0.01) == 2


def test_all_conditions_count_if_each_may_be_a_finding() -> None:
    """With many sets, the correction is that of Bonferroni."""
    assert chance(1000, 100).testable(Counter({100: 10, 90: 10, 110: 10}), 0.01) == 30


def test_conditions_beyond_the_counted_never_reach_the_level() -> None:
    """Whatever the sizes: the best result of a condition that is not counted is above the level of the test."""
    for total, failed in itertools.product((12, 40), (3, 5, 6)):
        one = chance(total, failed)
        sizes = Counter(dict.fromkeys(range(1, total), 3))
        counted = one.testable(sizes, 0.01)
        bests = sorted(one.log_point(size, min(size, failed)) for size in sizes.elements())
        assert all(best > math.log(0.01 / counted) for best in bests[counted:])


STUDIES = 100


def is_in_corner(params: dict[str, Any]) -> bool:
    return bool(params["a"] >= 3 and params["b"] > 0.5)


def draw_corner_params(seed: int, count: int = 20) -> list[dict[str, Any]]:
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


CORNER = draw_corner_params(3)
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


def test_further_sets_name_most_corners_of_five_in_twenty_sets() -> None:
    """If they are run once, at least 15 of 20 planted corners are named, and none by another parameter."""
    after, draw = [], random.Random(0)
    while len(after) < 20:
        params = [{f"p{number}": round(draw.random(), 4) for number in range(4)} for _ in range(20)]
        if sum(one["p0"] > 0.5 and one["p1"] > 0.5 for one in params) == 5:
            sets = label(params, [one["p0"] > 0.5 and one["p1"] > 0.5 for one in params])
            if not names(sets) and (found := find_suspicion(sets, "E")) is not None:
                sets += label(found.further, [one["p0"] > 0.5 and one["p1"] > 0.5 for one in found.further])
            after.append(" ".join(names(sets)))
    assert sum(map(bool, after)) >= 15
    assert not any("p2" in one or "p3" in one for one in after)


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
        params = draw_corner_params(seed)
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
