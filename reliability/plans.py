"""Plans of real jobs against what these then used: constant, skewed, failing and resumed studies on this machine.

A plan rests on a smaller study that ran before, on a job that the study extends, or on a probe. The range of CPU-hours
is meant to hold what happened in 90 of 100 studies; at least 80 of 100 have to.
"""

from __future__ import annotations

import os
import random
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mopsjobs
from mopsjobs.api.registry import Job, Registry
from mopsjobs.engines.local import runner_pid
from reliability.trial import Figure, Trial, hold
from support.runs import kill

STUDIES = 5
"""Of the whole trial, for each kind."""

MIN_COVERED = 0.8

WORKERS = 2

LOOPS = 2_000_000
"""Of a task of usual length: some 60 ms."""

PATIENCE = 600.0

MODEL = """
    import random

    def simulate(params, seed):
        draw = random.Random(seed)
        loops = int(params["loops"] * draw.lognormvariate(0, params["sigma"]))
        fails = draw.random() < params["fails"]
        total = 0
        for number in range(loops // 3 if fails else loops):
            total += number * number
        if fails:
            raise ValueError("it fails")
        return {"total": total, "filler": "x" * int(params["loops"] // 1000)}
"""


class Kind(NamedTuple):
    """A kind of studies."""

    name: str
    sigma: tuple[float, float]
    """Bounds of the standard deviation of the logarithm of a task's loops."""
    slope: float
    """How much the loops of a set grow over the range of its parameter, as a factor."""
    fails: float
    """The share of tasks that fail, in sets whose parameter is in the upper half."""
    is_resumed: bool = False
    """Whether the job is ended in the middle, and resumed."""


KINDS = (
    Kind("constant", (0, 0), 1, 0),
    Kind("skewed", (0.5, 1), 4, 0),
    Kind("failing", (0, 0.3), 2, 0.6),
    Kind("resumed", (0, 0.5), 2, 0, is_resumed=True),
)

BASES = ("earlier", "probe", "extend")


class Outcome(NamedTuple):
    """A plan, and what happened."""

    plan: Mapping[str, Any]
    cpu_seconds: float

    @property
    def is_covered(self) -> bool:
        """Return whether the range holds the processor time."""
        hours = self.plan["cpu_hours"]
        return bool(hours["low"] <= self.cpu_seconds / 3600 <= hours["high"])

    def describe(self) -> str:
        """Return the range and what was used, in seconds."""
        low, high = (self.plan["cpu_hours"][end] * 3600 for end in ("low", "high"))
        outside = "" if self.is_covered else " (outside)"
        return f"CPU {low:.2f} to {high:.2f} s, used {self.cpu_seconds:.2f} s{outside}"


def run(trial: Trial) -> Iterator[Figure]:
    """Yield a line for each study, and how many ranges held what happened."""
    code = trial.directory / "code"
    code.mkdir()
    (code / "model.py").write_text(textwrap.dedent(MODEL), encoding="utf-8")
    env = {**os.environ, "HOME": str(trial.directory), "XDG_STATE_HOME": str(trial.directory / "state")}
    outcomes: list[Outcome] = []
    studies = trial.times(STUDIES)
    for kind in KINDS:
        for number in range(studies):
            place = trial.directory / f"{kind.name}-{number}"
            draw = random.Random(f"{trial.seed} {kind.name} {number}")
            basis = BASES[number % len(BASES)]
            with mopsjobs.connect(f"sqlite://{place}.db", cache=f"{place}.cache.db", env=env) as registry:
                outcome = _try(registry, kind, basis, draw, code)
            outcomes.append(outcome)
            yield Figure(f"{kind.name} {number + 1}, by {basis}", outcome.describe())
    total, covered = len(outcomes), sum(one.is_covered for one in outcomes)
    yield Figure("ranges of CPU-hours that hold", f"{covered} of {total}")
    hold(covered >= MIN_COVERED * total, f"only {covered} of {total} ranges of CPU-hours hold what happened")


def _try(registry: Registry, kind: Kind, basis: str, draw: random.Random, code: Path) -> Outcome:
    """Plan a study, run it, and return both."""
    sigma, sets, replicates = draw.uniform(*kind.sigma), draw.randint(8, 14), draw.randint(3, 5)
    options: dict[str, Any] = {"workers": WORKERS}
    if kind.fails:
        options |= {"retries": 1, "retry_on": "error:ValueError"}

    def study(some: int, replicates: int, offset: float = 0.0) -> mopsjobs.Study:
        places = [(number + offset) / sets for number in range(0, sets, max(1, sets // some))]
        params = [
            {
                "place": place,
                "loops": round(LOOPS * kind.slope**place),
                "sigma": sigma,
                "fails": kind.fails if place > 0.5 else 0,
            }
            for place in places
        ]
        return mopsjobs.Study("model:simulate", params, replicates=replicates, outputs=["result.json"])

    more: dict[str, Any] = {}
    probe = None
    if basis == "probe":
        probe = draw.randint(4, 8)
    else:
        # Another choice of sets, or the same sets with fewer replicates.
        small = study(draw.randint(4, sets), 2, 0.3) if basis == "earlier" else study(sets, draw.randint(1, 2))
        earlier = _end(registry.submit(small, code, **options), kind)
        more = {"extend": earlier} if basis == "extend" else {}
    whole = study(sets, replicates)
    plan = registry.plan(whole, code, probe=probe, **more, **options)
    job = registry.submit(whole, code, **more, **options)
    last = _end(job, kind)
    used = [one.status() for one in dict.fromkeys((job, last))]
    return Outcome(plan, sum(one.cpu_seconds or 0.0 for one in used))


def _end(job: Job, kind: Kind) -> Job:
    """Wait for a job, and return its last child. A job that is to be resumed is ended by force first."""
    if kind.is_resumed:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and (status := job.status()).is_active:
            if status.tasks_completed and status.tasks_completed > (status.tasks_total or 0) // 3:
                if (pid := runner_pid(job.id, job.registry.app.env)) is not None:
                    kill(pid)
                break
            time.sleep(0.1)
    status = job.wait(PATIENCE)
    if kind.is_resumed and status.status != "succeeded":
        job = job.resume(workers=WORKERS)
        job.wait(PATIENCE)
    return job
