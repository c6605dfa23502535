"""Evaluations of nothing: a session beside the standard library's pool of processes, which keeps nothing."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import mopsjobs as mj
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most

WORKERS = 2

TASKS = 1000

SINGLE = 50
"""Evaluations one after the other."""

MAX_SECONDS = 0.05
"""Of one evaluation, at the median."""

MAX_RATIO = 3.0
"""Of the time of `ProcessPoolExecutor.map`."""


class Way(NamedTuple):
    """A way to evaluate a function."""

    one: Callable[[int], Any]
    """Evaluates one value."""
    many: Callable[[range], Any]
    """Evaluates many."""


def model(params: dict[str, Any], seed: int) -> int:
    """Return the parameter."""
    return int(params["x"])


def nothing(value: int) -> int:
    """Return the value."""
    return value


def run(setup: Setup) -> list[Line]:
    """Measure both in turn."""
    ours: tuple[list[float], list[float]] = ([], [])
    theirs: tuple[list[float], list[float]] = ([], [])
    with _session(setup) as session, _executor() as executor:
        ways = ((session, *ours), (executor, *theirs))
        for way, _, _ in ways:
            way.one(-1)  # workers load
            way.many(range(-50, -1))
        for number in range(setup.runs):
            progress(f"{TASKS:,} evaluations of nothing: {number + 1} of {setup.runs}")
            base = (number + 1) * 10 * TASKS
            for way, singles, many in ways:
                singles += [_seconds(way.one, base + value) for value in range(SINGLE)]
                many.append(_seconds(way.many, range(base + TASKS, base + 2 * TASKS)))
    (one, other_one), (all_of_them, others) = (map(statistics.median, pair) for pair in zip(ours, theirs, strict=True))
    return [
        Line(
            "one evaluation of nothing by a session", f"{1e3 * one:.2f} ms",
            f"ProcessPoolExecutor, {1e3 * other_one:.2f} ms", one / other_one, None, at_most(MAX_SECONDS, one, " s"),
        ),
        Line(
            f"{TASKS:,} of them", f"{all_of_them:.2f} s", f"ProcessPoolExecutor.map, {others:.2f} s",
            all_of_them / others, None, at_most(MAX_RATIO, all_of_them / others, " x"),
        ),
    ]  # fmt: skip


def _seconds(action: Callable[[Any], Any], value: object) -> float:
    began = time.perf_counter()
    action(value)
    return time.perf_counter() - began


@contextlib.contextmanager
def _session(setup: Setup) -> Iterator[Way]:
    code = setup.directory / "session-model"
    code.mkdir()
    (code / "model.py").write_text("def simulate(params, seed):\n    return params['x']\n")
    env = {**setup.env, "MOPS_JOBS_REGISTRY": f"sqlite://{setup.directory}/session.db"}
    with mj.connect(env=env) as reg:
        with reg.session("model:simulate", code, workers=WORKERS, python=sys.executable) as session:
            yield Way(
                lambda value: session.submit({"x": value}).result(),
                lambda values: list(session.map({"x": value} for value in values)),
            )
        session.job.wait(interval=0.1)  # its runner would go on without the registry, which is removed


@contextlib.contextmanager
def _executor() -> Iterator[Way]:
    with ProcessPoolExecutor(WORKERS) as pool:
        yield Way(lambda value: pool.submit(nothing, value).result(), lambda values: list(pool.map(nothing, values)))
