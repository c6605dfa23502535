"""Evaluations of nothing: a session beside executors that keep nothing, and beside submitit, in one run.

`python -m bench session`. joblib, Dask and submitit are measured if they are installed.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import mopsjobs as mj
from bench.machine import Setup
from bench.measure import progress
from bench.report import Line, at_most

WORKERS = 2

TASKS = 1000

SINGLE = 50
"""Evaluations one after the other."""

FEW = 4
"""The same of submitit, which takes seconds for each."""

MAX_SECONDS = 0.05
"""Of one evaluation, at the median."""

MAX_RATIO = 3.0
"""Of the time of `ProcessPoolExecutor.map`."""


class Way(NamedTuple):
    """A way to evaluate a function."""

    one: Callable[[int], Any]
    """Evaluates one value."""
    many: Callable[[range], Any] | None
    """Evaluates many; None if that takes too long."""


def model(params: dict[str, Any], seed: int) -> int:
    """Return the parameter."""
    return int(params["x"])


def nothing(value: int) -> int:
    """Return the value."""
    return value


def run(setup: Setup) -> list[Line]:
    """Measure all ways in turn."""
    singles: dict[str, list[float]] = {}
    many: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        ways = {name: stack.enter_context(opened) for name, opened in _ways(setup)}
        for way in ways.values():
            way.one(-1)  # workers load
            if way.many is not None:
                way.many(range(-50, -1))
        for number in range(setup.runs):
            progress(f"{TASKS:,} evaluations of nothing by {', '.join(ways)}: {number + 1} of {setup.runs}")
            for name, way in ways.items():
                base = (number + 1) * 10 * TASKS
                for value in range(FEW if way.many is None else SINGLE):
                    singles.setdefault(name, []).append(_seconds(way.one, base + value))
                if way.many is not None:
                    many.setdefault(name, []).append(_seconds(way.many, range(base + TASKS, base + 2 * TASKS)))
    floor = "ProcessPoolExecutor"
    medians = {name: statistics.median(times) for name, times in singles.items()}
    totals = {name: statistics.median(times) for name, times in many.items()}
    return [
        *(
            Line(
                f"one evaluation of nothing: {name}", f"{1e3 * seconds:.2f} ms",
                f"{floor}, {1e3 * medians[floor]:.2f} ms", seconds / medians[floor], None,
                at_most(MAX_SECONDS, seconds, " s") if name == "session" else None,
            )
            for name, seconds in medians.items()
        ),
        *(
            Line(
                f"{TASKS:,} of them: {name}", f"{seconds:.2f} s", f"{floor}.map, {totals[floor]:.2f} s",
                seconds / totals[floor], None,
                at_most(MAX_RATIO, seconds / totals[floor], " x") if name == "session" else None,
            )
            for name, seconds in totals.items()
        ),
    ]  # fmt: skip


def _seconds(action: Callable[[Any], Any], value: object) -> float:
    began = time.perf_counter()
    action(value)
    return time.perf_counter() - began


def _ways(setup: Setup) -> Iterator[tuple[str, contextlib.AbstractContextManager[Way]]]:
    yield "session", _session(setup)
    yield "ProcessPoolExecutor", _executor()
    for name, opened in (("joblib", _joblib), ("distributed", _dask), ("submitit", _submitit)):
        with contextlib.suppress(ImportError):
            __import__(name)
            yield name, opened(setup.directory)


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


@contextlib.contextmanager
def _joblib(_directory: Path) -> Iterator[Way]:
    from joblib import Parallel, delayed

    with Parallel(WORKERS) as parallel:
        yield Way(
            lambda value: parallel([delayed(nothing)(value)]),
            lambda values: parallel(delayed(nothing)(value) for value in values),
        )


@contextlib.contextmanager
def _dask(directory: Path) -> Iterator[Way]:
    from distributed import Client, LocalCluster

    where = {"dashboard_address": None, "local_directory": str(directory)}
    with LocalCluster(n_workers=WORKERS, threads_per_worker=1, **where) as cluster, Client(cluster) as client:
        yield Way(
            lambda value: client.submit(nothing, value, pure=False).result(),
            lambda values: client.gather(client.map(nothing, values, pure=False)),
        )


@contextlib.contextmanager
def _submitit(directory: Path) -> Iterator[Way]:
    from submitit import LocalExecutor

    executor = LocalExecutor(folder=directory / "submitit")
    yield Way(lambda value: executor.submit(nothing, value).result(), None)
