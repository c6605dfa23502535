"""Regions that are planted in studies, and studies whose values are shuffled: what is named.

A region that `docs/decisions/0045-what-separates-failed-tasks.md` calls sure is named in at least 95 of 100 studies. Of
shuffled studies, none has a condition in at least 95 of 100.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from mopsjobs.app.tasks.explain import SetValues, explain_extremes
from mopsjobs.studies.separating import Finding
from reliability.trial import Figure, Trial, hold

Params = dict[str, float]

STUDIES = 100
"""Of the whole trial, for each kind and size."""

MIN_RIGHT = 0.95

MIN_HELD = 0.8

NOISE = 0.5
"""The standard deviation of a replicate. A planted region lowers the loss by 2."""


def _edge(params: Mapping[str, float]) -> float:
    return -2.0 if params["p0"] > 0.95 else 0.0


def _corner(params: Mapping[str, float]) -> float:
    return -2.0 if params["p0"] > 0.8 and params["p1"] <= 0.25 else 0.0


def _slope(params: Mapping[str, float]) -> float:
    return 4 * math.hypot(params["p0"], params["p1"] - 1)


def _bowl(params: Mapping[str, float]) -> float:
    return 8 * math.hypot(params["p0"] - 0.3, params["p1"] - 0.7)


LOSSES: dict[str, Callable[[Mapping[str, float]], float]] = {
    "edge, p0 > 0.95": _edge,
    "corner, p0 > 0.8 and p1 <= 0.25": _corner,
    "slope to p0 = 0, p1 = 1": _slope,
    "bowl around p0 = 0.3, p1 = 0.7": _bowl,
}
"""Losses of the first two parameters; the others do nothing."""

SIZES = ((40, 3, 1), (100, 3, 5), (200, 3, 20), (200, 10, 1), (500, 10, 1), (1000, 10, 20))
"""Parameter sets, parameters, replicates."""

SURE_FROM = 500
"""Sets from which on each region has to be named."""


class Counts(NamedTuple):
    """Numbers of studies that had a condition."""

    right: int
    """On the first two parameters alone, and for 80 % of the sets whose loss is lowest without noise."""
    wrong: int
    shuffled: int
    """Studies with shuffled values that had one."""


def run(trial: Trial) -> Iterator[Figure]:
    """Yield how many regions are named, and how many where there is none."""
    studies = trial.times(STUDIES)
    for kind, loss in LOSSES.items():
        for sets, parameters, replicates in SIZES:
            counts = _explain(loss, sets, parameters, replicates, studies, trial.seed)
            yield Figure(
                f"{kind}: {sets} sets, {parameters} parameters, {replicates} replicates",
                f"named {counts.right} of {studies}, others {counts.wrong}; shuffled {counts.shuffled}",
            )
            hold(counts.shuffled <= (1 - MIN_RIGHT) * studies, f"{kind}: shuffled values have a condition")
            if sets >= SURE_FROM:
                hold(counts.right >= MIN_RIGHT * studies, f"{kind}: named in {counts.right} of {studies}")


def _explain(
    loss: Callable[[Mapping[str, float]], float], sets: int, parameters: int, replicates: int, studies: int, seed: int
) -> Counts:
    right = wrong = shuffled = 0
    for number in range(studies):
        draw = random.Random(f"{seed} {number}")
        params = _draw_params(sets, parameters, draw)
        study = [
            SetValues(one, [at + draw.gauss(0, NOISE) for _ in range(replicates)])
            for one in params
            for at in [loss(one)]
        ]
        explained = explain_extremes(study, highest=False)
        if found := explained.findings:
            lowest = sorted(params, key=loss)[: explained.extreme]
            # Beside an edge or a corner, the losses without noise are equal.
            lowest = [one for one in lowest if loss(one) < 0 or loss not in (_edge, _corner)]
            held = sum(any(finding.condition.holds(one) for finding in found) for one in lowest)
            is_right = all(map(_is_right, found)) and held >= MIN_HELD * len(lowest)
            right, wrong = right + is_right, wrong + (not is_right)
        values = [one.values for one in study]
        draw.shuffle(values)
        study = [one._replace(values=some) for one, some in zip(study, values, strict=True)]
        shuffled += bool(explain_extremes(study, highest=False).findings)
    return Counts(right, wrong, shuffled)


def _draw_params(sets: int, parameters: int, draw: random.Random) -> list[Params]:
    return [{f"p{number}": draw.random() for number in range(parameters)} for _ in range(sets)]


def _is_right(finding: Finding) -> bool:
    return {part.parameter for part in finding.condition.parts} <= {"p0", "p1"}
