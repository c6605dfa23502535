"""How the values of a parameter become places."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopsjobs.cache.queries.task_filters import parse_condition
from mopsjobs.web.drawings.axes import BINS, MAX_DATES, MAX_PLACES, MAX_STEPS, Axis, count_scale, day_texts, round_range

VALUES = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=8),
    st.lists(st.integers(0, 3), max_size=2),
)


def test_few_numbers_are_places_in_their_order() -> None:
    """Each value has a place, and its label is the number."""
    axis = Axis("beta", [{"beta": value} for value in (0.5, 0.1, 2, 0.1)])
    assert (axis.size, axis.is_ordered, axis.is_exact) == (3, True, True)
    assert [axis.label(place) for place in range(3)] == ["0.1", "0.5", "2"]
    assert axis.place({"beta": 0.5}) == 1


def test_many_numbers_become_bins() -> None:
    """Of equal width, with round edges; the first and the last one are open."""
    axis = Axis("beta", [{"beta": number / 999} for number in range(1000)])
    assert (axis.size, axis.is_exact) == (BINS, False)
    assert axis.label(0) == "below 0.02"
    assert axis.label(10) == "0.2 to 0.22"
    assert axis.label(BINS - 1) == "from 0.98"
    assert axis.ticks() == ["0", "0.25", "0.5", "0.75", "1"]
    assert [axis.place({"beta": value}) for value in (0, 0.2, 0.2199, 1)] == [0, 10, 10, 49]


def test_texts_are_places_as_they_come() -> None:
    """So are mixed values, and a parameter that a set lacks. The rest of too many categories is one place."""
    axis = Axis("mode", [{"mode": "b"}, {"mode": "a"}, {}, {"mode": True}, {"mode": 1}])
    assert (axis.size, axis.is_ordered) == (5, False)
    assert [axis.label(place) for place in range(5)] == ["b", "a", "(not set)", "true", "1"]
    many = Axis("mode", [{"mode": f"m{number}"} for number in range(1000)])
    assert many.size == MAX_PLACES
    assert many.label(MAX_PLACES - 1) == "others"
    assert many.place({"mode": "m999"}) == MAX_PLACES - 1
    assert many.conditions(MAX_PLACES - 1) == []


@given(st.lists(VALUES, min_size=1, max_size=30), st.sampled_from(["beta", 'a<b>="c" ', "=", "שלום"]))
def test_the_conditions_of_a_place_select_its_sets(values: list[object], name: str) -> None:
    """A link to the tasks of a place finds those that are drawn there, whatever name and values are."""
    sets = [{name: value} for value in values]
    axis = Axis(name, sets)
    for place in range(axis.size):
        conditions = [parse_condition(text) for text in axis.conditions(place)]
        if conditions:
            there = [one for one in sets if axis.place(one) == place]
            selected = [one for one in sets if all(condition.holds(one) for condition in conditions)]
            # A text of digits and the number are told apart on the map, and not by a condition.
            assert selected == there if axis.is_ordered else all(one in selected for one in there)


def test_the_conditions_of_bins_select_their_sets() -> None:
    """Each number is in the range that its place has as conditions."""
    chance = random.Random(1)
    sets = [{"x": chance.uniform(-3, 7)} for _ in range(500)]
    axis = Axis("x", sets)
    for place in range(0, axis.size, 7):
        conditions = [parse_condition(text) for text in axis.conditions(place)]
        selected = [one for one in sets if all(condition.holds(one) for condition in conditions)]
        assert selected == [one for one in sets if axis.place(one) == place]


@given(most=st.floats(0, 1e12))
def test_scales_of_numbers_from_zero_are_round(most: float) -> None:
    """Few steps, the largest value below the top and above the step before it; each tick has a text of its own."""
    scale = count_scale("Jobs", most)
    assert scale.top >= most
    assert scale.steps <= MAX_STEPS
    assert most >= scale.top - scale.top / scale.steps
    assert len(set(scale.texts.ticks)) == scale.steps + 1
    assert scale.texts.ticks[-1] == "0"


def test_ticks_are_from_the_top() -> None:
    assert count_scale("Jobs", 1234).texts.ticks == ["1,500", "1,000", "500", "0"]


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.0152, 0.3295, ["0", "0.1", "0.2", "0.3", "0.4"]),
        (0.1, 0.6, ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6"]),
        (0.3, 0.9, ["0.2", "0.4", "0.6", "0.8", "1"]),
        (1.2, 3.0, ["1", "1.5", "2", "2.5", "3"]),
        (-7.0, 1200.0, ["-500", "0", "500", "1000", "1500"]),
        (1e16, 1e16 + 8, ["10000000000000000", "10000000000000002"]),
    ],
)
def test_numbers_of_an_axis_are_round(low: float, high: float, texts: list[str]) -> None:
    """They hold all values between them. Where the digits of a float end, they are the values themselves."""
    found = round_range(low, high)
    assert found.low <= low < high <= found.high
    assert found.texts[: len(texts)] == texts if abs(low) < 1e9 else (found.low, found.high) == (low, high)
    assert 3 <= len(found.texts) <= MAX_STEPS + 1


@pytest.mark.parametrize(("low", "high"), [(-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, 1.0000000000000002)])
def test_numbers_of_an_axis_are_found_for_each_range(low: float, high: float) -> None:
    """Also for the widest and the narrowest of floats."""
    found = round_range(low, high)
    assert found.low <= low < high <= found.high


def test_some_days_have_dates() -> None:
    """At equal distances, and not at the edge, where a date would have no room."""
    assert day_texts([0.0, 86400.0]).ticks == ["01-01", "01-02"]
    for count in (7, 30, 90):
        texts = day_texts([86400.0 * day for day in range(count)]).ticks
        places = [place for place, text in enumerate(texts) if text]
        assert len(places) <= MAX_DATES
        assert {after - before for before, after in pairwise(places)} == {-(-count // MAX_DATES)}
