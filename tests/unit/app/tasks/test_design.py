"""How many replicates make an interval as narrow as asked."""

from __future__ import annotations

import math

import pytest

from mopsjobs.app.tasks.design import MAX_REPLICATES, parse_target, replicates_for
from mopsjobs.studies.precision import Target
from mopsjobs.utils.intervals import student_t


@pytest.mark.parametrize(
    ("mean", "sd", "target", "needed"),
    [
        (10.0, 1.0, "peak=0.5", 18),
        (10.0, 1.0, "peak=5%", 18),
        (-10.0, 1.0, "peak=5%", 18),
        (10.0, 1.0, "peak=0.1", 387),
        (10.0, 0.0, "peak=0.1", 2),
        (10.0, 1e-9, "peak=0.1", 2),
        (0.0, 1.0, "peak=5%", None),
        (0.0, 1.0, "peak=1e-9", MAX_REPLICATES),
    ],
)
def test_replicates_are_the_least_that_make_an_interval_narrow(
    mean: float, sd: float, target: str, needed: int | None
) -> None:
    assert replicates_for(mean, sd, parse_target(target)) == needed
    if needed not in (None, 2, MAX_REPLICATES):
        widths = [student_t(n - 1) * sd / math.sqrt(n) for n in (needed - 1, needed)]
        assert widths[1] <= float(target.rpartition("=")[2].replace("5%", "0.5")) < widths[0]


def test_a_target_is_in_the_unit_of_the_scalar_or_a_part_of_its_mean() -> None:
    """The name may have a sign of equality."""
    assert parse_target("a=b=0.3") == Target("a=b", absolute=0.3)
    assert parse_target("result.json/peak=2.5%") == Target("result.json/peak", relative=0.025)
