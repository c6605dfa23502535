"""One update by compare-and-swap, against the bare GET and conditional PUT of azure-storage-blob.

`python -m bench.updating URL` is a process that makes `UPDATES` by mops-jobs. It prints how many seconds they took, by
the clock and of the processor. The start of the process, the same for both, would hide the ratio.
"""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING

from bench.machine import Setup
from bench.peers import UPDATES, timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Line

JOB = "updated"
RATIO = 1.2


def run(setup: Setup) -> list[Line]:
    """Measure updates of a record without other writers."""
    from bench import azurite, tools
    from bench.listing import RUNS_FACTOR
    from bench.measure import Case, in_turn, progress
    from bench.report import Line, at_most
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store import open_store

    with azurite.running(setup.directory) as server:
        container = azurite.new_container()
        url = server.url(container)
        JobRegistry(open_store(url, server.env)).register_job(JOB)
        commands = [
            setup.module("bench.updating", url),
            setup.module("bench.peers", "update", container, packages=tools.packages()),
        ]
        told: list[list[tuple[float, float]]] = [[], []]

        def keep(place: int) -> Callable[[str], None]:
            return lambda output: told[place].append(tuple(map(float, output.split())))  # type: ignore[arg-type]

        cases = [Case(argv, {**env, **server.env}, check=keep(place)) for place, (argv, env) in enumerate(commands)]
        runs = setup.runs * RUNS_FACTOR
        progress(f"{UPDATES} updates of one record, {runs} rounds")
        in_turn(cases, runs, setup.directory)
    ours, theirs = (each[1:] for each in told)  # the first round warms up
    ratio, cpu_ratio = (
        statistics.median(mine[kind] / other[kind] for mine, other in zip(ours, theirs, strict=True)) for kind in (0, 1)
    )
    compared = f"GET and PUT, {_milliseconds(theirs)}"
    return [Line("one update", _milliseconds(ours), compared, ratio, cpu_ratio, at_most(RATIO, ratio, " x"))]


def _milliseconds(told: list[tuple[float, float]]) -> str:
    return f"{statistics.median(seconds for seconds, _ in told) / UPDATES * 1000:.1f} ms"


def _update(url: str) -> str:
    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store import open_store

    store = open_store(url)
    registry = JobRegistry(store)
    registry.update_fields(JOB, metadata={"number": -1})  # the connection, the SDK's lazy parts, the announcement
    stop = timer()
    for number in range(UPDATES):
        registry.update_fields(JOB, metadata={"number": number})
    told = stop()
    store.close()
    return told


if __name__ == "__main__":
    print(_update(sys.argv[1]))
