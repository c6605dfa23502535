"""A scalar over a parameter, as it is drawn."""

from __future__ import annotations

import math
import re
from array import array
from typing import Any

from mopsjobs.web.axes import Axis
from mopsjobs.web.plots import MAX_DOTS, Plot, draw, plotted


def _draw(values: dict[Any, list[float]]) -> Plot | None:
    sets = [{"x": value} for value in values]
    set_of = array("L", [place for place, value in enumerate(values) for _ in values[value]])
    return draw(Axis("x", sets), sets, set_of, array("d", [one for some in values.values() for one in some]))


def test_mean_and_quantiles_are_of_the_tasks_at_a_value() -> None:
    """As `results --table --mean --quantile 0.1,0.9` computes them; a task without the scalar does not count."""
    plot = _draw({0: [1.0, 2.0, 3.0], 10: [5.0, math.nan]})
    assert plot is not None
    assert [tuple(one) for one in plot.groups] == [("0", 3, 2.0, 1.2, 2.8), ("10", 1, 5.0, 5.0, 5.0)]
    assert plot.tasks == 4
    assert plot.dots == "M8 312h0M8 236h0M8 160h0M712 8h0"
    assert plot.mean == "M8.0 236.0L712.0 8.0"
    assert plot.band.startswith("M8.0 ")
    assert (plot.x_ticks, plot.y_ticks) == (["0", "2.5", "5", "7.5", "10"], ["5", "4", "3", "2", "1"])


def test_categories_are_not_joined() -> None:
    """Nothing is between them, so each has a bar and a mark of its own."""
    plot = _draw({"a": [1.0, 2.0], "b": [3.0]})
    assert plot is not None
    assert not plot.is_line
    assert plot.mean.count("M") == plot.band.count("M") == 2
    assert plot.x_ticks == ["a", "b"]
    assert plot.dots == "M184 312h0M184 160h0M536 8h0", "each in the middle of its place"


def test_equal_values_are_drawn_in_the_middle() -> None:
    """There is no scale to draw them by."""
    plot = _draw({1: [3.0, 3.0]})
    assert plot is not None
    assert plot.dots == "M360 160h0"
    assert (plot.x_ticks, plot.y_ticks) == (["1"], ["3"])


def test_a_scalar_that_no_task_has_is_not_drawn() -> None:
    """There is nothing to show."""
    assert _draw({1: [math.nan], 2: []}) is None


def test_many_tasks_take_a_bounded_number_of_dots() -> None:
    """The statistics are of all of them."""
    plot = _draw({number / 7: [math.sin(number) * 1e5] for number in range(20_000)})
    assert plot is not None
    assert len(re.findall("M", plot.dots)) == plot.drawn <= MAX_DOTS
    assert sum(one.tasks for one in plot.groups) == plot.tasks == 20_000
    assert len(plot.dots) + len(plot.band) < 40_000


def test_huge_numbers_have_a_scale() -> None:
    """The difference of two of them may be beyond every float."""
    plot = _draw({-1e300: [-1e300], 1e300: [1e300]})
    assert plot is not None
    assert plot.dots == "M8 312h0M712 8h0"


def test_numbers_come_first_among_the_parameters() -> None:
    """One that does not vary is not offered."""
    sets = [{"mode": "a", "beta": 1, "k": 7}, {"mode": "b", "beta": 2, "k": 7}]
    assert list(plotted(["mode", "beta", "k"], sets)) == ["beta", "mode"]
