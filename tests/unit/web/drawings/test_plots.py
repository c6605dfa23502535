"""A scalar over a parameter, as it is drawn."""

from __future__ import annotations

import math
from typing import Any

from mopsjobs.web.drawings.axes import Axis
from mopsjobs.web.drawings.plots import MAX_DOTS, Plot, Series, draw, draw_means, plotted
from support.existing import existing


def _draw(job: dict[Any, list[float]]) -> Plot | None:
    """Draw a job that has some values at each value of `x`."""
    series = Series(
        [{"x": value} for value in job],
        [place for place, values in enumerate(job.values()) for _ in values],
        [one for values in job.values() for one in values],
        tasks=range(sum(map(len, job.values()))),
    )
    return draw("y", Axis("x", series.sets), series)


def _drawn(job: dict[Any, list[float]]) -> Plot:
    return existing(_draw(job))


def _spots(plot: Plot) -> list[tuple[int, int]]:
    return [(dot.x, dot.y) for dot in plot.dots]


def test_mean_and_quantiles_are_of_the_tasks_at_a_value() -> None:
    """As `results --by set --quantile 0.1,0.9` computes them; a task without the scalar does not count."""
    plot = _drawn({0: [1.0, 2.0, 3.0], 10: [5.0, math.nan]})
    assert [tuple(one) for one in plot.groups] == [("0", 3, 2.0, 1.2, 2.8), ("10", 1, 5.0, 5.0, 5.0)]
    assert plot.tasks == 4
    assert _spots(plot) == [(8, 312), (8, 236), (8, 160), (712, 8)]
    assert [dot.task for dot in plot.dots] == [0, 1, 2, 3]
    assert plot.mean == "M8.0 236.0L712.0 8.0"
    assert plot.band.startswith("M8.0 ")
    assert plot.x == ("x", ["0", "10"], False, [1.11, 98.89]), "few values have the texts of the axis"
    assert plot.y == ("y", ["5", "4", "3", "2", "1"], False, ())
    assert plot.grid == "M0 84.0H720M0 160.0H720M0 236.0H720"


def test_the_means_of_jobs_share_their_axes() -> None:
    """Each over its own values; a job without the scalar has no line."""
    first = Series([{"x": 0}, {"x": 10}], [0, 0, 1], [0.0, 2.0, 4.0])
    second = Series([{"x": 5}, {"x": 10}], [0, 1, 1], [0.0, 1.0, math.nan])
    axis = Axis("x", [*first.sets, *second.sets])
    found = existing(draw_means("y", axis, [first, second, Series()]))
    assert found.paths == ["M8.0 236.0L712.0 8.0", "M360.0 312.0L712.0 236.0", ""]
    assert draw_means("y", axis, [Series(), second._replace(values=[math.nan] * 3)]) is None


def test_a_number_that_is_not_finite_is_no_point_and_is_counted() -> None:
    """One that has no value is not counted. Without a number, there is nothing to draw."""
    plot = _drawn({0: [1.0, math.inf, math.inf], 10: [5.0, math.nan]})
    assert (plot.tasks, plot.not_finite, len(plot.dots)) == (2, 2, 2)
    assert [tuple(one[:3]) for one in plot.groups] == [("0", 1, 1.0), ("10", 1, 5.0)]
    assert _draw({1: [math.nan], 2: []}) is None


def test_categories_are_not_joined() -> None:
    """Nothing is between them, so each has a bar and a mark of its own."""
    plot = _drawn({"a": [1.0, 2.0], "b": [3.0]})
    assert plot.mean.count("M") == plot.band.count("M") == 2
    assert plot.x == ("x", ["a", "b"], True, ())
    assert _spots(plot) == [(184, 312), (184, 160), (536, 8)], "each in the middle of its place"


def test_scales_of_equal_and_of_huge_numbers() -> None:
    """Equal ones are in the middle. The difference of two numbers may be beyond every float."""
    plot = _drawn({1: [3.0, 3.0]})
    assert _spots(plot) == [(360, 160)]
    assert (plot.x, plot.y) == (("x", ["1"], False, [50.0]), ("y", ["3"], False, ()))
    assert _spots(_drawn({-1e300: [-1e300], 1e300: [1e300]})) == [(8, 312), (712, 8)]


def test_many_tasks_take_a_bounded_number_of_dots() -> None:
    """The statistics are of all of them."""
    plot = _drawn({number / 7: [math.sin(number) * 1e5] for number in range(20_000)})
    assert len(plot.dots) <= MAX_DOTS
    assert sum(one.tasks for one in plot.groups) == plot.tasks == 20_000
    assert len(plot.band) < 40_000


def test_each_text_stands_at_its_value() -> None:
    """Those of few values at the values themselves; round numbers elsewhere. None lies on another one."""
    uneven = _drawn({1: [1.0], 2: [1.0], 10: [2.0]})
    assert (uneven.x.ticks, uneven.x.places) == (["1", "2", "10"], [1.11, 11.98, 98.89])
    assert _drawn({1: [1.0], 1.01: [1.0], 10: [2.0]}).x.ticks == ["1", "10"]
    many = _drawn({value: [1.0] for value in range(50)})
    assert (many.x.ticks[0], many.x.ticks[-1], many.x.places[-1]) == ("0", "50", 98.89)


def test_values_at_which_tasks_failed_have_bands() -> None:
    """Also where no task has the scalar, so that the axis reaches there. A task that waits has not failed."""
    nan = math.nan
    series = Series(
        [{"x": value} for value in (1, 2, 3)], [0, 0, 1, 1, 2, 2, 2], [5.0, 6.0, 7.0, nan, nan, nan, nan],
        range(7), [False, False, False, True, True, True, False],
    )  # fmt: skip
    plot = existing(draw("y", Axis("x", series.sets), series))
    assert [(band.label, band.failed, band.tasks) for band in plot.failed] == [("2", 1, 2), ("3", 2, 3)]
    assert plot.failed[0].opacity < plot.failed[1].opacity
    assert plot.failed[1].path == "M588.8 0V320H720.0V0Z"
    assert (plot.x.ticks, plot.labels) == (["1", "2", "3"], ["1", "2", "3"])


def test_numbers_come_first_among_the_parameters() -> None:
    """One that does not vary is not offered."""
    sets = [{"mode": "a", "beta": 1, "k": 7}, {"mode": "b", "beta": 2, "k": 7}]
    assert list(plotted(["mode", "beta", "k"], sets)) == ["beta", "mode"]
